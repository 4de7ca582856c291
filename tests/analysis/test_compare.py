"""compare: its numbers against their definitions, what it calls, and wrong input."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc

F = np.float32


def models() -> tuple[oc.nn.Sequential, oc.nn.Sequential, np.ndarray]:
    """Float, static (ReLU folded into the first layer), and the data of the calibration."""
    rng = np.random.default_rng(0)
    layers = [oc.nn.Linear.init(*size, rng=rng) for size in [(6, 16), (16, 16), (16, 3)]]
    model = oc.nn.Sequential(layers[0], oc.nn.ReLU(), layers[1], np.tanh, layers[2])
    x = rng.standard_normal((32, 6)).astype(F)
    prepared = oc.prepare(model, oc.default_qconfig, layers={oc.nn.Linear})
    oc.calibrate(prepared, [x])
    return model, oc.convert(prepared), x


def measures(y: np.ndarray, z: np.ndarray) -> tuple[float, float, float]:
    y, z = y.astype(np.float64).ravel(), np.asarray(z).astype(np.float64).ravel()
    sqnr = 10 * np.log10((y**2).sum() / ((z - y) ** 2).sum())
    return sqnr, (y * z).sum() / np.sqrt((y**2).sum() * (z**2).sum()), np.abs(z - y).max()


def test_rows_hold_the_definitions() -> None:
    model, converted, x = models()
    assert converted[0].relu
    rows = oc.compare(model, converted, x).rows
    float_steps, steps = [np.maximum(model[0](x), 0)], [np.maximum(converted[0](x), 0)]
    for float_layer, layer, between in ((model[2], converted[2], lambda h: h), (model[4], converted[4], np.tanh)):
        float_steps.append(float_layer(between(float_steps[-1])))
        steps.append(layer(between(steps[-1])))
    float_steps.append(float_steps[-1])
    steps.append(steps[-1])
    assert [row.path for row in rows] == ["layers.0", "layers.2", "layers.4", "(result)"]
    for row, y, z in zip(rows, float_steps, steps, strict=True):
        np.testing.assert_allclose((row.sqnr, row.cosine, row.largest_error), measures(y, z), rtol=1e-9)


def test_clipped_share_counts_what_lies_beyond_the_range() -> None:
    layer = oc.nn.Linear(np.eye(2, dtype=F))
    prepared = oc.prepare(layer, oc.default_qconfig, layers={oc.nn.Linear})
    oc.calibrate(prepared, [F([[-1, 1]])])
    converted = oc.convert(prepared)
    x = F([[0, 0.5], [-1, 1], [2, -3], [0, 1.5]])
    assert oc.compare(layer, converted, x).rows[0].clipped == 3 / 8
    assert oc.compare(layer, oc.quantize_dynamic(layer, {oc.nn.Linear}), x).rows[0].clipped == 0
    chain = oc.nn.Sequential(*(f for _ in range(2) for f in (oc.nn.Linear(np.eye(2, dtype=F)), oc.nn.ReLU())), layer)
    prepared = oc.prepare(chain, oc.default_qconfig, layers={oc.nn.Linear})
    oc.calibrate(prepared, [F([[-1, 1]])])
    shares = [row.clipped for row in oc.compare(chain, oc.convert(prepared), F([[0, 2], [-1, 1]])).rows]
    assert shares == [2 / 8, 1 / 4, 0, 0]  # input and result; result, as the input is integers; neither


def test_equal_models_have_no_noise() -> None:
    layer = oc.nn.Linear(np.eye(2, dtype=F))
    quantized = oc.QuantLinear.from_quantized(np.eye(2, dtype=np.int8), 1.0)
    row = oc.compare(layer, quantized, F([[127, 0], [0, 0]])).rows[0]
    assert (row.path, row.sqnr, row.cosine, row.largest_error) == ("(model)", np.inf, 1.0, 0.0)
    assert oc.compare(layer, quantized, F([[0, 0]])).rows[0].cosine == 1.0


def test_layers_with_a_method_of_their_own_and_several_calls_are_seen() -> None:
    class Dense:
        def __init__(self) -> None:
            self.weight, self.calls = np.eye(3, dtype=F), 0

        def apply(self, x: Any) -> Any:
            self.calls += 1
            return x @ self.weight.T

    class Model:
        def __init__(self) -> None:
            self.first, self.unused = Dense(), Dense()

        def __call__(self, x: Any) -> Any:
            return {"y": self.first.apply(self.first.apply(x) + 1)}

    model = Model()
    quantized = oc.quantize_dynamic(model, {Dense: oc.LayerSpec(call="apply", bias=None)})
    comparison = oc.compare(model, quantized, np.ones((2, 3), F), forward=lambda m, b: m(b))
    assert [row.path for row in comparison.rows] == ["first"]
    assert model.first.calls == 0


def test_table_has_a_line_a_layer() -> None:
    lines = str(oc.compare(*models())).splitlines()
    assert lines[0].split() == ["layer", "SQNR,", "dB", "cosine", "largest", "error", "clipped"]
    assert [line.split()[0] for line in lines[1:]] == ["layers.0", "layers.2", "layers.4", "(result)"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.slow
def test_plot_writes_a_picture_draws_into_axes_or_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure_module = pytest.importorskip("matplotlib.figure", reason="plots need matplotlib, octavo's extra cli")
    comparison = oc.compare(*models())
    axes = comparison.plot(tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
    assert [axis.get_title() for axis in axes] == ["SQNR, dB", "Largest error", "Clipped, %"]
    assert [bar.get_width() for bar in axes[1].patches] == [row.largest_error for row in comparison.rows]
    given = figure_module.Figure().subplots(1, 3)
    assert comparison.plot(axes=given) == tuple(given)
    with pytest.raises(ValueError, match="axes must be 3 matplotlib axes, got 1"):
        comparison.plot(axes=given[0])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="plot needs matplotlib, which octavo's extra 'cli' installs: pip install"):
        comparison.plot(tmp_path / "other.png")


def test_comparison_shows_itself_as_a_table() -> None:
    comparison = oc.compare(*models())
    assert repr(comparison) == str(comparison)
    assert comparison._repr_html_().count("<tr>") == len(comparison.rows) + 1
    assert pickle.loads(pickle.dumps(comparison)) == comparison


def test_models_that_do_not_belong_together_are_named() -> None:
    model, converted, x = models()
    with pytest.raises(ValueError, match="quantized_model has no quantized layer"):
        oc.compare(model, model, x)
    with pytest.raises(ValueError, match=r"float_model has no layer at model\.layers\.2, model\.layers\.4"):
        oc.compare(oc.nn.Sequential(model[0]), converted, x)
    other = oc.nn.Sequential(model[0], model[1], oc.nn.Linear.init(16, 5), np.tanh, oc.nn.Linear.init(5, 3))
    with pytest.raises(ValueError, match=r"layer model\.layers\.2 gives results of shapes \[\(32, 5\)\] in the float"):
        oc.compare(other, converted, x)


def test_layer_that_x_does_not_fit_is_named() -> None:
    model, converted, x = models()
    dynamic = oc.quantize_dynamic(model, {oc.nn.Linear})
    message = rf"^layer model\.layers\.0: x must have shape \(\.\.\., {x.shape[1]}\) to fit .*got \({len(x)}, 3\)"
    for quantized in (dynamic, converted):
        with pytest.raises(ValueError, match=message):
            oc.compare(model, quantized, x[:, :3])
    with pytest.raises(ValueError, match=r"^model's own$"):
        oc.compare(model, dynamic, x, forward=fail)


def fail(model: Any, x: Any) -> Any:
    model(x)
    raise ValueError("model's own")


def test_a_model_is_not_compared_with_itself(tmp_path: Path) -> None:
    model, _, x = models()
    oc.save(oc.quantize_dynamic(model, {oc.nn.Linear}), tmp_path / "q.safetensors")
    loaded = oc.load(tmp_path / "q.safetensors", model)
    with pytest.raises(ValueError, match=r"are one object, which would be compared with itself: .*deepcopy\(model\)"):
        oc.compare(model, loaded, x)
    with pytest.raises(
        ValueError, match=r"float_model holds the quantized layer that quantized_model has at .*0, which"
    ):
        oc.compare(oc.nn.Sequential(*model.layers), loaded, x)
    params = {"w": oc.QuantMatrix(np.ones((64, 64), F))}
    with pytest.raises(ValueError, match=r"float_model holds the quantized layer that quantized_model has at .*w"):
        oc.compare(params, dict(params), x, forward=lambda p, x: p)


def test_models_of_matrices_have_a_row_for_the_result() -> None:
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((64, 64), dtype=F)}
    quantized, x = oc.quantize_dynamic(params), rng.standard_normal((3, 64), dtype=F)
    rows = oc.compare(params, quantized, x, forward=lambda p, x: x @ p["w"]).rows
    assert [row.path for row in rows] == ["(result)"]
    np.testing.assert_allclose(
        (rows[0].sqnr, rows[0].cosine, rows[0].largest_error), measures(x @ params["w"], x @ quantized["w"]), rtol=1e-9
    )


def test_clipped_share_is_that_of_scaled_inputs() -> None:
    x = np.float32([[2, 200, 2], [1, 100, 300]])
    scale = np.float32([1, 100, 1])
    model = {"fc": oc.nn.Linear(np.ones((2, 3), np.float32))}
    layer = oc.StaticQuantLinear(
        np.ones((2, 3), np.int8), 1.0, input=oc.QParams(1.0, 0, "int8"), pre_quant_scale=scale, name="fc"
    )
    found = oc.compare(model, {"fc": layer}, x, forward=lambda m, rows: m["fc"](rows))
    assert found.rows[0].clipped == pytest.approx(1 / 6)
