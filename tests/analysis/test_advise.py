"""advise: it measures what it says it measures, on the rows that layers get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._util.timing import Timing

F = np.float32
rng = np.random.default_rng(0)


def model() -> dict[str, Any]:
    return {"fc": oc.nn.Linear.init(64, 96, rng=rng), "w": rng.standard_normal((96, 64), dtype=F)}


def forward(m: dict[str, Any], x: np.ndarray) -> np.ndarray:
    y: np.ndarray = m["fc"](x) @ m["w"]
    return y


@pytest.mark.slow
def test_each_layer_and_array_has_a_row_for_each_batch_size() -> None:
    x = rng.standard_normal((3, 64), dtype=F)
    advice = oc.advise(model(), x, layers={oc.nn.Linear}, arrays=["w"], batch_sizes=[1, 7], forward=forward)
    assert [(r.path, r.shape, r.batch_size) for r in advice.rows] == [
        ("fc", (96, 64), 1), ("fc", (96, 64), 7), ("w", (64, 96), 1), ("w", (64, 96), 7),
    ]  # fmt: skip
    for r in advice.rows:
        assert r.float_seconds > 0
        assert r.quantized_seconds > 0
        assert r.speedup == r.float_seconds / r.quantized_seconds
        assert 30 < r.sqnr_db < 60
        assert r.recommendation == ("int8" if r.speedup >= 1 else "float")
    text = str(advice)
    assert "SQNR" in text
    assert len(text.splitlines()) == 5


def test_layers_are_measured_on_the_rows_that_they_get() -> None:
    # One large value in a row leaves the others a coarse step: the error is that of these rows, not of random ones.
    m, x = {"fc": oc.nn.Linear(np.eye(64, dtype=F))}, np.full((2, 64), 1e-3, F)
    x[:, 0] = 1
    given = oc.advise(m, x, layers=oc.nn.Linear, batch_sizes=[2], forward=lambda m, x: m["fc"](x)).rows[0]
    expected = oc.QuantLinear(np.eye(64, dtype=F))(x).astype(np.float64) - x
    assert given.sqnr_db == pytest.approx(10 * np.log10(np.sum(x.astype(float) ** 2) / np.sum(expected**2)), abs=0.01)


def test_without_data_no_error_is_shown_and_the_table_says_so() -> None:
    m = {"fc": oc.nn.Linear(np.eye(64, dtype=F))}
    advice = oc.advise(m, layers=oc.nn.Linear, batch_sizes=[2])
    assert [row.sqnr_db for row in advice.rows] == [None]
    assert "SQNR" not in repr(advice)
    assert repr(advice).splitlines()[-1].startswith("On speed alone: the error depends on your data. Pass x")
    assert "On speed alone" in advice._repr_html_()
    with_data = oc.advise(m, np.ones((1, 64), F), layers=oc.nn.Linear, batch_sizes=[2], forward=lambda m, x: m["fc"](x))
    assert "On speed alone" not in repr(with_data)
    assert "SQNR, dB" in repr(with_data)


def test_a_layer_that_is_wrong_on_some_of_its_rows_is_never_recommended() -> None:
    # The first row is exact, so that a batch of one row tells nothing. The second has an outlier that no weight meets.
    w = np.eye(512, dtype=F)
    w[0, 0] = 0
    x = np.ones((2, 512), F)
    x[1, 0] = 1e5
    m = {"fc": oc.nn.Linear(w)}
    advice = oc.advise(m, x, layers=oc.nn.Linear, batch_sizes=[1, 2], forward=lambda m, x: m["fc"](x))
    noise = np.sum((oc.QuantLinear(w)(x).astype(np.float64) - x @ w.T) ** 2)
    expected = 10 * np.log10(np.sum((x @ w.T).astype(np.float64) ** 2) / noise)
    assert expected < 20
    for row in advice.rows:
        assert row.sqnr_db == pytest.approx(expected, abs=0.01)
        assert row.recommendation == "float"


@pytest.mark.slow
def test_advice_draws_itself(tmp_path: Path) -> None:
    figure_module = pytest.importorskip("matplotlib.figure", reason="plots need matplotlib, octavo's extra cli")
    m = model()
    for x, titles in ((None, ["Speedup"]), (np.ones((1, 64), F), ["Speedup", "SQNR, dB"])):
        advice = oc.advise(m, x, layers={oc.nn.Linear}, arrays=["w"], batch_sizes=[1, 7], forward=forward)
        axes = advice.plot(tmp_path / "advice.png")
        assert (tmp_path / "advice.png").read_bytes().startswith(b"\x89PNG")
        assert [axis.get_title() for axis in axes] == titles
        assert [bar.get_width() for bar in axes[0].patches] == [row.speedup for row in advice.rows]
        assert [text.get_text() for text in axes[0].get_yticklabels()] == [
            "fc, 1 row", "fc, 7 rows", "w, 1 row", "w, 7 rows",
        ]  # fmt: skip
        given = figure_module.Figure().subplots(1, len(titles), squeeze=False)[0]
        assert advice.plot(axes=given) == tuple(given)


def tied(m: dict[str, Any], ids: Any) -> np.ndarray:
    h = m["wte"][ids] + m["wpe"][: len(ids)]
    h = np.einsum("si,io->so", h, m["w"])
    y: np.ndarray = h @ m["wte"].T
    return y


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["in_out", "out_in"])
def test_arrays_are_measured_on_the_rows_that_they_meet_as_the_model_uses_them(layout: str) -> None:
    m = {name: rng.standard_normal((64, 64), dtype=F) for name in ("wte", "wpe", "w")}
    m["wte"][3, 5] = 1e4  # what is met by the head then has a coarse step
    copies = {name: array.copy() for name, array in m.items()}
    advice = oc.advise(m, [3, 1], arrays=True, layout=layout, batch_sizes=[2, 5], forward=tied)  # type: ignore[arg-type]
    assert {(r.path, r.layout, r.batch_size) for r in advice.rows} == {
        ("wte", "out_in", 2), ("wte", "out_in", 5), ("w", "in_out", 2), ("w", "in_out", 5),  # wpe is in no product
    }  # fmt: skip
    h = m["wte"][[3, 1]] + m["wpe"][:2]
    exact = (h @ m["w"]).astype(np.float64)
    noise = np.sum((h @ oc.QuantMatrix(m["w"]) - exact) ** 2)
    row = next(r for r in advice.rows if r.path == "w" and r.batch_size == 2)
    assert row.sqnr_db == pytest.approx(10 * np.log10(np.sum(exact**2) / noise), abs=0.01)
    for name, array in m.items():
        np.testing.assert_array_equal(array, copies[name])
    assert "out_in" in str(advice)


@pytest.mark.slow
def test_a_model_with_predict_runs_by_itself() -> None:
    class Net:
        def __init__(self) -> None:
            self.w = rng.standard_normal((64, 96), dtype=F)

        def predict(self, x: np.ndarray) -> np.ndarray:
            return x @ self.w

    x = np.full((2, 64), 1e-3, F)
    x[:, 0] = 1
    net = Net()
    row = oc.advise(net, x, batch_sizes=[2]).rows[0]
    exact = (x @ net.w).astype(np.float64)
    assert row.sqnr_db == pytest.approx(
        10 * np.log10(np.sum(exact**2) / np.sum((x @ oc.QuantMatrix(net.w) - exact) ** 2)), abs=0.01
    )
    again = oc.advise(
        net, x, batch_sizes=[2], forward=lambda m, x: (m.predict(x), m.predict(np.ones((9, 64), F)))
    ).rows[0]
    assert again.sqnr_db == row.sqnr_db  # the rows of the first call
    with pytest.raises(TypeError, match=r"a dict, cannot be called; say how to run it on a batch: forward=lambda"):
        oc.advise({"w": net.w}, x)
    with pytest.raises(ValueError, match="x meets no array in a product"):
        oc.advise({"w": net.w}, x, forward=lambda m, x: m["w"][0] + 1)


@pytest.mark.slow
def test_a_poor_answer_is_left_in_float_however_fast() -> None:
    w = rng.standard_normal((512, 512), dtype=F)
    w[0] *= 1e4  # int4, one group a column: all other weights of the column become zero
    row = oc.advise({"w": w}, dtype="int4", batch_sizes=[1]).rows[0]
    assert (row.sqnr_db, row.recommendation) == (None, "float")  # the weights alone say that something may be lost
    m = {"fc": oc.nn.Linear(w.T)}
    x = rng.standard_normal((4, 512), dtype=F)
    x[:, 0] = 0
    row = oc.advise(m, x, layers=oc.nn.Linear, dtype="int4", batch_sizes=[4], forward=lambda m, x: m["fc"](x)).rows[0]
    assert row.sqnr_db < 20
    assert row.recommendation == "float"


def test_the_model_is_left_as_it_is() -> None:
    m = model()
    weight = m["fc"].weight.copy()
    oc.advise(m, np.ones((1, 64), F), layers=oc.nn.Linear, arrays=True, batch_sizes=[1], forward=forward)
    assert isinstance(m["fc"], oc.nn.Linear)
    assert type(m["w"]) is np.ndarray
    np.testing.assert_array_equal(m["fc"].weight, weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": []}, "batch_sizes must hold numbers of rows from 1 on"),
        ({"batch_sizes": [0]}, "from 1 on"),
        ({"layers": {oc.nn.ReLU}}, "no layer of type ReLU"),
        ({"arrays": ["v"]}, "names no array"),
        ({"x": np.ones((1, 64), F), "layers": oc.nn.Linear, "forward": lambda m, x: x}, "was not called with x"),
    ],
)
def test_advise_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oc.advise(model(), **options)


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy's, of the float layer
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_results_that_are_not_finite_are_no_reason_to_quantize(value: float) -> None:
    x = np.full((3, 64), value, F)
    rows = oc.advise(
        oc.nn.Sequential(oc.nn.Linear.init(64, 64)), x, layers=oc.nn.Linear, batch_sizes=np.array([1])
    ).rows
    assert np.isnan(rows[0].sqnr_db)
    assert rows[0].recommendation == "float"


@pytest.mark.parametrize(
    "layer", [oc.nn.LSTM.init(64, 64), oc.nn.Embedding.init(64, 64)], ids=lambda v: type(v).__name__
)
def test_layers_that_are_not_linear_are_named(layer: Any) -> None:
    with pytest.raises(ValueError, match=rf"model\.a is an octavo.nn.{type(layer).__name__}.*linear layers"):
        oc.advise({"a": layer, "b": oc.nn.Linear.init(4, 4)}, layers={type(layer), oc.nn.Linear})


def test_times_are_those_of_rounds_in_which_no_other_program_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = oc.nn.Linear(np.eye(64, dtype=F))
    rounds = {"float": (2.0, 1e3, 1e3, 1e3, 1e3), "quantized": (1e3, 1e3, 1e3, 1.0, 1e3)}
    times = {name: Timing(seconds) for name, seconds in rounds.items()}
    monkeypatch.setattr("octavo._quantize.measure.interleaved", lambda *_, **__: times)
    (row,) = oc.advise({"fc": layer}, layers=oc.nn.Linear, batch_sizes=[2]).rows
    assert (row.float_seconds, row.quantized_seconds) == (2.0, 1.0)
