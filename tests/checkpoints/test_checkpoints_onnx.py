"""Quantized matrices of ONNX models, made by the package onnx and by onnxruntime's quantizers, where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from defined import defined
from octavo._cli.main import main
from octavo._numerics.grouped_definition import grouped_linear
from octavo.checkpoints._convert import convert
from reference import assert_same_bits, hard_rows

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
from onnx import TensorProto, helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from onnx_models import F, K, N, codes, model, scales  # noqa: E402


def nbits(path: Path, bits: int, block: int, k: int = K, zero: str = "none", dtype: Any = F) -> tuple[Path, np.ndarray]:
    """A MatMulNBits of the published packing, and its weights (N, k)."""
    blocks, top = -(-k // block), 1 << bits
    q = codes(0, top, np.uint8, (N, blocks * block))
    s = scales(N, blocks, dtype=dtype) * np.where(np.arange(blocks) % 2, -1, 1).astype(
        dtype
    )  # its quantizer gives both
    inputs, constants = ["x", "b", "s"], {"s": s.reshape(-1)}

    def packed(values: np.ndarray) -> np.ndarray:
        if bits == 8:
            return values
        per = 8 // bits
        padded = np.zeros((N, -(-values.shape[1] // per) * per), np.uint8)
        padded[:, : values.shape[1]] = values
        return sum(padded[:, i::per] << np.uint8(bits * i) for i in range(per)).astype(np.uint8)

    z = np.full((N, blocks), top // 2, F)
    if zero == "integer":
        z = codes(0, top, np.uint8, (N, blocks), 2).astype(F)
        constants["z"] = packed(z.astype(np.uint8)).reshape(-1)
    elif zero == "float":
        z = (np.random.default_rng(3).random((N, blocks)) * top).astype(dtype).astype(F)
        constants["z"] = z.astype(dtype).reshape(-1)
    constants["b"] = packed(q).reshape(N, blocks, -1)
    if zero != "none":
        inputs.append("z")
    node = helper.make_node(
        "MatMulNBits", inputs, ["y"], "fc", domain="com.microsoft", K=k, N=N, bits=bits, block_size=block
    )
    at = np.arange(k) // block
    return model(path, [node], constants), ((q[:, :k] - z[:, at]) * s.astype(F)[:, at]).astype(F)


@pytest.mark.parametrize(
    ("bits", "block", "k", "zero", "shown"),
    [
        (4, 32, K, "none", "int4, group_size=32"),
        (4, 16, K, "integer", "uint4, group_size=16, zero_point"),
        (4, 32, 100, "integer", "int4, group_size=32, symmetric=False"),
        (8, 64, K, "none", "int8, group_size=64"),
        (8, 32, K, "integer", "uint8, group_size=32, zero_point"),
        (2, 32, K, "integer", "uint4, group_size=32, zero_point"),
    ],
)
def test_matmul_nbits(tmp_path: Path, bits: int, block: int, k: int, zero: str, shown: str) -> None:
    path, weight = nbits(tmp_path / "m.onnx", bits, block, k, zero)
    layer = oc.checkpoints.load(path)["fc"]
    assert shown in repr(layer)
    np.testing.assert_array_equal(layer.weight, weight)


def test_matmul_nbits_beside_rows_is_an_int4_layer(tmp_path: Path, kernel: str) -> None:
    path, weight = nbits(tmp_path / "m.onnx", 4, 32, zero="integer")
    layer = oc.checkpoints.load(path, activation_group=None)["fc"]
    assert "int4, group_size=32, symmetric=False" in repr(layer)
    np.testing.assert_array_equal(layer.weight, weight)
    x = hard_rows(5, K)
    assert_same_bits(layer(x), defined(layer, x), kernel)


def test_matmul_nbits_with_float_zero_points(tmp_path: Path, kernel: str) -> None:
    path, weight = nbits(tmp_path / "half.onnx", 4, 32, zero="float", dtype=np.float16)
    layer = oc.checkpoints.load(path)["fc"]
    assert "minimum" in repr(layer)
    np.testing.assert_array_equal(layer.weight, weight)  # products of halves are exact: one rounding on either side
    x = hard_rows(5, K)
    assert_same_bits(layer(x), grouped_linear(x, layer.grouped(), activation_group=layer.activation_group), kernel)
    path, weight = nbits(tmp_path / "single.onnx", 4, 32, zero="float")
    np.testing.assert_allclose(oc.checkpoints.load(path)["fc"].weight, weight, rtol=0, atol=np.abs(weight).max() * 2e-7)


@pytest.mark.parametrize(
    ("q", "scale", "zero", "attributes"),
    [
        (codes(-127, 128, np.int8), scales(N), None, {"axis": 1}),
        (codes(-127, 128, np.int8), scales(), None, {}),
        (codes(0, 256, np.uint8), scales(N), codes(0, 256, np.uint8, (N,)), {"axis": 1}),
        (codes(-128, 128, np.int8), scales(4, N), codes(-9, 9, np.int8, (4, N)), {"axis": 0, "block_size": 32}),
        (codes(0, 16, np.uint8), scales(2, N), codes(0, 16, np.uint8, (2, N)), {"axis": 0, "block_size": 64}),
    ],
    ids=["axis", "tensor", "uint8", "blocks", "uint4"],
)
@pytest.mark.parametrize("by", ["MatMul", "Gemm", "Transpose"])
def test_dequantize_linear(
    tmp_path: Path, q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, attributes: dict[str, int], by: str
) -> None:
    turned = by != "MatMul"
    constants: dict[str, Any] = {"q": q.T.copy() if turned else q, "s": scale.T.copy() if turned else scale}
    if zero is not None:
        constants["z"] = zero.T.copy() if turned else zero
    if turned and "axis" in attributes:
        attributes = attributes | {"axis": 1 - attributes["axis"]}
    if q.max() < 16 and q.min() >= 0:
        for name in ("q", "z"):
            a = constants[name]
            constants[name] = helper.make_tensor(name, TensorProto.UINT4, a.shape, a.reshape(-1))
    inputs = ["q", "s", "z"][: 2 + (zero is not None)]
    nodes = [helper.make_node("DequantizeLinear", inputs, ["w"], "dq", **attributes)]
    bias = None
    if by == "MatMul":
        nodes.append(helper.make_node("MatMul", ["x", "w"], ["y"], "fc"))
    elif by == "Gemm":
        bias = constants["c"] = np.arange(N, dtype=F)
        nodes.append(helper.make_node("Gemm", ["x", "w", "c"], ["y"], "fc", transB=1))
    else:
        nodes.append(helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", ["x", "t"], ["y"], "fc"))
    path = model(tmp_path / "m.onnx", nodes, constants)
    layer = oc.checkpoints.load(path)["fc"]
    eye = ReferenceEvaluator(onnx.load(path)).run(None, {"x": np.eye(K, dtype=F)})[0]
    np.testing.assert_array_equal(layer.weight.T if bias is None else layer.weight.T + bias, eye)
    np.testing.assert_array_equal(layer.bias, bias)


def matmul_integer(path: Path, zero: np.ndarray | None = None, scale: np.ndarray | None = None) -> Path:
    """What onnxruntime's dynamic quantization makes of a MatMul."""
    b = codes(-127, 128, np.int8) if zero is None else codes(0, 256, np.uint8)
    constants = {"b": b, "s": scales(N) if scale is None else scale} | ({} if zero is None else {"z": zero})
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["xq", "b", "xz", *(["z"] if zero is not None else [])], ["acc"], "fc"),
        helper.make_node("Cast", ["acc"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "s"], ["both"]),
        helper.make_node("Mul", ["f", "both"], ["y"]),
    ]
    return model(path, nodes, constants)


