"""The libraries that compare_peers.py measures. A contender turns a float layer into something that can be called.

make(layer) builds it once for a weight, bind(x) hands it the input in its own form, and what that returns is timed.
All but those marked `integers_only` take float32 and give float32: quantizing the input is part of the call.
The number of threads is fixed by set_threads before anything is built, and by the environment before any import.
"""

from __future__ import annotations

import importlib.util
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import octavo as oc
from bench.shapes import HAS_INT4

Floats = NDArray[np.float32]
Call = Callable[[], Any]
Bind = Callable[[Floats], Call]

GROUP = 128


@dataclass(frozen=True)
class Layer:
    weight: Floats  # (N, K)
    bias: Floats


@dataclass(frozen=True)
class Contender:
    name: str
    kind: str  # what it multiplies: float32, bf16, int8, int4
    make: Callable[[Layer, int], Bind]  # the layer and the number of threads
    integers_only: bool = False  # takes int8 and gives int32 sums: flattered
    is_octavo: bool = False
    most_threads: int = 1 << 30

    @property
    def weight_bits(self) -> int:
        return {"float32": 32, "bf16": 16, "int8": 8, "int4": 4}[self.kind]


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def contenders() -> list[Contender]:
    """Those whose library is installed, octavo first."""
    found = [Contender("octavo int8", "int8", _octavo, is_octavo=True)]
    if HAS_INT4:
        found.append(Contender("octavo int4 g128", "int4", _octavo_int4, is_octavo=True))
    found.append(Contender("numpy float32", "float32", _numpy))
    if installed("torch"):
        found += _torch_contenders()
    if installed("onnxruntime") and installed("onnx"):
        found.append(Contender("onnxruntime int8", "int8", _onnxruntime_int8))
        found.append(Contender("onnxruntime int4 g128", "int4", _onnxruntime_int4))
    if installed("openvino"):
        found.append(Contender("openvino int8", "int8", _openvino_int8))
        found.append(Contender("openvino int4 g128", "int4", _openvino_int4))
    if installed("numkong"):
        found.append(Contender("numkong (ints)", "int8", _numkong, integers_only=True, most_threads=1))
    return found


def versions() -> dict[str, str]:
    found = {"octavo": oc.__version__, "python": platform.python_version(), "numpy": np.__version__}
    for name in ("torch", "onnxruntime", "onnx", "openvino", "numkong"):
        if installed(name):
            found[name] = str(importlib.import_module(name).__version__).split("-")[0]
    return found


def set_threads(threads: int) -> None:
    oc.set_num_threads(threads)
    if installed("torch"):
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)


# ---- octavo, NumPy -------------------------------------------------------------------------------------------------


def _octavo(layer: Layer, threads: int) -> Bind:
    quantized = oc.QuantLinear(layer.weight, layer.bias)
    return lambda x: lambda: quantized(x)


def _octavo_int4(layer: Layer, threads: int) -> Bind:
    options: dict[str, Any] = {"dtype": "int4", "group_size": GROUP, "rounding": "nearest"}
    quantized = oc.QuantLinear(layer.weight, layer.bias, **options)
    return lambda x: lambda: quantized(x)


def _numpy(layer: Layer, threads: int) -> Bind:
    w = np.ascontiguousarray(layer.weight.T)
    return lambda x: lambda: x @ w + layer.bias


# ---- torch ---------------------------------------------------------------------------------------------------------


def _torch_contenders() -> list[Contender]:
    import torch

    found = [Contender("torch float32", "float32", _torch_float32), Contender("torch bf16", "bf16", _torch_bf16)]
    found += [
        Contender(f"torch {engine}", "int8", lambda layer, threads, engine=engine: _torch_dynamic(layer, engine))
        for engine in torch.backends.quantized.supported_engines
        if engine != "none"
    ]
    found.append(Contender("torch _int_mm (ints)", "int8", _torch_int_mm, integers_only=True))
    return found


def _torch_float32(layer: Layer, threads: int) -> Bind:
    import torch

    w, b = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
    return lambda x: lambda: torch.nn.functional.linear(torch.from_numpy(x), w, b).numpy()


def _torch_bf16(layer: Layer, threads: int) -> Bind:
    import torch

    w, b = torch.from_numpy(layer.weight).bfloat16(), torch.from_numpy(layer.bias).bfloat16()
    return lambda x: lambda: torch.nn.functional.linear(torch.from_numpy(x).bfloat16(), w, b).float().numpy()


def _torch_dynamic(layer: Layer, engine: str) -> Bind:
    import torch

    torch.backends.quantized.engine = engine
    n, k = layer.weight.shape
    linear = torch.nn.Linear(k, n, device="meta")  # no random weights for nothing
    linear.weight = torch.nn.Parameter(torch.from_numpy(layer.weight))
    linear.bias = torch.nn.Parameter(torch.from_numpy(layer.bias))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of this module
        model = torch.ao.quantization.quantize_dynamic(
            torch.nn.Sequential(linear), {torch.nn.Linear}, dtype=torch.qint8
        )

    def bind(x: Floats) -> Call:
        torch.backends.quantized.engine = engine
        return lambda: model(torch.from_numpy(x)).numpy()

    return bind


