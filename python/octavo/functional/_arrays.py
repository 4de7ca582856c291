"""What is not a plain float32 array: converted, computed on a contiguous copy, and put where the caller wants it.

The functions of this room first try the compiled part, which takes plain arrays and returns None for all else. What
follows here may take its time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo._util.arrays import as_real_array, check_out, is_traced, real_dtype

__all__ = ["Array", "as_parameter", "check_flag", "computed", "number", "operand", "whole"]

Array = npt.NDArray[Any]
Plain = npt.NDArray[np.float32]


def operand(x: npt.ArrayLike, name: str) -> tuple[Plain, np.dtype[Any]]:
    """(x as a plain float32 array, the type of the result)."""
    if is_traced(x):
        raise TypeError(
            f"{name} must be an array, got a value that autograd is differentiating ({type(x).__name__}): "
            "octavo.functional has no gradients. Use autograd.numpy while training"
        )
    a = as_real_array(x, name)
    return _plain(a), real_dtype(a)


def _plain(a: Array) -> Plain:
    with np.errstate(all="ignore"):  # float64 beyond float32 becomes infinite
        return np.require(np.asarray(a), np.float32, ["C", "A"])


def computed(
    compute: Callable[[], Plain | None], shape: tuple[int, ...], dtype: np.dtype[Any], out: Array | None
) -> Array:
    """compute() as the result's type, in `out` where it is given: which is checked first."""
    if out is not None:
        check_out(out, shape, dtype)
    y = compute()
    assert y is not None, "a plain array is always taken"
    with np.errstate(all="ignore"):
        if out is None:
            return y.astype(dtype, order="C", copy=False)
        np.copyto(out, y, casting="same_kind")
    return out


def as_parameter(value: npt.ArrayLike | None, name: str, columns: int) -> Plain | None:
    """The weight or bias of a norm, or None."""
    if value is None:
        return None
    a, _ = operand(value, name)
    if a.shape != (columns,):
        raise ValueError(f"{name} must have shape ({columns},), one element for each of x's last axis, got {a.shape}")
    return a


def number(value: Any, name: str) -> float:
    """One real number as a float; TypeError where it is something else."""
    a = np.asarray(value)
    if a.dtype.kind not in "iuf" or a.ndim:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    return float(a)


def whole(value: Any, name: str) -> int:
    """A whole number as an int; TypeError where it is something else."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def check_flag(value: Any, name: str) -> None:
    """Raises TypeError where it is neither true nor false."""
    if not isinstance(value, (int, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")