@pytest.mark.parametrize("zero", [None, np.uint8(128), codes(0, 256, np.uint8, (N,))], ids=["int8", "128", "uint8"])
def test_matmul_integer(tmp_path: Path, zero: Any) -> None:
    path = matmul_integer(tmp_path / "m.onnx", None if zero is None else np.asarray(zero))
    layer = oc.checkpoints.load(path)["fc"]
    assert layer.activation == "asymmetric"
    assert (layer.dtype == oc.qint8) == (zero is None or np.ndim(zero) == 0)
    x = np.random.default_rng(0).standard_normal((1, K), dtype=F)  # one row: a scale a tensor is one a row
    theirs = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})[0]
    np.testing.assert_allclose(layer(x), theirs, rtol=1e-5, atol=1e-4)


def test_dynamic_quantize_matmul(tmp_path: Path) -> None:
    b, s, bias = codes(-127, 128, np.int8), scales(N), np.arange(N, dtype=F)
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "b", "s", "", "c"], ["y"], "fc", domain="com.microsoft")
    layer = oc.checkpoints.load(model(tmp_path / "m.onnx", [node], {"b": b, "s": s, "c": bias}))["fc"]
    assert_same_bits(layer.weight, (b * s).T.copy())
    np.testing.assert_array_equal(layer.bias, bias)
    assert layer.activation == "asymmetric"


