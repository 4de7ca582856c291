"""argmax, top_k and sample: which token comes next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from octavo._util.arrays import as_real_array, first_place
from octavo.functional._arrays import number, whole
from octavo.functional._rows import softmax

__all__ = ["argmax", "sample", "top_k"]

Indices: TypeAlias = npt.NDArray[np.int64]
Generator: TypeAlias = "np.random.Generator | np.random.BitGenerator"  # a string: `import octavo` loads no numpy.random

_RAW_64 = ("Philox", "PCG64", "PCG64DXSM", "SFC64")  # NumPy's generators whose raw numbers have 64 bits
_FIRST_CHOICES = 64  # of the likeliest that top_p looks at before it looks at more


def argmax(x: npt.ArrayLike) -> Indices | np.int64:
    """The index of the largest value along the last axis; of equal ones the lowest.

    Args:
        x: (..., n) real numbers, n >= 1, without NaN.

    Returns:
        int64 (...).

    Raises:
        TypeError: x is not real.
        ValueError: x is empty along its last axis, or holds NaN.

    Example:
        >>> from octavo.functional import argmax
        >>> argmax([[1, 3, 3], [2, 0, 1]])
        array([1, 0])
    """
    a = _rows_of(x, "x")
    index: Indices | np.int64 = np.argmax(a, axis=-1)
    largest = np.take_along_axis(a, np.expand_dims(index, -1), axis=-1)  # NaN where there is one
    _refuse_nan(a, largest, "x")
    return index


def top_k(x: npt.ArrayLike, k: int) -> tuple[npt.NDArray[Any], Indices]:
    """The k largest values along the last axis and their indices, largest first; of equal ones the lowest index first.

    Args:
        x: (..., n) real numbers without NaN.
        k: from 1 to n.

    Returns:
        (values, indices), each (..., k): values of the dtype of x, indices int64.

    Raises:
        TypeError: x is not real, or k not a whole number.
        ValueError: k is out of range, or x holds NaN.

    Notes:
        NumPy's argsort and argpartition leave open which of equal values come first, and so does torch.topk.

    Example:
        >>> from octavo.functional import top_k
        >>> top_k([1.0, 3.0, 2.0, 3.0], 3)
        (array([3., 3., 2.]), array([1, 3, 2]))
    """
    a = _rows_of(x, "x")
    whole(k, "k")
    if not 1 <= k <= a.shape[-1]:
        raise ValueError(f"k must be from 1 to {a.shape[-1]}, the length of x's last axis, got {k}")
    _refuse_nan(a, np.max(a, axis=-1), "x")
    indices = np.empty((*a.shape[:-1], int(k)), np.int64)
    for row, into in zip(a.reshape(-1, a.shape[-1]), indices.reshape(-1, int(k)), strict=True):
        into[:] = _top_of_row(row, int(k))
    return np.take_along_axis(a, indices, axis=-1), indices


def sample(
    logits: npt.ArrayLike,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generator | Sequence[Generator] | None = None,
) -> Indices | np.int64:
    """Draw an index along the last axis with the probabilities softmax(logits / temperature).

    Args:
        logits: (..., n) real numbers; -inf is never drawn.
        temperature: 0 takes the largest, as `argmax` does, and needs no generator.
        top_k: only the k largest are drawn.
        top_p: of these, only the likeliest whose probabilities first sum to at least top_p, in (0, 1].
        generator: where the random numbers come from: np.random.Philox(seed), PCG64, PCG64DXSM or SFC64, or a
            np.random.Generator over one. A list has one for each row of logits, so that a row does not depend on the
            others; a single one serves the rows in their order. It advances by one number for each row.

    Returns:
        int64 (...).

    Raises:
        TypeError: logits or a parameter is not real, top_k not a whole number, or the generator not one of these.
        ValueError: a parameter out of range, NaN or +inf in logits, a row of -inf alone, no generator, or another
            number of generators than rows.

    Notes:
        The same seed gives the same indices on every machine: NumPy promises the streams of its bit generators, and
        u = (random_raw() >> 11) * 2^-53. p is the `softmax` of (logits - max) / temperature, in float32, of those that
        top_k leaves, in their own order. With top_p they are sorted, the largest first, of equal ones the lowest index
        first. The first index is drawn whose cumulative sum, in float64, exceeds u times the whole sum.
        Source of top_p: Holtzman et al. 2020.

    Example:
        >>> import numpy as np
        >>> from octavo.functional import sample
        >>> generator = np.random.Philox(7)
        >>> [int(sample([0.0, 1.0, 2.0], temperature=1.5, top_p=0.9, generator=generator)) for _ in range(8)]
        [2, 2, 2, 2, 2, 2, 2, 0]
    """
    a = _rows_of(logits, "logits")
    with np.errstate(all="ignore"):
        heat = np.float32(number(temperature, "temperature"))
    if not 0 <= heat < np.inf:
        raise ValueError(f"temperature must be finite and at least 0, got {temperature!r}")
    if top_k is not None and whole(top_k, "top_k") < 1:
        raise ValueError(f"top_k must be at least 1, or None, got {top_k!r}")
    if top_p is not None and not 0 < number(top_p, "top_p") <= 1:
        raise ValueError(f"top_p must lie in (0, 1], or be None, got {top_p!r}")
    if heat == 0:
        return argmax(a)
    with np.errstate(all="ignore"):  # float64 beyond float32 becomes infinite
        rows = a.reshape(-1, a.shape[-1]).astype(np.float32, copy=False)
    largest = np.max(rows, axis=-1)
    _refuse_nan(rows, largest, "logits")
    if not np.isfinite(largest).all():
        raise ValueError(
            f"each row of logits must have a largest value that is finite, got {largest[~np.isfinite(largest)][0]}"
        )
    raw = [source.random_raw for source in _sources(generator, len(rows))]
    index = np.empty(len(rows), np.int64)
    for i, row in enumerate(rows):
        index[i] = _draw(row, largest[i], heat, top_k, top_p, (raw[i]() >> 11) * 2.0**-53)
    return index.reshape(a.shape[:-1])[()]


def _draw(
    row: npt.NDArray[np.float32], largest: np.float32, heat: np.float32, k: int | None, top_p: float | None, u: float
) -> int:
    with np.errstate(all="ignore"):
        z = (row - largest) / heat
    kept = np.arange(len(z)) if k is None or k >= len(z) else np.sort(_top_of_row(z, k))
    z = z[kept]
    p = softmax(z)
    if top_p is None:
        return int(kept[_first_beyond(np.cumsum(p, dtype=np.float64), u)])
    # Sorting a whole vocabulary takes longer than a layer of a model, so only the likeliest are sorted.
    first = min(_FIRST_CHOICES, len(z))
    while True:
        likeliest = _top_of_row(z, first)
        sums = np.cumsum(p[likeliest], dtype=np.float64)
        if sums[-1] >= top_p or first == len(z):
            sums = sums[: int(np.searchsorted(sums, top_p)) + 1]
            return int(kept[likeliest[_first_beyond(sums, u)]])
        first = min(8 * first, len(z))


def _first_beyond(sums: npt.NDArray[np.float64], u: float) -> int:
    return min(int(np.searchsorted(sums, u * sums[-1], side="right")), len(sums) - 1)


def _top_of_row(row: npt.NDArray[Any], k: int) -> Indices:
    """Indices of the k largest, in descending order. The smallest of them is a value, which no sort leaves open."""
    if k < len(row):
        least = np.partition(row, len(row) - k)[len(row) - k]
        above = np.flatnonzero(row > least)
        chosen = np.concatenate([above, np.flatnonzero(row == least)[: k - len(above)]])
        chosen.sort()
    else:
        chosen = np.arange(len(row))
    # A stable sort of what is reversed twice: descending, with equal values in ascending order of index.
    backwards = chosen[::-1]
    return backwards[np.argsort(row[backwards], kind="stable")][::-1]


def _sources(generator: Generator | Sequence[Generator] | None, rows: int) -> list[np.random.BitGenerator]:
    if generator is None:
        raise ValueError("generator must be given where temperature is not 0: np.random.Philox(seed)")
    given = list(generator) if isinstance(generator, Sequence) else [generator] * rows
    if len(given) != rows:
        raise ValueError(f"generator must be one, or one for each of the {rows} rows of logits, got {len(given)}")
    bits = [g.bit_generator if isinstance(g, np.random.Generator) else g for g in given]
    for b in bits:
        if type(b).__name__ not in _RAW_64 or not isinstance(b, np.random.BitGenerator):
            raise TypeError(f"generator must be one of numpy.random's {', '.join(_RAW_64)}, got {type(b).__name__}")
    return bits


def _rows_of(x: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    a = as_real_array(x, name)
    if a.ndim == 0 or a.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (..., n) with n >= 1, got {a.shape}")
    return a


def _refuse_nan(a: npt.NDArray[Any], largest: npt.NDArray[Any], name: str) -> None:
    if a.dtype.kind == "f" and np.isnan(largest).any():
        raise ValueError(f"{name} must not hold NaN, got it first at {first_place(np.isnan(a), name)}")
