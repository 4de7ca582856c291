"""attention: scaled dot products, softmax and the weighted sum of values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo._numerics import attention_definition as definition
from octavo._util.arrays import as_real_array, check_out, contiguous, real_dtype
from octavo.functional.cache import KVLayer

__all__ = ["attention"]

Floats = npt.NDArray[np.float32]


def attention(
    q: npt.ArrayLike,
    k: npt.ArrayLike | KVLayer,
    v: npt.ArrayLike | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    mask: npt.ArrayLike | None = None,
    out: Floats | None = None,
) -> npt.NDArray[np.floating[Any]]:
    """o = softmax(q k^T * scale + mask) v, for each head.

    Args:
        q: (..., T, H, D) real numbers: T queries of H heads.
        k, v: (..., S, Hkv, D): S keys and values of Hkv heads, H a multiple of Hkv; head h of q attends to head
            h // (H / Hkv). Leading axes as those of q. Or k is a layer of a `KVCache` and v is omitted: q is then
            (rows, H, D), a row for each position that the last `extend` added, or (batch, T, H, D). Where a cache holds
            one sequence, or not `causal` with 4 axes, T may also be another number.
        causal: a query sees no later position than its own. The queries are the last T of the S positions.
        scale: what the products are multiplied by; 1 / sqrt(D) by default.
        mask: (..., H, T, S), or what broadcasts to it: bool, True where the query sees the key, or numbers that are
            added to the products, -inf where it does not. Not with a cache.
        out: a float32 array of the result's shape.

    Returns:
        The shape of q; float16 and float64 for q of that type, else float32.

    Raises:
        TypeError: q, k, v or mask is not real, or `out` has another dtype.
        ValueError: shapes that do not fit, heads that do not divide, more causal queries than positions, or a layer of
            a cache that the last `extend`'s positions have not been written to.

    Notes:
        float32. Products are fused multiply-adds over d ascending, and the sum over values over t ascending; softmax is
        that of the whole row, not online. So a row of the result does not depend on the other queries of the call, on
        the batch, on threads or on the CPU: a prompt at once gives the bits of its tokens one by one. Positions that
        a query does not see are skipped: NaN there does not matter. A query that sees none gives zeros.
        Source: Vaswani et al. 2017, section 3.2.1; grouped heads: Ainslie et al. 2023.

    Example:
        >>> import numpy as np
        >>> from octavo.functional import attention
        >>> x = np.float32([[[1, 0]], [[0, 1]], [[1, 1]]])  # 3 positions, 1 head of 2
        >>> attention(x, x, x, causal=True)[1]
        array([[0.33023846, 0.66976154]], dtype=float32)
    """
    queries = as_real_array(q, "q")
    if queries.ndim < 3 or queries.shape[-1] == 0:
        raise ValueError(f"q must have shape (..., T, H, D) with D >= 1, got {queries.shape}")
    if out is not None:
        check_out(out, queries.shape, np.dtype(np.float32))
    factor = 1 / math.sqrt(queries.shape[-1]) if scale is None else float(scale)
    if isinstance(k, KVLayer):
        y = _attend_to_cache(contiguous(queries), k, v, causal=causal, scale=factor, mask=mask)
    else:
        y = _attend(contiguous(queries), k, v, causal=causal, scale=factor, mask=mask)
    if out is None:
        return y.astype(real_dtype(queries), copy=False)
    out[...] = y
    return out


def _attend(
    q: Floats, k: npt.ArrayLike, v: npt.ArrayLike | None, *, causal: bool, scale: float, mask: npt.ArrayLike | None
) -> Floats:
    if v is None:
        raise ValueError("v must be given, unless k is a layer of a KVCache")
    keys, values = as_real_array(k, "k"), as_real_array(v, "v")
    batch, (t, heads, dim) = q.shape[:-3], q.shape[-3:]
    if keys.ndim != q.ndim or keys.shape[:-3] != batch or keys.shape[-1] != dim:
        raise ValueError(f"k must have shape (..., S, Hkv, D) to fit q {q.shape}, got {keys.shape}")
    if values.shape != keys.shape:
        raise ValueError(f"v must have the shape of k, {keys.shape}, got {values.shape}")
    s, kv_heads = keys.shape[-3:-1]
    _check_heads(heads, kv_heads)
    if causal and t > s:
        raise ValueError(f"causal queries are the last of the positions: got {t} queries and {s} keys")
    masks = None if mask is None else _as_mask(mask, (*batch, heads, t, s)).reshape(-1, heads, t, s)
    rows = (q.reshape(-1, t, heads, dim), contiguous(keys).reshape(-1, s, kv_heads, dim))
    y = np.empty_like(rows[0])
    for i, value in enumerate(contiguous(values).reshape(rows[1].shape)):
        one = None if masks is None else masks[i]
        y[i] = definition.attention(rows[0][i], rows[1][i], value, scale=scale, causal=causal, mask=one)
    return y.reshape(q.shape)


def _attend_to_cache(
    q: Floats, layer: KVLayer, v: object, *, causal: bool, scale: float, mask: npt.ArrayLike | None
) -> Floats:
    cache = layer.cache
    if v is not None or mask is not None:
        raise ValueError("v and mask must be omitted where k is a layer of a KVCache")
    heads, dim = q.shape[-2:]
    if dim != cache.head_dim:
        raise ValueError(f"q must have heads of {cache.head_dim} dimensions, as the cache has, got {q.shape}")
    _check_heads(heads, cache.kv_heads)
    if layer._lengths is not cache._lengths:
        raise ValueError(f"layer {layer._index} lacks the positions of the last extend(): write(k, v) to it first")
    counts = cache._counts
    if q.ndim == 4 and q.shape[0] == cache.batch:
        counts = np.full(cache.batch, q.shape[1])
    elif q.ndim == 3 and cache.batch == 1:
        counts = np.array([q.shape[0]])
    elif q.ndim != 3 or q.shape[0] != counts.sum():
        raise ValueError(
            f"q must have shape ({counts.sum()}, H, D), a row for each position that extend() added "
            f"({counts.tolist()}), or ({cache.batch}, T, H, D), got {q.shape}"
        )
    if causal and (counts > cache._lengths).any():
        raise ValueError(
            f"causal queries are the last of the positions: got {counts.tolist()} queries and "
            f"{cache._lengths.tolist()} keys"
        )
    rows, y, first = q.reshape(-1, heads, dim), np.empty((q.size // (heads * dim), heads, dim), np.float32), 0
    for b, count in enumerate(counts):
        part = slice(first, first + int(count))
        y[part] = definition.attention(rows[part], layer.keys(b), layer.values(b), scale=scale, causal=causal)
        first += int(count)
    return y.reshape(q.shape)


def _check_heads(heads: int, kv_heads: int) -> None:
    if kv_heads == 0 or heads % kv_heads != 0:
        raise ValueError(f"q's heads must be a multiple of those of k and v, got {heads} and {kv_heads}")


def _as_mask(mask: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    a = as_real_array(mask, "mask")
    a = a if a.dtype == np.bool_ else contiguous(a)
    try:
        return np.broadcast_to(a, shape)
    except ValueError:
        raise ValueError(f"mask must broadcast to (..., H, T, S) = {shape}, got {a.shape}") from None
