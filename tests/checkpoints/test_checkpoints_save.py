"""`octavo.checkpoints.save`: compressed-tensors checkpoints with octavo's integers."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from grouped_weights import make_codes
from octavo import _core

F = np.float32


def weight(n: int = 24, k: int = 128, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k), dtype=F)


LAYERS: dict[str, Any] = {
    "int8": lambda: oc.QuantLinear(weight(), np.arange(24, dtype=F)),
    "int8 asymmetric": lambda: oc.QuantLinear(weight(), activation="asymmetric"),
    "int4 searched": lambda: oc.QuantLinear(weight(), dtype="int4", group_size=32),  # scales of both signs
    "int4 nearest": lambda: oc.QuantLinear(weight(), dtype="int4", group_size=64, rounding="nearest"),
    "int4 zero points": lambda: oc.QuantLinear(weight(), dtype="int4", group_size=32, symmetric=False),
    "int4 row": lambda: oc.QuantLinear(weight(k=77), dtype="int4", rounding="nearest"),
    "codes": lambda: oc.QuantLinear.from_grouped(make_codes(24, 128, "zero point")),
    "codes without zero": lambda: oc.QuantLinear.from_grouped(make_codes(24, 128)),
    "codes of 8 bits": lambda: oc.QuantLinear.from_grouped(make_codes(24, 128, "zero point", bits=8, dtype=np.int8)),
    "codes of 5 bits": lambda: oc.QuantLinear.from_grouped(make_codes(24, 128, bits=5, dtype=np.int8)),
    "codes of 6 bits": lambda: oc.QuantLinear.from_grouped(make_codes(24, 128, "zero point", bits=6)),
    "static": lambda: oc.StaticQuantLinear(
        np.arange(64, dtype=np.int8).reshape(2, 32), 0.5, input=oc.QParams(0.25, 7, "uint8")
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_load_gives_what_save_was_given(tmp_path: Path, name: str) -> None:
    layer = LAYERS[name]()
    oc.checkpoints.save({"block": {"fc": layer}, "norm": np.ones(3, np.float16)}, tmp_path)
    found = oc.checkpoints.load(tmp_path)
    assert list(found) == ["block.fc", "norm"]
    assert type(found["block.fc"]) is type(layer)
    np.testing.assert_array_equal(found["block.fc"].weight, layer.weight)  # zeros' signs aside
    np.testing.assert_array_equal(found["block.fc"].bias, layer.bias)
    x = weight(3, layer.in_features, 1)
    if "int8" in name or name == "static":
        np.testing.assert_array_equal(found["block.fc"](x), layer(x))


def test_schemes_become_config_groups(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "quantization_config": {"old": 1}}')
    model = {"a": LAYERS["int8"](), "b": LAYERS["int4 nearest"](), "c": LAYERS["int4 nearest"]()}
    oc.checkpoints.save(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "llama"
    found = config["quantization_config"]
    assert (found["format"], found["quant_method"]) == ("mixed-precision", "compressed-tensors")
    assert [group["targets"] for group in found["config_groups"].values()] == [["a"], ["b", "c"]]
    oc.checkpoints.save({"a": model["a"]}, tmp_path, config={"model_type": "bert"})
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["quantization_config"]["format"]) == ("bert", "int-quantized")


def test_matrices_are_the_weights_of_layers(tmp_path: Path) -> None:
    params = {"fc.weight": oc.QuantMatrix(weight().T), "fc.bias": np.ones(24, F), "other": oc.QuantMatrix(weight())}
    oc.checkpoints.save(params, tmp_path)
    found = oc.checkpoints.load(tmp_path)
    np.testing.assert_array_equal(found["fc"].weight, params["fc.weight"].dequantize().T)
    np.testing.assert_array_equal(found["fc"].bias, params["fc.bias"])
    assert found["other"].out_features == 128


@pytest.mark.parametrize(
    ("model", "error", "match"),
    [
        (lambda: {"n": np.ones(3)}, ValueError, "holds no quantized layer"),
        (lambda: {"e": oc.QuantEmbedding(weight())}, TypeError, "e: QuantEmbedding has no form"),
        (lambda: {"a": oc.QuantLinear(weight(), relu=True)}, ValueError, "a: it applies ReLU"),
        (lambda: {"a": oc.QuantLinear(weight(), activation="int16")}, ValueError, 'a: activation="int16" has no place'),
        (lambda: {"a": oc.QuantLinear.from_grouped(make_codes(8, 64, "minimum"))}, ValueError, "a: minima and two"),
        (lambda: LAYERS["int8"](), ValueError, "the layer needs a name"),
        (
            lambda: {"a": oc.QuantLinear(weight(k=45), dtype="int4", group_size=32)},
            ValueError,
            "a: group_size must div",
        ),
        (
            lambda: {"a": oc.PermutedQuantLinear(LAYERS["int8"](), np.arange(128))},
            TypeError,
            "a: PermutedQuantLinear has no form",
        ),
    ],
)
def test_what_has_no_form_is_refused(tmp_path: Path, model: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        oc.checkpoints.save(model(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_zero_point_16_is_refused(tmp_path: Path) -> None:
    w = make_codes(8, 64, "zero point", scale_dtype=F)
    w = oc.GroupedCodes(w.codes, np.abs(w.scale), 4, 32, zero_point=np.full((8, 2), 16, np.uint8))
    with pytest.raises(ValueError, match="a: a zero point of 16 has no place in 4 bits"):
        oc.checkpoints.save({"a": oc.QuantLinear.from_grouped(w)}, tmp_path)


def test_full_disk_keeps_the_weights_that_the_config_describes(tmp_path: Path) -> None:
    oc.checkpoints.save({"a": LAYERS["int8"]()}, tmp_path)
    old = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            oc.checkpoints.save({"a": LAYERS["static"]()}, tmp_path, config={"text": "x" * (1 << 19)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == old


def test_folder_with_other_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="holds other files of weights"):
        oc.checkpoints.save({"a": LAYERS["int8"]()}, tmp_path)


@pytest.mark.parametrize("name", ["int8", "static", "codes", "codes with zero points"])
def test_loaded_layers_are_packed_as_octavos_own(tmp_path: Path, name: str) -> None:
    """The kernels get the same bytes, so the layer is as fast as the one that it was saved from."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.01, 0.02, (24, 4)).astype(np.float16)
    if name == "codes":
        w = oc.GroupedCodes(rng.integers(-8, 8, (24, 128)).astype(np.int8), scale, 4, 32)
    else:
        zero = rng.integers(0, 16, (24, 4)).astype(np.uint8)
        w = oc.GroupedCodes(rng.integers(0, 16, (24, 128)).astype(np.uint8), scale, 4, 32, zero_point=zero)
    own = LAYERS[name]() if name in ("int8", "static") else oc.QuantLinear.from_grouped(w, activation_group=32)
    oc.checkpoints.save({"fc": own}, tmp_path)
    found = oc.checkpoints.load(tmp_path)["fc"]
    assert type(found._packed) is type(own._packed)
    family = _core.own_family()
    np.testing.assert_array_equal(found._packed.image(family), own._packed.image(family))
