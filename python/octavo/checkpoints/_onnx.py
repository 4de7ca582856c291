"""The quantized matrices of an ONNX model, by the names of the nodes that multiply with them.

    MatMulNBits               com.microsoft   codes (n, blocks, bytes), scales and zero points a block, of k in order
    DequantizeLinear          ai.onnx         of a tensor, an axis or blocks, where MatMul or Gemm multiplies with it
    MatMulInteger             ai.onnx         with the scale by which its result is multiplied
    MatMulIntegerToFloat, DynamicQuantizeMatMul    com.microsoft   the same, fused
    QLinearMatMul             ai.onnx         fixed scales on both sides: a static layer
    QGemm                     com.microsoft   the same, with a bias, and with or without a scale of the result

Graphs are not run: what stands between these nodes is the user's code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from octavo._layers.linear import QuantLinear
from octavo._layers.permuted import PermutedQuantLinear
from octavo._layers.static import StaticQuantLinear
from octavo._layers.weights import ActivationScheme
from octavo._numerics.grouped import GroupedCodes
from octavo._numerics.params import QParams
from octavo._util.extras import import_extra
from octavo.checkpoints._forms import ActivationGroup, Form, Weight, activation_group_for, make_layer, make_weight
from octavo.checkpoints._onnx_graph import Graph
from octavo.checkpoints._packing import unpacked_nibbles

__all__ = ["load_nodes"]

Array = NDArray[Any]
_Weight: TypeAlias = Callable[[bool], Weight]  # asked with whether x has one scale a row


def load_nodes(
    path: str | os.PathLike[str], *, activation: ActivationScheme | None, activation_group: ActivationGroup
) -> dict[str, QuantLinear]:
    """The layers of a model, by the names of their nodes.

    Raises:
        ImportError: the package onnx is not installed.
        OSError: the file, or one that it names, cannot be read.
        ValueError: it is not a model, has none of these nodes, or one of a form that octavo lacks; the node is named.
    """
    package = import_extra("onnx", purpose="an ONNX model", extra="onnx")
    import_extra("onnx.numpy_helper", purpose="an ONNX model", extra="onnx")
    where = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{where} does not exist")
    try:
        graph = Graph(package, package.load(where))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # of protobuf, or onnx's own for external data
        raise ValueError(f"{where} is not a usable ONNX model: {error}") from None
    found: dict[str, QuantLinear] = {}
    for node in graph.nodes:
        read = _READERS.get(node.op_type)
        if read is None:
            continue
        name = node.name or node.output[0]
        try:
            made = read(graph, node, activation, activation_group)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: node {name!r} ({node.op_type}): {error}") from error
        if made is None:
            continue
        if name in found:
            raise ValueError(f"{where}: two nodes are called {name!r}; give them names of their own")
        found[name] = made
    if not found:
        names = ", ".join(("DequantizeLinear", *(n for n in _READERS if n not in ("MatMul", "Gemm"))))
        raise ValueError(
            f"{where} holds no quantized matrix: none of its nodes is {names} of a constant; octavo reads those"
        )
    return found


def _layer(
    weight: _Weight,
    form: Form,
    bias: Array | None,
    activation: ActivationScheme | None,
    group: ActivationGroup,
    own: Any,
) -> QuantLinear:
    """The layer; `own` is how the model quantizes activations, None where it does not."""
    chosen: ActivationScheme = activation or own or "symmetric"
    size = None if group == "auto" and own is not None else activation_group_for(form, chosen, group)
    in_rows = chosen != "int16" and size is None
    return make_layer(weight(in_rows), bias, activation=chosen, activation_group=size)


def _weight(codes: Array, scale: Array, zero: Array | None, bits: int, group: int) -> tuple[_Weight, Form]:
    """Of codes (n, k), scales and zero points (n, groups)."""
    k = codes.shape[1]
    if codes.dtype not in (np.int8, np.uint8):
        raise ValueError(f"its matrix must hold integers of 4 or 8 bits, got {codes.dtype}")
    if scale.dtype not in (np.float16, np.float32):
        scale = scale.astype(np.float32)
    if not np.isfinite(scale).all():
        raise ValueError(f"its scales must be finite, got {scale[~np.isfinite(scale)][0]}")
    signed = codes.dtype == np.int8
    points = np.zeros(scale.shape, np.int16) if zero is None else zero.astype(np.int16)
    form = Form.of(k, bits, signed=signed, group=group, zero=points, scale=scale)

    def made(in_rows: bool) -> Weight:
        return make_weight(form.beside_rows(scale, points) if in_rows else form, codes, scale, points)

    return made, form


def _in_rows(codes: Array, scale: Array, zero: Array | None) -> tuple[_Weight, Form]:
    """Of codes (n, k) of 8 bits, with one scale and zero point an output or in all."""
    n, k = codes.shape
    return _weight(codes, _spread(scale, n), None if zero is None else _spread(zero, n), 8, k)


def _spread(values: Array, n: int) -> Array:
    """One number, or one an output, as (n, 1)."""
    if values.size not in (1, n):
        raise ValueError(f"its scales and zero points must be one or {n}, one an output, got {values.size}")
    return np.array(np.broadcast_to(values.reshape(-1, 1), (n, 1)))


def _transposed(matrix: Array) -> Array:
    """(k, n) of MatMul as (n, k)."""
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"its matrix must have two dimensions, got shape {list(matrix.shape)}")
    return np.ascontiguousarray(matrix.T)


def _nbits(graph: Graph, node: Any, activation: ActivationScheme | None, group: ActivationGroup) -> QuantLinear:
    given = {"bits": 4, **graph.attributes(node)}
    if missing := [name for name in ("N", "K", "block_size") if name not in given]:
        raise ValueError(f"its attributes must be N, K and block_size, got no {missing[0]}")
    if given.get("weight_prepacked", 0):
        raise ValueError(
            "its matrix is packed for one GPU (weight_prepacked); octavo reads the published order of bytes"
        )
    n, k, bits, size = (int(given[name]) for name in ("N", "K", "bits", "block_size"))
    if bits not in (2, 4, 8) or size < 16 or n < 1 or k < 1:
        raise ValueError(f"its attributes must be bits of 2, 4 or 8 and a block_size from 16 on, got {bits} and {size}")
    blocks = -(-k // size)
    raw = graph.need(node, 1, "matrix")
    if raw.dtype != np.uint8 or raw.size != n * blocks * size * bits // 8:
        raise ValueError(
            f"its matrix must have {[n, blocks, size * bits // 8]} bytes, got {raw.dtype} {list(raw.shape)}"
        )
    codes = np.ascontiguousarray(_values(raw.reshape(n, -1), bits)[:, :k])
    scale = graph.need(node, 2, "scales")
    if scale.size != n * blocks:
        raise ValueError(f"its scales must be {n * blocks}, {blocks} an output, got {scale.size}")
    scale = scale.reshape(n, blocks)
    bias = graph.bias(node, 5)
    zero = graph.optional(node, 3, "zero points")
    ordered = len(node.input) > 4 and bool(node.input[4])
    if zero is not None and zero.dtype != np.uint8:
        if zero.dtype.kind != "f" and zero.dtype.name != "bfloat16":
            raise ValueError(f"its zero points must be packed in uint8, or floats, got {zero.dtype}")
        if zero.size != n * blocks:
            raise ValueError(f"its zero points must be {n * blocks}, {blocks} an output, got {zero.size}")
        if ordered:
            raise ValueError("float zero points beside g_idx are not supported")
        made, form = _float_zero_points(codes, scale, zero.reshape(n, blocks), bits, size)
        return _layer(made, form, bias, activation, group, None)
    points = np.full((n, blocks), 1 << (bits - 1), np.int16)
    if zero is not None:
        row_bytes = -(-blocks * bits // 8)
        if zero.size != n * row_bytes:
            raise ValueError(f"its zero points must be {n * row_bytes} bytes, {row_bytes} an output, got {zero.size}")
        points = _values(zero.reshape(n, -1), bits)[:, :blocks]
    if ordered:
        return _in_order(graph.need(node, 4, "g_idx"), codes, scale, points, bits, size, bias, activation, group)
    made, form = _weight(codes, scale, points, bits, size)
    return _layer(made, form, bias, activation, group, None)


def _values(packed: Array, bits: int) -> Array:
    """Bytes to codes, those of low bits first."""
    if bits == 8:
        return packed
    if bits == 4:
        return unpacked_nibbles(packed)
    return np.stack([(packed >> np.uint8(2 * i)) & np.uint8(3) for i in range(4)], axis=-1).reshape(len(packed), -1)


def _in_order(
    index: Array, codes: Array, scale: Array, zero: Array, bits: int, size: int, bias: Array | None,
    activation: ActivationScheme | None, group: ActivationGroup,
) -> QuantLinear:  # fmt: skip
    """A layer whose inputs belong to the groups of g_idx."""
    order = np.argsort(index, kind="stable")
    if not np.array_equal(index[order], np.arange(codes.shape[1]) // size):
        raise ValueError(f"its g_idx must have {size} inputs in each group")
    made, form = _weight(np.ascontiguousarray(codes[:, order]), scale, zero, bits, size)
    layer = _layer(made, form, bias, activation, group, None)
    return layer if np.array_equal(order, np.arange(len(order))) else PermutedQuantLinear(layer, order)


def _float_zero_points(codes: Array, scale: Array, zero: Array, bits: int, size: int) -> tuple[_Weight, Form]:
    """(c - z) s with z a float: whole numbers stay zero points, all others become minima -z s, rounded once."""
    if not np.isfinite(zero).all():
        raise ValueError("its zero points must be finite")
    whole = np.rint(zero.astype(np.float64))
    if (whole == zero).all() and whole.min() >= 0 and whole.max() < 1 << bits:
        return _weight(codes, scale, whole, bits, size)
    single = scale.astype(np.float32)
    plain = Form.of(codes.shape[1], bits, signed=False, group=size, zero=None, scale=single)
    if plain.kind == "int4":
        raise ValueError(f"float zero points need blocks that divide the inputs, got {size} and {codes.shape[1]}")
    minimum = (-(zero.astype(np.float64) * single)).astype(np.float32)
    if plain.repeat > 1 and plain.group_size is not None:
        count = codes.shape[1] // plain.group_size
        single, minimum = (np.repeat(a, plain.repeat, axis=1)[:, :count] for a in (single, minimum))
    made = GroupedCodes(codes, np.ascontiguousarray(single), plain.bits, plain.group_size, minimum=minimum)
    return lambda in_rows: made, plain


def _multiplied(
    graph: Graph, node: Any, activation: ActivationScheme | None, group: ActivationGroup
) -> QuantLinear | None:
    """MatMul or Gemm with a matrix that DequantizeLinear makes of a constant."""
    maker = graph.maker(node, 1)
    turned = node.op_type == "Gemm" and bool(graph.attributes(node).get("transB", 0))
    if maker is not None and maker.op_type == "Transpose" and graph.attributes(maker).get("perm", [1, 0]) == [1, 0]:
        maker, turned = graph.maker(maker, 0), not turned
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    matrix = graph.constant(maker, 0)
    if matrix is None or matrix.dtype not in (np.int8, np.uint8):
        return None  # both operands are made as the model runs, or of floats of 8 bits
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"its matrix must have two dimensions, got shape {list(matrix.shape)}")
    given = graph.attributes(node)
    _require_plain(given)
    codes = np.ascontiguousarray(matrix if turned else matrix.T)
    n = len(codes)
    scale, zero, size = _parameters(graph, maker, matrix.shape, turned)
    made, form = _weight(codes, scale, zero, graph.bits(maker, 0), size)
    bias = _gemm_bias(graph, node, given.get("beta", 1.0), n) if node.op_type == "Gemm" else None
    return _layer(made, form, bias, activation, group, None)


def _gemm_bias(graph: Graph, node: Any, beta: float, n: int) -> Array | None:
    """beta C of Gemm, one number an output, in float32; None where beta is 0, as C is not read then."""
    bias = graph.bias(node, 2) if beta else None
    return None if bias is None else _scaled_bias(bias, np.float32(beta), n)


def _scaled_bias(bias: Array, scale: Any, n: int) -> Array:
    if bias.ndim > 2 or bias.shape[-1:] not in ((), (1,), (n,)) or bias.shape[:-1] not in ((), (1,)):
        raise ValueError(f"its bias must have shape [{n}] or [1, {n}], one an output, got {list(bias.shape)}")
    with np.errstate(all="ignore"):  # beyond float32 the layer refuses it
        scaled = np.multiply(bias.astype(np.float32).reshape(-1), scale, dtype=np.float32)
    return np.broadcast_to(scaled, (n,))


def _parameters(graph: Graph, maker: Any, shape: tuple[int, ...], turned: bool) -> tuple[Array, Array | None, int]:
    """Scales and zero points of DequantizeLinear as (n, groups), and the inputs of a group."""
    given = graph.attributes(maker)
    scale, zero = graph.need(maker, 1, "scales"), graph.optional(maker, 2, "zero points")
    axis, block = int(given.get("axis", 1)), int(given.get("block_size", 0))
    if not -2 <= axis < 2 or block < 0:
        raise ValueError(f"its axis must be from -2 to 1 and its block_size 0 or more, got {axis} and {block}")
    axis %= 2
    outputs = 0 if turned else 1  # the axis of them
    n, k = shape[outputs], shape[1 - outputs]
    if not block:
        if scale.size > 1 and axis != outputs:
            raise ValueError("its scales run along the axis that is summed; octavo takes scales of outputs or blocks")
        return _spread(scale, n), None if zero is None else _spread(zero, n), k
    if axis == outputs:
        raise ValueError("its blocks run along the outputs; octavo takes blocks along the axis that is summed")
    arrays = [scale] if zero is None else [scale, zero]
    wanted = (n, -(-k // block)) if turned else (-(-k // block), n)
    if any(a.shape != wanted for a in arrays):
        raise ValueError(f"its scales and zero points must have shape {list(wanted)}, got {list(scale.shape)}")
    ready = [np.ascontiguousarray(a if turned else a.T) for a in arrays]
    return ready[0], ready[1] if len(ready) > 1 else None, block


def _integers(
    graph: Graph, node: Any, scale: Array, zero: Array | None, bias: Array | None,
    activation: ActivationScheme | None, group: ActivationGroup,
) -> QuantLinear:  # fmt: skip
    made, form = _in_rows(_transposed(graph.need(node, 1, "matrix")), scale, zero)
    return _layer(made, form, bias, activation, group, "asymmetric")


def _dynamic(graph: Graph, node: Any, activation: ActivationScheme | None, group: ActivationGroup) -> QuantLinear:
    scale = graph.need(node, 2, "scales")
    zero, bias = graph.optional(node, 3, "zero points"), graph.bias(node, 4)
    return _integers(graph, node, scale, zero, bias, activation, group)


def _to_float(graph: Graph, node: Any, activation: ActivationScheme | None, group: ActivationGroup) -> QuantLinear:
    scale = graph.need(node, 3, "scales of the matrix")
    zero, bias = graph.optional(node, 5, "zero points of the matrix"), graph.bias(node, 6)
    return _integers(graph, node, scale, zero, bias, activation, group)


def _matmul_integer(
    graph: Graph, node: Any, activation: ActivationScheme | None, group: ActivationGroup
) -> QuantLinear | None:
    if graph.constant(node, 1) is None:
        return None  # of two results, as in attention
    zero = graph.optional(node, 3, "zero points of the matrix")
    return _integers(graph, node, _scale_behind(graph, node), zero, None, activation, group)


def _scale_behind(graph: Graph, node: Any) -> Array:
    """The constant by which the result is multiplied: MatMulInteger, Cast, Mul by (x's scale * the matrix' scale)."""
    for cast in graph.takers.get(node.output[0], []):
        for mul in graph.takers.get(cast.output[0], []) if cast.op_type == "Cast" else []:
            if mul.op_type != "Mul":
                continue
            other = 1 if mul.input[0] == cast.output[0] else 0
            maker = graph.maker(mul, other)
            places = [(mul, other)] + ([(maker, 0), (maker, 1)] if maker is not None and maker.op_type == "Mul" else [])
            found = [scale for place, i in places if (scale := graph.constant(place, i)) is not None]
            if len(found) > 1:
                raise ValueError("the scale of its matrix is not known: its result is multiplied by two constants")
            if found:
                return found[0]
    raise ValueError("the scale of its matrix is not found: its result is not cast and multiplied by a constant")


def _qlinear(graph: Graph, node: Any, activation: ActivationScheme | None, group: ActivationGroup) -> QuantLinear:
    names = ("x's scale", "x's zero point", "matrix", "matrix' scale", "matrix' zero point")
    x_scale, x_zero, matrix, scale, zero = (graph.need(node, i + 1, name) for i, name in enumerate(names))
    gemm, given = node.op_type == "QGemm", graph.attributes(node)
    _require_plain(given)
    codes = _transposed(matrix)
    if given.get("transB", 0):
        codes = np.ascontiguousarray(matrix)
    made, form = _in_rows(codes, scale, zero)
    source, bias = _qparams(x_scale, x_zero), graph.optional(node, 6, "bias") if gemm else None
    if bias is not None:
        bias = _scaled_bias(bias, np.float32(source.scale) * scale.reshape(-1), len(codes))
    if activation is not None:
        return _layer(made, form, bias, activation, group, None)
    y_scale = (graph.optional if gemm else graph.need)(node, 6 + gemm, "scale")
    output = None if y_scale is None else _qparams(y_scale, graph.need(node, 7 + gemm, "zero point"))
    weight = made(True)
    if not isinstance(weight, tuple):
        raise ValueError(
            'its matrix has zero points other than the middle, which no static layer has; pass activation="asymmetric" '
            "to have x quantized as it is read"
        )
    return StaticQuantLinear(*weight, bias, input=source, output=output, name=node.name)


def _require_plain(given: Mapping[str, Any]) -> None:
    if given.get("transA", 0) or given.get("alpha", 1.0) != 1.0:
        raise ValueError("transA and alpha other than 1 are not of a layer")


def _qparams(scale: Array, zero: Array) -> QParams:
    if scale.size != 1 or zero.size != 1:
        raise ValueError("x and the result must have one scale each")
    return QParams(float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]), zero.dtype.name)


_Reader = Callable[[Graph, Any, ActivationScheme | None, ActivationGroup], QuantLinear | None]

_READERS: Mapping[str, _Reader] = {
    "MatMul": _multiplied,
    "Gemm": _multiplied,
    "MatMulNBits": _nbits,
    "MatMulInteger": _matmul_integer,
    "MatMulIntegerToFloat": _to_float,
    "DynamicQuantizeMatMul": _dynamic,
    "QLinearMatMul": _qlinear,
    "QGemm": _qlinear,
}
