"""The tensors of a quantized checkpoint, each checked for what it must be. Complaints name the file and the tensor."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from octavo._files.checkpoint import Checkpoint
from octavo._files.header import Tensor
from octavo.checkpoints._forms import Form

__all__ = ["Tensors", "group_order"]

_FLOATS = ("F16", "BF16", "F32")


class Tensors:
    """What readers of one tool ask of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.by_name = checkpoint.tensors

    def fail(self, name: str, text: str) -> NoReturn:
        """Raises ValueError about a tensor."""
        raise ValueError(f"{self.checkpoint.file_of(name)}: tensor {name!r} {text}")

    def lacks(self, name: str, beside: str, why: str) -> NoReturn:
        """Raises ValueError about a tensor that is not there."""
        raise ValueError(f"{self.checkpoint.file_of(beside)}: tensor {name!r} is missing beside {beside!r}: {why}")

    def layers(self, suffix: str) -> list[str]:
        """Names of the layers that have a tensor of this name, in the order of the files."""
        return [name.removesuffix(suffix) for name in self.by_name if name.endswith(suffix)]

    def require(self, name: str, beside: str, why: str) -> Tensor:
        """What the header says of a tensor that must be there."""
        found = self.by_name.get(name)
        if found is None:
            if name in self.checkpoint.foreign:
                self.fail(name, f"is {self.checkpoint.foreign[name].dtype}, which octavo does not read")
            self.lacks(name, beside, why)
        return found

    def expect(self, name: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> Tensor:
        """A tensor of one of these types and shapes (any, where none is given)."""
        found = self.by_name[name]
        if found.dtype not in dtypes or (shapes and found.shape not in shapes):
            shape = f" of shape {' or '.join(str(list(s)) for s in shapes)}" if shapes else ""
            self.fail(name, f"must be {' or '.join(dtypes)}{shape}, got {found.dtype} of shape {list(found.shape)}")
        return found

    def matrix(self, name: str, *dtypes: str) -> tuple[int, int]:
        """The shape of a tensor that must have two dimensions."""
        found = self.expect(name, dtypes)
        if len(found.shape) != 2 or 0 in found.shape:
            self.fail(name, f"must be a matrix that is not empty, got shape {list(found.shape)}")
        return found.shape[0], found.shape[1]

    def scales(self, name: str, shape: tuple[int, ...], *others: tuple[int, ...]) -> NDArray[Any]:
        """Float scales, finite and positive: float16 as they are, bfloat16 as float32. Reshaped to `shape`."""
        self.expect(name, _FLOATS, shape, *others)
        found: NDArray[Any] = np.array(self.checkpoint.values(name)).reshape(shape)
        # As integers, which NumPy compares many times as fast as float16: from the smallest number above 0 to the
        # largest there is. Negative ones have the highest bit.
        bits = found.view(f"u{found.itemsize}")
        if bits.size and not (bits.min() > 0 and bits.max() < found.dtype.type(np.inf).view(bits.dtype)):
            bad = ~(np.isfinite(found) & (found > 0))
            at = [int(i) for i in np.argwhere(bad)[0]]
            count = int(bad.sum())
            self.fail(name, f"must hold finite scales above 0, got {found[tuple(at)]} at {at} ({count} in all)")
        return found

    def integers(self, name: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> NDArray[Any]:
        self.expect(name, dtypes, *shapes)
        return self.checkpoint.values(name)

    def form(self, name: str, k: int, bits: int, **options: Any) -> Form:
        """That of `Form.of`; the error names a tensor."""
        try:
            return Form.of(k, bits, **options)
        except ValueError as error:
            self.fail(name, f"cannot be held: {error}")

    def bias(self, layer: str, n: int) -> str | None:
        """The name of a layer's bias, where it has one."""
        name = f"{layer}.bias"
        if name not in self.by_name:
            return None
        self.expect(name, _FLOATS, (n,))
        return name


def group_order(
    tensors: Tensors, name: str, index: NDArray[np.int64], size: int, groups: int
) -> NDArray[np.int64] | None:
    """The inputs sorted by their group; None where they are that already."""
    if index.min() < 0 or index.max() >= groups:
        tensors.fail(name, f"must hold groups in 0..{groups - 1}, got {index.min()}..{index.max()}")
    straight = np.arange(len(index)) // size
    if np.array_equal(index, straight):
        return None
    if not np.array_equal(np.sort(index), straight):
        group = int(np.flatnonzero(np.bincount(index, minlength=groups) != np.bincount(straight))[0])
        count = int((index == group).sum())
        tensors.fail(name, f"must have {size} inputs in each group, got {count} in group {group}")
    return np.argsort(index, kind="stable")
