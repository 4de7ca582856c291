"""What the functions of octavo.functional are, in NumPy: the kernels give these bits.

Only operations stand here that NumPy rounds alike on every CPU: real + - * / and sqrt of float32, fma (exact in
float64 before its one rounding), comparisons, and integers. kernels/detail/float_functions.h is the same in C++ and
explains each step; the polynomials are fitted by bench/limits/function_coefficients.py, lowest power first. Arrays are
float32, (...,) for elements and (rows, columns) for rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from octavo._numerics.grouped_definition import fma

__all__ = [
    "cos", "erf", "exp", "gelu", "gelu_tanh", "lane_sum", "layer_norm", "log", "log_softmax", "log_sum", "rms_norm",
    "sigmoid", "silu", "sin", "softmax", "swiglu", "tanh",
]  # fmt: skip

Floats = npt.NDArray[np.float32]
_F = np.float32
_LANES = 16

_LOG2_E = _F(1.4426950408889634)
_LN2_HIGH = _F(0.6931471805599453)
_LN2_LOW = _F(0.6931471805599453 - float(_LN2_HIGH))
_EXP = (0.49999994, 0.166665167, 0.0416680984, 0.00836917851, 0.00138429867)
_LOG = (
    0.333333135, -0.250001669, 0.200022221, -0.166593716, 0.142096549, -0.125523612, 0.1208928, -0.108270891,
    0.0527413972,
)  # fmt: skip
_ERF_NEAR = (0.128379151, -0.376124918, 0.112817682, -0.0267644096, 0.00498955045, -0.000597108738)
_ERF_FAR = (0.128677562, 0.635023594, 0.106465824, -0.0239761453, 0.00375248166, -0.000352242729, 1.4432916e-05)
_TANH = (-0.333332986, 0.133319363, -0.0537847169, 0.020798631, -0.00589798065)
_TAIL = (
    0.706656635, -0.433691978, 0.131987065, 0.00923550781, -0.0163870901, -0.00159969798, 0.00252684625,
    0.000684056489, -0.000314589182, -0.000159000279,
)  # fmt: skip
_SIN = (-0.166666552, 0.00833218917, -0.000195182874)
_COS = (0.0416666456, -0.00138873095, 2.44323237e-05)


def _polynomial(coefficients: Sequence[float], x: Floats) -> Floats:
    """Horner's rule; coefficients from the lowest power on."""
    y: Floats = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        y = fma(y, x, _F(c))
    return y


def _exp_parts(x: Floats) -> tuple[Floats, Floats, Floats]:
    """exp(x) = (mantissa * high) * low; the last two are powers of two. x counts as -125 below it and as 89 above."""
    x = np.where(x < -125, _F(-125), np.where(x > 89, _F(89), x))
    shift = _F(1.5 * 2**23 + 254)  # n + 254 is then in the low bits
    t = fma(x, _LOG2_E, shift)
    n = t - shift
    r = fma(-n, _LN2_LOW, fma(-n, _LN2_HIGH, x))
    mantissa = fma(_polynomial(_EXP, r), r * r, r) + _F(1)
    bits = t.view(np.uint32)
    half = bits >> np.uint32(1)
    high, low = (half << np.uint32(23)).view(_F), ((bits - half) << np.uint32(23)).view(_F)
    return mantissa, high, low


def exp(x: Floats) -> Floats:
    """e to the power of x."""
    with np.errstate(all="ignore"):
        mantissa, high, low = _exp_parts(x)
        y: Floats = (mantissa * high) * low
    return y


def log(x: Floats) -> Floats:
    """The natural logarithm: -inf at zero, NaN below."""
    with np.errstate(all="ignore"):
        subnormal = x < _F(2.0**-126)
        bits = np.where(subnormal, x * _F(2.0**23), x).view(np.int32)
        k = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
        f = (bits - (k << np.int32(23))).view(_F) - _F(1)
        n = k.astype(_F) - np.where(subnormal, _F(23), _F(0))
        rest = f + fma(f * f, fma(f, _polynomial(_LOG, f), _F(-0.5)), n * _LN2_LOW)
        y = np.where(x < np.inf, fma(n, _LN2_HIGH, rest), x)
        return np.where(x < _F(2.0**-149), np.where(x < 0, _F(np.nan), _F(-np.inf)), y)


