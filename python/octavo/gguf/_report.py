"""`octavo inspect model.gguf`: what a file holds, and what it takes once loaded."""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import Any

import numpy as np

from octavo._files.layouts import count
from octavo._util.tables import table
from octavo.gguf._blocks import DECODERS
from octavo.gguf._header import TensorInfo
from octavo.gguf._load import PLAIN, block_shape, opened

__all__ = ["is_gguf", "report"]

_SHOWN = 60  # characters of a metadata value


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as GGUF files do."""
    if not os.path.isfile(path):  # a folder of shards, or nothing: for others to say
        return False
    with open(path, "rb") as file:
        return file.read(4) == b"GGUF"


def report(path: str | os.PathLike[str]) -> str:
    """The text of `octavo inspect`: metadata, a line a tensor, and totals. Only the header is read."""
    with opened(path) as (_, header):
        metadata = [(key, _shown(value)) for key, value in header.metadata.items()]
        lines = [f"GGUF version {header.version}, {header.file_bytes:,} B", "", table(["key", "value"], metadata)]
        rows = [
            (t.name, t.type.name, " x ".join(map(str, t.shape)), f"{t.nbytes:,} B", _memory_text(t))
            for t in header.tensors.values()
        ]
        lines += ["", table(["tensor", "type", "shape", "in the file", "in memory"], rows)]
        kinds = Counter(t.type.name for t in header.tensors.values())
        memory = [_memory_bytes(t) for t in header.tensors.values()]
        unread = sorted(name for name in kinds if name not in PLAIN and name not in DECODERS)
        lines += [
            "",
            f"{count(len(rows), 'tensor', 'tensors')} ({', '.join(f'{n} {name}' for name, n in kinds.items())}), "
            f"{sum(math.prod(t.shape) for t in header.tensors.values()):,} weights, "
            f"{sum(m for m in memory if m is not None):,} B in memory",
        ]
        if unread:
            lines.append(f"octavo.gguf.load does not read {', '.join(unread)}")
        return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        head = ", ".join(repr(v) for v in value[:3])
        return f"[{head[:_SHOWN]}{', ...' if len(value) > 3 else ''}] ({len(value)})"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _memory_bytes(info: TensorInfo) -> int | None:
    """Without padding: what integers and parameters take; None of a type that is not read."""
    if info.type.name in PLAIN:
        return info.nbytes * (2 if info.type.name == "BF16" else 1)
    if info.type.name not in DECODERS:
        return None
    blocks, nbytes = block_shape(info)
    return math.prod(info.shape[:-1]) * DECODERS[info.type.name](np.zeros((1, blocks, nbytes), np.uint8)).nbytes


def _memory_text(info: TensorInfo) -> str:
    found = _memory_bytes(info)
    return "not read" if found is None else f"{found:,} B"
