"""Against the package compressed-tensors: what it writes is read, and what octavo writes it reads. Needs torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import octavo as oc
from grouped_weights import make_codes

torch = pytest.importorskip("torch", reason="torch is not installed; .ci/run has an environment with it")
pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed; .ci/run has it beside torch")

F = np.float32
N, K = 40, 128


def net() -> Any:
    torch.manual_seed(0)
    return torch.nn.ModuleDict({"fc": torch.nn.Linear(K, N), "head": torch.nn.Linear(N, 8, bias=False)})


def scheme(weights: dict[str, Any], inputs: dict[str, Any] | None = None, kind: str = "pack-quantized") -> Any:
    from compressed_tensors.quantization import QuantizationConfig

    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "format": kind}
    return QuantizationConfig(config_groups={"group_0": group}, ignore=["head"], format=kind)


TOKEN = {"num_bits": 8, "dynamic": True, "strategy": "token", "symmetric": True}
SCHEMES: dict[str, Any] = {
    "int8": lambda: scheme({"num_bits": 8, "strategy": "channel", "symmetric": True}, TOKEN, "int-quantized"),
    "int8 one scale": lambda: scheme({"num_bits": 8, "strategy": "tensor", "symmetric": True}, TOKEN, "int-quantized"),
    "int8 static": lambda: scheme(
        {"num_bits": 8, "strategy": "channel"}, {"num_bits": 8, "strategy": "tensor"}, "int-quantized"
    ),
    "4 bits": lambda: scheme({"num_bits": 4, "strategy": "group", "group_size": 32}),
    "4 bits, a row": lambda: scheme({"num_bits": 4, "strategy": "channel"}),
    "4 bits, zero points": lambda: scheme({"num_bits": 4, "strategy": "group", "group_size": 64, "symmetric": False}),
    "8 bits": lambda: scheme({"num_bits": 8, "strategy": "group", "group_size": 128}),
    "8 bits, zero points": lambda: scheme({"num_bits": 8, "strategy": "group", "group_size": 32, "symmetric": False}),
}


def write(folder: Path, name: str) -> np.ndarray:
    """A checkpoint by the library, scales by its own rule; gives the weights by its own formula, in float32."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import apply_quantization_config
    from compressed_tensors.quantization.utils import calculate_qparams
    from safetensors.torch import save_file

    model = net()
    apply_quantization_config(model, SCHEMES[name]())
    fc = model["fc"]
    args = fc.quantization_scheme.weights
    strategy = getattr(args.strategy, "value", args.strategy)
    rows = {"tensor": (1, -1), "channel": (N, -1), "group": (N, K // (args.group_size or K), -1)}[strategy]
    parts = fc.weight.data.reshape(rows)
    scale, zero = calculate_qparams(parts.amin(-1), parts.amax(-1), args)
    fc.weight_scale.data = scale.reshape(fc.weight_scale.shape).to(fc.weight_scale.dtype)
    if not args.symmetric:
        fc.weight_zero_point.data = zero.reshape(fc.weight_zero_point.shape).to(fc.weight_zero_point.dtype)
    if "static" in name:
        fc.input_scale.data = torch.full_like(fc.input_scale, 0.03)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    compressor.update_config(str(folder))
    compressor.decompress_model(model)
    return model["fc"].weight.detach().float().numpy()


@pytest.mark.parametrize("name", SCHEMES)
def test_what_the_library_writes_is_read(tmp_path: Path, name: str) -> None:
    weight = write(tmp_path, name)
    found = oc.checkpoints.load(tmp_path)
    np.testing.assert_array_equal(found["fc"].weight, weight)
    np.testing.assert_array_equal(found["fc"].bias, net()["fc"].bias.detach().numpy())
    np.testing.assert_array_equal(found["head.weight"], net()["head"].weight.detach().numpy())
    assert isinstance(found["fc"], oc.StaticQuantLinear) == ("static" in name)
    x = np.random.default_rng(0).standard_normal((5, K), dtype=F)
    assert np.abs(np.asarray(found["fc"](x)) - (x @ weight.T + found["fc"].bias)).max() < 0.5


def weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, K), dtype=F)


LAYERS: dict[str, Any] = {
    "int8": lambda: oc.QuantLinear(weight(), np.arange(N, dtype=F)),
    "static": lambda: oc.StaticQuantLinear(oc.QuantLinear(weight()).int_repr(), 0.5, input=oc.QParams(0.25, 3, "int8")),
    "int4": lambda: oc.QuantLinear(weight(), dtype="int4", group_size=32),
    "int4 row": lambda: oc.QuantLinear(weight(), dtype="int4", rounding="nearest"),
    "int4 zero points": lambda: oc.QuantLinear(weight(), dtype="int4", group_size=64, symmetric=False),
    "codes of 8 bits": lambda: oc.QuantLinear.from_grouped(make_codes(N, K, "zero point", bits=8, scale_dtype=F)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_octavo_writes_the_library_reads(tmp_path: Path, name: str) -> None:
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    layer = LAYERS[name]()
    oc.checkpoints.save({"fc": layer, "head.weight": np.zeros((8, N), F)}, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    model = net()
    apply_quantization_config(model, QuantizationConfig.model_validate(config))
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    tensors = {n: torch.from_numpy(a.copy()) for n, a in load_file(tmp_path / "model.safetensors").items()}
    report = model.load_state_dict(tensors, strict=False)
    assert not report.unexpected_keys
    assert {n for n in report.missing_keys if "zero_point" not in n} <= {"fc.bias"}
    compressor.decompress_model(model)
    np.testing.assert_array_equal(model["fc"].weight.detach().float().numpy(), layer.weight)
