"""Weights as quantized files hold them: integer codes with parameters for groups of consecutive k.

    one level     w[n, k] = (c - z[n, g]) * d[n, g] + m[n, g]                     g = k // group_size
    two levels    w[n, k] = (D[n, s] * sc[n, g]) * c - (Dmin[n, s] * mn[n, g])    s = k // 256

where z, m and mn may be absent. `grouped_definition.py` beside this file says what a product with such weights is.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo._util.floating import quiet
from octavo._util.foreign import refuse_masked

__all__ = ["BITS", "GROUP_SIZES", "SUPER_BLOCK", "GroupedCodes", "dequantize_columns", "each_array", "join_rows"]

GROUP_SIZES = (16, 32, 64, 128, 256)
SUPER_BLOCK = 256  # k that share the floats of two-level scales

BITS = (4, 5, 6, 8)  # of codes


@dataclass(frozen=True, slots=True, eq=False)
class GroupedCodes:
    """A matrix of codes of 4 to 8 bits, with scales and offsets for groups of consecutive k.

        w[n, k] = (codes[n, k] - zero_point[n, g]) * scale[n, g] + minimum[n, g]            g = k // group_size

    With `group_scale`, small integers a group multiply a float for each 256 k, s = k // 256:

        w[n, k] = (scale[n, s] * group_scale[n, g]) * codes[n, k] - (minimum[n, s] * group_minimum[n, g])

    Each float operation rounds once, in this order. What is None is absent, not zero: it costs nothing.

    Args:
        codes: (N, K) int8 of -2^(bits - 1) .. 2^(bits - 1) - 1, or uint8 of 0 .. 2^bits - 1.
        scale: (N, K / group_size), or (N, K / 256) beside group_scale; float32 or float16, finite. Zero and negative
            scales are fine.
        bits: 4, 5, 6 or 8: what a code takes in memory.
        group_size: 16, 32, 64, 128 or 256, which divides K; None: one group a row.
        zero_point: (N, groups) of the codes' dtype and range; up to 16 beside unsigned codes of 4 bits, as GPTQ has it.
        minimum: of scale's shape and dtype, finite.
        group_scale: (N, groups) int8 or uint8; K must be a multiple of 256, and group_size at most 128.
        group_minimum: (N, groups) uint8, where there are group_scale and minimum.

    Raises:
        TypeError: an array has another dtype.
        ValueError: shapes do not fit, a value is outside its range, a weight would not be finite, or the combination is
            not defined: zero_point beside minimum or group_scale, one of minimum and group_minimum beside group_scale.

    Example:
        >>> import numpy as np
        >>> from octavo._numerics.grouped import GroupedCodes
        >>> codes = np.arange(32, dtype=np.uint8)[None] % 16
        >>> w = GroupedCodes(codes, np.float16([[0.5]]), bits=4, group_size=32, minimum=np.float16([[-1.0]]))
        >>> w.dequantize()[0, :4]
        array([-1. , -0.5,  0. ,  0.5], dtype=float32)
    """

    codes: npt.NDArray[Any]
    scale: npt.NDArray[Any]
    bits: int = 8
    group_size: int | None = None
    zero_point: npt.NDArray[Any] | None = None
    minimum: npt.NDArray[Any] | None = None
    group_scale: npt.NDArray[Any] | None = None
    group_minimum: npt.NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        _check_codes(self.codes, self.bits)
        n, k = self.codes.shape
        _check_group_size(self.group_size, k)
        two_level = self.group_scale is not None
        if two_level:
            _check_two_levels(self)
        elif self.group_minimum is not None:
            raise ValueError("group_minimum needs group_scale: minima of two levels belong to scales of two levels")
        if self.zero_point is not None:
            if two_level or self.minimum is not None:
                raise ValueError("zero_point is not defined beside minimum or group_scale; give one of them")
            reach = 1 if self.codes.dtype == np.uint8 and self.bits == 4 else 0
            _check_integers(self.zero_point, "zero_point", (n, self.groups), (self.codes.dtype,), self.bits, reach)
        floats = (n, k // SUPER_BLOCK if two_level else self.groups)
        _check_floats(self.scale, "scale", floats, (np.dtype(np.float32), np.dtype(np.float16)))
        if self.minimum is not None:
            _check_floats(self.minimum, "minimum", floats, (self.scale.dtype,))
        self._check_finite()

    def _check_finite(self) -> None:
        """float32 may overflow where the scales are large: weights have to be finite."""
        largest = 255.0 * (128.0 if self.group_scale is None else 255.0 * 255.0)
        reach = np.abs(self.scale).max(initial=0).astype(np.float64) * largest
        if self.minimum is not None:
            reach += np.abs(self.minimum).max(initial=0).astype(np.float64) * 255.0
        if reach >= np.finfo(np.float32).max and not np.isfinite(self.dequantize()).all():
            raise ValueError("weights must be finite in float32; a code times its scale overflows")

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return 1 if self.group_size is None else self.codes.shape[1] // self.group_size

    @property
    def shape(self) -> tuple[int, int]:
        n, k = self.codes.shape
        return n, k

    @property
    def nbytes(self) -> int:
        """Bytes when stored: codes at their width, everything else as it is."""
        n, k = self.shape
        arrays = (self.scale, self.zero_point, self.minimum, self.group_scale, self.group_minimum)
        return int(n * ((k * self.bits + 7) // 8) + sum(a.nbytes for a in arrays if a is not None))

    @quiet
    def dequantize(self) -> npt.NDArray[np.float32]:
        """w (N, K) float32."""
        n, k = self.shape
        size = k if self.group_size is None else self.group_size
        values = self.codes.astype(np.float32).reshape(n, self.groups, size)
        if self.zero_point is not None:
            values -= self.zero_point.astype(np.float32)[:, :, None]
        values *= self.group_scales()[:, :, None]
        if self.minimum is not None:
            minima = _levels(self.minimum, self.group_minimum, self.group_size)[:, :, None]
            values = values - minima if self.group_scale is not None else values + minima
        return values.reshape(n, k)

    @quiet
    def group_scales(self) -> npt.NDArray[np.float32]:
        """(N, groups) float32: what a code is multiplied by, the product of both levels where there are two."""
        return _levels(self.scale, self.group_scale, self.group_size)

    def rows(self, index: Any) -> GroupedCodes:
        """The weights of some outputs: an index of axis 0 that leaves it an axis."""
        cut: GroupedCodes = each_array([self], lambda a: a[0][index])
        return cut


@quiet
def dequantize_columns(
    codes: npt.NDArray[Any],
    inputs: npt.NDArray[np.int64],
    group_size: int | None,
    scale: npt.NDArray[Any],
    zero_point: npt.NDArray[Any] | None = None,
    minimum: npt.NDArray[Any] | None = None,
    group_scale: npt.NDArray[Any] | None = None,
    group_minimum: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.float32]:
    """Columns of the matrix whose parameters are given: (J, N) from codes (N, J), those of the inputs (J,)."""
    group = np.zeros_like(inputs) if group_size is None else inputs // group_size
    values = codes.astype(np.float32)
    if zero_point is not None:
        values -= zero_point[:, group].astype(np.float32)
    values *= _levels(scale, group_scale, group_size)[:, group]
    if minimum is not None:
        minima = _levels(minimum, group_minimum, group_size)[:, group]
        values = values - minima if group_scale is not None else values + minima
    return values.T


def _levels(
    floats: npt.NDArray[Any], integers: npt.NDArray[Any] | None, group_size: int | None
) -> npt.NDArray[np.float32]:
    """(N, groups): the floats, or their products with the integers."""
    values = floats.astype(np.float32)
    if integers is None or group_size is None:
        return values
    return np.repeat(values, SUPER_BLOCK // group_size, axis=1) * integers.astype(np.float32)


def join_rows(parts: list[GroupedCodes]) -> GroupedCodes:
    """The rows of all parts, one after another; a ValueError where they are not held alike."""
    first = parts[0]
    for part in parts[1:]:
        if _form(part) != _form(first):
            raise ValueError(f"rows can be joined where they are held alike, got {_form(first)} and {_form(part)}")
    joined: GroupedCodes = each_array(parts, np.concatenate)
    return joined


def each_array(parts: list[Any], make: Callable[[list[Any]], Any]) -> Any:
    """One of the parts' form, each of whose arrays `make` gives from theirs."""
    names = [f.name for f in dataclasses.fields(parts[0]) if isinstance(getattr(parts[0], f.name), np.ndarray)]
    return dataclasses.replace(parts[0], **{name: make([getattr(p, name) for p in parts]) for name in names})


