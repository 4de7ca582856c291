"""Quantized types, quantization parameters, and how parameters are chosen from data.

    x' = (q - zero_point) * scale        q integer in [qmin, qmax]

Parameters come in three shapes. `aligned` pairs each of them with the data, for every function of the library:

    per tensor    axis=None                scale ()
    per channel   axis=a                   scale (x.shape[a],)
    per group     axis=a, group_size=g     scale x.shape with n = x.shape[a] replaced by ceil(n / g)

All arithmetic is float32 with one rounding per operation, ties to even, so that the compiled kernels can promise the
same bits.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from octavo._util.arrays import as_real_array, first_place, locked, why_not_finite
from octavo._util.foreign import as_array
from octavo._util.pickling import pickled

__all__ = [
    "QParams", "QType", "as_qtype", "as_weight_qtype", "choose_qparams", "code_qtype", "qint4", "qint8",
    "quint4", "quint8",
]  # fmt: skip

Array: TypeAlias = npt.NDArray[Any]

# Ranges below this count as zeros, so that chosen scales and their reciprocals are normal float32 numbers.
SMALLEST_RANGE = np.float32(2.0**-100)
# The smallest normal float32. A subnormal scale has lost bits, and its reciprocal may overflow.
SMALLEST_SCALE = np.float32(2.0**-126)


@dataclass(frozen=True, slots=True, repr=False)
class QType:
    """A quantized type: integers q in [qmin, qmax] of `bits` bits, each held in one element of `storage`.

    The library has four: `qint8`, `quint8`, `qint4`, `quint4`. Every function that takes a dtype takes "int8", "qint8",
    `octavo.qint8`, `np.int8` and `np.dtype("int8")` for the same type, and likewise for the others. Grouped codes, such
    as those of GGUF files, may also have 5 or 6 bits: their `dtype` is called `qint5`, `quint5`, `qint6` or `quint6`.

    Example:
        >>> import octavo as oc
        >>> oc.qint4.qmin, oc.qint4.qmax, oc.qint4.bits, oc.qint4.signed, oc.qint4.storage
        (-8, 7, 4, True, dtype('int8'))
    """

    name: str
    qmin: int
    qmax: int
    storage: np.dtype[Any]
    bits: int

    @property
    def signed(self) -> bool:
        """Whether the type has negative integers."""
        return self.qmin < 0

    def __repr__(self) -> str:
        return f"octavo.{self.name}" if self in _QTYPES.values() else f"QType({self.name!r})"


qint8 = QType("qint8", -128, 127, np.dtype(np.int8), 8)
quint8 = QType("quint8", 0, 255, np.dtype(np.uint8), 8)
qint4 = QType("qint4", -8, 7, np.dtype(np.int8), 4)
quint4 = QType("quint4", 0, 15, np.dtype(np.uint8), 4)

qint5 = QType("qint5", -16, 15, np.dtype(np.int8), 5)
quint5 = QType("quint5", 0, 31, np.dtype(np.uint8), 5)
qint6 = QType("qint6", -32, 31, np.dtype(np.int8), 6)
quint6 = QType("quint6", 0, 63, np.dtype(np.uint8), 6)

QTypeLike: TypeAlias = str | QType | np.dtype[Any] | type[np.generic]

_QTYPES = {qtype.name: qtype for qtype in (qint8, quint8, qint4, quint4)}


_CODE_QTYPES = {(t.bits, t.signed): t for t in (qint4, quint4, qint5, quint5, qint6, quint6, qint8, quint8)}


def code_qtype(bits: int, signed: bool) -> QType:
    """The type of grouped codes.

    Example:
        >>> code_qtype(6, True)
        QType('qint6')
    """
    return _CODE_QTYPES[bits, signed]


def as_qtype(dtype: QTypeLike) -> QType:
    """Return the QType that `dtype` names.

    Args:
        dtype: "int8", "uint8", "int4", "uint4", the same with "q" in front, a QType, or NumPy's int8 or uint8
            as scalar type or np.dtype.

    Returns:
        One of `qint8`, `quint8`, `qint4`, `quint4`.

    Raises:
        TypeError: `dtype` is neither a string nor a dtype.
        ValueError: `dtype` is one, but not of these four types.

    Example:
        >>> import octavo as oc
        >>> oc.as_qtype("int8") is oc.as_qtype(oc.qint8) is oc.qint8
        True
    """
    expected = 'dtype must be "int8", "uint8", "int4" or "uint4" (or "qint8", octavo.qint8, np.int8, ...)'
    if isinstance(dtype, str):
        found = _QTYPES.get(dtype) or _QTYPES.get("q" + dtype)
    elif isinstance(dtype, QType):
        if dtype in _CODE_QTYPES.values() and dtype not in _QTYPES.values():
            raise ValueError(f"{expected}; {dtype.name} is the type of grouped codes that exist already")
        found = dtype if dtype in _QTYPES.values() else None
    elif isinstance(dtype, np.dtype):
        found = _QTYPES.get("q" + dtype.name)
    elif isinstance(dtype, type) and issubclass(dtype, np.generic):
        found = _QTYPES.get("q" + dtype.__name__)
    else:
        raise TypeError(f"{expected}, got {dtype!r} of type {type(dtype).__name__}")
    if found is None:
        raise ValueError(f"{expected}, got {dtype!r}")
    return found


def as_weight_qtype(dtype: QTypeLike) -> QType:
    """`as_qtype` of weights: signed."""
    try:
        found = as_qtype(dtype)
    except ValueError:
        if isinstance(dtype, QType):
            raise
        raise ValueError(f'dtype must be "int8" or "int4", got {dtype!r}') from None
    if not found.signed:
        raise ValueError(f'dtype must be "int8" or "int4", got {found.name}: weights are signed')
    return found


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class QParams:
    """How integers stand for reals: x' = (q - zero_point) * scale, with q in [qmin, qmax].

    Unpacks as `scale, zero_point = qparams`. Immutable: the arrays are read-only copies. Two QParams are equal if all
    their values are, and can serve as dictionary keys.

    Args:
        scale: finite and > 0; scalar, (n,) with `axis`, one value per group with `group_size`. Held as
            float32; scales below 2**-126 are raised to it.
        zero_point: integer within [qmin, qmax]; the shape of `scale`, or a scalar for all. Held as int32.
        qtype: the integer type, in any spelling that `as_qtype` takes.
        qmin, qmax: the integers in use, qmin < qmax, within the range of `qtype`. Default: all of it.
        axis: None per tensor; otherwise the axis of the data along which parameters differ. Negative counts
            from the end; with `group_size` it becomes positive, because scale then has all the axes of the data.
        group_size: consecutive elements along `axis` (default: the last) that share parameters.

    Raises:
        TypeError: an argument of the wrong kind (a float zero point, a complex scale).
        ValueError: a value outside the limits above, or shapes that do not fit together.

    Notes:
        Zero is always exact, because the zero point is one of the integers. `axis` and `group_size` are the
        axis and block_size of ONNX's QuantizeLinear.

    Example:
        >>> import octavo as oc
        >>> oc.QParams([0.5, 0.25], 0, "int8", qmin=-127, axis=0)
        QParams(scale=[0.5, 0.25], zero_point=[0, 0], qtype=octavo.qint8, qmin=-127, axis=0)
    """

    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int32]
    qtype: QType
    qmin: int
    qmax: int
    axis: int | None
    group_size: int | None

    def __init__(
        self,
        scale: npt.ArrayLike,
        zero_point: npt.ArrayLike,
        qtype: QTypeLike = qint8,
        *,
        qmin: int | None = None,
        qmax: int | None = None,
        axis: int | None = None,
        group_size: int | None = None,
    ) -> None:
        kind = as_qtype(qtype)
        qmin, qmax = _valid_integers(kind, qmin, qmax)
        scale = _valid_scale(scale)
        axis, group_size = _valid_grain(axis, group_size)
        if group_size is not None:
            axis = _positive_axis(axis, scale.shape, "scale")
        elif scale.ndim != (axis is not None):
            expected = "a scalar, since axis is None" if axis is None else f"1-D, since axis is {axis}"
            raise ValueError(f"scale must be {expected}, got shape {scale.shape}; give axis= and group_size=")
        zero_point = _valid_zero_point(zero_point, scale.shape, qmin, qmax)
        values = (locked(scale), locked(zero_point), kind, qmin, qmax, axis, group_size)
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def __iter__(self) -> Iterator[Array]:
        yield self.scale
        yield self.zero_point

    def _options(self) -> dict[str, int | None]:
        return {name: getattr(self, name) for name in ("qmin", "qmax", "axis", "group_size")}

    def _key(self) -> tuple[object, ...]:
        # Scales are finite and positive, so equal values are equal bytes.
        arrays = (self.scale.shape, self.scale.tobytes(), self.zero_point.tobytes())
        return (*arrays, self.qtype, *self._options().values())

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, QParams) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, because arrays come back writable from a pickle.
        return _qparams_from_state, (self.scale, self.zero_point, self.qtype.name, self._options())

    def __repr__(self) -> str:
        unset = {"qmin": self.qtype.qmin, "qmax": self.qtype.qmax, "axis": None, "group_size": None}
        options = [f", {name}={value}" for name, value in self._options().items() if value != unset[name]]
        arrays = f"scale={_short(self.scale)}, zero_point={_short(self.zero_point)}"
        return f"QParams({arrays}, qtype={self.qtype!r}{''.join(options)})"


def choose_qparams(
    x: npt.ArrayLike,
    dtype: QTypeLike = "int8",
    *,
    symmetric: bool = True,
    axis: int | None = None,
    group_size: int | None = None,
    qmin: int | None = None,
    qmax: int | None = None,
) -> QParams:
    """Choose the parameters that cover the values of `x`, with lo = min(x, 0) and hi = max(x, 0):

        symmetric   scale = max(|lo|, |hi|) / ((qmax - qmin) / 2)
                    zero_point = 0, or (qmin + qmax + 1) // 2 for an unsigned dtype
        affine      scale = (hi - lo) / (qmax - qmin)
                    zero_point = clamp(qmin - rint(lo / scale), qmin, qmax)

    Args:
        x: finite float16, float32, float64, integer or bool, of any shape and memory layout.
        dtype: the integer type, in any spelling that `as_qtype` takes.
        symmetric: which of the two equations.
        axis: None for one scale; otherwise one per index of this axis.
        group_size: consecutive elements along `axis` (default: the last) that share a scale. The last group
            may be shorter.
        qmin, qmax: the integers to use, within the range of `dtype`. Default: all of it.

    Returns:
        QParams with a scale of shape () or (x.shape[axis],) or, with groups, x.shape with n = x.shape[axis]
        replaced by ceil(n / group_size). Its `axis` is never negative.

    Raises:
        TypeError: `x` holds something other than real numbers.
        ValueError: NaN or infinity in `x`; a value or range beyond float32; an axis or group size that does
            not fit; symmetric with a signed dtype whose qmin..qmax leaves out 0.

    Notes:
        `x` is converted to float32; then one rounding per operation, ties to even. A range (max(|lo|, |hi|) or hi - lo)
        below 2**-100 counts as zeros and gets scale 1, and so does an empty array. The equations are those of torch.ao,
        without its lower limit of 2**-23 for the scale. Where the middle of an unsigned range is not an integer, it is
        rounded up; torch does so for 0..255 and rounds other ranges down. Symmetric int8 with qmin=-127, qmax=127 gives
        scale = max|x| / 127, the default for weights.

    Example:
        >>> import octavo as oc
        >>> oc.choose_qparams([-1.0, 0.5, 3.0], "uint8", symmetric=False)
        QParams(scale=0.015686275, zero_point=64, qtype=octavo.quint8)
        >>> oc.choose_qparams([[127.0, 2.0], [-254.0, 4.0]], axis=0, qmin=-127).scale
        array([1., 2.], dtype=float32)
    """
    values = as_real_array(x, "x")
    axis, group_size = _valid_grain(axis, group_size)
    if axis is not None:
        axis = _positive_axis(axis, values.shape, "x")
    shape = parameter_shape(values.shape, axis, group_size)
    lo, hi = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    with np.errstate(all="ignore"):
        for (block,), (low, high) in aligned((values,), (lo, hi), axis, group_size):
            # Where the parameters have length 1 there is either one element or all of it to reduce over.
            over = tuple(i for i, length in enumerate(low.shape) if length == 1)
            for extreme, out in ((np.minimum, low), (np.maximum, high)):
                extreme.reduce(block, axis=over, dtype=np.float32, out=out, keepdims=True, initial=0)
    if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
        raise ValueError(why_not_finite(values, "x"))
    return qparams_from_range(
        lo, hi, dtype, symmetric=symmetric, axis=axis, group_size=group_size, qmin=qmin, qmax=qmax
    )


def qparams_from_range(
    lo: npt.NDArray[np.float32],
    hi: npt.NDArray[np.float32],
    dtype: QTypeLike,
    *,
    symmetric: bool,
    axis: int | None = None,
    group_size: int | None = None,
    qmin: int | None = None,
    qmax: int | None = None,
) -> QParams:
    """The second half of `choose_qparams`, for ranges found in another way.

    Args:
        lo, hi: float32, finite, in the shape of the scale; widened to hold zero.
        dtype, symmetric, axis, group_size, qmin, qmax: as for `choose_qparams`.

    Raises:
        ValueError: hi - lo over the number of steps does not fit float32.
    """
    qtype = as_qtype(dtype)
    qmin, qmax = _valid_integers(qtype, qmin, qmax)
    lo, hi = np.minimum(lo, np.float32(0)), np.maximum(hi, np.float32(0))
    with np.errstate(all="ignore"):
        span = np.maximum(-lo, hi) if symmetric else hi - lo
        steps = np.float32((qmax - qmin) / 2 if symmetric else qmax - qmin)
        scale = np.where(span < SMALLEST_RANGE, np.float32(1), span / steps)
        if not np.isfinite(scale).all():
            at = int(np.argmin(np.isfinite(scale)))
            raise ValueError(
                f"the range of values must fit float32 (up to 3.4028235e38) over {steps:g} steps,"
                f" got {np.ravel(lo)[at]!s} to {np.ravel(hi)[at]!s}; scale the values down"
            )
        if symmetric:
            zero_point = np.full(scale.shape, 0 if qtype.signed else (qmin + qmax + 1) // 2, np.int32)
        else:
            zero_point = np.clip(np.float32(qmin) - np.rint(lo / scale), qmin, qmax).astype(np.int32)
    return QParams(scale, zero_point, qtype, qmin=qmin, qmax=qmax, axis=axis, group_size=group_size)


def parameter_shape(shape: tuple[int, ...], axis: int | None, group_size: int | None) -> tuple[int, ...]:
    """The shape of the scale that data of `shape` needs; `axis` may be negative."""
    if axis is None:
        return ()
    axis = _positive_axis(axis, shape, "the data")
    if group_size is None:
        return (shape[axis],)
    return (*shape[:axis], -(-shape[axis] // group_size), *shape[axis + 1 :])


def aligned(
    arrays: Sequence[Array], params: Sequence[Array], axis: int | None, group_size: int | None
) -> Iterator[tuple[tuple[Array, ...], tuple[Array, ...]]]:
    """Yield views of `arrays` with views of `params` that broadcast against them; together they cover all.

        per tensor    arrays (a, n, b)                      params ()         -> (1, 1, 1)
        per channel   arrays (a, n, b)                      params (n,)       -> (1, n, 1)
        per group     arrays (a, n, b) -> (a, n/g, g, b)    params (a, G, b)  -> (a, G, 1, b)

    A shorter last group is yielded after the others. `arrays` share one shape, `params` have its
    `parameter_shape`. Splitting one axis in two never needs a copy, so either may be written to.
    """
    shape = arrays[0].shape
    kept = None if axis is None else _positive_axis(axis, shape, "the data")
    if kept is None or group_size is None:
        new_axes = tuple(i for i in range(len(shape)) if i != kept)
        yield tuple(arrays), tuple(np.expand_dims(p, new_axes) for p in params)
        return
    before, n = (slice(None),) * kept, shape[kept]
    for start, stop, size in ((0, n - n % group_size, group_size), (n - n % group_size, n, n % group_size)):
        if start < stop:
            count, first = (stop - start) // size, start // group_size
            run, groups = (*before, slice(start, stop)), (*before, slice(first, first + count))
            split = (*shape[:kept], count, size, *shape[kept + 1 :])
            views = tuple(np.reshape(a[run], split) for a in arrays)
            yield views, tuple(np.expand_dims(p[groups], kept + 1) for p in params)


def check_qparams(qparams: object) -> None:
    """Raises TypeError where `qparams` is not a QParams."""
    if not isinstance(qparams, QParams):
        got = type(qparams).__name__
        raise TypeError(f"qparams must be a QParams, got {got}; make one with QParams or choose_qparams")


def check_shape(shape: tuple[int, ...], qparams: QParams, name: str) -> None:
    """Raises ValueError where the parameters were not chosen for data of this shape."""
    axis, group_size, held = qparams.axis, qparams.group_size, qparams.scale.shape
    needed = parameter_shape(shape, axis, group_size)
    if needed != held:
        raise ValueError(
            f"{name} of shape {shape} needs a scale of shape {needed} (axis={axis}, group_size={group_size}),"
            f" got one of shape {held}; choose parameters from data of this shape"
        )


def _positive_axis(axis: int | None, shape: tuple[int, ...], name: str) -> int:
    ndim, axis = len(shape), -1 if axis is None else operator.index(axis)
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis must be one of the {ndim} axes of {name}, got axis {axis} for shape {shape}")
    return axis % ndim


def _valid_grain(axis: int | None, group_size: int | None) -> tuple[int | None, int | None]:
    axis = None if axis is None else operator.index(axis)
    if group_size is None:
        return axis, None
    if (group_size := operator.index(group_size)) < 1:
        raise ValueError(f"group_size must be at least 1, got {group_size}; omit it to have no groups")
    return (-1 if axis is None else axis), group_size


def _valid_integers(qtype: QType, qmin: int | None, qmax: int | None) -> tuple[int, int]:
    low = qtype.qmin if qmin is None else operator.index(qmin)
    high = qtype.qmax if qmax is None else operator.index(qmax)
    if not qtype.qmin <= low < high <= qtype.qmax:
        limits = f"{qtype.qmin} <= qmin < qmax <= {qtype.qmax}"
        raise ValueError(f"{qtype.name} must have {limits}, got qmin={low}, qmax={high}")
    return low, high


def _valid_scale(scale: npt.ArrayLike) -> npt.NDArray[np.float32]:
    given = as_real_array(scale, "scale")
    with np.errstate(all="ignore"):
        held = given.astype(np.float32, order="C")
        # Judged as given: a float64 too small for float32 is still a positive scale.
        bad = ~((given > 0) & np.isfinite(held))
    if bad.any():
        place = first_place(bad, "scale")
        raise ValueError(f"scale must be finite and > 0 in float32, got {given[bad][0]!s} at {place}")
    return np.maximum(held, SMALLEST_SCALE, out=held)


def _valid_zero_point(zero_point: npt.ArrayLike, shape: tuple[int, ...], qmin: int, qmax: int) -> npt.NDArray[np.int32]:
    given = as_array(zero_point, "zero_point")
    if given.dtype.kind not in "iu":
        raise TypeError(f"zero_point must hold integers, got dtype {given.dtype}; round it first")
    if given.shape not in ((), shape):
        raise ValueError(f"zero_point must be a scalar or of the shape of scale, {shape}, got {given.shape}")
    bad = (given < qmin) | (given > qmax)
    if bad.any():
        value, place = given[bad][0], first_place(bad, "zero_point")
        raise ValueError(f"zero_point must lie in [qmin, qmax] = [{qmin}, {qmax}], got {value} at {place}")
    return np.array(np.broadcast_to(given, shape), np.int32, order="C")


@pickled
def _qparams_from_state(scale: Array, zero_point: Array, qtype: str, options: dict[str, int | None]) -> QParams:
    return QParams(scale, zero_point, qtype, **options)


def _short(array: Array) -> str:
    text = np.array2string(array, threshold=8, edgeitems=2, separator=", ", formatter={"all": str})
    return " ".join(text.split())
