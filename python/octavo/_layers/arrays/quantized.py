"""QuantizedArray: integers that carry their scale and zero point, and behave as the float32 array they stand for.

What keeps or only rearranges values stays integer: reshape, transpose, slicing, ReLU, concatenation of arrays with
equal parameters. All other NumPy code gets the dequantized values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._layers.arrays.stand_in import StandIn
from octavo._numerics.definition import dequantize
from octavo._numerics.params import QParams, QType, parameter_shape
from octavo._util.arrays import locked
from octavo._util.foreign import refuse_masked
from octavo._util.pickling import pickled

__all__ = ["QuantizedArray", "kernel_numbers"]

_JOINING_FUNCTIONS: frozenset[Any] = frozenset([np.concatenate, np.stack, np.vstack, np.hstack])


class QuantizedArray(StandIn):
    """x' = (q - zero_point) * scale: an array of integers that NumPy code sees as the float32 array x'.

    Immutable. Converted layers hand these to each other; any other code may use one as a float32 array.

    Args:
        q: int8 or uint8 array, the storage of `qparams.qtype`. Held, not copied.
        qparams: its parameters, as `octavo.quantize` was given.

    Raises:
        TypeError: q is of another dtype than the storage, or qparams is not a QParams.
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

    __slots__ = ("_folded", "_numbers", "_q", "_qparams")

    _remedy = "its values are integers of a fixed scale; take x = q.dequantize() and write to x"

    _q: NDArray[Any]
    _qparams: QParams
    _numbers: tuple[float, int, int, int] | None
    _folded: str | None

    def __init__(self, q: NDArray[Any], qparams: QParams) -> None:
        if not isinstance(qparams, QParams):
            raise TypeError(f"qparams must be a QParams, got {type(qparams).__name__}; make one with choose_qparams")
        refuse_masked(q, "q")
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

    # What it holds

    @property
    def shape(self) -> tuple[int, ...]:
        return self._q.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the integers."""
        return self._q.nbytes

    @property
    def qtype(self) -> QType:
        """The type of the integers; `dtype` is what NumPy code sees, float32."""
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
        return locked(self._q)

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

    # What stays integer

    def _carrier(self) -> NDArray[Any] | None:
        return self._q if self._qparams.axis is None else None

    def _like(self, carrier: NDArray[Any]) -> QuantizedArray:
        return self._made(carrier, self._qparams, self._numbers, self._folded)

    def _element(self, carried: Any) -> Any:
        return self._like(np.asarray(carried)).dequantize()[()]

    def _relu(self) -> Any:
        if self._qparams.axis is not None:
            return NotImplemented
        zero = int(self._qparams.zero_point)
        if self._folded is not None or zero == self._qparams.qmin:  # no negative value is left
            return self._made(self._q, self._qparams, self._numbers)
        return self._like(np.maximum(self._q, self._q.dtype.type(zero)))

    def __array_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if func in _JOINING_FUNCTIONS and args and not {"out", "dtype", "casting"} & kwargs.keys():
            parts = list(args[0]) if isinstance(args[0], (list, tuple)) else []
            if parts and all(type(part) is QuantizedArray and part._joins(parts[0]) for part in parts):
                return parts[0]._like(func([part._q for part in parts], *args[1:], **kwargs))
        return super().__array_function__(func, types, args, kwargs)

    def _joins(self, other: QuantizedArray) -> bool:
        return self._qparams.axis is None and self._qparams == other._qparams and self._folded == other._folded

    # What computes with the values

    def _values(self, use: str) -> NDArray[np.float32]:
        x = self.dequantize()
        x.flags.writeable = False
        return x

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


@pickled
def _array_from_state(q: NDArray[Any], qparams: QParams, folded: str | None) -> QuantizedArray:
    """What a pickle calls."""
    return QuantizedArray._made(q, qparams, None, folded)