def _form(w: GroupedCodes) -> str:
    names = ("zero_point", "minimum", "group_scale", "group_minimum")
    held = [f"{name} {a.dtype}" for name in names if (a := getattr(w, name)) is not None]
    parts = [f"{w.codes.shape[1]} inputs", f"{w.bits}-bit {w.codes.dtype}", f"groups of {w.group_size}"]
    return ", ".join([*parts, f"{w.scale.dtype} scales", *held])


def _check_codes(codes: Any, bits: int) -> None:
    refuse_masked(codes, "codes")
    if not isinstance(codes, np.ndarray) or codes.dtype not in (np.int8, np.uint8):
        raise TypeError(f"codes must be an int8 or uint8 array, got {getattr(codes, 'dtype', type(codes).__name__)}")
    if codes.ndim != 2:
        raise ValueError(f"codes must be 2-D (out, in), got shape {codes.shape}")
    if bits not in BITS:
        raise ValueError(f"bits must be 4, 5, 6 or 8, got {bits!r}")
    _check_range(codes, "codes", bits)


def _check_range(values: npt.NDArray[Any], name: str, bits: int, reach: int = 0) -> None:
    low = -(1 << (bits - 1)) if values.dtype.kind == "i" else 0
    high = low + (1 << bits) - 1 + reach
    if bits < 8 and values.size and (values.max() > high or (low < 0 and values.min() < low)):
        raise ValueError(f"{name} must hold {low}..{high} with bits={bits}, got {values.min()}..{values.max()}")