def qlinear(path: Path, zero: np.ndarray) -> Path:
    constants = {
        "xs": F(0.1), "xz": np.uint8(100), "b": codes(0, 256, np.uint8), "s": scales(N), "z": zero,
        "ys": F(2), "yz": np.uint8(128),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("QLinearMatMul", ["xq", "xs", "xz", "b", "s", "z", "ys", "yz"], ["yq"], "fc"),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    return model(path, nodes, {name: np.asarray(a) for name, a in constants.items()})


def test_qlinear_matmul_is_a_static_layer(tmp_path: Path) -> None:
    path = qlinear(tmp_path / "m.onnx", np.full(N, 128, np.uint8))
    layer = oc.checkpoints.load(path)["fc"]
    assert isinstance(layer, oc.StaticQuantLinear)
    x = np.random.default_rng(0).standard_normal((4, K), dtype=F) * 4
    theirs = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})[0]
    assert np.abs(np.asarray(layer(x)) - theirs).max() <= 2  # a step: ONNX divides by scales, octavo multiplies
    with pytest.raises(ValueError, match=r"node 'fc' \(QLinearMatMul\): its matrix has zero points"):
        oc.checkpoints.load(qlinear(tmp_path / "m.onnx", np.full(N, 7, np.uint8)))
    assert type(oc.checkpoints.load(tmp_path / "m.onnx", activation="asymmetric")["fc"]) is oc.QuantLinear


def dynamic(path: Path) -> Path:
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "b", "s"], ["y"], "fc", domain="com.microsoft")
    return model(path, [node], {"b": codes(-127, 128, np.int8), "s": scales(N)})


def dequantized(path: Path) -> Path:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], "dq", axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "w"], ["y"], "fc"),
    ]
    q, z = codes(-128, 128, np.int8), codes(-9, 9, np.int8, (4, N))
    return model(path, nodes, {"q": q, "s": scales(4, N), "z": z})


@pytest.mark.parametrize(
    "write",
    [
        lambda path: nbits(path, 4, 32)[0],
        lambda path: nbits(path, 4, 16, zero="integer")[0],
        lambda path: nbits(path, 2, 32, zero="integer")[0],
        lambda path: nbits(path, 8, 32, zero="integer")[0],
        dequantized,
        matmul_integer,
        lambda path: matmul_integer(path, codes(0, 256, np.uint8, (N,))),
        dynamic,
        lambda path: qlinear(path, np.full(N, 128, np.uint8)),
    ],
    ids=["nbits", "nbits 16", "nbits 2", "nbits 8", "blocks", "integer", "integer uint8", "dynamic", "qlinear"],
)
def test_products_are_those_of_the_definition(tmp_path: Path, write: Any, kernel: str) -> None:
    layer = oc.checkpoints.load(write(tmp_path / "m.onnx"))["fc"]
    static = isinstance(layer, oc.StaticQuantLinear)
    x = np.random.default_rng(0).standard_normal((6, K), dtype=F) if static else hard_rows(6, K)
    if static:
        np.testing.assert_array_equal(layer(x), defined(layer, x), kernel)
    else:
        assert_same_bits(layer(x), defined(layer, x), kernel)


