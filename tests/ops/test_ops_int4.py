"""Four-bit QuantizeLinear and DequantizeLinear, and packed storage, against the onnx package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc

onnx = pytest.importorskip("onnx", reason="the reference is onnx's: pip install 'octavo[test]'")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="onnx brings ml_dtypes with it")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - behind the skip
from onnx.reference import ReferenceEvaluator  # noqa: E402

F = np.float32
KINDS = {
    "int4": (TensorProto.INT4, ml_dtypes.int4, np.int8, -8, 7),
    "uint4": (TensorProto.UINT4, ml_dtypes.uint4, np.uint8, 0, 15),
}
# shape, axis, block_size, shape of the scale
FORMS: dict[str, tuple[tuple[int, ...], int, int, tuple[int, ...]]] = {
    "per tensor": ((3, 5), 1, 0, ()),
    "axis 0": ((3, 5), 0, 0, (3,)),
    "axis -1": ((2, 3, 5), -1, 0, (5,)),
    "blocks of rows": ((6, 5), 0, 2, (3, 5)),
    "blocks of columns": ((3, 8), 1, 4, (3, 2)),
    "blocks of the middle": ((2, 6, 3), 1, 3, (2, 2, 3)),
    "blocks of all": ((3, 8), 1, 8, (3, 1)),
}


def evaluated(op: str, inputs: dict[str, tuple[int, np.ndarray]], output: int, **attributes: Any) -> np.ndarray:
    """The node's result by onnx.reference; four-bit tensors go in packed, as a model file holds them."""
    node = helper.make_node(op, list(inputs), ["y"], **attributes)
    stored, given, values = [], [], {}
    for name, (kind, value) in inputs.items():
        if kind in (TensorProto.INT4, TensorProto.UINT4):
            packed = oc.pack_int4(value.reshape(-1)).tobytes()
            stored.append(helper.make_tensor(name, kind, value.shape, packed, raw=True))
        else:
            given.append(helper.make_tensor_value_info(name, kind, value.shape))
            values[name] = value
    graph = helper.make_graph(
        [node], "one", given, [helper.make_tensor_value_info("y", output, None)], initializer=stored
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    return ReferenceEvaluator(model).run(None, values)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale_type", [F, np.float16], ids=["float32", "float16"])
def test_quantize_and_dequantize_are_onnx_s(kind: str, form: str, scale_type: type) -> None:
    tensor_type, element, storage, qmin, qmax = KINDS[kind]
    shape, axis, block_size, scale_shape = FORMS[form]
    rng = np.random.default_rng(0)
    float_type = helper.np_dtype_to_tensor_dtype(np.dtype(scale_type))
    x = (8 * rng.standard_normal(shape)).astype(scale_type)
    scale = np.asarray(rng.uniform(0.5, 2, scale_shape), scale_type)
    zero = np.asarray(rng.integers(qmin, qmax + 1, scale_shape), storage)
    options = {"axis": axis, "block_size": block_size}
    q = oc.ops.quantize_linear(x, scale, zero, output_dtype=kind, **options)
    assert q.dtype == storage
    inputs = {"x": (float_type, x), "s": (float_type, scale), "z": (tensor_type, zero)}
    expected = evaluated("QuantizeLinear", inputs, tensor_type, **options)
    np.testing.assert_array_equal(q, expected.astype(storage))
    by_type = oc.ops.quantize_linear(x, scale, zero.astype(element), **options)
    assert by_type.dtype == storage
    np.testing.assert_array_equal(by_type, q)

    y = oc.ops.dequantize_linear(q, scale, zero, **options)
    inputs = {"x": (tensor_type, q), "s": (float_type, scale), "z": (tensor_type, zero)}
    expected = evaluated("DequantizeLinear", inputs, float_type, **options)
    assert y.dtype == expected.dtype == scale_type
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(
        oc.ops.dequantize_linear(q.astype(element), scale, zero.astype(element), **options), y
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1,), (4,), (3, 5), (2, 3, 3), (0, 4)], ids=str)
def test_packed_bytes_are_those_of_an_onnx_tensor(kind: str, shape: tuple[int, ...]) -> None:
    tensor_type, element, storage, qmin, qmax = KINDS[kind]
    q = np.random.default_rng(1).integers(qmin, qmax + 1, shape).astype(storage)
    stored = np.frombuffer(numpy_helper.from_array(q.astype(element)).raw_data, np.uint8)
    np.testing.assert_array_equal(oc.pack_int4(q.reshape(-1)), stored)
    np.testing.assert_array_equal(oc.pack_int4(q.astype(element).reshape(-1)), stored)
    np.testing.assert_array_equal(oc.unpack_int4(stored, q.size, signed=kind == "int4").reshape(shape), q)
    tensor = helper.make_tensor("q", tensor_type, shape, oc.pack_int4(q.reshape(-1)).tobytes(), raw=True)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(storage), q)


def test_dequantize_of_packed_integers_is_that_of_the_canonical_ones() -> None:
    rng = np.random.default_rng(2)
    q = rng.integers(-8, 8, (4, 65)).astype(np.int8)
    scale = rng.uniform(0.1, 1, (4, 3)).astype(F)
    y = oc.ops.dequantize_linear(oc.unpack_int4(oc.pack_int4(q), 65), scale, block_size=32)
    np.testing.assert_array_equal(y, oc.GroupedWeight(q, scale, None, 32).dequantize())


def test_four_bit_arrays_of_other_operators_are_refused() -> None:
    a = np.ones((2, 2), ml_dtypes.int4)
    with pytest.raises(TypeError, match="a must be int8 or uint8, got dtype int4"):
        oc.ops.matmul_integer(a, a)
    with pytest.raises(TypeError, match="x_zero_point must be int8 or int4, got dtype uint4"):
        oc.ops.dequantize_linear(a, F(1), ml_dtypes.uint4(1))
    with pytest.raises(ValueError, match="uint4 needs a y_zero_point of uint8, got int8"):
        oc.ops.quantize_linear(np.ones(2, F), F(1), ml_dtypes.int4(1), output_dtype="uint4")
