"""Files of formats 1 and 2 in tests/data: they load for ever, to values that are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import octavo as oc
from format_fixtures import MODELS, MODELS_V2, F, file, integers, powers, rows
from octavo._files.codecs import FEATURES, is_stored
from octavo._models.walk import walk


def test_int8_file_loads_to_known_values() -> None:
    found = oc.load(file("int8"))
    hidden, out = found["blocks.0"], found["blocks.1.0"]
    assert found["blocks.1.1"] is hidden
    assert (hidden.int_repr() == integers(5, 7)).all()
    assert (hidden.scale == powers(5)).all()
    assert (hidden.bias == np.arange(5) / 4).all()
    assert (hidden.activation, hidden.relu) == ("symmetric", True)
    assert (out.int_repr() == integers(3, 5)).all()
    assert (out.activation, out.relu, out.bias) == ("asymmetric", False, None)
    # Rows whose largest value is 127 have scale 1, so the layer is exact.
    exact = rows(7).astype(np.int64) @ integers(5, 7).T.astype(np.int64) * powers(5).astype(float) + np.arange(5) / 4
    assert (hidden(rows(7)) == np.maximum(exact, 0)).all()
    assert out.predict(np.zeros((1, 5))).tolist() == [[0, 0, 0]]
    assert (found["table"] == np.arange(6, dtype=F).reshape(2, 3)).all()
    for name in ("bool", "uint8", "int64", "float16", "float64"):
        assert found[f"arrays.{name}"].dtype == name
        assert found[f"arrays.{name}"].tolist() == [0, 1, 1, 0]


def test_static_file_loads_to_known_values() -> None:
    found = oc.load(file("static"))
    step, first, second, stub, held, params = (found[str(i)] for i in range(6))
    assert (step.qparams, step.as_float, step.name) == (oc.QParams(1.0, 0, "int8"), False, "model[0]")
    unsigned = oc.QParams(8.0, 3, "uint8", qmin=1, qmax=200)
    assert (first.input_qparams, first.output_qparams, first.relu) == (oc.QParams(1.0, 0, "int8"), unsigned, True)
    assert (second.input_qparams, second.output_qparams, second.relu) == (unsigned, None, False)
    x = rows(6)
    y = np.maximum(x.astype(np.int64) @ integers(4, 6).T.astype(np.int64) * powers(4).astype(float), 0)
    q = np.clip(np.rint(y / 8), 1 - 3, 200 - 3).astype(np.int64) + 3
    assert (first(step(x)).int_repr() == q).all()
    exact = (q - 3) @ integers(2, 4).T.astype(np.int64) * (8 * powers(2).astype(float)) + [1, -1]
    assert (stub(second(first(step(x)))) == exact).all()
    assert params == oc.QParams([0.5, 0.25], [1, -1], "int8", axis=0)
    assert held.qparams == params
    assert held.int_repr().tolist() == [[1, 2], [3, 4]]


def test_grouped_file_loads_to_known_values() -> None:
    found = oc.load(file("grouped", 2))
    half = powers(6).reshape(3, 2).astype(F)
    unsigned = integers(3, 256, 0, 15)
    assert (found["plain"].weight == integers(3, 256) * np.repeat(half, 128, axis=1)).all()
    assert (found["plain"].bias == np.arange(3)).all()
    assert (
        found["minimum"].dequantize() == unsigned * np.repeat(half, 128, axis=1) - np.repeat(half, 128, axis=1)
    ).all()
    points = np.repeat(np.float32([[3, 4]] * 3), 128, axis=1)
    assert (found["zero_point"].weight == (unsigned - points) * np.repeat(half, 128, axis=1)).all()
    assert (found["row"].weight == integers(2, 7, -8, 7) * powers(2)[:, None]).all()
    scale = half[:, :1] * integers(3, 16, -100, 100)
    assert (integers(3, 256) * np.repeat(scale, 16, axis=1) == found["two"].dequantize().T).all()
    levels = integers(3, 8, 0, 63)
    scale, minimum = half[:, :1] * levels, half[:, 1:] * levels[::-1]
    assert (found["both"].weight == unsigned * np.repeat(scale, 32, axis=1) - np.repeat(minimum, 32, axis=1)).all()
    for name, made in MODELS_V2["grouped"]().items():
        assert repr(found[name]) == repr(made)
    assert found["zero_point"].predict(np.zeros((1, 256))).tolist() == [[0, 0, 0]]


def planes_values(found: dict[str, Any]) -> None:
    half = powers(6).reshape(3, 2).astype(F)
    five, levels = integers(3, 256, 0, 31), integers(3, 8, 0, 63)
    scale, minimum = half[:, :1] * levels, half[:, 1:] * levels[::-1]
    assert (found["both"].weight == five * np.repeat(scale, 32, axis=1) - np.repeat(minimum, 32, axis=1)).all()
    scale = half[:, :1] * integers(3, 16, -100, 100)
    assert (integers(3, 256, -32, 31) * np.repeat(scale, 16, axis=1) == found["six"].dequantize().T).all()
    assert (found["minimum"].weight == five * np.repeat(half, 128, axis=1) - np.repeat(half, 128, axis=1)).all()
    assert (found["row"].weight == integers(2, 7, -16, 15) * powers(2)[:, None]).all()
    assert (found["odd"].weight == integers(2, 5, -32, 31) * powers(2)[:, None]).all()
    layers = [getattr(value, "_layer", value) for value in found.values()]
    assert [layer.dtype.name for layer in layers] == ["quint5", "qint6", "quint5", "qint5", "qint6"]


def test_planes_files_load_to_known_values(tmp_path: Path) -> None:
    planes_values(oc.load(file("planes", 2)))
    for options in ({}, {"mmap": True}):
        planes_values(oc.load(file("packed_planes", 2), **options))
    oc.save(MODELS_V2["planes"](), tmp_path / "x", layout="x86")
    assert (tmp_path / "x").read_bytes() == file("packed_planes", 2).read_bytes()


def test_int4_file_loads_to_known_values() -> None:
    found = oc.load(file("int4"))
    grouped, odd, whole = found["grouped"], found["odd"], found["whole"]
    assert [layer.dtype for layer in (grouped, odd, whole)] == [oc.qint4] * 3
    signs = np.where(np.arange(12) % 2, F(1), F(-1)).reshape(4, 3)
    assert (grouped.int_repr() == integers(4, 70, -8, 7)).all()
    assert (grouped.scale == signs * powers(12).reshape(4, 3)).all()
    assert (grouped.group_size, grouped.symmetric, grouped.scale_dtype, grouped.relu) == (32, True, "float32", True)
    # Powers of two and small integers: every step of the sum over the groups is exact.
    weight = integers(4, 70, -8, 7) * np.repeat(signs * powers(12).reshape(4, 3), 32, axis=1)[:, :70].astype(float)
    assert (grouped(rows(70)) == np.maximum(rows(70) @ weight.T + np.arange(4), 0)).all()
    assert (odd.int_repr() == integers(3, 45, -8, 7)).all()
    assert (odd.scale == powers(6).reshape(3, 2)).all()
    assert (odd.zero_point == (np.arange(6) - 3).reshape(3, 2)).all()
    assert (odd.group_size, odd.symmetric, odd.scale_dtype, odd.activation) == (32, False, "float16", "asymmetric")
    assert odd.predict(np.zeros((1, 45))).tolist() == [[0, 0, 0]]
    assert (whole.int_repr() == integers(2, 5, -8, 7)).all()
    assert (whole.scale == powers(2).reshape(2, 1)).all()
    assert (whole.group_size, whole.bias) == (None, None)


def test_text_file_loads_to_known_values() -> None:
    found = oc.load(file("text", 2))
    assert {name: (a.dtype.str, a.tolist()) for name, a in found.items()} == {
        "classes_": ("<U5", ["cat", "", "b\u00e4r \U0001f43b"]),
        "bytes": ("|S3", [[b"a", b"bc"], [b"", b"def"]]),
        "objects": ("|O", ["yes", "no"]),
        "one": ("<U1", "x"),
        "none": ("<U3", []),
    }
    assert found["none"].shape == (0, 2)


def test_static_matrix_file_loads_to_known_values() -> None:
    found = oc.load(file("static_matrix", 2))
    w, t, dynamic = found["w"], found["t"], found["dynamic"]
    assert [matrix.shape for matrix in (w, t, dynamic)] == [(6, 4), (3, 5), (3, 2)]
    assert (w._layer.input_qparams, w._layer.output_qparams) == (oc.QParams(1.0, 0, "int8"), None)
    assert t._layer.input_qparams == oc.QParams(0.5, 3, "uint8")
    assert (rows(6) @ w == rows(6).astype(np.int64) @ integers(4, 6).T.astype(np.int64) * powers(4).astype(float)).all()
    q = np.clip(np.rint(rows(5) / 0.5).astype(np.int64) + 3, 0, 255) - 3
    assert (rows(5) @ t.T == q @ integers(3, 5).T.astype(np.int64) * (0.5 * powers(3).astype(float))).all()
    assert type(dynamic._layer) is oc.QuantLinear


def test_pre_quant_scale_file_loads_to_known_values() -> None:
    found = oc.load(file("pre_quant_scale", 2))
    scales = {name: value.pre_quant_scale for name, value in found.items() if name != "matrix"}
    assert {name: s.tolist() for name, s in scales.items()} == {
        "eight": powers(6).tolist(), "four": powers(64).tolist(), "static": powers(5).tolist(),
    }  # fmt: skip
    # Powers of two: dividing x and multiplying by the weight's scale are exact.
    x = rows(6) * powers(6)
    weight = integers(4, 6).astype(np.int64)
    assert (found["eight"](x) == rows(6).astype(np.int64) @ weight.T * powers(4).astype(float) + np.arange(4)).all()
    assert (found["static"](np.zeros((1, 5))) == 0).all()
    assert (found["matrix"].dequantize() == np.eye(5)).all()


def test_rotation_file_loads_to_known_values() -> None:
    found = oc.load(file("rotation", 2))
    assert [found[name].rotation for name in ("eight", "four")] == [16, 64]
    assert found["eight"].pre_quant_scale.tolist() == powers(32).tolist()
    one = np.zeros((1, 64), F)
    one[0, 0] = 127  # the first column of the Hadamard matrix: all ones, and so 64 integers of 127
    weight = integers(3, 64, -8, 7).reshape(3, 2, 32).astype(np.int64).sum(axis=2)
    expected = 127 * (weight * powers(6).reshape(3, 2).astype(float)).sum(axis=1) + np.arange(3)
    assert (found["four"](one) == expected).all()
    assert (found["matrix"].dequantize() == np.eye(16)).all()


def test_permuted_file_loads_to_known_values() -> None:
    layer = oc.load(file("permuted", 2))["fc"]
    assert layer.permutation.tolist() == [3, 0, 4, 2, 1]
    x = rows(5)
    product = x[:, [3, 0, 4, 2, 1]].astype(np.int64) @ integers(3, 5).T.astype(np.int64)
    assert (layer(x) == product * powers(3).astype(float) + np.arange(3)).all()


def test_epilogue_file_loads_to_known_values() -> None:
    found = oc.load(file("epilogue", 2))
    plain = oc.QuantLinear.from_quantized(integers(5, 7), powers(5), np.arange(5, dtype=F) / 4)
    assert (found["int8"](rows(7)) == oc.functional.gelu(plain(rows(7)))).all()
    assert (found["int4"].epilogue, found["int4"].relu) == ("tanh", False)
    assert (found["int4"].int_repr() == integers(2, 5, -8, 7)).all()


EVERY = [(1, name, make) for name, make in MODELS.items()] + [(2, name, make) for name, make in MODELS_V2.items()]
IDS = [f"{name}_v{version}" for version, name, _ in EVERY]


@pytest.mark.parametrize(("version", "name", "make"), EVERY, ids=IDS)
def test_file_says_what_it_holds(version: int, name: str, make: Callable[[], Any]) -> None:
    with safe_open(file(name, version), "np") as reader:
        header = json.loads(reader.metadata()["octavo"])
    assert header["version"] == version
    features = {"planes": ["grouped", name], "rotation": ["pre_quant_scale", name]}.get(name, [name])
    assert header.get("features", []) == (features if version == 2 else [])


def test_file_of_several_features_names_them_all(tmp_path: Path) -> None:
    model = {name: make() for name, make in MODELS_V2.items()}
    oc.save(model, tmp_path / "x")
    with safe_open(tmp_path / "x", "np") as reader:
        features = json.loads(reader.metadata()["octavo"])["features"]
    assert features == sorted(MODELS_V2) == sorted({*FEATURES} - {"packed"})
    assert oc.load(tmp_path / "x").keys() == {f"{name}.{key}" for name, held in model.items() for key in held}


@pytest.mark.parametrize(("version", "name", "make"), EVERY, ids=IDS)
def test_file_fills_its_model(version: int, name: str, make: Callable[[], Any]) -> None:
    model = make()
    before = [(path, type(value)) for path, value in walk(model, stop=is_stored)]
    assert [(path, type(value)) for path, value in walk(oc.load(file(name, version), model), stop=is_stored)] == before


@pytest.mark.parametrize(("version", "name", "make"), EVERY, ids=IDS)
def test_files_are_still_written_that_way(version: int, name: str, make: Callable[[], Any], tmp_path: Path) -> None:
    oc.save(make(), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == file(name, version).read_bytes()
