"""A quantized layer of a checkpoint: what its header says, and what is read of it when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._layers.linear import QuantLinear
from octavo._layers.permuted import PermutedQuantLinear
from octavo._layers.static import StaticQuantLinear
from octavo._layers.weights import ActivationScheme
from octavo._numerics.params import QParams
from octavo.checkpoints._forms import Form, Weight, make_layer, make_weight
from octavo.checkpoints._packing import Bytes, unpacked_nibbles

__all__ = ["Contents", "Found", "codes_of", "fields_of_words", "with_group"]


@dataclass(frozen=True, slots=True)
class Contents:
    """The parameters of a layer, and how its rows are read.

    Attributes:
        form: how octavo holds it.
        scale, zero: (n, groups) of the file; zero is None where all are 0.
        codes: (first, end) to the codes of these outputs as the file has them, in the order of the permutation.
        nibbles: the same as bytes of two codes, the first in the low nibble; None where the codes have other widths.
        reference: (first, end) to the weights by the tool's own formula, in float32 and the order of x.
        permutation: which input stands at each place; None: they stand in order.
        input: how x is quantized, where that is fixed.
    """

    form: Form
    scale: NDArray[Any]
    zero: NDArray[Any] | None
    codes: Callable[[int, int], NDArray[Any]]
    reference: Callable[[int, int], NDArray[np.float32]]
    nibbles: Callable[[int, int], Bytes] | None = None
    permutation: NDArray[np.int64] | None = None
    input: QParams | None = None

    def weight(self, first: int, end: int) -> Weight:
        """The weights of some outputs."""
        return self.made(first, end, self.codes(first, end))

    def beside_rows(self) -> Contents:
        """The same, held as suits x with one scale a row."""
        return replace(self, form=self.form.beside_rows(self.scale, self.zero))

    def blank(self, k: int) -> Weight:
        """One output of zeros: the form of the layer, without reading a code."""
        codes = np.zeros((1, k), np.int8 if self.form.signed and not self.form.shift else np.uint8)
        return self.made(0, 1, codes)

    def made(self, first: int, end: int, codes: NDArray[Any]) -> Weight:
        zero = None if self.zero is None else self.zero[first:end]
        return make_weight(self.form, codes, self.scale[first:end], zero)


@dataclass(frozen=True, slots=True)
class Found:
    """A quantized layer, before anything of it is read.

    Attributes:
        name, shape: of the layer; (out, in).
        kind: what the tool calls it, such as "GPTQ 4 bits, groups of 128".
        tensors: the names of its tensors, bias included; the first is that of the codes.
        bias: the name of its bias.
        activation: what the checkpoint says of activations; None: nothing, the weights alone are quantized.
        activation_group: inputs of x that share a scale, where the checkpoint says so.
        unlike: how octavo quantizes x otherwise than the checkpoint says, a sentence.
        open: reads its parameters.
    """

    name: str
    shape: tuple[int, int]
    kind: str
    tensors: tuple[str, ...]
    bias: str | None
    open: Callable[[], Contents] = field(repr=False)
    activation: ActivationScheme | None = None
    activation_group: int | None = None
    unlike: str | None = None

    def layer(
        self,
        contents: Contents,
        weight: Weight,
        bias: NDArray[Any] | None,
        *,
        activation: ActivationScheme,
        activation_group: int | None,
        static: bool,
    ) -> QuantLinear:
        """The layer of these weights."""
        if static and contents.input is not None:
            if not isinstance(weight, tuple):
                raise ValueError(
                    "static activations need int8 weights with one scale an output and no zero points; pass "
                    'activation="asymmetric" to have x quantized as it is read'
                )
            return StaticQuantLinear(*weight, bias, input=contents.input, name=self.name)
        made = make_layer(weight, bias, activation=activation, activation_group=activation_group)
        return made if contents.permutation is None else PermutedQuantLinear(made, contents.permutation)


def with_group(codes: NDArray[Any], zero: NDArray[Any] | None, scale: NDArray[Any], at: Any) -> NDArray[np.float32]:
    """The formula that all tools share, in float32: (code - zero) * scale of the group `at` of each input."""
    values = codes.astype(np.int32)
    if zero is not None:
        values = values - zero.astype(np.int32)[:, at]
    return values.astype(np.float32) * scale.astype(np.float32)[:, at]


def fields_of_words(packed: NDArray[Any], bits: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values at these bit positions of each row of words, by shift and mask alone: for references.

    Example:
        >>> import numpy as np
        >>> from octavo.checkpoints._layer import fields_of_words
        >>> fields_of_words(np.array([[-1, 5]], np.int32), 3, np.array([0, 30, 33]))
        array([[7, 7, 2]])
    """
    rows = np.zeros((packed.shape[0], packed.shape[1] + 1), np.uint64)
    rows[:, :-1] = np.ascontiguousarray(packed).view(np.uint32)
    pair = rows[:, positions // 32] | (rows[:, positions // 32 + 1] << np.uint64(32))
    shifted = pair >> (positions % 32).astype(np.uint64)
    found: NDArray[np.int64] = (shifted & np.uint64((1 << bits) - 1)).astype(np.int64)
    return found


def codes_of(nibbles: Callable[[int, int], Bytes]) -> Callable[[int, int], NDArray[Any]]:
    """Codes from rows of nibbles."""
    return lambda first, end: unpacked_nibbles(nibbles(first, end))
