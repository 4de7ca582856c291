"""`octavo quantize` and `octavo inspect` on quantized checkpoints of other tools."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import octavo as oc
import quantized_checkpoints as made
from checkpoints import write_shards
from octavo._cli.main import main
from octavo._files.safetensors import Reader
from octavo.checkpoints import _convert
from octavo.checkpoints._convert import convert
from quantized_checkpoints import FORMS, int8
from reference import assert_same_bits

F = np.float32


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group", ["auto", None])
def test_convert_writes_what_load_gives(tmp_path: Path, form: str, group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_convert, "_PIECE_CODES", 2000)  # several pieces a layer
    tensors, config, weight = FORMS[form][0]()
    made.folder(tmp_path, tensors | {"norm": np.ones(3, np.float16)}, config)
    out = tmp_path / "out.st"
    result = convert(tmp_path, out, activation_group=group, verify=True)
    assert (sum(result.kinds.values()), result.arrays, result.verified) == (1, 1, True)
    loaded, direct = oc.load(out), oc.checkpoints.load(tmp_path, activation_group=group)
    assert repr(loaded) == repr(direct)
    assert_same_bits(loaded["fc"].weight, weight)
    x = np.random.default_rng(0).standard_normal((3, weight.shape[1]), dtype=F)
    assert_same_bits(loaded["fc"](x), direct["fc"](x))


def test_shards_are_converted_with_a_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm", reason="the extra cli is not installed")
    first, config, weight = made.gptq(40, 128, 4, 32)
    second, _, other = made.gptq(24, 64, 4, 32, seed=1)
    tensors = first | {name.replace("fc", "head"): a for name, a in second.items()}
    write_shards(tmp_path, {name: np.ascontiguousarray(a) for name, a in tensors.items()}, 3)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    convert(tmp_path, tmp_path / "out.st", verify=True, progress=True)
    loaded = oc.load(tmp_path / "out.st")
    assert_same_bits(loaded["fc"].weight, weight)
    assert_same_bits(loaded["head"].weight, other)
    assert "convert: 100%" in capsys.readouterr().err
    assert list(oc.checkpoints.load(tmp_path, progress=True)) == ["fc", "head"]
    assert "load: 100%" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("form", ["gptq", "awq", "packed", "int8"])
def test_memory_is_the_largest_tensor_and_a_half(tmp_path: Path, form: str) -> None:
    n, k = 16384, 4096  # 32 MB a layer of four bits
    ones = np.ones((k // 128, n), np.float16)
    words, points = np.zeros((k // 8, n), np.int32), np.zeros((k // 128, n // 8), np.int32)
    tensors, config = {
        "gptq": (
            {"qweight": words, "qzeros": points, "scales": ones, "g_idx": np.arange(k, dtype=np.int32) // 128},
            {"quant_method": "gptq", "bits": 4, "group_size": 128},
        ),
        "awq": (
            {"qweight": words.reshape(k, n // 8), "qzeros": points, "scales": ones},
            {"quant_method": "awq", "bits": 4, "group_size": 128},
        ),
        "packed": (
            {"weight_packed": words.reshape(n, k // 8), "weight_scale": ones.T, "weight_shape": np.array([n, k])},
            made.scheme({"num_bits": 4, "strategy": "group", "group_size": 128}),
        ),
        "int8": (
            {"weight": np.zeros((n, k), np.int8), "weight_scale": np.ones((n, 1), F)},
            made.scheme({"num_bits": 8, "strategy": "channel"}, kind="int-quantized"),
        ),
    }[form]
    made.folder(tmp_path, {f"l{i}.{name}": a for i in range(2) for name, a in tensors.items()}, config)
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), str(tmp_path / "out.st")],
        capture_output=True,
        text=True,
        check=True,
    )
    largest = max(a.nbytes for a in tensors.values())
    assert int(run.stdout) < 1.5 * largest


PEAK = """
import sys
from octavo.checkpoints._convert import convert
def memory(of):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(of))
before = memory("VmRSS")
convert(sys.argv[1], sys.argv[2])
print(memory("VmHWM") - before)
"""


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
