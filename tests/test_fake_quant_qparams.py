"""Fake quantization by QParams and its gradients, against octavo.fake_quantize and the equations in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo import fake_quant_qparams as fq

F = np.float32
RANGES = {
    "int8": ("int8", {}),
    "uint8": ("uint8", {}),
    "int8-127": ("int8", {"qmin": -127}),
    "int4": ("int4", {}),
    "two-bits": ("int8", {"qmin": -2, "qmax": 1}),
    "ternary": ("int8", {"qmin": -1, "qmax": 1}),
    "one-bit": ("uint8", {"qmax": 1}),
}
GRAINS = {
    "tensor": ((37, 65), None),
    "rows": ((37, 65), 0),
    "columns": ((37, 65), 1),
    "middle": ((3, 17, 9), 1),
    "last-of-3": ((3, 5, 70), -1),
    "vector": ((63,), 0),
    "scalar": ((), None),
    "large": ((3, 40_000), None),
    "large-rows": ((3, 40_000), 0),
    "large-columns": ((5_000, 7), 1),
    "one-column": ((50, 1), 1),
    "no-rows": ((0, 5), 1),
}
every_grain = pytest.mark.parametrize("grain", GRAINS)
every_range = pytest.mark.parametrize("kind", RANGES)


def case(grain: str, kind: str, seed: int = 0) -> tuple[np.ndarray, oc.QParams]:
    """Values within, at and beyond the range, many of them ties, and parameters with zero points."""
    shape, axis = GRAINS[grain]
    dtype, limits = RANGES[kind]
    rng = np.random.default_rng(seed)
    count = () if axis is None else (shape[axis],)
    qmin, qmax = limits.get("qmin", oc.as_qtype(dtype).qmin), limits.get("qmax", oc.as_qtype(dtype).qmax)
    params = oc.QParams(
        2.0 ** rng.integers(-3, 2, count) * rng.choice([1.0, 1.1], count),
        rng.integers(qmin, qmax + 1, count), dtype, axis=axis, **limits,
    )  # fmt: skip
    x = rng.standard_normal(shape) * (qmax - qmin)
    x = np.where(rng.random(shape) < 0.3, np.rint(2 * x) / 2, x)  # with a scale of 2**-n, ties
    x = np.where(rng.random(shape) < 0.05, rng.choice([0.0, -0.0, 1e-40, 3e38, -3e38, np.inf, -np.inf], shape), x)
    return np.asarray(x, F), params


def truth(g: np.ndarray, x: np.ndarray, params: oc.QParams) -> tuple[np.ndarray, ...]:
    """(mask, sums for dL/dscale and dL/dzero_point, sums of their terms' magnitudes), by broadcasting, in float64."""
    kept = None if params.axis is None else params.axis % x.ndim
    other = tuple(i for i in range(x.ndim) if i != kept)

    def wide(a: Any) -> np.ndarray:
        return np.expand_dims(np.asarray(a), other) if kept is not None else np.asarray(a)

    s, z = wide(params.scale), wide(params.zero_point)
    with np.errstate(all="ignore"):
        v = np.asarray(x * (F(1) / s), F)
        lo, hi = params.qmin - z, params.qmax - z
        mask = (np.rint(v) >= lo) & (np.rint(v) <= hi)
        steps = np.where(mask, np.rint(v) - v, np.where(v < lo, lo, hi)).astype(np.float64)
    terms = g * steps, np.where(mask, 0, -s.astype(np.float64) * g)
    sums = [np.sum(t, axis=other) for t in terms]
    return mask, *sums, *(np.sum(np.abs(t), axis=other) for t in terms)


@every_range
@every_grain
def test_forward_has_the_bits_of_the_definition(grain: str, kind: str) -> None:
    x, params = case(grain, kind)
    y = fq.forward(x, params)
    assert y.dtype == F
    assert y.tobytes() == oc.fake_quantize(x, params).tobytes()
    with np.errstate(over="ignore"):
        assert y.tobytes() == oc.dequantize(oc.quantize(x, params), params).tobytes()


@every_range
@every_grain
def test_gradients_are_those_of_the_equations(grain: str, kind: str) -> None:
    x, params = case(grain, kind)
    g = np.asarray(np.random.default_rng(1).standard_normal(x.shape), F)
    mask, d_scale, d_zero_point, *spread = truth(g, x, params)
    expected = np.where(mask, g, F(0))
    dx, ds, dz = fq.learnable_backward(g, x, params, 0.25)
    for found in (dx, fq.backward(g, x, params)):
        assert found.dtype == F
        np.testing.assert_array_equal(found, expected)
    assert ds.shape == dz.shape == params.scale.shape
    assert np.all(np.abs(ds - 0.25 * d_scale) <= 1e-6 * spread[0])
    assert np.all(np.abs(dz - 0.25 * d_zero_point) <= 1e-6 * spread[1])


def test_mask_asks_the_rounded_value() -> None:
    params = oc.QParams(1.0, 0, "int8", qmin=-2, qmax=1)
    x = F([-2.5, -2.51, -3, 1.49, 1.5, 2.0])  # ties to even: -2.5 rounds to -2, 1.5 to 2
    np.testing.assert_array_equal(fq.backward(np.ones(6, F), x, params), [1, 0, 0, 1, 0, 0])


def test_infinite_gradient_of_a_clamped_value_is_zero() -> None:
    g, x = F([np.inf, np.nan, 1]), F([9, -9, 1])
    np.testing.assert_array_equal(fq.backward(g, x, oc.QParams(0.5, 0, "int4")), [0, 0, 1])


def test_values_beyond_every_integer() -> None:
    params = oc.QParams(1e-3, 5, "uint8")
    x = F([np.inf, -np.inf, 3e38, -3e38])
    np.testing.assert_array_equal(fq.forward(x, params), oc.fake_quantize(x, params))
    dx, d_scale, d_zero_point = fq.learnable_backward(np.ones(4, F), x, params, 1.0)
    assert not dx.any()
    assert (d_scale, round(float(d_zero_point), 6)) == (490.0, -0.004)  # 250 + 250 - 5 - 5


@pytest.mark.parametrize("place", [0, 5_000, 119_999])
def test_nan_is_refused_wherever_it_is(place: int) -> None:
    x = np.zeros(120_000, F)
    x[place] = np.nan
    with pytest.raises(ValueError, match=rf"x must not hold NaN, got 1 of 120000 values, the first at x\[{place}\]"):
        fq.forward(x, oc.QParams(0.5, 0))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.bool_, ">f4"])
