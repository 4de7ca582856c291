"""`octavo quantize` and `octavo inspect` on GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from gguf_files import random_blocks, tensor, whole, write_blocks
from octavo._cli.main import main
from octavo._files.safetensors import Reader
from octavo.gguf import _convert
from octavo.gguf._blocks import DECODERS
from octavo.gguf._types import BY_NAME
from reference import assert_same_bits

F = np.float32


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file with a tensor of every type that is read."""
    tensors: dict[str, Any] = {
        f"blk.0.{name}": (name, random_blocks(name, 7, 512 // BY_NAME[name].block)) for name in DECODERS
    }
    tensors |= {"norm": ("F32", np.arange(5, dtype=F)), "half": ("F16", np.ones((2, 3), np.float16))}
    write_blocks(tmp_path / "model.gguf", tensors, {"words": ["a", "b"], "n": 3})
    return tmp_path / "model.gguf"


def test_quantize_writes_what_load_gives(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octavo.gguf._load._PIECE_BYTES", 600)  # several pieces a tensor
    out = model.with_name("out.safetensors")
    assert main(["quantize", str(model), str(out), "--verify", "--no-progress"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "every weight is the gguf package's, to the bit"
    loaded, (tensors, metadata) = oc.load(out), oc.gguf.load(model)
    assert len(loaded) == len(DECODERS) + 2
    for name, q in tensors["blk"]["0"].items():
        assert repr(loaded[f"blk.0.{name}"]) == repr(q)
        assert_same_bits(loaded[f"blk.0.{name}"].dequantize(), q.dequantize())
    np.testing.assert_array_equal(loaded["norm"], tensors["norm"])
    with Reader(out) as reader:
        assert json.loads(reader.metadata["gguf.metadata"]) == metadata


def test_quantize_takes_options_of_activations(model: Path) -> None:
    out = model.with_name("out.safetensors")
    assert main(["quantize", str(model), str(out), "--activation", "int16", "--no-progress"]) == 0
    assert oc.load(out)["blk.0.Q4_0"]._layer.activation == "int16"
    assert main(["quantize", str(model), str(out), "--activation-group", "row", "--no-progress"]) == 0
    assert oc.load(out)["blk.0.Q4_0"]._layer.activation_group is None


def test_quantize_splits_experts(tmp_path: Path) -> None:
    raw = random_blocks("Q4_0", 6, 1)
    (tmp_path / "x.gguf").write_bytes(whole([], [tensor("e", (32, 2, 3), 2, 0)], raw.tobytes()))
    _convert.convert(tmp_path / "x.gguf", tmp_path / "x.safetensors")
    loaded, found = oc.load(tmp_path / "x.safetensors"), oc.gguf.load(tmp_path / "x.gguf").tensors["e"]
    assert loaded.keys() == {"e.0", "e.1", "e.2"}
    assert_same_bits(loaded["e.1"].dequantize(), found[1].dequantize())


def test_quantize_verify_names_a_weight_that_differs(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = DECODERS["Q4_0"]
    monkeypatch.setitem(DECODERS, "Q4_0", lambda raw: decode(raw ^ np.uint8(raw.shape[0] == 7)))
    with pytest.raises(ValueError, match=r"tensor 'blk.0.Q4_0': the weight at \[0, 0\] of a piece is .* by the gguf"):
        _convert.convert(model, model.with_name("out.safetensors"), verify=True)
    assert not model.with_name("out.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dtype", "int4"], "--dtype is for float checkpoints"),
        (["--include", "*"], "--include is for float checkpoints"),
    ],
)
def test_quantize_refuses_options_of_float_checkpoints(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["quantize", str(model), str(model) + ".out", *arguments, "--no-progress"]) == 1
    assert words in capsys.readouterr().err


def test_quantize_refuses_options_of_gguf_files_for_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oc.save({"w": np.ones((2, 2), F)}, tmp_path / "x.safetensors")
    assert main(["quantize", str(tmp_path / "x.safetensors"), str(tmp_path / "y.safetensors"), "--verify"]) == 1
    assert "--verify is for GGUF files" in capsys.readouterr().err


def test_quantize_refuses_names_that_collide(tmp_path: Path) -> None:
    write_blocks(tmp_path / "x.gguf", {"a": ("Q4_0", random_blocks("Q4_0", 2, 1)), "a.weight": ("F32", np.ones(2, F))})
    with pytest.raises(ValueError, match="tensor 'a': its weight would have the name of another tensor"):
        _convert.convert(tmp_path / "x.gguf", tmp_path / "x.safetensors")


def test_quantize_refuses_to_overwrite_its_source(model: Path) -> None:
    with pytest.raises(ValueError, match="must be different files"):
        _convert.convert(model, model)


def test_inspect_lists_metadata_and_tensors(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model)]) == 0
    text = capsys.readouterr().out
    assert "GGUF version 3" in text
    assert "words" in text
    assert "['a', 'b'] (2)" in text
    assert any(line.split()[:5] == ["blk.0.Q4_0", "Q4_0", "7", "x", "512"] for line in text.splitlines())
    assert "14 tensors" in text


def test_inspect_shows_types_that_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.gguf").write_bytes(whole([], [tensor("w\x1b[2J", (256, 1), 16, 0)], bytes(66)))
    assert main(["inspect", str(tmp_path / "x.gguf")]) == 0
    text = capsys.readouterr().out
    assert "not read" in text
    assert "octavo.gguf.load does not read IQ2_XXS" in text
    assert "\x1b" not in text
    assert main(["inspect", str(tmp_path / "x.gguf"), "--against", "y"]) == 1
    assert "--against is not for GGUF files" in capsys.readouterr().err


def test_one_of_a_kind_has_no_plural(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "one.gguf", tmp_path / "out.safetensors"
    write_blocks(source, {"w": ("Q8_0", random_blocks("Q8_0", 7, 2))})
    assert main(["inspect", str(source)]) == 0
    assert "1 tensor (1 Q8_0)" in capsys.readouterr().out
    assert main(["quantize", str(source), str(out), "--no-progress"]) == 0
    assert "1 matrix and 0 arrays, " in capsys.readouterr().out
    assert main(["inspect", str(out)]) == 0
    assert "1 entry, " in capsys.readouterr().out
