"""What attention is, in NumPy: the kernels give these bits.

    s[t] = (fma over d ascending of q[d] k[t, d], from 0) * scale, then + mask[t]       one rounding each
    p    = softmax(s) over the positions that the query sees, at their own places t: 16 lanes of t mod 16
    o[d] = fma over t ascending of p[t] v[t, d], from 0

A position that the query does not see is skipped: a later one than its own where `causal`, and one whose mask is False
or -infinity. A query that sees none gives zeros. t counts from the first position of the sequence, so that neither
later positions nor the other sequences of a batch, nor how many queries are asked at once, change a bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from octavo._numerics.functions import softmax
from octavo._numerics.grouped_definition import fma

__all__ = ["attention"]

Floats = npt.NDArray[np.float32]
_F = np.float32


def attention(
    q: Floats, k: Floats, v: Floats, *, scale: float, causal: bool = False, mask: npt.NDArray[Any] | None = None
) -> Floats:
    """o (T, H, D) of q (T, H, D), k and v (S, Hkv, D) float32 and a mask that broadcasts to (H, T, S), bool or float32.

    Head h of q attends to head h // (H / Hkv) of k and v.

    Example:
        >>> q, k = np.ones((1, 1, 2), np.float32), np.zeros((3, 1, 2), np.float32)
        >>> attention(q, k, np.float32([[[0, 1]], [[1, 2]], [[5, 9]]]), scale=1.0)
        array([[[2., 4.]]], dtype=float32)
    """
    (queries, heads, dim), (keys, kv_heads, _) = q.shape, k.shape
    if keys == 0:
        return np.zeros_like(q)
    k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, v))
    scores = np.zeros((heads, queries, keys), _F)
    for d in range(dim):
        scores = fma(q[:, :, d].T[:, :, None], k[:, :, d].T[:, None, :], scores)
    with np.errstate(all="ignore"):
        scores = scores * _F(scale)
        seen: npt.NDArray[np.bool_] = np.ones(scores.shape, np.bool_)
        if mask is not None and mask.dtype == np.bool_:
            seen = seen & mask
        elif mask is not None:
            scores, seen = scores + mask, seen & (mask != -np.inf)
    if causal:
        seen = seen & (np.arange(keys) <= np.arange(keys - queries, keys)[:, None])
    p = softmax(np.where(seen, scores, _F(-np.inf)).reshape(-1, keys)).reshape(scores.shape)
    o = np.zeros((heads, queries, dim), _F)
    for t in range(keys):
        here = seen[:, :, t, None]
        o = np.where(here, fma(p[:, :, t, None], v[t, :, None, :], o), o)
    return np.ascontiguousarray(o.transpose(1, 0, 2))
