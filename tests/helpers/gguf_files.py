"""GGUF files byte by byte, right ones and wrong ones, and random blocks whose weights are finite."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from octavo.gguf._types import BY_NAME


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], number: int, offset: int) -> bytes:
    """Sizes as the file has them: the length of a row first."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, offset)


def head(keys: list[bytes], tensors: list[bytes], *, version: int = 3, counts: tuple[int, int] | None = None) -> bytes:
    tensor_count, key_count = counts or (len(tensors), len(keys))
    return b"GGUF" + struct.pack("<IQQ", version, tensor_count, key_count) + b"".join(keys) + b"".join(tensors)


def whole(keys: list[bytes], tensors: list[bytes], data: bytes, *, alignment: int = 32, **options: Any) -> bytes:
    """A file: the head, zeros to the alignment, and the data."""
    start = head(keys, tensors, **options)
    return start + b"\0" * (-len(start) % alignment) + data


def random_blocks(name: str, rows: int, blocks: int, seed: int = 0) -> np.ndarray:
    """(rows, blocks, bytes) of a type, of which the package makes finite numbers. Of random bytes 3 to 6 % do not."""
    kind, rng = BY_NAME[name], np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, blocks, kind.nbytes), dtype=np.uint8)
    while True:
        bad = ~np.isfinite(dequantized(name, raw)).reshape(rows, blocks, kind.block).all(2)
        if not bad.any():
            return raw
        raw[bad] = rng.integers(0, 256, (int(bad.sum()), kind.nbytes), dtype=np.uint8)


def dequantized(name: str, raw: np.ndarray) -> np.ndarray:
    """What the package makes of blocks: (rows, k) float32."""
    with np.errstate(all="ignore"):
        values = gguf.quants.dequantize(raw.reshape(len(raw), -1), gguf.GGMLQuantizationType[name])
    return values.astype(np.float32).reshape(len(raw), -1)


def write_blocks(
    path: Path, tensors: dict[str, tuple[str, np.ndarray]], metadata: dict[str, Any] | None = None
) -> None:
    """A file of blocks (rows, blocks, bytes), or of plain arrays, written by the package."""
    writer = gguf.GGUFWriter(path, "test")
    for name, value in (metadata or {}).items():
        (
            writer.add_uint32
            if isinstance(value, int)
            else writer.add_array
            if isinstance(value, list)
            else writer.add_string
        )(name, value)
    for name, (kind, raw) in tensors.items():
        flat = raw.reshape(len(raw), -1) if raw.dtype == np.uint8 else raw
        writer.add_tensor(name, flat, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
