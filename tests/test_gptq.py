"""GPTQ against the paper's loop, and models rounded by their inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo.gptq import InputStatistics, round_gptq
from octavo.rounding import round_groups, round_nearest, round_search

F = np.float32


def correlated(rows: int, k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low_rank = rng.standard_normal((rows, k // 4)) @ rng.standard_normal((k // 4, k)) / np.sqrt(k / 4)
    return (low_rank + 0.2 * rng.standard_normal((rows, k))).astype(F)


def output_error(w: np.ndarray, rounded: oc.GroupedWeight, x: np.ndarray) -> float:
    return float(np.square(x @ (rounded.dequantize() - w).T).sum())


def literal_gptq(
    w: np.ndarray, x: np.ndarray, size: int | None, symmetric: bool, damping: float
) -> tuple[np.ndarray, np.ndarray]:
    """The algorithm as the paper states it, in float64: one column, then all columns behind it. (q, dequantized)"""
    n, k = w.shape
    h = x.astype(np.float64).T @ x
    dead = h.diagonal() == 0
    h[dead, dead] = h.diagonal().mean()
    mean = (x.astype(np.float64) ** 2).sum(axis=0).mean()
    h[np.arange(k), np.arange(k)] += damping * mean
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    rest, q, out = w.astype(np.float64), np.zeros((n, k)), np.zeros((n, k))
    importance = (x.astype(np.float64) ** 2).mean(axis=0)
    size = k if size is None else size
    for j in range(k):
        if j % size == 0:
            part = slice(j, min(k, j + size))
            i = importance[part]
            i = (i / i.max()).astype(F)[None] if i.max() > 0 else None
            group = rest[:, part].astype(F)[:, None]
            _, s, z = round_groups(group, i, symmetric=symmetric, scale_dtype="float32", search=True)
            scale, zero = s[:, 0].astype(np.float64), np.zeros(n) if z is None else z[:, 0].astype(np.float64)
        q[:, j] = np.clip(np.rint(rest[:, j] / scale) + zero, -8, 7)
        out[:, j] = (q[:, j] - zero) * scale
        rest[:, j + 1 :] -= np.outer((rest[:, j] - out[:, j]) / u[j, j], u[j, j + 1 :])
    return q, out


@pytest.mark.parametrize("size", [32, 96, None])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_is_the_papers_loop(size: int | None, symmetric: bool) -> None:
    x = correlated(400, 300)
    x[:, 5] = 0
    w = np.random.default_rng(1).standard_normal((12, 300), dtype=F)
    rounded = round_gptq(w, x, group_size=size, symmetric=symmetric)
    q, out = literal_gptq(w, x, size, symmetric, 0.01)
    # float32 beside float64: a value that lies on a rounding step may fall to the other side, and its row goes on from
    # there. Most rows do not meet one, and no output is worse.
    same = (rounded.q == q).all(axis=1)
    assert same.sum() >= 9
    np.testing.assert_allclose(rounded.dequantize()[same], out[same], rtol=1e-3, atol=1e-4)
    assert output_error(w, rounded, x) < 1.1 * float(np.square(x @ (out - w).T).sum())


@pytest.mark.parametrize("size", [32, 128, None])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_has_the_lowest_output_error_on_correlated_inputs(size: int | None, symmetric: bool) -> None:
    x, fresh = correlated(2000, 256)[:1000], correlated(2000, 256)[1000:]
    w = np.random.default_rng(2).standard_normal((48, 256), dtype=F)
    statistics = InputStatistics(256)
    statistics.update(x)
    options: dict[str, Any] = {"group_size": size, "symmetric": symmetric}
    gptq = round_gptq(w, statistics, **options)
    for other in (
        round_nearest(w, **options),
        round_search(w, **options),
        round_search(w, importance=statistics.importance, **options),
    ):
        assert output_error(w, gptq, x) < 0.5 * output_error(w, other, x)
        assert output_error(w, gptq, fresh) < 0.5 * output_error(w, other, fresh)


def test_statistics_add_up_over_batches_of_any_shape() -> None:
    x = correlated(600, 32)
    whole, parts = InputStatistics(32), InputStatistics(32)
    whole.update(x)
    for part in (x[:1], x[1:301].reshape(2, 150, 32), x[301:].astype(np.float64), x[:0]):
        parts.update(part)
    assert whole.rows == parts.rows == 600
    np.testing.assert_allclose(parts.hessian, x.astype(np.float64).T @ x, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(whole.importance, (x.astype(np.float64) ** 2).mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(round_gptq(np.eye(32), x).q, round_gptq(np.eye(32), whole).q)


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        (np.ones((5, 3)), {}, ValueError, r"shape \(\.\.\., 4\), got \(5, 3\)"),
        (np.full((5, 4), np.inf), {}, ValueError, "inputs must be finite"),
        (np.ones((5, 4), complex), {}, TypeError, "real numbers"),
        (np.ones((0, 4)), {}, ValueError, "at least one row"),
        (np.ones((5, 4)), {"damping": 0}, ValueError, "damping must be positive, got 0"),
        (InputStatistics(3), {}, ValueError, "must have 4 features"),
    ],
)
def test_gptq_refuses(inputs: object, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        round_gptq(np.ones((2, 4)), inputs, **options)


def test_refused_inputs_leave_the_statistics_as_they_were() -> None:
    statistics = InputStatistics(4)
    statistics.update(np.ones((2, 4)))
    with pytest.raises(ValueError, match="finite"):
        statistics.update([[1, 2, 3, np.nan]])
    assert statistics.rows == 2
    assert (statistics.hessian == 2).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_gptq_leaves_the_weight_as_it_is(transposed: bool) -> None:
    stored = np.random.default_rng(3).standard_normal((64, 64), dtype=F)
    w = stored.T if transposed else stored
    before = stored.copy()
    first = round_gptq(w, correlated(100, 64), group_size=32)
    np.testing.assert_array_equal(stored, before)
    stored.flags.writeable = False
    np.testing.assert_array_equal(round_gptq(w, correlated(100, 64), group_size=32).q, first.q)


def test_inputs_that_are_all_zero_leave_the_plain_search() -> None:
    w = np.random.default_rng(3).standard_normal((4, 64), dtype=F)
    rounded = round_gptq(w, np.zeros((3, 64)), group_size=32)
    np.testing.assert_array_equal(rounded.scale, round_search(w, group_size=32).scale)


# Models


def two_layers() -> oc.nn.Sequential:
    rng = np.random.default_rng(4)
    return oc.nn.Sequential(
        oc.nn.Linear(rng.standard_normal((96, 64), dtype=F)), oc.nn.ReLU(), oc.nn.Linear.init(96, 32, rng=rng)
    )


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
    monkeypatch.setattr("octavo.calibrated_rounding._MAX_STATISTICS_BYTES", 8 * 96**2)
    again = oc.quantize_dynamic(model, {oc.nn.Linear}, "int4", calibration=batches, **options)
    np.testing.assert_array_equal(again[2].int_repr(), expected[2].int_repr())
    with pytest.raises(ValueError, match="can be read 2 times"):
        oc.quantize_dynamic(model, {oc.nn.Linear}, "int4", calibration=iter(batches), **options)


def test_compare_rounding_reports_each_way_and_leaves_the_model_alone() -> None:
    model = two_layers()
    before = [model[i].weight.copy() for i in (0, 2)]
    report = oc.compare_rounding(model, oc.nn.Linear, [correlated(300, 64)], group_size=32)
    rows = {(row.layer, row.rounding): row for row in report.rows}
    assert [row.layer for row in report.rows] == ["layers[0]"] * 4 + ["layers[2]"] * 4
    for layer in ("layers[0]", "layers[2]"):
        nearest, search, weighted, gptq = (
            rows[layer, way] for way in ("nearest", "search", "search, weighted", "gptq")
        )
        assert search.weight_error < nearest.weight_error
        assert gptq.output_error < min(nearest.output_error, search.output_error, weighted.output_error)
    w, x = model[0].weight, correlated(300, 64)
    rounded = round_nearest(w, group_size=32).dequantize()
    measured = np.linalg.norm(x @ (rounded - w).T) / np.linalg.norm(x @ w.T)
    assert rows["layers[0]", "nearest"].output_error == pytest.approx(measured, rel=1e-3)
    assert "gptq" in str(report)
    for old, i in zip(before, (0, 2), strict=True):
        np.testing.assert_array_equal(old, model[i].weight)


class Unused:
    def __init__(self) -> None:
        self.used, self.unused = oc.nn.Linear.init(8, 8), oc.nn.Linear.init(8, 8)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.used(x)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Unused(), {"calibration": [np.ones((2, 8))]}, "unused was not called with any row"),
        (two_layers(), {"calibration": []}, "at least one batch, got none"),
        (two_layers(), {"calibration": [np.full((2, 64), np.nan)]}, r"layers\[0\]: inputs must be finite"),
        (two_layers(), {"rounding": "gptq"}, "needs calibration=batches"),
        (two_layers(), {"rounding": "nearest", "calibration": [np.ones((1, 64))]}, '"search" or "gptq"'),
        (two_layers(), {"dtype": "int8", "calibration": [np.ones((1, 64))]}, 'is for dtype="int4", got qint8'),
    ],
)
def test_calibrated_rounding_refuses(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oc.quantize_dynamic(model, {oc.nn.Linear}, **({"dtype": "int4"} | options))


def test_progress_names_the_extra_where_tqdm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"octavo\[cli\]"):
        oc.quantize_dynamic(two_layers(), {oc.nn.Linear}, "int4", calibration=[np.ones((2, 64), F)], progress=True)


def run_arrays(params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    hidden = np.maximum(x @ params["up"], 0) + params["table"][[1, 2]].sum()
    return np.einsum("bi,oi->bo", hidden, params["down"])


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
    inputs = {"up": x, "down": np.maximum(x @ params["up"], 0) + params["table"][[1, 2]].sum()}
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
