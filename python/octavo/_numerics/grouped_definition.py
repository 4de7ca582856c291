"""What a product with grouped codes is, in NumPy: the kernels give these bits.

    A_g = sum over group g of q_x (c - z)        R_g = sum over group g of q_x        exact integers

    one level     acc = fma(float32(A_g), d[n, g], acc), then with a minimum acc = fma(float32(R_g), m[n, g], acc),
                  g ascending, from acc = 0
    two levels    S = sum of sc_g A_g and M = sum of mn_g R_g over a super-block of 256, exact integers:
                  acc = fma(float32(S), D, acc), then acc = fma(-float32(M), Dmin, acc)
    row           y = acc * s_x[m], then + b[n]
    in groups     f is acc as above, from 0 within the group of activations: y = fma(f, s_x[m, g], y), then + b[n]

q_x are a row's integers: int8 (less the zero point where the row is asymmetric), or int16 of two int8, 256 h + l.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from octavo._numerics.grouped import SUPER_BLOCK, GroupedCodes

__all__ = ["ACTIVATIONS", "ACTIVATION_GROUPS", "check_combination", "fma", "grouped_linear", "quantize_activations"]

GroupedActivation = Literal["symmetric", "asymmetric", "int16"]
ACTIVATIONS: tuple[GroupedActivation, ...] = ("symmetric", "asymmetric", "int16")
ACTIVATION_GROUPS = (32, 64, 128, 256)

_SMALLEST_RANGE = np.float32(2.0**-100)
_F = np.float32


def fma(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """a * b + c of float32 numbers, rounded once.

    The product is exact in float64. The sum's error is too (TwoSum): where it is not zero, the float64 sum is made odd,
    so that it lies between the same two float32 numbers and on the same side of their middle as the exact sum.

    Example:
        >>> import numpy as np
        >>> a = np.float32(1 + 2.0**-12)
        >>> float(fma(a, a, -1)) == 2.0**-11 + 2.0**-24, float(a * a - np.float32(1)) == 2.0**-11
        (True, True)
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        product = np.asarray(a, _F).astype(np.float64) * np.asarray(b, _F).astype(np.float64)
        addend = np.asarray(c, _F).astype(np.float64)
        total = np.asarray(product + addend)
        part = total - product
        error = np.asarray((product - (total - part)) + (addend - part))
        even = (total.view(np.int64) & 1) == 0
        inexact = np.isfinite(total) & (error != 0) & even
        odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
        return np.asarray(np.where(inexact, odd, total).astype(_F))


