"""Rounding weights to four bits: to nearest, with searched scales, or against the layer's own inputs (GPTQ).

    w[n, k]  ~  (q[n, k] - zero_point[n, k // g]) * scale[n, k // g]        q in -8..7

| function | minimises | needs |
|---|---|---|
| `round_nearest` | nothing: the scale covers the largest weight of the group | the weight |
| `round_search` | sum_k importance[k] (w - w')^2 in each group | the weight; importance sharpens it |
| `round_gptq` | the error of the layer's output, sum (x w^T - x w'^T)^2 | inputs of the layer |

All have the same arguments and results; `compare_rounding` compares them on a model.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from octavo._numerics.int4 import GroupedWeight, ScaleDtype
from octavo._numerics.params import SMALLEST_RANGE
from octavo._util.arrays import as_real_array, large_zeros, row_blocks
from octavo._util.floating import quiet

__all__ = ["round_nearest", "round_search"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_QMIN, _QMAX = -8, 7
# Groups that are searched together: their weights and what is tried with them stay in the L2 cache.
_BLOCK_ELEMENTS = 1 << 15
# The scales tried put the largest weight on t = 6 to 13.7: below 8 the group is not clipped, above it the large weights
# give way to the many small ones.
_TRIED = np.float32(6) * np.float32(1.05) ** np.arange(18, dtype=np.float32)
# Shares of the group's range that are tried where there is a zero point.
_SHRUNK = np.linspace(1, 0.6, 13, dtype=np.float32)
_REFINEMENTS = 2
_ONE = np.float32(1)
# Half the range of float32.
_LARGEST = np.float32(2.0**127)


def round_nearest(
    weight: npt.ArrayLike,
    *,
    group_size: int | None = None,
    symmetric: bool = True,
    scale_dtype: ScaleDtype = "float32",
) -> GroupedWeight:
    """Rounds each weight to the nearest multiple of a scale that covers its group.

        symmetric       scale = max|w| / 7                            q = clamp(rint(w / scale), -7, 7)
        affine          lo = min(w, 0), hi = max(w, 0), scale = (hi - lo) / 15, z = clamp(rint(-8 - lo / scale), -8, 7)
                        q = clamp(rint(w / scale) + z, -8, 7)

    Args:
        weight: (N, K) float16, float32 or float64, finite and at most 2**127. Computed with in float32.
        group_size: consecutive k that share a scale; the last group may be shorter. None: one group a row.
        symmetric: whether zero points are all zero.
        scale_dtype: "float16" rounds each scale before the weights are rounded: 2 bytes a group instead of 4. Its 11
            bits move a weight by at most 1/256 of a step; on Gaussian weights the RMS error changes by less than 1e-5
            of itself. Scales outside 6e-8 to 65504 are refused.

    Raises:
        TypeError: weight is not real.
        ValueError: weight is not 2-D, holds NaN or infinity, or a scale does not fit scale_dtype.

    A group whose range is below 2**-100 counts as zeros, with scale 1.

    Example:
        >>> import numpy as np
        >>> w = round_nearest(np.array([[7.0, -2.6, 0.4, 70.0]]), group_size=2)
        >>> w.q, w.scale
        (array([[ 7, -3,  0,  7]], dtype=int8), array([[ 1., 10.]], dtype=float32))
    """
    return _in_blocks(weight, None, group_size, symmetric, scale_dtype, search=False)


def round_search(
    weight: npt.ArrayLike,
    *,
    group_size: int | None = None,
    symmetric: bool = True,
    scale_dtype: ScaleDtype = "float32",
    importance: npt.ArrayLike | None = None,
) -> GroupedWeight:
    """Searches the scales that minimise sum_k importance[k] (w[k] - w'[k])^2 in each group.

    A grid of scales of both signs is tried (a negative scale puts a positive extreme on -8, which has no counterpart).
    For the integers that each gives, the best scale is sum(i w q) / sum(i q q), and with it the weights are rounded
    again. With zero points, a grid of ranges is tried as well. No group ends with a larger error than `round_nearest`
    gives it, nor with a larger one with zero points than without.

    Args:
        weight, group_size, symmetric, scale_dtype: as for `round_nearest`.
        importance: (K,), not negative: how much an error of column k counts. The mean of x[k]^2 over the layer's inputs
            minimises the error of its output. None: all the same.

    Raises:
        TypeError, ValueError: as for `round_nearest`; importance does not fit, is negative, NaN or infinite.

    Source: the closed form for the scale is least squares; the search is that of Q4_0-like formats (llama.cpp,
    `make_qx_quants`), over both signs.

    Example:
        >>> import numpy as np
        >>> w = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32)
        >>> def rms(rounded):
        ...     return float(np.sqrt(np.mean((rounded.dequantize() - w) ** 2)))
        >>> rms(round_search(w, group_size=128)) < 0.92 * rms(round_nearest(w, group_size=128))
        True
    """
    return _in_blocks(weight, importance, group_size, symmetric, scale_dtype, search=True)


@quiet
def as_weight(weight: npt.ArrayLike) -> Floats:
    """The weight as float32 (N, K), finite and at most 2**127."""
    values = as_real_array(weight, "weight")
    if values.ndim != 2:
        raise ValueError(f"weight must be 2-D (out, in), got shape {values.shape}")
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(values, np.float32)  # NumPy sums in the order of memory, and rounds on the way
    if not all((np.abs(values[rows]) <= _LARGEST).all() for rows in row_blocks(values.shape)):
        usable = np.abs(values) <= _LARGEST
        at = tuple(int(i) for i in np.argwhere(~usable)[0])
        what = f"at most {_LARGEST:.3g}, so that what it is rounded to is finite too" if np.isfinite(values[at]) else ""
        raise ValueError(f"weight must be {what or 'finite in float32'}, got {values[at]:.4g} at {list(at)}")
    return values


def zero_weight(n: int, k: int, group_size: int | None, symmetric: bool, scale_dtype: ScaleDtype) -> GroupedWeight:
    """A weight of zeros (n, k) to be filled; group_size and scale_dtype are checked before anything is computed."""
    groups = (n, 1 if group_size is None else -(-k // max(operator.index(group_size), 1)))
    zero_point = None if symmetric else large_zeros(groups, np.int8)
    scale = large_zeros(groups, np.float32)
    scale.fill(1)
    return GroupedWeight(large_zeros((n, k), np.int8), scale, zero_point, group_size, scale_dtype)


@quiet
def _in_blocks(
    weight: npt.ArrayLike,
    importance: npt.ArrayLike | None,
    group_size: int | None,
    symmetric: bool,
    scale_dtype: ScaleDtype,
    *,
    search: bool,
) -> GroupedWeight:
    w = as_weight(weight)
    n, k = w.shape
    i = None if importance is None else _as_importance(importance, k)
    result = zero_weight(n, k, group_size, symmetric, scale_dtype)
    size = k if group_size is None else group_size
    for rows, columns, groups in _blocks(n, k, size):
        tile = w[rows, columns].reshape(-1, groups.stop - groups.start, min(size, columns.stop - columns.start))
        part = None if i is None else i[columns].reshape(tile.shape[1:])
        q, s, z = round_groups(tile, part, symmetric=symmetric, scale_dtype=scale_dtype, search=search)
        result.q[rows, columns] = q.reshape(q.shape[0], -1)
        result.scale[rows, groups] = s
        if result.zero_point is not None and z is not None:
            result.zero_point[rows, groups] = z
    return GroupedWeight(result.q, result.scale, result.zero_point, group_size, scale_dtype)


def _blocks(n: int, k: int, size: int) -> Iterator[tuple[slice, slice, slice]]:
    """(rows, columns, groups) of blocks of whole groups; the short last group of each row is in blocks of its own."""
    if n == 0 or k == 0:
        return
    whole = k // size
    spans = [(0, whole * size, 0, whole)] if whole else []
    spans += [(whole * size, k, whole, whole + 1)] if k % size else []
    for k0, k1, g0, g1 in spans:
        rows = max(1, _BLOCK_ELEMENTS // (k1 - k0))
        for n0 in range(0, n, rows):
            yield slice(n0, min(n, n0 + rows)), slice(k0, k1), slice(g0, g1)


def _as_importance(importance: npt.ArrayLike, k: int) -> Floats:
    values = as_real_array(importance, "importance")
    if values.shape != (k,):
        raise ValueError(f"importance must have shape ({k},), one for each input of weight, got {values.shape}")
    # Only ratios count: scaled so that no square leaves float32.
    largest = float(values.max(initial=0))
    values = (values.astype(np.float64) / largest if largest > 0 else values).astype(np.float32)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("importance must be finite and not negative")
    return values


@quiet
def round_groups(
    w: Floats, importance: Floats | None, *, symmetric: bool, scale_dtype: ScaleDtype, search: bool
) -> tuple[npt.NDArray[np.int8], Floats, npt.NDArray[np.int8] | None]:
    """(q, scale, zero point or None) of groups w (rows, groups, size); importance (groups, size)."""
    unit, w = _normalized(w)
    best = _nearest(w, unit, symmetric, scale_dtype)
    if search:
        i = None
        if importance is not None:  # a group that does not count at all is rounded as if each weight did
            i = np.where(importance.max(axis=-1, keepdims=True, initial=0) > 0, importance, _ONE)
        # With zero points too, scales of either sign around zero are in the choice: never worse than without.
        for candidates in (_tried_symmetric(w),) if symmetric else (_tried_symmetric(w), _tried_affine(w)):
            found = _searched(w, i, unit, scale_dtype, candidates)
            best = _chosen(_error(w, i, *found) < _error(w, i, *best), best, found)
    q, s, z = best
    return q.astype(np.int8), s * unit, None if symmetric else z.astype(np.int8)


def _chosen(second: npt.NDArray[np.bool_], a: _Candidate, b: _Candidate) -> _Candidate:
    return np.where(second[..., None], b[0], a[0]), np.where(second, b[1], a[1]), np.where(second, b[2], a[2])


def _normalized(w: Floats) -> tuple[Floats, Floats]:
    """A power of two for each group, and the group divided by it: its largest value lies in [1, 2), or all are zero."""
    largest = np.abs(w).max(axis=-1, initial=0)
    largest = np.where(largest < SMALLEST_RANGE, np.float32(0), largest)
    unit = power_of_two(largest)
    return unit, np.where(largest[..., None] > 0, w / unit[..., None], np.float32(0)).astype(np.float32)


@quiet
def power_of_two(values: npt.ArrayLike) -> Floats:
    """The power of two at or below each positive value, in float32's normal range; 1 for zero."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float32))
    return np.where(mantissa > 0, np.ldexp(np.float32(1), np.maximum(exponent - 1, -126)), np.float32(1))


