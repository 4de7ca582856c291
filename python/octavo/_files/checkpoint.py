"""A float checkpoint that is to be converted or listed: one safetensors file, its shards, or a NumPy archive.

All of them are read alike: tensors by name, one at a time, never the whole of it in memory.
"""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo._files.foreign import is_npz
from octavo._files.header import Tensor, dtype_code, widened
from octavo._files.safetensors import Reader
from octavo._files.shards import open_files

__all__ = ["Archive", "Checkpoint", "Foreign"]


# What zipfile and NumPy raise for archives that are cut, altered, encrypted or compressed in a way they do not know.
_DAMAGES = (ValueError, EOFError, NotImplementedError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error)


class Foreign(NamedTuple):
    """A tensor whose values octavo cannot read: float8, text, objects."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Archive:
    """A NumPy archive (.npz), read like a `Reader`, one array at a time. Arrays of objects are never unpickled.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.nbytes = os.path.getsize(path)
        self.metadata: dict[str, str] = {}
        self.tensors: dict[str, Tensor] = {}
        self.foreign: dict[str, Foreign] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    with archive.open(member) as file:
                        shape, _, dtype = _array_header(file)
                    name, code = member.removesuffix(".npy"), dtype_code(dtype)
                    if code is None:
                        nbytes = dtype.itemsize * math.prod(shape)
                        self.foreign[name] = Foreign(str(dtype), shape, nbytes)
                    else:
                        self.tensors[name] = Tensor(code, shape)
        except _DAMAGES as error:
            raise ValueError(f"{self.path} is not a usable NumPy archive: {error}") from None

    def close(self) -> None:
        """Nothing stays open between reads."""

    def raw(self, name: str) -> NDArray[Any]:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                found: NDArray[Any] = archive[name]
        except _DAMAGES as error:
            raise ValueError(f"{self.path}: array {name!r} is damaged: {error}") from None
        return found

    def data(self, name: str) -> NDArray[np.uint8]:
        found = self.raw(name)
        little = np.ascontiguousarray(found, found.dtype.newbyteorder("<"))
        return little.reshape(-1).view(np.uint8)

    def expect(self, name: str) -> None:
        """Arrays are read as a whole."""

    def release(self, name: str) -> None:
        """Arrays are not kept."""


def _array_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


class Checkpoint:
    """The tensors of a float checkpoint, whatever files they are in. A context manager.

    Args:
        path: a safetensors file, the index of several, a folder that holds either, or a NumPy archive (.npz).

    Raises:
        OSError: a file cannot be opened.
        ValueError: it is not a checkpoint, or damaged; the message says what it is, and what to do.

    Attributes:
        tensors: by name, in the order of the files.
        foreign: tensors that octavo cannot read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stack = contextlib.ExitStack()
        self.parts: list[Reader] | list[Archive] = (
            [Archive(path)] if os.path.isfile(path) and is_npz(path) else self._stack.enter_context(open_files(path))
        )
        self._where: dict[str, Reader | Archive] = {name: part for part in self.parts for name in part.tensors}
        self.tensors: dict[str, Tensor] = {name: part.tensors[name] for name, part in self._where.items()}
        self.foreign: dict[str, Foreign] = {}
        for part in self.parts:
            if isinstance(part, Archive):
                self.foreign |= part.foreign
                self._where |= dict.fromkeys(part.foreign, part)
        for name, t in list(self.tensors.items()):
            if not t.is_readable:
                self.foreign[name] = Foreign(t.dtype, t.shape, t.nbytes)
                del self.tensors[name]

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(part.nbytes for part in self.parts)

    @property
    def metadata(self) -> dict[str, str]:
        """That of the files, of the first where they differ."""
        merged: dict[str, str] = {}
        for part in self.parts:
            merged = part.metadata | merged
        return merged

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def readers(self) -> list[Reader]:
        """The safetensors files; none of a NumPy archive."""
        return [part for part in self.parts if isinstance(part, Reader)]

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor: what messages name."""
        return self._where[name].path

    def raw(self, name: str) -> NDArray[Any]:
        """The tensor; bfloat16 as uint16. A read-only view of the file where that is safetensors. See `widened`."""
        return self._where[name].raw(name)

    def values(self, name: str) -> NDArray[Any]:
        """The tensor in the machine's byte order; bfloat16 as float32."""
        return widened(self.raw(name), self.tensors[name].dtype)

    def array(self, name: str) -> NDArray[Any]:
        """A copy of `values`."""
        return np.array(self.values(name), order="C")

    def data(self, name: str) -> NDArray[np.uint8]:
        """The bytes of the tensor, little-endian, in C order."""
        return self._where[name].data(name)

    def expect(self, name: str) -> None:
        """Lets the system start to read a tensor from the disk."""
        self._where[name].expect(name)

    def release(self, name: str) -> None:
        """Lets the system take back the memory through which the tensor was read."""
        self._where[name].release(name)
