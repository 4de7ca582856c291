"""QuantizedArray: integers that carry their scale and zero point, and behave as the float32 array they stand for.

What keeps or only rearranges values stays integer: reshape, transpose, slicing, ReLU, concatenation of equal
parameters. All other NumPy code is given the dequantized values, in a read-only copy, so that nothing can be written
where it would be lost. The tables of functions below are also what calibration (`octavo.tracing`) lets an integer
result pass through: the two must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from octavo._numerics.definition import dequantize
from octavo._numerics.params import QParams, QType, parameter_shape
from octavo._util.pickling import pickled

__all__ = ["QuantizedArray"]

# Functions of one array, its first argument, that rearrange values: they give an array or a list of arrays.
LAYOUT_FUNCTIONS: frozenset[Any] = frozenset(
    (np.reshape, np.ravel, np.transpose, np.swapaxes, np.moveaxis, np.squeeze, np.expand_dims)
).union((np.split, np.array_split, np.hsplit, np.vsplit))
# Functions of the shape alone.
SHAPE_FUNCTIONS: frozenset[Any] = frozenset([np.shape, np.ndim, np.size])
LAYOUT_METHODS = frozenset({"reshape", "ravel", "flatten", "transpose", "swapaxes", "squeeze", "copy"})
_JOINING_FUNCTIONS: frozenset[Any] = frozenset([np.concatenate, np.stack, np.vstack, np.hstack])
# Functions that write to their first argument, and methods that write to their array.
WRITING_FUNCTIONS: frozenset[Any] = frozenset(
    [np.copyto, np.put, np.place, np.putmask, np.put_along_axis, np.fill_diagonal]
)
WRITING_METHODS = frozenset({"fill", "put", "sort", "partition", "resize", "setfield", "setflags", "itemset"})


def relu_operand(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The array of np.maximum(array, 0) or np.maximum(0, array), where the call is one of these; else None."""
    if ufunc is not np.maximum or method != "__call__" or kwargs:
        return None
    for array, other in (inputs, inputs[::-1]):
        if issubclass(type(other), (int, float, np.integer, np.floating)) and other == 0:
            return array
    return None


