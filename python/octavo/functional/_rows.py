"""Functions of rows: softmax and its relatives, norms."""

from __future__ import annotations

import operator

import numpy as np
import numpy.typing as npt

from octavo import _core
from octavo.functional._arrays import Array, as_parameter, computed, number, operand

__all__ = ["layer_norm", "log_softmax", "rms_norm", "softmax"]

_SOFTMAX, _LOG_SOFTMAX = range(2)  # Rowwise in csrc/kernels/functions.h


def softmax(x: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """e / sum(e) with e = exp(x - max(x)), along an axis.

    Args:
        x: any shape but a scalar's; float32 is computed as it is, other real numbers are converted to it.
        axis: the axis whose elements become probabilities.
        out: an array of the result's shape and dtype, which may be strided or x itself.

    Returns:
        The shape of x; float16 and float64 input gives its own dtype back, all else float32.

    Raises:
        TypeError: x does not hold real numbers, axis is not an integer, or out is not an array of the result's dtype.
        ValueError: x has no such axis, or out has another shape or is read-only.

    Note:
        Each row by itself: the exponentials are added in 16 lanes, then lane to lane in a fixed order, and multiplied
        by the reciprocal of their sum. A NaN or +infinity anywhere makes its row NaN, and so do -infinities alone, as
        in PyTorch; beside finite numbers -infinity gives 0.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.softmax(np.float32([[0, 0], [-np.inf, 1]]))
        array([[0.5, 0.5],
               [0. , 1. ]], dtype=float32)
    """
    y = _core.rowwise(_SOFTMAX, x, out) if type(axis) is int and axis == -1 else None
    return _along(_SOFTMAX, x, axis, out) if y is None else y


def log_softmax(x: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """(x - max(x)) - log(sum(exp(x - max(x)))), along an axis: the logarithm of `softmax`, also where that is 0.

    Args:
        x: any shape but a scalar's; float32 is computed as it is, other real numbers are converted to it.
        axis: the axis whose elements become logarithms of probabilities.
        out: an array of the result's shape and dtype, which may be strided or x itself.

    Returns:
        The shape of x; float16 and float64 input gives its own dtype back, all else float32.

    Raises:
        TypeError: x does not hold real numbers, axis is not an integer, or out is not an array of the result's dtype.
        ValueError: x has no such axis, or out has another shape or is read-only.

    Note:
        Sums and special values as in `softmax`.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.log_softmax(np.float32([0, -200]))
        array([   0., -200.], dtype=float32)
    """
    y = _core.rowwise(_LOG_SOFTMAX, x, out) if type(axis) is int and axis == -1 else None
    return _along(_LOG_SOFTMAX, x, axis, out) if y is None else y


def _along(function: int, x: npt.ArrayLike, axis: int, out: Array | None) -> Array:
    a, dtype = operand(x, "x")
    try:
        at = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an integer, got {type(axis).__name__}") from None
    if not -a.ndim <= at < a.ndim:
        raise ValueError(f"axis must be an axis of x, which has {a.ndim}, got {at}")
    rows = np.ascontiguousarray(np.moveaxis(a, at, -1))

    def compute() -> Array | None:
        y = _core.rowwise(function, rows, None)
        return None if y is None else np.moveaxis(y, -1, at)

    return computed(compute, a.shape, dtype, out)


def rms_norm(x: npt.ArrayLike, weight: npt.ArrayLike | None = None, *, eps: float, out: Array | None = None) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis.

    Args:
        x: (..., columns); float32 is computed as it is, other real numbers are converted to it.
        weight: (columns,), or None for ones.
        eps: added to the mean; finite, not negative. It has no default, because models differ.
        out: an array of the result's shape and dtype, which may be strided or x itself.

    Returns:
        The shape of x; float16 and float64 input gives its own dtype back, all else float32.

    Raises:
        TypeError: an argument is of the wrong kind, or out is not an array of the result's dtype.
        ValueError: x is a scalar, weight has another shape, eps is negative or not finite, or out has another shape or
            is read-only.

    Note:
        y = (x r) weight with r = 1 / sqrt(s / columns + eps), each operation rounded once. s is the sum of squares by
        fused multiply-adds in 16 lanes, which are then added in a fixed order.

    References:
        Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.rms_norm(np.float32([[3, -4]]), eps=0.0)
        array([[ 0.84852815, -1.1313709 ]], dtype=float32)
    """
    if type(eps) is float and (y := _core.rms_norm(x, weight, eps, out)) is not None:
        return y
    a, dtype, eps = _norm_operand(x, eps)
    w = as_parameter(weight, "weight", a.shape[-1])
    if a.size == 0:
        return computed(lambda: a, a.shape, dtype, out)
    return computed(lambda: _core.rms_norm(a, w, eps, None), a.shape, dtype, out)


def layer_norm(
    x: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    *,
    eps: float,
    out: Array | None = None,
) -> Array:
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last axis.

    Args:
        x: (..., columns); float32 is computed as it is, other real numbers are converted to it.
        weight: (columns,), or None for ones.
        bias: (columns,), or None for zeros.
        eps: added to the variance; finite, not negative. It has no default, because models differ.
        out: an array of the result's shape and dtype, which may be strided or x itself.

    Returns:
        The shape of x; float16 and float64 input gives its own dtype back, all else float32.

    Raises:
        TypeError: an argument is of the wrong kind, or out is not an array of the result's dtype.
        ValueError: x is a scalar, weight or bias has another shape, eps is negative or not finite, or out has another
            shape or is read-only.

    Note:
        In two passes: d = x - s / columns, then y = d r with r = 1 / sqrt(v / columns + eps), where s is the sum of x
        and v that of d^2 by fused multiply-adds, each in 16 lanes, which are then added in a fixed order. A weight
        multiplies y, a bias is added, and both together are one fused multiply-add.

    References:
        Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.layer_norm(np.float32([[1, 3]]), eps=0.0)
        array([[-1.,  1.]], dtype=float32)
    """
    if type(eps) is float and (y := _core.layer_norm(x, weight, bias, eps, out)) is not None:
        return y
    a, dtype, eps = _norm_operand(x, eps)
    w, b = as_parameter(weight, "weight", a.shape[-1]), as_parameter(bias, "bias", a.shape[-1])
    if a.size == 0:
        return computed(lambda: a, a.shape, dtype, out)
    return computed(lambda: _core.layer_norm(a, w, b, eps, None), a.shape, dtype, out)


def _norm_operand(x: npt.ArrayLike, eps: float) -> tuple[npt.NDArray[np.float32], np.dtype[np.float32], float]:
    a, dtype = operand(x, "x")
    if a.ndim == 0:
        raise ValueError("x must have at least one axis, over whose elements the norm is taken; got a scalar")
    if not 0 <= (added := number(eps, "eps")) < np.inf:
        raise ValueError(f"eps must be finite and not negative, got {eps}")
    return a, dtype, added
