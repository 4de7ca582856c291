"""Weights aligned with what quantized layers before them give, against plain least squares."""

from __future__ import annotations

import numpy as np
import pytest

from octavo._numerics.alignment import PairedStatistics

K, N = 12, 5


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """q, x, r and w."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, K)) @ rng.standard_normal((K, K))
    q = x + 0.1 * rng.standard_normal((count, K)) - 0.2 * np.abs(x)
    return q, x, rng.standard_normal((count, N)), rng.standard_normal((N, K))


def least_squares(q: np.ndarray, target: np.ndarray, w: np.ndarray, damping: float) -> np.ndarray:
    """argmin |q v^T - target|^2 + d |v - w|^2 as one larger system."""
    root = np.sqrt(damping * np.mean(np.sum(q * q, axis=0)))
    a, b = np.concatenate([q, root * np.eye(K)]), np.concatenate([target, root * w.T])
    return np.linalg.lstsq(a, b, rcond=None)[0].T


@pytest.mark.parametrize("damping", [1e-6, 0.01, 1.0])
@pytest.mark.parametrize("missing", [False, True])
def test_aligned_is_the_damped_least_squares_solution(damping: float, missing: bool) -> None:
    q, x, r, w = rows(2500)  # more than are summed at a time
    statistics = PairedStatistics(K, N)
    for part in (slice(0, 2100), slice(2100, None)):
        statistics.update(q[part], x[part], r[part] if missing else None)
    expected = least_squares(q, x @ w.T + (r if missing else 0), w, damping)
    np.testing.assert_allclose(statistics.aligned(w, damping=damping), expected, rtol=1e-4, atol=1e-4)
    assert statistics.rows == 2500


def test_aligned_lowers_the_error_of_the_output() -> None:
    q, x, _, w = rows(500)
    statistics = PairedStatistics(K, N)
    statistics.update(q, x)
    before, after = statistics.errors(w, w)[0], statistics.errors(w, statistics.aligned(w))[0]
    assert after < 0.5 * before


def test_errors_are_those_of_the_outputs() -> None:
    q, x, _, w = rows(300)
    v = w + 0.1 * np.random.default_rng(1).standard_normal(w.shape)
    statistics = PairedStatistics(K, N)
    statistics.update(q, x)
    wrong, right = statistics.errors(w, v)
    assert wrong == pytest.approx(np.sum((q @ v.T - x @ w.T) ** 2), rel=1e-4)
    assert right == pytest.approx(np.sum((x @ w.T) ** 2), rel=1e-4)


def test_inputs_that_are_the_same_leave_the_weight_as_it_is() -> None:
    _, x, _, w = rows(100)
    statistics = PairedStatistics(K, N)
    statistics.update(x, x)
    np.testing.assert_array_equal(statistics.aligned(w), w.astype(np.float32))


def test_inputs_of_zeros_leave_the_weight_as_it_is() -> None:
    _, x, _, w = rows(100)
    statistics = PairedStatistics(K, N)
    statistics.update(np.zeros_like(x), x)
    np.testing.assert_array_equal(statistics.aligned(w), w.astype(np.float32))


def test_rows_of_another_shape_are_refused() -> None:
    q, x, _, _ = rows(20)
    with pytest.raises(ValueError, match=r"must have one shape, got \(20, 12\), \(19, 12\)"):
        PairedStatistics(K, N).update(q, x[1:])


@pytest.mark.parametrize("wrong", ["difference", "missing", "shape of missing"])
def test_nothing_is_added_of_rows_that_are_refused(wrong: str) -> None:
    q, x, r, w = rows(20)
    statistics = PairedStatistics(K, N)
    statistics.update(q, x, r)
    before = statistics.rows, statistics.aligned(w), statistics.errors(w, 2 * w)
    large = np.full((1, K), 3e38)
    given, exact, missing = {
        "difference": (-large, large, None),
        "missing": (q, x, np.full_like(r, np.inf)),
        "shape of missing": (q, x, r[1:]),
    }[wrong]
    with pytest.raises(ValueError, match="cannot reshape" if wrong.startswith("shape") else "must be finite"):
        statistics.update(given, exact, missing)
    after = statistics.rows, statistics.aligned(w), statistics.errors(w, 2 * w)
    assert (before[0], before[2]) == (after[0], after[2])
    np.testing.assert_array_equal(before[1], after[1])
