"""Indexing a matrix whose rows are made on demand: the rows that an index needs come first, then NumPy takes from them.

    Q[5, 3]    Q[ids, :10]    Q[mask]    Q[..., None, 2]    Q[[1, 2], [3, 4]]       every index that NumPy allows

An index is tried on an outline first, an array of the matrix's shape with one byte of memory. So errors are NumPy's
own, and it is known whether a float array would have given a view.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._util.foreign import refuse_masked

__all__ = ["refuse_masked_indices", "rows_first"]

Ids = NDArray[np.int64]
# Gives some rows (len(ids), columns), or columns (rows, len(ids)), of the matrix, in a new array; None: all of them.
Lines = Callable[[Ids | None], NDArray[np.float32]]


def rows_first(index: Any, shape: tuple[int, int], rows: Lines, columns: Lines | None = None) -> Any:
    """values[index] for a matrix of this shape, read-only where it would be a view of the values.

    Args:
        index: any index of a 2-D array.
        shape: that of the matrix.
        rows: makes rows; ids are from 0 to shape[0] - 1.
        columns: makes columns, where that is possible without all of the rows.

    Raises:
        IndexError: as NumPy.
        TypeError: an index is a masked array.

    Example:
        >>> import numpy as np
        >>> values = np.arange(6, dtype=np.float32).reshape(3, 2)
        >>> rows = lambda ids: print("rows", ids) or values[slice(None) if ids is None else ids]
        >>> float(rows_first((2, 1), values.shape, rows))
        rows [2]
        5.0
        >>> rows_first(([True, False, True], [0, 1]), values.shape, rows)
        rows [0 2]
        array([0., 5.], dtype=float32)
    """
    if type(index) is np.ndarray and index.dtype.kind in "iu" and index.ndim:  # a lookup: the index that counts
        return rows(_checked(index.ravel(), shape[0])).reshape(*index.shape, shape[1])
    refuse_masked_indices(index)
    outline = np.ndarray(shape, np.bool_, b"\0", 0, (0, 0))
    try:
        is_view = np.may_share_memory(outline[index], outline)
    except OverflowError as error:  # of an unsigned number beyond int64
        raise IndexError(f"index {index} is out of bounds for a matrix of shape {shape}") from error
    entries = _expanded(index)
    of_rows, of_columns = _places(entries)
    pairs = all(at is not None and not isinstance(entries[at], slice) for at in (of_rows, of_columns))
    row_ids, row_entry = _needed(entries, of_rows, shape[0], unique=pairs)
    column_ids, column_entry = _needed(entries, of_columns, shape[1], unique=pairs)
    row_share = 1.0 if row_ids is None else len(row_ids) / max(shape[0], 1)
    column_share = 1.0 if column_ids is None else len(column_ids) / max(shape[1], 1)
    if columns is not None and column_share < row_share:
        values, at, entry = columns(column_ids), of_columns, column_entry
    else:
        values, at, entry = rows(row_ids), of_rows, row_entry
    if at is not None:
        entries[at] = entry
    result = values[tuple(entries)]
    if is_view:
        result.flags.writeable = False
    return result


def refuse_masked_indices(index: Any) -> None:
    """Raises TypeError where an index has a masked array, whose mask would be lost."""
    for entry in index if type(index) is tuple else (index,):
        refuse_masked(entry, "indices")


def _expanded(index: Any) -> list[Any]:
    """The entries of an index; a mask of n axes becomes the n arrays of integers that NumPy takes it for."""
    entries: list[Any] = []
    for entry in index if type(index) is tuple else (index,):
        if entry is None or entry is Ellipsis or isinstance(entry, slice):
            entries.append(entry)
            continue
        a = np.asarray(entry)
        if a.dtype == np.bool_ and a.ndim:
            entries.extend(a.nonzero())
        elif a.dtype == np.bool_:
            entries.append(bool(a))
        else:
            entries.append((a if a.size else a.astype(np.int64)) if a.ndim else operator.index(a[()]))
    return entries


def _places(entries: list[Any]) -> tuple[int | None, int | None]:
    """Which entry stands for the rows and which for the columns; None where none does, which means all of them."""
    takes_an_axis = [e is not None and e is not Ellipsis and not isinstance(e, bool) for e in entries]
    found: list[int | None] = [None, None]
    axis = 0
    for i, entry in enumerate(entries):
        if takes_an_axis[i]:
            found[axis] = i
            axis += 1
        elif entry is Ellipsis:
            axis += 2 - sum(takes_an_axis)
    return found[0], found[1]


def _needed(entries: list[Any], at: int | None, length: int, *, unique: bool) -> tuple[Ids | None, Any]:
    """The indices of one axis that its entry needs, and the entry that finds the same among these alone."""
    entry = slice(None) if at is None else entries[at]
    if isinstance(entry, slice):
        ids = np.arange(length)[entry]
        return (None, entry) if len(ids) == length else (ids, slice(None))
    if isinstance(entry, int):
        return np.array([entry % length]), 0
    ids = _checked(entry.ravel(), length)
    if not unique:
        return ids, np.arange(ids.size).reshape(entry.shape)
    ids, inverse = np.unique(ids, return_inverse=True)
    return ids, inverse.reshape(entry.shape)


def _checked(ids: NDArray[np.integer[Any]], length: int) -> Ids:
    """Each from 0 to length - 1, negative ones counted from the end."""
    outside = ids >= length  # before anything is converted, which a large unsigned number would not survive
    if ids.dtype.kind == "i":
        outside |= ids < -length
    if outside.any():
        bad = int(ids[outside.argmax()])
        raise IndexError(f"index {bad} is out of bounds for axis 0 with size {length}")
    ids = ids.astype(np.int64, copy=False)
    return np.where(ids < 0, ids + length, ids)