def integers_of(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Rows as int8 and their scales, for those who multiply integers alone; not timed."""
    scale = np.maximum(np.abs(x).max(axis=1, keepdims=True), np.float32(2.0**-100)) / np.float32(127)
    return np.rint(x / scale).astype(np.int8), scale


class IntegerCall:
    """A product of integers, timed as it is; `floats` makes of its sums what the layer would have given."""

    def __init__(self, run: Call, scale: Floats, bias: Floats) -> None:
        self._run, self._scale, self._bias = run, scale, bias

    def __call__(self) -> Any:
        return self._run()

    def floats(self) -> Floats:
        return np.asarray(self._run()) * self._scale + self._bias


def _torch_int_mm(layer: Layer, threads: int) -> Bind:
    import torch

    q, s = integers_of(layer.weight)
    orders = [torch.from_numpy(np.ascontiguousarray(q.T)), torch.from_numpy(q).t()]

    def bind(x: Floats) -> Call:
        a, s_x = integers_of(x)
        t = torch.from_numpy(a)
        w = min(orders, key=lambda order: _second_call(lambda: torch._int_mm(t, order)))  # which is faster depends on M
        return IntegerCall(lambda: torch._int_mm(t, w).numpy(), s_x * s.T, layer.bias)

    return bind


def _second_call(run: Call) -> float:
    """Seconds."""
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# ---- onnxruntime, openvino, numkong --------------------------------------------------------------------------------


def _four_bits(weight: Floats, largest: int) -> tuple[NDArray[np.int8], Floats]:
    """Integers (N, K / GROUP, GROUP) in -largest - 1..largest and scales (N, K / GROUP, 1)."""
    n, k = weight.shape
    groups = weight.reshape(n, k // GROUP, GROUP)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(largest)
    return np.rint(groups / scale).astype(np.int8), scale


def _pairs(q: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two values a byte, the first in the low half."""
    return np.asarray((q[..., 0::2] & 15) | (q[..., 1::2] << 4), np.uint8)


def _onnxruntime(layer: Layer, threads: int, node: Any, arrays: dict[str, NDArray[Any]]) -> Bind:
    import onnx
    import onnxruntime

    n, k = layer.weight.shape
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [onnx.helper.make_tensor_value_info("x", floats, ["m", k])],
        [onnx.helper.make_tensor_value_info("y", floats, ["m", n])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: lambda: session.run(None, {"x": x})[0]


def _onnxruntime_int8(layer: Layer, threads: int) -> Bind:
    import onnx

    q, s = integers_of(layer.weight)
    node = onnx.helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "z", "bias"], ["y"], domain="com.microsoft")
    arrays = {"w": q.T, "s": s[:, 0], "z": np.zeros(len(q), np.int8), "bias": layer.bias}
    return _onnxruntime(layer, threads, node, arrays)


def _onnxruntime_int4(layer: Layer, threads: int) -> Bind:
    import onnx

    n, k = layer.weight.shape
    q, s = _four_bits(layer.weight, 7)
    node = onnx.helper.make_node(
        "MatMulNBits",
        ["x", "w", "s", "", "", "bias"],
        ["y"],
        domain="com.microsoft",
        K=k,
        N=n,
        bits=4,
        block_size=GROUP,
        accuracy_level=4,  # activations in int8
    )
    arrays = {"w": _pairs((q + 8).astype(np.uint8)), "s": s.reshape(-1), "bias": layer.bias}
    return _onnxruntime(layer, threads, node, arrays)


def _openvino(layer: Layer, threads: int, weight: Callable[[Any], Any]) -> Bind:
    """weight(opset) gives the node of the (N, K) float32 weight: compressed, with the steps that undo it."""
    import openvino
    import openvino.opset13 as op

    x = op.parameter([-1, layer.weight.shape[1]], np.float32)
    y = op.add(op.matmul(x, op.convert(weight(op), "f32"), False, True), op.constant(layer.bias[None]))
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP),  # faster than its default, 32
    }
    request = openvino.Core().compile_model(openvino.Model([y], [x]), "CPU", options).create_infer_request()
    return lambda data: lambda: request.infer({0: data}, share_inputs=True, share_outputs=True)[0]


def _openvino_int8(layer: Layer, threads: int) -> Bind:
    q, s = integers_of(layer.weight)
    return _openvino(
        layer, threads, lambda op: op.multiply(op.convert(op.constant(q), "f16"), op.constant(s.astype(np.float16)))
    )


def _openvino_int4(layer: Layer, threads: int) -> Bind:
    import openvino

    q, s = _four_bits(layer.weight, 7)
    pairs = _pairs(q.view(np.uint8))  # a Tensor of it holds no reference: it has to live until the model is compiled

    def weight(op: Any) -> Any:
        packed = op.constant(openvino.Tensor(pairs, list(q.shape), openvino.Type.i4), shared_memory=False)
        groups = op.multiply(op.convert(packed, "f16"), op.constant(s.astype(np.float16)))
        return op.reshape(groups, op.constant(np.array(layer.weight.shape)), False)

    return _openvino(layer, threads, weight)


def _numkong(layer: Layer, threads: int) -> Bind:
    import numkong

    q, s = integers_of(layer.weight)
    packed = numkong.dots_pack(q)

    def bind(x: Floats) -> Call:
        a, s_x = integers_of(x)
        return IntegerCall(lambda: numkong.dots_packed(a, packed), s_x * s.T, layer.bias)

    return bind
