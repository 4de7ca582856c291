"""Rounding to four bits: against the definitions, brute force, and the literal algorithm."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import octavo as oc
from octavo._numerics.rounding import round_nearest, round_search

F = np.float32
SIZES = [None, 1, 3, 32, 128]


def groups_of(w: np.ndarray, size: int | None) -> list[np.ndarray]:
    size = w.shape[1] if size is None else size
    return [w[:, k : k + size] for k in range(0, w.shape[1], size)]


def group_errors(w: np.ndarray, rounded: oc.GroupedWeight, importance: np.ndarray | None = None) -> np.ndarray:
    i = np.ones(w.shape[1]) if importance is None else importance
    squares = (rounded.dequantize().astype(np.float64) - w) ** 2 * i
    return np.stack([part.sum(axis=1) for part in groups_of(squares, rounded.group_size)], axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_nearest_is_its_definition(size: int | None, symmetric: bool) -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((49, 70), dtype=F) * np.exp(rng.uniform(-20, 20, (49, 1))).astype(F)
    # Values around ties, where a product with the reciprocal would round differently from the quotient.
    w[9:] = (rng.integers(-7, 7, (40, 70)) + F(0.5)) * (w[9:, :1] / F(7))
    w[9:, ::3] = w[9:, :1] * F(6.5)
    w[3, :32] = 0
    w[4] = abs(w[4])
    rounded = round_nearest(w, group_size=size, symmetric=symmetric)
    for g, part in enumerate(groups_of(w, size)):
        for n, row in enumerate(part):
            lo, hi = min(F(0), row.min()), max(F(0), row.max())
            if symmetric:
                s, z = max(-lo, hi) / F(7), F(0)
            else:
                s = (hi - lo) / F(15)
                z = F(0) if s == 0 else np.clip(np.rint(F(-8) - lo / s), -8, 7)
            if s == 0:
                s, z = F(1), F(0 if symmetric else -8)
            at = slice(g * len(row) if size is None else g * size, None)
            q = np.clip(np.rint(row / s) + z, -7 if symmetric else -8, 7)
            np.testing.assert_array_equal(rounded.q[n, at][: len(row)], q)
            assert rounded.scale[n, g] == s
            assert rounded.zero_point is None or rounded.zero_point[n, g] == z


def brute_force(row: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, importance: np.ndarray) -> float:
    """The least error of one group over all of these scales and zero points."""
    s, z = scales[:, None, None], zero_points[None, :, None]
    q = np.clip(np.rint(row / s) + z, -8, 7)
    return float((((q - z) * s - row) ** 2 * importance).sum(axis=-1).min())


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("distribution", ["normal", "heavy", "shifted"])
@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_search_comes_near_the_best_scale_there_is(
    symmetric: bool, size: int, distribution: str, weighted: bool
) -> None:
    rng = np.random.default_rng(10)
    draw = {
        "normal": rng.standard_normal,
        "heavy": lambda shape: rng.standard_t(3, shape),
        "shifted": lambda shape: 1 + rng.standard_normal(shape),
    }
    w = draw[distribution]((24, size)).astype(F)
    importance = rng.uniform(0, 1, size) if weighted else np.ones(size)
    found = group_errors(w, round_search(w, symmetric=symmetric, importance=importance), importance)[:, 0]
    shares, zeros = np.geomspace(0.02, 0.4, 2000 if symmetric else 300), np.arange(-8, 8) if not symmetric else [0]
    shares = np.concatenate([shares, -shares]) if symmetric else shares
    best = [brute_force(row, shares * np.abs(row).max(), np.asarray(zeros), importance) for row in w.astype(float)]
    assert found.sum() <= 1.03 * sum(best)


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale_dtype", ["float32", "float16"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
def test_search_is_nowhere_worse_than_nearest(
    symmetric: bool, scale_dtype: str, size: int | None, weighted: bool
) -> None:
    rng = np.random.default_rng(2)
    w = rng.standard_t(2, (33, 67)).astype(F)
    w[0], w[1, :3], w[2] = 0, 0, 5
    importance = rng.uniform(0, 1, 67) ** 4 if weighted else None
    options = {"group_size": size, "symmetric": symmetric, "scale_dtype": scale_dtype}
    searched = group_errors(w, round_search(w, importance=importance, **options), importance)
    nearest = group_errors(w, round_nearest(w, **options), importance)
    assert (searched <= nearest * (1 + 1e-5) + 1e-12).all()


@pytest.mark.parametrize(("size", "gain"), [(32, 0.15), (128, 0.16), (None, 0.2)])
def test_search_lowers_the_rms_error_of_gaussian_weights(size: int | None, gain: float) -> None:
    w = np.random.default_rng(3).standard_normal((64, 1024), dtype=F)
    searched, nearest = (group_errors(w, f(w, group_size=size)).sum() for f in (round_search, round_nearest))
    assert np.sqrt(searched) < (1 - gain) * np.sqrt(nearest)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
def test_zero_points_never_cost_accuracy(size: int | None, weighted: bool) -> None:
    rng = np.random.default_rng(11)
    w = rng.standard_normal((40, 130), dtype=F)
    importance = rng.uniform(0, 1, 130) if weighted else np.ones(130)
    free, fixed = (
        group_errors(w, round_search(w, group_size=size, symmetric=s, importance=importance), importance)
        for s in (False, True)
    )
    assert (free <= fixed * (1 + 1e-5) + 1e-12).all()
    assert free.sum() < fixed.sum() or size == 1


@pytest.mark.parametrize("symmetric", [True, False])
def test_blocks_of_memory_change_nothing(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(12).standard_normal((7, 300), dtype=F)
    whole = round_search(w, group_size=64, symmetric=symmetric)
    monkeypatch.setattr("octavo._numerics.rounding._BLOCK_ELEMENTS", 100)
    rows = round_search(w, group_size=64, symmetric=symmetric)
    np.testing.assert_array_equal(rows.q, whole.q)
    np.testing.assert_array_equal(rows.scale, whole.scale)


@pytest.mark.slow
@pytest.mark.parametrize("function", [round_nearest, round_search])
@pytest.mark.parametrize("symmetric", [True, False])
def test_memory_stays_near_that_of_the_weight(function: Callable[..., oc.GroupedWeight], symmetric: bool) -> None:
    w = np.ones((1024, 1024), F)
    tracemalloc.start()
    try:
        function(w, group_size=128, symmetric=symmetric, importance=np.ones(1024)) if function is round_search else (
            function(w, group_size=128, symmetric=symmetric)
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * w.nbytes


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "row",
    [
        [0.0, 0, 0, 0], [2.5], [-2.5], [0.3, 0.3, 0.3], [-7.0, -7], [2.0**127], [-(2.0**127)],
        [2.0**127, -(2.0**127)], [1e-38, 2e-38], [0, 0, 0, 1e-45], [0, 5.0, 0], [2.0**-100, -(2.0**-100)],
    ],
    ids=str,
)  # fmt: skip
def test_special_groups_come_back_nearly_whole(row: list[float], symmetric: bool) -> None:
    w = np.array([row], F)
    for function in (round_nearest, round_search):
        rounded = function(w, symmetric=symmetric)
        assert np.isfinite(rounded.scale).all()
        counted = np.where(np.abs(w) < 2.0**-100, 0, w)
        # One value, or the two ends of the range, lie on the grid.
        tolerance = 0.04 if symmetric or function is round_search else 0.07
        np.testing.assert_allclose(rounded.dequantize(), counted, rtol=tolerance)


def test_search_puts_extremes_of_either_sign_on_minus_eight() -> None:
    grid = np.arange(-8, 8, dtype=F)
    for sign in (1, -1):
        rounded = round_search(sign * grid[None] / 4)
        np.testing.assert_array_equal(rounded.q[0], grid)
        np.testing.assert_array_equal(rounded.scale, [[sign * F(0.25)]])


@pytest.mark.parametrize("function", [round_nearest, round_search], ids=["nearest", "search"])
def test_order_of_memory_changes_nothing(function: Callable[..., oc.GroupedWeight]) -> None:
    w = np.random.default_rng(0).standard_normal((48, 96), dtype=F)
    rounded, turned = function(w, group_size=32), function(np.asfortranarray(w), group_size=32)
    assert rounded.q.tobytes() == turned.q.tobytes()
    assert rounded.scale.tobytes() == turned.scale.tobytes()


def test_scales_and_integers_found_fit_each_other() -> None:
    w = np.random.default_rng(13).standard_normal((500, 128), dtype=F)
    q = round_search(w).q.astype(np.float64)
    fitted = (w * q).sum(axis=1, keepdims=True) / (q * q).sum(axis=1, keepdims=True)  # least squares for these integers
    assert (np.clip(np.rint(w / fitted), -8, 7) == q).all(axis=1).mean() > 0.95


def test_importance_moves_the_error_to_where_it_does_not_count() -> None:
    rng = np.random.default_rng(4)
    w = rng.standard_normal((50, 64), dtype=F)
    importance = np.ones(64)
    importance[:8] = 100
    weighted, plain = round_search(w, importance=importance), round_search(w)
    assert group_errors(w, weighted, importance).sum() < 0.8 * group_errors(w, plain, importance).sum()
    assert group_errors(w, weighted).sum() >= group_errors(w, plain).sum()
    for factor in (1e-200, 1e30, 1e200):
        np.testing.assert_array_equal(round_search(w, importance=importance * factor).q, weighted.q)
    np.testing.assert_array_equal(round_search(w, importance=np.zeros(64)).q, plain.q)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 4),
    st.integers(0, 70),
    st.sampled_from(SIZES),
    st.booleans(),
    st.integers(-37, 37),
    st.integers(0, 99),
)
def test_any_magnitude_gives_usable_scales(
    n: int, k: int, size: int | None, symmetric: bool, exponent: int, seed: int
) -> None:
    with np.errstate(all="ignore"):
        w = (np.random.default_rng(seed).standard_normal((n, k)) * 10.0**exponent).astype(F)
    rounded = round_search(w, group_size=size, symmetric=symmetric)
    assert rounded.q.shape == (n, k)
    with np.errstate(all="ignore"):
        allowed = np.maximum(np.abs(w).max(initial=0) / F(3), F(2.0**-100))  # what lies below counts as zero
        assert (np.abs(rounded.dequantize() - w) <= allowed).all()


def test_power_of_two_scaling_changes_the_scales_alone() -> None:
    w = np.random.default_rng(5).standard_normal((8, 64), dtype=F)
    a, b = round_search(w, group_size=32), round_search(w * F(2.0**-40), group_size=32)
    np.testing.assert_array_equal(a.q, b.q)
    np.testing.assert_array_equal(a.scale * F(2.0**-40), b.scale)


def test_rows_and_groups_do_not_influence_each_other() -> None:
    w = np.random.default_rng(6).standard_normal((300, 160), dtype=F)  # more than one block
    whole, row = round_search(w, group_size=32), round_search(w[200:201, 64:96], group_size=32)
    np.testing.assert_array_equal(whole.q[200:201, 64:96], row.q)
    np.testing.assert_array_equal(whole.scale[200:201, 2:3], row.scale)


def test_float16_scales_are_float16_numbers_of_weights_rounded_with_them() -> None:
    w = np.random.default_rng(7).standard_normal((20, 64), dtype=F)
    rounded = round_nearest(w, group_size=32, scale_dtype="float16")
    np.testing.assert_array_equal(rounded.scale, rounded.scale.astype(np.float16))
    s = np.repeat(rounded.scale, 32, axis=1)
    np.testing.assert_array_equal(rounded.q, np.clip(np.rint(w / s), -7, 7))
    for tiny_or_huge in (1e-9, 1e9):
        with pytest.raises(ValueError, match='beyond float16, 6e-8 to 65504; use scale_dtype="float32"'):
            round_search(w * F(tiny_or_huge), scale_dtype="float16")


@pytest.mark.parametrize("function", [round_nearest, round_search])
@pytest.mark.parametrize(
    ("weight", "options", "error", "message"),
    [
        (np.ones(3), {}, ValueError, r"2-D \(out, in\), got shape \(3,\)"),
        (np.ones((2, 3), complex), {}, TypeError, "real numbers"),
        ([[1.0, np.nan]], {}, ValueError, r"finite in float32, got nan at \[0, 1\]"),
        ([[1e300]], {}, ValueError, "finite in float32, got inf"),
        ([[0, -3e38]], {}, ValueError, r"at most 1.7e\+38, so that .* finite too, got -3e\+38 at \[0, 1\]"),
        (np.ones((2, 3)), {"group_size": 0}, ValueError, "at least 1, got 0"),
        (np.ones((2, 3)), {"scale_dtype": "bfloat16"}, ValueError, "scale_dtype must be one of"),
    ],
)
def test_rounding_refuses(function, weight, options, error, message) -> None:
    with pytest.raises(error, match=message):
        function(weight, **options)


@pytest.mark.parametrize(
    ("importance", "message"),
    [(np.ones(2), r"shape \(3,\)"), ([1, -1, 1], "not negative"), ([1, np.nan, 1], "finite")],
)
def test_search_refuses_importance(importance: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        round_search(np.ones((2, 3)), importance=importance)
