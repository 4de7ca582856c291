"""The head of a GGUF file: metadata and where tensors lie, read within bounds.

Everything in a file may be a lie. Counts and lengths are held against the bytes that the file has left before anything
is made from them, so that time and memory are proportional to the file; what does not fit is an error that says where.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from octavo.gguf._types import BY_ID, TensorType

__all__ = ["Header", "TensorInfo", "alignment_of", "read_header"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_DIMS = 4  # GGML_MAX_DIMS
_MAX_DEPTH = 8  # of arrays within arrays
_MAX_NAME_BYTES = 65535  # of keys, as the specification has it
_LEAST_KEY_BYTES, _LEAST_TENSOR_BYTES = 8 + 4 + 1, 8 + 4 + 4 + 8
_CHUNK = 1 << 20

_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `shape` as NumPy has it (rows first), `offset` from the start of the file."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the data."""

    version: int
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    file_bytes: int


class _Cursor:
    """Reads forward in a file whose size is known, a chunk at a time."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._buffer = bytearray()
        self.at = 0

    def left(self) -> int:
        return self._size - self.at

    def take(self, count: int, what: str) -> int:
        """The place in the buffer of the next `count` bytes."""
        if count > self.left():
            raise ValueError(f"the file ends within {what}: {count} bytes are needed at byte {self.at}, "
                             f"{self.left()} are there")  # fmt: skip
        start = self.at
        self.at += count
        if len(self._buffer) < self.at:
            self._read_to(self.at, what)
        return start

    def _read_to(self, end: int, what: str) -> None:
        while len(self._buffer) < end:
            more = self._file.read(max(_CHUNK, end - len(self._buffer)))
            if not more:
                raise ValueError(f"the file became shorter while {what} was read; is it still being written?")
            self._buffer += more

    def number(self, code: str, what: str) -> Any:
        at = self.take(struct.calcsize(code), what)
        return struct.unpack_from(code, self._buffer, at)[0]

    def array(self, dtype: str, count: int, what: str) -> np.ndarray[Any, Any]:
        at = self.take(count * np.dtype(dtype).itemsize, what)
        return np.frombuffer(bytes(self._buffer[at : self.at]), dtype)

    def text(self, what: str, limit: int | None = None) -> str:
        length = self.number("<Q", what)
        if limit is not None and length > limit:
            raise ValueError(f"{what} is {length} bytes long; at most {limit} are allowed")
        at = self.take(length, what)
        try:
            return self._buffer[at : self.at].decode()
        except UnicodeDecodeError:
            raise ValueError(f"{what} is not UTF-8 text") from None

    def texts(self, count: int, what: str) -> list[str]:
        """As many strings. A vocabulary has ten thousands of them, and `text` in a loop takes three times as long."""
        found = []
        at, buffer, length_at = self.at, self._buffer, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if len(buffer) < at + 8:
                self.take(at + 8 - self.at, what)
            (length,) = length_at(buffer, at)
            end = at + 8 + length
            if len(buffer) < end:
                self.at = at
                self.take(8 + length, what)
            try:
                found.append(buffer[at + 8 : end].decode())
            except UnicodeDecodeError:
                raise ValueError(f"{what} has an element that is not UTF-8 text") from None
            at = end
        self.at = at
        return found


def read_header(file: BinaryIO) -> Header:
    """The header of an open file; a ValueError, without the file's name, where it is damaged or not read."""
    size = os.fstat(file.fileno()).st_size
    cursor = _Cursor(file, size)
    version = _read_version(cursor)
    tensor_count, key_count = cursor.number("<Q", "the header"), cursor.number("<Q", "the header")
    for what, count, least in (("keys", key_count, _LEAST_KEY_BYTES), ("tensors", tensor_count, _LEAST_TENSOR_BYTES)):
        if count > cursor.left() // least:
            raise ValueError(f"the header announces {count} {what}, for which a file of {size} bytes has no room")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.text("a metadata key", _MAX_NAME_BYTES)
        if key in metadata:
            raise ValueError(f"metadata key {key!r} stands there twice")
        metadata[key] = _read_value(cursor, cursor.number("<I", f"metadata {key!r}"), f"metadata {key!r}", 0)
    infos = [_read_tensor(cursor) for _ in range(tensor_count)]
    return Header(version, metadata, _placed(infos, alignment_of(metadata), cursor.at, size), size)


