"""octavo quantize and octavo inspect: float checkpoints into files for octavo.load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import octavo as oc
from octavo._cli import main as cli
from octavo._files.conversion import quantize_checkpoint
from octavo._files.inspection import error_against, estimated_error, report, rows
from octavo._files.safetensors import Reader
from octavo._files.sizes import Shape, layer_size, memory_table

F = np.float32


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=F)


def checkpoint() -> dict[str, np.ndarray]:
    return {
        "blocks.0.fc1.weight": random(48, 96),
        "blocks.0.fc1.bias": random(48, seed=1),
        "blocks.0.fc2.weight": random(96, 48, seed=2),
        "blocks.0.norm.weight": random(96, seed=3),
        "blocks.0.norm.bias": random(96, seed=4),
        "tok_emb.weight": random(10, 96, seed=5),
        "conv.weight": random(4, 4, 3, seed=6),
        "ids.weight": np.arange(6).reshape(2, 3),
        "table": random(3, 5, seed=7),
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(checkpoint(), tmp_path / "in", metadata={"format": "pt"})
    return tmp_path / "in"


INT4: dict[str, dict[str, Any]] = {
    "int8": {"dtype": "int8"},
    "int4": {"dtype": "int4"},
    "int4 g32 nearest": {"dtype": "int4", "group_size": 32, "rounding": "nearest"},
    "int4 row asymmetric": {"dtype": "int4", "group_size": None, "symmetric": False},
    "int4 g64 float16": {"dtype": "int4", "group_size": 64, "scale_dtype": "float16"},
}


@pytest.mark.parametrize("case", INT4)
def test_layers_are_those_of_quant_linear(case: str, source: Path, tmp_path: Path) -> None:
    options = INT4[case]
    quantize_checkpoint(source, tmp_path / "out", **options)
    found, original = oc.load(tmp_path / "out"), checkpoint()
    own = options | ({"group_size": options.get("group_size", 128)} if options["dtype"] == "int4" else {})
    for name in ("blocks.0.fc1", "blocks.0.fc2"):
        expected = oc.QuantLinear(original[f"{name}.weight"], original.get(f"{name}.bias"), **own)
        assert repr(found[name]) == repr(expected)
        assert (found[name].int_repr() == expected.int_repr()).all()
        assert found[name].scale.tobytes() == expected.scale.tobytes()
        assert (found[name].zero_point == expected.zero_point).all()
        x = random(5, expected.in_features, seed=8)
        assert found[name](x).tobytes() == expected(x).tobytes()


def test_everything_else_is_copied_to_the_byte_with_the_reason(source: Path, tmp_path: Path) -> None:
    result = quantize_checkpoint(source, tmp_path / "out")
    assert result.layers == ("blocks.0.fc1", "blocks.0.fc2")
    assert dict(result.skipped) == {
        "blocks.0.norm.weight": "1-D, not a matrix",
        "blocks.0.norm.bias": "1-D, not a matrix",
        "tok_emb.weight": "matches the excluded *emb*",
        "conv.weight": "3-D, not a matrix",
        "ids.weight": "I64, not a float type that can be read",
        "table": "does not match *.weight",
    }
    copied = load_file(tmp_path / "out")
    for name, _ in result.skipped:
        assert copied[name].dtype == checkpoint()[name].dtype
        assert copied[name].tobytes() == checkpoint()[name].tobytes()
    with safe_open(tmp_path / "out", "np") as file:
        assert file.metadata()["format"] == "pt"
    assert result.bytes_before == os.path.getsize(source)
    assert result.bytes_after == os.path.getsize(tmp_path / "out")


def raw(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    """A safetensors file with types that NumPy lacks."""
    entries, data = {}, b""
    for name, (dtype, a) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": a.shape, "data_offsets": [len(data), len(data) + a.nbytes]}
        data += a.tobytes()
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_float_types_are_read(dtype: str, tmp_path: Path) -> None:
    w, b = random(32, 64), random(32, seed=1)
    if dtype == "BF16":  # rounded by cutting: any bfloat16 will do
        stored = [(a.view(np.uint32) >> 16).astype(np.uint16) for a in (w, b)]
        values = [(a.astype(np.uint32) << 16).view(F) for a in stored]
    else:
        stored = values = [a.astype({"F16": "f2", "F32": "f4", "F64": "f8"}[dtype]) for a in (w, b)]
    f8 = np.arange(6, dtype=np.uint8)
    raw(tmp_path / "in", {"weight": (dtype, stored[0]), "bias": (dtype, stored[1]), "norm": (dtype, stored[1])})
    raw(tmp_path / "f8", {"fc.weight": (dtype, stored[0]), "other.weight": ("F8_E4M3", f8.reshape(2, 3))})
    quantize_checkpoint(tmp_path / "in", tmp_path / "out", include=["weight"])
    found = oc.load(tmp_path / "out")
    expected = oc.QuantLinear(values[0], values[1])
    assert (found[""].int_repr() == expected.int_repr()).all()
    assert found[""].bias.tobytes() == expected.bias.tobytes()
    assert (found["norm"] == values[1]).all()
    assert dict(quantize_checkpoint(tmp_path / "f8", tmp_path / "out").skipped) == {
        "other.weight": "F8_E4M3, not a float type that can be read"
    }
    with Reader(tmp_path / "out") as reader:
        assert reader.data("other.weight").tobytes() == f8.tobytes()


def test_in_out_layout_transposes(tmp_path: Path) -> None:
    w = random(96, 48)
    save_file({"c.weight": w, "c.bias": random(48)}, tmp_path / "in")
    for dtype in ("int8", "int4"):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out", dtype=dtype, layout="in_out")
        layer = oc.load(tmp_path / "out")["c"]
        assert (layer.in_features, layer.out_features) == (96, 48)
        expected = oc.QuantLinear(w.T, dtype=dtype, **({"group_size": 128} if dtype == "int4" else {}))
        assert (layer.int_repr() == expected.int_repr()).all()


def test_blocks_of_rows_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    for dtype in ("int8", "int4"):
        quantize_checkpoint(source, tmp_path / "whole", dtype=dtype)
        with monkeypatch.context() as patch:
            patch.setattr("octavo._files.conversion._BLOCK_ELEMS", 500)
            quantize_checkpoint(source, tmp_path / "blocks", dtype=dtype)
        assert (tmp_path / "whole").read_bytes() == (tmp_path / "blocks").read_bytes()


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"include": ["*fc1*"]}, ["blocks.0.fc1"]),
        ({"include": ["table", "*emb.weight"]}, ["tok_emb", "table"]),
        ({"exclude": ["*fc1*"]}, ["blocks.0.fc2"]),
        ({"include": ["*"], "exclude": ["blocks*"]}, ["tok_emb", "table"]),
    ],
    ids=str,
)
def test_patterns_choose(options: dict[str, Any], layers: list[str], source: Path, tmp_path: Path) -> None:
    assert sorted(quantize_checkpoint(source, tmp_path / "out", **options).layers) == sorted(layers)
    assert set(layers) <= oc.load(tmp_path / "out").keys()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"a.scale": np.ones(1)}, "a.scale has the name that the layer would need"),
        ({"a": np.ones(1)}, "a has the name that the layer would need"),
        ({"a.bias": np.ones(3, F)}, "its bias is F32 of shape [3], expected 2 floats"),
        ({"a.bias": np.ones(2, int)}, "its bias is I64 of shape [2], expected 2 floats"),
        ({"a.weight": np.ones((0, 2), F)}, "empty"),
        ({"a.weight": np.ones((1, 131_072), np.float16)}, "131072 inputs, more than the 131071"),
    ],
    ids=["scale", "layer", "bias shape", "bias type", "empty", "inputs"],
)
def test_matrix_that_cannot_be_a_layer_is_copied(more: dict[str, np.ndarray], reason: str, tmp_path: Path) -> None:
    save_file({"a.weight": np.ones((2, 2), F), "b.weight": np.ones((2, 2), F)} | more, tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert result.layers == ("b",)
    assert dict(result.skipped)["a.weight"].startswith(reason)
    assert oc.load(tmp_path / "out").keys() >= {"a.weight", "b"}


def test_output_is_refused_where_it_would_destroy(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    os.link(source, tmp_path / "link")
    for other in (source, tmp_path / "link", tmp_path / "." / "in"):
        with pytest.raises(ValueError, match="give another output file"):
            quantize_checkpoint(source, other)
    quantize_checkpoint(source, tmp_path / "out")
    with pytest.raises(ValueError, match="quantized already"):
        quantize_checkpoint(tmp_path / "out", tmp_path / "out2")
    assert source.read_bytes() == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_without_integers_are_refused_and_nothing_is_left(value: float, tmp_path: Path) -> None:
    w = random(48, 96)
    w[40, 7] = value
    save_file({"a.weight": random(8, 8), "b.weight": w}, tmp_path / "in")
    with pytest.raises(ValueError, match=rf"b\.weight holds {value} for output 40, input 7.*--exclude b\.weight"):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "uint8"}, "dtype must be int8 or int4, got quint8"),
        ({"layout": "io"}, "layout must be one of"),
        ({"rounding": "up"}, "rounding must be"),
        ({"rounding": "search"}, "rounding=search is for int4"),
        ({"group_size": 64}, "group_size=64 is for int4"),
        ({"symmetric": False}, "symmetric=False is for int4"),
        ({"scale_dtype": "float16"}, "scale_dtype=float16 is for int4"),
        ({"dtype": "int4", "group_size": 48}, "multiple of 32"),
        ({"dtype": "int4", "group_size": 0}, "multiple of 32"),
        ({"dtype": "int4", "scale_dtype": "float64"}, "scale_dtype"),
        ({"include": ["nothing"]}, "no tensor to quantize .*use --include"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        quantize_checkpoint(source, tmp_path / "out", **options)
    assert os.listdir(tmp_path) == ["in"]


def test_int4_file_is_at_most_13_5_percent_of_float32(tmp_path: Path) -> None:
    save_file({f"layers.{i}.weight": random(256, 512, seed=i) for i in range(4)}, tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out", dtype="int4", group_size=128)
    assert result.bytes_after <= 0.135 * result.bytes_before


PEAK = """
import sys, tracemalloc
from octavo._files.conversion import quantize_checkpoint
tracemalloc.start()
quantize_checkpoint(sys.argv[1], sys.argv[2], dtype=sys.argv[3], rounding="nearest")
print(tracemalloc.get_traced_memory()[1])
print([int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0] * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to know the peak of memory")
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_memory_stays_near_the_largest_tensor(dtype: str, tmp_path: Path) -> None:
    largest = 2048 * 2048 * 4
    save_file({f"{i}.weight": np.full((2048, 2048), 1 + i, F) for i in range(12)}, tmp_path / "in")
    arguments = [sys.executable, "-c", PEAK, str(tmp_path / "in"), str(tmp_path / "out"), dtype]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    allocated, resident = (int(word) for word in done.stdout.split())
    assert os.path.getsize(tmp_path / "in") > 200e6
    assert allocated < 0.7 * largest
    assert resident < 120e6  # of which the interpreter and NumPy take 40 MB, and the mapped input a tensor


# The commands


def test_quantize_prints_what_it_left_and_a_summary(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tqdm", reason="the progress bar: pip install 'octavo[cli]'")
    arguments = ["--dtype", "int4", "--group-size", "32", "--scale-dtype", "float16", "--exclude", "*fc2*"]
    assert cli.main(["quantize", str(source), str(tmp_path / "out"), *arguments]) == 0
    out, err = capsys.readouterr()
    assert "copied blocks.0.fc2.weight: matches the excluded *fc2*" in out
    assert "1 layers quantized, 7 tensors copied" in out
    assert f"{os.path.getsize(source):,} B before, {os.path.getsize(tmp_path / 'out'):,} B after" in out
    assert "quantizing: 100%" in err
    layer = oc.load(tmp_path / "out")["blocks.0.fc1"]
    assert (layer.group_size, layer.scale_dtype) == (32, "float16")


def test_quantize_names_the_extra_that_is_missing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert cli.main(["quantize", str(source), str(tmp_path / "out")]) == 1
    assert "pip install 'octavo[cli]'" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in"]
    assert cli.main(["quantize", str(source), str(tmp_path / "out"), "--no-progress"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "No such file"),
        (["in", "in"], "give another output file"),
        (["in", "nowhere/out"], "No such file"),
        (["bad", "out"], "not a usable safetensors file"),
    ],
    ids=str,
)
def test_quantize_says_what_is_wrong_in_a_line(
    arguments: list[str], message: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").write_bytes(b"x" * 100)
    assert cli.main(["quantize", *(str(tmp_path / a) for a in arguments), "--no-progress"]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_inspect_lists_layers_and_measures_errors(
    dtype: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quantize_checkpoint(source, tmp_path / "out", dtype=dtype)
    assert cli.main(["inspect", str(tmp_path / "out"), "--against", str(source)]) == 0
    text = capsys.readouterr().out
    layer, w = oc.load(tmp_path / "out")["blocks.0.fc1"], checkpoint()["blocks.0.fc1.weight"]
    error = np.linalg.norm(layer.weight.astype(float) - w) / np.linalg.norm(w)
    assert f"{100 * error:.3f} %" in text
    line = next(line for line in text.splitlines() if line.startswith("blocks.0.fc1"))
    assert line.split()[1:6] == ["QuantLinear", dtype, "48", "x", "96"]
    memory = layer.nbytes
    assert [row.memory_bytes for row in rows(tmp_path / "out") if row.name == "blocks.0.fc1"] == [memory]
    assert "error (est.)" not in text
    for word in ("float32", "float16", "int8", "int4", "in the file", "in memory"):
        assert word in text


def test_inspect_estimates_errors_without_the_original(source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "out")
    assert "error (est.): step/sqrt(12)" in report(tmp_path / "out")
    layer = oc.load(tmp_path / "out")["blocks.0.fc1"]
    with Reader(source) as original:
        measured = error_against(layer, "blocks.0.fc1", original, "out_in")
    assert abs(estimated_error(layer) - measured) < 0.03 * measured


def test_inspect_shows_any_safetensors_file(source: Path) -> None:
    text = report(source)
    assert "tok_emb.weight" in text
    total = sum(a.size for a in checkpoint().values())
    assert f"float32 {4 * total:>18,} B" in text


def test_inspect_refuses_the_wrong_original(source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "out")
    save_file({"blocks.0.fc1.weight": random(96, 48)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"has shape \[96, 48\] with layout out_in"):
        report(tmp_path / "out", against=tmp_path / "other")
    save_file({"x": random(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"no tensor for the layer 'blocks\.0\.fc1'"):
        report(tmp_path / "out", against=tmp_path / "other")
    with pytest.raises(ValueError, match="no quantized layers to compare"):
        report(source, against=source)


# Sizes


def test_layer_size_is_that_of_files_and_layers(tmp_path: Path) -> None:
    w, b = random(48, 160), random(48)
    for dtype, options in {"int8": {}, "int4": {"group_size": 128}}.items():
        layer = oc.QuantLinear(w, b, dtype=dtype, **options)
        oc.save({"fc": layer}, tmp_path / "x")
        stored = sum(a.nbytes for a in load_file(tmp_path / "x").values())
        assert layer_size(Shape(48, 160, True), dtype) == (stored, layer.nbytes)


def test_seven_billion_weights_take_28_14_7_and_3_5_gigabytes() -> None:
    table = memory_table({Shape(4096, 4096): 417}).splitlines()
    file = {line.split()[0]: int(line.split()[1].replace(",", "")) / 1e9 for line in table[1:]}
    for dtype, arithmetic in {"float32": 28, "float16": 14, "int8": 7, "int4": 3.5}.items():
        assert arithmetic <= file[dtype] * 1.001 < 1.07 * arithmetic