def _check_group_size(group_size: int | None, k: int) -> None:
    if group_size is None:
        return
    size = operator.index(group_size)
    if size not in GROUP_SIZES:
        raise ValueError(f"group_size must be one of {GROUP_SIZES}, or None for one group a row, got {size}")
    if k % size != 0:
        raise ValueError(f"group_size must divide the inputs: {k} is not a multiple of {size}")


def _check_two_levels(w: GroupedCodes) -> None:
    n, k = w.shape
    if w.group_size is None or w.group_size >= SUPER_BLOCK:
        raise ValueError(f"group_scale needs groups smaller than {SUPER_BLOCK}, got group_size={w.group_size}")
    if k % SUPER_BLOCK != 0:
        raise ValueError(f"group_scale needs inputs in multiples of {SUPER_BLOCK}, got {k}")
    if (w.minimum is None) != (w.group_minimum is None):
        raise ValueError("beside group_scale, minimum and group_minimum must come together or not at all")
    _check_integers(w.group_scale, "group_scale", (n, w.groups), (np.dtype(np.int8), np.dtype(np.uint8)), 8)
    if w.group_minimum is not None:
        _check_integers(w.group_minimum, "group_minimum", (n, w.groups), (np.dtype(np.uint8),), 8)


def _check_array(a: Any, name: str, shape: tuple[int, int], dtypes: tuple[np.dtype[Any], ...], each: str = "") -> None:
    refuse_masked(a, name)
    if not isinstance(a, np.ndarray) or a.dtype not in dtypes:
        wanted = " or ".join(map(str, dtypes))
        raise TypeError(f"{name} must be an array of {wanted}, got {getattr(a, 'dtype', type(a).__name__)}")
    if a.shape != shape:
        raise ValueError(f"{name} must have shape {shape}{each}, got {a.shape}")


def _check_integers(
    a: Any, name: str, shape: tuple[int, int], dtypes: tuple[np.dtype[Any], ...], bits: int, reach: int = 0
) -> None:
    _check_array(a, name, shape, dtypes, ", one for each group of each row")
    _check_range(a, name, bits, reach)


def _check_floats(a: Any, name: str, shape: tuple[int, int], dtypes: tuple[np.dtype[Any], ...]) -> None:
    _check_array(a, name, shape, dtypes)
    finite = np.isfinite(a)
    if not finite.all():
        at = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(f"{name} must be finite, got {a[at]} at {list(at)} ({int((~finite).sum())} in all)")