def _read_version(cursor: _Cursor) -> int:
    magic = cursor.array("<u1", 4, "the header").tobytes()
    if magic != MAGIC:
        raise ValueError(f"it is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
    version: int = cursor.number("<I", "the header")
    if version & 0xFFFF == 0:
        raise ValueError("its numbers are big-endian, and only little-endian files are read")
    if version not in VERSIONS:
        raise ValueError(f"it has GGUF version {version}; versions {VERSIONS[0]} to {VERSIONS[-1]} are read")
    return version


def _read_value(cursor: _Cursor, kind: int, what: str, depth: int) -> Any:
    if kind in _SCALARS:
        return cursor.array(_SCALARS[kind], 1, what)[0].item()
    if kind == _BOOL:
        return _bools(cursor.array("<u1", 1, what), what)[0]
    if kind == _STRING:
        return cursor.text(what)
    if kind != _ARRAY:
        raise ValueError(f"{what} has the unknown type {kind}")
    if depth == _MAX_DEPTH:
        raise ValueError(f"{what} has arrays within arrays, more than {_MAX_DEPTH} deep")
    inner, count = cursor.number("<I", what), cursor.number("<Q", what)
    least = (
        np.dtype(_SCALARS[inner]).itemsize if inner in _SCALARS else {_BOOL: 1, _STRING: 8, _ARRAY: 12}.get(inner, 1)
    )
    if count > cursor.left() // least:
        raise ValueError(f"{what} announces {count} elements, for which the file has no room")
    if inner in _SCALARS:
        return cursor.array(_SCALARS[inner], count, what).tolist()
    if inner == _BOOL:
        return _bools(cursor.array("<u1", count, what), what)
    if inner == _STRING:
        return cursor.texts(count, what)
    return [_read_value(cursor, inner, what, depth + 1) for _ in range(count)]


def _bools(values: np.ndarray[Any, Any], what: str) -> list[bool]:
    if values.size and values.max() > 1:
        raise ValueError(f"{what} must be true or false (1 or 0), got {int(values.max())}")
    return [bool(v) for v in values]


def _read_tensor(cursor: _Cursor) -> tuple[str, TensorType, tuple[int, ...], int]:
    name = cursor.text("a tensor's name", _MAX_NAME_BYTES)
    what = f"tensor {name!r}"
    dims = cursor.number("<I", what)
    if not 1 <= dims <= _MAX_DIMS:
        raise ValueError(f"{what} has {dims} dimensions; 1 to {_MAX_DIMS} are allowed")
    shape = tuple(int(n) for n in cursor.array("<u8", dims, what)[::-1])
    if 0 in shape:  # it would take no bytes, whatever its other sizes
        raise ValueError(f"{what} has shape {list(shape)}; sizes must be at least 1")
    number, offset = cursor.number("<I", what), cursor.number("<Q", what)
    kind = BY_ID.get(number)
    if kind is None:
        raise ValueError(f"{what} has type {number}, which this octavo does not know")
    if shape[-1] % kind.block != 0:
        raise ValueError(f"{what} has rows of {shape[-1]} elements; {kind.name} needs a multiple of {kind.block}")
    return name, kind, shape, offset


def alignment_of(metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1) != 0:
        raise ValueError(f"metadata 'general.alignment' must be a power of two, got {alignment!r}")
    return alignment


def _placed(
    infos: list[tuple[str, TensorType, tuple[int, ...], int]], alignment: int, header_end: int, size: int
) -> dict[str, TensorInfo]:
    """The tensors by name, each within the data and apart from the others."""
    start = -(-header_end // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, kind, shape, offset in infos:
        if name in tensors:
            raise ValueError(f"tensor {name!r} stands there twice")
        nbytes = math.prod(shape) // kind.block * kind.nbytes
        if offset % alignment != 0:
            raise ValueError(f"tensor {name!r} begins at byte {offset} of the data, not at a multiple of {alignment}")
        if start + offset + nbytes > size:
            raise ValueError(
                f"tensor {name!r} ends at byte {start + offset + nbytes}, and the file has {size}; "
                "it is cut off, or still being written"
            )
        tensors[name] = TensorInfo(name, kind, shape, start + offset, nbytes)
    before: TensorInfo | None = None
    for info in sorted(tensors.values(), key=lambda t: t.offset):
        if before is not None and info.offset < before.offset + before.nbytes:
            raise ValueError(f"tensors {before.name!r} and {info.name!r} overlap")
        before = info
    return tensors
