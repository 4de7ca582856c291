"""What layers are given: their bias, activations and options, checked with telling messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo._numerics.params import QTypeLike, as_weight_qtype, qint4
from octavo._util.arrays import as_real_array, contiguous, require_finite
from octavo._util.foreign import as_array, as_real, is_real, not_real

__all__ = ["as_activations", "as_bias", "as_input_rows", "check_group_size", "check_inputs", "is_int4"]

_ROUNDINGS = ("nearest", "search")
_GROUP_STEP = 32  # the kernels take a group in steps of so many k


def as_bias(bias: ArrayLike | None, n: int) -> NDArray[np.float32] | None:
    """A layer's bias (n,) as contiguous float32.

    Raises:
        TypeError: it is not real, or masked.
        ValueError: it has another shape, or is not finite in float32.
    """
    if bias is None:
        return None
    b = as_real(bias, "bias")
    if b.shape != (n,):
        raise ValueError(f"bias must have shape ({n},) to fit the weight, got {b.shape}")
    require_finite(b, "bias")
    return contiguous(b)


def as_activations(x: ArrayLike, in_features: int, out_features: int) -> NDArray[Any]:
    """x as an array of real numbers (..., in_features), not copied.

    Raises:
        TypeError: it is not real, or masked.
        ValueError: its last axis is not in_features.
    """
    a = as_array(x, "x")
    if not is_real(a.dtype):
        raise TypeError(not_real(x, a.dtype, "x"))
    check_inputs(a.shape, (out_features, in_features))
    return a


def check_inputs(shape: tuple[int, ...], weight: tuple[int, ...], where: str = "") -> None:
    """Raises ValueError unless x of this shape fits a weight (out, in)."""
    if shape[-1:] != weight[1:]:
        hint = "; that fits its outputs: is the weight transposed?" if shape[-1:] == weight[:1] else ""
        raise ValueError(f"{where}x must have shape (..., {weight[1]}) to fit the layer's inputs, got {shape}{hint}")


def as_input_rows(x: ArrayLike, in_features: int) -> NDArray[Any]:
    """x (..., in_features) as rows, in its own dtype, for what collects statistics of a layer's inputs.

    Raises:
        TypeError: x is not real.
        ValueError: its last axis is not in_features.
    """
    values = as_real_array(x, "inputs")
    if values.ndim == 0 or values.shape[-1] != in_features:
        raise ValueError(f"inputs must have shape (..., {in_features}), got {values.shape}")
    return values.reshape(math.prod(values.shape[:-1]), in_features)


def is_int4(
    dtype: QTypeLike, *, group_size: int | None, symmetric: bool, scale_dtype: str, rounding: str | None
) -> bool:
    """Whether the weights are int4. ValueError for another type, and for options that the type does not have."""
    qtype = as_weight_qtype(dtype)
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
