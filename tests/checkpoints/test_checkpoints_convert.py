"""`octavo quantize` and `octavo inspect` on quantized checkpoints of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import octavo as oc
import quantized_checkpoints as made
from octavo._cli.main import main
from octavo._files.safetensors import Reader
from octavo.checkpoints import _convert
from octavo.checkpoints._convert import convert
from quantized_checkpoints import FORMS, int8
from reference import assert_same_bits

F = np.float32


@pytest.mark.parametrize("form", FORMS)
def test_convert_writes_what_load_gives(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_convert, "_PIECE_CODES", 2000)  # several pieces a layer
    tensors, config, weight = FORMS[form][0]()
    made.folder(tmp_path, tensors | {"norm": np.ones(3, np.float16)}, config)
    out = tmp_path / "out.st"
    result = convert(tmp_path, out, verify=True)
    assert (sum(result.kinds.values()), result.arrays, result.verified) == (1, 1, True)
    loaded, direct = oc.load(out), oc.checkpoints.load(tmp_path)
    assert repr(loaded) == repr(direct)
    assert_same_bits(loaded["fc"].weight, weight)
    x = np.random.default_rng(0).standard_normal((3, weight.shape[1]), dtype=F)
    assert_same_bits(loaded["fc"](x), direct["fc"](x))


@pytest.mark.parametrize("static", [False, True], ids=["bitsandbytes", "static"])
def test_convert_writes_int8_and_static_layers(tmp_path: Path, static: bool) -> None:
    if static:
        tensors = int8(24, 64, 24, 1) | {"fc.input_scale": F([0.25])}
        inputs = {"num_bits": 8, "dynamic": False, "strategy": "tensor"}
        config = made.scheme({"num_bits": 8, "strategy": "channel"}, inputs, "int-quantized")
    else:
        tensors, config, _ = made.bitsandbytes(24, 64)
    made.folder(tmp_path, tensors, config)
    text = _convert.summary(convert(tmp_path, tmp_path / "out.st", verify=True))
    assert ("bitsandbytes itself rounds" in text) != static
    loaded, direct = oc.load(tmp_path / "out.st")["fc"], oc.checkpoints.load(tmp_path)["fc"]
    assert repr(loaded) == repr(direct)
    assert_same_bits(loaded.weight, direct.weight)


def test_commands_say_what_they_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, config, _ = made.gptq(40, 128, 4, 32, order=True)
    source, out = made.folder(tmp_path / "in", tensors | {"norm": np.ones(3, F)}, config), tmp_path / "out.safetensors"
    assert main(["quantize", str(source), str(out), "--verify", "--no-progress"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[:2] == [
        "converted, not quantized: the integers are the checkpoint's",
        "1 layer: GPTQ 4 bits, groups of 32",
    ]
    assert "every weight is what the tool's formula gives in float32, to the bit" in text
    assert main(["inspect", str(source)]) == 0
    text = capsys.readouterr().out
    for words in ("quantized by gptq, as", "fc ", "GPTQ 4 bits, groups of 32", "40 x 128", "permuted", "norm"):
        assert words in text
    assert main(["inspect", str(out)]) == 0
    assert "PermutedQuantLinear" in capsys.readouterr().out
    with Reader(out) as reader:
        assert "gptq" in reader.metadata["checkpoint.gptq"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["quantize", "IN", "OUT", "--dtype", "int4"], "--dtype is for float checkpoints; IN is quantized already"),
        (["quantize", "IN", "IN"], "destination must be a file, got the folder IN"),
        (["quantize", "IN", "IN/model.safetensors"], "source and destination must be different files"),
        (["inspect", "IN", "--json", "-"], "--json is not for quantized checkpoints"),
    ],
)
def test_commands_refuse_what_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    tensors, config, _ = made.awq(8, 64, 32)
    source = made.folder(tmp_path / "in", tensors, config)
    before = (source / "model.safetensors").read_bytes()

    def named(text: str) -> str:
        return text.replace("IN", str(source)).replace("OUT", str(tmp_path / "out.safetensors"))

    options = ["--no-progress"] if arguments[0] == "quantize" else []
    assert main([*map(named, arguments), *options]) == 1
    assert named(words) in capsys.readouterr().err
    assert (source / "model.safetensors").read_bytes() == before


def test_files_beside_a_config_are_told_by_their_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, config, _ = made.awq(8, 64, 32)
    made.folder(tmp_path, tensors, config)
    whole, out, plain = (tmp_path / f"{name}.safetensors" for name in ("model", "out", "float"))
    assert main(["quantize", str(whole), str(out), "--no-progress"]) == 0
    assert "converted, not quantized" in capsys.readouterr().out
    assert main(["inspect", str(out)]) == 0  # octavo's own
    save_file({"fc.weight": np.ones((8, 64), F)}, plain)
    assert main(["quantize", str(plain), str(out), "--no-progress"]) == 0
    assert "converted" not in capsys.readouterr().out
    (tmp_path / "config.json").write_text("[]")
    assert main(["inspect", str(plain)]) == 0


def test_verify_names_a_weight_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, config, _ = made.awq(40, 128, 32)
    made.folder(tmp_path, tensors, config)
    right = _convert._piece

    def wrong(*arguments: Any) -> Any:
        piece = right(*arguments)
        piece["weight"] = piece["weight"].copy()
        piece["weight"][3, 2] ^= 1
        return piece

    monkeypatch.setattr(_convert, "_piece", wrong)
    with pytest.raises(ValueError, match=r"layer 'fc', tensor 'fc.qweight': the weight of output 3 and input 4 is"):
        convert(tmp_path, tmp_path / "out.st", verify=True)
    assert not (tmp_path / "out.st").exists()
