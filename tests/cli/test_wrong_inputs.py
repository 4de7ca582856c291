"""Wrong input at the command line: one line that names what was given, what is wrong, and what to do."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import octavo as oc
from checkpoints import F, checkpoint, random, write_raw, write_shards
from octavo._cli import main as cli

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that users have, and files that are wrong."""
    where = tmp_path_factory.mktemp("inputs")
    save_file(checkpoint(), where / "good.safetensors")
    np.savez(where / "text.npz", w=random(4, 4), note="hello")
    (where / "model.bin").write_bytes(b"\x80\x02}q\x00.")
    (where / "model.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\0" * 32)
    (where / "lfs.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5\n")
    (where / "cut.safetensors").write_bytes((where / "good.safetensors").read_bytes()[:5000])
    (where / "empty.safetensors").write_bytes(b"")
    write_shards(where / "shards", checkpoint(), 2)
    (where / "nothing").mkdir()
    oc.save({"fc": oc.QuantLinear(random(8, 8))}, where / "octavo.safetensors")
    save_file({"c_fc.weight": random(8, 32), "c_fc.bias": random(32)}, where / "gpt2.safetensors")
    bad = random(64, 64)
    bad[40, 7] = np.nan
    save_file({"fc.weight": bad}, where / "nan.safetensors")
    small = random(64, 64)
    small[33] *= F(1e-12)
    save_file({"fc.weight": small}, where / "small.safetensors")
    save_file({"fc.weight": random(8, 8), "norm": np.float32([1e30])}, where / "large.safetensors")
    write_raw(where / "f8.safetensors", {"fc.weight": ("F8_E4M3", np.zeros((4, 4), np.uint8))})
    save_file({"steps": np.arange(3)}, where / "counts.safetensors")
    save_file({"other.weight": random(8, 8)}, where / "other.safetensors")
    return where