# q (rows, groups, size), scale in units and zero point (rows, groups), all float32
_Candidate = tuple[Floats, Floats, Floats]


def _stored(scale: Floats, unit: Floats, dtype: ScaleDtype) -> Floats:
    """The scale as it will be held, in units again: units are powers of two, so that this rounds once."""
    if dtype == "float32":
        return scale
    with np.errstate(all="ignore"):
        held = (scale * unit).astype(np.float16).astype(np.float32)
    if not np.isfinite(held).all() or (held == 0).any():
        extreme = float((scale * unit).flat[np.argmin(np.isfinite(held) & (held != 0))])
        raise ValueError(f'a scale of {extreme:.3g} is beyond float16, 6e-8 to 65504; use scale_dtype="float32"')
    return held / unit


def _steps(w: Floats, inverse: Floats, z: Floats) -> Floats:
    """q - z for the q that w * inverse + z rounds to."""
    d = w * inverse[..., None]
    np.rint(d, out=d)
    if not z.any():
        return np.clip(d, _QMIN, _QMAX, out=d)
    np.maximum(d, _QMIN - z[..., None], out=d)  # clip is slower where its limits are arrays
    np.minimum(d, _QMAX - z[..., None], out=d)
    return d


def _nearest(w: Floats, unit: Floats, symmetric: bool, dtype: ScaleDtype) -> _Candidate:
    lo, hi = np.minimum(w.min(axis=-1, initial=0), 0), np.maximum(w.max(axis=-1, initial=0), 0)
    span = np.maximum(-lo, hi) if symmetric else hi - lo
    s = _stored(np.where(span > 0, span / np.float32(7 if symmetric else 15), np.float32(1)), unit, dtype)
    z = np.zeros_like(s) if symmetric else np.clip(np.rint(_QMIN - lo / s), _QMIN, _QMAX)
    q = np.rint(w / s[..., None]) + z[..., None]
    return np.clip(q, -_QMAX if symmetric else _QMIN, _QMAX), s, z


