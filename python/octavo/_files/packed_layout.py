"""Layers that lie packed in a file, for one family of architectures: the feature "packed" of format version 2.

In the place of its integers, scales and bias a layer has one tensor, `packed`: U8, a multiple of 64 bytes, the image of
`octavo._layers.images`. Its other options and tensors are as ever, beside the option `packed`, the family's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from octavo._files.fields import (
    Fields,
    LazyTensor,
    LazyTensors,
    Options,
    read_group_size,
    read_shape,
    tensor_name,
)
from octavo._files.input_transform import read_inputs
from octavo._files.origins import REPACK, Source
from octavo._files.safetensors import Tensor
from octavo._layers.epilogue import Epilogue
from octavo._layers.images import FAMILIES, OWN_FAMILY, Origin, is_borrowed, weights_of_image
from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.recurrent import QuantGRU, QuantLSTM
from octavo._layers.weights import ActivationScheme, Weights
from octavo._numerics.grouped import BITS, SUPER_BLOCK
from octavo._numerics.input_transform import InputTransform

__all__ = [
    "ALIGNMENT", "Layout", "family_of", "image_names", "keep_origin", "lies_packed", "note_copies", "pack_parts",
    "read_packed",
]  # fmt: skip

Layout = Literal["canonical", "packed", "x86", "arm"]

ALIGNMENT = 64  # of images, and so of the data of a file that holds some

_IN_IMAGE = ("weight", "weight_high", "scale", "zero_point", "minimum", "group_scale", "group_minimum", "bias")
_GROUPED_TYPES = {
    "zero_point": (None, "int8", "uint8"),
    "minimum": (None, "float32", "float16"),
    "group_scale": (None, "int8", "uint8"),
    "group_minimum": (None, "uint8"),
}


def family_of(layout: Layout) -> str | None:
    """The family that a layout is for; None for canonical integers.

    Raises:
        ValueError: there is no such layout.

    Example:
        >>> from octavo._files.packed_layout import family_of
        >>> family_of("arm")
        'arm'
    """
    layouts = {"canonical": None, "packed": OWN_FAMILY, **{family: family for family in FAMILIES}}
    if layout not in layouts:
        raise ValueError(f"layout must be one of {', '.join(map(repr, layouts))}, got {layout!r}")
    return layouts[layout]


def lies_packed(options: Mapping[str, Any]) -> set[str]:
    """The families that a layer of these options, or a part of it, lies packed for."""
    own = {options["packed"]} if isinstance(options.get("packed"), str) else set()
    return own.union(*(lies_packed(value) for value in options.values() if isinstance(value, dict)))


def image_names(layers: Mapping[str, Options]) -> set[str]:
    """The names of all tensors that are images.

    Example:
        >>> from octavo._files.packed_layout import image_names
        >>> sorted(image_names({"rnn": {"ih_l0": {"packed": "x86"}}, "fc": {"packed": "arm"}, "a": {}}))
        ['fc.packed', 'rnn.ih_l0.packed']
    """

    def within(name: str, options: Options) -> Iterator[str]:
        if isinstance(options.get("packed"), str):
            yield tensor_name(name, "packed")
        for key, value in options.items():
            if isinstance(value, dict):
                yield from within(tensor_name(name, key), value)

    return {image for name, options in layers.items() for image in within(name, options)}


def pack_parts(value: Any, options: Options, parts: LazyTensors, family: str) -> None:
    """Changes what a codec gave for an object into its packed form; what has none stays as it is."""
    for key, layer in _products(value):
        prefix, own = (f"{key}.", options[key]) if key else ("", options)
        for suffix in _IN_IMAGE:
            parts.pop(prefix + suffix, None)
        own["packed"] = family
        parts[f"{prefix}packed"] = _image(layer, family)


def _image(layer: QuantLinear, family: str) -> LazyTensor:
    # A view of the layer's own memory; for another family it is made twice, so that one is held at a time.
    return LazyTensor(Tensor("U8", (layer._packed.image(family).size,)), lambda: layer._packed.image(family))


def _products(value: Any) -> Iterator[tuple[str, QuantLinear]]:
    """(key, layer) of each QuantLinear that an object is made of; the key is empty where there is but one."""
    if isinstance(value, QuantLinear):
        yield "", value
    elif isinstance(value, QuantMatrix):
        yield "", value._layer
    elif isinstance(value, (QuantLSTM, QuantGRU)):
        yield from value._layers.items()


def note_copies(source: Source, name: str, value: Any) -> None:
    """Lets the source know of weights that are canonical integers in the file, and were packed into memory."""
    for key, layer in _products(value):
        if not is_borrowed(layer._weights) and layer._packed.image(OWN_FAMILY).size:
            part = f"{name}.{key}".strip(".")
            source.copied.setdefault(part, f"its weights are canonical integers, which were packed; {REPACK}")


def read_packed(
    fields: Fields,
    *,
    dtype: str,
    activation: ActivationScheme,
    activation_group: int | None = None,
    epilogue: Epilogue | None,
) -> tuple[Weights, InputTransform]:
    """The weights of the option `packed`, and what their inputs go through: in place where the file is mapped for it.

    Raises:
        ValueError: options and tensor do not fit together.
    """
    family = fields.choice("packed", *FAMILIES)
    name = f"{fields.name}.{fields.prefix}".strip(".")
    shape = read_shape(fields)
    options = {"dtype": dtype, "shape": list(shape), **_form(fields, dtype)}
    inputs = read_inputs(fields, shape[1])
    options["bias"] = fields.option("bias", bool)
    image = fields.tensor("packed", "U8", None)
    if image.ndim != 1:
        raise ValueError(f"its packed tensor must be 1-D, got shape {list(image.shape)}")
    try:
        weights = weights_of_image(
            image,
            family,
            options,
            activation=activation,
            activation_group=activation_group,
            inputs=inputs,
            epilogue=epilogue,
            borrow=fields.source is not None,
        )
    except ValueError as error:
        raise ValueError(f"its packed tensor has {image.size} bytes: {error}") from None
    if fields.verify:
        _check_floats(weights)
    if fields.source is not None and not is_borrowed(weights) and image.size:
        other = f"it is packed for {family}, this machine needs {OWN_FAMILY}"
        moved = f"it does not start at a multiple of {ALIGNMENT} bytes: another tool rewrote the file"
        fields.source.copied[name] = f"{other if family != OWN_FAMILY else moved}; {REPACK}"
    return weights, inputs


def _form(fields: Fields, dtype: str) -> Options:
    if dtype == "int8":
        return {}
    size = read_group_size(fields)
    scale_dtype = fields.choice("scale_dtype", "float32", "float16")
    if dtype == "int4":
        return {"group_size": size, "symmetric": fields.option("symmetric", bool), "scale_dtype": scale_dtype}
    form = {"group_size": size, "scale_dtype": scale_dtype, "bits": fields.choice("bits", *BITS)}
    form["codes"] = fields.choice("codes", "int8", "uint8")
    form |= {name: fields.choice(name, *types) for name, types in _GROUPED_TYPES.items()}
    if form["minimum"] not in (None, scale_dtype):
        raise ValueError(f"minimum must be of the scales' type, {scale_dtype}, got {form['minimum']}")
    if form["zero_point"] not in (None, form["codes"]):
        raise ValueError(f"zero_point must be of the codes' type, {form['codes']}, got {form['zero_point']}")
    if form["group_scale"] is not None and size is not None and size >= SUPER_BLOCK:
        raise ValueError(f"group_scale needs groups below {SUPER_BLOCK}, got {size}")
    return form


def _check_floats(weights: Weights) -> None:
    """Raises ValueError for scales and biases that no layer could have been made with."""
    bias = weights.packed.bias()
    if bias is not None and not np.isfinite(bias).all():
        raise ValueError("its bias must be finite")
    if not np.isfinite(weights.packed.scale()).all():
        raise ValueError("its scales must be finite")


def keep_origin(fields: Fields, layer: Any) -> None:
    """Lets a layer know where in a mapped file it lies."""
    if fields.source is not None:
        origin: Origin = fields.source.origin(fields.name, fields.prefix.removesuffix("."))
        layer._origin = origin
