"""Inputs and attributes of an ONNX model's nodes: read wherever a constant stands, and otherwise refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
from onnx import TensorProto, helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from onnx_models import F, K, N, codes, model, scales  # noqa: E402


def gemm(path: Path, bias: Any, *before: Any, named: str = "c", **attributes: Any) -> Path:
    """A Gemm with a quantized matrix, whose bias is called `named`; `before` are nodes that run before it."""
    nodes = [
        *before,
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], "dq", axis=1),
        helper.make_node("Gemm", ["x", "w", named], ["y"], "fc", **attributes),
    ]
    constants = {"q": codes(-127, 128, np.int8), "s": scales(N)} | ({} if bias is None else {"c": bias})
    return model(path, nodes, constants)


def reference_bias(path: Path) -> np.ndarray:
    return ReferenceEvaluator(onnx.load(path)).run(None, {"x": np.zeros((1, K), F)})[0][0]


@pytest.mark.parametrize("shape", [(N,), (1, N), (1,), (), (1, 1)], ids=str)
@pytest.mark.parametrize("beta", [0.5, 1.0, -3.0])
def test_bias_of_gemm_is_multiplied_by_beta(tmp_path: Path, shape: tuple[int, ...], beta: float) -> None:
    bias = np.random.default_rng(4).standard_normal(shape).astype(F)
    path = gemm(tmp_path / "m.onnx", bias, beta=beta)
    np.testing.assert_array_equal(oc.checkpoints.load(path)["fc"].bias, reference_bias(path))


def test_bias_of_gemm_with_beta_zero_is_not_read(tmp_path: Path) -> None:
    assert oc.checkpoints.load(gemm(tmp_path / "m.onnx", np.full(N, np.nan, F), beta=0.0))["fc"].bias is None
    assert oc.checkpoints.load(gemm(tmp_path / "m.onnx", None, named=""))["fc"].bias is None


def test_bias_behind_identity_and_cast_is_read(tmp_path: Path) -> None:
    bias = np.random.default_rng(4).standard_normal(N).astype(np.float16)
    nodes = [helper.make_node("Identity", ["c"], ["i"]), helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT)]
    path = gemm(tmp_path / "m.onnx", bias, *nodes, named="f")
    np.testing.assert_array_equal(oc.checkpoints.load(path)["fc"].bias, bias.astype(F))
    constant = helper.make_node("Constant", [], ["k"], value_floats=[float(i) for i in range(N)])
    path = gemm(tmp_path / "m.onnx", None, constant, named="k")
    np.testing.assert_array_equal(oc.checkpoints.load(path)["fc"].bias, np.arange(N, dtype=F))


@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("zero", [False, True], ids=["no zero point", "zero point 0"])
def test_quantized_bias_is_dequantized(tmp_path: Path, per_channel: bool, zero: bool) -> None:
    shape = (N,) if per_channel else ()
    c = np.random.default_rng(4).integers(-(2**31), 2**31, N).astype(np.int32)
    c[:2] = 2**24 + 1, -(2**31)  # rounded in float32
    constants = {"q": codes(-127, 128, np.int8), "s": scales(N), "c": c, "t": scales(*shape) * F(1e-9)}
    constants["z"] = np.zeros(shape, np.int32)
    nodes = [
        helper.make_node("DequantizeLinear", ["c", "t", "z"][: 2 + zero], ["b"], axis=0),
        helper.make_node("Identity", ["b"], ["bi"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=1),
        helper.make_node("Gemm", ["x", "w", "bi"], ["y"], "fc"),
    ]
    path = model(tmp_path / "m.onnx", nodes, constants)
    layer = oc.checkpoints.load(path)["fc"]
    np.testing.assert_array_equal(layer.bias, reference_bias(path))
    np.testing.assert_array_equal(layer.int_repr(), constants["q"].T)


def test_quantized_bias_that_is_not_one_is_refused(tmp_path: Path) -> None:
    def load(zero: Any) -> None:
        dequantize = helper.make_node("DequantizeLinear", ["c", "t", zero], ["b"], axis=0)
        constants = {"c": np.ones(N, np.int32), "t": scales(), "one": np.asarray(np.int32(1))}
        constants |= {"q": codes(-127, 128, np.int8), "s": scales(N)}
        gemm = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc")
        weight = helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=1)
        oc.checkpoints.load(model(tmp_path / "m.onnx", [MADE, dequantize, weight, gemm], constants))

    with pytest.raises(ValueError, match=r"node 'fc' \(Gemm\): its bias: x_zero_point must be 0 for int32"):
        load("one")
    with pytest.raises(ValueError, match=r"its bias must be a constant of the model, got 'b', which is made as"):
        load("made")


def test_static_quantization_of_onnxruntime(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime is not installed")
    random = np.random.default_rng(3)
    w, b = random.standard_normal((K, N), dtype=F), random.standard_normal(N, dtype=F)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], "fc"), helper.make_node("Relu", ["h"], ["y"])]
    source = model(tmp_path / "float.onnx", nodes, {"w": w, "b": b}, opset=17)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        batches = iter([{"x": random.standard_normal((1, K), dtype=F)} for _ in range(4)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    path = tmp_path / "m.onnx"
    form = quantization.QuantFormat.QDQ
    quantization.quantize_static(source, path, Reader(), quant_format=form, per_channel=True)
    assert any(i.data_type == TensorProto.INT32 for i in onnx.load(path).graph.initializer)
    layer = oc.checkpoints.load(path)["fc"]
    np.testing.assert_allclose(layer.bias, b, rtol=0, atol=1e-2)
    assert np.abs(layer.weight - w.T).max() < 0.1


def qgemm(path: Path, *, turned: bool = False, output: bool = True, bias: Any = (N,), **attributes: Any) -> Path:
    q = codes(0, 256, np.uint8)
    constants = {
        "xs": F(0.1), "xz": np.uint8(100), "q": q.T if turned else q, "s": scales(N), "z": np.full(N, 128, np.uint8),
        "ys": F(0.5), "yz": np.uint8(128), "c": codes(-5000, 5000, np.int32, bias or ()),
    }  # fmt: skip
    inputs = ["xq", "xs", "xz", "q", "s", "z", "c" if bias is not None else "", *(["ys", "yz"] if output else [])]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node(
            "QGemm", inputs, ["yq" if output else "y"], "fc", domain="com.microsoft", transB=int(turned), **attributes
        ),
    ]
    nodes += [helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"])] if output else []
    return model(path, nodes, {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in constants.items()})


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("bias", [(N,), (1, N), None])
def test_qgemm_is_a_static_layer(tmp_path: Path, turned: bool, output: bool, bias: Any) -> None:
    """What onnxruntime's static quantization makes of Gemm. Without it, its layers were lost without a word."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = qgemm(tmp_path / "m.onnx", turned=turned, output=output, bias=bias)
    layer = oc.checkpoints.load(path)["fc"]
    assert isinstance(layer, oc.StaticQuantLinear)
    assert (layer.output_qparams is not None) == output
    x = np.random.default_rng(0).standard_normal((4, K), dtype=F) * 4
    theirs = runtime.InferenceSession(path).run(None, {"x": x})[0]
    np.testing.assert_allclose(np.asarray(layer(x)), theirs, rtol=0, atol=0.5 if output else 1e-3)
    dynamic = oc.checkpoints.load(path, activation="asymmetric")["fc"]
    assert type(dynamic) is oc.QuantLinear
    assert (dynamic.bias is not None) == (bias is not None)


