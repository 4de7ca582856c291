"""Quantized checkpoints by the published packings of GPTQ, AWQ, bitsandbytes and compressed-tensors, value by value.

Each writer gives the weights by the tool's formula too, in float32. Nothing here uses octavo.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

F = np.float32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column that nibble i of a word holds


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Rows of values as words of 32 bits: value i at bit i * bits of the row, little-endian."""
    rows = []
    for row in values:
        number = sum(int(v) << (i * bits) for i, v in enumerate(row))
        count = -(-len(row) * bits // 32)
        rows.append(np.frombuffer(number.to_bytes(4 * count, "little"), "<i4"))
    return np.array(rows, np.int32)


def folder(path: Path, tensors: dict[str, np.ndarray], config: dict[str, Any], file: str = "config.json") -> Path:
    """Writes the tensors and the config, as quantization_config of config.json or as a file of its own."""
    path.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(a) for name, a in tensors.items()}, path / "model.safetensors")
    content = {"model_type": "test", "quantization_config": config} if file == "config.json" else config
    (path / file).write_text(json.dumps(content))
    return path


def integers(n: int, k: int, bits: int, seed: int = 0) -> np.ndarray:
    """(n, k) codes from 0 on, both ends among them."""
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (n, k))
    codes[0, :2] = 0, (1 << bits) - 1
    return codes


def scales(n: int, groups: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((n, groups)) * 0.02 + 0.001).astype(np.float16)


