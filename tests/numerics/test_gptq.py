"""GPTQ against the paper's loop, and the sums over inputs that it is computed from."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._numerics.gptq import InputStatistics, _invert_lower, round_gptq
from octavo._numerics.rounding import round_groups, round_nearest, round_search

F = np.float32


def correlated(rows: int, k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low_rank = rng.standard_normal((rows, k // 4)) @ rng.standard_normal((k // 4, k)) / np.sqrt(k / 4)
    return (low_rank + 0.2 * rng.standard_normal((rows, k))).astype(F)


def output_error(w: np.ndarray, rounded: oc.GroupedWeight, x: np.ndarray) -> float:
    return float(np.square(x @ (rounded.dequantize() - w).T).sum())


def literal_gptq(
    w: np.ndarray,
    x: np.ndarray,
    size: int | None,
    symmetric: bool = True,
    damping: float = 0.01,
    activation_order: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The algorithm as the paper states it, in float64: one column, then all columns behind it. (q, dequantized)"""
    n, k = w.shape
    h = x.astype(np.float64).T @ x
    order = np.argsort(-h.diagonal(), kind="stable") if activation_order else np.arange(k)
    h += damping * h.diagonal().mean() * np.eye(k)
    u = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    cost = np.empty(k)
    cost[order] = 1 / u.diagonal() ** 2
    rest, q, out = w.astype(np.float64), np.zeros((n, k)), np.zeros((n, k))
    size = k if size is None else size
    parameters: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def find(group: int) -> None:
        part = slice(group * size, min(k, group * size + size))
        i = (cost[part] / cost[part].max()).astype(F)[None]
        _, s, z = round_groups(
            rest[:, part].astype(F)[:, None], i, symmetric=symmetric, scale_dtype="float32", search=True
        )
        parameters[group] = s[:, 0].astype(np.float64), np.zeros(n) if z is None else z[:, 0].astype(np.float64)

    if activation_order:
        for group in range(-(-k // size)):
            find(group)
    for step, j in enumerate(order):
        if j // size not in parameters:
            find(j // size)
        scale, zero = parameters[j // size]
        q[:, j] = np.clip(np.rint(rest[:, j] / scale) + zero, -8, 7)
        out[:, j] = (q[:, j] - zero) * scale
        rest[:, order[step + 1 :]] -= np.outer((rest[:, j] - out[:, j]) / u[step, step], u[step, step + 1 :])
    return q, out


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 96, None])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
@pytest.mark.parametrize("activation_order", [False, True], ids=["ascending", "activation_order"])
def test_gptq_is_the_papers_loop(size: int | None, symmetric: bool, activation_order: bool) -> None:
    x = correlated(400, 160) * np.exp(np.random.default_rng(5).standard_normal(160)).astype(F)
    x[:, 5] = 0
    w = np.random.default_rng(1).standard_normal((24, 160), dtype=F)
    options: dict[str, Any] = {"symmetric": symmetric, "activation_order": activation_order}
    rounded = round_gptq(w, x, group_size=size, refinements=0, **options)
    q, out = literal_gptq(w, x, size, **options)
    # float32 beside float64: a value that lies on a rounding step may fall to the other side, and its row goes on from
    # there. Most rows do not meet one, and no output is worse.
    same = (rounded.q == q).all(axis=1)
    assert same.sum() >= 16
    np.testing.assert_allclose(rounded.dequantize()[same], out[same], rtol=1e-3, atol=1e-4)
    assert output_error(w, rounded, x) < 1.05 * float(np.square(x @ (out - w).T).sum())


def literal_refinement(w: np.ndarray, x: np.ndarray, start: oc.GroupedWeight) -> tuple[np.ndarray, np.ndarray]:
    """One round in float64: each group's scale, then its integers, by what the error as a whole says of them."""
    h = x.T.astype(np.float64) @ x
    h = h / h.diagonal().mean() + 0.01 * np.eye(len(h))
    n, k = w.shape
    size = start.group_size or k
    q, scale = start.q.astype(np.float64), start.scale.astype(np.float64)
    zero = np.zeros_like(scale) if start.zero_point is None else start.zero_point.astype(np.float64)
    for row in range(n):
        for first in range(0, k, size):
            g, columns = first // size, slice(first, first + size)

            def values(row: int = row) -> np.ndarray:
                return (q[row] - zero[row].repeat(size)[:k]) * scale[row].repeat(size)[:k]

            d = np.zeros(k)
            d[columns] = q[row, columns] - zero[row, g]
            scale[row, g] += d @ h @ (w[row] - values()) / (d @ h @ d)
            for j in range(first, min(first + size, k)):
                best = values()[j] + h[j] @ (w[row] - values()) / h[j, j]
                q[row, j] = np.clip(np.rint(best / scale[row, g]) + zero[row, g], -8, 7)
    return q, scale


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 64, None])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_a_refinement_is_the_literal_one(size: int | None, symmetric: bool) -> None:
    x, w = correlated(300, 160), np.random.default_rng(1).standard_normal((12, 160), dtype=F)
    options: dict[str, Any] = {"group_size": size, "symmetric": symmetric}
    q, scale = literal_refinement(w, x, round_gptq(w, x, refinements=0, **options))
    refined = round_gptq(w, x, refinements=1, **options)
    same = (refined.q == q).all(axis=1)  # float32 may fall to the other side of a step, and the row goes on from there
    assert same.sum() >= 9
    np.testing.assert_allclose(refined.scale[same], scale[same], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, None])
