"""Scales of a layer's inputs, as SmoothQuant and AWQ choose them: x' = x * c[k] and W' = W * s[k].

    c = fl(1 / s)        stored once
    x' = x * c[k]        in the pass that quantizes x, which then goes on with x' as with any x
    W' = W * s[k]        before the weight is quantized

s divides what is hard to quantize out of the inputs and multiplies it into the weights: x W^T = x' W'^T but for
rounding. All of it is float32, each operation rounded once. The kernels give the bits of `scaled_inputs` followed by
the layer without scales.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from octavo._util.arrays import as_real_array

__all__ = ["as_input_scale", "input_factors", "scaled_inputs", "scaled_weight"]

_SMALLEST, _LARGEST = np.float32(2.0**-126), np.float32(2.0**126)  # between them 1 / s is a normal number too


def as_input_scale(
    scale: npt.ArrayLike | None, inputs: int, name: str = "pre_quant_scale"
) -> npt.NDArray[np.float32] | None:
    """A scale for each of a layer's inputs, checked: (K,) float32, contiguous; None stays None.

    Raises:
        TypeError: it does not hold real numbers.
        ValueError: it has another shape, or an element is zero, negative, NaN, infinite, or beyond 2**-126 .. 2**126.

    Example:
        >>> as_input_scale([1, 2], 2)
        array([1., 2.], dtype=float32)
    """
    if scale is None:
        return None
    given = as_real_array(scale, name)
    if given.shape != (inputs,):
        raise ValueError(f"{name} must have shape ({inputs},), a scale for each input, got {given.shape}")
    with np.errstate(over="ignore", under="ignore"):
        s = np.array(given, np.float32)
    bad = ~((s >= _SMALLEST) & (s <= _LARGEST))
    if bad.any():
        k = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{name} must be positive and finite, 2**-126 to 2**126, got {given[k]!s} at input {k}; "
            "use 1 for inputs that need no scale, such as those that are always zero"
        )
    return s


def input_factors(scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """c = fl(1 / s).

    Example:
        >>> input_factors(np.float32([2, 0.5]))
        array([0.5, 2. ], dtype=float32)
    """
    return np.float32(1) / scale


def scaled_inputs(x: npt.ArrayLike, scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """x' = x * c[k], the definition of what the kernels quantize: (..., K) float32.

    Example:
        >>> scaled_inputs([[4.0, 1.0]], np.float32([2, 0.5]))
        array([[2., 2.]], dtype=float32)
    """
    with np.errstate(all="ignore"):
        return np.asarray(x, np.float32) * input_factors(scale)


def scaled_weight(weight: npt.NDArray[Any], scale: npt.NDArray[np.float32] | None) -> npt.NDArray[Any]:
    """W' = W * s[k] of W (N, K) in float32; W itself where there is no scale.

    Raises:
        ValueError: a product overflows.

    Example:
        >>> scaled_weight(np.float32([[1, 1]]), np.float32([2, 0.5]))
        array([[2. , 0.5]], dtype=float32)
    """
    if scale is None:
        return weight
    with np.errstate(all="ignore"):
        w = np.asarray(weight, np.float32)
        scaled = w * scale
    bad = ~np.isfinite(scaled) & np.isfinite(w)
    if bad.any():
        n, k = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"weight times pre_quant_scale must be finite, got {w[n, k]!s} * {scale[k]!s} at [{n}, {k}]; "
            "choose smaller scales"
        )
    return scaled
