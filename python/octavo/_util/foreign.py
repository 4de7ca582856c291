"""What users hand over as arrays, brought into NumPy's: one place for all of octavo.

NumPy reads many libraries' arrays without loss: torch and jax arrays on the CPU, data frames of numbers, lists. Where
it cannot, or where something would be lost without a word, the error shows the line to write.
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["as_array", "as_real", "is_extended", "is_real", "not_real", "refuse_masked"]

Array: TypeAlias = npt.NDArray[Any]


def as_array(x: object, name: str) -> Array:
    """x as an array, not copied where NumPy need not.

    Raises:
        TypeError: a masked array, whose mask would be lost, or what NumPy cannot read; the remedy is in the message.

    Example:
        >>> as_array([1, 2], "x")
        array([1, 2])
    """
    refuse_masked(x, name)
    try:
        return np.asarray(x)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(x, (list, tuple)) and isinstance(error, ValueError):  # of lists that differ in length
            raise ValueError(f"{name} must be an array, got a ragged {type(x).__name__}: {error}") from error
        reason, line = str(error).partition("\n")[0], _line(x, _in_code(name))
        raise TypeError(
            f"{name} must be an array, got {_kind(x)} that NumPy cannot read ({reason}); pass {line}"
        ) from error


def as_real(x: object, name: str) -> Array:
    """x as an array of float16, float32, float64, integers or bool; bfloat16 and its like become float32, exactly.

    Raises:
        TypeError: it holds anything else, or as for `as_array`.

    Example:
        >>> as_real([1, 2.5], "weight")
        array([1. , 2.5])
    """
    a = as_array(x, name)
    if is_extended(a.dtype):
        with np.errstate(all="ignore"):
            return a.astype(np.float32)
    if is_real(a.dtype) and a.dtype.itemsize <= 8:
        return a
    raise TypeError(not_real(x, a.dtype, name))


def not_real(x: object, dtype: np.dtype[Any], name: str) -> str:
    """What to say of x, whose dtype is not one of real numbers."""
    code, remedy = _in_code(name), "convert it first"
    if dtype.kind == "c":
        remedy += ", with .real or np.abs"
    elif dtype.kind == "f":
        remedy += f": {code}.astype(np.float64)"
    elif dtype.kind == "O" and _line(x, code) != code:
        remedy += f": {_line(x, code)}"
    elif dtype.kind in "OUS":
        remedy += f": np.asarray({code}, np.float32), if it holds nothing but numbers"
    numbers = "real numbers (float16, float32, float64, integers or bool)"
    return f"{name} must hold {numbers}, got {type(x).__name__} of dtype {dtype}; {remedy}"


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether it is one of real numbers: floats, integers, bool, and those of ml_dtypes that float32 holds."""
    return dtype.kind in "fiub" or is_extended(dtype)


def refuse_masked(x: object, name: str) -> None:
    """Raises TypeError for a masked array, whose mask would be lost."""
    masked = sys.modules.get("numpy.ma")  # not imported for this question: unless it is loaded, nothing is masked
    if masked is not None and isinstance(x, masked.MaskedArray):
        code = _in_code(name)
        raise TypeError(f"{name} must not be a masked array, whose mask would be lost; pass {code}.filled(value)")


def is_extended(dtype: np.dtype[Any]) -> bool:
    """Whether it is a type of ml_dtypes, as bfloat16, whose every value is one of float32."""
    return dtype.type.__module__.partition(".")[0] == "ml_dtypes" and np.can_cast(dtype, np.float32)


def _in_code(name: str) -> str:
    """What to call x in code, where "layer fc1, its input" cannot stand."""
    return "x" if " " in name else name


def _kind(x: object) -> str:
    library = type(x).__module__.partition(".")[0]
    return type(x).__name__ if library in ("builtins", "numpy") else f"a {library} {type(x).__name__}"


def _line(x: Any, name: str) -> str:
    """What to write in place of x; its name alone where nothing is known."""
    library = type(x).__module__.partition(".")[0]
    if library == "torch":
        steps = ".detach()" if getattr(x, "requires_grad", False) else ""
        steps += "" if getattr(getattr(x, "device", None), "type", "cpu") == "cpu" else ".cpu()"
        steps += ".to_dense()" if "sparse" in str(getattr(x, "layout", "")) else ""
        steps += ".float()" if str(getattr(x, "dtype", "")) in ("torch.bfloat16", "torch.float8_e4m3fn") else ""
        return f"{name}{steps or '.detach().cpu()'}.numpy()"
    if library == "pandas":
        return (
            f'{name}.select_dtypes("number").to_numpy(np.float32)'
            if hasattr(x, "select_dtypes")
            else (f"{name}.to_numpy(np.float32)")
        )
    if library == "polars":
        numbers = f"{name}.select(polars.selectors.numeric())" if hasattr(x, "select") else name
        return f"{numbers}.to_numpy()"
    if library in ("jax", "jaxlib"):
        return f"np.asarray({name}) outside of jax.jit and jax.grad, or call octavo through jax.pure_callback"
    if library == "scipy" and hasattr(x, "toarray"):
        return f"{name}.toarray()"
    if library == "cupy":
        return f"{name}.get()"
    return name if library == "builtins" or library == "numpy" else f"{name} as a NumPy array"
