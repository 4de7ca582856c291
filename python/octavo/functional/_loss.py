"""Cross entropy, for evaluating models that classify or predict tokens."""

from __future__ import annotations

import math
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from octavo import _core
from octavo._util.arrays import as_real_array
from octavo.functional._arrays import Array, operand

__all__ = ["cross_entropy"]


@overload
def cross_entropy(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    ignore_index: int | None = -100,
) -> float: ...
@overload
def cross_entropy(
    logits: npt.ArrayLike, targets: npt.ArrayLike, *, reduction: Literal["none"], ignore_index: int | None = -100
) -> Array: ...
def cross_entropy(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    reduction: Literal["mean", "sum", "none"] = "mean",
    ignore_index: int | None = -100,
) -> float | Array:
    """-log(softmax(logits)[target]) of each row: how surprising the targets are, in nats.

    Args:
        logits: (..., classes); float32 is computed as it is, other real numbers are converted to it.
        targets: (...) integers from 0 to classes - 1.
        reduction: "mean", "sum", or "none" for the loss of each row. exp of the mean is the perplexity.
        ignore_index: a target that marks rows to leave out, whose loss is 0. None: there is no such target.

    Returns:
        A float; for "none" an array (...) of float32, or of the logits' own dtype where that is float16 or float64.

    Raises:
        TypeError: logits do not hold real numbers, or targets integers.
        ValueError: logits have no class, shapes do not fit, a target is out of range, or reduction is another word.

    Note:
        A row's loss is log(s) - (logits[target] - m) with m and s of `log_softmax`. The sum is exact (math.fsum) and
        rounded once, to float64; the mean is that divided by the number of rows that count, NaN where none does.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.cross_entropy(np.zeros((2, 4), np.float32), [0, 3])
        1.3862943649291992
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')
    x, dtype = operand(logits, "logits")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"logits must have shape (..., classes) with at least one class, got {x.shape}")
    at = as_real_array(targets, "targets")
    if at.dtype.kind not in "iu":
        raise TypeError(f"targets must hold integers, got {at.dtype}")
    if at.shape != x.shape[:-1]:
        raise ValueError(f"targets must have shape {x.shape[:-1]}, an integer a row of logits, got {at.shape}")
    rows, index = x.reshape(-1, x.shape[-1]), at.reshape(-1)
    counts = np.ones(index.shape, np.bool_) if ignore_index is None else index != ignore_index
    outside = counts & ((index < 0) | (index >= rows.shape[1]))
    if outside.any():
        raise ValueError(f"targets must be from 0 to {rows.shape[1] - 1}, got {index[outside][0]}")
    losses = np.zeros(index.shape, np.float32)
    if counts.any():
        chosen = np.flatnonzero(counts)
        most, log_sum = _core.log_sum(rows).T
        with np.errstate(all="ignore"):
            losses[chosen] = log_sum[chosen] - (rows[chosen, index[chosen].astype(np.intp)] - most[chosen])
    if reduction == "none":
        with np.errstate(all="ignore"):
            return losses.reshape(at.shape).astype(dtype)
    values = losses[counts].tolist()
    total = math.fsum(values) if all(map(math.isfinite, values)) else float(sum(values))
    if reduction == "sum":
        return total
    return total / len(values) if values else math.nan
