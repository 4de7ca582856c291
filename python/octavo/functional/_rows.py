"""Functions of rows: softmax and its relatives, norms."""

from __future__ import annotations

import operator

import numpy as np
import numpy.typing as npt

from octavo import _core
from octavo.functional._arrays import Array, as_parameter, check_eps, computed, operand

__all__ = ["layer_norm", "log_softmax", "rms_norm", "softmax"]

_SOFTMAX, _LOG_SOFTMAX = range(2)  # Rowwise in csrc/kernels/functions.h


def softmax(x: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """exp(x) / sum exp(x) along an axis."""
    y = _core.rowwise(_SOFTMAX, x, out) if axis == -1 else None
    return _along(_SOFTMAX, x, axis, out) if y is None else y


def log_softmax(x: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """log(softmax(x)) along an axis."""
    y = _core.rowwise(_LOG_SOFTMAX, x, out) if axis == -1 else None
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
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis."""
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
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last axis."""
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
    return a, dtype, check_eps(eps)
