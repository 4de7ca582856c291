"""The parts of one object in a file: its options, and its tensors, which are made when they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo._files.origins import Source
from octavo._files.safetensors import Reader, Tensor, dtype_code, widened

__all__ = [
    "Fields", "LazyTensor", "LazyTensors", "Options", "lazy", "read_bias", "read_group_size", "read_shape",
    "tensor_name",
]  # fmt: skip


class LazyTensor(NamedTuple):
    """A tensor that is made when it is to be written."""

    tensor: Tensor
    make: Callable[[], NDArray[Any]]


LazyTensors = dict[str, LazyTensor]
Options = dict[str, Any]


@dataclass
class Fields:
    """The options and tensors of one object in a file, taken one by one, each checked for what it must be."""

    name: str
    options: Options
    reader: Reader
    prefix: str = ""
    taken: set[str] = field(default_factory=set)
    source: Source | None = None  # where what is made may use the file's pages in place
    verify: bool = True  # values as well, where that means reading all of them

    def option(self, key: str, *kinds: type) -> Any:
        """The value of an option, of exactly one of these types: a bool is not an int here."""
        if key not in self.options:
            raise ValueError(f"it lacks the option {key!r}")
        value = self.options.pop(key)
        if type(value) not in kinds:
            raise ValueError(f"{key} must be {' or '.join(k.__name__ for k in kinds)}, got {value!r}")
        return value

    def choice(self, key: str, *values: Any) -> Any:
        value = self.option(key, *{type(v) for v in values})
        if value not in values:
            raise ValueError(f"{key} must be one of {values}, got {value!r}")
        return value

    def tensor(self, suffix: str, dtype: str, shape: tuple[int, ...] | None) -> NDArray[Any]:
        """A view of the file, where it has this type and shape."""
        name = tensor_name(self.name, self.prefix + suffix)
        found = self.reader.tensors.get(name)
        if found is None:
            raise ValueError(f"its tensor {name!r} is missing")
        if found.dtype != dtype or (shape is not None and found.shape != shape):
            wanted = dtype if shape is None else f"{dtype} of shape {list(shape)}"
            raise ValueError(f"tensor {name!r} must be {wanted}, got {found.dtype} of shape {list(found.shape)}")
        self.taken.add(name)
        return widened(self.reader.raw(name), dtype)

    def holds(self, suffix: str) -> bool:
        """Whether the file has this tensor."""
        return tensor_name(self.name, self.prefix + suffix) in self.reader.tensors

    def within(self, key: str) -> Fields:
        """The fields of a part: its options are those under the key, its tensors start with "key."."""
        prefix = f"{self.prefix}{key}."
        return Fields(self.name, self.option(key, dict), self.reader, prefix, self.taken, self.source, self.verify)

    def finish(self) -> None:
        if self.options:
            raise ValueError(f"it has the unknown option {next(iter(self.options))!r}")


def tensor_name(name: str, suffix: str) -> str:
    return f"{name}.{suffix}" if name else suffix


def lazy(array: NDArray[Any]) -> LazyTensor:
    """That of an array whose dtype safetensors has."""
    if array.dtype.name == "bfloat16":  # of ml_dtypes
        return LazyTensor(Tensor("BF16", array.shape), lambda: array.view(np.uint16))
    code = dtype_code(array.dtype)
    assert code is not None
    return LazyTensor(Tensor(code, array.shape), lambda: array)


def read_shape(fields: Fields) -> tuple[int, int]:
    """The option `shape` of a layer: (out, in)."""
    shape = fields.option("shape", list)
    if len(shape) != 2 or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"shape must be [out, in], got {shape!r}")
    return shape[0], shape[1]


def read_group_size(fields: Fields) -> int | None:
    """The option `group_size`: values of a row that share a scale, null for all of them."""
    size: int | None = fields.option("group_size", int, type(None))
    if size is not None and size < 1:
        raise ValueError(f"group_size must be at least 1 or null, got {size}")
    return size


def read_bias(fields: Fields, n: int) -> NDArray[np.float32] | None:
    """The tensor `bias` (n,), where the option of that name is true."""
    return fields.tensor("bias", "F32", (n,)) if fields.option("bias", bool) else None
