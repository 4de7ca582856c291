"""Checkpoints in several files: nothing is lost, and one file of several is not taken for the whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import octavo as oc
from checkpoints import F, checkpoint, random, write_shards
from octavo._files.checkpoint import Checkpoint
from octavo._files.choice import Choice
from octavo._files.conversion import quantize_checkpoint
from octavo._files.inspection import inspect_file
from octavo._files.naming import vocabulary_sizes

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """fc.weight in the first file, fc.bias in the second."""
    return write_shards(tmp_path / "in", {"fc.weight": random(8, 4), "fc.bias": np.full(8, 101, F)}, 2)


def test_layer_whose_bias_is_in_another_file_keeps_it(index: Path, tmp_path: Path) -> None:
    for source in (index, index.parent):
        for out in (tmp_path / "out.safetensors", tmp_path / "out"):
            quantize_checkpoint(source, out)
            model = oc.load(out, {"fc": oc.nn.Linear(random(8, 4, seed=5), np.ones(8, F))})
            assert (model["fc"].bias == 101).all()


def test_files_and_index_are_those_of_the_source(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "in", checkpoint(), 3)
    result = quantize_checkpoint(index, tmp_path / "out")
    names = sorted(os.listdir(tmp_path / "out"))
    assert names == sorted(os.listdir(tmp_path / "in"))
    assert sorted(file.name for file in result.files) == names
    assert result.bytes_after == sum((tmp_path / "out" / name).stat().st_size for name in names)
    written = json.loads((tmp_path / "out" / index.name).read_text())
    arrays = {f: load_file(tmp_path / "out" / f) for f in names if f.endswith(".safetensors")}
    assert written["weight_map"] == {name: f for f, own in arrays.items() for name in own}
    assert set(written["weight_map"]) >= {"blocks.0.fc1.weight", "blocks.0.fc1.scale", "blocks.0.fc1.bias", "table"}
    assert inspect_file(tmp_path / "out").rows == inspect_file(tmp_path / "out" / index.name).rows


def test_file_of_several_is_refused_with_the_remedy(index: Path, tmp_path: Path) -> None:
    for name in (ONE, TWO):
        with pytest.raises(
            ValueError, match=rf"{name} is one of the 2 files of a checkpoint.*name the index .*index\.json"
        ):
            quantize_checkpoint(index.parent / name, tmp_path / "out")
    index.unlink()
    with pytest.raises(ValueError, match=r"is file 1 of 2 by its name.*name the folder that holds them all"):
        quantize_checkpoint(index.parent / ONE, tmp_path / "out")
    quantize_checkpoint(index.parent, tmp_path / "out")  # all of them, though no index lists them
    assert (oc.load(tmp_path / "out")["fc"].bias == 101).all()
    (index.parent / TWO).unlink()
    with pytest.raises(ValueError, match="is file 1 of 2 by its name"):
        quantize_checkpoint(index.parent, tmp_path / "out2")
    with pytest.raises(ValueError, match="is file 1 of 2 by its name"):
        oc.load(tmp_path / "out" / ONE)


def test_index_of_one_file_lets_it_be_named(tmp_path: Path) -> None:
    write_shards(tmp_path, {"fc.weight": random(8, 4)}, 1)
    quantize_checkpoint(tmp_path / "model-00001-of-00001.safetensors", tmp_path / "out")
    assert oc.load(tmp_path / "out").keys() == {"fc"}


def test_folder_with_one_file_means_that_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"fc.weight": random(8, 4)}, tmp_path / "in" / "weights.safetensors")
    (tmp_path / "out").mkdir()
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert result.files == (tmp_path / "out" / "weights.safetensors",)
    assert oc.load(tmp_path / "out").keys() == {"fc"}


def test_whole_file_beside_parts_is_what_the_folder_means(index: Path, tmp_path: Path) -> None:
    save_file({"whole.weight": random(8, 4)}, index.parent / "model.safetensors")
    assert quantize_checkpoint(index.parent, tmp_path / "out.safetensors").layers == ("whole",)


def edited(index: Path, **weight_map: object) -> None:
    content = json.loads(index.read_text())
    content["weight_map"] |= weight_map
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda i: (i.parent / TWO).unlink(), FileNotFoundError, rf"{TWO} does not exist, though .* lists it"),
        (lambda i: edited(i, more=ONE), ValueError, rf"says that {ONE} holds the tensor 'more', but it does not"),
        (lambda i: edited(i, more="../x"), ValueError, r"'more' must have the name of a file beside the index"),
        (lambda i: edited(i, more=3), ValueError, r"'more' must have the name of a file beside the index, got 3"),
        (lambda i: i.write_text("{}"), ValueError, "JSON without a weight_map"),
        (lambda i: i.write_text("[]"), ValueError, "must be a JSON object"),
        (lambda i: i.write_text("{"), ValueError, "not valid JSON"),
        (
            lambda i: save_file({"fc.bias": random(8), "fc.weight": random(8, 4)}, i.parent / TWO),
            ValueError,
            rf"{TWO} and .*{ONE} both hold the tensor 'fc\.weight'",
        ),
    ],
    ids=["file missing", "tensor missing", "outside", "number", "no map", "list", "cut", "twice"],
)
def test_index_that_does_not_fit_its_files_is_refused(change, error, message: str, index: Path, tmp_path: Path) -> None:
    change(index)
    for read in (lambda: quantize_checkpoint(index, tmp_path / "out"), lambda: oc.load(index)):
        with pytest.raises(error, match=message):
            read()
    assert not (tmp_path / "out").exists()


def test_failure_leaves_no_folder_and_no_file(index: Path, tmp_path: Path) -> None:
    save_file({"fc.bias": random(8), "other.weight": np.full((4, 4), np.nan, F)}, index.parent / TWO)
    with pytest.raises(ValueError, match=rf"{TWO}: other\.weight, row 0: nan at input 0"):
        quantize_checkpoint(index.parent, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["in"]
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="row 0"):
        quantize_checkpoint(index.parent, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_output_among_the_source_is_refused(index: Path) -> None:
    for out in (index.parent, index.parent / ONE):
        with pytest.raises(ValueError, match="would be overwritten by its own conversion"):
            quantize_checkpoint(index, out)
    with pytest.raises(ValueError, match="name a folder for several files"):
        quantize_checkpoint(index, index.with_name("other.index.json"))


def test_folder_that_holds_another_checkpoint_is_refused(index: Path, tmp_path: Path) -> None:
    quantize_checkpoint(index, tmp_path / "out")
    quantize_checkpoint(index, tmp_path / "out", dtype="int4")  # in place of the former
    assert oc.load(tmp_path / "out")["fc"].dtype.name == "qint4"
    save_file({"x": random(1)}, tmp_path / "out" / "model.safetensors")
    with pytest.raises(ValueError, match=r"out holds model\.safetensors already, and loading it would mix the two"):
        quantize_checkpoint(index, tmp_path / "out")


def test_converted_folder_is_not_converted_again(index: Path, tmp_path: Path) -> None:
    quantize_checkpoint(index, tmp_path / "out")
    with pytest.raises(ValueError, match="is an octavo file, quantized already"):
        quantize_checkpoint(tmp_path / "out", tmp_path / "again", choice=Choice(include=["*"]))


@pytest.mark.parametrize("kind", ["pipe", "large"])
def test_index_that_is_none_is_not_read(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a pipe would wait for ever, and reading what is large take all memory."""
    index = write_shards(tmp_path, checkpoint(), 2)
    index.unlink()
    if kind == "pipe":
        os.mkfifo(index)
    else:
        with open(index, "wb") as file:
            file.truncate(1 << 30)  # a hole: it takes no room
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"is not a regular file|an index has at most 100,000,000, so it is none"):
        Checkpoint(tmp_path)


def test_config_nested_too_deeply_is_passed_over(tmp_path: Path) -> None:
    write_shards(tmp_path, checkpoint(), 2)
    (tmp_path / "config.json").write_text('{"a":' + 100_000 * "[" + 100_000 * "]" + "}")
    assert vocabulary_sizes(tmp_path) == set()