def check_combination(w: GroupedCodes, activation: str, activation_group: int | None) -> None:
    """ValueError where a product of these weights with such activations is not defined."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {ACTIVATIONS}, got {activation!r}")
    if w.group_scale is not None and activation == "asymmetric":
        largest = int(np.abs(w.codes.astype(np.int16)).max(initial=0)) * int(
            np.abs(w.group_scale.astype(np.int16)).max(initial=0)
        )
        if SUPER_BLOCK * 255 * largest > np.iinfo(np.int32).max:
            raise ValueError(
                f"sums of {SUPER_BLOCK} products of codes and scales up to {largest} with activations of 255 steps "
                'exceed int32; use activation="symmetric" or "int16"'
            )
    if activation_group is None:
        return
    if activation_group not in ACTIVATION_GROUPS:
        raise ValueError(f"activation_group must be one of {ACTIVATION_GROUPS} or None, got {activation_group!r}")
    if activation != "symmetric":
        raise ValueError(f'activation_group is defined for activation="symmetric" alone, got {activation!r}')
    if w.group_scale is not None and activation_group != SUPER_BLOCK:
        raise ValueError(
            f"weights with two-level scales take activations in groups of {SUPER_BLOCK} or a scale a row, "
            f"got activation_group={activation_group}"
        )
    if w.group_size is None or activation_group % w.group_size != 0:
        size = "one group a row" if w.group_size is None else f"groups of {w.group_size}"
        raise ValueError(f"activation_group must be a multiple of the weights' groups: {activation_group} for {size}")


def quantize_activations(
    x: npt.NDArray[np.float32], activation: str = "symmetric", group: int | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(q, scale): integers (M, K), less their zero point, and float32 scales (M, groups); NaN scales for NaN rows.

    symmetric: a = max|x|, s = a / 127, q = rint(x * (127 / a)); int16: 32639 in the place of 127.
    asymmetric: s = (hi - lo) / 255, with a zero point, lo = min(x, 0), hi = max(x, 0).
    A range below 2**-100: q = 0, s = 1.
    """
    m, k = x.shape
    size = group or max(k, 1)
    q = np.zeros((m, k), np.int64)
    scale = np.ones((m, -(-k // size) or 1), _F)
    for row in range(m):
        for g, start in enumerate(range(0, k, size)):
            part = slice(start, start + size)
            q[row, part], scale[row, g] = _quantize_run(x[row, part], activation)
    return q, scale


def _quantize_run(x: npt.NDArray[np.float32], activation: str) -> tuple[Any, Any]:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        lo, hi = np.minimum(x.min(), _F(0)), np.maximum(x.max(), _F(0))
        reach = hi - lo if activation == "asymmetric" else np.maximum(hi, -lo)
        if not np.isfinite(reach) or not np.isfinite(x).all():
            return 0, _F(np.nan)
        if reach < _SMALLEST_RANGE:
            return 0, _F(1)
        steps = {"symmetric": _F(127), "asymmetric": _F(255), "int16": _F(32639)}[activation]
        scale, q = reach / steps, np.rint(x * (steps / reach))
    if activation != "asymmetric":
        return q.astype(np.int64), scale
    zero_point = np.clip(_F(-128) - np.rint(lo / scale), _F(-128), _F(127))
    return np.clip(q, _F(-128) - zero_point, _F(127) - zero_point).astype(np.int64), scale


def grouped_linear(
    x: npt.NDArray[np.float32],
    w: GroupedCodes,
    bias: npt.NDArray[np.float32] | None = None,
    *,
    activation: str = "symmetric",
    activation_group: int | None = None,
    relu: bool = False,
) -> npt.NDArray[np.float32]:
    """y (M, N) of x (M, K) float32 and weights (N, K), as the head of this file defines it.

    Raises:
        ValueError: the combination is not defined.
    """
    check_combination(w, activation, activation_group)
    q, scale = quantize_activations(x, activation, activation_group)
    (m, k), n = x.shape, w.shape[0]
    steps = SUPER_BLOCK if w.group_scale is not None else (w.group_size or k)
    run = activation_group or k
    y = np.zeros((m, n), _F)
    for g, start in enumerate(range(0, k, run)):
        acc = np.zeros((m, n), _F)
        for first in range(start, min(k, start + run), steps):
            acc = _add_group(acc, q, w, first, steps)
        y = acc * scale[:, :1] if activation_group is None else fma(acc, scale[:, g : g + 1], y)
    if bias is not None:
        y = y + bias
    return np.where(np.isnan(y), y, np.where(y > 0, y, _F(0))) if relu else y


def _add_group(
    acc: npt.NDArray[np.float32], q: npt.NDArray[np.int64], w: GroupedCodes, first: int, size: int
) -> npt.NDArray[np.float32]:
    """acc with the group, or super-block, of `size` k from `first` on added."""
    k = slice(first, first + size)
    at = first // size
    codes, rows = w.codes[:, k].astype(np.float64), q[:, k].astype(np.float64)  # sums below 2^53: exact
    if w.zero_point is not None:
        codes -= w.zero_point[:, at, None]
    scale = w.scale[:, at].astype(_F)
    minimum = None if w.minimum is None else w.minimum[:, at].astype(_F)
    if w.group_scale is None or w.group_size is None:
        acc = fma((rows @ codes.T).astype(np.int64).astype(_F), scale, acc)
        return acc if minimum is None else fma(rows.sum(1).astype(np.int64).astype(_F)[:, None], minimum, acc)
    groups = slice(first // w.group_size, (first + size) // w.group_size)
    levels = np.repeat(w.group_scale[:, groups].astype(np.float64), w.group_size, axis=1)
    acc = fma((rows @ (codes * levels).T).astype(np.int64).astype(_F), scale, acc)
    if minimum is None or w.group_minimum is None:
        return acc
    sums = rows.reshape(len(rows), -1, w.group_size).sum(2) @ w.group_minimum[:, groups].T.astype(np.float64)
    return fma(-(sums.astype(np.int64).astype(_F)), minimum, acc)
