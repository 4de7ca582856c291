"""The header of a safetensors file: what it says of each tensor, and the checks that make it safe to believe.

    8 bytes   N, little-endian
    N bytes   JSON: {"__metadata__": {str: str}, name: {"dtype": .., "shape": [..], "data_offsets": [begin, end]}}
    the rest  the tensors, one after the other without gaps

Every size is checked against the size of the file before anything is allocated. What the safetensors package accepts is
accepted here: `"__metadata__": null`, and keys of a tensor that it does not know.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AXES_LIMIT", "BITS", "HEADER_LIMIT", "Memory", "NUMPY_CODES", "Tensor", "dtype_code", "parse_json", "read_json",
    "read_tensors", "regular", "widened",
]  # fmt: skip

HEADER_LIMIT = 100_000_000  # that of the safetensors package
AXES_LIMIT = 32  # of NumPy 1.26

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
NUMPY_CODES = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4",
    "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in NUMPY_CODES.items()}
_KEYS = ("dtype", "shape", "data_offsets")


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a header says of a tensor. `begin` counts from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = 0

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype] // 8

    @property
    def end(self) -> int:
        return self.begin + self.nbytes

    @property
    def is_readable(self) -> bool:
        """Whether NumPy can hold its values: bfloat16 as float32, float8 and smaller not at all."""
        return self.dtype == "BF16" or self.dtype in NUMPY_CODES

    def digest(self) -> int:
        """The CRC-32 of "F32 3,4": where the checksum of the data starts, so that it covers dtype and shape."""
        return zlib.crc32(f"{self.dtype} {','.join(map(str, self.shape))}".encode())


def dtype_code(dtype: np.dtype[Any]) -> str | None:
    """The format's name for a NumPy dtype of either byte order, or None.

    Example:
        >>> import numpy as np
        >>> from octavo._files.header import dtype_code
        >>> dtype_code(np.dtype("float32")), dtype_code(np.dtype("object"))
        ('F32', None)
    """
    return _NAMES.get(dtype.newbyteorder("<"))


def widened(raw: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Values in the machine's byte order; the 16 bits of a bfloat16 are the upper half of its float32, exactly.

    Example:
        >>> import numpy as np
        >>> from octavo._files.header import widened
        >>> widened(np.array([0x3FC0], np.uint16), "BF16")
        array([1.5], dtype=float32)
    """
    if dtype == "BF16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(raw.dtype.newbyteorder("="), copy=False)


def parse_json(text: bytes | str, what: str, *, infinities: bool = False) -> dict[str, Any]:
    """A JSON object, strictly: a name that occurs twice, text that is not Unicode, or NaN and infinities unless allowed
    are a ValueError.

    Example:
        >>> from octavo._files.header import parse_json
        >>> parse_json('{"a": 1}', "header")
        {'a': 1}
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"it holds {name!r} twice")
            found[name] = value
        return found

    def refuse(constant: str) -> Any:
        raise ValueError(f"it holds {constant}")

    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        found = json.loads(decoded, object_pairs_hook=unique, parse_constant=float if infinities else refuse)
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # half a surrogate pair cannot be encoded
    except RecursionError:
        raise ValueError(f"the {what} is not valid JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"the {what} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"the {what} must be a JSON object, got {type(found).__name__}")
    return found


def regular(path: str | os.PathLike[str]) -> int:
    """The size of a file; ValueError where `open` would wait, or fail."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder; name a file in it" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise ValueError(f"{os.fspath(path)} is {kind}")
    return status.st_size


def read_json(file: Path, what: str, limit: int, *, infinities: bool = False) -> dict[str, Any]:
    """A file of JSON, as `parse_json` has it; a pipe, or more bytes than `limit`, is a ValueError."""
    if (size := regular(file)) > limit:
        raise ValueError(f"{file} has {size:,} bytes; {what} has at most {limit:,}, so it is none")
    try:
        return parse_json(file.read_bytes(), what.partition(" ")[2], infinities=infinities)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


@dataclass
class Memory:
    """The header that a file had when it was last opened: equal bytes are not parsed again."""

    text: bytes = b""
    nbytes: int = 0  # of the file
    metadata: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    options: dict[str, Any] | None = None  # of the octavo header within, for who reads it


def read_tensors(
    read: Callable[[int], bytes], nbytes: int, memory: Memory | None = None
) -> tuple[dict[str, str], dict[str, Tensor], int]:
    """The header of a file of `nbytes` bytes: (metadata, tensors, where the data starts).

    Where there is a memory, it is used, and then holds this header.

    Raises:
        ValueError: it is not a header, or does not describe a file of this size.
    """
    first = read(8)
    if len(first) < 8:
        raise ValueError(f"it has {nbytes} bytes, fewer than the 8 of the header's length")
    length = int.from_bytes(first, "little")
    if length > HEADER_LIMIT:
        raise ValueError(f"it is of another format: its first 8 bytes, {first!r}, are not the length of a header")
    if length > nbytes - 8:
        raise ValueError(
            f"it is cut short, or of another format: by its first 8 bytes its header has {length} bytes, but only "
            f"{nbytes - 8} follow"
        )
    text = read(length)
    if memory is not None and (memory.text, memory.nbytes) == (text, nbytes):
        return memory.metadata, memory.tensors, 8 + length
    if not text.startswith(b"{"):
        raise ValueError(f"its header must start with {{, got {text[:8]!r}; it is damaged, or of another format")
    header = parse_json(text, "header")
    metadata, tensors = _checked(header, nbytes - 8 - length)
    if memory is not None:
        memory.text, memory.nbytes, memory.metadata, memory.tensors = text, nbytes, metadata, tensors
        memory.options = None
    return metadata, tensors, 8 + length


def _checked(header: dict[str, Any], data_bytes: int) -> tuple[dict[str, str], dict[str, Tensor]]:
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("__metadata__ must map text to text")
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    reached = 0
    for name, t in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].nbytes)):
        if t.begin != reached:
            raise ValueError(f"tensor {name!r} starts at byte {t.begin} of the data, the one before ends at {reached}")
        reached = t.end
    if reached != data_bytes:
        raise ValueError(f"its tensors take {reached} bytes, but it holds {data_bytes}: it is truncated or damaged")
    return metadata, tensors


def _tensor(name: str, entry: Any) -> Tensor:
    if not isinstance(entry, dict) or not all(key in entry for key in _KEYS):
        raise ValueError(f"tensor {name!r} must have dtype, shape and data_offsets, got {_cut(entry)}")
    dtype, shape, offsets = (entry[key] for key in _KEYS)
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"tensor {name!r} has the unknown dtype {_cut(dtype)}; known are {', '.join(BITS)}")
    if not _are_sizes(shape) or len(shape) > AXES_LIMIT:
        raise ValueError(f"tensor {name!r} must have a shape of at most {AXES_LIMIT} sizes, got {_cut(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r} must have two data_offsets, got {_cut(offsets)}")
    if math.prod(size for size in shape if size) * 8 > sys.maxsize:
        raise ValueError(f"tensor {name!r} has shape {_cut(shape)}, which no machine can hold")
    bits = math.prod(shape) * BITS[dtype]
    if bits % 8 or offsets[1] - offsets[0] != bits // 8:
        raise ValueError(
            f"tensor {name!r} is {dtype} of shape {_cut(shape)}, {bits / 8:g} bytes, but has offsets {offsets}"
        )
    return Tensor(dtype, tuple(shape), offsets[0])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= sys.maxsize for size in value)


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
