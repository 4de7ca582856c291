"""The gates of recurrent cells: the NumPy definition of what the compiled cells compute, to the bit.

    sigmoid(x) = 1 / (1 + e) for x >= 0, e / (1 + e) for x < 0, with e = exp(-|x|)
    tanh(x)    = x + x^3 p(x^2) for |x| < 0.625, else sign(x) (1 - e) / (1 + e), with e = exp(-2|x|)
    exp(-a)    = 2^n (1 + r + r^2 p(r)) with n = rint(-a / ln 2), r = -a - n ln 2; a above 87 counts as 87

The polynomials are those of Cephes' expf and tanhf (S. Moshier). NumPy's own exp and tanh give different bits on
different CPUs; these use float32 additions, multiplications, divisions and selections in a fixed order, one rounding
each. They are within 3 units in the last place of the true value, except that sigmoid stops falling at exp(-87).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["gru_cell", "lstm_cell", "sigmoid", "tanh"]

Float32Array = NDArray[np.float32]

_F = np.float32
_LARGEST = _F(87)  # exp(-87) is about 2^-125.5: n is at least -126, and 2^n a normal number
_LOG2_E = _F(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)  # n * _LN2_HIGH is exact
_TO_INTEGER = _F(1.5 * 2**23)  # adding it leaves rint in the low bits of the sum
_EXP = [
    _F(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
]
_TANH = [_F(c) for c in (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)]


def sigmoid(x: ArrayLike) -> Float32Array:
    """1 / (1 + exp(-x)) in float32; NaN stays NaN.

    Example:
        >>> from octavo._numerics.gates import sigmoid
        >>> sigmoid([-1e4, 0.0, 1e4])
        array([1.6458115e-38, 5.0000000e-01, 1.0000000e+00], dtype=float32)
    """
    a = np.asarray(x, dtype=np.float32)
    e = _exp_negative(np.abs(a))
    y: Float32Array = np.where(a < 0, e, _F(1)) / (_F(1) + e)
    return y


def tanh(x: ArrayLike) -> Float32Array:
    """The hyperbolic tangent in float32; zeros keep their sign, NaN stays NaN.

    Example:
        >>> from octavo._numerics.gates import tanh
        >>> tanh([-1e4, -0.0, 0.5])
        array([-1.        , -0.        ,  0.46211717], dtype=float32)
    """
    values = np.asarray(x, dtype=np.float32)
    a = np.abs(values)
    with np.errstate(all="ignore"):
        e = _exp_negative(a + a)
        far = (_F(1) - e) / (_F(1) + e)
        z = a * a
        near = (_polynomial(_TANH, z) * z) * a + a
    return np.copysign(np.where(a < _F(0.625), near, far), values)


def _exp_negative(a: Float32Array) -> Float32Array:
    """exp(-a) for a >= 0 or NaN."""
    x = -np.where(a > _LARGEST, _LARGEST, a)
    with np.errstate(all="ignore"):
        shifted = np.atleast_1d(x * _LOG2_E + _TO_INTEGER)
        n = shifted - _TO_INTEGER
        r = (x - n * _LN2_HIGH) - n * _LN2_LOW
        power = ((shifted.view(np.uint32) + np.uint32(127)) << np.uint32(23)).view(np.float32)
        y: Float32Array = ((_polynomial(_EXP, r) * (r * r) + r) + _F(1)) * power
    return y.reshape(a.shape)


def _polynomial(coefficients: list[np.float32], x: Float32Array) -> Float32Array:
    """Horner's rule, highest power first."""
    y = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        y = y * x + c
    return y


def lstm_cell(a: Float32Array, b: Float32Array, c: Float32Array) -> tuple[Float32Array, Float32Array]:
    """One step of an LSTM: c' = f c + i g and h' = o tanh(c') with i, f, g, o from a + b.

    Args:
        a: (m, 4 hidden) float32, the input's product with its bias, columns i f g o.
        b: (m, 4 hidden), the state's product with its bias.
        c: (m, hidden), the cell state.

    Returns:
        (h', c'), each (m, hidden).

    Example:
        >>> import numpy as np
        >>> from octavo._numerics.gates import lstm_cell
        >>> zero = np.zeros((1, 4), np.float32)
        >>> lstm_cell(zero, zero, np.ones((1, 1), np.float32))
        (array([[0.23105858]], dtype=float32), array([[0.5]], dtype=float32))
    """
    ai, af, ag, ao = np.split(a + b, 4, axis=-1)
    i, f, g, o = sigmoid(ai), sigmoid(af), tanh(ag), sigmoid(ao)
    with np.errstate(all="ignore"):
        c = f * c + i * g
        return o * tanh(c), c


def gru_cell(a: Float32Array, b: Float32Array, h: Float32Array) -> Float32Array:
    """One step of a GRU: h' = (1 - z) n + z h with r, z = sigmoid(a + b) and n = tanh(a + r b).

    Args:
        a: (m, 3 hidden) float32, the input's product with its bias, columns r z n.
        b: (m, 3 hidden), the state's product with its bias.
        h: (m, hidden), the state.

    Returns:
        h' (m, hidden).

    Example:
        >>> import numpy as np
        >>> from octavo._numerics.gates import gru_cell
        >>> zero = np.zeros((1, 3), np.float32)
        >>> gru_cell(zero, zero, np.ones((1, 1), np.float32))
        array([[0.5]], dtype=float32)
    """
    ar, az, an = np.split(a, 3, axis=-1)
    br, bz, bn = np.split(b, 3, axis=-1)
    with np.errstate(all="ignore"):
        r, z = sigmoid(ar + br), sigmoid(az + bz)
        n = tanh(an + r * bn)
        return (_F(1) - z) * n + z * h
