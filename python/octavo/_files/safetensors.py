"""Reading and writing safetensors files a piece at a time: what `octavo.io` and `octavo quantize` stand on.

    8 bytes   N, little-endian
    N bytes   JSON: {"__metadata__": {str: str}, name: {"dtype": .., "shape": [..], "data_offsets": [begin, end]}}
    the rest  the tensors, one after the other without gaps

The safetensors package reads no bfloat16 into NumPy and writes all tensors at once, from memory. Here a file is read
through a memory map and written tensor by tensor, so that a checkpoint may be larger than memory. NumPy is the only
import. Nothing in a file is trusted: every size is checked against the file's before anything is made of it.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import secrets
import stat
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Reader", "Tensor", "Writer", "dtype_code", "parse_json", "widened"]

_HEADER_LIMIT = 100_000_000  # that of the safetensors package
_AXES_LIMIT = 32  # of NumPy 1.26
_ALIGNMENT = 8
_CHUNK = 1 << 22

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip
_NUMPY = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4",
    "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
_CODES = {np.dtype(code): name for name, code in _NUMPY.items()}


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a header says of a tensor. `begin` counts from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = 0

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _BITS[self.dtype] // 8

    @property
    def end(self) -> int:
        return self.begin + self.nbytes

    def digest(self) -> int:
        """The CRC-32 of "F32 3,4": where the checksum of the data starts, so that it covers dtype and shape."""
        return zlib.crc32(f"{self.dtype} {','.join(map(str, self.shape))}".encode())


def dtype_code(dtype: np.dtype[Any]) -> str | None:
    """The name in the format of a NumPy dtype of either byte order, or None.

    Example:
        >>> import numpy as np
        >>> from octavo._files.safetensors import dtype_code
        >>> dtype_code(np.dtype("float32")), dtype_code(np.dtype("object"))
        ('F32', None)
    """
    return _CODES.get(dtype.newbyteorder("<"))


def widened(raw: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Values in the machine's byte order; the 16 bits of a bfloat16 are the upper half of its float32, exactly.

    Example:
        >>> import numpy as np
        >>> from octavo._files.safetensors import widened
        >>> widened(np.array([0x3FC0], np.uint16), "BF16")
        array([1.5], dtype=float32)
    """
    if dtype == "BF16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(raw.dtype.newbyteorder("="), copy=False)


