"""attention: scaled dot products, softmax and the weighted sum of values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo import _core
from octavo._util.arrays import as_real_array, contiguous
from octavo.functional._arrays import Array, check_flag, computed, number, operand
from octavo.functional._cache import KVLayer, Lengths

__all__ = ["attention"]


def attention(
    q: npt.ArrayLike,
    k: npt.ArrayLike | KVLayer,
    v: npt.ArrayLike | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    mask: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
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
        out: an array of the result's shape and dtype to write to; q itself, too.

    Returns:
        The shape of q; float16 and float64 for q of that type, else float32.

    Raises:
        TypeError: q, k, v, scale or mask is not real, causal no bool, or `out` has another dtype.
        ValueError: shapes that do not fit, heads that do not divide, more causal queries than positions, scale is not
            finite, or a layer of a cache that the last `extend`'s positions have not been written to.

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
    check_flag(causal, "causal")
    if isinstance(k, KVLayer):
        if k._lengths is (cache := k._cache)._lengths and scale is None and mask is None and v is None:
            place = (cache._keys, cache._values, k._index, cache._lengths, cache._counts)
            y = _core.attend_to_cache(*place, q, cache._scale, causal, out)
            if y is not None:
                return y
        return _attend_to_cache(q, k, v, causal=causal, scale=scale, mask=mask, out=out)
    if v is None:
        raise ValueError("v must be given, unless k is a layer of a KVCache")
    (queries, dtype), (keys, _), (values, _) = operand(q, "q"), operand(k, "k"), operand(v, "v")
    _check_shapes(queries.shape, keys.shape, values.shape, causal=causal)
    factor = _factor(scale, queries.shape[-1])
    if mask is None and dtype == np.float32:
        y = _core.attend(queries, keys, values, factor, causal, None, out)
        if y is not None:
            return y
    seen = None if mask is None else _as_mask(mask, (*queries.shape[:-3], *_scores_shape(queries, keys)))
    return computed(lambda: _core.attend(queries, keys, values, factor, causal, seen, None), queries.shape, dtype, out)


def _attend_to_cache(
    q: npt.ArrayLike,
    layer: KVLayer,
    v: object,
    *,
    causal: bool,
    scale: float | None,
    mask: object,
    out: Array | None,
) -> Array:
    if v is not None or mask is not None:
        raise ValueError("v and mask must be omitted where k is a layer of a KVCache")
    cache = layer.cache
    queries, dtype = operand(q, "q")
    counts = _queries_of_cache(queries.shape, layer, causal=causal)
    factor = _factor(scale, cache.head_dim)
    place = (cache._keys, cache._values, layer._index, cache._lengths, counts)
    rows = queries.reshape(int(counts.sum()), *queries.shape[-2:])

    def compute() -> npt.NDArray[np.float32] | None:
        y = _core.attend_to_cache(*place, rows, factor, causal, None)
        return None if y is None else y.reshape(queries.shape)

    return computed(compute, queries.shape, dtype, out)


def _factor(scale: float | None, dim: int) -> float:
    factor = 1 / math.sqrt(dim) if scale is None else number(scale, "scale")
    if not abs(factor) < 2**128:
        raise ValueError(f"scale must be finite in float32, got {scale}")
    return factor


def _scores_shape(q: npt.NDArray[Any], k: npt.NDArray[Any]) -> tuple[int, int, int]:
    return q.shape[-2], q.shape[-3], k.shape[-3]


def _check_shapes(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *, causal: bool) -> None:
    if len(q) < 3 or q[-1] == 0:
        raise ValueError(f"q must have shape (..., T, H, D) with D >= 1, got {q}")
    if len(k) != len(q) or k[:-3] != q[:-3] or k[-1] != q[-1]:
        raise ValueError(f"k must have shape (..., S, Hkv, D) to fit q {q}, got {k}")
    if v != k:
        raise ValueError(f"v must have the shape of k, {k}, got {v}")
    _check_heads(q[-2], k[-2])
    if causal and q[-3] > k[-3]:
        raise ValueError(f"causal queries are the last of the positions: got {q[-3]} queries and {k[-3]} keys")


def _check_heads(heads: int, kv_heads: int) -> None:
    if kv_heads == 0 or heads % kv_heads != 0:
        raise ValueError(f"q's heads must be a multiple of those of k and v, got {heads} and {kv_heads}")


def _queries_of_cache(q: tuple[int, ...], layer: KVLayer, *, causal: bool) -> Lengths:
    """How many queries each sequence has."""
    cache = layer.cache
    if len(q) < 3 or q[-1] != cache.head_dim:
        raise ValueError(f"q must have shape (..., H, {cache.head_dim}), with the cache's head_dim, got {q}")
    _check_heads(q[-2], cache.kv_heads)
    if layer._lengths is not cache._lengths:
        raise ValueError(f"layer {layer._index} lacks the positions of the last extend(): write(k, v) to it first")
    if len(q) == 3 and q[0] == cache._rows:
        return cache._counts
    if len(q) == 4 and q[0] == cache.batch:
        counts = np.full(cache.batch, q[1], np.int64)
    elif len(q) == 3 and cache.batch == 1:
        counts = np.array([q[0]], np.int64)
    else:
        raise ValueError(
            f"q must have shape ({cache._rows}, H, D), a row for each position that extend() added "
            f"({cache._counts.tolist()}), or ({cache.batch}, T, H, D), got {q}"
        )
    if causal and (counts > cache._lengths).any():
        raise ValueError(
            f"causal queries are the last of the positions: got {counts.tolist()} queries and "
            f"{cache._lengths.tolist()} positions"
        )
    return counts


def _as_mask(mask: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The mask as bool or float32 of shape (batch, H, T, S), without repeating what it repeats where that can be."""
    a = as_real_array(mask, "mask")
    if a.dtype.kind in "iu":
        raise TypeError(f"mask must be bool, or floats that are added to the products, got {a.dtype}; use mask != 0")
    a = a if a.dtype == np.bool_ else contiguous(a)
    try:
        whole = np.broadcast_to(a, shape)
    except ValueError:
        raise ValueError(f"mask must broadcast to (..., H, T, S) = {shape}, got {a.shape}") from None
    last = shape[-3:]
    if a.ndim <= 3:
        return np.broadcast_to(a, (math.prod(shape[:-3]), *last))
    return whole.reshape(math.prod(shape[:-3]), *last)  # not -1: there may be no query, or no key
