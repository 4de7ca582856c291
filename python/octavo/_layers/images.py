"""Images: the packed weights of a layer as one run of bytes. Files and pickles hold them as they are.

What an image holds depends on the family of architectures that it is for, "x86" or "arm", and on the options that
`image_options` gives. `weights_of_image` computes in such bytes in place, where they are of this family and aligned to
64 bytes; else it copies them, or packs them anew.

    PackedLinear          panels, column sums, scales, bias
    PackedLinearInt4      panels of nibbles, scales, zero points, column sums, bias
    PackedLinearGrouped   panels of codes, records, zero points, column sums, bias      the same for both families
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo._layers.epilogue import Epilogue
from octavo._layers.packing import packed_epilogue
from octavo._layers.weights import ActivationScheme, GroupedWeights, Int4Weights, Int8Weights, Weights
from octavo._numerics.input_transform import NO_TRANSFORM, InputTransform

__all__ = [
    "FAMILIES", "OWN_FAMILY", "Origin", "check_family", "image_options", "is_borrowed", "weights_of_image",
    "weights_of_state",
]  # fmt: skip

OWN_FAMILY = _core.own_family()
FAMILIES = tuple(_core.families())

_GROUPED = ("zero_point", "minimum", "group_scale", "group_minimum")


class Origin(Protocol):
    """Where a layer lies in a file. What files define is opaque here."""

    def reduced(self) -> tuple[Any, ...] | None:
        """What a pickle calls, and its arguments, to get the layer from the file; None to hold its integers instead."""


def check_family(family: str) -> str:
    """The family.

    Raises:
        ValueError: there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"weights are packed for {' or '.join(FAMILIES)}, got {family!r}")
    return family


def image_options(weights: Weights) -> dict[str, Any]:
    """What tells the format of the weights, in plain values.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo._layers.images import image_options
        >>> image_options(oc.QuantLinear(np.eye(3))._weights)
        {'dtype': 'int8', 'shape': [3, 3], 'bias': False}
    """
    packed = weights.packed
    shape: dict[str, Any] = {"shape": [packed.out_features, packed.in_features]}
    bias = {"bias": packed.bias() is not None}
    if isinstance(weights, GroupedWeights):
        arrays = {name: getattr(weights.packed, name)() for name in _GROUPED}
        return {
            "dtype": "grouped",
            **shape,
            "bits": weights.bits,
            "codes": weights.packed.int_rows(np.zeros(0, np.int64)).dtype.name,
            "group_size": weights.group_size,
            "scale_dtype": weights.scale_dtype,
            **{name: None if array is None else array.dtype.name for name, array in arrays.items()},
            **bias,
        }
    if isinstance(weights, Int4Weights):
        kind = {"group_size": weights.group_size, "symmetric": weights.symmetric, "scale_dtype": weights.scale_dtype}
        return {"dtype": "int4", **shape, **kind, **bias}
    return {"dtype": "int8", **shape, **bias}


def weights_of_image(
    image: NDArray[np.uint8],
    family: str,
    options: Mapping[str, Any],
    *,
    activation: ActivationScheme,
    activation_group: int | None,
    inputs: InputTransform = NO_TRANSFORM,
    epilogue: Epilogue | None,
    borrow: bool,
) -> Weights:
    """The weights that lie in an image.

    Args:
        image: its bytes. They must never change where they are borrowed.
        family: which it was made for.
        options: as `image_options` gave them.
        activation, activation_group, inputs, epilogue: of the layer.
        borrow: compute in these bytes where that is possible; see `is_borrowed`.

    Raises:
        ValueError: the image does not have the size of such weights, or the options do not fit together.
    """
    n, k = options["shape"]
    check_family(family)
    common: dict[str, Any] = {"out_features": n, "in_features": k, "bias": options["bias"]}
    common |= {**packed_epilogue(epilogue), "borrow": borrow, **inputs.packing(k)}
    size = options.get("group_size")
    if options["dtype"] == "int8":
        asymmetric = _plain(activation, activation_group)
        return Int8Weights(_core.PackedLinear.from_image(image, family=family, asymmetric=asymmetric, **common))
    if options["dtype"] == "int4":
        packed = _core.PackedLinearInt4.from_image(
            image,
            family=family,
            group_k=size or 0,
            half_scale=options["scale_dtype"] == "float16",
            zero_point=not options["symmetric"],
            asymmetric=_plain(activation, activation_group),
            **common,
        )
        return Int4Weights(packed, size)
    names: dict[str, Any] = {name: options[name] or "" for name in _GROUPED}
    grouped = _core.PackedLinearGrouped.from_image(
        image,
        codes=options["codes"],
        scale=options["scale_dtype"],
        group_k=size or 0,
        bits=options["bits"],
        activation=activation,
        activation_group=activation_group or 0,
        **names,
        **common,
    )
    return GroupedWeights(grouped, options["bits"], size, activation_group)


def weights_of_state(state: dict[str, Any], inputs: InputTransform) -> Weights:
    """Those of a state of packed weights."""
    data, borrow = _buffer_of(state["image"])
    options = {name: state[name] for name in ("activation", "activation_group", "epilogue")}
    return weights_of_image(data, state["family"], state["options"], borrow=borrow, inputs=inputs, **options)


def _plain(activation: ActivationScheme, activation_group: int | None) -> bool:
    """Whether rows have zero points, for formats whose activations are plain int8."""
    if activation == "int16" or activation_group is not None:
        raise ValueError(f"activation={activation!r} with groups of {activation_group} asks for grouped codes")
    return activation == "asymmetric"


def is_borrowed(weights: Weights) -> bool:
    """Whether they lie in memory that they were given, and hold none of their own."""
    return weights.packed.is_borrowed


def _buffer_of(image: Any) -> tuple[NDArray[np.uint8], bool]:
    """(the bytes of an image, whether they may be borrowed) of what a pickle gives in its place.

    Bytes that the pickle itself held are of nobody else, and lie on small pages at any address: they are copied.
    """
    data = np.frombuffer(image, np.uint8)
    return data, not isinstance(image, bytes | bytearray) and not data.flags.writeable