class QuantizedArray(NDArrayOperatorsMixin):
    """x' = (q - zero_point) * scale: an array of integers that NumPy code sees as the float32 array x'.

    Immutable. Converted layers hand these to each other; any other code may take one for a float32 array.

    Args:
        q: int8 or uint8 array, the storage of `qparams.qtype`. Held, not copied.
        qparams: its parameters, as `octavo.quantize` was given.

    Raises:
        TypeError: q is of another dtype than the storage, or qparams is no QParams.
        ValueError: the shape of q does not fit the parameters.

    Notes:
        With per-tensor parameters reshape, transpose, slicing, splitting, copy, np.maximum(q, 0) with any scalar zero,
        and np.concatenate, np.stack, np.vstack, np.hstack of arrays with equal parameters give a QuantizedArray: the
        same values as for the float32 array. Everything else computes with the dequantized values. Writing raises
        TypeError, as in q[0] = 1, q += 1, out=q or np.copyto(q, x); np.asarray(q) is read-only and np.array(q) a
        writable copy. The design follows NumPy's NEP 13 and NEP 18; the names are those of torch's quantized tensors.

    Example:
        >>> import numpy as np, octavo as oc
        >>> x = oc.QuantizedArray(np.array([[0, 10, 12]], np.uint8), oc.QParams(0.5, 10, "uint8"))
        >>> x
        QuantizedArray([[-5.,  0.,  1.]], quint8, scale=0.5, zero_point=10)
        >>> np.maximum(x, 0).int_repr()
        array([[10, 10, 12]], dtype=uint8)
        >>> x + 1
        array([[-4.,  1.,  2.]], dtype=float32)
    """

    __slots__ = ("__weakref__", "_folded", "_numbers", "_q", "_qparams")

    _q: NDArray[Any]
    _qparams: QParams
    _numbers: tuple[float, int, int, int] | None
    _folded: str | None

    def __init__(self, q: NDArray[Any], qparams: QParams) -> None:
        if not isinstance(qparams, QParams):
            raise TypeError(f"qparams must be a QParams, got {type(qparams).__name__}; make one with choose_qparams")
        if not isinstance(q, np.ndarray) or q.dtype != qparams.qtype.storage:
            got = f"dtype {q.dtype}" if isinstance(q, np.ndarray) else type(q).__name__
            raise TypeError(f"q must be an array of {qparams.qtype.storage}, got {got}; octavo.quantize makes one")
        needed = parameter_shape(q.shape, qparams.axis, qparams.group_size)
        if needed != qparams.scale.shape:
            raise ValueError(f"q of shape {q.shape} needs a scale of shape {needed}, got {qparams.scale.shape}")
        self._set(np.asarray(q), qparams, None, None)

    def _set(
        self, q: NDArray[Any], qparams: QParams, numbers: tuple[float, int, int, int] | None, folded: str | None
    ) -> None:
        self._q = q
        self._qparams = qparams
        self._numbers = numbers
        # The layer that took ReLU into its clamp, until np.maximum(q, 0) has been asked for: see `_unfolded`.
        self._folded = folded

    @classmethod
    def _made(
        cls,
        q: NDArray[Any],
        qparams: QParams,
        numbers: tuple[float, int, int, int] | None = None,
        folded: str | None = None,
    ) -> QuantizedArray:
        """Without checks: for what the library has just made."""
        array = cls.__new__(cls)
        array._set(q, qparams, numbers, folded)
        return array

    # what it holds

    @property
    def shape(self) -> tuple[int, ...]:
        return self._q.shape

    @property
    def ndim(self) -> int:
        return self._q.ndim

    @property
    def size(self) -> int:
        return self._q.size

    @property
    def nbytes(self) -> int:
        """Bytes of the integers."""
        return self._q.nbytes

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """float32: what NumPy code sees. The integers' own type is `qtype`."""
        return np.dtype(np.float32)

    @property
    def qtype(self) -> QType:
        """The type of the integers."""
        return self._qparams.qtype

    @property
    def qparams(self) -> QParams:
        return self._qparams

    @property
    def scale(self) -> NDArray[np.float32]:
        return self._qparams.scale

    @property
    def zero_point(self) -> NDArray[np.int32]:
        return self._qparams.zero_point

    def int_repr(self) -> NDArray[Any]:
        """The integers q, int8 or uint8: a read-only view."""
        q = self._q.view()
        q.flags.writeable = False
        return q

    def dequantize(self) -> NDArray[np.float32]:
        """x' = (q - zero_point) * scale: a new float32 array."""
        self._unfolded()
        return dequantize(self._q, self._qparams)

    def numbers(self) -> tuple[float, int, int, int]:
        """(scale, zero point, qmin, qmax) of per-tensor parameters, as the kernels take them."""
        if self._numbers is None:
            self._numbers = kernel_numbers(self._qparams)
        return self._numbers

    def _unfolded(self) -> None:
        """Raises where negative values are asked for that a layer has clamped away."""
        if self._folded is not None:
            raise RuntimeError(
                f"{self._folded} was converted with the ReLU behind it, because calibration saw no other use of "
                "its result; here the result is used without ReLU. Calibrate with batches that take this way"
            )

    # what stays integer

    def _laid_out(self, change: Callable[[Any], Any]) -> Any:
        """change(integers) as QuantizedArray(s): for changes that only rearrange values."""
        if self._qparams.axis is not None:
            return change(self._read_only())
        result = change(self._q)
        if isinstance(result, (list, tuple)):
            return type(result)(self._like(part) for part in result)
        return self._like(result)

    def _like(self, q: NDArray[Any]) -> QuantizedArray:
        return self._made(q, self._qparams, self._numbers, self._folded)

    def _relu(self) -> QuantizedArray | None:
        """np.maximum(x', 0) in integers."""
        if self._qparams.axis is not None:
            return None
        zero = int(self._qparams.zero_point)
        if self._folded is not None or zero == self._qparams.qmin:  # no negative value is left
            return self._made(self._q, self._qparams, self._numbers)
        return self._like(np.maximum(self._q, self._q.dtype.type(zero)))

    def reshape(self, *shape: Any, **options: Any) -> Any:
        return self._laid_out(lambda a: a.reshape(*shape, **options))

    def ravel(self, *args: Any, **options: Any) -> Any:
        return self._laid_out(lambda a: a.ravel(*args, **options))

    def flatten(self, *args: Any, **options: Any) -> Any:
        return self._laid_out(lambda a: a.flatten(*args, **options))

    def transpose(self, *axes: Any) -> Any:
        return self._laid_out(lambda a: a.transpose(*axes))

    def swapaxes(self, axis1: int, axis2: int) -> Any:
        return self._laid_out(lambda a: a.swapaxes(axis1, axis2))

    def squeeze(self, *args: Any, **options: Any) -> Any:
        return self._laid_out(lambda a: a.squeeze(*args, **options))

    def copy(self, *args: Any, **options: Any) -> Any:
        return self._laid_out(lambda a: a.copy(*args, **options))

    @property
    def T(self) -> Any:  # noqa: N802 - NumPy's name
        return self.transpose()

    @property
    def mT(self) -> Any:  # noqa: N802 - NumPy's name
        return self.swapaxes(-1, -2)

    def __getitem__(self, index: Any) -> Any:
        index = dequantized(index)
        if self._qparams.axis is not None:
            return self._read_only()[index]
        q = self._q[index]
        return self._like(q) if isinstance(q, np.ndarray) else self._like(np.asarray(q)).dequantize()[()]

    def __iter__(self) -> Iterator[Any]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # what computes with the values

    def _read_only(self) -> NDArray[np.float32]:
        x = self.dequantize()
        x.flags.writeable = False
        return x

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a QuantizedArray has no float array to share: ask for copy=None or copy=True")
        x = self.dequantize()
        x = x if dtype is None else x.astype(dtype, copy=False)
        x.flags.writeable = copy is True  # what is written to a copy that nobody asked for would be lost
        return x

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        written = kwargs.get("out", ()) if method != "at" else inputs[:1]
        if any(type(array) is QuantizedArray for array in written):
            _refuse_to_write()
        operand = relu_operand(ufunc, method, inputs, kwargs)
        if type(operand) is QuantizedArray and (result := operand._relu()) is not None:
            return result
        return getattr(ufunc, method)(*dequantized(inputs), **dequantized(kwargs))

    def __array_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        first = args[0] if args else next(iter(kwargs.values()), None)
        if type(kwargs.get("out")) is QuantizedArray or (func in WRITING_FUNCTIONS and type(first) is QuantizedArray):
            _refuse_to_write()
        if func in SHAPE_FUNCTIONS and type(first) is QuantizedArray:
            return func(first._q, *args[1:], **kwargs)
        if func in LAYOUT_FUNCTIONS and args and type(first) is QuantizedArray:
            return first._laid_out(lambda a: func(a, *args[1:], **kwargs))
        if func in _JOINING_FUNCTIONS and args and not {"out", "dtype", "casting"} & kwargs.keys():
            parts = list(first) if isinstance(first, (list, tuple)) else []
            if parts and all(type(part) is QuantizedArray and part._joins(parts[0]) for part in parts):
                return parts[0]._like(func([part._q for part in parts], *args[1:], **kwargs))
        try:
            return func(*dequantized(args), **dequantized(kwargs))
        except ValueError as error:
            if type(first) is QuantizedArray and "read-only" in str(error):  # as np.nan_to_num(q, copy=False) does
                _refuse_to_write(error)
            raise

    def _joins(self, other: QuantizedArray) -> bool:
        return self._qparams.axis is None and self._qparams == other._qparams and self._folded == other._folded

    def __getattr__(self, name: str) -> Any:
        """The attributes and methods of ndarray that are not above, of the dequantized values."""
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"'QuantizedArray' object has no attribute {name!r}")
        if name in WRITING_METHODS:
            _refuse_to_write()
        if name == "ctypes":
            raise TypeError("a QuantizedArray has no float memory to point to; take x = q.dequantize() and x.ctypes")
        return getattr(self._read_only(), name)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        _refuse_to_write()

    def __len__(self) -> int:
        return len(self._q)

    def __pow__(self, other: Any) -> Any:
        return self._read_only() ** dequantized(other)  # not np.power: an array squares where it can

    def __bool__(self) -> bool:
        return bool(self._read_only())

    def __float__(self) -> float:
        return float(self._read_only())

    def __int__(self) -> int:
        return int(self._read_only())

    def __complex__(self) -> complex:
        return complex(self._read_only())

    def __contains__(self, value: Any) -> bool:
        return value in self._read_only()

    def __repr__(self) -> str:
        values = self._q if self._folded is not None else self.dequantize()
        text = np.array2string(values, separator=", ", prefix="QuantizedArray(")
        parameters = f"{self.qtype.name}, scale={self.scale!s}, zero_point={self.zero_point}"
        return f"QuantizedArray({text}, {parameters})"

    def __copy__(self) -> QuantizedArray:
        return self._like(self._q)

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedArray:
        return self._like(self._q.copy())

    def __reduce__(self) -> tuple[Any, ...]:
        return _array_from_state, (np.ascontiguousarray(self._q), self._qparams, self._folded)


def kernel_numbers(qparams: QParams) -> tuple[float, int, int, int]:
    """Per-tensor parameters as plain numbers, which the kernels take."""
    return float(qparams.scale), int(qparams.zero_point), qparams.qmin, qparams.qmax


def dequantized(value: Any) -> Any:
    """`value` with every QuantizedArray in its tuples, lists and dicts replaced by its values."""
    if type(value) is QuantizedArray:
        return value._read_only()
    if type(value) in (tuple, list):
        return type(value)(dequantized(part) for part in value)
    if type(value) is dict:
        return {key: dequantized(part) for key, part in value.items()}
    return value


def _refuse_to_write(cause: Exception | None = None) -> NoReturn:
    raise TypeError(
        "a QuantizedArray cannot be written to: its values are integers of a fixed scale; "
        "take x = q.dequantize() and write to x"
    ) from cause


@pickled
def _array_from_state(q: NDArray[Any], qparams: QParams, folded: str | None) -> QuantizedArray:
    """What a pickle calls."""
    return QuantizedArray._made(q, qparams, None, folded)
