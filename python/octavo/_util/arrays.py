"""What callers pass as arrays: checked with telling messages, and laid out as the kernels read them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from octavo._util.foreign import as_real, is_extended, refuse_masked

__all__ = [
    "as_real_array", "as_rows", "check_out", "contiguous", "first_place", "is_traced", "large_zeros", "read_only",
    "real_dtype", "require_finite", "row_blocks", "rows_in_place", "why_not_finite",
]  # fmt: skip

Array = npt.NDArray[Any]
_T = TypeVar("_T", bound=np.generic)

# What `row_blocks` takes at a time, where a row is no longer than that: 256 KiB of float32.
_BLOCK_ELEMENTS = 1 << 16
# From here on `large_zeros` maps pages.
_OWN_PAGES_BYTES = 1 << 17


def is_traced(x: object) -> bool:
    """Whether autograd is differentiating with respect to `x`. Does not import it: unless it is loaded, nothing is."""
    tracer = sys.modules.get("autograd.tracer")
    return tracer is not None and issubclass(type(x), tracer.Box)  # isinstance would ask a stand-in for its class


def as_real_array(x: npt.ArrayLike, name: str) -> Array:
    """`x` as `as_real` gives it; a value that autograd is differentiating is a TypeError, too.

    Example:
        >>> as_real_array([1j], "x")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        TypeError: x must hold real numbers (...), got list of dtype complex128; convert it first, with .real or np.abs
    """
    if is_traced(x):
        raise TypeError(
            f"{name} must be an array, got a value that autograd is differentiating ({type(x).__name__}): rounding has"
            " no gradient of its own. octavo.qat.fake_quantize passes one straight through"
        )
    return as_real(x, name)


def real_dtype(x: Array) -> np.dtype[Any]:
    """The type of a result computed from x: x's own where it holds floats, in native byte order; else float32."""
    is_float = x.dtype.kind == "f" or (is_extended(x.dtype) and "float" in x.dtype.name)
    return x.dtype.newbyteorder("=") if is_float else np.dtype(np.float32)


def first_place(bad: npt.NDArray[np.bool_], name: str) -> str:
    """How to write the first element, in C order, for which `bad` holds.

    Example:
        >>> first_place(np.array([[False, False], [True, True]]), "x")
        'x[1, 0]'
    """
    index = np.unravel_index(int(np.argmax(bad)), bad.shape)
    return f"{name}[{', '.join(str(int(i)) for i in index)}]" if index else name


def why_not_finite(x: Array, name: str) -> str:
    """What to say of an array that is not finite in float32: which value, where, and what to do."""
    bad, rule, fault, remedy = ~np.isfinite(x), "be finite", "NaN or infinite", "remove them"
    if not bad.any():
        with np.errstate(all="ignore"):
            bad = np.isinf(x.astype(np.float32))
        rule, fault, remedy = "fit float32 (up to 3.4028235e38)", "beyond it", f"scale {name} down"
    count, place = np.count_nonzero(bad), first_place(bad, name)
    first = f"the first ({x[bad][0]!s}) at {place}"
    return f"{name} must {rule}, got {count} of {x.size} values {fault}, {first}; {remedy}"


def require_finite(x: Array, name: str) -> None:
    """Raises ValueError where x is not finite in float32, and says where.

    Example:
        >>> require_finite(np.array([[1.0, np.nan]]), "w")
        Traceback (most recent call last):
        ValueError: w must be finite, got 1 of 2 values NaN or infinite, the first (nan) at w[0, 1]; remove them
    """
    with np.errstate(all="ignore"):
        blocks = row_blocks(x.shape) if x.dtype.kind == "f" else ()
        finite = all(np.isfinite(x[rows].astype(np.float32, copy=False)).all() for rows in blocks)
    if not finite:
        raise ValueError(why_not_finite(x, name))


def row_blocks(shape: tuple[int, ...]) -> Iterator[Any]:
    """Indices of an array's rows, some at a time: few enough for what is computed from them to stay in the cache.

    Weights may be as large as memory allows, so nothing of their size is made in passing.

    Example:
        >>> list(row_blocks((5, 30000)))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if not shape:
        yield ...
        return
    rows = max(1, _BLOCK_ELEMENTS // max(1, math.prod(shape[1:])))
    for first in range(0, shape[0], rows):
        yield slice(first, min(first + rows, shape[0]))


def large_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """As np.zeros, but a large array has pages of its own, which go back to the system when it dies.

    malloc keeps blocks of up to 32 MiB that it is given back. Without this, a process that has made many layers would
    hold the integers of one of them for ever.

    Example:
        >>> large_zeros((2, 2), np.int8)
        array([[0, 0],
               [0, 0]], dtype=int8)
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _OWN_PAGES_BYTES:
        return np.zeros(shape, dtype)
    import mmap  # not by importing octavo

    try:
        pages = mmap.mmap(-1, size)
    except OSError as error:
        raise MemoryError(f"no memory for an array of shape {shape} and type {dtype}: {size} bytes") from error
    return np.frombuffer(pages, dtype).reshape(shape)


def read_only(a: npt.NDArray[_T]) -> npt.NDArray[_T]:
    """The array itself, to which nobody writes from here on."""
    a.flags.writeable = False
    return a


def locked(a: npt.NDArray[_T]) -> npt.NDArray[_T]:
    """A read-only view that nobody can make writable, as an array can be that owns its memory, and a view of one.

    Example:
        >>> import numpy as np
        >>> from octavo._util.arrays import locked
        >>> locked(np.zeros(2)).flags.writeable = True
        Traceback (most recent call last):
        ValueError: cannot set WRITEABLE flag to True of this array
    """
    return np.asarray(memoryview(a).toreadonly())  # type: ignore[arg-type]


def check_out(out: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raises TypeError or ValueError where `out` cannot take a result of this shape and dtype."""
    refuse_masked(out, "out")
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy array, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, as the result has, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, as the result has, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")


def as_rows(a: Array) -> npt.NDArray[np.float32]:
    """(m, in) float32 with contiguous, aligned rows: a itself or a view of it where it has them, else a copy."""
    rows = a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) if a.ndim != 2 else a
    return rows if _rows_usable(rows) else contiguous(rows)


def contiguous(a: Array) -> npt.NDArray[np.float32]:
    """The array as float32, C-contiguous and aligned (np.ascontiguousarray promises no alignment): itself or a copy."""
    with np.errstate(all="ignore"):
        return np.require(a, np.float32, ("C", "A"))


def rows_in_place(out: Array, m: int, n: int) -> npt.NDArray[np.float32] | None:
    """`out` as (m, n) in the same memory, where the kernels can write to it; else None."""
    if out.ndim != 2:
        if not out.flags.c_contiguous:
            return None
        out = out.reshape(m, n)
    return out if _rows_usable(out) else None


def _rows_usable(a: Array) -> bool:
    item = 4
    return (
        a.dtype == np.float32
        and a.dtype.isnative
        and a.flags.aligned
        and (a.shape[1] <= 1 or a.strides[1] == item)
        and a.strides[0] % item == 0
    )
