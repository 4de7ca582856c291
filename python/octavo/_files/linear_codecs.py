"""How linear layers look in a file: canonical integers with scales, or packed. docs/file_format.md has the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo._files.fields import (
    Fields,
    LazyTensor,
    LazyTensors,
    Options,
    lazy,
    read_bias,
    read_group_size,
    read_shape,
)
from octavo._files.grouped import check_padding, epilogue_option, read_epilogue, read_grouped, write_grouped
from octavo._files.input_transform import read_inputs, write_inputs
from octavo._files.packed_layout import read_packed
from octavo._files.safetensors import Tensor
from octavo._layers.epilogue import as_epilogue
from octavo._layers.linear import QuantLinear
from octavo._layers.packing import exact_inputs
from octavo._layers.permuted import PermutedQuantLinear
from octavo._layers.weights import GroupedWeights
from octavo._numerics.grouped_definition import ACTIVATION_GROUPS, ACTIVATIONS
from octavo._numerics.int4 import GroupedWeight, ScaleDtype, pack_int4, unpack_int4
from octavo._numerics.params import SMALLEST_SCALE, qint4
from octavo._util.arrays import first_place

__all__ = [
    "SCALE_CODES", "WeightFormat", "check_scales", "int4_tensors", "linear_options", "linear_parts", "read_int4",
    "read_int8", "read_linear", "read_permuted", "read_scales", "write_linear", "write_permuted",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How the weights of a linear layer are stored. All but `dtype` is for int4 alone."""

    dtype: Literal["int8", "int4"] = "int8"
    group_size: int | None = None
    symmetric: bool = True
    scale_dtype: ScaleDtype = "float32"

    def tensors(self, shape: tuple[int, int], *, bias: bool) -> dict[str, Tensor]:
        """The tensors of a layer (out, in) by suffix."""
        n, k = shape
        found = {"weight": Tensor("I8", shape), "scale": Tensor("F32", (n,))}
        if self.dtype == "int4":
            groups = (n, 1 if self.group_size is None else -(-k // self.group_size))
            found = {"weight": Tensor("U8", (n, (k + 1) // 2)), "scale": Tensor(SCALE_CODES[self.scale_dtype], groups)}
            if not self.symmetric:
                found["zero_point"] = Tensor("I8", groups)
        return found | ({"bias": Tensor("F32", (n,))} if bias else {})

    def misfit(self, inputs: int) -> str:
        """Why a layer of so many inputs cannot have such weights; empty where it can."""
        int4 = self.dtype == "int4"
        added, most = exact_inputs(inputs, "symmetric", int4=int4, group_size=self.group_size, symmetric=self.symmetric)
        what = "inputs in a group" if int4 else "inputs"
        return f"{added} {what}, more than the {most} that int32 sums hold exactly" if added > most else ""

    def options(self) -> Options:
        """Those that tell of the weights."""
        if self.dtype == "int8":
            return {"dtype": "int8"}
        names = ("dtype", "group_size", "symmetric", "scale_dtype")
        return {name: getattr(self, name) for name in names}


SCALE_CODES: dict[ScaleDtype, str] = {"float32": "F32", "float16": "F16"}


def linear_options(
    shape: tuple[int, int],
    weights: WeightFormat,
    *,
    bias: bool,
    activation: str = "symmetric",
    relu: bool = False,
    call: str = "forward",
) -> Options:
    """The options of a `QuantLinear`."""
    head = {"type": "QuantLinear", **weights.options(), "shape": list(shape)}
    return head | {"bias": bias, "activation": activation, "relu": relu, "call": call}


def _format_of(layer: QuantLinear) -> WeightFormat:
    if layer.dtype != qint4:
        return WeightFormat()
    return WeightFormat("int4", layer.group_size, layer.symmetric, layer.scale_dtype)


def linear_parts(layer: QuantLinear) -> LazyTensors:
    weights = _format_of(layer)
    tensors = weights.tensors((layer.out_features, layer.in_features), bias=layer.bias is not None)
    makers: dict[str, Callable[[], Any]] = {
        "weight": lambda: pack_int4(layer.int_repr()) if weights.dtype == "int4" else layer.int_repr(),
        "scale": lambda: layer.scale.astype(weights.scale_dtype),
        "zero_point": lambda: layer.zero_point.astype(np.int8),
        "bias": lambda: layer.bias,
    }
    return {suffix: LazyTensor(tensor, makers[suffix]) for suffix, tensor in tensors.items()}


def write_linear(layer: QuantLinear) -> tuple[Options, LazyTensors]:
    more, more_parts = write_inputs(layer)
    if isinstance(layer._weights, GroupedWeights):
        options, parts = write_grouped(layer, layer._weights.codes())
        return options | more, parts | more_parts
    options = linear_options(
        (layer.out_features, layer.in_features),
        _format_of(layer),
        bias=layer.bias is not None,
        activation=layer.activation,
        relu=layer.relu,
        call=layer._call_name,
    )
    return options | epilogue_option(layer) | more, linear_parts(layer) | more_parts


def read_linear(fields: Fields) -> QuantLinear:
    dtype = fields.choice("dtype", "int8", "int4", "grouped")
    if "packed" in fields.options:
        return _read_packed_linear(fields, dtype)
    if dtype == "grouped":
        return read_grouped(fields)
    options = {
        "activation": fields.choice("activation", "symmetric", "asymmetric"),
        "relu": fields.option("relu", bool),
        "epilogue": read_epilogue(fields),
        "call": fields.option("call", str),
    }
    if dtype == "int4":
        weight = read_int4(fields)
        options |= read_inputs(fields, weight.q.shape[1]).arguments()
        return QuantLinear.from_grouped(weight, read_bias(fields, len(weight.q)), **options)
    q, scale = read_int8(fields)
    options |= read_inputs(fields, q.shape[1]).arguments()
    return QuantLinear.from_quantized(q, scale, read_bias(fields, len(q)), **options)


def write_permuted(layer: PermutedQuantLinear) -> tuple[Options, LazyTensors]:
    options, parts = write_linear(layer.inner())
    return options, parts | {"permutation": lazy(layer.permutation.astype(np.int32))}


def read_permuted(fields: Fields) -> PermutedQuantLinear:
    layer = read_linear(fields)
    return PermutedQuantLinear(layer, fields.tensor("permutation", "I32", (layer.in_features,)))


def _read_packed_linear(fields: Fields, dtype: str) -> QuantLinear:
    activation = fields.choice("activation", *ACTIVATIONS)
    group = fields.choice("activation_group", None, *ACTIVATION_GROUPS) if dtype == "grouped" else None
    epilogue, call = as_epilogue(read_epilogue(fields), fields.option("relu", bool)), fields.option("call", str)
    weights, inputs = read_packed(fields, dtype=dtype, activation=activation, activation_group=group, epilogue=epilogue)
    return QuantLinear._of_weights(weights, activation, epilogue, call, inputs)


def read_int8(fields: Fields) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    n, k = read_shape(fields)
    return fields.tensor("weight", "I8", (n, k)), read_scales(fields, "scale", (n,))


def read_int4(fields: Fields) -> GroupedWeight:
    weights, (_, k), found = int4_tensors(fields)
    check_padding(found["weight"], k)
    q = unpack_int4(found["weight"], k)
    return GroupedWeight(q, found["scale"], found.get("zero_point"), weights.group_size, weights.scale_dtype)


def int4_tensors(fields: Fields) -> tuple[WeightFormat, tuple[int, int], dict[str, NDArray[Any]]]:
    """(format, shape, tensors by suffix) of int4 weights, as they lie in the file."""
    shape, size = read_shape(fields), read_group_size(fields)
    symmetric = fields.option("symmetric", bool)
    weights = WeightFormat("int4", size, symmetric, fields.choice("scale_dtype", "float32", "float16"))
    tensors = weights.tensors(shape, bias=False)
    return weights, shape, {suffix: fields.tensor(suffix, t.dtype, t.shape) for suffix, t in tensors.items()}


def read_scales(fields: Fields, suffix: str, shape: tuple[int, ...] | None) -> NDArray[np.float32]:
    scale = fields.tensor(suffix, "F32", shape)
    check_scales(scale, suffix)
    return scale


def check_scales(scale: NDArray[np.float32], name: str = "scale") -> None:
    """Raises ValueError for scales that no quantization gives."""
    bad = ~((scale >= SMALLEST_SCALE) & np.isfinite(scale))
    if bad.any():
        place = first_place(bad, name)
        raise ValueError(f"{name} must be finite and at least 2**-126, got {scale[bad][0]!s} at {place}")