@pytest.mark.parametrize("options", [{}, {"symmetric": False}, {"scale_dtype": "float16"}, {"activation_order": False}])
def test_each_refinement_lowers_the_error(size: int | None, options: dict[str, Any]) -> None:
    x, w = correlated(400, 160), np.random.default_rng(1).standard_normal((24, 160), dtype=F)
    x[:, 5] = 0
    w[3] = 0
    w[4, 32:64] = 0
    h = x.T.astype(np.float64) @ x
    h = h / h.diagonal().mean() + 0.01 * np.eye(len(h))

    def errors(count: int) -> np.ndarray:
        wrong = w - round_gptq(w, x, group_size=size, refinements=count, **options).dequantize()
        return ((wrong @ h) * wrong).sum(axis=1)

    found = [errors(count) for count in (0, 1, 2, 6)]
    for before, after in itertools.pairwise(found):
        assert (after <= before * (1 + 1e-5) + 1e-6).all()
    assert found[1].sum() < 0.99 * found[0].sum()
    assert found[3][3] == 0


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1, 7, 1000])
@pytest.mark.parametrize("activation_order", [False, True])
def test_block_size_changes_nothing_but_float32_rounding(block_size: int, activation_order: bool) -> None:
    x, w = correlated(200, 96), np.random.default_rng(6).standard_normal((20, 96), dtype=F)
    options: dict[str, Any] = {"group_size": 32, "activation_order": activation_order}
    same = round_gptq(w, x, block_size=block_size, **options).q == round_gptq(w, x, **options).q
    assert same.all(axis=1).sum() >= 16


@pytest.mark.slow
def test_activation_order_helps_where_inputs_differ_in_size() -> None:
    size = np.exp(np.random.default_rng(7).standard_normal(256)).astype(F)
    x, fresh = correlated(2000, 256)[:1000] * size, correlated(2000, 256)[1000:] * size
    w = np.random.default_rng(2).standard_normal((48, 256), dtype=F)
    ordered, plain = (round_gptq(w, x, group_size=64, activation_order=order) for order in (True, False))
    assert output_error(w, ordered, fresh) < 0.8 * output_error(w, plain, fresh)
    np.testing.assert_array_equal(round_gptq(w, x, group_size=64).q, ordered.q)  # the default


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 128, None])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("activation_order", [False, True])
def test_gptq_has_the_lowest_output_error_on_correlated_inputs(
    size: int | None, symmetric: bool, activation_order: bool
) -> None:
    x, fresh = correlated(2000, 256)[:1000], correlated(2000, 256)[1000:]
    w = np.random.default_rng(2).standard_normal((48, 256), dtype=F)
    statistics = statistics_of(x)
    options: dict[str, Any] = {"group_size": size, "symmetric": symmetric}
    gptq = round_gptq(w, statistics, activation_order=activation_order, **options)
    for other in (
        round_nearest(w, **options),
        round_search(w, **options),
        round_search(w, importance=statistics.importance, **options),
    ):
        assert output_error(w, gptq, x) < 0.5 * output_error(w, other, x)
        assert output_error(w, gptq, fresh) < 0.5 * output_error(w, other, fresh)