def test_commands_take_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, weight = nbits(tmp_path / "m.onnx", 4, 32)
    out = tmp_path / "out.safetensors"
    assert main(["quantize", str(path), str(out), "--no-progress"]) == 0
    assert "converted, not quantized" in capsys.readouterr().out
    np.testing.assert_array_equal(oc.load(out)["fc"].weight, weight)
    assert main(["inspect", str(path)]) == 0
    assert "fc    QuantLinear(128 -> 24, int4, group_size=32" in capsys.readouterr().out
    assert main(["quantize", str(path), str(out), "--verify", "--no-progress"]) == 1


def test_a_model_without_memory_for_it_is_a_memory_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str) -> None:
        raise MemoryError("no room")

    path, _ = nbits(tmp_path / "m.onnx", 4, 32)
    monkeypatch.setattr("onnx.load", load)
    with pytest.raises(MemoryError, match="no room"):
        oc.checkpoints.load(path)


def test_model_is_not_overwritten_by_its_own_conversion(tmp_path: Path) -> None:
    path = dynamic(tmp_path / "m.onnx")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="source and destination must be different files"):
        convert(path, path)
    assert path.read_bytes() == before


def test_what_is_wrong_is_refused_by_file_and_node(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"m.onnx is not a usable ONNX model"):
        oc.checkpoints.load(path)
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx"):
        oc.checkpoints.load(tmp_path / "gone.onnx")
    model(path, [helper.make_node("Relu", ["x"], ["y"])], {})
    with pytest.raises(ValueError, match=r"m\.onnx holds no quantized matrix"):
        oc.checkpoints.load(path)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], "dq", axis=0),
        helper.make_node("MatMul", ["x", "w"], ["y"], "fc"),
    ]
    model(path, nodes, {"q": codes(-5, 5, np.int8), "s": scales(K)})
    with pytest.raises(ValueError, match=r"m.onnx: node 'fc' \(MatMul\): its scales run along the axis that is summed"):
        oc.checkpoints.load(path)
    matmul_integer(path, scale=scales(N) * np.nan)
    with pytest.raises(ValueError, match=r"node 'fc' \(MatMulInteger\): its scales must be finite, got nan"):
        oc.checkpoints.load(path)


def float_model(path: Path) -> tuple[Path, np.ndarray]:
    w = np.random.default_rng(0).standard_normal((K, N), dtype=F)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "fc"), helper.make_node("Relu", ["h"], ["y"])]
    return model(path, nodes, {"w": w}, opset=17), w


def test_dynamic_quantization_of_onnxruntime(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime is not installed")
    source, w = float_model(tmp_path / "float.onnx")
    quantization.quantize_dynamic(source, tmp_path / "m.onnx", per_channel=True)
    layer = next(iter(oc.checkpoints.load(tmp_path / "m.onnx").values()))
    assert np.abs(layer.weight - w.T).max() <= layer.scale.max() / 2 * 1.001
    x = np.random.default_rng(1).standard_normal((1, K), dtype=F)
    exact = ReferenceEvaluator(onnx.load(tmp_path / "m.onnx")).run(None, {"x": x})[
        0
    ]  # the runtime saturates without VNNI
    np.testing.assert_allclose(np.maximum(layer(x), 0), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("symmetric", [True, False])
def test_matmul_nbits_of_onnxruntime(tmp_path: Path, symmetric: bool) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnx_ir", reason="onnx_ir, which onnxruntime's quantizer needs, is not installed")
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    source, _ = float_model(tmp_path / "float.onnx")
    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=symmetric, accuracy_level=1)
    quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "m.onnx"))
    layer = next(iter(oc.checkpoints.load(tmp_path / "m.onnx", activation="int16").values()))
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"x": np.eye(K, dtype=F)})[0]  # rows of the weights, in float32
    np.testing.assert_allclose(np.maximum(layer.weight.T, 0), theirs, rtol=0, atol=1e-6)