def erf(x: Floats) -> Floats:
    """The error function."""
    with np.errstate(all="ignore"):
        a = np.minimum(np.abs(x), _F(4))
        near = fma(_polynomial(_ERF_NEAR, a * a), x, x)
        far = _F(1) - exp(-fma(_polynomial(_ERF_FAR, a), a, a))
        return np.where(a < _F(0.92), near, np.copysign(far, x))


def tanh(x: Floats) -> Floats:
    """The hyperbolic tangent."""
    with np.errstate(all="ignore"):
        a = np.abs(x)
        z = a * a
        near = fma(_polynomial(_TANH, z) * z, a, a)
        far = _F(1) - _F(2) / (exp(a + a) + _F(1))
        return np.copysign(np.where(a < _F(0.6), near, far), x)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x))."""
    with np.errstate(all="ignore"):
        e = exp(-np.abs(x))
        y: Floats = np.where(x < 0, e, _F(1)) / (_F(1) + e)
    return y


def _times_sigmoid(x: Floats, z: Floats) -> Floats:
    """x sigmoid(z) for z of x's sign."""
    mantissa, high, low = _exp_parts(-np.abs(z))
    larger = mantissa * high
    numerator = np.where(x < -125, _F(-125), x) * np.where(z < 0, larger, _F(1))
    y: Floats = (numerator / (_F(1) + larger * low)) * np.where(z < 0, low, _F(1))
    return y


def silu(x: Floats) -> Floats:
    """x sigmoid(x)."""
    with np.errstate(all="ignore"):
        return _times_sigmoid(x, x)


def swiglu(gate: Floats, up: Floats) -> Floats:
    """silu(gate) up."""
    with np.errstate(all="ignore"):
        y: Floats = silu(gate) * up
    return y


def gelu_tanh(x: Floats) -> Floats:
    """x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))."""
    with np.errstate(all="ignore"):
        return _times_sigmoid(x, x * fma(_F(0.0713548162726002527), x * x, _F(1.59576912160573071)))


def gelu(x: Floats) -> Floats:
    """x times the normal distribution at x."""
    with np.errstate(all="ignore"):
        a = np.minimum(np.abs(x), _F(15))
        w = _F(1) / (a + _F(2.5))
        t = fma(_F(-5), w, _F(1))
        ratio = fma(_polynomial(_TAIL[1::2], t * t), t, _polynomial(_TAIL[::2], t * t)) * w
        s = a * a
        d = fma(-a, a, s)
        mantissa, high, low = _exp_parts(_F(-0.5) * s)
        tail = (mantissa * fma(_F(0.5) * d, ratio, ratio)) * high
        above = x * (_F(1) - tail * low)
        below = (np.where(x < -15, _F(-15), x) * tail) * low
        return np.where(x < 0, below, above)


_HALF_PI_HIGH = _F(np.pi / 2)
_HALF_PI_MIDDLE = _F(np.pi / 2 - float(_HALF_PI_HIGH))
_HALF_PI_LOW = _F(-1.71512451e-15)
_TWO_OVER_PI = np.array(  # 32 bits each, the first of weight 2^31
    [0, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB], np.uint64
)


def _reduce(x: Floats) -> tuple[Floats, npt.NDArray[np.uint32]]:
    """(r, n) with x = n pi/2 + r and |r| <= pi/4; of n the last two bits count. r is NaN where x is not finite."""
    shift = _F(1.5 * 2**23)
    t = fma(x, _F(0.636619772367581343), shift)
    n = t - shift
    r = fma(-n, _HALF_PI_LOW, fma(-n, _HALF_PI_MIDDLE, fma(-n, _HALF_PI_HIGH, x)))
    far_r, far_n = _reduce_far(x)
    far = ~(np.abs(x) < _F(2.0**17))
    return np.where(far, far_r, r), np.where(far, far_n, t.view(np.uint32))


