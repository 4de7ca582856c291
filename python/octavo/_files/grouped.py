"""How layers with grouped codes look in a file: the feature "grouped" of format version 2. See docs/file_format.md."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._files.fields import Fields, LazyTensor, LazyTensors, Options, lazy, read_bias, read_shape
from octavo._files.input_transform import read_inputs
from octavo._files.safetensors import Tensor
from octavo._layers.epilogue import EPILOGUES, Epilogue
from octavo._layers.linear import QuantLinear
from octavo._numerics.grouped import BITS, SUPER_BLOCK, GroupedCodes
from octavo._numerics.grouped_definition import ACTIVATION_GROUPS, ACTIVATIONS
from octavo._numerics.int4 import pack_int4, unpack_int4
from octavo._numerics.planes import high_bytes, join_planes, split_planes

__all__ = [
    "check_padding", "epilogue_option", "grouped_options", "grouped_parts", "read_epilogue", "read_grouped",
    "write_grouped",
]  # fmt: skip

_FLOATS = {"float32": "F32", "float16": "F16"}
_INTEGERS = {"int8": "I8", "uint8": "U8"}
_HIGH = "weight_high"  # the bits above four of codes of 5 and 6
_OPTIONAL = ("zero_point", "minimum", "group_scale", "group_minimum")


def epilogue_option(layer: QuantLinear) -> Options:
    """The option of a function that results go through: the feature "epilogue". ReLU has an option of its own."""
    return {} if layer.epilogue is None or layer.relu else {"epilogue": layer.epilogue}


def read_epilogue(fields: Fields) -> Epilogue | None:
    """What `epilogue_option` wrote."""
    if "epilogue" not in fields.options:
        return None
    found: Epilogue = fields.choice("epilogue", *(name for name in EPILOGUES if name != "relu"))
    return found


def write_grouped(layer: QuantLinear, w: GroupedCodes) -> tuple[Options, LazyTensors]:
    """The options and tensors of a layer that holds these codes."""
    options = grouped_options(
        w, activation=layer.activation, activation_group=layer.activation_group, bias=layer.bias is not None
    )
    options |= {"relu": layer.relu, "call": layer._call_name} | epilogue_option(layer)
    parts = grouped_parts(w)
    return options, parts if layer.bias is None else parts | {"bias": lazy(np.asarray(layer.bias))}


def grouped_options(w: GroupedCodes, *, activation: str, activation_group: int | None, bias: bool) -> Options:
    """All options of a QuantLinear but relu and call."""
    held = {name: getattr(w, name) for name in _OPTIONAL}
    return {
        "type": "QuantLinear",
        "dtype": "grouped",
        "shape": list(w.shape),
        "bits": w.bits,
        "codes": w.codes.dtype.name,
        "group_size": w.group_size,
        "scale_dtype": w.scale.dtype.name,
        **{name: None if array is None else array.dtype.name for name, array in held.items()},
        "activation": activation,
        "activation_group": activation_group,
        "bias": bias,
    }


def grouped_parts(w: GroupedCodes) -> LazyTensors:
    """The tensors of the weights."""
    n, k = w.shape
    found = {"weight": lazy(w.codes)}
    if w.bits < 8:
        found = {"weight": LazyTensor(Tensor("U8", (n, (k + 1) // 2)), lambda: _low_bits(w))}
    if w.bits in (5, 6):
        high = Tensor("U8", (n, high_bytes(k, w.bits)))
        found[_HIGH] = LazyTensor(high, lambda: split_planes(w.codes, w.bits)[1])
    arrays = {"scale": w.scale, **{name: getattr(w, name) for name in _OPTIONAL}}
    return found | {name: lazy(array) for name, array in arrays.items() if array is not None}


def _low_bits(w: GroupedCodes) -> NDArray[np.uint8]:
    return pack_int4(w.codes) if w.bits == 4 else split_planes(w.codes, w.bits)[0]


def read_grouped(fields: Fields) -> QuantLinear:
    """The layer of options and tensors, `dtype` taken out already.

    Raises:
        ValueError: they stand for none.
    """
    n, k = read_shape(fields)
    bits = fields.choice("bits", *BITS)
    kind = fields.choice("codes", *_INTEGERS)
    size = fields.option("group_size", int, type(None))
    scale_dtype = fields.choice("scale_dtype", *_FLOATS)
    types = {name: fields.choice(name, None, *_INTEGERS, *_FLOATS) for name in _OPTIONAL}
    groups = (n, 1 if size is None else k // max(size, 1))
    floats = groups if types["group_scale"] is None else (n, k // SUPER_BLOCK)
    shapes = {"zero_point": groups, "minimum": floats, "group_scale": groups, "group_minimum": groups}
    codes = _read_codes(fields, n, k, bits, kind)
    arrays: dict[str, NDArray[Any]] = {"scale": fields.tensor("scale", _FLOATS[scale_dtype], floats)}
    for name, type_name in types.items():
        if type_name is not None:
            arrays[name] = fields.tensor(name, (_FLOATS | _INTEGERS)[type_name], shapes[name])
    weight = GroupedCodes(codes, arrays.pop("scale"), bits, size, **arrays)
    return QuantLinear.from_grouped(
        weight,
        read_bias(fields, n),
        activation=fields.choice("activation", *ACTIVATIONS),
        activation_group=fields.choice("activation_group", None, *ACTIVATION_GROUPS),
        **read_inputs(fields, k).arguments(),
        relu=fields.option("relu", bool),
        epilogue=read_epilogue(fields),
        call=fields.option("call", str),
    )


def _read_codes(fields: Fields, n: int, k: int, bits: int, kind: str) -> NDArray[Any]:
    if bits in (4, 8) and fields.holds(_HIGH):
        raise ValueError(f"{_HIGH} stands beside codes of 5 and 6 bits alone, got bits {bits}")
    if bits == 8:
        return fields.tensor("weight", _INTEGERS[kind], (n, k))
    packed = fields.tensor("weight", "U8", (n, (k + 1) // 2))
    check_padding(packed, k)
    if bits == 4:
        return unpack_int4(packed, k, signed=kind == "int8")
    high = fields.tensor(_HIGH, "U8", (n, high_bytes(k, bits)))
    used = k * (bits - 4) % 8
    if used and (high[:, -1] >> used).any():
        raise ValueError(f"{_HIGH} must have zeros in the bits that fill up the last byte of a row")
    return join_planes(packed, high, k, bits, signed=kind == "int8")


def check_padding(packed: NDArray[np.uint8], k: int) -> None:
    """Raises ValueError where rows of k nibbles end with another one that is not zero."""
    if k % 2 and (packed[:, -1] > 15).any():
        raise ValueError("weight must have zeros in the nibbles that fill up the last byte of a row")