def parse_json(text: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object, strictly: no name twice, no NaN, no text that is not Unicode; else ValueError.

    Example:
        >>> from octavo._files.safetensors import parse_json
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
        found = json.loads(decoded, object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except RecursionError:
        raise ValueError(f"the {what} is not valid JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"the {what} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"the {what} must be a JSON object, got {type(found).__name__}")
    return found


class Reader:
    """A safetensors file, open through a memory map. A context manager.

    Args:
        path: the file. It must not be truncated by others while it is open; `Writer` never does that to a file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not a safetensors file, or damaged. The message names it.

    Example:
        >>> import tempfile, numpy as np
        >>> from octavo._files.safetensors import Reader, Tensor, Writer
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Writer(folder + "/x.safetensors", {"a": Tensor("F32", (2,))}) as writer:
        ...         writer.append("a", np.float32([1, 2]))
        ...     with Reader(folder + "/x.safetensors") as reader:
        ...         reader.array("a").tolist()
        [1.0, 2.0]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.metadata: dict[str, str]
        self.tensors: dict[str, Tensor]
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise ValueError(f"{self.path} is not a regular file")
        with open(path, "rb") as file:
            self.nbytes = os.fstat(file.fileno()).st_size
            try:
                header = _header(file.read(8), self.nbytes, file.read)
                self._start = file.tell()
                self.metadata, self.tensors = _checked(header, self.nbytes - self._start)
            except ValueError as error:
                raise ValueError(f"{self.path} is not a usable safetensors file: {error}") from None
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._view = memoryview(self._map)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the file; where arrays still look at it, that happens with the last of them."""
        with contextlib.suppress(BufferError):
            self._view.release()
            self._map.close()

    def data(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor: a read-only view of the file."""
        t = self.tensors[name]
        # frombuffer, unlike ndarray(buffer=..), keeps the map from being closed under the array. It takes no empty one.
        view = self._view[self._start + t.begin : self._start + t.end]
        return np.frombuffer(view, np.uint8) if t.nbytes else np.empty(0, np.uint8)

    def raw(self, name: str) -> NDArray[Any]:
        """The tensor, as a read-only view of the file; little-endian, bfloat16 as uint16. See `widened`."""
        t = self.tensors[name]
        code = "<u2" if t.dtype == "BF16" else _NUMPY.get(t.dtype)
        if code is None:
            raise ValueError(f"{self.path}: NumPy has no {t.dtype}, the type of tensor {name!r}")
        try:
            found: NDArray[Any] = self.data(name).view(code).reshape(t.shape)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{self.path}: tensor {name!r} of shape {list(t.shape)}: {error}") from None
        if t.dtype == "BOOL" and found.view(np.uint8).max(initial=0) > 1:
            raise ValueError(f"{self.path}: tensor {name!r} is BOOL, but holds bytes other than 0 and 1")
        return found

    def array(self, name: str) -> NDArray[Any]:
        """A copy of the tensor in the machine's byte order; bfloat16 becomes float32."""
        return np.array(widened(self.raw(name), self.tensors[name].dtype), order="C")

    def crc32(self, name: str) -> int:
        """The checksum of a tensor as `Writer` makes it."""
        return zlib.crc32(self.data(name).data, self.tensors[name].digest())

    def release(self, name: str) -> None:
        """Lets the system take back the memory through which the tensor was read. Its views stay good."""
        t = self.tensors[name]
        begin = (self._start + t.begin) // mmap.PAGESIZE * mmap.PAGESIZE
        if t.nbytes and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED, begin, self._start + t.end - begin)


def _header(first: bytes, nbytes: int, read: Callable[[int], bytes]) -> dict[str, Any]:
    if len(first) < 8:
        raise ValueError(f"it has {nbytes} bytes, fewer than the 8 of the header's length")
    length = int.from_bytes(first, "little")
    if length > min(_HEADER_LIMIT, nbytes - 8):
        raise ValueError(f"its header is {length} bytes long by its own account, the file has {nbytes}")
    text = read(length)
    if not text.startswith(b"{"):
        raise ValueError("its header does not start with {")
    return parse_json(text, "header")


def _checked(header: dict[str, Any], data_bytes: int) -> tuple[dict[str, str], dict[str, Tensor]]:
    metadata = header.pop("__metadata__", {})
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
    keys = {"dtype", "shape", "data_offsets"}
    if not isinstance(entry, dict) or entry.keys() != keys:
        raise ValueError(f"tensor {name!r} must have dtype, shape and data_offsets alone, got {_cut(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"tensor {name!r} has the unknown dtype {_cut(dtype)}")
    if not _sizes(shape) or len(shape) > _AXES_LIMIT:
        raise ValueError(f"tensor {name!r} must have a shape of at most {_AXES_LIMIT} sizes, got {_cut(shape)}")
    if not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r} must have two data_offsets, got {_cut(offsets)}")
    if math.prod(size for size in shape if size) * 8 > sys.maxsize:
        raise ValueError(f"tensor {name!r} has shape {_cut(shape)}, which no machine holds")
    bits = math.prod(shape) * _BITS[dtype]
    if bits % 8 or offsets[1] - offsets[0] != bits // 8:
        raise ValueError(
            f"tensor {name!r} is {dtype} of shape {_cut(shape)}, {bits / 8:g} bytes, but has offsets {offsets}"
        )
    return Tensor(dtype, tuple(shape), offsets[0])


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= sys.maxsize for size in value)


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class Writer:
    """Writes a safetensors file beside its place, and puts it there when all of it is on the disk. A context manager.

    Whatever fails - a full disk, an exception inside the with block - the file that was at `path` stays as it was, and
    nothing is left beside it. Tensors may be appended to in any order, each from its beginning.

    Args:
        path: where the file is to be. A symbolic link is followed.
        tensors: what will be written. They are laid out by item size, so that every one is aligned.
        metadata: from the CRC-32 of each tensor to the file's metadata. Called with zeros first: the texts must keep
            their length.

    Raises:
        OSError: it cannot be written.
        ValueError: a tensor has too many axes, or got too few or too many bytes; the header is too long.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tensors: Mapping[str, Tensor],
        metadata: Callable[[dict[str, int]], dict[str, str]] = lambda crc32: {},
    ) -> None:
        self._path = Path(os.path.realpath(path))
        self._tensors, end = {}, 0
        for name, t in sorted(tensors.items(), key=lambda item: (-_BITS[item[1].dtype], item[0])):
            if len(t.shape) > _AXES_LIMIT:
                raise ValueError(
                    f"tensor {name!r} must have a shape of at most {_AXES_LIMIT} sizes, got {len(t.shape)}"
                )
            self._tensors[name] = Tensor(t.dtype, t.shape, end)
            end += t.nbytes
        self._metadata = metadata
        self._crc32 = {name: t.digest() for name, t in self._tensors.items()}
        self._written = dict.fromkeys(self._tensors, 0)
        self._start = len(self._header(dict.fromkeys(self._tensors, 0)))
        self.nbytes = self._start + end
        if self._path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; give the name of a file")
        if self._path.exists() and not self._path.is_file():
            raise FileExistsError(f"{path} is a device or a pipe, and no file may take its place; give another name")

    def _header(self, crc32: dict[str, int]) -> bytes:
        entries: dict[str, Any] = {}
        if metadata := self._metadata(crc32):
            entries["__metadata__"] = metadata
        for name, t in self._tensors.items():
            if name == "__metadata__":
                raise ValueError("no tensor can be called __metadata__: safetensors uses the name")
            entries[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [t.begin, t.end]}
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        text += b" " * (-len(text) % _ALIGNMENT)
        if len(text) > _HEADER_LIMIT:
            raise ValueError(f"the header would take {len(text)} bytes, safetensors allows {_HEADER_LIMIT}")
        return len(text).to_bytes(8, "little") + text

    def __enter__(self) -> Writer:
        self._beside = self._path.with_name(f".octavo-{secrets.token_hex(8)}.tmp")
        self._fd = os.open(self._beside, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o666)
        with contextlib.suppress(OSError):  # there was none, or the file system has no modes
            os.chmod(self._beside, stat.S_IMODE(os.stat(self._path).st_mode))
        return self

    def append(self, name: str, data: NDArray[Any] | bytes) -> None:
        """The next elements of a tensor, in C order; or its next bytes."""
        if isinstance(data, np.ndarray):
            view = np.ascontiguousarray(data, data.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
        else:
            view = memoryview(data)
        t = self._tensors[name]
        if self._written[name] + view.nbytes > t.nbytes:
            raise ValueError(f"tensor {name!r} has {t.nbytes} bytes, got {self._written[name] + view.nbytes}")
        for start in range(0, view.nbytes, _CHUNK):
            piece = view[start : start + _CHUNK]
            _write_all(self._fd, piece, self._start + t.begin + self._written[name])
            self._crc32[name] = zlib.crc32(piece, self._crc32[name])
            self._written[name] += piece.nbytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._beside)  # gone already where all went well

    def _finish(self) -> None:
        for name, t in self._tensors.items():
            if self._written[name] != t.nbytes:
                raise ValueError(f"tensor {name!r} has {t.nbytes} bytes, got {self._written[name]}")
        header = self._header(self._crc32)
        if len(header) != self._start:
            raise ValueError("the metadata must keep its length")
        _write_all(self._fd, memoryview(header), 0)
        os.fsync(self._fd)
        os.replace(self._beside, self._path)
        with contextlib.suppress(OSError):  # not every file system can
            _sync_folder(self._path.parent)


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    while view.nbytes:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _sync_folder(path: Path) -> None:
    """Makes the new name of a file last: the folder is what holds it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
