"""octavo quantize: what it prints, and its options."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file

import octavo as oc
from checkpoints import checkpoint, random, write_shards
from octavo._cli import main as cli


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(checkpoint(), tmp_path / "in", metadata={"format": "pt"})
    return tmp_path / "in"


def test_quantize_prints_what_it_left_and_a_summary(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tqdm", reason="the progress bar: pip install 'octavo[cli]'")
    arguments = ["--dtype", "int4", "--group-size", "32", "--scale-dtype", "float16", "--exclude", "*fc2*"]
    assert cli.main(["quantize", str(source), str(tmp_path / "out"), *arguments]) == 0
    out, err = capsys.readouterr()
    assert "copied blocks.0.fc2.weight: matches the excluded *fc2*" in out
    assert "layout out_in, y = x W^T, for 1 matrix: shown by 1 bias or output head" in out
    assert "2 layers quantized (1 QuantLinear, 1 QuantEmbedding), 6 tensors copied" in out
    assert f"{os.path.getsize(source):,} B before, {os.path.getsize(tmp_path / 'out'):,} B after" in out
    assert "quantizing: 100%" in err
    layer = oc.load(tmp_path / "out")["blocks.0.fc1"]
    assert (layer.group_size, layer.scale_dtype) == (32, "float16")


def test_quantize_names_the_extra_that_is_missing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert cli.main(["quantize", str(source), str(tmp_path / "out")]) == 1
    assert "needs tqdm, which octavo's extra 'cli' installs: pip install" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["in"]
    assert cli.main(["quantize", str(source), str(tmp_path / "out"), "--no-progress"]) == 0


def test_quantize_takes_every_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    floats = {"c_fc.weight": random(32, 64), "c_fc.bias": random(64), "words.weight": random(9, 32), "x": random(3)}
    lstm = oc.nn.LSTM.init(4, 8)
    floats |= {"stack.weight": random(2, 8, 32), "lstm.mask": random(2)}
    floats |= {f"rnn.{name}": a for name, a in lstm.weights.items()}
    save_file(floats, tmp_path / "in")
    options = "--layout in_out --embedding words* --stacked stack* --drop x --batch-first --rest float16 --dtype int4"
    options += " --group-size row --asymmetric --rounding nearest --exclude lstm* --no-progress"
    assert cli.main(["quantize", str(tmp_path / "in"), str(tmp_path / "out"), *options.split()]) == 0
    found = oc.load(tmp_path / "out")
    assert {name: type(value).__name__ for name, value in found.items()} == {
        "c_fc": "QuantLinear", "words": "QuantEmbedding", "stack.weight.0": "QuantMatrix",
        "stack.weight.1": "QuantMatrix", "rnn": "QuantLSTM", "lstm.mask": "ndarray",
    }  # fmt: skip
    assert (found["c_fc"].out_features, found["c_fc"].group_size, found["c_fc"].symmetric) == (64, None, False)
    assert found["rnn"].batch_first
    assert found["lstm.mask"].dtype == "float16"
    assert "layout in_out, y = x W, for 2 matrices: shown by 1 bias or output head" in capsys.readouterr().out


def test_quantize_follows_an_index_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = write_shards(tmp_path / "in", checkpoint(), 3)
    assert cli.main(["quantize", str(index), str(tmp_path / "out"), "--no-progress"]) == 0
    assert f"4 files in {tmp_path / 'out'}" in capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path / "out"), "--against", str(tmp_path / "in")]) == 0
    assert "blocks.0.fc1" in capsys.readouterr().out


@pytest.mark.slow
def test_advise_times_each_shape_and_measures_the_worst_layer(
    source: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    floats = {f"{i}.weight": random(64, 128, seed=i) for i in range(3)} | {"wte.weight": random(50, 64)}
    floats["1.weight"][:, 0] = 300  # an input whose weights hide all others
    save_file(floats, tmp_path / "in")
    assert cli.main(["advise", str(tmp_path / "in"), "--rows", "2", "5", "--no-progress"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:6] for line in lines[1:3]] == [["3", "0", "64", "x", "128", "2"], ["3", "0", "64", "x", "128", "5"]]
    worst = oc.QuantLinear(floats["1.weight"])
    error = ((worst.weight - floats["1.weight"]) ** 2).sum() / (floats["1.weight"] ** 2).sum()
    assert lines[1][12] == f"{100 * error**0.5:.2f}"
    assert all(line[-1] in ("int8", "int4", "float") for line in lines[1:3])


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith(f"octavo {oc.__version__} ")