def test_other_types_and_layouts(dtype: Any) -> None:
    x = (np.random.default_rng(0).standard_normal((8, 6)) * 4).astype(dtype)
    for params in (oc.QParams(np.full(8, 0.3), 0, axis=0), oc.QParams(0.3, 0)):
        for values in (x, x[:, ::-1], np.asfortranarray(x)):
            y, expected = fq.forward(values, params), oc.fake_quantize(values, params)
            assert y.dtype == expected.dtype
            np.testing.assert_array_equal(y, expected)
            dx = fq.backward(np.ones((8, 6)), values, params)
            assert dx.dtype == expected.dtype
            assert dx.all()


def test_groups_have_a_forward_and_no_gradient() -> None:
    x = np.random.default_rng(0).standard_normal((4, 10), dtype=F)
    params = oc.choose_qparams(x / 2, "int4", group_size=4)
    np.testing.assert_array_equal(fq.forward(x, params), oc.fake_quantize(x, params))
    with pytest.raises(ValueError, match="per tensor or per channel, got group_size=4"):
        fq.backward(x, x, params)


def test_arguments_that_do_not_fit() -> None:
    x, params = np.zeros((3, 4), F), oc.QParams([1.0, 1.0, 1.0], 0, axis=0)
    with pytest.raises(ValueError, match=r"g must have the shape of x, \(3, 4\), got \(4, 3\)"):
        fq.backward(np.zeros((4, 3), F), x, params)
    with pytest.raises(ValueError, match=r"needs a scale of shape \(4,\)"):
        fq.forward(x.T, params)
    with pytest.raises(TypeError, match="qparams must be a QParams, got float"):
        fq.forward(x, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be finite: training has diverged"):
        fq.learned_qparams(np.nan, 0, 0, 15, None, 0.0, "uint8")
