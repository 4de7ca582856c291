"""Checkpoints that are damaged, that lie, or are of others: errors name file and tensor, and nothing is written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
import quantized_checkpoints as made
from checkpoints import write_raw, write_shards
from octavo._cli.main import main
from octavo.checkpoints import _config, _patterns
from octavo.checkpoints._convert import convert

F = np.float32
Tensors = dict[str, np.ndarray]
Config = dict[str, Any]


def refused(path: Path, match: str, error: type[Exception] = ValueError) -> None:
    """`load` and `convert` refuse it alike, and nothing is left of the destination."""
    out = path / "out.st"
    for action in (lambda: oc.checkpoints.load(path), lambda: convert(path, out)):
        with pytest.raises(error, match=match):
            action()
    assert [p.name for p in path.iterdir() if "out" in p.name or "octavo" in p.name] == []


def but(name: str, value: Any) -> Callable[[Tensors, Config], None]:
    def change(tensors: Tensors, config: Config) -> None:
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value(tensors[name])

    return change


def saying(**entries: Any) -> Callable[[Tensors, Config], None]:
    return lambda tensors, config: config.update(entries)


def weights(**entries: Any) -> Callable[[Tensors, Config], None]:
    return lambda tensors, config: config["config_groups"]["group_0"]["weights"].update(entries)


def group(**entries: Any) -> Callable[[Tensors, Config], None]:
    return lambda tensors, config: config["config_groups"]["group_0"].update(entries)


def at(index: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        changed = np.array(array)
        changed[index] = value
        return changed

    return change


GPTQ = [
    (but("fc.g_idx", None), "tensor 'fc.g_idx' is missing beside 'fc.qweight': it says which group"),
    (but("fc.qzeros", None), "tensor 'fc.qzeros' is missing"),
    (but("fc.scales", None), "tensor 'fc.scales' is missing"),
    (saying(bits=8), "tensor 'fc.qweight' has 16 rows for 128 inputs, so 4 bits a weight, but config.json says 8 bits"),
    (saying(bits=5), "config.json: bits must be one of (2, 3, 4, 8), got 5"),
    (saying(bits="4"), "config.json: bits must be a whole number, got '4'"),
    (saying(group_size=64), "tensor 'fc.scales' has 4 groups of 128 inputs, but config.json says group_size 64"),
    (saying(group_size=-1), "tensor 'fc.scales' has 4 groups of 128 inputs, but config.json says group_size -1"),
    (saying(group_size=-2), "config.json: group_size must be positive, or -1 for one group a row, got -2"),
    (saying(group_size=10**30), "tensor 'fc.scales' has 4 groups of 128 inputs, but config.json says group_size 1000"),
    (saying(group_size=0), "config.json: group_size must be positive, or -1 for one group a row, got 0"),
    (saying(checkpoint_format="marlin"), "config.json: checkpoint_format 'marlin' is not read"),
    (saying(quant_method="quip"), "config.json: quant_method 'quip' is not read; these are: compressed-tensors, gptq"),
    (saying(quant_method="awq", version="gemm"), "tensor 'fc.qweight' of shape [16, 40] has 320 outputs"),
    (saying(quant_method="bitsandbytes"), "says bitsandbytes, but no tensor is one of such a layer"),
    (but("fc.scales", at((0, 1), np.nan)), "tensor 'fc.scales' must hold finite scales above 0, got nan at [0, 1]"),
    (but("fc.scales", at((1, 2), np.inf)), "tensor 'fc.scales' must hold finite scales above 0, got inf at [1, 2]"),
    (but("fc.scales", at((3, 4), 0)), "tensor 'fc.scales' must hold finite scales above 0, got 0.0 at [3, 4]"),
    (but("fc.scales", at((0, 0), -1)), "tensor 'fc.scales' must hold finite scales above 0, got -1.0 at [0, 0]"),
    (but("fc.scales", lambda a: a[:, 1:]), "tensor 'fc.scales' must be F16 or BF16 or F32 of shape [4, 40], got"),
    (but("fc.scales", lambda a: a.astype(np.float64)), "tensor 'fc.scales' must be F16 or BF16 or F32, got F64"),
    (but("fc.qzeros", lambda a: a[:, :-1]), "tensor 'fc.qzeros' must be I32 of shape [4, 5], got I32 of shape [4, 4]"),
    (but("fc.qweight", lambda a: a.astype(np.int64)), "tensor 'fc.qweight' must be I32, got I64"),
    (but("fc.qweight", lambda a: a[None]), "tensor 'fc.qweight' must be a matrix that is not empty"),
    (but("fc.g_idx", at(0, 4)), "tensor 'fc.g_idx' must hold groups in 0..3, got 0..4"),
    (but("fc.g_idx", at(0, -1)), "tensor 'fc.g_idx' must hold groups in 0..3, got -1..3"),
    (but("fc.g_idx", at(0, 1)), "tensor 'fc.g_idx' must have 32 inputs in each group, got 31 in group 0"),
    (but("fc.bias", at(0, np.nan)), "tensor 'fc.bias' must be finite"),
    (but("fc.bias", lambda a: a[1:]), "tensor 'fc.bias' must be F16 or BF16 or F32 of shape [40], got F16 of"),
]  # fmt: skip
AWQ = [
    (saying(version="gemv"), "config.json: the gemv form of AWQ orders its codes in another way"),
    (saying(bits=8), "config.json: AWQ has 4 bits, got 8"),
    (saying(group_size=64), "tensor 'fc.scales' has 4 groups of 128 inputs, but config.json says group_size 64"),
    (but("fc.qzeros", None), "tensor 'fc.qzeros' is missing"),
    (but("fc.qzeros", lambda a: a[1:]), "tensor 'fc.qzeros' must be I32 of shape [4, 5], got I32 of shape [3, 5]"),
    (
        saying(version=None, checkpoint_format="gemv"),
        "config.json: the gemv form of AWQ orders its codes in another way",
    ),
    (but("fc.scales", at((0, 1), np.nan)), "tensor 'fc.scales' must hold finite scales above 0, got nan at [0, 1]"),
    (but("fc.scales", at((0, 1), 0)), "tensor 'fc.scales' must hold finite scales above 0, got 0.0 at [0, 1]"),
    (but("fc.scales", at((0, 1), -0.0)), "tensor 'fc.scales' must hold finite scales above 0, got -0.0 at [0, 1]"),
    (but("fc.scales", at((0, 1), -np.inf)), "tensor 'fc.scales' must hold finite scales above 0, got -inf at [0, 1]"),
]
BITSANDBYTES = [
    (
        saying(load_in_8bit=False, load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        "config.json: nf4 of bitsandbytes holds",
    ),
    (but("fc.SCB", at(3, -1)), "tensor 'fc.SCB' must be finite and not negative, got -1.0 at [3]"),
    (but("fc.SCB", at(3, np.nan)), "tensor 'fc.SCB' must be finite and not negative, got nan at [3]"),
    (but("fc.SCB", at(3, 0)), "tensor 'fc.SCB' is 0 for output 3, whose integers are not all 0"),
    (but("fc.weight_format", at(0, 1)), "tensor 'fc.weight_format' must be 0"),
    (but("fc.weight", lambda a: a.astype(np.int16)), "tensor 'fc.weight' must be I8, got I16"),
    (but("fc.weight", None), "tensor 'fc.weight' is missing beside 'fc.SCB'"),
]
COMPRESSED = [
    (weights(num_bits=8), "tensor 'fc.weight_packed' of shape [40, 16] does not hold weights [40, 128] of 8 bits"),
    (weights(num_bits=3), "group_0: weights must have 4 or 8 bits, got 3"),
    (weights(type="float"), "group_0: weights of type 'float' (FP8, FP4) are floats"),
    (
        weights(group_size=64),
        "tensor 'fc.weight_scale' must have shape [40, 2] for weights [40, 128] by config.json (group",
    ),
    (weights(group_size=-1), "group_0: group_size must be a positive number with groups, got -1"),
    (weights(strategy="channel"), "tensor 'fc.weight_scale' must have shape [40, 1] or [40]"),
    (weights(strategy="block"), "group_0: strategy must be tensor, channel or group, got 'block'"),
    (weights(num_bits=4.0), "config.json: group_0: weights must have 4 or 8 bits, got 4.0"),
    (weights(num_bits=True), "config.json: group_0: weights must have 4 or 8 bits, got True"),
    (weights(group_size=32.0), "group_0: group_size must be a positive number with groups, got 32.0"),
    (weights(group_size="32"), "group_0: group_size must be a positive number with groups, got '32'"),
    (
        weights(group_size=10**30),
        "tensor 'fc.weight_scale' must have shape [40, 1] or [40] for weights [40, 128] by config.json (group, group_",
    ),
    (weights(strategy=["group"]), "group_0: strategy must be tensor, channel or group, got ['group']"),
    (group(targets=["re:(a"]), "config.json: group_0: targets: '(a' is not a regular expression: missing )"),
    (group(targets=["re:" + 1001 * "a"]), "group_0: targets: a pattern must have at most 1000 characters, got 1001"),
    (group(targets=["Linear", 3]), "group_0: targets must be a list of names, got ['Linear', 3]"),
    (group(format=["pack-quantized"]), "group_0: format ['pack-quantized'] is not read"),
    (group(input_activations={"symmetric": "yes"}), "group_0: symmetric must be true or false, got 'yes'"),
    (group(input_activations={"dynamic": 0}), "group_0: dynamic must be true, false or 'local', got 0"),
    (
        group(input_activations={"dynamic": True, "strategy": "group", "group_size": "32"}),
        "group_0: group_size of activations must be a positive number, got '32'",
    ),
    (saying(format="marlin-24"), "group_0: format 'marlin-24' is not read"),
    (saying(format="int-quantized"), "tensor 'fc.weight_packed' is packed, but config.json says int-quantized for it"),
    (saying(config_groups={}), "config.json: config_groups must be an object with at least one scheme"),
    (saying(transform_config={"a": 1}), "config.json: the weights are rotated"),
    (saying(sparsity_config={"format": "sparse-24-bitmask"}), "config.json: sparse tensors (sparse-24-bitmask)"),
    (
        weights(symmetric=False),
        "tensor 'fc.weight_zero_point' is missing beside 'fc.weight_scale': it is not symmetric",
    ),
    (but("fc.weight_shape", None), "tensor 'fc.weight_shape' is missing"),
    (but("fc.weight_shape", at(0, 41)), "tensor 'fc.weight_packed' of shape [40, 16] does not hold weights [41, 128]"),
    (but("fc.weight_scale", None), "tensor 'fc.weight_scale' is missing"),
    (
        but("fc.weight_scale", at((1, 2), np.nan)),
        "tensor 'fc.weight_scale' must hold finite scales above 0, got nan at [1, 2]",
    ),
    (but("fc.weight_scale", at((1, 2), -1)), "tensor 'fc.weight_scale' must hold finite scales above 0, got -1.0 at"),
    (
        but("fc.weight_scale", at((0, 0), 0)),
        "tensor 'fc.weight_scale' must hold finite scales above 0, got 0.0 at [0, 0]",
    ),
]
WRITERS: dict[str, Any] = {
    "gptq": lambda: made.gptq(40, 128, 4, 32),
    "awq": lambda: made.awq(40, 128, 32),
    "bitsandbytes": lambda: made.bitsandbytes(40, 96),
    "compressed": lambda: made.compressed(40, 128, 4, 32),
}
CASES = [
    (kind, change, message)
    for kind, cases in (("gptq", GPTQ), ("awq", AWQ), ("bitsandbytes", BITSANDBYTES), ("compressed", COMPRESSED))
    for change, message in cases
]


@pytest.mark.parametrize(("kind", "change", "message"), CASES, ids=[f"{c[0]} {c[2][:60]}" for c in CASES])
def test_what_is_wrong_is_refused_by_file_and_tensor(tmp_path: Path, kind: str, change: Any, message: str) -> None:
    tensors, config, _ = WRITERS[kind]()
    change(tensors, config)
    made.folder(tmp_path, tensors, config)
    if message.startswith("tensor"):
        message = f"{tmp_path / 'model.safetensors'}: {message}"
    refused(tmp_path, re.escape(message))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a+)+$", "the pattern '(a+)+$' repeats what holds a repeat or alternatives, which may not end"),
        ("(?:a|a)*$", "the pattern '(?:a|a)*$' repeats"),
        ("(a+)(?#b)*$", "the pattern '(a+)(?#b)*$' repeats"),
        ("(?x)(a+) *$", "the pattern '(?x)(a+) *$' has the flag x, which is not read"),
        (40 * "a?" + 40 * "a", "has too many repeats or alternatives to be matched with 'aaaaaaa"),
        (40 * "(a|a)" + "$", "has too many repeats or alternatives to be matched with 'aaaaaaa"),
        (12 * ".*" + "b", "has too many repeats or alternatives to be matched with 'aaaaaaa"),
    ],
)
def test_patterns_that_may_not_end_are_refused(tmp_path: Path, pattern: str, message: str) -> None:
    tensors, config, _ = WRITERS["compressed"]()
    groups = config["config_groups"]
    config["config_groups"] = {"a": {**groups["group_0"], "targets": [f"re:{pattern}"]}, **groups}
    name = 60 * "a" + "!"
    made.folder(tmp_path, {key.replace("fc", name): a for key, a in tensors.items()}, config)
    refused(tmp_path, re.escape(f"{tmp_path / 'config.json'}: a: targets: ") + ".*" + re.escape(message))


def test_patterns_try_at_most_a_million_ways() -> None:
    budget, name = _patterns.Budget(), 60 * "a"
    before = budget.left
    for stars, ways in ((3, 39_711), (4, 635_376)):
        assert not _patterns.Pattern(stars * ".*" + "b", budget).matches(name)
        assert before - budget.left == ways <= 10**6
        before = budget.left
    with pytest.raises(ValueError, match="too many repeats or alternatives to be matched with 'aaaa"):
        _patterns.Pattern(5 * ".*" + "b", budget).matches(name)
    assert budget.left == before


def test_patterns_of_a_config_share_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, config, _ = WRITERS["compressed"]()
    groups = config["config_groups"]
    schemes = {name: {**groups["group_0"], "targets": [f"re:.*.*{name}$"]} for name in "ab"}
    config["config_groups"] = {**schemes, **groups}
    made.folder(tmp_path, {f"{n}.{key}": a for n in "xy" for key, a in tensors.items()}, config)
    ways = math.comb(len("x.fc") + 2, 2)
    monkeypatch.setattr(_patterns, "_MOST_IN_ALL", 4 * ways)  # two schemes, two layers
    assert oc.checkpoints.load(tmp_path)
    monkeypatch.setattr(_patterns, "_MOST_IN_ALL", 4 * ways - 1)
    refused(
        tmp_path, r"config\.json: b: targets: the patterns have too many repeats .* such as '\.\*\.\*b\$' with 'y\.fc'"
    )


def test_static_activations_that_are_not_symmetric_need_a_zero_point(tmp_path: Path) -> None:
    tensors = {
        "fc.weight": np.ones((4, 32), np.int8),
        "fc.weight_scale": np.ones((4, 1), F),
        "fc.input_scale": np.ones(1, F),
    }
    inputs = {"num_bits": 8, "symmetric": False, "strategy": "tensor"}
    made.folder(tmp_path, tensors, made.scheme({"strategy": "channel"}, inputs, "int-quantized"))
    refused(tmp_path, r"tensor 'fc.input_zero_point' is missing beside 'fc.input_scale': its activations are not")


def test_zero_point_256_is_refused(tmp_path: Path) -> None:
    tensors, config, _ = made.gptq(8, 64, 8, 32)
    tensors["fc.qzeros"] = at((1, 0), -1)(tensors["fc.qzeros"])  # 255 in each byte: 256
    made.folder(tmp_path, tensors, config)
    refused(tmp_path, r"tensor 'fc.qzeros' cannot be held: zero points must be in 0\.\.255, got 256 at \[0, 1\]")


def test_zero_points_beyond_the_bits_are_refused(tmp_path: Path) -> None:
    tensors, config, _ = made.compressed(40, 64, 4, 32, symmetric=False, old=True)
    tensors["fc.weight_zero_point"] = at((2, 1), 100)(tensors["fc.weight_zero_point"])
    made.folder(tmp_path, tensors, config)
    refused(tmp_path, r"tensor 'fc.weight_packed' cannot be held: zero points must be in 0\.\.16, got 108 at \[2, 1\]")


def test_missing_shard_is_named(tmp_path: Path) -> None:
    tensors, config, weight = made.gptq(40, 128, 4, 32)
    write_shards(tmp_path, {name: np.ascontiguousarray(a) for name, a in tensors.items()}, 3)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    np.testing.assert_array_equal(oc.checkpoints.load(tmp_path)["fc"].weight, weight)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    refused(tmp_path, "model-00002-of-00003.safetensors does not exist", FileNotFoundError)


def test_fp8_tensor_is_refused(tmp_path: Path) -> None:
    config = made.scheme({"num_bits": 8, "strategy": "channel"}, None, "int-quantized")
    made.folder(tmp_path, {}, config)
    scale = np.ones((4, 1), F)
    tensors = {"fc.weight_scale": ("F32", scale), "fc.weight": ("F8_E4M3", np.ones((4, 8), np.int8))}
    write_raw(tmp_path / "model.safetensors", tensors)
    refused(tmp_path, "tensor 'fc.weight' is F8_E4M3, which octavo does not read")


def test_config_of_a_gigabyte_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, config, _ = WRITERS["gptq"]()
    made.folder(tmp_path, tensors, config)
    with open(tmp_path / "config.json", "r+b") as file:
        file.truncate(1 << 30)  # a hole: it takes no room
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read"))
    refused(tmp_path, r"config.json has 1,073,741,824 bytes; a config has at most 16,777,216")


@pytest.mark.parametrize(
    "part", ["head.qweight", "head.qzeros", "head.SCB", "head.weight_packed", "head.weight.absmax"]
)
def test_parts_of_layers_that_the_config_does_not_say_are_refused(tmp_path: Path, part: str) -> None:
    """As arrays they would be of no use, and the layer lost without a word."""
    tensors, config, _ = WRITERS["compressed" if part == "head.qweight" else "gptq"]()
    made.folder(tmp_path, tensors | {part: np.zeros(3, np.uint8)}, config)
    refused(tmp_path, f"tensor {part!r} is of a quantized layer that config.json does not say, or whose codes are lost")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "config.json: the config is not valid JSON"),
        ("[1]", "config.json: the config must be a JSON object, got list"),
        ('{"quantization_config": 3}', "config.json: quantization_config must be an object, got int"),
        ('{"a": 1, "a": 2}', "it holds 'a' twice"),
        ("{}", "has no config.json with a quantization_config"),
    ],
)
def test_damaged_configs_are_refused(tmp_path: Path, text: str, match: str) -> None:
    made.folder(tmp_path, {"a": np.ones(3, F)}, {})
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        oc.checkpoints.load(tmp_path)


def test_octavos_own_file_is_told(tmp_path: Path) -> None:
    oc.save({"fc": oc.QuantLinear(np.eye(3))}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq", "bits": 4}}))
    with pytest.raises(ValueError, match="was written by octavo"):
        oc.checkpoints.load(tmp_path)


def test_a_failing_conversion_keeps_what_was_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, config, _ = WRITERS["gptq"]()
    bad = {name.replace("fc", "z"): a for name, a in tensors.items()}
    bad["z.scales"] = at((0, 0), np.nan)(bad["z.scales"])
    made.folder(tmp_path / "in", tensors | bad, config)
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"before")
    assert main(["quantize", str(tmp_path / "in"), str(out), "--no-progress"]) == 1
    assert "tensor 'z.scales' must hold finite scales" in capsys.readouterr().err
    assert out.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 2


def test_limit_of_a_config_is_above_real_ones() -> None:
    assert _config.CONFIG_LIMIT >= 1 << 20