def test_qgemm_that_is_not_of_a_layer_is_refused(tmp_path: Path) -> None:
    for wrong, message in (({"alpha": 2.0}, "transA and alpha"), ({"bias": (3, N)}, "its bias must have shape")):
        with pytest.raises(ValueError, match=rf"node 'fc' \(QGemm\): {message}"):
            oc.checkpoints.load(qgemm(tmp_path / "m.onnx", **wrong))


@pytest.mark.parametrize("op", ["DequantizeLinear", "Transpose", "Identity"])
def test_operators_of_other_domains_are_not_taken_for_those_of_onnx(tmp_path: Path, op: str) -> None:
    domains = {name: "my.ops" if name == op else "" for name in ("DequantizeLinear", "Transpose", "Identity")}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, domain=domains["DequantizeLinear"]),
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0], domain=domains["Transpose"]),
        helper.make_node("Identity", ["t"], ["i"], domain=domains["Identity"]),
        helper.make_node("MatMul", ["x", "i"], ["y"], "fc"),
    ]
    constants = {"q": codes(-127, 128, np.int8).T.copy(), "s": scales(N)}
    with pytest.raises(ValueError, match="holds no quantized matrix"):
        oc.checkpoints.load(model(tmp_path / "m.onnx", nodes, constants))


def through_identity(path: Path, zero: bool, bits4: bool) -> Path:
    """A dequantized matrix, all of whose parameters stand behind Identity, as does its result."""
    q, z = codes(0, 16, np.uint8), np.full(N, 10, np.uint8)
    constants: dict[str, Any] = {"q": q, "s": scales(N), "z": z}
    if bits4:
        for name in ("q", "z"):
            a = constants[name]
            constants[name] = helper.make_tensor(name, TensorProto.UINT4, a.shape, a.reshape(-1))
    nodes = [helper.make_node("Identity", [name], [name + "i"]) for name in constants]
    nodes.append(helper.make_node("DequantizeLinear", ["qi", "si", "zi"][: 2 + zero], ["w"], "dq", axis=1))
    nodes.append(helper.make_node("Identity", ["w"], ["wi"]))
    nodes.append(helper.make_node("MatMul", ["x", "wi"], ["y"], "fc"))
    return model(path, nodes, constants)


