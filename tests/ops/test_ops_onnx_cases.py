"""The onnx package's own node cases for the five operators, run through octavo.ops and compared to the bit."""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

import numpy as np
import pytest

import octavo as oc

onnx = pytest.importorskip("onnx", reason="the cases are onnx's: pip install 'octavo[test]'")

OPERATORS = {
    "QuantizeLinear": "quantizelinear",
    "DequantizeLinear": "dequantizelinear",
    "DynamicQuantizeLinear": "dynamicquantizelinear",
    "MatMulInteger": "matmulinteger",
    "QLinearMatMul": "qlinearmatmul",
}
OUT_OF_SCOPE = ("FLOAT8", "FLOAT6", "FLOAT4", "BFLOAT16", "INT2", "UINT2")

# Cases that must have run: a new onnx release that renames or drops them should be noticed.
MUST_RUN = {
    "test_quantizelinear",
    "test_quantizelinear_axis",
    "test_quantizelinear_blocked_asymmetric",
    "test_quantizelinear_blocked_symmetric",
    "test_quantizelinear_int16",
    "test_quantizelinear_uint16",
    "test_quantizelinear_int4",
    "test_quantizelinear_uint4",
    "test_dequantizelinear_int4",
    "test_dequantizelinear_uint4",
    "test_dequantizelinear",
    "test_dequantizelinear_axis",
    "test_dequantizelinear_blocked",
    "test_dynamicquantizelinear",
    "test_dynamicquantizelinear_max_adjusted",
    "test_dynamicquantizelinear_min_adjusted",
    "test_matmulinteger",
    "test_qlinearmatmul_2D_uint8_float32",
    "test_qlinearmatmul_3D_int8_float32",
}


@functools.cache
def cases() -> dict[str, Any]:
    """Each case by name: an onnx TestCase whose model is the single node. Slow: onnx makes those of all operators."""
    from onnx.backend.test.case import node as node_cases

    found = {}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx's own cases use what newer NumPy deprecates
        for module in OPERATORS.values():
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
        for op in OPERATORS:
            for case in node_cases.collect_testcases(op):
                nodes = case.model.graph.node
                if len(nodes) == 1 and nodes[0].op_type == op:
                    found[case.name] = case
    return found


def type_names(case: Any) -> set[str]:
    values = [*case.model.graph.input, *case.model.graph.output]
    return {onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type) for v in values}


def as_array(x: Any) -> np.ndarray:
    """Some cases hold tensors; int4 and uint4 ones become arrays of ml_dtypes."""
    return onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else np.asarray(x)


def plain(x: Any) -> np.ndarray:
    """int4 and uint4 arrays as octavo has them, one value a byte."""
    array = as_array(x)
    name = array.dtype.name
    return array.astype(np.int8 if name == "int4" else np.uint8) if name in ("int4", "uint4") else array


def run(case: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    node = case.model.graph.node[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    options = {name: attributes[name] for name in ("axis", "block_size") if name in attributes}
    if node.op_type == "QuantizeLinear":
        kind = case.model.graph.output[0].type.tensor_type.elem_type
        options["output_dtype"] = onnx.TensorProto.DataType.Name(kind).lower()
        return [oc.ops.quantize_linear(*inputs, **options)]
    if node.op_type == "DequantizeLinear":
        return [oc.ops.dequantize_linear(*inputs, **options)]
    if node.op_type == "DynamicQuantizeLinear":
        return list(oc.ops.dynamic_quantize_linear(*inputs))
    if node.op_type == "MatMulInteger":
        return [oc.ops.matmul_integer(*inputs)]
    return [oc.ops.qlinear_matmul(*inputs)]


@pytest.mark.slow
def test_cases_of_the_onnx_package() -> None:
    ran = set()
    for name, case in cases().items():
        if any(t.startswith(OUT_OF_SCOPE) for t in type_names(case)):
            continue
        for inputs, outputs in case.data_sets:
            for actual, expected in zip(run(case, [as_array(x) for x in inputs]), map(plain, outputs), strict=True):
                assert actual.dtype == expected.dtype, name
                np.testing.assert_array_equal(actual, expected, err_msg=name)
        ran.add(name)
    assert ran >= MUST_RUN