def gptq(
    n: int, k: int, bits: int, group: int, *, version: int = 1, order: bool = False, sym: bool = False, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray]:
    """(tensors of the layer "fc", config, weights). Zero points of version 1 are 1 to 2**bits."""
    rng = np.random.default_rng(seed)
    size = k if group == -1 else group
    groups = -(-k // size)
    codes, scale = integers(n, k, bits, seed), scales(n, groups, seed)
    low = 1 if version == 1 else 0
    high = low + (1 << bits) - (1 if bits == 8 and version == 1 else 0)  # 256 is beyond octavo's codes
    zero = rng.integers(low, high, (n, groups))
    zero[0, 0], zero[-1, -1] = low, high - 1
    if sym:
        zero[:] = 1 << (bits - 1)
    index = np.arange(k) // size
    if order:
        rng.shuffle(index)
    weight = (codes - zero[:, index]).astype(F) * scale.astype(F)[:, index]
    tensors = {
        "fc.qweight": packed(codes, bits).T,
        "fc.qzeros": packed((zero - low).T, bits),
        "fc.scales": scale.T,
        "fc.g_idx": index.astype(np.int32),
        "fc.bias": np.arange(n, dtype=np.float16) / 8,
    }
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": sym}
    return tensors, config | ({} if version == 1 else {"checkpoint_format": "gptq_v2"}), weight


def awq(n: int, k: int, group: int, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray]:
    size = k if group == -1 else group
    codes, scale = integers(n, k, 4, seed), scales(n, k // size, seed)
    zero = np.random.default_rng(seed).integers(0, 16, (n, k // size))
    zero[0, 0], zero[-1, -1] = 0, 15
    index = np.arange(k) // size
    weight = (codes - zero[:, index]).astype(F) * scale.astype(F)[:, index]

    def words(values: np.ndarray) -> np.ndarray:  # (rows, n) in eights
        return packed(values.reshape(len(values), -1, 8)[:, :, AWQ_ORDER].reshape(values.shape), 4)

    tensors = {"fc.qweight": words(codes.T), "fc.qzeros": words(zero.T), "fc.scales": scale.T}
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    return tensors, config, weight


def bitsandbytes(n: int, k: int, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray]:
    """The weights as bitsandbytes has them, which rounds twice."""
    q = (integers(n, k, 8, seed) - 128).astype(np.int8)
    scb = np.random.default_rng(seed).random(n, dtype=F) + F(0.1)
    q[1], scb[1] = 0, 0
    weight = (q.astype(F) * scb[:, None]) * F(7.874015718698502e-3)
    tensors = {"fc.weight": q, "fc.SCB": scb, "fc.weight_format": np.uint8([0]), "fc.bias": np.ones(n, np.float16)}
    return tensors, {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, weight


def scheme(
    weights: dict[str, Any], inputs: dict[str, Any] | None = None, kind: str = "pack-quantized"
) -> dict[str, Any]:
    """A config of compressed-tensors with one group."""
    group = {"targets": ["Linear"], "weights": {"type": "int"} | weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": kind,
        "config_groups": {"group_0": group},
        "ignore": ["head"],
    }


def compressed(
    n: int, k: int, bits: int, group: int | None, *, symmetric: bool = True, order: bool = False, old: bool = False,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray]:  # fmt: skip
    """pack-quantized. `old`: zero points are not packed."""
    rng = np.random.default_rng(seed)
    size = group or k
    groups, middle = -(-k // size), 1 << (bits - 1)
    codes, scale = integers(n, k, bits, seed), scales(n, groups, seed)
    zero = np.full((n, groups), middle)
    if not symmetric:
        zero = rng.integers(0, 2 * middle, (n, groups))
        zero[0, 0], zero[-1, -1] = 0, 2 * middle - 1
    index = np.arange(k) // size
    if order:
        rng.shuffle(index)
    weight = (codes - zero[:, index]).astype(F) * scale.astype(F)[:, index]
    tensors = {
        "fc.weight_packed": packed(codes, bits),
        "fc.weight_shape": np.array([n, k], np.int64),
        "fc.weight_scale": scale,
    }
    if not symmetric:
        tensors["fc.weight_zero_point"] = (zero - middle).astype(np.int8) if old else packed(zero.T, bits).T
    if order:
        tensors["fc.weight_g_idx"] = index.astype(np.int32)
    strategy = {"strategy": "channel"} if group is None else {"strategy": "group", "group_size": group}
    return tensors, scheme({"num_bits": bits, "symmetric": symmetric} | strategy), weight


def int8(n: int, k: int, *shape: int) -> dict[str, np.ndarray]:
    scale = np.random.default_rng(1).random(shape, dtype=F) + F(0.01)
    return {"fc.weight": (integers(n, k, 8) - 128).astype(np.int8), "fc.weight_scale": scale}


def int_quantized(n: int, k: int) -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray]:
    """int8 a channel, activations a token: the commonest form of compressed-tensors."""
    tensors = int8(n, k, n, 1)
    inputs = {"num_bits": 8, "dynamic": True, "strategy": "token", "symmetric": True}
    config = scheme({"num_bits": 8, "strategy": "channel", "symmetric": True}, inputs, "int-quantized")
    return tensors, config, tensors["fc.weight"] * tensors["fc.weight_scale"]


def bitsandbytes_once(n: int, k: int) -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray]:
    """With the weights rounded once, as octavo has them."""
    tensors, config, _ = bitsandbytes(n, k)
    return tensors, config, tensors["fc.weight"] * (tensors["fc.SCB"] / F(127))[:, None]


# name: a writer of a checkpoint whose layer "fc" has 40 outputs, and what it becomes
FORMS: dict[str, tuple[Callable[[], Any], str]] = {
    "gptq 4": (lambda: gptq(40, 128, 4, 32), "uint4, group_size=32, zero_point, scale_dtype=float16"),
    "gptq 4 v2": (lambda: gptq(40, 128, 4, 64, version=2), "uint4, group_size=64, zero_point"),
    "gptq 4 sym": (lambda: gptq(40, 128, 4, 128, sym=True), "int4, scale_dtype=float16, activation=symmetric"),
    "gptq 4 sym 64": (lambda: gptq(40, 128, 4, 64, sym=True), "int4, group_size=64, scale_dtype=float16"),
    "gptq 4 row": (lambda: gptq(40, 72, 4, -1), "uint4, zero_point, scale_dtype=float16"),
    "gptq 4 order": (lambda: gptq(40, 128, 4, 32, order=True), "uint4, group_size=32, zero_point"),
    "gptq 2": (lambda: gptq(40, 128, 2, 32), "uint4, group_size=32, zero_point"),
    "gptq 3": (lambda: gptq(40, 128, 3, 32), "uint4, group_size=32, zero_point"),
    "gptq 3 order": (lambda: gptq(40, 96, 3, 32, order=True, sym=True), "int4, group_size=32"),
    "gptq 8": (lambda: gptq(40, 128, 8, 32), "uint8, group_size=32, zero_point"),
    "gptq 8 sym row": (lambda: gptq(40, 128, 8, -1, sym=True), "int8, activation=symmetric"),
    "gptq 8 order": (lambda: gptq(40, 128, 8, 64, order=True), "uint8, group_size=64, zero_point"),
    "gptq groups of 512": (lambda: gptq(40, 1024, 4, 512), "uint4, group_size=256, zero_point"),
    "awq": (lambda: awq(40, 128, 32), "uint4, group_size=32, zero_point"),
    "awq row": (lambda: awq(40, 128, -1), "int4, symmetric=False, scale_dtype=float16"),
    "packed 4": (lambda: compressed(40, 128, 4, 32), "int4, group_size=32"),
    "packed 4 asymmetric": (lambda: compressed(40, 128, 4, 64, symmetric=False), "uint4, group_size=64, zero_p"),
    "packed 4 old zero": (lambda: compressed(40, 64, 4, 32, symmetric=False, old=True), "uint4, group_size=32"),
    "packed 4 row": (lambda: compressed(40, 76, 4, None), "int4, scale_dtype=float16"),
    "packed 4 order": (lambda: compressed(40, 128, 4, 32, order=True), "int4, group_size=32"),
    "packed 4 short group": (lambda: compressed(40, 88, 4, 32), "int4, group_size=32"),
    "packed 8": (lambda: compressed(40, 128, 8, 128, symmetric=False), "uint8, zero_point"),
    "int8": (lambda: int_quantized(40, 96), "int8, activation=symmetric"),
    "bitsandbytes": (lambda: bitsandbytes_once(40, 96), "int8, activation=symmetric"),
    "packed 8 row": (lambda: compressed(40, 127, 8, None), "int8, activation=symmetric"),
}
