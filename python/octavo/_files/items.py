"""A layer or matrix of the output of `octavo quantize`: what it is made from, its tensors and options in the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from octavo._files.fields import tensor_name
from octavo._files.header import Tensor
from octavo._files.linear_codecs import WeightFormat, linear_options
from octavo._layers.linear import Layout

__all__ = ["Item", "Kind", "Matrix"]

Kind = Literal["QuantLinear", "QuantMatrix", "QuantEmbedding", "QuantLSTM", "QuantGRU"]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A float matrix that is quantized row by row: a tensor, or one index of a stacked tensor.

    Attributes:
        tensor: its name in the checkpoint.
        shape: (out, in), or (rows, values) of a table.
        layout: how the checkpoint holds it.
        bias: the name of its bias.
        index: into the first axis of a stack.
        part: what it is of a recurrent layer, such as "ih_l0".
    """

    tensor: str
    shape: tuple[int, int]
    layout: Layout = "out_in"
    bias: str | None = None
    index: int | None = None
    part: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """A layer or matrix of the output, and what it is made from."""

    name: str
    kind: Kind
    matrices: tuple[Matrix, ...]
    batch_first: bool = False

    def sources(self) -> set[str]:
        """The tensors of the checkpoint that go into it."""
        return {name for m in self.matrices for name in (m.tensor, m.bias) if name is not None}

    def prefix(self, matrix: Matrix) -> str:
        """What the names of the matrix's tensors begin with in the output."""
        return tensor_name(self.name, matrix.part) if matrix.part else self.name

    def tensors(self, weights: WeightFormat) -> dict[str, Tensor]:
        """The tensors of the output."""
        return {
            tensor_name(self.prefix(matrix), suffix): tensor
            for matrix in self.matrices
            for suffix, tensor in weights.tensors(matrix.shape, bias=matrix.bias is not None).items()
        }

    def options(self, weights: WeightFormat) -> dict[str, Any]:
        """What the octavo header says of it, see docs/file_format.md."""
        first = self.matrices[0]
        if self.kind == "QuantEmbedding":
            return {"type": self.kind, **weights.options(), "shape": list(first.shape)}
        linear = {m.part: linear_options(m.shape, weights, bias=m.bias is not None) for m in self.matrices}
        if self.kind == "QuantLinear":
            return linear[""]
        if self.kind == "QuantMatrix":
            return linear[""] | {"type": self.kind, "axis": 0 if first.layout == "out_in" else 1}
        return {"type": self.kind, "batch_first": self.batch_first, "parts": list(linear), **linear}
