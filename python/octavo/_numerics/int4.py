"""Four-bit integers: two to a byte, and weights whose groups along K have a scale of their own.

    w'[n, k] = (q[n, k] - zero_point[n, k // g]) * scale[n, k // g]        q in -8..7

A scale may be negative: the search for the best one puts the extreme of a group on -8, which has no counterpart on the
other side.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from octavo._util.arrays import contiguous, row_blocks
from octavo._util.floating import quiet
from octavo._util.foreign import as_array

__all__ = ["GroupedWeight", "ScaleDtype", "check_groups", "pack_int4", "unpack_int4"]

ScaleDtype = Literal["float32", "float16"]
_SCALE_DTYPES: tuple[ScaleDtype, ...] = ("float32", "float16")


def pack_int4(q: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Packs two four-bit integers into a byte, along the last axis: byte i = (q[2i] & 15) | (q[2i + 1] & 15) << 4.

    The first of a pair lies in the low nibble, as ONNX stores int4 and uint4. An odd last axis is padded with a zero.
    Each row starts at a byte of its own; ONNX flattens a tensor first, as in `pack_int4(q.reshape(-1))`.

    Args:
        q: int8 array of -8..7, uint8 array of 0..15, or ml_dtypes' int4 or uint4; at least 1-D.

    Returns:
        uint8 array (..., ceil(n / 2)) for q of shape (..., n).

    Raises:
        TypeError: q is neither int8 nor uint8.
        ValueError: a value does not fit four bits, or q has no axis.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.pack_int4(np.array([1, -1, 7], np.int8))
        array([241,   7], dtype=uint8)
    """
    values = as_array(q, "q")
    if values.dtype.name in ("int4", "uint4"):  # of ml_dtypes, one integer a byte
        values = values.astype(np.int8 if values.dtype.name == "int4" else np.uint8)
    if values.dtype not in (np.int8, np.uint8):
        raise TypeError(f"q must be an int8 or uint8 array, got dtype {values.dtype}")
    if values.ndim == 0:
        raise ValueError("q must have at least one axis, got a scalar")
    low, high = (-8, 7) if values.dtype == np.int8 else (0, 15)
    if values.size and (values.min() < low or values.max() > high):
        raise ValueError(f"q must hold {low}..{high}, got {values.min()}..{values.max()}")
    nibbles = values.view(np.uint8) & np.uint8(15)
    packed = nibbles[..., ::2].copy()
    packed[..., : values.shape[-1] // 2] |= nibbles[..., 1::2] << np.uint8(4)
    return packed


def unpack_int4(packed: npt.ArrayLike, length: int, *, signed: bool = True) -> npt.NDArray[Any]:
    """The integers that `pack_int4` packed.

    Args:
        packed: uint8 array (..., ceil(length / 2)).
        length: integers along the last axis.
        signed: True: int8 of -8..7; False: uint8 of 0..15.

    Returns:
        int8 or uint8 array (..., length).

    Raises:
        TypeError: packed is not uint8.
        ValueError: its last axis does not hold `length` integers.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.unpack_int4(np.array([241, 7], np.uint8), 3)
        array([ 1, -1,  7], dtype=int8)
    """
    data = as_array(packed, "packed")
    length = operator.index(length)
    if data.dtype != np.uint8:
        raise TypeError(f"packed must be a uint8 array, got dtype {data.dtype}")
    if length < 0 or data.ndim == 0 or data.shape[-1] != (length + 1) // 2:
        raise ValueError(
            f"packed must have {(max(length, 0) + 1) // 2} bytes along its last axis to hold {length} integers, "
            f"got shape {data.shape}"
        )
    nibbles = np.empty((*data.shape[:-1], 2 * data.shape[-1]), np.uint8)
    nibbles[..., ::2] = data & np.uint8(15)
    nibbles[..., 1::2] = data >> np.uint8(4)
    nibbles = nibbles[..., :length]
    return ((nibbles ^ np.uint8(8)) - np.uint8(8)).view(np.int8) if signed else nibbles


@dataclass(frozen=True, slots=True, eq=False)
class GroupedWeight:
    """A matrix of four-bit integers with a scale, and perhaps a zero point, for each group of consecutive k.

        w'[n, k] = (q[n, k] - zero_point[n, k // g]) * scale[n, k // g]

    `round_nearest`, `round_search` and `round_gptq` return it; `QuantLinear.from_grouped` takes it.

    Args:
        q: (N, K) int8 of -8..7.
        scale: (N, G) with G = ceil(K / group_size): finite, not zero; negative ones are fine. Held as float32.
        zero_point: (N, G) int8 of -8..7; None: all zero.
        group_size: consecutive k that share a scale; the last group may be shorter. None: one group a row.
        scale_dtype: "float32", or "float16" where every scale is a float16 number.

    Raises:
        TypeError: q or zero_point is not int8, or scale is not real.
        ValueError: shapes do not fit, or a value is outside its range.

    Example:
        >>> import numpy as np, octavo as oc
        >>> w = oc.GroupedWeight(np.array([[-8, 7, 1]], np.int8), [[-0.5, 2.0]], group_size=2)
        >>> w.dequantize()
        array([[ 4. , -3.5,  2. ]], dtype=float32)
    """

    q: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int8] | None = None
    group_size: int | None = None
    scale_dtype: ScaleDtype = "float32"

    def __post_init__(self) -> None:
        q, size = as_array(self.q, "q"), self.group_size
        if q.dtype != np.int8:
            raise TypeError(f"q must be an int8 array, got dtype {q.dtype}")
        if q.ndim != 2:
            raise ValueError(f"q must be 2-D (out, in), got shape {q.shape}")
        _require_int4(q, "q")
        if size is not None:
            size = operator.index(size)
            if size < 1:
                raise ValueError(f"group_size must be at least 1, got {size}; None makes one group of each row")
        if self.scale_dtype not in _SCALE_DTYPES:
            raise ValueError(f"scale_dtype must be one of {_SCALE_DTYPES}, got {self.scale_dtype!r}")
        groups = (q.shape[0], 1 if size is None else -(-q.shape[1] // size))
        zero_point = self.zero_point
        if zero_point is not None:
            zero_point = as_array(zero_point, "zero_point")
            if zero_point.dtype != np.int8:
                raise TypeError(f"zero_point must be an int8 array, got dtype {zero_point.dtype}")
            if zero_point.shape != groups:
                raise ValueError(f"zero_point must have shape {groups} for q {q.shape}, got {zero_point.shape}")
            _require_int4(zero_point, "zero_point")
        values = (q, _valid_scale(self.scale, groups, self.scale_dtype), zero_point, size)
        for name, value in zip(("q", "scale", "zero_point", "group_size"), values, strict=True):
            object.__setattr__(self, name, value)

    @property
    def nbytes(self) -> int:
        """Bytes when stored: two integers a byte, scales in scale_dtype, zero points one byte each."""
        n, k = self.q.shape
        zero_points = 0 if self.zero_point is None else self.zero_point.size
        return int(n * ((k + 1) // 2) + self.scale.size * np.dtype(self.scale_dtype).itemsize + zero_points)

    def dequantize(self) -> npt.NDArray[np.float32]:
        """w' (N, K): one float32 rounding an element."""
        return dequantize_groups(self.q, self.scale, self.zero_point, self.group_size)


@quiet
def dequantize_groups(
    q: npt.NDArray[np.int8],
    scale: npt.NDArray[Any],
    zero_point: npt.NDArray[np.int8] | None,
    group_size: int | None,
) -> npt.NDArray[np.float32]:
    """(q - z) * s of rows (..., K) whose groups lie along the last axis: one float32 rounding an element.

    Example:
        >>> import numpy as np
        >>> dequantize_groups(np.array([[1, 2, 3]], np.int8), np.float32([[10, 100]]), None, 2)
        array([[ 10.,  20., 300.]], dtype=float32)
    """
    values = q.astype(np.float32)
    k, groups = values.shape[-1], scale.shape[-1]
    size = max(group_size or k, 1)
    whole = min(k // size, groups)
    split = values[..., : whole * size].reshape(*values.shape[:-1], whole, size)  # a view: one axis becomes two
    for part, group in ((split, slice(whole)), (values[..., None, whole * size :], slice(whole, groups))):
        if part.size:
            if zero_point is not None:
                part -= zero_point[..., group, None]
            part *= scale[..., group, None]
    return values


def check_groups(scale: npt.NDArray[Any], zero_point: npt.NDArray[np.int8] | None) -> None:
    """Raises ValueError for scales (N, G) or zero points that no `GroupedWeight` has."""
    _valid_scale(scale, scale.shape, "float32")
    if zero_point is not None:
        _require_int4(zero_point, "zero_point")


def _require_int4(values: npt.NDArray[np.int8], name: str) -> None:
    if values.size and (values.min() < -8 or values.max() > 7):
        raise ValueError(f"{name} must hold -8..7, got {values.min()}..{values.max()}")


def _valid_scale(scale: Any, shape: tuple[int, int], dtype: ScaleDtype) -> npt.NDArray[np.float32]:
    values = as_array(scale, "scale")
    if values.dtype.kind not in "fiu":
        raise TypeError(f"scale must be real numbers, got dtype {values.dtype}")
    if values.shape != shape:
        raise ValueError(f"scale must have shape {shape}, one for each group of each row, got {values.shape}")
    values = contiguous(values)
    rules = {"finite and not zero": _not_usable} | ({"a float16 number": _not_float16} if dtype == "float16" else {})
    for what, wrong in rules.items():
        if any(wrong(values[rows]).any() for rows in row_blocks(shape)):
            at = tuple(int(i) for i in np.argwhere(wrong(values))[0])
            raise ValueError(f"scale must be {what}, got {values[at]} at {list(at)}")
    return values


def _not_usable(scale: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    wrong: npt.NDArray[np.bool_] = ~np.isfinite(scale) | (scale == 0)
    return wrong


def _not_float16(scale: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    with np.errstate(all="ignore"):
        wrong: npt.NDArray[np.bool_] = scale.astype(np.float16) != scale
    return wrong
