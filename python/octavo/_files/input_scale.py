"""Scales of a layer's inputs in a file: the feature "pre_quant_scale" of format version 2. See docs/file_format.md.

Files of layers without one have no word of it, and are as they were.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo._files.fields import Fields, LazyTensors, Options, lazy
from octavo._layers.linear import QuantLinear

__all__ = ["SCALE", "read_scale", "write_scale"]

SCALE = "pre_quant_scale"  # the option, true where it is there, and the tensor


def write_scale(layer: QuantLinear) -> tuple[Options, LazyTensors]:
    """What a layer's options and tensors have beyond those of one without scales."""
    s = layer.pre_quant_scale
    return ({}, {}) if s is None else ({SCALE: True}, {SCALE: lazy(s)})


def read_scale(fields: Fields, inputs: int) -> NDArray[np.float32] | None:
    """The scale of k inputs, where the options tell of one.

    Raises:
        ValueError: the option is not true, or the tensor is missing or of another shape.
    """
    if SCALE not in fields.options:
        return None
    fields.choice(SCALE, True)
    return fields.tensor(SCALE, "F32", (inputs,))
