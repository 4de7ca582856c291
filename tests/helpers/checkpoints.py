"""Float checkpoints for tests: small arrays under the names of real ones, and files with types that NumPy lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

F = np.float32


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=F)


def checkpoint() -> dict[str, np.ndarray]:
    """One tensor of every fate: layers, a table of rows, and what is copied."""
    return {
        "blocks.0.fc1.weight": random(48, 96),
        "blocks.0.fc1.bias": random(48, seed=1),
        "blocks.0.fc2.weight": random(96, 48, seed=2),
        "blocks.0.norm.weight": random(96, seed=3),
        "blocks.0.norm.bias": random(96, seed=4),
        "tok_emb.weight": random(10, 96, seed=5),
        "conv.weight": random(4, 4, 3, seed=6),
        "ids.weight": np.arange(6).reshape(2, 3),
        "table": random(3, 5, seed=7),
    }


def write_raw(path: Path, tensors: Mapping[str, tuple[str, np.ndarray]]) -> None:
    """A safetensors file of (type, bytes in an array of the tensor's shape), in any type of the format."""
    entries, data = {}, b""
    for name, (dtype, a) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": a.shape, "data_offsets": [len(data), len(data) + a.nbytes]}
        data += a.tobytes()
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_shards(folder: Path, tensors: Mapping[str, np.ndarray], count: int) -> Path:
    """Writes the tensors in turn into `count` files with an index, as the transformers library names them."""
    folder.mkdir(exist_ok=True)
    files = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    weight_map = {name: files[i % count] for i, name in enumerate(tensors)}
    for file in files:
        save_file({name: tensors[name] for name, own in weight_map.items() if own == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    total = sum(a.nbytes for a in tensors.values())
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return index
