"""Rotary position embedding, in NumPy: the tables, and what the kernels make of them.

angle[t, i] = float32(position[t]) * base^(-2i / dim)          base^(-2i / dim) is the real number, rounded once
(x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin)                 each product and each sum rounded; no fma
"""

from __future__ import annotations

import decimal
import functools
import math

import numpy as np
import numpy.typing as npt

__all__ = ["cos_sin", "frequencies", "rope"]

Floats = npt.NDArray[np.float32]

# pi / 2 in three parts: a whole number of up to 24 bits times one of the first two is exact in float64.
_HALF_PI = tuple(map(float.fromhex, ("0x1.921fb54p+0", "0x1.10b4611p-30", "0x1.4c4c6628b80dcp-59")))
_SIN = [(-1) ** n / math.factorial(2 * n + 1) for n in range(8)]  # Taylor's series, whose rest is below 1e-16
_COS = [(-1) ** n / math.factorial(2 * n) for n in range(9)]


@functools.lru_cache(64)
def frequencies(dim: int, base: float) -> tuple[float, ...]:
    """base^(-2i / dim) for i in 0..dim/2 - 1, each a float32 number: the real power, correctly rounded.

    It is computed to 40 decimal digits by `decimal`, which gives the same on every machine.

    Example:
        >>> frequencies(4, 10000.0)
        (1.0, 0.009999999776482582)
    """
    with decimal.localcontext(decimal.Context(prec=40)):
        log_base = decimal.Decimal(base).ln()
        return tuple(_nearest_float32((-log_base * (2 * i) / dim).exp()) for i in range(dim // 2))


def _nearest_float32(x: decimal.Decimal) -> float:
    near = np.float32(float(x))  # rounded twice, so that it may be a neighbour
    candidates = (near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf)))
    return float(min(candidates, key=lambda c: abs(decimal.Decimal(float(c)) - x)))


def cos_sin(angle: Floats) -> tuple[Floats, Floats]:
    """cos and sin of float32 angles up to 2^24 in magnitude: computed in float64 to 2e-16, then rounded.

    Example:
        >>> cos_sin(np.float32([0, 1]))
        (array([1.       , 0.5403023], dtype=float32), array([0.        , 0.84147096], dtype=float32))
    """
    x = angle.astype(np.float64)
    turns = np.rint(x * (2 / math.pi))
    for part in _HALF_PI:
        x = x - turns * part
    z = x * x
    sin, cos = x * _polynomial(_SIN, z), _polynomial(_COS, z)
    quarter = turns.astype(np.int64) & 3
    swapped, negative = (quarter & 1) == 1, (quarter & 2) == 2
    sin, cos = np.where(swapped, cos, sin), np.where(swapped, -sin, cos)
    sin, cos = np.where(negative, -sin, sin), np.where(negative, -cos, cos)
    return cos.astype(np.float32), sin.astype(np.float32)


def _polynomial(coefficients: list[float], z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    y = np.full_like(z, coefficients[-1])
    for c in coefficients[-2::-1]:
        y = y * z + c
    return y


def rope(x: Floats, cos: Floats, sin: Floats, *, interleaved: bool) -> Floats:
    """x (..., T, heads, dim) with the pairs of its first 2 n dimensions turned; cos and sin (T, n) or (..., T, n).

    Example:
        >>> rope(np.float32([[[1, 2, 3]]]), np.float32([[0]]), np.float32([[1]]), interleaved=True)
        array([[[-2.,  1.,  3.]]], dtype=float32)
    """
    n = cos.shape[-1]
    first, second = (slice(0, 2 * n, 2), slice(1, 2 * n, 2)) if interleaved else (slice(0, n), slice(n, 2 * n))
    c, s = cos[..., :, None, :], sin[..., :, None, :]
    y = x.copy()
    with np.errstate(all="ignore"):
        a, b = x[..., first], x[..., second]
        y[..., first] = a * c - b * s
        y[..., second] = b * c + a * s
    return y
