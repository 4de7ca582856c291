"""What every linear layer holds, and what you can ask of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._layers.described import Described
from octavo._layers.epilogue import Epilogue
from octavo._layers.images import Origin
from octavo._layers.weights import ActivationScheme, PackedLayer, Weights
from octavo._numerics.grouped import GroupedCodes
from octavo._numerics.input_transform import InputTransform
from octavo._numerics.int4 import ScaleDtype
from octavo._numerics.params import QType
from octavo._util.arrays import locked, read_only

__all__ = ["HeldWeights"]


class HeldWeights(Described):
    """Packed weights (out, in) with their options. `QuantLinear` adds how they are made, called and pickled."""

    __slots__ = (
        "__weakref__", "_activation", "_call_name", "_epilogue", "_inputs", "_origin", "_packed", "_weights",
    )  # fmt: skip

    _origin: Origin | None  # where it lies in a file that is mapped
    _weights: Weights
    _activation: ActivationScheme
    _call_name: str
    _epilogue: Epilogue | None
    _inputs: InputTransform
    _packed: PackedLayer  # that of _weights: one step less for each call

    @property
    def in_features(self) -> int:
        return self._packed.in_features

    @property
    def out_features(self) -> int:
        return self._packed.out_features

    @property
    def dtype(self) -> QType:
        """Type of the weights: `qint8` or `qint4`; of grouped codes also unsigned types, and those of 5 and 6 bits."""
        return self._weights.qtype

    @property
    def group_size(self) -> int | None:
        """Inputs that share a scale of the weights; None: all of a row."""
        return self._weights.group_size

    @property
    def symmetric(self) -> bool:
        """Whether the weights have neither zero points nor minima."""
        return self._weights.symmetric

    @property
    def scale_dtype(self) -> ScaleDtype:
        """What the scales of the weights are held as: "float32" or "float16"."""
        return self._weights.scale_dtype

    @property
    def activation(self) -> ActivationScheme:
        """How rows of x are quantized: "symmetric", "asymmetric" or "int16"."""
        return self._activation

    @property
    def activation_group(self) -> int | None:
        """Inputs of x that share a scale; None: all of a row."""
        return self._weights.activation_group

    @property
    def pre_quant_scale(self) -> NDArray[np.float32] | None:
        """s (in,), by which x is divided as it is quantized; read-only. None: there is none."""
        s = self._inputs.scale
        return None if s is None else locked(s)

    @property
    def rotation(self) -> int | None:
        """Inputs of a block that is rotated as x is quantized; None: there is no rotation."""
        return self._inputs.rotation

    @property
    def relu(self) -> bool:
        """Whether the result goes through ReLU."""
        return self._epilogue == "relu"

    @property
    def epilogue(self) -> Epilogue | None:
        """What the result goes through: "relu", "gelu", "gelu_tanh", "sigmoid", "silu", "tanh" or None."""
        return self._epilogue

    def int_repr(self) -> NDArray[Any]:
        """The integer weights q_w (out, in), unpacked: a new array, uint8 of grouped codes that are unsigned.

        With a `pre_quant_scale` or a `rotation`, the integers and `scale` are those of the transformed weight W'.
        """
        return self._packed.int_repr()

    @property
    def scale(self) -> NDArray[np.float32]:
        """s_w float32, read-only: (out,) for int8 weights, (out, groups) for others, where it may be negative."""
        return read_only(self._weights.scale())

    @property
    def zero_point(self) -> NDArray[np.int32]:
        """z_w, as many as scales; all zero where the weights have none. Read-only."""
        return read_only(self._weights.zero_point())

    @property
    def bias(self) -> NDArray[np.float32] | None:
        """b (out,), read-only, or None."""
        b = self._packed.bias()
        return None if b is None else read_only(b)

    @property
    def weight(self) -> NDArray[np.float32]:
        """The weights as the layer sees them, (out, in) float32, dequantized on demand; read-only.

        (q_w - z_w) * s_w, and with minima what `GroupedCodes` defines; with a `rotation` that times H D, then with a
        `pre_quant_scale` times fl(1 / s): docs/design.md has both.
        """
        return read_only(self._inputs.undone(self._weights.dequantize()))

    def grouped(self) -> GroupedCodes:
        """The weights in their own form, from which `from_grouped` makes an equal layer.

        Raises:
            ValueError: the layer was made of int8 weights with one scale an output, or of int4 ones for plain int8
                activations; these have `int_repr`, `scale` and `zero_point`.
        """
        codes = getattr(self._weights, "codes", None)
        if codes is None:
            raise ValueError(f"{self!r} holds no grouped codes; it has int_repr(), scale and zero_point")
        found: GroupedCodes = codes()
        return found

    def _weight_rows(self, outputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """weight[outputs], dequantized alone."""
        return self._inputs.undone(self._weights.rows(outputs))

    def _weight_columns(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """weight.T[inputs], dequantized alone."""
        return self._inputs.undone_columns(self._weights.columns, inputs)

    @property
    def nbytes(self) -> int:
        """Bytes the layer holds: packed weights with their padding, scales, zero points, column sums and bias."""
        return self._packed.nbytes + (0 if self._inputs.scale is None else self._inputs.scale.nbytes)

    def _described(self) -> tuple[str, str, dict[str, Any]]:
        return f"{self.in_features} -> {self.out_features}", self.dtype.name[1:], self._options()

    def _options(self) -> dict[str, Any]:
        return {
            **self._weights.options(),
            "activation": self._activation,
            "pre_quant_scale": self._inputs.scale is not None,
            "rotation": self._inputs.rotation,
            "bias": self._packed.bias() is not None,
            "relu": self.relu,
            "epilogue": None if self.relu else self._epilogue,
        }
