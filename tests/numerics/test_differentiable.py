"""Gradients that autograd gets: against finite differences away from the rounding steps, and in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import pytest

import octavo as oc

F = np.float32


def away_from_steps(shape: tuple[int, ...], scale: Any, qmin: int, qmax: int, seed: int = 0) -> np.ndarray:
    """Values at least a tenth of a step from where rint jumps, some clamped."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(qmin - 3, qmax + 4, shape) + rng.uniform(-0.4, 0.4, shape)
    return steps * scale


def difference(f: Callable[[Any], Any], at: Any, step: float) -> float:
    return float((f(at + step) - f(at - step)) / (2 * step))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_straight_through_is_the_derivative_without_rounding(axis: int | None) -> None:
    """clip(x, lo * s, hi * s) has the gradient that fake_quantize claims, but for half a step at the ends."""
    shape, qmin, qmax = (5, 7), -4, 3
    scale = np.asarray(0.5 if axis is None else np.linspace(0.25, 1, shape[axis]))
    spread = scale if axis != 0 else scale[:, None]
    x, g = away_from_steps(shape, spread, qmin, qmax), np.random.default_rng(1).standard_normal(shape)
    params = oc.QParams(scale, 0, "int4", qmin=qmin, qmax=qmax, axis=axis)
    found = autograd.grad(lambda x: anp.sum(oc.qat.fake_quantize(x, params) * g))(x)
    expected = np.empty(shape)
    for i in np.ndindex(shape):
        low, high = ((q + (0.5 if q > 0 else -0.5)) * np.broadcast_to(spread, shape)[i] for q in (qmin, qmax))
        expected[i] = g[i] * difference(lambda v, low=low, high=high: np.clip(v, low, high), x[i], 1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("zero_point", [0, 3])
def test_gradient_of_the_scale_is_the_derivative(axis: int | None, zero_point: int) -> None:
    """Between two jumps y = (q - z) s, and the straight-through term -x/s where not clamped comes on top."""
    shape, qmin, qmax = (4, 6), 0, 15
    scale = np.asarray(0.5 if axis is None else np.linspace(0.25, 1, shape[axis]))
    spread = scale if axis != 0 else scale[:, None]
    x = away_from_steps(shape, spread, qmin - zero_point, qmax - zero_point)
    g = np.random.default_rng(1).standard_normal(shape)

    def y(s: Any) -> Any:
        return oc.qat.fake_quantize_learnable(x, s, float(zero_point), qmin, qmax, axis=axis, grad_factor=1.0)

    found = np.asarray(autograd.grad(lambda s: anp.sum(y(s) * g))(scale))
    steps = np.rint(x / spread)
    inside = (steps >= qmin - zero_point) & (steps <= qmax - zero_point)
    through = np.where(inside, -g * x / spread, 0)
    for i in np.ndindex(scale.shape):
        bump = np.zeros(scale.shape)
        bump[i] = 1
        numeric = difference(lambda h, bump=bump: np.sum(y(scale + h * bump) * g), 0.0, 1e-3)
        part = through.sum() if axis is None else np.moveaxis(through, axis, 0)[i].sum()
        np.testing.assert_allclose(found[i], numeric + part, rtol=2e-3, atol=2e-3)


def test_gradient_of_the_zero_point_is_the_derivative_of_clamping() -> None:
    """y = (clamp(q) - z) s: where clamped, y falls by s as z grows by one; elsewhere q moves with z."""
    x, s = away_from_steps((50,), 0.5, -8, 7), 0.5
    g = np.random.default_rng(1).standard_normal(50)

    def loss(z: Any) -> Any:
        return anp.sum(oc.qat.fake_quantize_learnable(x, s, z, 0, 15, grad_factor=1.0) * g)

    clamped = [(np.rint(x / s) + z < 0) | (np.rint(x / s) + z > 15) for z in (7.0, 8.0, 9.0)]
    same = np.all(clamped[0] == clamped[1]) and np.all(clamped[1] == clamped[2])
    assert not same  # so that the next line is about elements that are clamped all the while
    g[~((clamped[0] == clamped[1]) & (clamped[1] == clamped[2]))] = 0
    np.testing.assert_allclose(autograd.grad(loss)(8.0), (loss(9.0) - loss(7.0)) / 2, rtol=1e-5)


def test_default_factor_is_that_of_lsq() -> None:
    x = np.random.default_rng(0).standard_normal((8, 16), dtype=F) * 4
    one, lsq = (
        autograd.grad(lambda s, o=o: anp.sum(oc.qat.fake_quantize_learnable(x, s, 0.0, -8, 7, **o)))(F(0.5))
        for o in ({"grad_factor": 1.0}, {})
    )
    np.testing.assert_allclose(lsq, one / np.sqrt(8 * 16 * 7), rtol=1e-6)


def test_one_zero_point_for_all_channels_gets_the_sum() -> None:
    x = np.random.default_rng(0).standard_normal((4, 30), dtype=F) * 20
    scale = np.full(4, 0.5, F)
    each, one = (
        autograd.grad(lambda z: anp.sum(oc.qat.fake_quantize_learnable(x, scale, z, 0, 15, axis=0)))(z)
        for z in (np.full(4, 7, F), F(7))
    )
    assert each.shape == (4,)
    np.testing.assert_allclose(one, each.sum(), rtol=1e-6)


def test_scale_below_eps_counts_as_eps() -> None:
    x = F([0.1, 0.2])
    for scale in (-1.0, 0.0, 0.01):
        y = oc.qat.fake_quantize_learnable(x, F(scale), F(0), -8, 7, eps=0.05)
        np.testing.assert_array_equal(y, oc.fake_quantize(x, oc.QParams(0.05, 0, "int4")))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types_of_gradients(dtype: Any) -> None:
    x = np.linspace(-2, 2, 6).astype(dtype)
    params = oc.QParams(0.25, 0)
    assert oc.qat.fake_quantize(x, params).dtype == dtype
    assert autograd.grad(lambda x: anp.sum(oc.qat.fake_quantize(x, params)))(x).dtype == dtype
    f = lambda x, s, z: anp.sum(oc.qat.fake_quantize_learnable(x, s, z, -8, 7))  # noqa: E731 - autograd wants one
    gradients = autograd.grad(f, (0, 1, 2))(x, dtype(0.25), dtype(0.0))
    assert [g.dtype for g in gradients] == [dtype] * 3


def test_fake_quantize_gives_the_bits_of_the_definition() -> None:
    x = np.random.default_rng(0).standard_normal((50, 40), dtype=F)
    params = oc.choose_qparams(x, "uint8", symmetric=False)
    expected = oc.fake_quantize(x, params)
    assert oc.qat.fake_quantize(x, params).tobytes() == expected.tobytes()
    _, y = autograd.make_vjp(lambda x: oc.qat.fake_quantize(x, params))(x)
    assert y.tobytes() == expected.tobytes()
    y = oc.qat.fake_quantize_learnable(x, params.scale, params.zero_point.astype(F), 0, 255)
    assert y.tobytes() == expected.tobytes()


@pytest.mark.parametrize("function", [oc.fake_quantize, oc.quantize, oc.dequantize])
def test_definitions_refuse_traced_values(function: Any) -> None:
    params = oc.QParams(0.5, 0)
    if function is oc.dequantize:
        with pytest.raises(TypeError, match="q must hold integers"):
            autograd.grad(lambda x: anp.sum(function(x, params)))(np.ones(3))
        return
    with pytest.raises(TypeError, match=r"autograd is differentiating \(ArrayBox\).*octavo\.qat\.fake_quantize"):
        autograd.grad(lambda x: anp.sum(function(x, params)))(np.ones(3))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: oc.qat.fake_quantize(x, oc.QParams(0.5, 0)),
        lambda x: oc.qat.fake_quantize_learnable(x, 0.5, 0.0, -8, 7),
    ],
    ids=["fake_quantize", "fake_quantize_learnable"],
)
def test_second_derivatives_are_refused(f: Callable[[Any], Any]) -> None:
    first = autograd.grad(lambda x: anp.sum(f(x) ** 2))
    for second in (autograd.grad(lambda x: anp.sum(first(x))), autograd.hessian(lambda x: anp.sum(f(x) ** 2))):
        with pytest.raises(TypeError, match=r"^fake_quantize.*: second derivatives are not supported"):
            second(np.ones(3))
