"""What products of integers are given: checked as `numpy.matmul` checks it, and brought into the core's form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from octavo import _core
from octavo._util.foreign import as_array, refuse_masked

__all__ = ["Out", "as_core_array", "integer_array", "matmul_shape", "result_dtype", "with_result"]

Out: TypeAlias = NDArray[Any] | tuple[NDArray[Any] | None] | None
"""An array, or a tuple of one as NumPy's own functions take it."""

_KINDS = "biu"


def integer_array(x: ArrayLike, name: str, other: str = "np.matmul") -> NDArray[Any]:
    """x as a plain array of integers or bool, not copied; TypeError for anything else."""
    array = as_array(x, name)
    if array.dtype.kind not in _KINDS:
        raise TypeError(
            f"{name} must be an array of integers or bool, got {type(x).__name__} of dtype {array.dtype}; "
            f"use {other} for other types"
        )
    return array


def result_dtype(a: np.dtype[Any], b: np.dtype[Any], dtype: DTypeLike | None) -> np.dtype[Any]:
    """The type that sums are taken in: `dtype`, or NumPy's promotion; TypeError where that is none of ours."""
    if dtype is None:
        result = np.result_type(a, b)
        if result.kind not in _KINDS:
            raise TypeError(
                f"{a} and {b} promote to {result} in NumPy; pass dtype=np.int64 for integers modulo 2**64, "
                "or use np.matmul"
            )
        return result
    result = np.dtype(dtype).newbyteorder("=")
    if result.kind not in _KINDS:
        raise TypeError(f"dtype must be of integers or bool, got {result}; use np.matmul for other types")
    for operand, name in ((a, "a"), (b, "b")):
        if not np.can_cast(operand, result, "same_kind"):
            raise TypeError(
                f"{name} of dtype {operand} cannot be cast to dtype={result} with casting rule 'same_kind'; "
                f"convert it with astype, or pass another dtype"
            )
    return result


def matmul_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the product of arrays of these shapes; NumPy's own ValueError where they do not fit."""
    if a and b and a[-1] == b[-2 if len(b) > 1 else -1]:
        try:
            stack = np.broadcast_shapes(a[:-2], b[:-2])
        except ValueError:
            pass
        else:
            return stack + a[-2:-1] + (b[-1:] if len(b) > 1 else ())
    one = np.zeros((), np.int8)
    np.matmul(np.broadcast_to(one, a), np.broadcast_to(one, b))
    raise AssertionError(f"NumPy multiplies shapes {a} and {b}")


def as_core_array(x: NDArray[Any], result: np.dtype[Any]) -> NDArray[Any]:
    """x aligned and in native byte order, copied where it is not; bool as 0 and 1 where the result is integers."""
    if not (x.flags.aligned and x.dtype.isnative):
        x = np.array(x, dtype=x.dtype.newbyteorder("="))
    if x.dtype.kind == "b" and result.kind != "b":
        x = x.view(np.uint8)
        if x.max(initial=0) > 1:  # NumPy counts every true byte as 1
            x = (x != 0).view(np.uint8)
    return x


def with_result(
    out: Out,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    inputs: tuple[NDArray[Any], ...],
    compute: Callable[[NDArray[Any]], None],
    *,
    contiguous: bool = False,
) -> Any:
    """compute(y) on a new array, or on `out` where the core can write to it; else by way of a new array.

    `contiguous`: compute needs a y that is C-contiguous.
    """
    given = out[0] if isinstance(out, tuple) and len(out) == 1 else out
    if given is None:
        y = _empty(shape, dtype)
        compute(y)
        return y if shape else y[()]
    target = _checked_out(given, shape, dtype)
    usable = (
        target.shape == shape and _writable_in_place(target, dtype) and (target.flags.c_contiguous or not contiguous)
    )
    if usable and not any(np.may_share_memory(target, x) for x in inputs):
        compute(target)
    else:
        y = _empty(shape, dtype)
        compute(y)
        np.copyto(target, y, casting="same_kind")
    return target


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    rows = math.prod(shape[:-1])
    return _core.empty_result(rows, shape[-1] if shape else 1, dtype).reshape(shape)


def _checked_out(target: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    refuse_masked(target, "out")
    if not isinstance(target, np.ndarray):
        raise TypeError(f"out must be a numpy array, got {type(target).__name__}")
    if not target.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")
    if not np.can_cast(dtype, target.dtype, "same_kind"):
        raise TypeError(
            f"out of dtype {target.dtype} cannot hold the result's {dtype} with casting rule 'same_kind'; "
            f"pass an out of {dtype}"
        )
    longer = target.ndim - len(shape)
    # NumPy lets a stack of results be longer than its operands, but no matrix.
    core = min(2, len(shape))
    fits = longer >= 0 and target.shape[target.ndim - core :] == shape[len(shape) - core :]
    if not fits or np.broadcast_shapes(target.shape, shape) != target.shape:
        raise ValueError(f"out must have shape {shape}, as the result has; {target.shape} is non-broadcastable with it")
    return target


def _writable_in_place(target: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether the core can write to it: its type, aligned, rows whose elements lie together, none in two places."""
    if (target.dtype.kind, target.dtype.itemsize) != (dtype.kind, dtype.itemsize):
        return False
    if not (target.dtype.isnative and target.flags.aligned):
        return False
    inside = target.dtype.itemsize
    for length, stride in zip(reversed(target.shape), reversed(target.strides), strict=True):
        if length > 1 and (stride < inside or stride % target.dtype.itemsize != 0):
            return False
        if length > 1:
            inside = stride * length
    return target.ndim == 0 or target.shape[-1] <= 1 or target.strides[-1] == target.dtype.itemsize