@pytest.mark.parametrize("bits4", [False, True], ids=["8 bits", "4 bits"])
@pytest.mark.parametrize("zero", [False, True], ids=["no zero points", "zero points"])
def test_parameters_behind_identity_are_read(tmp_path: Path, zero: bool, bits4: bool) -> None:
    layer = oc.checkpoints.load(through_identity(tmp_path / "m.onnx", zero, bits4))["fc"]
    np.testing.assert_array_equal(layer.weight.T, (codes(0, 16, np.uint8).astype(F) - F(10 * zero)) * scales(N))
    assert ("int4" in repr(layer)) == bits4


MADE = helper.make_node("ReduceMax", ["x"], ["made"], keepdims=0)  # a number of x, made as the model runs


@pytest.mark.parametrize(
    ("node", "what"),
    [
        (helper.make_node("Gemm", ["x", "w", "made"], ["y"], "fc"), "bias"),
        (helper.make_node("Gemm", ["x", "w", "x"], ["y"], "fc"), "bias"),
        (helper.make_node("MatMul", ["x", "unknown"], ["y"], "fc"), "zero points"),
        *[
            (helper.make_node(op, inputs, ["y"], "fc", domain="com.microsoft", **attributes), what)
            for op, inputs, attributes, what in (
                ("MatMulNBits", "x n s4 made", {"K": K, "N": N, "bits": 8, "block_size": 32}, "zero points"),
                ("MatMulNBits", "x n s4 _ _ made", {"K": K, "N": N, "bits": 8, "block_size": 32}, "bias"),
                ("MatMulIntegerToFloat", "xq q xs s xz made", {}, "zero points of the matrix"),
                ("MatMulIntegerToFloat", "xq q xs s xz _ made", {}, "bias"),
                ("DynamicQuantizeMatMul", "x q s made", {}, "zero points"),
                ("DynamicQuantizeMatMul", "x q s _ made", {}, "bias"),
            )
            for inputs in [["" if name == "_" else name for name in inputs.split()]]
        ],
        (helper.make_node("MatMulInteger", ["xq", "q", "xz", "made"], ["acc"], "fc"), "zero points of the matrix"),
    ],
    ids=str,
)
def test_input_that_is_not_a_constant_is_refused(tmp_path: Path, node: Any, what: str) -> None:
    nodes = [
        MADE,
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "s", "made"], ["unknown"], axis=1),
        node,
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["g"]),
    ]
    constants = {"q": codes(-127, 128, np.int8), "s": scales(N), "n": codes(0, 256, np.uint8, (N, 4, 32))}
    path = model(tmp_path / "m.onnx", nodes, constants | {"s4": scales(N, 4)})
    message = rf"m\.onnx: node 'fc' \({node.op_type}\): its {what} must be a constant of the model, got '\w+'"
    with pytest.raises(ValueError, match=message):
        oc.checkpoints.load(path)


