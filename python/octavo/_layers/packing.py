"""Packed weights: integers laid out for the kernels, in the compiled layers PackedLinear and PackedLinearInt4.

Here they are made from integers and scales, and read back: a QuantLinear keeps nothing else of its weight.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from octavo import _core
from octavo._layers.epilogue import Epilogue
from octavo._numerics.grouped_definition import ACTIVATIONS
from octavo._numerics.input_transform import NO_TRANSFORM, InputTransform
from octavo._numerics.int4 import GroupedWeight, ScaleDtype, dequantize_groups
from octavo._util.floating import quiet

__all__ = [
    "Packed", "check_weight_shape", "empty_result", "exact_inputs", "no_result", "pack_grouped", "pack_int8",
    "packed_epilogue", "scale_dtype", "weight_columns", "weight_rows", "whole_weight", "zero_points",
]  # fmt: skip

Packed: TypeAlias = _core.PackedLinear | _core.PackedLinearInt4


def check_weight_shape(
    w: NDArray[Any], activation: str, *, int4: bool = False, group_size: int | None = None, symmetric: bool = True
) -> None:
    """Raises ValueError where w cannot be a layer's weight."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {ACTIVATIONS}, got {activation!r}")
    if w.ndim != 2:
        raise ValueError(f"weight must be 2-D (out, in), got shape {w.shape}")
    inputs, bound = exact_inputs(w.shape[1], activation, int4=int4, group_size=group_size, symmetric=symmetric)
    if inputs > bound:
        raise ValueError(
            f"weight has {inputs} input features{' in a group' if int4 else ''}; int32 sums are exact up to {bound} "
            f"with activation={activation!r}. {'Choose smaller groups, or split' if int4 else 'Split'} the layer along "
            "its inputs and add the results"
        )


def exact_inputs(
    inputs: int, activation: str, *, int4: bool, group_size: int | None, symmetric: bool
) -> tuple[int, int]:
    """(inputs whose products are added in int32 - all of a layer's, of int4 weights those of a group -, the most that
    are added exactly).
    """
    wide = activation == "asymmetric"
    if int4:
        return min(inputs, group_size or inputs), _core.max_exact_group_k(wide, not symmetric)
    return inputs, _core.max_exact_k(wide, False)


def packed_epilogue(epilogue: Epilogue | None) -> dict[str, Any]:
    """An epilogue as the compiled layers take it: ReLU belongs to the kernels, the others are functions behind them."""
    relu = epilogue == "relu"
    return {"relu": relu, "epilogue": None if relu else epilogue}


def pack_int8(
    q: NDArray[np.int8],
    scale: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    activation: str,
    *,
    epilogue: Epilogue | None = None,
    inputs: InputTransform = NO_TRANSFORM,
) -> _core.PackedLinear:
    asymmetric = activation == "asymmetric"
    return _core.PackedLinear(
        q, scale, bias, asymmetric=asymmetric, **inputs.packing(q.shape[1]), **packed_epilogue(epilogue)
    )


def pack_grouped(
    weight: GroupedWeight,
    bias: NDArray[np.float32] | None,
    activation: str,
    *,
    epilogue: Epilogue | None = None,
    inputs: InputTransform = NO_TRANSFORM,
) -> _core.PackedLinearInt4:
    return _core.PackedLinearInt4(
        weight.q,
        np.ascontiguousarray(weight.scale, dtype=weight.scale_dtype),
        weight.zero_point,
        bias,
        group_k=weight.group_size or 0,
        asymmetric=activation == "asymmetric",
        **inputs.packing(weight.q.shape[1]),
        **packed_epilogue(epilogue),
    )


def scale_dtype(packed: Packed) -> ScaleDtype:
    """What the scales are held as."""
    return "float16" if packed.scale().dtype == np.float16 else "float32"


def zero_points(packed: Packed) -> NDArray[np.int8] | None:
    """(out, groups); None where the weights are symmetric."""
    return packed.zero_point() if isinstance(packed, _core.PackedLinearInt4) and not packed.symmetric else None


@quiet
def whole_weight(packed: Packed, group_size: int | None) -> NDArray[np.float32]:
    """The weight, dequantized: (out, in)."""
    q = packed.int_repr()
    if isinstance(packed, _core.PackedLinear):
        return np.multiply(q, packed.scale()[:, None], dtype=np.float32)
    return dequantize_groups(q, packed.scale(), zero_points(packed), group_size)


@quiet
def weight_rows(packed: Packed, group_size: int | None, outputs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Some rows of the weight, dequantized: (len(outputs), in)."""
    q = packed.int_rows(outputs)
    if isinstance(packed, _core.PackedLinear):
        return np.multiply(q, packed.scale()[outputs, None], dtype=np.float32)
    zero_point = None if packed.symmetric else packed.zero_point(outputs)
    return dequantize_groups(q, packed.scale(outputs), zero_point, group_size)


@quiet
def weight_columns(packed: Packed, group_size: int | None, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Some columns of the weight, dequantized: (len(inputs), out)."""
    q = packed.int_columns(inputs)
    if isinstance(packed, _core.PackedLinear):
        return np.multiply(q, packed.scale(), dtype=np.float32)
    group = np.zeros_like(inputs) if group_size is None else inputs // group_size
    groups, at = np.unique(group, return_inverse=True)
    values = q.astype(np.float32)
    if not packed.symmetric:
        values -= packed.zero_point(groups=groups).T[at]
    values *= packed.scale(groups=groups).T[at]
    return values


def no_result(x: object) -> None:
    """In the place of `Packed.try_call` where no x has a shorter way."""


def empty_result(m: int, n: int, dtype: DTypeLike) -> NDArray[Any]:
    """Uninitialised (m, n); a large one from the pool of large results."""
    return _core.empty_result(m, n, np.dtype(dtype))