# arguments, where {} is the folder; exit status; what is said
WRONG: list[tuple[str, int, str]] = [
    ("", 2, "the following arguments are required: COMMAND"),
    ("fly", 2, "invalid choice: 'fly'"),
    ("quantize {}/good.safetensors", 2, "the following arguments are required: OUT"),
    ("quantize {}/missing.safetensors {}/out", 1, "{}/missing.safetensors: No such file or directory"),
    ("quantize {}/missing.gguf {}/out --verify", 1, "{}/missing.gguf: No such file or directory"),
    ("quantize {}/model.bin {}/out", 1, "{}/model.bin is not a usable safetensors file: it is a pickle, as torch.save"),
    ("quantize {}/model.gguf {}/out", 1, "cannot read {}/model.gguf: it holds no tensors"),
    (
        "quantize {}/lfs.safetensors {}/out",
        1,
        "it is a Git LFS pointer in place of the file; fetch the file with git lfs",
    ),
    ("quantize {}/cut.safetensors {}/out", 1, "it is truncated or damaged"),
    ("quantize {}/empty.safetensors {}/out", 1, "it is empty; download or write it again"),
    ("quantize {}/nothing {}/out", 1, "{}/nothing is a folder without any safetensors file; name the file of the ch"),
    ("quantize {} {}/out", 1, "{} is a folder with several safetensors files ("),
    (f"quantize {{}}/shards/{SHARD} {{}}/out", 1, "is one of the 2 files of a checkpoint, and lacks the tensors of"),
    (
        "quantize {}/text.npz {}/out",
        1,
        "{}/text.npz: tensor 'note' is <U5, a type that octavo cannot read; leave it out",
    ),
    (
        "quantize {}/f8.safetensors {}/out",
        1,
        "tensor 'fc.weight' is F8_E4M3, a type that octavo cannot read; convert it to",
    ),
    ("quantize {}/octavo.safetensors {}/out", 1, "is an octavo file, quantized already; convert the float checkpoint"),
    ("quantize {}/good.safetensors {}/good.safetensors", 1, "would be overwritten by its own conversion; name another"),
    ("quantize {}/good.safetensors {}/nowhere/out", 1, "the folder {}/nowhere does not exist; create it first"),
    ("quantize {}/good.safetensors {}/out.index.json", 1, "name a folder for several files and their index"),
    (
        "quantize {}/gpt2.safetensors {}/out",
        1,
        "so it is (in, out) as in y = x W; pass --layout in_out, or leave it as it",
    ),
    (
        "quantize {}/nan.safetensors {}/out",
        1,
        "{}/nan.safetensors: fc.weight, row 40: nan at input 7 is not finite in",
    ),
    (
        "quantize {}/small.safetensors {}/out --dtype int4 --scale-dtype float16",
        1,
        "{}/small.safetensors: fc.weight, row 33: a scale of",
    ),
    ("quantize {}/large.safetensors {}/out --rest float16", 1, "norm holds 1e+30 at element 0, beyond float16's 65504"),
    ("quantize {}/counts.safetensors {}/out", 1, "has no tensor to quantize (steps: I64, not a float type)"),
    ("quantize {}/good.safetensors {}/out --include conv*.weight", 1, "(conv.weight: 3-D, not a matrix"),
    ("quantize {}/good.safetensors {}/out --include nope*", 1, "has no tensor that matches nope*; its tensors are"),
    ("quantize {}/good.safetensors {}/out --group-size 64", 1, "--group-size is for int4 weights; add --dtype int4"),
    ("quantize {}/good.safetensors {}/out --asymmetric", 1, "--asymmetric is for int4 weights; pass --dtype int4"),
    ("quantize {}/good.safetensors {}/out --rounding search", 1, "--rounding search is for int4 weights"),
    (
        "quantize {}/good.safetensors {}/out --dtype int4 --group-size 48",
        2,
        "argument --group-size: must be a multiple of 32, or 'row' for one scale a row, got '48'",
    ),
    ("quantize {}/good.safetensors {}/out --dtype int3", 2, "argument --dtype: invalid choice: 'int3'"),
    ("inspect {}/model.bin", 1, "it is a pickle"),
    ("inspect {}/good.safetensors --against {}/good.safetensors", 1, "has no quantized layers to compare with"),
    ("inspect {}/octavo.safetensors --against {}/other.safetensors", 1, "other.safetensors has no tensor 'fc.weight'"),
    ("inspect {}/good.safetensors --json {}/nowhere/x.json", 1, "--json: the folder {}/nowhere does not exist; create"),
    ("advise {}/octavo.safetensors", 1, "is quantized already; name the float checkpoint"),
    ("advise {}/counts.safetensors", 1, "holds no layer to quantize; `octavo inspect` lists what it holds"),
    ("advise {}/good.safetensors --rows 0", 2, "argument --rows: must be a whole number, at least 1, got '0'"),
    ("bench --shapes 3x4", 1, "a shape must be MxKxN, as 16x768x3072, got '3x4'"),
    ("bench --threads many", 2, "argument --threads: must be a whole number, at least 1, got 'many'"),
    ("demo --plot {}/nowhere/x.png", 1, "--plot: the folder {}/nowhere does not exist; create it first"),
]


@pytest.mark.parametrize(("arguments", "status", "message"), WRONG, ids=[re.sub(r"\{\}/?", "", w[0]) for w in WRONG])
def test_wrong_input_is_told_in_one_line(
    arguments: str, status: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(os.listdir(folder))
    line = [part.replace("{}", str(folder)) for part in arguments.split()]
    line += ["--no-progress"] if line[:1] in (["quantize"], ["advise"]) else []
    found: Any
    try:
        found = cli.main(line)
    except SystemExit as exit_info:
        found = exit_info.code
    out, err = capsys.readouterr()
    assert found == status
    assert message.replace("{}", str(folder)) in err
    assert out == ""
    assert ("usage: octavo" in err) == (status == 2)
    if status == 1:
        assert err.startswith(f"octavo {line[0]}: ")
        assert err.count("\n") == 1
        assert not re.search(r'\b(group_size|scale_dtype|symmetric|dtype|layout|rounding)="?\w', err)
    assert sorted(os.listdir(folder)) == before
