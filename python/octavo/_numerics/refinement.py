"""Refining weights that GPTQ has rounded: scales and integers in turn, each the best beside all others as they are.

GPTQ goes over the columns once: an integer that it has chosen stays, and so do scales that were searched before any
column was rounded. With H = X^T X (damped as GPTQ damps it), e = w - w' and R = e H for each row of the weight, the
output's squared error is e H e^T, and what a single parameter can still take from it is known in closed form:

    scale of group g     s += (d . R) / (d H d^T)      d = q - z within the group, 0 outside
    column k             w'[k] + R[k] / H[k, k]        is where column k would be best: its integer is the nearest one

Neither can raise the error. Source: cyclic coordinate descent, as in Behdin, Acharya, Gupta, Song, Zhu, Keerthi and
Mazumder, "QuantEase: Optimization-based Quantization for Language Models" (2023); the scales' step is least squares.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo._numerics.int4 import ScaleDtype

__all__ = ["refine_groups"]

Floats = npt.NDArray[np.float32]

_SMALLEST = np.float32(2.0**-126)  # of a scale
_COLUMNS = 128  # whose changes are spread at once behind them


def refine_groups(
    w: Floats, hessian: Floats, q: Floats, scale: Floats, zero: Floats, size: int, dtype: ScaleDtype, rounds: int
) -> None:
    """Goes over all groups of columns `rounds` times; q and scale are changed.

    Args:
        w: (K, N), the transposed weight: a column of the weight is one run of memory, as in all that follows.
        hessian: (K, K), positive definite.
        q: (K, N), from -8 to 7.
        scale, zero: (groups, N).
        size: columns of a group; the last may have fewer.
        dtype: which numbers scales are kept to.
        rounds: how often.
    """
    k = len(w)
    spans = [slice(start, min(k, start + size)) for start in range(0, k, size)]
    diagonal = hessian.diagonal()[:, None]
    for _ in range(rounds):
        wrong = np.empty_like(w)
        for g, columns in enumerate(spans):
            wrong[columns] = w[columns] - (q[columns] - zero[g]) * scale[g]
        rest = hessian @ wrong
        del wrong
        for g, columns in enumerate(spans):
            _fit_scale(hessian, rest, q, scale, zero, g, columns, dtype)
            for first in range(columns.start, columns.stop, _COLUMNS):
                block = slice(first, min(columns.stop, first + _COLUMNS))
                moved = _move_columns(hessian, rest, q, scale[g], zero[g], diagonal, block)
                rest[block.stop :] -= hessian[block.stop :, block] @ moved


def _fit_scale(
    hessian: Floats,
    rest: Floats,
    q: Floats,
    scale: Floats,
    zero: Floats,
    g: int,
    columns: slice,
    dtype: ScaleDtype,
) -> None:
    """The best scale of a group for its integers; rest changes from its first column on."""
    d = q[columns] - zero[g]
    slope = np.einsum("kn,kn->n", d, rest[columns])
    curvature = np.einsum("kn,kn->n", d, hessian[columns, columns] @ d)
    with np.errstate(all="ignore"):
        found = scale[g] + slope / curvature
        if dtype == "float16":
            found = found.astype(np.float16).astype(np.float32)
        change = found - scale[g]
        gains = np.sign(change) * np.sign(2 * slope - change * curvature) > 0  # a product of both might underflow
        better = (np.abs(found) >= _SMALLEST) & np.isfinite(found) & gains
    change = np.where(better, change, np.float32(0))
    scale[g] = np.where(better, found, scale[g])
    rest[columns.start :] -= hessian[columns.start :, columns] @ (d * change)


def _move_columns(
    hessian: Floats, rest: Floats, q: Floats, scale: Floats, zero: Floats, diagonal: Floats, block: slice
) -> Floats:
    """How w' changes in the columns of a block, one after the other; rest changes within the block."""
    inverse = 1 / scale
    moved = np.empty((block.stop - block.start, q.shape[1]), np.float32)
    for i, k in enumerate(range(block.start, block.stop)):
        d = q[k] - zero
        best = np.clip(np.rint(d + rest[k] / diagonal[k] * inverse) + zero, -8, 7)
        moved[i] = (best - q[k]) * scale
        q[k] = best
        rest[k + 1 : block.stop] -= hessian[k + 1 : block.stop, k, None] * moved[i]
    return moved