def _searched(
    w: Floats, i: Floats | None, unit: Floats, dtype: ScaleDtype, candidates: Iterable[tuple[Floats, Floats]]
) -> _Candidate:
    """The best of the candidates (inverse scale, zero point), refined."""
    wi = w if i is None else w * i
    best_s, best_z = np.ones(w.shape[:-1], np.float32), np.zeros(w.shape[:-1], np.float32)
    best_gain = np.full(w.shape[:-1], -1, np.float32)
    for inverse, z in candidates:
        s, gain = _fitted(w, wi, i, inverse, z)
        better = gain > best_gain
        for best, new in ((best_gain, gain), (best_s, s), (best_z, z)):
            np.copyto(best, new, where=better)
    for _ in range(_REFINEMENTS):  # neither step can raise the error: the nearest integers, then their best scale
        best_s, _gain = _fitted(w, wi, i, _ONE / best_s, best_z, otherwise=best_s)
    best_s = _stored(best_s, unit, dtype)
    return _steps(w, _ONE / best_s, best_z) + best_z[..., None], best_s, best_z


def _fitted(
    w: Floats, wi: Floats, i: Floats | None, inverse: Floats, z: Floats, otherwise: Floats | None = None
) -> tuple[Floats, Floats]:
    """The best scale for the integers that w * inverse + z rounds to, and how much of sum(i w w) it explains."""
    d = _steps(w, inverse, z)
    projected = np.einsum("rgk,rgk->rg", wi, d)
    length = np.einsum("rgk,rgk->rg", d if i is None else d * i, d)
    usable = (length > 0) & (projected != 0)
    length = np.where(usable, length, _ONE)
    s = np.where(usable, projected / length, _ONE / inverse if otherwise is None else otherwise)
    return s, np.where(usable, projected * (projected / length), np.float32(0))


def _tried_symmetric(w: Floats) -> Iterator[tuple[Floats, Floats]]:
    largest = np.abs(w).max(axis=-1, initial=0)
    largest, z = np.where(largest > 0, largest, np.float32(1)), np.zeros(w.shape[:-1], np.float32)
    for t in _TRIED:
        for sign in (1, -1):
            yield sign * t / largest, z


def _tried_affine(w: Floats) -> Iterator[tuple[Floats, Floats]]:
    lo, hi = np.minimum(w.min(axis=-1, initial=0), 0), np.maximum(w.max(axis=-1, initial=0), 0)
    span = np.where(hi > lo, hi - lo, np.float32(15))
    for share in _SHRUNK:
        s = span * (share / 15)
        middle = np.rint(_QMIN - lo * share / s)
        for shift in (-1, 0, 1):
            yield _ONE / s, np.clip(middle + np.float32(shift), _QMIN, _QMAX)


def _error(w: Floats, i: Floats | None, q: Floats, s: Floats, z: Floats) -> Doubles:
    squares = np.square((q - z[..., None]) * s[..., None] - w, dtype=np.float64)
    return squares.sum(axis=-1) if i is None else np.asarray(np.einsum("rgk,gk->rg", squares, i))