def _reduce_far(x: Floats) -> tuple[Floats, npt.NDArray[np.uint32]]:
    """The same for |x| >= 2^17, by Payne and Hanek; anything for smaller ones."""
    bits = x.view(np.uint32).astype(np.uint64)
    exponent = (bits >> np.uint64(23)) & np.uint64(0xFF)
    m = (bits & np.uint64(0x7FFFFF)) | np.uint64(0x800000)
    at = np.clip(exponent.astype(np.int64) - 120, 0, 134).astype(np.uint64)
    word, shift = (at // np.uint64(32)).astype(np.int64), at % np.uint64(32)
    window = [
        (((_TWO_OVER_PI[word + i] << np.uint64(32) | _TWO_OVER_PI[word + i + 1]) << shift) >> np.uint64(32))
        for i in range(3)
    ]
    turns = (m * window[0] << np.uint64(32)) + m * window[1] + (m * window[2] >> np.uint64(32))
    n = (turns + np.uint64(1 << 61)) >> np.uint64(62)
    fraction = (turns - (n << np.uint64(62))).view(np.int64)
    angle = (fraction.astype(np.float64) * (np.pi / 2 * 2.0**-62)).astype(_F)
    negative = np.signbit(x)
    quadrant = np.where(negative, np.uint64(0) - n, n).astype(np.uint32)
    return np.where(exponent == 0xFF, _F(np.nan), np.where(negative, -angle, angle)), quadrant


def _sin_or_cos(r: Floats, quadrant: npt.NDArray[np.uint32]) -> Floats:
    z = r * r
    sine = fma(_polynomial(_SIN, z) * z, r, r)
    cosine = fma(_polynomial(_COS, z), z * z, fma(_F(-0.5), z, _F(1)))
    y = np.where(quadrant & 1, cosine, sine)
    return np.where(quadrant & 2, -y, y)


def sin(x: Floats) -> Floats:
    """The sine: x itself below 2^-13."""
    with np.errstate(all="ignore"):
        return np.where(np.abs(x) < _F(2.0**-13), x, _sin_or_cos(*_reduce(x)))


def cos(x: Floats) -> Floats:
    """The cosine."""
    with np.errstate(all="ignore"):
        r, quadrant = _reduce(x)
        return _sin_or_cos(r, quadrant + np.uint32(1))


# Rows


def _add_lanes(lanes: Floats) -> Floats:
    """(rows, 1): lane j and lane j + 8, then j + 4, j + 2, j + 1."""
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes


def lane_sum(x: Floats, *, squares: bool = False) -> Floats:
    """(rows, 1): the sums of x, or of its squares by fma, in 16 lanes: k ascending, from 0, then as a fixed tree.

    Example:
        >>> import numpy as np
        >>> lane_sum(np.ones((2, 35), np.float32)).ravel()
        array([35., 35.], dtype=float32)
    """
    with np.errstate(all="ignore"):
        lanes = np.zeros((len(x), _LANES), _F)
        for first in range(0, x.shape[1], _LANES):
            block = x[:, first : first + _LANES]
            part = lanes[:, : block.shape[1]]  # what the last block lacks is left out
            part[...] = fma(block, block, part) if squares else part + block
        return _add_lanes(lanes)


def log_sum(x: Floats) -> tuple[Floats, Floats]:
    """(m, log(s)), each (rows, 1): m is the maximum of a row, s the sum of exp(x - m); NaN where s is."""
    with np.errstate(all="ignore"):
        m = x.max(axis=1, keepdims=True)
        s = log(lane_sum(exp(x - m)))
        return np.where(np.isnan(s), s, m), s


def softmax(x: Floats) -> Floats:
    """e (1 / s) with e = exp(x - max x) and s their sum."""
    with np.errstate(all="ignore"):
        e = exp(x - x.max(axis=1, keepdims=True))
        y: Floats = e * (_F(1) / lane_sum(e))
    return y


def log_softmax(x: Floats) -> Floats:
    """(x - m) - log(s)."""
    with np.errstate(all="ignore"):
        m, s = log_sum(x)
        y: Floats = (x - m) - s
    return y


def rms_norm(x: Floats, weight: Floats | None, eps: float) -> Floats:
    """(x r) weight with r = 1 / sqrt(sum x^2 / columns + eps)."""
    with np.errstate(all="ignore"):
        y: Floats = x * (_F(1) / np.sqrt(lane_sum(x, squares=True) / _F(x.shape[1]) + _F(eps)))
        return y if weight is None else y * weight


def layer_norm(x: Floats, weight: Floats | None, bias: Floats | None, eps: float) -> Floats:
    """d r, then times weight, plus bias (by fma where there are both); d = x - mean, r as in rms_norm of d."""
    with np.errstate(all="ignore"):
        d = x - lane_sum(x) / _F(x.shape[1])
        y: Floats = d * (_F(1) / np.sqrt(lane_sum(d, squares=True) / _F(x.shape[1]) + _F(eps)))
        if weight is not None and bias is not None:
            return fma(y, weight, bias)
        if weight is not None:
            return y * weight
        return y if bias is None else y + bias
