"""Weights as the kernels hold them: one class a format, each with the compiled object and what can be asked of it.

    Int8Weights       one scale an output, plain int8 activations
    Int4Weights       int4 in groups of any multiple of 32, plain int8 activations
    GroupedWeights    all other: 4 to 8 bits, minima or two levels of scales, int16 activations or in groups

What the compiled objects share stands in `PackedLayer` of _core.pyi.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo._layers.epilogue import Epilogue
from octavo._layers.packing import (
    pack_grouped,
    pack_int8,
    packed_epilogue,
    scale_dtype,
    weight_columns,
    weight_rows,
    whole_weight,
    zero_points,
)
from octavo._numerics.grouped import GroupedCodes, dequantize_columns
from octavo._numerics.grouped_definition import check_combination
from octavo._numerics.input_transform import NO_TRANSFORM, InputTransform
from octavo._numerics.int4 import GroupedWeight, ScaleDtype, pack_int4, unpack_int4
from octavo._numerics.params import QType, code_qtype, qint4, qint8
from octavo._numerics.planes import join_planes, split_planes

__all__ = [
    "ROTATED_VERSION",
    "SCALED_VERSION",
    "ActivationScheme",
    "GroupedWeights",
    "Int4Weights",
    "Int8Weights",
    "PackedLayer",
    "Weights",
    "as_codes",
    "from_state",
    "pack",
    "shape_of",
]

ActivationScheme = Literal["symmetric", "asymmetric", "int16"]

# Of the state of a layer with a pre_quant_scale, or with a rotation, whatever the format of its weights.
SCALED_VERSION, ROTATED_VERSION = 4, 6

Floats = NDArray[np.float32]

PackedLayer: TypeAlias = "_core.PackedLayer[Any]"  # which stands in _core.pyi alone


class Weights(Protocol):
    """What a layer asks of its weights, whatever their format."""

    @property
    def packed(self) -> PackedLayer: ...
    @property
    def qtype(self) -> QType: ...
    @property
    def group_size(self) -> int | None: ...
    @property
    def activation_group(self) -> int | None: ...
    @property
    def symmetric(self) -> bool: ...
    @property
    def scale_dtype(self) -> ScaleDtype: ...
    def scale(self) -> Floats:
        """float32: (out,) for int8 weights, else (out, groups)."""

    def zero_point(self) -> NDArray[np.int32]:
        """As many as scales."""

    def dequantize(self) -> Floats:
        """(out, in)."""

    def rows(self, outputs: NDArray[np.int64]) -> Floats:
        """(len(outputs), in), dequantized."""

    def columns(self, inputs: NDArray[np.int64]) -> Floats:
        """(len(inputs), out), dequantized."""

    def options(self) -> dict[str, Any]:
        """For a repr: by name; True shows the name alone, and None nothing."""

    def state(self) -> dict[str, Any]:
        """Arrays and plain values, from which `from_state` makes the weights again."""


@dataclass(frozen=True, slots=True, eq=False)
class Int8Weights:
    packed: _core.PackedLinear

    qtype = qint8
    group_size = None
    activation_group = None
    symmetric = True
    scale_dtype: ClassVar[ScaleDtype] = "float32"

    def scale(self) -> Floats:
        return self.packed.scale()

    def zero_point(self) -> NDArray[np.int32]:
        return np.zeros(self.packed.out_features, np.int32)

    def dequantize(self) -> Floats:
        return whole_weight(self.packed, None)

    def rows(self, outputs: NDArray[np.int64]) -> Floats:
        return weight_rows(self.packed, None, outputs)

    def columns(self, inputs: NDArray[np.int64]) -> Floats:
        return weight_columns(self.packed, None, inputs)

    def options(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {"version": 2, "dtype": "int8", "weight": self.packed.int_repr(), "scale": self.packed.scale()}


@dataclass(frozen=True, slots=True, eq=False)
class Int4Weights:
    packed: _core.PackedLinearInt4
    group_size: int | None

    qtype = qint4
    activation_group = None

    @property
    def symmetric(self) -> bool:
        return self.packed.symmetric

    @property
    def scale_dtype(self) -> ScaleDtype:
        return scale_dtype(self.packed)

    def scale(self) -> Floats:
        return self.packed.scale().astype(np.float32, copy=False)

    def zero_point(self) -> NDArray[np.int32]:
        return self.packed.zero_point().astype(np.int32)

    def grouped(self) -> GroupedWeight:
        q, zero_point = self.packed.int_repr(), zero_points(self.packed)
        return GroupedWeight(q, self.scale(), zero_point, self.group_size, self.scale_dtype)

    def dequantize(self) -> Floats:
        return whole_weight(self.packed, self.group_size)

    def rows(self, outputs: NDArray[np.int64]) -> Floats:
        return weight_rows(self.packed, self.group_size, outputs)

    def columns(self, inputs: NDArray[np.int64]) -> Floats:
        return weight_columns(self.packed, self.group_size, inputs)

    def options(self) -> dict[str, Any]:
        return {
            "group_size": self.group_size,
            "symmetric": None if self.symmetric else "False",
            "scale_dtype": "float16" if self.scale_dtype == "float16" else None,
        }

    def state(self) -> dict[str, Any]:
        return {
            "version": 2,
            "dtype": "int4",
            "weight": pack_int4(self.packed.int_repr()),
            "in_features": self.packed.in_features,
            "zero_point": zero_points(self.packed),
            "group_size": self.group_size,
            "scale": self.packed.scale(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class GroupedWeights:
    packed: _core.PackedLinearGrouped
    bits: int
    group_size: int | None
    activation_group: int | None

    @property
    def qtype(self) -> QType:
        signed = self.packed.int_rows(np.zeros(0, np.int64)).dtype == np.int8
        return code_qtype(self.bits, signed)

    @property
    def symmetric(self) -> bool:
        return self.packed.zero_point() is None and self.packed.minimum() is None

    @property
    def scale_dtype(self) -> ScaleDtype:
        return "float16" if self.packed.scale().dtype == np.float16 else "float32"

    def codes(self) -> GroupedCodes:
        """The weights in their own form."""
        return GroupedCodes(
            self.packed.int_repr(), self.packed.scale(), self.bits, self.group_size, *self._parameters()
        )

    def _parameters(self, outputs: NDArray[np.int64] | None = None) -> tuple[Any, ...]:
        """Of some outputs, or of all."""
        p = self.packed
        return p.zero_point(outputs), p.minimum(outputs), p.group_scale(outputs), p.group_minimum(outputs)

    def scale(self) -> Floats:
        return self.codes().group_scales()

    def zero_point(self) -> NDArray[np.int32]:
        found = self.packed.zero_point()
        groups = 1 if self.group_size is None else self.packed.in_features // self.group_size
        return np.zeros((self.packed.out_features, groups), np.int32) if found is None else found.astype(np.int32)

    def dequantize(self) -> Floats:
        return self.codes().dequantize()

    def rows(self, outputs: NDArray[np.int64]) -> Floats:
        codes, scale = self.packed.int_rows(outputs), self.packed.scale(outputs)
        return GroupedCodes(codes, scale, self.bits, self.group_size, *self._parameters(outputs)).dequantize()

    def columns(self, inputs: NDArray[np.int64]) -> Floats:
        codes = self.packed.int_columns(inputs).T
        return dequantize_columns(codes, inputs, self.group_size, self.packed.scale(), *self._parameters())

    def options(self) -> dict[str, Any]:
        return {
            "group_size": self.group_size,
            "zero_point": self.packed.zero_point() is not None,
            "minimum": self.packed.minimum() is not None,
            "two levels": self.packed.group_scale() is not None,
            "scale_dtype": "float16" if self.scale_dtype == "float16" else None,
            "activation_group": self.activation_group,
        }

    def state(self) -> dict[str, Any]:
        w = self.codes()
        names = ("scale", "bits", "group_size", "zero_point", "minimum", "group_scale", "group_minimum")
        arrays: dict[str, Any] = {name: getattr(w, name) for name in names}
        planes: dict[str, Any] = {"codes": pack_int4(w.codes) if w.bits == 4 else w.codes}
        if w.bits in (5, 6):
            planes["codes"], planes["codes_high"] = split_planes(w.codes, w.bits)
        return {
            "version": 3,
            "dtype": "grouped",
            **planes,
            "signed": w.codes.dtype == np.int8,
            "in_features": w.shape[1],
            "activation_group": self.activation_group,
            **arrays,
        }


def from_state(state: dict[str, Any]) -> Any:
    """What `state` was of: (q, scale) of int8 weights, a GroupedWeight or a GroupedCodes. Takes its entries out.

    Raises:
        ValueError: the state is of a format that this octavo does not know.
    """
    version, dtype = state.pop("version"), state.pop("dtype", "int8")  # version 1: int8 alone, without saying so
    known = ((1, "int8"), (2, "int8"), (2, "int4"), (3, "grouped"))
    if (version, dtype) not in known and version not in (SCALED_VERSION, ROTATED_VERSION):
        raise ValueError(f"this layer was pickled with format {version}, this octavo reads 1 to 7; use a newer octavo")
    if dtype == "int8":
        return state.pop("weight"), state.pop("scale")
    if dtype == "int4":
        q, scale = unpack_int4(state.pop("weight"), state.pop("in_features")), state.pop("scale")
        scale_dtype: ScaleDtype = "float16" if scale.dtype == np.float16 else "float32"
        zero_point, group_size = state.pop("zero_point"), state.pop("group_size")
        return GroupedWeight(q, scale.astype(np.float32), zero_point, group_size, scale_dtype)
    codes, signed, k = state.pop("codes"), state.pop("signed"), state.pop("in_features")
    names = ("bits", "group_size", "zero_point", "minimum", "group_scale", "group_minimum")
    rest = {name: state.pop(name) for name in names}
    if rest["bits"] == 4:
        codes = unpack_int4(codes, k, signed=signed)
    elif "codes_high" in state:
        codes = join_planes(codes, state.pop("codes_high"), k, rest["bits"], signed=signed)
    return GroupedCodes(codes, state.pop("scale"), **rest)


def as_codes(weight: GroupedWeight) -> GroupedCodes:
    """The same weights in the general form.

    Raises:
        ValueError: that form has no groups of this size.
    """
    k, size = weight.q.shape[1], weight.group_size
    if size is not None and size >= k:
        size = None
    scale = np.ascontiguousarray(weight.scale, weight.scale_dtype)
    return GroupedCodes(weight.q, scale, 4, size, zero_point=weight.zero_point)


def shape_of(weight: tuple[NDArray[np.int8], Floats] | GroupedWeight | GroupedCodes) -> tuple[int, int]:
    """(outputs, inputs) of weights in any form that `pack` takes."""
    if isinstance(weight, tuple):
        n, k = weight[0].shape
    else:
        n, k = (weight.q if isinstance(weight, GroupedWeight) else weight.codes).shape
    return n, k


def pack(
    weight: tuple[NDArray[np.int8], Floats] | GroupedWeight | GroupedCodes,
    bias: Floats | None,
    *,
    activation: ActivationScheme,
    activation_group: int | None,
    inputs: InputTransform = NO_TRANSFORM,
    epilogue: Epilogue | None = None,
) -> Weights:
    """Packs weights for the kernels: (q, scale) of int8 weights, int4 groups, or any grouped codes.

    Raises:
        ValueError: the combination with the activations is not defined, or sums would exceed int32.
    """
    plain = activation != "int16" and activation_group is None
    if isinstance(weight, tuple):
        q, scale = weight
        if plain:
            return Int8Weights(pack_int8(q, scale, bias, activation, epilogue=epilogue, inputs=inputs))
        weight = GroupedCodes(np.ascontiguousarray(q), np.ascontiguousarray(scale[:, None], np.float32))
    if isinstance(weight, GroupedWeight):
        if plain:
            packed = pack_grouped(weight, bias, activation, epilogue=epilogue, inputs=inputs)
            return Int4Weights(packed, weight.group_size)
        weight = as_codes(weight)
    return _pack_codes(weight, bias, activation, activation_group, epilogue, inputs)


def _pack_codes(
    w: GroupedCodes,
    bias: Floats | None,
    activation: ActivationScheme,
    activation_group: int | None,
    epilogue: Epilogue | None,
    inputs: InputTransform,
) -> GroupedWeights:
    check_combination(w, activation, activation_group)
    signed, size = w.codes.dtype == np.int8, w.group_size or w.shape[1]
    bound = _core.max_exact_grouped_k(w.bits, signed, w.zero_point is not None, activation == "asymmetric")
    if size > bound:
        raise ValueError(
            f"weight has {size} input features in a group; int32 sums of such codes are exact up to {bound} with "
            f"activation={activation!r}. Choose smaller groups, or split the layer along its inputs and add the results"
        )

    def ready(a: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if a is None else np.ascontiguousarray(a)

    packed = _core.PackedLinearGrouped(
        np.ascontiguousarray(w.codes),
        np.ascontiguousarray(w.scale),
        zero_point=ready(w.zero_point),
        minimum=ready(w.minimum),
        group_scale=ready(w.group_scale),
        group_minimum=ready(w.group_minimum),
        bias=bias,
        group_k=w.group_size or 0,
        bits=w.bits,
        activation=activation,
        activation_group=activation_group or 0,
        **inputs.packing(w.shape[1]),
        **packed_epilogue(epilogue),
    )
    return GroupedWeights(packed, w.bits, w.group_size, activation_group)
