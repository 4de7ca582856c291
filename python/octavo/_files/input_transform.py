"""What a layer's inputs go through, in a file: the features "pre_quant_scale" and "rotation" of format version 2.

See docs/file_format.md. Files of layers without them have no word of it, and are as they were.
"""

from __future__ import annotations

from octavo._files.fields import Fields, LazyTensors, Options, lazy
from octavo._layers.linear import QuantLinear
from octavo._numerics.input_transform import InputTransform

__all__ = ["ROTATION", "SCALE", "read_inputs", "write_inputs"]

SCALE = "pre_quant_scale"  # the option, true where it is there, and the tensor
ROTATION = "rotation"  # the option: inputs of a block


def write_inputs(layer: QuantLinear) -> tuple[Options, LazyTensors]:
    """What a layer's options and tensors have beyond those of one whose inputs are quantized as they are."""
    s, rotation = layer.pre_quant_scale, layer.rotation
    options: Options = ({} if s is None else {SCALE: True}) | ({} if rotation is None else {ROTATION: rotation})
    return options, {} if s is None else {SCALE: lazy(s)}


def read_inputs(fields: Fields, inputs: int) -> InputTransform:
    """The transform of k inputs that the options tell of.

    Raises:
        ValueError: an option has another value than it may have, or the tensor is missing or of another shape.
    """
    scale = None
    if SCALE in fields.options:
        fields.choice(SCALE, True)
        scale = fields.tensor(SCALE, "F32", (inputs,))
    rotation = fields.option(ROTATION, int) if ROTATION in fields.options else None
    return InputTransform.of(scale, rotation, inputs)
