"""GroupedCodes and the definition of products with them, against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from grouped_weights import make_codes
from octavo._numerics.grouped import GroupedCodes, dequantize_columns, join_rows
from octavo._numerics.grouped_definition import check_combination, fma, grouped_linear, quantize_activations

F = np.float32


def nearest_float32(exact: Fraction) -> np.float32:
    """The float32 number next to an exact one; of two equally near ones that with the even last bit."""
    guess = F(float(exact))
    candidates = [np.nextafter(guess, F(-np.inf)), guess, np.nextafter(guess, F(np.inf))]
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.int32)) & 1))


def awkward_floats(rng: np.random.Generator, n: int) -> np.ndarray:
    """Few bits and many, far apart and close together, so that sums tie and cancel."""
    mantissa = rng.integers(1, 1 << rng.integers(1, 25, n)) * rng.choice([-1, 1], n)
    return np.ldexp(mantissa.astype(F), rng.integers(-40, 40, n)).astype(F)


@pytest.mark.underflows
def test_fma_is_the_exact_result_rounded_once() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (awkward_floats(rng, 4000) for _ in range(3))
    c[::2] = -np.multiply(a, b)[::2]  # what is left is the error of the product alone
    c[::3] *= F(1 + 2.0**-23)
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)]
    expected = np.array([nearest_float32(e) for e in exact])
    np.testing.assert_array_equal(fma(a, b, c), expected)
    assert (F(a * b) + c != expected).any()  # two roundings would show


def test_fma_rounds_ties_of_float64_by_what_float64_lost() -> None:
    # 1 + 2^-24 lies in the middle of two float32 numbers. 2^-60 more decides, and a float64 sum loses it.
    a, b = F(1 + 2.0**-12), F(2.0**-24 - 2.0**-36 + 2.0**-48)
    exact = Fraction(float(a)) * Fraction(float(b)) + 1
    assert exact > 1 + Fraction(1, 1 << 24)
    assert float(a) * float(b) + 1.0 == 1 + 2.0**-24
    assert fma(a, b, F(1)) == F(1 + 2.0**-23)
    assert fma(F(2.0**-24), F(1), F(1)) == F(1)


def test_fma_of_special_values_is_as_ieee_has_it() -> None:
    inf, nan = F(np.inf), F(np.nan)
    assert np.isnan(fma(inf, F(0), F(1)))
    assert np.isnan(fma(nan, F(1), F(1)))
    assert np.isnan(fma(inf, F(1), -inf))
    assert fma(F(3e38), F(10), F(0)) == inf
    assert np.signbit(fma(F(-0.0), F(1), F(-0.0)))
    assert not np.signbit(fma(F(0), F(-1), F(0)))
    tiny = F(2.0**-149)
    assert fma(F(0.5), tiny, F(0)) == 0
    assert fma(F(1.5), tiny, F(0)) == 2 * tiny


@pytest.mark.parametrize("form", ["plain", "zero point", "minimum", "two levels", "two levels, minimum"])
@pytest.mark.parametrize(
    ("bits", "dtype"), [(4, np.int8), (4, np.uint8), (5, np.int8), (6, np.uint8), (8, np.int8), (8, np.uint8)]
)
def test_dequantize_is_the_equation_one_rounding_a_step(form: str, bits: int, dtype: Any) -> None:
    w = make_codes(3, 512, form, bits=bits, dtype=dtype, group_size=32)
    expected = np.empty((3, 512), F)
    for n in range(3):
        for k in range(512):
            g, s = k // 32, k // 256
            code = F(w.codes[n, k])
            if w.zero_point is not None:
                code -= F(w.zero_point[n, g])
            if w.group_scale is None:
                value = code * F(w.scale[n, g])
                expected[n, k] = value if w.minimum is None else value + F(w.minimum[n, g])
            else:
                value = (F(w.scale[n, s]) * F(w.group_scale[n, g])) * code
                expected[n, k] = value if w.minimum is None else value - F(w.minimum[n, s]) * F(w.group_minimum[n, g])
    np.testing.assert_array_equal(w.dequantize(), expected)
    inputs = np.array([511, 0, 77])
    found = dequantize_columns(
        w.codes[:, inputs], inputs, 32, w.scale, w.zero_point, w.minimum, w.group_scale, w.group_minimum
    )
    np.testing.assert_array_equal(found, expected[:, inputs].T)


def test_grouped_linear_of_one_group_is_the_exact_sum_times_the_scales() -> None:
    w = GroupedCodes(np.array([[3, -5, 7]], np.int8), np.array([[0.5]], F))
    x = np.array([[127, 1, -2]], F)
    assert grouped_linear(x, w).item() == (127 * 3 - 5 - 14) * 0.5
    assert grouped_linear(x, w, np.array([1], F), relu=True).item() == 182
    assert grouped_linear(-x, w, relu=True).item() == 0


def test_quantize_activations_int16_is_two_int8() -> None:
    rng = np.random.default_rng(1)
    q, scale = quantize_activations(rng.standard_normal((4, 100)).astype(F), "int16")
    high = (q + 128) >> 8
    low = q - 256 * high
    assert np.abs(q).max() == 32639
    assert np.abs(high).max() <= 127
    assert low.min() >= -128
    assert low.max() <= 127
    assert scale.shape == (4, 1)


def test_quantize_activations_rows_of_nothing_and_of_nan() -> None:
    x = np.array([[0, 0], [1, np.nan], [np.inf, 1], [2.0**-101, 0]], F)
    for activation in ("symmetric", "asymmetric", "int16"):
        q, scale = quantize_activations(x, activation)
        assert (q == 0).all()
        np.testing.assert_array_equal(scale[:, 0], F([1, np.nan, np.nan, 1]))


def test_join_rows_and_rows_are_opposites() -> None:
    w = make_codes(5, 256, "two levels, minimum", group_size=32)
    joined = join_rows([w.rows(slice(0, 2)), w.rows(slice(2, 5))])
    np.testing.assert_array_equal(joined.dequantize(), w.dequantize())
    with pytest.raises(ValueError, match=r"held alike, got 256 inputs, 4-bit uint8.* and 256 inputs, 8-bit"):
        join_rows([w, make_codes(5, 256, "plain", bits=8, group_size=32)])


CODES = np.zeros((2, 64), np.int8)
SCALE = np.ones((2, 2), F)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((CODES.astype(np.int16), SCALE, 8, 32), TypeError, "codes must be an int8 or uint8 array, got int16"),
        ((CODES[0], SCALE, 8, 32), ValueError, r"codes must be 2-D \(out, in\), got shape \(64,\)"),
        ((CODES, SCALE, 7, 32), ValueError, "bits must be 4, 5, 6 or 8, got 7"),
        ((CODES - np.int8(17), SCALE, 5, 32), ValueError, r"codes must hold -16\.\.15 with bits=5, got -17\.\.-17"),
        (
            ((CODES + 64).astype(np.uint8), SCALE, 6, 32),
            ValueError,
            r"codes must hold 0\.\.63 with bits=6, got 64\.\.64",
        ),
        ((CODES + np.int8(8), SCALE, 4, 32), ValueError, r"codes must hold -8\.\.7 with bits=4, got 8\.\.8"),
        ((CODES, SCALE, 8, 48), ValueError, "group_size must be one of .*, got 48"),
        ((CODES, SCALE, 8, 128), ValueError, "64 is not a multiple of 128"),
        ((CODES, SCALE[:1], 8, 32), ValueError, r"scale must have shape \(2, 2\), got \(1, 2\)"),
        ((CODES, SCALE.astype(np.float64), 8, 32), TypeError, "scale must be an array of float32 or float16"),
        ((CODES, SCALE * F(np.nan), 8, 32), ValueError, r"scale must be finite, got nan at \[0, 0\] \(4 in all\)"),
        ((CODES, SCALE, 8, 32, CODES[:, :1]), ValueError, r"zero_point must have shape \(2, 2\)"),
        ((CODES, SCALE, 8, 32, CODES[:, :2], SCALE), ValueError, "zero_point is not defined beside minimum"),
        ((CODES, SCALE, 8, 32, None, SCALE.astype(np.float16)), TypeError, "minimum must be an array of float32"),
        ((CODES, SCALE, 8, 32, None, None, CODES[:, :2]), ValueError, "multiples of 256, got 64"),
        ((CODES, SCALE, 8, 32, None, SCALE, None, CODES[:, :2]), ValueError, "group_minimum needs group_scale"),
        ((CODES + np.int8(127), SCALE * F(3e37), 8, 32), ValueError, "weights must be finite in float32"),
    ],
)
def test_grouped_codes_refuses_by_name(arguments: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        GroupedCodes(*arguments)


@pytest.mark.parametrize(
    ("form", "size", "activation", "group", "words"),
    [
        ("plain", 32, "int8", None, "activation must be one of"),
        ("plain", 32, "symmetric", 48, "activation_group must be one of"),
        ("plain", 32, "int16", 32, 'for activation="symmetric" alone'),
        ("plain", 64, "symmetric", 32, "multiple of the weights' groups: 32 for groups of 64"),
        ("plain", None, "symmetric", 32, "32 for one group a row"),
        ("two levels", 32, "symmetric", 32, "groups of 256 or a scale a row, got activation_group=32"),
    ],
)
def test_check_combination_refuses_by_name(
    form: str, size: int | None, activation: str, group: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        check_combination(make_codes(2, 256, form, group_size=size), activation, group)


def test_check_combination_refuses_sums_beyond_int32() -> None:
    codes, scale = np.full((1, 256), 255, np.uint8), np.full((1, 8), 255, np.uint8)
    w = GroupedCodes(codes, np.ones((1, 1), F), 8, 32, group_scale=scale)
    check_combination(w, "symmetric", None)
    check_combination(w, "int16", None)
    with pytest.raises(ValueError, match="exceed int32"):
        check_combination(w, "asymmetric", None)


def test_subnormal_products_are_no_error_where_numpy_raises() -> None:
    scale = np.full((1, 1), 2.0**-120, F)
    levels = np.full((1, 8), 3, np.uint8)
    w = GroupedCodes(np.full((1, 256), 1, np.int8), scale * F(2.0**-20), 4, 32, group_scale=levels)
    with np.errstate(all="raise"):
        assert (w.dequantize() == F(3) * F(2.0**-140)).all()
        assert (w.group_scales() == F(3) * F(2.0**-140)).all()
