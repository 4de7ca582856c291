"""KVCache: the keys and values of the positions that a model has seen."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo import _core
from octavo._util.arrays import as_real_array, contiguous
from octavo._util.foreign import as_array
from octavo._util.transient import Transient
from octavo.functional._arrays import whole

__all__ = ["KVCache", "KVLayer"]

Floats = npt.NDArray[np.float32]
Lengths = npt.NDArray[np.int64]

LANES = 16  # positions of a block of keys, and dimensions of a panel of values


class KVCache(Transient):
    """Keys and values of every layer, in float32, for a batch of sequences of different lengths.

    A pass through the model takes three steps:

        positions = cache.extend(counts)        room for so many new positions of each sequence
        cache[i].write(k, v)                    in layer i, the keys and values at these positions
        attention(q, cache[i], causal=True)     each query sees its sequence up to its own position

    New positions of all sequences lie behind one another, as rows: those of sequence 0, then those of sequence 1. So a
    model computes on (rows, features), whether these are one prompt, many of different lengths, or one token each.

    Args:
        layers: how many layers write keys and values.
        capacity: the most positions of one sequence.
        kv_heads: heads of keys and values.
        head_dim: dimensions of a head.
        batch: how many sequences.

    Raises:
        TypeError, ValueError: a size that is not a positive whole number.

    Notes:
        The memory is reserved at once, and the operating system provides it as positions are written. It does not grow:
        beyond `capacity`, `extend` is a ValueError and changes nothing. A sequence that has ended costs nothing if its
        count is 0, and `truncate` makes room for another one in its place.

        Keys lie as [position / 16][dimension][position % 16], values as [dimension / 16][position][dimension % 16]:
        what the kernels read from one end to the other, without copies.

        Copies and pickles have the positions that sequences have, and room for as many more. A cache is what a model
        has seen, not a part of it: `octavo.save` does not store one, and `octavo.load` leaves it as it is.

    Example:
        >>> import numpy as np
        >>> from octavo.functional import KVCache, attention
        >>> cache = KVCache(layers=1, capacity=8, kv_heads=1, head_dim=4, batch=2)
        >>> cache.extend([3, 1])
        array([0, 1, 2, 0])
        >>> x = np.ones((4, 1, 4), np.float32)
        >>> cache[0].write(x, x)
        >>> attention(x, cache[0], causal=True).shape
        (4, 1, 4)
        >>> cache.extend(1), cache.lengths
        (array([3, 1]), array([4, 2]))
    """

    __slots__ = (
        "_before", "_counts", "_keys", "_layers", "_lengths", "_rows", "_scale", "_values",
        "batch", "capacity", "head_dim", "kv_heads",
    )  # fmt: skip

    def __init__(self, layers: int, capacity: int, kv_heads: int, head_dim: int, batch: int = 1) -> None:
        sizes = {"layers": layers, "capacity": capacity, "kv_heads": kv_heads, "head_dim": head_dim, "batch": batch}
        for name, size in sizes.items():
            if whole(size, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.capacity, self.kv_heads, self.head_dim, self.batch = map(int, (capacity, kv_heads, head_dim, batch))
        self._scale = 1 / math.sqrt(self.head_dim)
        blocks, panels = -(-self.capacity // LANES), -(-self.head_dim // LANES)
        heads = (int(layers), self.batch, self.kv_heads)
        self._keys = _aligned_zeros((*heads, blocks, self.head_dim, LANES))
        self._values = _aligned_zeros((*heads, panels, blocks * LANES, LANES))
        self._lengths: Lengths = np.zeros(self.batch, np.int64)
        self._before, self._counts, self._rows = self._lengths, np.zeros(self.batch, np.int64), 0
        self._layers = [KVLayer(self, i) for i in range(int(layers))]

    def __getstate__(self) -> dict[str, Any]:
        """Sizes, lengths, which are told apart by identity, and the blocks that hold each sequence's positions."""
        used = [-(-length // LANES) for length in self._lengths.tolist()]
        return {
            "sizes": (len(self), self.capacity, self.kv_heads, self.head_dim, self.batch),
            "lengths": (self._before, self._lengths, *(layer._lengths for layer in self._layers)),
            "counts": self._counts,
            "keys": [self._keys[:, b, :, :blocks] for b, blocks in enumerate(used)],
            "values": [self._values[:, b, :, :, : blocks * LANES] for b, blocks in enumerate(used)],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        KVCache.__init__(self, *state["sizes"])
        self._before, self._lengths, *written = state["lengths"]
        for layer, lengths in zip(self._layers, written, strict=True):
            layer._lengths = lengths
        self._counts = state["counts"]
        self._rows = int(self._counts.sum())
        for b, (keys, values) in enumerate(zip(state["keys"], state["values"], strict=True)):
            self._keys[:, b, :, : keys.shape[2]] = keys
            self._values[:, b, :, :, : values.shape[3]] = values

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self._layers)

    def __getitem__(self, layer: int) -> KVLayer:
        """Layer `layer`, to write to and to attend to."""
        return self._layers[layer]

    def __repr__(self) -> str:
        return (
            f"KVCache(layers={len(self)}, capacity={self.capacity}, kv_heads={self.kv_heads}, "
            f"head_dim={self.head_dim}, batch={self.batch}, lengths={self._lengths.tolist()})"
        )

    @property
    def lengths(self) -> Lengths:
        """How many positions each sequence has, (batch,)."""
        return self._lengths.copy()

    @property
    def counts(self) -> Lengths:
        """How many positions of each sequence the last `extend` added, (batch,)."""
        return self._counts.copy()

    @property
    def nbytes(self) -> int:
        """The bytes reserved, whether or not positions have been written."""
        return self._keys.nbytes + self._values.nbytes

    def extend(self, counts: int | Sequence[int] | Lengths) -> Lengths:
        """Make room for new positions in every layer.

        Args:
            counts: how many for each sequence, (batch,), 0 where it has ended; or one number for all.

        Returns:
            The new positions, (sum of counts,) int64: lengths[0], lengths[0] + 1, ..., then those of sequence 1.

        Raises:
            TypeError: counts that are not whole numbers.
            ValueError: another number of counts than sequences, a negative one, or a sequence that would exceed the
                capacity. The cache is then as before.
        """
        new, before = self._per_sequence(counts, "counts"), self._lengths.tolist()
        after = [length + count for length, count in zip(before, new, strict=True)]
        if max(after) > self.capacity:
            b = next(b for b, length in enumerate(after) if length > self.capacity)
            raise ValueError(
                f"sequence {b} has {before[b]} positions, and {new[b]} more exceed the capacity of {self.capacity}; "
                "make the cache larger, or truncate it"
            )
        positions = [np.arange(*bounds, dtype=np.int64) for bounds in zip(before, after, strict=True)]
        self._before, self._lengths = self._lengths, np.array(after, np.int64)
        self._counts, self._rows = np.array(new, np.int64), sum(new)
        return positions[0] if len(positions) == 1 else np.concatenate(positions)

    def truncate(self, lengths: int | Sequence[int] | Lengths) -> None:
        """Keep only the first positions of each sequence: `lengths`, (batch,) or one number for all; 0 clears it.

        After an exception or Ctrl-C in the middle of a pass, truncate to the lengths that were there before it.

        Raises:
            TypeError: lengths that are not whole numbers.
            ValueError: another number of lengths than sequences, or one beyond what the sequence has.
        """
        keep = self._per_sequence(lengths, "lengths")
        for b, (new, old) in enumerate(zip(keep, self._lengths.tolist(), strict=True)):
            if new > old:
                raise ValueError(f"lengths must be at most those there are, got {new} for sequence {b} of {old}")
        kept = np.array(keep, np.int64)
        for layer in self._layers:
            layer._truncate(kept)
        self._lengths = self._before = kept
        self._counts, self._rows = np.zeros(self.batch, np.int64), 0

    def _per_sequence(self, numbers: int | Sequence[int] | Lengths, name: str) -> list[int]:
        a = as_array(numbers, name)
        if a.dtype.kind not in "iu":
            raise TypeError(f"{name} must be whole numbers, got {type(numbers).__name__} of dtype {a.dtype}")
        if a.shape not in ((), (self.batch,)):
            raise ValueError(f"{name} must have shape ({self.batch},), one for each sequence, got {a.shape}")
        each: list[int] = a.tolist() if a.ndim else [int(a)] * self.batch
        if min(each) < 0:
            raise ValueError(f"{name} must not be negative, got {a.tolist()}")
        return each


def _aligned_zeros(shape: tuple[int, ...]) -> Floats:
    """np.zeros, whose pages are provided as they are written, at the start of a cache line: no register spans two."""
    size = math.prod(shape)
    whole = np.zeros(size + LANES, np.float32)
    first = -whole.ctypes.data % (4 * LANES) // 4
    return whole[first : first + size].reshape(shape)


class KVLayer(Transient):
    """One layer of a `KVCache`: what `attention` takes in the place of k and v."""

    __slots__ = ("_cache", "_index", "_lengths")

    def __init__(self, cache: KVCache, index: int) -> None:
        self._cache, self._index, self._lengths = cache, index, cache._lengths

    def __repr__(self) -> str:
        return f"<layer {self._index} of {self._cache!r}>"

    def __reduce__(self) -> tuple[Callable[[KVCache, int], KVLayer], tuple[KVCache, int]]:
        return operator.getitem, (self._cache, self._index)  # that layer of the copied cache

    @property
    def cache(self) -> KVCache:
        """The cache that the layer belongs to."""
        return self._cache

    def write(self, k: npt.ArrayLike, v: npt.ArrayLike) -> None:
        """Store the keys and values at the positions that the last `KVCache.extend` added.

        Args:
            k, v: (rows, kv_heads, head_dim) real numbers with a row for each of the positions, in their order; or
                (batch, T, kv_heads, head_dim), where each sequence got T of them. float32 is stored.

        Raises:
            TypeError: k or v is not real.
            ValueError: shapes that do not fit, or an earlier `extend` whose positions this layer never got. Nothing has
                been written then.
        """
        cache = self._cache
        if self._lengths is not cache._before and self._lengths is not cache._lengths:
            raise ValueError(
                f"layer {self._index} lacks positions of an earlier extend(): write to every layer after each, or "
                "truncate() to the lengths before"
            )
        place = (cache._keys, cache._values, self._index, cache._lengths, cache._counts)
        if not _core.write_cache(*place, k, v):
            written = _core.write_cache(*place, self._rows(k, "k"), self._rows(v, "v"))
            assert written, "plain rows that fit are always taken"
        self._lengths = cache._lengths

    def keys(self, sequence: int = 0) -> Floats:
        """A copy of a sequence's keys, (positions, kv_heads, head_dim)."""
        blocks = self._cache._keys[self._index, sequence].transpose(1, 3, 0, 2)
        rows: Floats = blocks.reshape(-1, *blocks.shape[2:])[: self._lengths[sequence]].copy()
        return rows

    def values(self, sequence: int = 0) -> Floats:
        """A copy of a sequence's values, (positions, kv_heads, head_dim)."""
        panels = self._cache._values[self._index, sequence].transpose(2, 0, 1, 3)
        rows = panels.reshape(*panels.shape[:2], -1)[: self._lengths[sequence]]
        values: Floats = rows[..., : self._cache.head_dim].copy()
        return values

    def _rows(self, x: npt.ArrayLike, name: str) -> Floats:
        cache, a = self._cache, as_real_array(x, name)
        shape = (cache._rows, cache.kv_heads, cache.head_dim)
        even = a.ndim == 4 and a.shape[0] == cache.batch and bool((cache._counts == a.shape[1]).all())
        if a.shape != shape and not (even and a.shape[2:] == shape[1:]):
            raise ValueError(
                f"{name} must have shape {shape}, a row for each position that extend() added "
                f"({cache._counts.tolist()}), got {a.shape}"
            )
        return contiguous(a).reshape(shape)

    def _truncate(self, lengths: Lengths) -> None:
        if (self._lengths >= lengths).all():
            self._lengths = lengths
