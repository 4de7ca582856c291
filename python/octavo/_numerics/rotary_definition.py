"""Rotary position embedding, in NumPy: the compiled code gives these bits.

    angle[t, i] = float32(position[t]) * base^(-2i / dim)          base^(-2i / dim) is the real number, rounded once
    (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin)                 each product and each sum rounded; no fma

`octavo.functional.rope_tables` takes cos and sin of the angles as `octavo._numerics.functions` defines them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["rope"]

Floats = npt.NDArray[np.float32]


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
