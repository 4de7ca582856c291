"""The graph of an ONNX model: its nodes, who makes and takes what, and the constants that their inputs stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._util.errors import raise_named
from octavo.ops import dequantize_linear

__all__ = ["Graph"]

Array = NDArray[Any]

_OWN_DOMAINS = ("", "ai.onnx", "com.microsoft")
_CAST_TO = {
    "FLOAT": np.float32, "FLOAT16": np.float16, "DOUBLE": np.float64, "BOOL": np.bool_,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
}  # fmt: skip
_LOW_BITS = {"INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}


class Graph:
    """The nodes of a model, its constants, and who takes what.

    Args:
        package: the module onnx.
        model: what its `load` returns.
    """

    def __init__(self, package: Any, model: Any) -> None:
        self._package = package
        self.nodes = [node for node in model.graph.node if node.domain in _OWN_DOMAINS]
        self.makers = {name: node for node in model.graph.node for name in node.output if name}
        self.takers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def maker(self, node: Any, i: int) -> Any:
        """The node that makes input i of a node, Identity aside; None for inputs of the model, initializers and what
        operators of other domains make, whatever they are called.
        """
        found = self.makers.get(self._name(node, i))
        for _ in range(len(self.makers)):  # a graph that runs in a circle has an end, too
            if found is None or found.domain not in _OWN_DOMAINS:
                return None
            if found.op_type != "Identity":
                return found
            found = self.makers.get(self._name(found, 0))
        return None

    def constant(self, node: Any, i: int) -> Array | None:
        """Input i of a node, where it is a constant; integers of 2 and 4 bits as int8 or uint8.

        A constant is an initializer, the result of Constant, or either of them behind Identity and Cast.
        """
        found = self._constant(self._name(node, i))
        return None if found is None else found[0]

    def optional(self, node: Any, i: int, what: str) -> Array | None:
        """Input i of a node, None only where the node has none.

        Raises:
            ValueError: it is there, and is not a constant.
        """
        return self.need(node, i, what) if self._name(node, i) else None

    def bias(self, node: Any, i: int) -> Array | None:
        """As `optional`; but it may be quantized: what DequantizeLinear makes of constants counts as one."""
        return self.need(node, i, "bias", dequantized=True) if self._name(node, i) else None

    def need(self, node: Any, i: int, what: str, *, dequantized: bool = False) -> Array:
        """Input i of a node, which must be a constant, or DequantizeLinear of constants where that is allowed."""
        name = self._name(node, i)
        try:
            found = self._constant(name, dequantized)
        except (TypeError, ValueError) as error:
            raise_named(error, f"its {what}")
        if found is None:
            got = f"{name!r}, which is made as the model runs" if name else "none"
            raise ValueError(f"its {what} must be a constant of the model, got {got}")
        return found[0]

    def bits(self, node: Any, i: int) -> int:
        """Of the type of a constant: 2, 4 or 8."""
        found = self._constant(self._name(node, i))
        return 8 if found is None else _LOW_BITS.get(found[1], 8)

    def attributes(self, node: Any) -> dict[str, Any]:
        return {a.name: self._package.helper.get_attribute_value(a) for a in node.attribute}

    def type_name(self, data_type: int) -> str:
        """As "FLOAT", "INT4"."""
        name: str = self._package.TensorProto.DataType.Name(data_type)
        return name

    @staticmethod
    def _name(node: Any, i: int) -> str:
        """That of input i, empty where the node has none."""
        return str(node.input[i]) if i < len(node.input) else ""

    def _constant(self, name: str, dequantized: bool = False) -> tuple[Array, str] | None:
        """What a name stands for, where that is a constant, and the name of its type.

        DequantizeLinear is computed only where `dequantized` is set: matrices are to stay integers.
        """
        casts: list[str] = []
        for _ in range(len(self.makers) + 1):
            if name in self._constants:
                return self._cast(self._read(self._constants[name]), casts)
            node = self.makers.get(name)
            if node is None or node.domain not in _OWN_DOMAINS:
                return None
            if node.op_type == "Constant":
                stored = self._stored(node)
                return None if stored is None else self._cast(stored, casts)
            if node.op_type == "Cast":
                casts.append(self.type_name(self.attributes(node).get("to", 0)))
            elif node.op_type == "DequantizeLinear" and dequantized:
                made = self._dequantized(node)
                return None if made is None else self._cast(made, casts)
            elif node.op_type != "Identity":
                return None
            name = self._name(node, 0)
        return None

    def _dequantized(self, node: Any) -> tuple[Array, str] | None:
        """(q - z) s of DequantizeLinear; None where one of them is not a constant."""
        q, scale = (self._constant(self._name(node, i)) for i in (0, 1))
        zero = self.constant(node, 2)
        if q is None or scale is None or (zero is None and self._name(node, 2)):
            return None
        given = self.attributes(node)
        axis, size = int(given.get("axis", 1)), int(given.get("block_size", 0))
        found = dequantize_linear(q[0], scale[0], zero, axis=axis, block_size=size), scale[1]
        to = int(given.get("output_dtype", 0))
        return self._cast(found, [self.type_name(to)] if to else [])

    def _read(self, tensor: Any) -> tuple[Array, str]:
        kind = self.type_name(tensor.data_type)  # a ValueError where there is no such type
        found: Array = self._package.numpy_helper.to_array(tensor)
        if found.dtype.name in ("int4", "int2"):
            found = found.astype(np.int8)
        elif found.dtype.name in ("uint4", "uint2"):
            found = found.astype(np.uint8)
        return found, kind

    def _stored(self, node: Any) -> tuple[Array, str] | None:
        """What a node of Constant gives; None of strings and sparse tensors."""
        for name, value in self.attributes(node).items():
            if name == "value":
                return self._read(value)
            if name in ("value_float", "value_floats"):
                return np.asarray(value, np.float32), "FLOAT"
            if name in ("value_int", "value_ints"):
                return np.asarray(value, np.int64), "INT64"
        return None

    @staticmethod
    def _cast(found: tuple[Array, str], casts: list[str]) -> tuple[Array, str] | None:
        """A constant after its casts, the last of which comes first; None where one is to a type that NumPy lacks."""
        for to in reversed(casts):
            if to == found[1]:
                continue
            if to not in _CAST_TO:
                return None
            with np.errstate(all="ignore"):
                found = found[0].astype(_CAST_TO[to]), to
        return found
