"""octavo inspect: what files hold, what they take, how far integers are from the floats they came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import octavo as oc
from checkpoints import F, checkpoint, random, write_raw, write_shards
from octavo._cli import main as cli
from octavo._files.checkpoint import Checkpoint
from octavo._files.choice import Choice
from octavo._files.conversion import quantize_checkpoint
from octavo._files.inspection import inspect_file
from octavo._files.octavo_header import header_metadata
from octavo._files.sizes import Shape, layer_size, memory_table
from octavo._files.weight_error import error_against, estimated_error
from octavo._layers.images import FAMILIES, OWN_FAMILY


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(checkpoint(), tmp_path / "in", metadata={"format": "pt"})
    return tmp_path / "in"


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_inspect_lists_layers_and_measures_errors(
    dtype: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quantize_checkpoint(source, tmp_path / "out", dtype=dtype)
    assert cli.main(["inspect", str(tmp_path / "out"), "--against", str(source)]) == 0
    text = capsys.readouterr().out
    found, original = oc.load(tmp_path / "out"), checkpoint()
    for name, cls in (("blocks.0.fc1", "QuantLinear"), ("tok_emb", "QuantEmbedding")):
        w = original[f"{name}.weight"]
        error = np.linalg.norm(found[name].weight.astype(float) - w) / np.linalg.norm(w)
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert line.split()[1:6] == [cls, dtype, *f"{w.shape[0]} x {w.shape[1]}".split()]
        assert f"{100 * error:.3f} %" in line
    rows = {row.name: row for row in inspect_file(tmp_path / "out").rows}
    assert rows["blocks.0.fc1"].memory_bytes == found["blocks.0.fc1"].nbytes
    assert "error (est.)" not in text
    for word in ("float32", "float16", "int8", "int4", "in the file", "in memory"):
        assert word in text


def test_inspect_measures_recurrent_layers_matrices_and_experts(tmp_path: Path) -> None:
    lstm = oc.nn.LSTM.init(16, 24, rng=np.random.default_rng(0))
    floats = {f"lstm.{name}": a for name, a in lstm.weights.items()}
    floats |= {"experts.w1": random(2, 8, 40), "conv.weight": random(8, 40, 1, 1), "c_fc.weight": random(32, 64)}
    save_file(floats | {"c_fc.bias": random(64)}, tmp_path / "in")
    quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(layout="in_out"))
    rows = inspect_file(tmp_path / "out", against=tmp_path / "in", layout="in_out").rows
    errors = {row.name: row.error for row in rows if row.layers}
    assert errors.keys() == {"c_fc", "conv.weight", "experts.w1.0", "experts.w1.1", "lstm"}
    assert all(error is not None and 0.001 < error < 0.02 for error in errors.values())


def test_inspect_estimates_errors_without_the_original(source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "out")
    assert "error (est.): step/sqrt(12)" in str(inspect_file(tmp_path / "out"))
    layer = oc.load(tmp_path / "out")["blocks.0.fc1"]
    with Checkpoint(source) as original:
        measured = error_against({"blocks.0.fc1.weight": (layer.weight, None)}, original)
    assert abs(estimated_error(layer) - measured) < 0.03 * measured


def test_inspect_shows_any_checkpoint_and_what_would_become_of_it(source: Path, tmp_path: Path) -> None:
    text = str(inspect_file(source))
    kinds = {line.split()[0]: " ".join(line.split()[1:4]) for line in text.splitlines() if line.startswith(("b", "t"))}
    assert kinds["blocks.0.fc1.weight"] == "F32 -> QuantLinear"
    assert kinds["tok_emb.weight"] == "F32 -> QuantEmbedding"
    total = sum(a.size for a in checkpoint().values() if a.dtype.kind == "f")
    ids = checkpoint()["ids.weight"].nbytes
    assert f"float32 {4 * total + ids:>18,} B" in text
    np.savez(tmp_path / "in.npz", **checkpoint())
    index = write_shards(tmp_path / "shards", checkpoint(), 2)
    for other in (tmp_path / "in.npz", index, index.parent):
        rows = {(row.name, row.kind, row.shape) for row in inspect_file(other).rows}
        assert rows == {(row.name, row.kind, row.shape) for row in inspect_file(source).rows}


def test_inspect_lists_a_checkpoint_whose_layout_is_to_be_said(tmp_path: Path) -> None:
    save_file({"c_attn.weight": random(8, 24), "c_attn.bias": random(24)}, tmp_path / "in")
    text = str(inspect_file(tmp_path / "in"))
    assert "c_attn.weight  F32" in text
    assert "note: " in text
    assert "--layout in_out" in text
    assert "QuantLinear" in str(inspect_file(tmp_path / "in", layout="in_out"))


def test_inspect_lists_types_that_numpy_lacks(tmp_path: Path) -> None:
    eight = np.arange(6, dtype=np.uint8).reshape(2, 3)
    write_raw(tmp_path / "in", {"w": ("F8_E4M3", eight), "fc.weight": ("F32", random(4, 4))})
    rows = {row.name: row for row in inspect_file(tmp_path / "in").rows}
    assert (rows["w"].kind, rows["w"].shape, rows["w"].file_bytes) == ("F8_E4M3, unreadable", (2, 3), 6)


def octavo_file_with_float8(path: Path) -> None:
    """As octavo 0.1.0 made of a checkpoint that held one."""
    oc.save({"fc": oc.QuantLinear(np.eye(4, dtype=F))}, path)
    with Checkpoint(path) as opened:
        (reader,) = opened.readers()
        options = {"fc": json.loads(reader.metadata["octavo"])["layers"]["fc"]}
        codes = {name: (t.dtype, reader.raw(name).copy()) for name, t in reader.tensors.items()}
    codes["w"] = ("F8_E4M3", np.arange(6, dtype=np.uint8).reshape(2, 3))
    write_raw(path, codes)
    with Checkpoint(path) as opened:
        crc32 = {name: opened.readers()[0].crc32(name) for name in codes}
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length]) | {"__metadata__": header_metadata(options, {}, crc32)}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])


def test_octavo_file_with_a_float8_tensor_is_listed_and_named_by_load(tmp_path: Path) -> None:
    octavo_file_with_float8(tmp_path / "x")
    rows = {row.name: row.kind for row in inspect_file(tmp_path / "x").rows}
    assert rows == {"fc": "QuantLinear int8", "w": "F8_E4M3, unreadable"}
    for model in (None, {"fc": None}):
        with pytest.raises(ValueError, match=r"cannot load .*x: tensor 'w' is F8_E4M3, a type that NumPy lacks"):
            oc.load(tmp_path / "x", model)
    with pytest.warns(UserWarning, match="tensors in the file of types that NumPy lacks: w"):
        filled = oc.load(tmp_path / "x", {"fc": None}, strict=False)
    assert type(filled["fc"]) is oc.QuantLinear


def test_inspect_refuses_the_wrong_original(source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "out")
    save_file({"blocks.0.fc1.weight": random(96, 48)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"has shape \[96, 48\] with layout out_in"):
        inspect_file(tmp_path / "out", against=tmp_path / "other")
    save_file({"x": random(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"no tensor 'blocks\.0\.fc1\.weight'"):
        inspect_file(tmp_path / "out", against=tmp_path / "other")
    with pytest.raises(ValueError, match="no quantized layers to compare"):
        inspect_file(source, against=source)


def test_inspect_writes_json(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantize_checkpoint(source, tmp_path / "out")
    assert cli.main(["inspect", str(tmp_path / "out"), "--json", "-"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert cli.main(["inspect", str(tmp_path / "out"), "--json", str(tmp_path / "x.json")]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "x.json").read_text()) == figures
    entries = {entry["name"]: entry for entry in figures["entries"]}
    layer = oc.load(tmp_path / "out")["blocks.0.fc1"]
    assert entries["blocks.0.fc1"] == {
        "name": "blocks.0.fc1", "kind": "QuantLinear int8", "shape": [48, 96], "elems": 48 * 96 + 48,
        "file_bytes": 48 * 96 + 8 * 48, "memory_bytes": layer.nbytes, "error": estimated_error(layer),
    }  # fmt: skip
    assert figures["file_bytes"] == (tmp_path / "out").stat().st_size
    assert (figures["quantized"], figures["error"]) == (True, "estimated")
    assert figures["sizes"].keys() == {"float32", "float16", "int8", "int4"}


# Sizes


@pytest.mark.parametrize("table", [False, True], ids=["layer", "table"])
def test_layer_size_is_that_of_files_and_layers(table: bool, tmp_path: Path) -> None:
    w, b = random(48, 160), random(48)
    for dtype, options in {"int8": {}, "int4": {"group_size": 128}}.items():
        made = oc.QuantEmbedding(w, dtype=dtype, **options) if table else oc.QuantLinear(w, b, dtype=dtype, **options)
        oc.save({"fc": made}, tmp_path / "x")
        stored = sum(a.nbytes for a in load_file(tmp_path / "x").values())
        assert layer_size(Shape(48, 160, not table, table), dtype) == (stored, made.nbytes)


def test_seven_billion_weights_take_28_14_7_and_3_5_gigabytes() -> None:
    table = memory_table({Shape(4096, 4096): 417}).splitlines()
    file = {line.split()[0]: int(line.split()[1].replace(",", "")) / 1e9 for line in table[1:]}
    for dtype, arithmetic in {"float32": 28, "float16": 14, "int8": 7, "int4": 3.5}.items():
        assert arithmetic <= file[dtype] * 1.001 < 1.07 * arithmetic


@pytest.mark.parametrize("family", FAMILIES)
def test_pack_and_inspect_tell_for_which_machines_a_file_is(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    oc.save({"fc": oc.QuantLinear(random(64, 64)), "table": oc.QuantEmbedding(random(4, 8))}, tmp_path / "in")
    assert cli.main(["pack", "--for", family, str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert f"matrices packed for {family}: 1" in capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    own = "this machine's family" if family == OWN_FAMILY else "which is not this machine's family"
    assert f"weights lie packed for {family}, {own}" in text
