"""Models rounded by what their layers are given, and the report of the errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._models.hooks import Watched
from octavo._numerics.gptq import InputStatistics, round_gptq
from octavo._numerics.rounding import round_nearest, round_search

F = np.float32


def correlated(rows: int, k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low_rank = rng.standard_normal((rows, k // 4)) @ rng.standard_normal((k // 4, k)) / np.sqrt(k / 4)
    return (low_rank + 0.2 * rng.standard_normal((rows, k))).astype(F)


def two_layers() -> oc.nn.Sequential:
    rng = np.random.default_rng(4)
    return oc.nn.Sequential(
        oc.nn.Linear(rng.standard_normal((96, 64), dtype=F)), oc.nn.ReLU(), oc.nn.Linear.init(96, 32, rng=rng)
    )


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["gptq", "search", None])
def test_quantize_dynamic_rounds_by_what_layers_are_given(rounding: Any) -> None:
    model, batches = two_layers(), [correlated(200, 64, seed) for seed in range(3)]
    x = np.concatenate(batches)
    q = oc.quantize_dynamic(model, {oc.nn.Linear}, "int4", group_size=32, rounding=rounding, calibration=iter(batches))
    first, second = InputStatistics(64), InputStatistics(96)
    for batch in batches:
        first.update(batch)
        second.update(model[1](model[0](batch)))
    for layer, statistics in ((0, first), (2, second)):
        w = model[layer].weight
        if rounding == "gptq":
            expected = round_gptq(w, statistics, group_size=32)
        else:
            expected = round_search(w, group_size=32, importance=statistics.importance)
        np.testing.assert_array_equal(q[layer].int_repr(), expected.q)
        np.testing.assert_array_equal(q[layer].scale, expected.scale)
    assert np.abs(q(x) - model(x)).max() < 0.2 * np.abs(model(x)).max()


def test_layers_beyond_the_memory_are_watched_in_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = two_layers(), [correlated(50, 64)]
    options: dict[str, Any] = {"group_size": 32, "rounding": "gptq"}
    expected = oc.quantize_dynamic(model, {oc.nn.Linear}, "int4", calibration=batches, **options)
    monkeypatch.setattr("octavo._quantize.watching._MAX_STATISTICS_BYTES", 8 * 96**2)
    again = oc.quantize_dynamic(model, {oc.nn.Linear}, "int4", calibration=batches, **options)
    np.testing.assert_array_equal(again[2].int_repr(), expected[2].int_repr())
    with pytest.raises(ValueError, match="can be read 2 times"):
        oc.quantize_dynamic(model, {oc.nn.Linear}, "int4", calibration=iter(batches), **options)


def test_compare_rounding_reports_each_way_and_leaves_the_model_alone() -> None:
    model = two_layers()
    before = [model[i].weight.copy() for i in (0, 2)]
    report = oc.compare_rounding(model, oc.nn.Linear, [correlated(300, 64)], group_size=32)
    rows = {(row.layer, row.rounding): row for row in report.rows}
    assert [row.layer for row in report.rows] == ["layers.0"] * 4 + ["layers.2"] * 4
    for layer in ("layers.0", "layers.2"):
        nearest, search, weighted, gptq = (
            rows[layer, way] for way in ("nearest", "search", "search, weighted", "gptq")
        )
        assert search.weight_error < nearest.weight_error
        assert gptq.output_error < min(nearest.output_error, search.output_error, weighted.output_error)
    w, x = model[0].weight, correlated(300, 64)
    rounded = round_nearest(w, group_size=32).dequantize()
    measured = np.linalg.norm(x @ (rounded - w).T) / np.linalg.norm(x @ w.T)
    assert rows["layers.0", "nearest"].output_error == pytest.approx(measured, rel=1e-3)
    assert "gptq" in str(report)
    for old, i in zip(before, (0, 2), strict=True):
        np.testing.assert_array_equal(old, model[i].weight)


class Unused:
    def __init__(self) -> None:
        self.used, self.unused = oc.nn.Linear.init(8, 8), oc.nn.Linear.init(8, 8)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.used(x)


@pytest.mark.parametrize("rounding", ["gptq", "search"])
def test_a_layer_that_no_batch_reaches_is_searched_with_a_warning(rounding: Any) -> None:
    model, batches, errors = Unused(), [correlated(20, 8)], []
    with pytest.warns(UserWarning, match=r"model\.unused was given no row") as caught:
        q = oc.quantize_dynamic(
            model, oc.nn.Linear, "int4", rounding=rounding, calibration=batches, rounding_report=errors.append
        )
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(q.unused.int_repr(), round_search(model.unused.weight).q)
    assert [(e.layer, e.rounding) for e in errors][1] == ("unused", "search")
    assert np.isnan(errors[1].output_error)
    rows = oc.compare_rounding(model, oc.nn.Linear, batches).rows
    assert [row.rounding for row in rows if row.layer == "unused"] == ["nearest", "search"]


@pytest.mark.parametrize("rounding", ["gptq", "search"])
def test_report_is_given_the_errors_of_each_layer(rounding: Any) -> None:
    model, x, errors = two_layers(), correlated(300, 64), []
    options: dict[str, Any] = {"group_size": 32, "rounding": rounding, "calibration": [x]}
    q = oc.quantize_dynamic(model, oc.nn.Linear, "int4", rounding_report=errors.append, **options)
    assert [e.layer for e in errors] == ["layers.0", "layers.2"]
    assert {e.rounding for e in errors} == {"gptq" if rounding == "gptq" else "search, weighted"}
    for e, layer, inputs in ((errors[0], 0, x), (errors[1], 2, model[1](model[0](x)))):
        w, rounded = model[layer].weight, q[layer].weight
        assert e.weight_error == pytest.approx(np.linalg.norm(rounded - w) / np.linalg.norm(w), rel=1e-4)
        output = np.linalg.norm(inputs @ (rounded - w).T) / np.linalg.norm(inputs @ w.T)
        assert e.output_error == pytest.approx(output, rel=1e-3)


def test_search_keeps_no_products_of_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo._quantize.watching.memory_bytes", lambda: 32 * 80**2)  # enough for 64, not for 96
    options: dict[str, Any] = {"group_size": 32, "calibration": [correlated(50, 64)]}
    oc.quantize_dynamic(two_layers(), oc.nn.Linear, "int4", **options)
    for more in ({"rounding": "gptq"}, {"rounding_report": print}):
        with pytest.raises(ValueError, match=r"model.layers\.2 has 96 inputs.* take 32 K\^2 = 0\.0 GB"):
            oc.quantize_dynamic(two_layers(), oc.nn.Linear, "int4", **options, **more)


def test_unknown_memory_is_not_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sysconf")
    options: dict[str, Any] = {"group_size": 32, "rounding": "gptq", "calibration": [correlated(50, 64)]}
    assert oc.quantize_dynamic(two_layers(), oc.nn.Linear, "int4", **options)[0].dtype == oc.qint4


class Noting:
    """A layer that keeps its last input, as many do."""

    def __init__(self) -> None:
        self.weight, self.last = np.random.default_rng(5).standard_normal((8, 8)).astype(F), None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.last = x
        return x @ self.weight.T


def test_model_is_as_it_was_and_its_weights_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model, copied = [Noting()], []
    monkeypatch.setattr(
        "octavo._quantize.watching.Watched", lambda layer, *rest: copied.append(layer) or Watched(layer, *rest)
    )
    forward = lambda model, x: model[0](x)  # noqa: E731 - as users write it
    oc.quantize_dynamic(model, Noting, "int4", rounding="gptq", calibration=[correlated(9, 8)], forward=forward)
    assert model[0].last is None
    assert copied[0].last is not None
    assert copied[0].weight is model[0].weight


def never(model: Any, batch: Any) -> None:
    raise AssertionError("the model was run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 33}, "group_size must be a multiple of 32.*got 33"),
        ({"scale_dtype": "float64"}, "scale_dtype must be"),
        ({"activation": "none"}, "activation must be one of"),
        ({"layers": {Noting: oc.LayerSpec(layout="in_out")}}, r"model\.0.*it fits LayerSpec\(\)"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_model_runs(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"layers": Noting, "calibration": [np.ones((2, 8))], "forward": never} | options
    with pytest.raises(ValueError, match=message):
        oc.quantize_dynamic([Noting()], dtype="int4", rounding="gptq", **arguments)


def test_weights_that_are_not_finite_are_refused_before_the_model_runs() -> None:
    model = [Noting()]
    model[0].weight[2, 3] = np.nan
    with pytest.raises(ValueError, match=r"model\.0 \(Noting\): weight must be finite in float32, got nan at \[2, 3\]"):
        oc.quantize_dynamic(model, Noting, "int4", calibration=[np.ones((2, 8))], forward=never)


@pytest.mark.parametrize("kind", ["array", "statistics"])
def test_rounding_error_is_its_definition(kind: str) -> None:
    w, x = np.random.default_rng(6).standard_normal((5, 40)), correlated(70, 40)
    rounded, given = oc.round_nearest(w), x
    if kind == "statistics":
        given = InputStatistics(40)
        given.update(x)
    errors = oc.rounding_error(w, rounded, given, layer="a", rounding="b")
    e = rounded.dequantize() - w
    assert (errors.layer, errors.rounding) == ("a", "b")
    assert errors.weight_error == pytest.approx(np.linalg.norm(e) / np.linalg.norm(w), rel=1e-6)
    assert errors.output_error == pytest.approx(np.linalg.norm(x @ e.T) / np.linalg.norm(x @ w.T), rel=1e-4)
    assert np.isnan(oc.rounding_error(w, rounded).output_error)


def test_rounding_error_of_zeros() -> None:
    zeros, wrong = np.zeros((1, 2)), oc.GroupedWeight(np.ones((1, 2), np.int8), [[1.0]])
    assert oc.rounding_error(zeros, oc.round_nearest(zeros), np.ones((1, 2))).output_error == 0
    assert oc.rounding_error(zeros, wrong, np.ones((1, 2))).weight_error == np.inf
    assert oc.rounding_error(np.ones((1, 2)), wrong, np.zeros((1, 2))).output_error == 0


@pytest.mark.parametrize(
    ("weight", "inputs", "message"),
    [
        (np.ones((2, 3)), None, r"shape of weight, \(2, 3\), got \(1, 2\)"),
        (np.ones((1, 2)), np.ones((3, 4)), r"shape \(\.\.\., 2\)"),
        (np.ones((1, 2)), InputStatistics(3), "must have 2 features"),
        (np.ones((1, 2)), InputStatistics(2), "at least one row"),
    ],
)
def test_rounding_error_refuses(weight: np.ndarray, inputs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oc.rounding_error(weight, oc.GroupedWeight(np.ones((1, 2), np.int8), [[1.0]]), inputs)


class Flat:
    weight = np.ones(3, F)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (two_layers(), {"calibration": []}, "at least one batch, got none"),
        (two_layers(), {"calibration": [np.full((2, 64), np.nan)]}, r"layers\.0: inputs must be finite"),
        (two_layers(), {"rounding": "gptq"}, "needs calibration=batches"),
        (oc.nn.LSTM.init(8, 8), {"layers": oc.nn.LSTM, "calibration": [1]}, "linear layers and arrays, and neither is"),
        (
            [np.ones((64, 64), F)],
            {"layers": None, "group_size": 33, "calibration": [1]},
            r"model\.0: group_size must",
        ),
        ([Flat()], {"layers": Flat, "calibration": [1]}, r"model\.0 \(Flat\): weight must be 2-D"),
        (two_layers(), {"rounding_report": print}, "rounding_report needs calibration=batches"),
        (two_layers(), {"rounding": "nearest", "calibration": [np.ones((1, 64))]}, '"search" or "gptq"'),
        (two_layers(), {"dtype": "int8", "calibration": [np.ones((1, 64))]}, 'is for dtype="int4", got qint8'),
    ],
)
def test_calibrated_rounding_refuses(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oc.quantize_dynamic(model, **({"layers": {oc.nn.Linear}, "dtype": "int4"} | options))


def test_progress_names_the_extra_where_tqdm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    with pytest.raises(ImportError, match="progress=True needs tqdm, which octavo's extra 'cli' installs: pip install"):
        oc.quantize_dynamic(two_layers(), {oc.nn.Linear}, "int4", calibration=[np.ones((2, 64), F)], progress=True)


def test_progress_counts_batches_and_layers(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm", reason="the bar is tqdm's: pip install 'octavo[cli]'")
    batches = [np.ones((2, 64), F)] * 3
    oc.quantize_dynamic(two_layers(), {oc.nn.Linear}, "int4", calibration=batches, progress=True)
    told = capsys.readouterr().err
    assert "calibrating" in told
    assert "3/3" in told
    assert "rounding" in told
    assert "2/2" in told
    oc.quantize_dynamic(two_layers(), {oc.nn.Linear}, "int4", calibration=batches)
    assert capsys.readouterr().err == ""


def test_a_failing_batch_is_numbered() -> None:
    batches = [np.ones((2, 64), F), np.full((2, 64), np.inf)]
    with pytest.raises(ValueError, match=r"layers\.0: inputs must be finite") as caught:
        oc.quantize_dynamic(two_layers(), {oc.nn.Linear}, "int4", calibration=batches)
    assert caught.value.__notes__ == ["octavo: this was batch 1 of calibration"]


def output_error(w: np.ndarray, rounded: oc.GroupedWeight, x: np.ndarray) -> float:
    return float(np.square(x @ (rounded.dequantize() - w).T).sum())


def run_arrays(params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    hidden = np.maximum(x @ params["up"], 0) + params["table"][[1, 2]].sum()
    return np.einsum("bi,oi->bo", hidden, params["down"])


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["gptq", "search"])
def test_arrays_are_rounded_by_what_they_multiply(rounding: Any) -> None:
    rng = np.random.default_rng(7)
    params = {
        "up": rng.standard_normal((64, 96), dtype=F), "down": rng.standard_normal((64, 96), dtype=F),
        "table": rng.standard_normal((32, 64), dtype=F),
    }  # fmt: skip
    x = correlated(300, 64)
    arrays: Any = {"up": "in_out", "down": "out_in", "table": "out_in"}
    options: dict[str, Any] = {"dtype": "int4", "group_size": 32, "rounding": rounding}
    q = oc.quantize_dynamic(params, arrays=arrays, calibration=[x[:200], x[200:]], forward=run_arrays, **options)
    # In the batches of calibration: a product of floats need not give a row the same bits in another batch.
    hidden = np.concatenate([np.maximum(part @ params["up"], 0) for part in (x[:200], x[200:])])
    inputs = {"up": x, "down": hidden + params["table"][[1, 2]].sum()}
    for name, w in (("up", params["up"].T), ("down", params["down"])):
        statistics = InputStatistics(w.shape[1])
        statistics.update(inputs[name][:200])
        statistics.update(inputs[name][200:])
        if rounding == "gptq":
            expected = round_gptq(w, statistics, group_size=32)
        else:
            expected = round_search(w, group_size=32, importance=statistics.importance)
        got = np.asarray(q[name].T if name == "up" else q[name])
        # Float sums differ in their last bits by the order of the products, which GPTQ carries from column to column.
        if rounding == "search":
            assert (got == expected.dequantize()).mean() > 0.99
        assert output_error(w, expected, inputs[name]) < output_error(w, round_nearest(w, group_size=32), inputs[name])
        assert output_error(w, expected, inputs[name]) == pytest.approx(
            float(np.square(inputs[name] @ (got - w).T).sum()), rel=0.1
        )
    # The table was looked up and never multiplied: it is rounded for itself.
    np.testing.assert_array_equal(np.asarray(q["table"]), round_search(params["table"], group_size=32).dequantize())
    assert type(params["up"]) is np.ndarray


def test_models_may_look_at_their_arrays_while_they_are_calibrated() -> None:
    seen: list[str] = []

    def run(params: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        w = params["w"]
        seen.append(f"{w} {w!r} {w.mean():.3f} {w[0, :2]} {w.shape} {w.dtype}")
        return x @ w

    x = np.random.default_rng(0).standard_normal((16, 8), dtype=np.float32)
    w = np.arange(64, dtype=np.float32).reshape(8, 8)
    options: dict[str, Any] = {"dtype": "int4", "rounding": "gptq", "calibration": [x], "forward": run}
    assert isinstance(oc.quantize_dynamic({"w": w}, arrays=["w"], **options)["w"], oc.QuantMatrix)
    assert "WatchedMatrix(8 x 8, float32)" in seen[0]
    assert seen[0].endswith("31.500 [0. 1.] (8, 8) float32")
