"""What layers are given: checked with telling messages, and arrays brought into the form that the kernels read."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo._numerics.arrays import as_array, as_real, is_real, not_real
from octavo._numerics.params import QTypeLike, as_qtype, qint4, qint8

__all__ = [
    "as_activations", "as_bias", "as_rows", "check_group_size", "check_out", "is_int4", "read_only", "rows_in_place",
]  # fmt: skip

_ROUNDINGS = ("nearest", "search")
_GROUP_STEP = 32  # the kernels take a group in steps of so many k

_T = TypeVar("_T", bound=np.generic)


def read_only(a: NDArray[_T]) -> NDArray[_T]:
    """The array itself, which nobody writes to from here on."""
    a.flags.writeable = False
    return a


def as_bias(bias: ArrayLike | None, n: int) -> NDArray[np.float32] | None:
    """A layer's bias (n,) as contiguous float32; TypeError or ValueError where it cannot be one."""
    if bias is None:
        return None
    b = as_real(bias, "bias")
    if b.shape != (n,):
        raise ValueError(f"bias must have shape ({n},) to fit the weight, got {b.shape}")
    with np.errstate(all="ignore"):
        b32 = np.ascontiguousarray(b, dtype=np.float32)
    if not bool(np.isfinite(b32).all()):
        at = int(np.flatnonzero(~np.isfinite(b32))[0])
        raise ValueError(f"bias must be finite in float32, got {b[at]} at index {at}")
    return b32


def as_activations(x: ArrayLike, in_features: int) -> NDArray[Any]:
    """x as an array of real numbers (..., in_features); TypeError or ValueError where it cannot be one."""
    a = as_array(x, "x")
    if not is_real(a.dtype):
        raise TypeError(not_real(x, a.dtype, "x"))
    if a.ndim == 0 or a.shape[-1] != in_features:
        raise ValueError(f"x must have shape (..., {in_features}) to fit the layer's inputs, got {a.shape}")
    return a


def check_out(out: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raises TypeError or ValueError where a result of this shape and dtype cannot be put into out."""
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


def is_int4(
    dtype: QTypeLike, *, group_size: int | None, symmetric: bool, scale_dtype: str, rounding: str | None
) -> bool:
    """Whether the weights are int4. Raises ValueError for another type, and for options that it does not have."""
    qtype = as_qtype(dtype)
    if qtype not in (qint8, qint4):
        raise ValueError(f"dtype must be int8 or int4, got {qtype.name}")
    if scale_dtype not in ("float32", "float16"):
        raise ValueError(f'scale_dtype must be "float32" or "float16", got {scale_dtype!r}')
    if rounding is not None and rounding not in _ROUNDINGS:
        raise ValueError(f"rounding must be one of {_ROUNDINGS} or None, got {rounding!r}")
    if qtype == qint4:
        return True
    given = {
        "group_size": group_size is not None and group_size,
        "symmetric": not symmetric and "False",
        "scale_dtype": scale_dtype != "float32" and scale_dtype,
        "rounding": rounding not in (None, "nearest") and rounding,
    }
    for name, value in given.items():
        if value is not False:
            raise ValueError(f'{name}={value} is for int4 weights; pass dtype="int4", or omit it')
    return False


def check_group_size(group_size: int | None) -> None:
    """Raises TypeError or ValueError where the kernels do not take groups of this size."""
    if group_size is None:
        return
    if isinstance(group_size, bool) or not isinstance(group_size, (int, np.integer)):
        raise TypeError(f"group_size must be a whole number or None, got {group_size!r}")
    if group_size <= 0 or group_size % _GROUP_STEP != 0:
        raise ValueError(
            f"group_size must be a multiple of {_GROUP_STEP}, or None for one group a row, got {group_size}; "
            "in_features need not be a multiple of it"
        )
