"""Every public function that takes an array: masked ones and objects are refused by name, any byte order is read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import octavo as oc
from octavo import functional as f
from octavo import ops

F = np.float32
rng = np.random.default_rng(0)
W = rng.standard_normal((8, 64), dtype=F)
X = rng.standard_normal((4, 64), dtype=F)
ROW = rng.random(64, dtype=F) + F(0.5)  # positive
Q = rng.integers(-8, 8, (8, 64)).astype(np.int8)
SHORT = Q.astype(np.int16)
U = Q.view(np.uint8) & np.uint8(15)
IDS = np.array([[1, 0], [3, 7]])
HEADS = rng.standard_normal((3, 2, 8), dtype=F)
LAYER = oc.QuantLinear(W)
PER_ROW = np.abs(W[:, 0]) + F(0.1)
ONE, ZERO = np.array(F(0.5)), np.array(np.int8(3))
PARAMS = oc.QParams(0.5, 3)


class Entry(NamedTuple):
    """A good array, and what takes it."""

    array: Any
    call: Callable[[Any], Any]
    native: bool = False  # whether another byte order is refused, too
    objects: bool = True  # whether arrays of objects are refused by their dtype


def seen(observer: Any, x: Any) -> Any:
    observer(x)
    return observer.calculate_qparams().scale


def statistics(x: Any) -> Any:
    found = oc.InputStatistics(64)
    found.update(x)
    return found.hessian


def sample(x: Any) -> Any:
    found = oc.InputSample(64)
    found.update(x)
    return found.rows


def grouped(**changed: Any) -> Any:
    parts: dict[str, Any] = {"q": Q, "scale": np.ones((8, 2), F), "zero_point": None, "group_size": 32}
    return oc.GroupedWeight(**{**parts, **changed}).dequantize()


def coded(**changed: Any) -> Any:
    parts: dict[str, Any] = {"codes": U, "scale": np.ones((8, 2), F), "bits": 4, "group_size": 32}
    return oc.GroupedCodes(**{**parts, **changed}).dequantize()


def two_levels(**changed: Any) -> Any:
    parts: dict[str, Any] = {
        "codes": np.tile(U, 4), "scale": np.ones((8, 1), F), "bits": 4, "group_size": 32, "minimum": np.ones((8, 1), F),
        "group_scale": np.ones((8, 8), np.uint8), "group_minimum": np.ones((8, 8), np.uint8),
    }  # fmt: skip
    return oc.GroupedCodes(**{**parts, **changed}).dequantize()


def cached(k: Any, v: Any) -> Any:
    cache = f.KVCache(1, 8, 2, 8)
    cache.extend(3)
    cache[0].write(k, v)
    return f.attention(HEADS, cache[0])


def calibrated(x: Any) -> Any:
    prepared = oc.prepare(oc.nn.Linear(W), oc.default_qconfig, layers={oc.nn.Linear})
    oc.calibrate(prepared, [x])
    return oc.convert(prepared).input_qparams.scale


def trained(x: Any) -> Any:
    model = oc.prepare_qat(oc.nn.Linear(W), oc.default_qat_qconfig, layers={oc.nn.Linear})
    oc.calibrate(model, [x])
    return oc.convert(model).input_qparams.scale


def smoothed(x: Any) -> Any:
    return oc.find_smoothing([oc.nn.Linear(W)], [x], layers=oc.nn.Linear, forward=lambda m, x: m[0](x)).scales


def saved_gguf(x: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        oc.gguf.save({"w": x}, Path(folder, "m.gguf"))
        return oc.gguf.load(Path(folder, "m.gguf")).tensors["w"]


def saved(x: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        oc.save({"w": x, "fc": LAYER}, Path(folder, "m"))
        return oc.load(Path(folder, "m"))["w"]


def saved_checkpoint(x: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        oc.checkpoints.save({"w": x, "fc": LAYER}, folder)
        return np.fromfile(Path(folder, "model.safetensors"), np.uint8)


def lstm() -> Any:
    return oc.nn.LSTM.init(64, 4, rng=np.random.default_rng(0))


class Layer:
    def __init__(self, weight: Any, bias: Any = None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Any) -> Any:
        y = x @ np.asarray(self.weight).T
        return y if self.bias is None else y + np.asarray(self.bias)


COS, SIN = f.rope_tables(3, 8)

ENTRIES: dict[str, Entry] = {
    # layers
    "QuantLinear weight": Entry(W, lambda a: oc.QuantLinear(a).weight),
    "QuantLinear bias": Entry(PER_ROW, lambda a: oc.QuantLinear(W, a).bias),
    "QuantLinear x": Entry(X, lambda a: LAYER(a)),
    "QuantLinear int4 x": Entry(X, lambda a: oc.QuantLinear(W, dtype="int4", group_size=32)(a)),
    "pre_quant_scale": Entry(ROW, lambda a: oc.QuantLinear(W, pre_quant_scale=a).weight),
    "from_quantized weight": Entry(Q, lambda a: oc.QuantLinear.from_quantized(a, PER_ROW).weight),
    "from_quantized scale": Entry(PER_ROW, lambda a: oc.QuantLinear.from_quantized(Q, a).weight),
    "from_quantized bias": Entry(PER_ROW, lambda a: oc.QuantLinear.from_quantized(Q, PER_ROW, a).bias),
    "StaticQuantLinear weight": Entry(Q, lambda a: oc.StaticQuantLinear(a, PER_ROW, input=PARAMS).weight),
    "StaticQuantLinear scale": Entry(PER_ROW, lambda a: oc.StaticQuantLinear(Q, a, input=PARAMS).weight),
    "StaticQuantLinear x": Entry(X, lambda a: oc.StaticQuantLinear(Q, PER_ROW, input=PARAMS)(a)),
    "PermutedQuantLinear": Entry(np.arange(64)[::-1].copy(), lambda a: oc.PermutedQuantLinear(LAYER, a)(X)),
    "QuantMatrix": Entry(W, lambda a: oc.QuantMatrix(a).dequantize()),
    "x @ Q": Entry(X, lambda a: oc.QuantMatrix(W.T) .__rmatmul__(a), objects=False),  # products of objects are NumPy's
    "Q[ids]": Entry(IDS, lambda a: oc.QuantMatrix(W)[a], objects=False),  # an IndexError, as NumPy's
    "Q[:, ids]": Entry(IDS, lambda a: oc.QuantMatrix(W)[:, a], objects=False),
    "Q[booleans]": Entry(W > 0, lambda a: oc.QuantMatrix(W)[a], objects=False),
    "QuantEmbedding[ids]": Entry(IDS, lambda a: oc.QuantEmbedding(W)[a], objects=False),
    "np.take": Entry(IDS, lambda a: np.take(oc.QuantMatrix(W), a, axis=0)),
    "QuantEmbedding": Entry(W, lambda a: oc.QuantEmbedding(a).weight),
    "QuantEmbedding ids": Entry(IDS, lambda a: oc.QuantEmbedding(W)(a)),
    "QuantLSTM": Entry(X, lambda a: oc.QuantLSTM.from_float(lstm())(a)[0]),
    "nn.Linear weight": Entry(W, lambda a: oc.nn.Linear(a)(X)),
    "nn.Linear bias": Entry(PER_ROW, lambda a: oc.nn.Linear(W, a)(X)),
    "nn.Linear x": Entry(X, lambda a: oc.nn.Linear(W)(a)),
    "nn.Sigmoid": Entry(X, lambda a: oc.nn.Sigmoid()(a)),
    "nn.Embedding": Entry(W, lambda a: oc.nn.Embedding(a)([1])),
    "nn.Embedding ids": Entry(IDS, lambda a: oc.nn.Embedding(W)(a)),
    "nn.GRU": Entry(X, lambda a: oc.nn.GRU.init(64, 4, rng=np.random.default_rng(0))(a)[0]),
    # whole models
    "a layer's weight": Entry(W, lambda a: oc.quantize_dynamic(Layer(a), {Layer}).weight),
    "a layer's bias": Entry(PER_ROW, lambda a: oc.quantize_dynamic(Layer(W, a), {Layer}).bias),
    "calibrate": Entry(X, calibrated),
    "prepare_qat": Entry(X, trained),
    "find_smoothing": Entry(X, smoothed),
    # files: arrays of objects are not of what they hold
    "gguf.save": Entry(W, saved_gguf, objects=False),
    "gguf.save integers": Entry(IDS, saved_gguf, objects=False),
    "save": Entry(W, saved, objects=False),
    "checkpoints.save": Entry(W, saved_checkpoint, objects=False),
    # numbers
    "choose_qparams": Entry(X, lambda a: oc.choose_qparams(a).scale),
    "QParams scale": Entry(PER_ROW, lambda a: oc.QParams(a, 0, axis=0).scale),
    "QParams zero_point": Entry(np.arange(8, dtype=np.int32), lambda a: oc.QParams(PER_ROW, a, axis=0).zero_point),
    "quantize": Entry(X, lambda a: oc.quantize(a, PARAMS)),
    "dequantize": Entry(SHORT, lambda a: oc.dequantize(a, PARAMS)),
    "fake_quantize": Entry(X, lambda a: oc.fake_quantize(a, PARAMS)),
    "FakeQuantize": Entry(X, lambda a: oc.FakeQuantize(oc.MinMaxObserver)(a)),
    "QuantizedArray": Entry(Q, lambda a: oc.QuantizedArray(a, PARAMS).dequantize()),
    "QuantizedArray[ids]": Entry(IDS, lambda a: oc.QuantizedArray(Q, PARAMS)[a], objects=False),
    "QuantizedArray[:, ids]": Entry(IDS, lambda a: oc.QuantizedArray(Q, PARAMS)[:, a], objects=False),
    "pack_int4": Entry(Q, oc.pack_int4),
    "unpack_int4": Entry(oc.pack_int4(Q), lambda a: oc.unpack_int4(a, 64)),
    "GroupedWeight q": Entry(Q, lambda a: grouped(q=a)),
    "GroupedWeight scale": Entry(np.ones((8, 2), F), lambda a: grouped(scale=a)),
    "GroupedWeight zero_point": Entry(np.ones((8, 2), np.int8), lambda a: grouped(zero_point=a)),
    "GroupedCodes codes": Entry(U, lambda a: coded(codes=a)),
    "GroupedCodes scale": Entry(np.ones((8, 2), F), lambda a: coded(scale=a), native=True),
    "GroupedCodes zero_point": Entry(np.ones((8, 2), np.uint8), lambda a: coded(zero_point=a)),
    "GroupedCodes minimum": Entry(np.ones((8, 2), F), lambda a: coded(minimum=a), native=True),
    "GroupedCodes group_scale": Entry(np.ones((8, 8), np.uint8), lambda a: two_levels(group_scale=a)),
    "GroupedCodes group_minimum": Entry(np.ones((8, 8), np.uint8), lambda a: two_levels(group_minimum=a)),
    "round_nearest": Entry(W, lambda a: oc.round_nearest(a, group_size=32).q),
    "round_search": Entry(W, lambda a: oc.round_search(a, group_size=32).q),
    "round_search importance": Entry(ROW, lambda a: oc.round_search(W, group_size=32, importance=a).q),
    "round_gptq": Entry(X, lambda a: oc.round_gptq(W, a, group_size=32).q),
    "round_gptq_int8": Entry(W, lambda a: oc.round_gptq_int8(a, X).q),
    "rounding_error": Entry(W, lambda a: oc.rounding_error(a, oc.round_nearest(W, group_size=32)).weight_error),
    "InputStatistics": Entry(X, statistics),
    "InputSample": Entry(X, sample),
    "smoothing_scale weight": Entry(W, lambda a: oc.smoothing_scale(a, X, 0.5)),
    "smoothing_scale inputs": Entry(X, lambda a: oc.smoothing_scale(W, a, 0.5)),
    "MinMaxObserver": Entry(X, lambda a: seen(oc.MinMaxObserver(), a)),
    "HistogramObserver": Entry(X, lambda a: seen(oc.HistogramObserver(), a)),
    # integers
    "matmul": Entry(Q.astype(np.int32), lambda a: oc.matmul(a, Q.T.astype(np.int32))),
    "dot": Entry(Q.astype(np.int32), lambda a: oc.dot(Q.T.astype(np.int32), a)),
    "PackedInteger": Entry(Q.T.astype(np.int32), lambda a: Q.astype(np.int32) @ oc.PackedInteger(a)),
    # ONNX's operators
    "quantize_linear x": Entry(X, lambda a: ops.quantize_linear(a, ONE, ZERO)),
    "quantize_linear y_scale": Entry(ROW, lambda a: ops.quantize_linear(X, a)),
    "quantize_linear y_zero_point": Entry(np.ones(64, np.int16), lambda a: ops.quantize_linear(X, ROW, a)),
    "dequantize_linear x": Entry(SHORT, lambda a: ops.dequantize_linear(a, ONE)),
    "dequantize_linear x_scale": Entry(ROW, lambda a: ops.dequantize_linear(Q, a)),
    "dequantize_linear x_zero_point": Entry(np.ones(64, np.int16), lambda a: ops.dequantize_linear(SHORT, ROW, a)),
    "dynamic_quantize_linear": Entry(X, lambda a: ops.dynamic_quantize_linear(a)[0]),
    "matmul_integer a": Entry(Q, lambda a: ops.matmul_integer(a, Q.T.copy())),
    "matmul_integer b": Entry(Q.T.copy(), lambda a: ops.matmul_integer(Q, a)),
    "matmul_integer zero point": Entry(ZERO, lambda a: ops.matmul_integer(Q, Q.T.copy(), a)),
    "qlinear_matmul": Entry(Q, lambda a: ops.qlinear_matmul(a, ONE, ZERO, Q.T.copy(), ONE, ZERO, ONE, ZERO)),
    "qlinear_matmul scale": Entry(ONE, lambda a: ops.qlinear_matmul(Q, a, ZERO, Q.T.copy(), ONE, ZERO, ONE, ZERO)),
    # functions
    **{
        name: Entry(X, getattr(f, name))
        for name in ("exp", "tanh", "sigmoid", "silu", "gelu", "erf", "sin", "cos", "softmax", "log_softmax", "argmax")
    },
    "log": Entry(ROW, f.log),
    "swiglu": Entry(X, lambda a: f.swiglu(X, a)),
    "rms_norm": Entry(X, lambda a: f.rms_norm(a, ROW, eps=1e-5)),
    "rms_norm weight": Entry(ROW, lambda a: f.rms_norm(X, a, eps=1e-5)),
    "layer_norm": Entry(X, lambda a: f.layer_norm(a, ROW, eps=1e-5)),
    "cross_entropy": Entry(X, lambda a: f.cross_entropy(a, np.array([0, 1, 2, 3]))),
    "cross_entropy targets": Entry(np.array([0, 1, 2, 3]), lambda a: f.cross_entropy(X, a)),
    "top_k": Entry(X, lambda a: f.top_k(a, 3)[1]),
    "rope x": Entry(HEADS, lambda a: f.rope(a, COS, SIN)),
    "rope cos": Entry(COS, lambda a: f.rope(HEADS, a, SIN)),
    "rope sin": Entry(SIN, lambda a: f.rope(HEADS, COS, a)),
    "rope_tables positions": Entry(np.arange(3), lambda a: f.rope_tables(a, 8)[0]),
    "rope_tables factors": Entry(np.ones(4, F), lambda a: f.rope_tables(3, 8, factors=a)[0]),
    "attention q": Entry(HEADS, lambda a: f.attention(a, HEADS, HEADS)),
    "attention k": Entry(HEADS, lambda a: f.attention(HEADS, a, HEADS)),
    "attention v": Entry(HEADS, lambda a: f.attention(HEADS, HEADS, a)),
    "attention mask": Entry(np.zeros((3, 3), F), lambda a: f.attention(HEADS, HEADS, HEADS, mask=a)),
    "KVCache k": Entry(HEADS, lambda a: cached(a, HEADS)),
    "KVCache v": Entry(HEADS, lambda a: cached(HEADS, a)),
    "KVCache lengths": Entry(np.array([2]), lambda a: f.KVCache(1, 8, 2, 8).extend(a)),
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
def test_masked_array_is_refused(name: str) -> None:
    array, call, *_ = ENTRIES[name]
    mask = np.zeros(array.shape, bool)
    mask[(0,) * array.ndim] = True
    with pytest.raises(TypeError, match="must not be a masked array, whose mask would be lost"):
        call(np.ma.array(array, mask=mask))


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.objects])
def test_array_of_objects_is_refused(name: str) -> None:
    array, call, *_ = ENTRIES[name]
    with pytest.raises(TypeError, match=r"dtype object|got object|dtype\('O'\)"):
        call(array.astype(object))


@pytest.mark.parametrize("name", ENTRIES)
def test_any_byte_order_is_read(name: str) -> None:
    array, call, native, _ = ENTRIES[name]
    swapped = array.astype(array.dtype.newbyteorder("S"))
    if native:
        with pytest.raises(TypeError, match=r"must be an array of float32.*, got >f4"):
            call(swapped)
        return
    expected, found = call(array), call(swapped)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        expected, found = list(expected.values()), list(found.values())
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
