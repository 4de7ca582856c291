"""Arrays that layers are given: checked with telling messages, and brought into the form that the kernels read."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["as_activations", "as_bias", "as_rows", "check_out", "read_only", "rows_in_place"]

_T = TypeVar("_T", bound=np.generic)


def read_only(a: NDArray[_T]) -> NDArray[_T]:
    a.flags.writeable = False
    return a


def as_bias(bias: ArrayLike | None, n: int) -> NDArray[np.float32] | None:
    if bias is None:
        return None
    b = np.asarray(bias)
    if b.dtype.kind not in "fiub":
        raise TypeError(f"bias must be real numbers, got dtype {b.dtype}")
    if b.shape != (n,):
        raise ValueError(f"bias must have shape ({n},) to fit the weight, got {b.shape}")
    with np.errstate(over="ignore"):
        b32 = np.ascontiguousarray(b, dtype=np.float32)
    if not bool(np.isfinite(b32).all()):
        at = int(np.flatnonzero(~np.isfinite(b32))[0])
        raise ValueError(f"bias must be finite in float32, got {b[at]} at index {at}")
    return b32


def as_activations(x: ArrayLike, in_features: int) -> NDArray[Any]:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("x must not be a masked array, whose mask would be lost; pass x.filled(value)")
    a = np.asarray(x)
    if a.dtype.kind not in "fiub":
        raise TypeError(f"x must be real numbers, got dtype {a.dtype}")
    if a.ndim == 0 or a.shape[-1] != in_features:
        raise ValueError(f"x must have shape (..., {in_features}) to fit the layer's inputs, got {a.shape}")
    return a


def check_out(out: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy array, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, as the result has, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, as the result has, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")


def as_rows(a: NDArray[Any]) -> NDArray[np.float32]:
    """(m, in) float32 with contiguous, aligned rows: a itself or a view where it is so already, else a copy."""
    rows = a.reshape(int(np.prod(a.shape[:-1])), a.shape[-1]) if a.ndim != 2 else a
    if _rows_usable(rows):
        return rows
    return np.ascontiguousarray(rows, dtype=np.float32)


def rows_in_place(out: NDArray[Any], m: int, n: int) -> NDArray[np.float32] | None:
    """out as (m, n) in the same memory, where the kernels can write to it; else None."""
    if out.ndim != 2:
        if not out.flags.c_contiguous:
            return None
        out = out.reshape(m, n)
    return out if _rows_usable(out) else None


def _rows_usable(a: NDArray[Any]) -> bool:
    item = 4
    return (
        a.dtype == np.float32
        and a.dtype.isnative
        and a.flags.aligned
        and (a.shape[1] <= 1 or a.strides[1] == item)
        and a.strides[0] % item == 0
    )