def test_matmul_nbits_with_a_bias(tmp_path: Path) -> None:
    bias = np.arange(N, dtype=F)
    node = helper.make_node(
        "MatMulNBits", ["x", "n", "s", "", "", "c"], ["y"], "fc", domain="com.microsoft", K=K, N=N, bits=8,
        block_size=32,
    )  # fmt: skip
    constants = {"n": codes(0, 256, np.uint8, (N, 4, 32)), "s": scales(N, 4), "c": bias}
    np.testing.assert_array_equal(oc.checkpoints.load(model(tmp_path / "m.onnx", [node], constants))["fc"].bias, bias)


@pytest.mark.parametrize(
    ("bias", "attributes", "message"),
    [
        (np.ones((N, 1), F), {}, r"its bias must have shape \[24\] or \[1, 24\], one an output, got \[24, 1\]"),
        (np.ones((2, N), F), {}, r"got \[2, 24\]"),
        (np.ones(N, F), {"alpha": 2.0}, "alpha"),
        (np.ones(N, F), {"transA": 1}, "transA"),
        (np.full(N, 1e38, F), {"beta": 100.0}, "bias must be finite"),
    ],
)
def test_gemm_that_is_not_of_a_layer_is_refused(tmp_path: Path, bias: Any, attributes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"node 'fc' \(Gemm\): .*" + message):
        oc.checkpoints.load(gemm(tmp_path / "m.onnx", bias, **attributes))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"N": N, "bits": 8, "block_size": 32}, "must be N, K and block_size, got no K"),
        ({"K": K, "N": N, "bits": 8, "block_size": 32, "weight_prepacked": 1}, "weight_prepacked"),
    ],
)
def test_matmul_nbits_whose_attributes_do_not_fit_is_refused(tmp_path: Path, attributes: Any, message: str) -> None:
    node = helper.make_node("MatMulNBits", ["x", "n", "s"], ["y"], "fc", domain="com.microsoft", **attributes)
    constants = {"n": codes(0, 256, np.uint8, (N, 4, 32)), "s": scales(N, 4)}
    with pytest.raises(ValueError, match=r"node 'fc' \(MatMulNBits\): .*" + message):
        oc.checkpoints.load(model(tmp_path / "m.onnx", [node], constants))


@pytest.mark.parametrize("count", [1, 3, 12])
def test_matmul_nbits_with_too_few_zero_points_is_refused(tmp_path: Path, count: int) -> None:
    node = helper.make_node(
        "MatMulNBits", ["x", "n", "s", "z"], ["y"], "fc", domain="com.microsoft", K=K, N=N, bits=8, block_size=32
    )
    constants = {"n": codes(0, 256, np.uint8, (N, 4, 32)), "s": scales(N, 4), "z": np.zeros((N, count), np.uint8)}
    with pytest.raises(ValueError, match=rf"its zero points must be 96 bytes, 4 an output, got {N * count}"):
        oc.checkpoints.load(model(tmp_path / "m.onnx", [node], constants))


def test_constant_of_an_unknown_type_is_refused(tmp_path: Path) -> None:
    matrix = onnx.numpy_helper.from_array(codes(-127, 128, np.int8), "b")
    matrix.data_type = 33
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "b", "s"], ["y"], "fc", domain="com.microsoft")
    path = model(tmp_path / "m.onnx", [node], {"b": matrix, "s": scales(N)})
    with pytest.raises(ValueError, match=r"node 'fc' \(DynamicQuantizeMatMul\): its matrix: .*33"):
        oc.checkpoints.load(path)


def test_axis_out_of_range_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=3),
        helper.make_node("MatMul", ["x", "w"], ["y"], "fc"),
    ]
    path = model(tmp_path / "m.onnx", nodes, {"q": codes(-5, 5, np.int8), "s": scales(N)})
    with pytest.raises(ValueError, match=r"its axis must be from -2 to 1 .* got 3"):
        oc.checkpoints.load(path)


def test_scale_among_two_constants_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("MatMulInteger", ["xq", "b", "xz"], ["acc"], "fc"),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "s"], ["both"]),
        helper.make_node("Mul", ["f", "both"], ["y"]),
    ]
    constants = {
        "b": codes(-127, 128, np.int8),
        "s": scales(N),
        "xs": np.asarray(F(0.1)),
        "xz": np.asarray(np.uint8(9)),
    }
    with pytest.raises(ValueError, match=r"node 'fc' \(MatMulInteger\): .* multiplied by two constants"):
        oc.checkpoints.load(model(tmp_path / "m.onnx", nodes, constants))
