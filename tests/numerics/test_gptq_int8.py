"""GPTQ for weights of eight bits, against the paper's loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc

F = np.float32


def correlated(rows: int, k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low_rank = rng.standard_normal((rows, k // 4)) @ rng.standard_normal((k // 4, k)) / np.sqrt(k / 4)
    return (low_rank + 0.2 * rng.standard_normal((rows, k))).astype(F)


def literal_gptq(w: np.ndarray, x: np.ndarray, damping: float = 0.01) -> np.ndarray:
    """The integers as the paper's loop gives them, in float64: one column, then all columns behind it."""
    h = x.astype(np.float64).T @ x
    order = np.argsort(-h.diagonal(), kind="stable")
    h += damping * h.diagonal().mean() * np.eye(len(h))
    u = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    scale = np.abs(w).max(axis=1).astype(np.float64) / 127
    rest, q = w.astype(np.float64), np.zeros(w.shape)
    for step, j in enumerate(order):
        q[:, j] = np.clip(np.rint(rest[:, j] / scale), -127, 127)
        rest[:, order[step + 1 :]] -= np.outer((rest[:, j] - q[:, j] * scale) / u[step, step], u[step, step + 1 :])
    return q


@pytest.mark.parametrize(("n", "k"), [(24, 160), (1, 1), (5, 128), (3, 129)])
def test_int8_gptq_is_the_papers_loop(n: int, k: int) -> None:
    x = correlated(400, max(k, 4))[:, :k] * np.exp(np.random.default_rng(5).standard_normal(k)).astype(F)
    w = np.random.default_rng(1).standard_normal((n, k), dtype=F)
    q, scale = oc.round_gptq_int8(w, x)
    np.testing.assert_array_equal(scale, np.abs(w).max(axis=1) / F(127))
    assert np.mean(q != literal_gptq(w, x)) < 0.02  # float32 beside float64: some ties fall otherwise
    assert q.dtype == np.int8


def test_int8_gptq_lowers_the_error_of_the_output_on_other_inputs() -> None:
    x, w = correlated(1500, 96), np.random.default_rng(1).standard_normal((32, 96), dtype=F)
    exact = x[1000:] @ w.T

    def error(layer: oc.QuantLinear) -> float:
        return float(np.square(x[1000:] @ layer.weight.T - exact).sum())

    statistics = oc.InputStatistics(96)
    statistics.update(x[:1000])
    rounded = oc.round_gptq_int8(w, statistics)
    gptq = oc.QuantLinear.from_quantized(*rounded)
    np.testing.assert_array_equal(gptq.weight, rounded.dequantize())
    assert error(gptq) < 0.5 * error(oc.QuantLinear(w))


def test_the_block_size_of_int8_gptq_is_a_matter_of_speed() -> None:
    x, w = correlated(300, 100), np.random.default_rng(1).standard_normal((16, 100), dtype=F)
    q = oc.round_gptq_int8(w, x).q
    for block_size in (1, 7, 1000):
        assert np.mean(oc.round_gptq_int8(w, x, block_size=block_size).q != q) < 0.02


def test_int8_gptq_of_dead_inputs_and_zero_weights() -> None:
    x, w = correlated(300, 64), np.random.default_rng(1).standard_normal((16, 64), dtype=F)
    x[:, [3, 60]], w[4] = 0, 0
    rounded, nearest = oc.round_gptq_int8(w, x), oc.QuantLinear(w)
    np.testing.assert_array_equal(rounded.q[:, [3, 60]], nearest.int_repr()[:, [3, 60]])
    np.testing.assert_array_equal(rounded.q[4], 0)
    np.testing.assert_array_equal(oc.round_gptq_int8(w, np.zeros((3, 64))).q, nearest.int_repr())
    large = oc.round_gptq_int8(w * F(2.0**120), x)
    np.testing.assert_array_equal(large.q, rounded.q)


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        (np.ones((3, 5)), {}, ValueError, "64"),
        (np.ones((0, 64)), {}, ValueError, "at least one row"),
        (np.full((3, 64), np.nan), {}, ValueError, "finite"),
        (np.ones((3, 64)), {"damping": 0}, ValueError, "damping must be positive"),
        (np.ones((3, 64)), {"damping": "0.1"}, TypeError, "damping must be a number"),
        (np.ones((3, 64)), {"block_size": 0}, ValueError, "block_size must be at least 1"),
    ],
)
def test_int8_gptq_refuses(inputs: np.ndarray, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        oc.round_gptq_int8(np.ones((2, 64)), inputs, **options)
