"""Float rows of a checkpoint, a block at a time, and the integers that they become.

Rows are quantized independently of each other, so blocks change nothing, and memory stays near one block whatever the
size of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo._files.checkpoint import Checkpoint
from octavo._files.header import widened
from octavo._files.items import Matrix
from octavo._files.linear_codecs import WeightFormat
from octavo._numerics.checks import check_group_size, is_int4
from octavo._numerics.definition import quantize_weight
from octavo._numerics.int4 import ScaleDtype, pack_int4
from octavo._numerics.params import QTypeLike
from octavo._numerics.rounding import round_nearest, round_search

__all__ = [
    "BLOCK_ELEMS",
    "GROUP_SIZE",
    "Rounder",
    "Rounding",
    "make_rounder",
    "quantized_blocks",
    "row_blocks",
    "rows_at",
]

BLOCK_ELEMS = 1 << 20
GROUP_SIZE = 128  # of int4 weights, where the user names none

Rounding = Literal["nearest", "search"]
Rounder = Callable[[NDArray[Any]], dict[str, NDArray[Any]]]


def make_rounder(
    dtype: QTypeLike, group_size: int | None, symmetric: bool, scale_dtype: ScaleDtype, rounding: Rounding | None
) -> tuple[WeightFormat, Rounder]:
    """How weights are stored, and what makes their tensors, by suffix, of a block of rows.

    Raises:
        ValueError: an option is unknown, or not for this type.
    """
    given = None if group_size == GROUP_SIZE else group_size
    if not is_int4(dtype, group_size=given, symmetric=symmetric, scale_dtype=scale_dtype, rounding=rounding):
        return WeightFormat(), _rounded_to_int8
    check_group_size(group_size)
    choose = round_nearest if rounding == "nearest" else round_search

    def rounded(block: NDArray[Any]) -> dict[str, NDArray[Any]]:
        found = choose(block, group_size=group_size, symmetric=symmetric, scale_dtype=scale_dtype)
        tensors: dict[str, NDArray[Any]] = {"weight": pack_int4(found.q), "scale": found.scale.astype(scale_dtype)}
        return tensors if found.zero_point is None else tensors | {"zero_point": found.zero_point}

    return WeightFormat("int4", group_size, symmetric, scale_dtype), rounded


def _rounded_to_int8(block: NDArray[Any]) -> dict[str, NDArray[Any]]:
    q, scale = quantize_weight(block)
    return {"weight": q, "scale": scale}


def row_blocks(checkpoint: Checkpoint, matrix: Matrix) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, rows) of a matrix as (out, in), about a million elements at a time; bfloat16 as float32."""
    raw = _as_rows(checkpoint, matrix)
    step = max(1, BLOCK_ELEMS // max(1, raw.shape[1]))
    for start in range(0, len(raw), step):
        yield start, widened(raw[start : start + step], checkpoint.tensors[matrix.tensor].dtype)


def rows_at(checkpoint: Checkpoint, matrix: Matrix, rows: NDArray[np.intp]) -> NDArray[Any]:
    """The rows of these numbers; the others are not read."""
    return widened(_as_rows(checkpoint, matrix)[rows], checkpoint.tensors[matrix.tensor].dtype)


def _as_rows(checkpoint: Checkpoint, matrix: Matrix) -> NDArray[Any]:
    """A view of the matrix as (out, in), in the bits of the file."""
    raw = checkpoint.raw(matrix.tensor)
    raw = raw if matrix.index is None else raw[matrix.index]
    n, k = matrix.shape
    return raw.reshape(n, k) if matrix.layout == "out_in" else raw.reshape(k, n).T


def quantized_blocks(
    checkpoint: Checkpoint, matrix: Matrix, rounder: Rounder
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """(number of elements, tensors by suffix) of one block of rows after the other.

    Raises:
        ValueError: a row cannot be quantized; the message names the file, the tensor and the row.
    """
    for start, values in row_blocks(checkpoint, matrix):
        with np.errstate(all="ignore"):
            block = values.astype(np.float32) if values.dtype == np.float64 else values
        bad = ~np.isfinite(block)
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            value = f"{values[row, column]!s} at input {column} is not finite in float32"
            raise ValueError(_complaint(checkpoint, matrix, start + row, value))
        try:
            found = rounder(block)
        except ValueError as error:
            row, why = _first_bad_row(block, rounder) or (0, str(error))
            raise ValueError(_complaint(checkpoint, matrix, start + row, why)) from error
        yield block.size, found


def _first_bad_row(block: NDArray[Any], rounder: Rounder) -> tuple[int, str] | None:
    for row in range(len(block)):
        try:
            rounder(block[row : row + 1])
        except ValueError as error:
            return row, str(error)
    return None


def _complaint(checkpoint: Checkpoint, matrix: Matrix, row: int, why: str) -> str:
    of = "" if matrix.index is None else f" of matrix {matrix.index}"
    name = matrix.tensor
    return f"{checkpoint.file_of(name)}: {name}, row {row}{of}: {why}; leave it as it is with --exclude {name}"