def statistics_of(x: np.ndarray, *, products: bool = True) -> InputStatistics:
    statistics = InputStatistics(x.shape[-1], products=products)
    statistics.update(x)
    return statistics


@pytest.mark.parametrize("k", [1, 32, 70])
def test_statistics_add_up_over_batches_of_any_shape(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo._numerics.gptq._ROWS", 100)  # less than some batches, more than others
    monkeypatch.setattr("octavo._numerics.gptq._COLUMNS", 32)
    x = np.random.default_rng(8).standard_normal((600, k)).astype(F)
    parts, squares = InputStatistics(k), InputStatistics(k, products=False)
    for part in (x[:1], x[1:31], x[31:301].reshape(2, 135, k), x[301:590].astype(np.float64), x[:0], x[590:600:1]):
        parts.update(part)
        squares.update(part)
    exact = x.astype(np.float64).T @ x
    np.testing.assert_allclose(parts.hessian, exact, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(parts.hessian, parts.hessian.T)
    assert parts.rows == squares.rows == 600
    for statistics in (parts, squares):
        np.testing.assert_allclose(statistics.importance, exact.diagonal() / 600, rtol=1e-6)


def test_statistics_read_in_between_go_on_from_there() -> None:
    x = correlated(64, 16)
    statistics = InputStatistics(16)
    for part in np.split(x, 4):
        statistics.update(part)
        assert statistics.hessian.any()
    np.testing.assert_allclose(statistics.hessian, x.astype(np.float64).T @ x, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [70, 1000, 100_000])
def test_statistics_of_many_rows_take_bounded_memory(rows: int) -> None:
    statistics, x = InputStatistics(16), np.ones((rows, 16), F)
    tracemalloc.start()
    try:
        for _ in range(100_000 // rows):
            statistics.update(x)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000  # all rows are 6.4 MB
    finally:
        tracemalloc.stop()
    assert (statistics.hessian == statistics.rows).all()


def test_statistics_keep_inputs_that_are_overwritten() -> None:
    x = np.ones((3, 4), F)
    statistics = statistics_of(x)
    x[:] = np.nan
    np.testing.assert_array_equal(statistics.hessian, np.full((4, 4), 3))


@pytest.mark.parametrize("magnitude", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_magnitude_of_inputs_does_not_matter(magnitude: float) -> None:
    x, w = correlated(300, 64), np.random.default_rng(9).standard_normal((16, 64), dtype=F)
    power = F(2.0 ** round(np.log2(magnitude)))
    np.testing.assert_array_equal(round_gptq(w, x * power, group_size=32).q, round_gptq(w, x, group_size=32).q)


@pytest.mark.slow
@pytest.mark.parametrize("magnitude", [1e-25, 1e25, 1e37])
@pytest.mark.parametrize("activation_order", [False, True])
def test_magnitude_of_weights_moves_to_the_scales(magnitude: float, activation_order: bool) -> None:
    x, w = correlated(300, 64), np.random.default_rng(9).standard_normal((16, 64), dtype=F)
    w[::2] /= np.abs(w[::2]).max()
    power = F(2.0 ** round(np.log2(magnitude)))
    w[::2] *= power  # beside rows of ordinary size
    rounded = round_gptq(w, x, group_size=32, activation_order=activation_order)
    w[::2] /= power
    expected = round_gptq(w, x, group_size=32, activation_order=activation_order)
    np.testing.assert_array_equal(rounded.q, expected.q)
    np.testing.assert_array_equal(rounded.scale[::2], expected.scale[::2] * power)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(0, 32), (3, 0), (1, 1), (5, 1), (1, 33), (2, 300)], ids=str)
@pytest.mark.parametrize("activation_order", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_gptq_takes_any_shape(shape: tuple[int, int], activation_order: bool, symmetric: bool) -> None:
    rng = np.random.default_rng(10)
    w, x = rng.standard_normal(shape, dtype=F), rng.standard_normal((4, shape[1]), dtype=F)
    for size in (None, 32):
        options: dict[str, Any] = {"group_size": size, "symmetric": symmetric, "activation_order": activation_order}
        rounded = round_gptq(w, x, **options)
        assert rounded.q.shape == shape
        assert np.abs(rounded.dequantize() - w).max(initial=0) < 2


def test_gptq_holds_scales_as_float16_numbers() -> None:
    x, w = correlated(300, 64), np.random.default_rng(9).standard_normal((16, 64), dtype=F)
    half, single = (round_gptq(w, x, group_size=32, scale_dtype=dtype) for dtype in ("float16", "float32"))
    np.testing.assert_array_equal(half.scale, half.scale.astype(np.float16))
    assert output_error(w, half, x) < 1.1 * output_error(w, single, x)
    with pytest.raises(ValueError, match="beyond float16"):
        round_gptq(w * F(1e30), x, group_size=32, scale_dtype="float16")


@pytest.mark.parametrize("k", [1, 2, 5, 64, 65, 200])
def test_a_large_triangle_is_inverted_by_halves(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo._numerics.gptq._TRIANGLE", 8)
    lower = np.tril(np.random.default_rng(11).standard_normal((k, k)) / k) + np.eye(k)
    inverse = lower.copy()
    _invert_lower(inverse)
    np.testing.assert_allclose(inverse @ lower, np.eye(k), atol=1e-10)
    assert not np.triu(inverse, 1).any()


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        (np.ones((5, 3)), {}, ValueError, r"shape \(\.\.\., 4\), got \(5, 3\)"),
        (np.full((5, 4), np.inf), {}, ValueError, "inputs must be finite"),
        (np.ones((5, 4), complex), {}, TypeError, "real numbers"),
        (np.ones((0, 4)), {}, ValueError, "at least one row"),
        (np.ones((5, 4)), {"damping": 0}, ValueError, "damping must be positive and finite, got 0"),
        (np.full((5, 4), 1e300), {}, ValueError, "inputs must be finite in float32"),
        (np.ones((5, 4)), {"damping": np.inf}, ValueError, "got inf"),
        (np.ones((5, 4)), {"damping": "much"}, TypeError, "damping must be a number, got 'much'"),
        (np.random.default_rng(0).standard_normal((2, 4)), {"damping": 1e-18}, ValueError, "damping must be larger"),
        (np.ones((5, 4)), {"block_size": 0}, ValueError, "block_size must be at least 1, got 0"),
        (np.ones((5, 4)), {"block_size": 1.5}, TypeError, "float"),
        (np.ones((5, 4)), {"refinements": -1}, ValueError, "refinements must be 0 or more, got -1"),
        (np.ones((5, 4)), {"refinements": 1.5}, TypeError, "float"),
        (np.ones((5, 4)), {"group_size": 0}, ValueError, "group_size must be at least 1, got 0"),
        (InputStatistics(3), {}, ValueError, "must have 4 features"),
        (statistics_of(np.ones((5, 4)), products=False), {}, ValueError, r"hold no X\^T X"),
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
@pytest.mark.parametrize("activation_order", [False, True])
def test_gptq_leaves_the_weight_as_it_is(transposed: bool, activation_order: bool) -> None:
    stored = np.random.default_rng(3).standard_normal((64, 64), dtype=F)
    w = stored.T if transposed else stored
    before = stored.copy()
    first = round_gptq(w, correlated(100, 64), group_size=32, activation_order=activation_order)
    np.testing.assert_array_equal(stored, before)
    stored.flags.writeable = False
    np.testing.assert_array_equal(
        round_gptq(w, correlated(100, 64), group_size=32, activation_order=activation_order).q, first.q
    )


def test_inputs_that_are_all_zero_leave_the_plain_search() -> None:
    w = np.random.default_rng(3).standard_normal((4, 64), dtype=F)
    rounded = round_gptq(w, np.zeros((3, 64)), group_size=32)
    np.testing.assert_array_equal(rounded.scale, round_search(w, group_size=32).scale)


class ByKeyword:
    def __init__(self) -> None:
        self.fc = oc.nn.Linear.init(64, 8)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.fc(x=x)


def test_layers_that_are_called_by_keyword_are_watched() -> None:
    q = oc.quantize_dynamic(ByKeyword(), {oc.nn.Linear}, "int4", group_size=32, calibration=[correlated(50, 64)])
    assert isinstance(q.fc, oc.QuantLinear)


def test_the_hessian_cannot_be_written_to() -> None:
    statistics = statistics_of(np.eye(4))
    with pytest.raises(ValueError, match="read-only"):
        statistics.hessian[0] = 1
    np.testing.assert_array_equal(statistics.hessian, np.eye(4))
