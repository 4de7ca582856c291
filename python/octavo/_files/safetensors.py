"""Reading and writing safetensors files a piece at a time: what `octavo.save`, `load` and `quantize` use.

The safetensors package cannot read bfloat16 into NumPy, and writes all tensors at once, from memory. Here a file is
read through a memory map and written tensor by tensor, so that a checkpoint may be larger than memory. The layout of a
file and the checks of its header are in `header`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._files.checksum import crc32
from octavo._files.foreign import description
from octavo._files.header import (
    AXES_LIMIT,
    BITS,
    HEADER_LIMIT,
    NUMPY_CODES,
    Memory,
    Tensor,
    dtype_code,
    parse_json,
    read_tensors,
    regular,
    widened,
)
from octavo._util.arrays import read_only
from octavo._util.atomic import checked_destination, written_beside

__all__ = [
    "MISALIGNED", "Reader", "Tensor", "Writer", "dtype_code", "parse_json", "widened",
]  # fmt: skip

_ALIGNMENT, _IMAGE_ALIGNMENT = 8, 64
_CHUNK = 1 << 18  # bytes; what is summed is then written from a core's own cache

MISALIGNED = "it does not lie at a multiple of its items' size: another tool rewrote the file"


class Reader:
    """A safetensors file, open through a memory map. A context manager.

    Args:
        path: the file. It must not be truncated by others while it is open; `Writer` never does that to a file.
        memory: of its header, from when it was open before.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not a safetensors file, or damaged. The message names it.
    """

    def __init__(self, path: str | os.PathLike[str], memory: Memory | None = None) -> None:
        self.path = Path(path)
        self.metadata: dict[str, str]
        self.tensors: dict[str, Tensor]
        regular(path)
        with open(path, "rb") as file:
            self.nbytes = os.fstat(file.fileno()).st_size
            try:
                self.metadata, self.tensors, self._start = read_tensors(file.read, self.nbytes, memory)
            except ValueError as error:
                why = description(self.path) or error
                raise ValueError(f"{self.path} is not a usable safetensors file: {why}") from None
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
        code = "<u2" if t.dtype == "BF16" else NUMPY_CODES.get(t.dtype)
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

    def array_in_place(self, name: str) -> tuple[NDArray[Any], str]:
        """(the tensor as `array` has it, but read-only, why it had to be copied): where the file's bytes are those of
        the array, it is a view of the file, and the reason is empty.
        """
        raw = self.raw(name)
        found, dtype = widened(raw, self.tensors[name].dtype), self.tensors[name].dtype
        if found is raw and found.flags.aligned:
            return found, ""
        why = MISALIGNED
        if found is not raw:
            why = "NumPy has no bfloat16, so it became float32" if dtype == "BF16" else "its bytes are little-endian"
        return read_only(np.array(found, order="C")), why

    def crc32(self, name: str) -> int:
        """The checksum of a tensor as `Writer` makes it."""
        return crc32(self.data(name).data, self.tensors[name].digest())

    def expect(self, name: str) -> None:
        """Lets the system start to read a tensor from the disk, front to back, while other work goes on."""
        self._advise(name, "MADV_WILLNEED")

    def release(self, name: str) -> None:
        """Lets the system take back the memory through which the tensor was read. Its views stay good."""
        self._advise(name, "MADV_DONTNEED")

    def _advise(self, name: str, advice: str) -> None:
        t = self.tensors[name]
        begin = (self._start + t.begin) // mmap.PAGESIZE * mmap.PAGESIZE
        if t.nbytes and hasattr(mmap, advice):
            self._map.madvise(getattr(mmap, advice), begin, self._start + t.end - begin)


class Writer:
    """Writes a safetensors file beside its place, and puts it there when all of it is on the disk. A context manager.

    Whatever fails - a full disk, an exception inside the with block - the file that was at `path` stays as it was, and
    nothing is left beside it. Tensors may be appended to in any order, each from its beginning.

    Args:
        path: where the file is to be. A symbolic link is followed.
        tensors: what will be written. They are laid out by item size, so that every one is aligned.
        metadata: from the CRC-32 of each tensor to the file's metadata. Called with zeros first: the texts must keep
            their length.
        first: names of tensors that are laid out before all others, each a multiple of 64 bytes, so that they start at
            multiples of 64 bytes in the file.

    Raises:
        OSError: it cannot be written.
        ValueError: a tensor has too many axes, or got too few or too many bytes; the header is too long.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tensors: Mapping[str, Tensor],
        metadata: Callable[[dict[str, int]], dict[str, str]] = lambda crc32: {},
        first: Set[str] = frozenset(),
    ) -> None:
        self._tensors, end = {}, 0
        self._alignment = _IMAGE_ALIGNMENT if first else _ALIGNMENT
        assert all(tensors[name].nbytes % self._alignment == 0 for name in first)
        order = sorted(tensors.items(), key=lambda item: (item[0] not in first, -BITS[item[1].dtype], item[0]))
        for name, t in order:
            if len(t.shape) > AXES_LIMIT:
                raise ValueError(f"tensor {name!r} must have a shape of at most {AXES_LIMIT} sizes, got {len(t.shape)}")
            self._tensors[name] = Tensor(t.dtype, t.shape, end)
            end += t.nbytes
        self._metadata = metadata
        self._crc32 = {name: t.digest() for name, t in self._tensors.items()}
        self._written = dict.fromkeys(self._tensors, 0)
        self._start = len(self._header(dict.fromkeys(self._tensors, 0)))
        self.nbytes = self._start + end
        self._path = checked_destination(path)

    def _header(self, crc32: dict[str, int]) -> bytes:
        entries: dict[str, Any] = {}
        if metadata := self._metadata(crc32):
            entries["__metadata__"] = metadata
        for name, t in self._tensors.items():
            if name == "__metadata__":
                raise ValueError("no tensor can be called __metadata__: safetensors uses the name")
            entries[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [t.begin, t.end]}
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        text += b" " * (-(8 + len(text)) % self._alignment)
        if len(text) > HEADER_LIMIT:
            raise ValueError(f"the header would take {len(text)} bytes, safetensors allows {HEADER_LIMIT}")
        return len(text).to_bytes(8, "little") + text

    def __enter__(self) -> Writer:
        with contextlib.ExitStack() as stack:
            self._fd = stack.enter_context(written_beside(self._path)).fd
            self._reserve()
            self._stack = stack.pop_all()
        return self

    def _reserve(self) -> None:
        """Room for the whole file: a disk that is full says so before any work, and ext4 takes the bytes faster."""
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self._fd, 0, self.nbytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise OSError(error.errno, error.strerror, str(self._path)) from None
            # else the file system cannot; writing will tell

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
            self._crc32[name] = crc32(piece, self._crc32[name])
            self._write(piece, self._start + t.begin + self._written[name])
            self._written[name] += piece.nbytes

    def _write(self, view: memoryview, offset: int) -> None:
        try:
            while view.nbytes:
                done = os.pwrite(self._fd, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:  # which names no file: the disk is full, or a limit reached
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:
            self._finish()

    def _finish(self) -> None:
        for name, t in self._tensors.items():
            if self._written[name] != t.nbytes:
                raise ValueError(f"tensor {name!r} has {t.nbytes} bytes, got {self._written[name]}")
        header = self._header(self._crc32)
        if len(header) != self._start:
            raise ValueError("the metadata must keep its length")
        self._write(memoryview(header), 0)
