"""Compiled fake quantization, forward and backward, against the definitions in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc
from float_environment import CAN_FLUSH, WHY_NOT, flush_to_zero
from octavo import _core
from octavo._numerics import fake_quant

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
    with np.errstate(all="ignore"):
        return np.asarray(x, F), params


@every_range
@every_grain
def test_forward_has_the_bits_of_the_definition(grain: str, kind: str) -> None:
    x, params = case(grain, kind)
    y = fake_quant.forward(x, params)
    expected = oc.fake_quantize(x, params)
    assert y.dtype == F
    assert y.tobytes() == expected.tobytes()
    with np.errstate(over="ignore"):
        assert y.tobytes() == oc.dequantize(oc.quantize(x, params), params).tobytes()


@pytest.mark.slow
@every_range
@every_grain
def test_backward_has_the_bits_of_the_definition(grain: str, kind: str) -> None:
    x, params = case(grain, kind)
    g = np.asarray(np.random.default_rng(1).standard_normal(x.shape), F)
    dx = fake_quant.backward(g, x, params)
    assert dx.tobytes() == fake_quant.numpy_gradients(g, x, params)[0].tobytes()
    assert dx.dtype == F


@pytest.mark.slow
@every_range
@every_grain
def test_learnable_backward_is_the_definition(grain: str, kind: str) -> None:
    x, params = case(grain, kind)
    g = np.asarray(np.random.default_rng(1).standard_normal(x.shape), F)
    dx, d_scale, d_zero_point = fake_quant.learnable_backward(g, x, params)
    expected = fake_quant.numpy_gradients(g, x, params)
    assert dx.tobytes() == expected[0].tobytes()
    assert d_scale.shape == d_zero_point.shape == params.scale.shape
    np.testing.assert_allclose(d_scale, expected[1], rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(d_zero_point, expected[2], rtol=1e-12, atol=1e-9)


def test_mask_asks_the_rounded_value() -> None:
    params = oc.QParams(1.0, 0, "int8", qmin=-2, qmax=1)
    x = F([-2.5, -2.51, -3, 1.49, 1.5, 2.0])  # ties to even: -2.5 rounds to -2, 1.5 to 2
    np.testing.assert_array_equal(fake_quant.backward(np.ones(6, F), x, params), [1, 0, 0, 1, 0, 0])


def test_values_beyond_every_integer() -> None:
    params = oc.QParams(1e-3, 5, "uint8")
    x = F([np.inf, -np.inf, 3e38, -3e38])
    np.testing.assert_array_equal(fake_quant.forward(x, params), oc.fake_quantize(x, params))
    dx, d_scale, d_zero_point = fake_quant.learnable_backward(np.ones(4, F), x, params)
    assert not dx.any()
    assert (d_scale, round(float(d_zero_point), 6)) == (490.0, -0.004)  # 250 + 250 - 5 - 5


def test_smallest_and_largest_scales() -> None:
    for scale in (2.0**-126, 1e38):
        params = oc.QParams(scale, 0)
        x = F(scale) * F([0, 1, 1.4, 2, -1])
        assert fake_quant.forward(x, params).tobytes() == oc.fake_quantize(x, params).tobytes()


@every_grain
def test_threads_change_no_bit(grain: str, threads: int) -> None:
    x, params = case(grain, "uint8")
    g = np.asarray(np.random.default_rng(1).standard_normal(x.shape), F)
    results = (fake_quant.forward(x, params), *fake_quant.learnable_backward(g, x, params))
    before = oc.get_num_threads()
    oc.set_num_threads(1)
    alone = (fake_quant.forward(x, params), *fake_quant.learnable_backward(g, x, params))
    oc.set_num_threads(before)
    assert [r.tobytes() for r in results] == [r.tobytes() for r in alone]


@pytest.mark.skipif(not CAN_FLUSH, reason=WHY_NOT)
def test_flush_to_zero_of_the_caller_changes_no_bit() -> None:
    small, large = oc.QParams(2.0**-126, 0), oc.QParams(3e38, 0)  # subnormal x; subnormal r = 1 / scale
    cases = [(F([1e-38, 6e-39, -9e-39, 2e-38]), small), (F([3e38, -3e38, 1e38, 2e38]), large)]
    for x, params in cases:
        g = np.ones(4, F)
        expected = (oc.fake_quantize(x, params), *fake_quant.numpy_gradients(g, x, params))
        assert expected[0].any()
        with flush_to_zero():
            found = (fake_quant.forward(x, params), *fake_quant.learnable_backward(g, x, params))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("place", [0, 5_000, 119_999])
def test_nan_is_refused_wherever_it_is(place: int) -> None:
    x = np.zeros(120_000, F)
    x[place] = np.nan
    with pytest.raises(ValueError, match=rf"x must not hold NaN, got 1 of 120000 values, the first at x\[{place}\]"):
        fake_quant.forward(x, oc.QParams(0.5, 0))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.bool_, ">f4"])
def test_other_types_and_layouts(dtype: Any) -> None:
    x = (np.random.default_rng(0).standard_normal((8, 6)) * 4).astype(dtype)
    params = oc.QParams(np.full(8, 0.3), 0, axis=0)
    for values in (x, x[:, ::-1], np.asfortranarray(x)):
        y, expected = fake_quant.forward(values, params), oc.fake_quantize(values, params)
        assert y.dtype == expected.dtype
        np.testing.assert_array_equal(y, expected)
        dx = fake_quant.backward(np.ones((8, 6)), values, params)
        assert dx.dtype == expected.dtype
        assert dx.all()


def test_groups_go_by_the_definition() -> None:
    x = np.random.default_rng(0).standard_normal((4, 10), dtype=F)
    params = oc.choose_qparams(x / 2, "int4", group_size=4)
    np.testing.assert_array_equal(fake_quant.forward(x, params), oc.fake_quantize(x, params))
    dx, d_scale, _ = fake_quant.learnable_backward(np.ones_like(x), x, params)
    for group in range(3):
        cut = slice(4 * group, 4 * group + 4)
        alone = oc.QParams(params.scale[:, group], 0, "int4", axis=0)
        one = fake_quant.learnable_backward(np.ones_like(x[:, cut]), x[:, cut], alone)
        np.testing.assert_array_equal(dx[:, cut], one[0])
        np.testing.assert_allclose(d_scale[:, group], one[1], rtol=1e-12)
    np.testing.assert_array_equal(fake_quant.backward(np.ones_like(x), x, params), dx)


def test_arguments_that_do_not_fit() -> None:
    x, params = np.zeros((3, 4), F), oc.QParams([1.0, 1.0, 1.0], 0, axis=0)
    with pytest.raises(ValueError, match=r"g must have the shape of x, \(3, 4\), got \(4, 3\)"):
        fake_quant.backward(np.zeros((4, 3), F), x, params)
    with pytest.raises(ValueError, match=r"needs a scale of shape \(4,\)"):
        fake_quant.forward(x.T, params)
    with pytest.raises(TypeError, match="qparams must be a QParams, got float"):
        fake_quant.forward(x, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be finite: training has diverged"):
        fake_quant.learned_qparams(np.nan, 0, 0, 15, None, 0.0, "uint8")


def test_compiled_functions_check_what_memory_safety_needs() -> None:
    x, one, zero = np.zeros((3, 4), F), np.ones(1, F), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="one element a channel"):
        _core.fake_quantize(x, one, zero, -128, 127, 0)
    with pytest.raises(ValueError, match="one element a channel"):
        _core.fake_quantize(x, np.ones(4, F), zero, -128, 127, 1)
    with pytest.raises(ValueError, match="axis must be an axis of x"):
        _core.fake_quantize(x, one, zero, -128, 127, 2)
    with pytest.raises(ValueError, match="g must have the shape of x"):
        _core.fake_quantize_backward(x, x.T.copy(), one, zero, -128, 127, -1)
    with pytest.raises(ValueError, match="g must have the shape of x"):
        _core.fake_quantize_learnable_backward(x, x[0], one, zero, -128, 127, -1)
    for wrong in (x.astype(np.float64), x.T):
        with pytest.raises(TypeError):
            _core.fake_quantize(wrong, one, zero, -128, 127, -1)
