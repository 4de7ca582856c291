"""PackedInteger: an integer matrix that is the right-hand side of many products."""

from __future__ import annotations

import math
from typing import Any, NoReturn, final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from octavo import _core
from octavo._integers.operands import Out, as_core_array, integer_array, matmul_shape, result_dtype, with_result

__all__ = ["PackedInteger"]


@final
class PackedInteger:
    """a @ P = a @ b, of integers: b (K, N) is scanned and packed once, and multiplied as often as you like.

    Args:
        b: (K, N), any integer type or bool. It is copied.

    Raises:
        TypeError: b is not of integers or bool; use np.matmul for other types.
        ValueError: b is not 2-D.

    Products are those of `octavo.matmul`, to the bit: `a @ P`, or `octavo.matmul(a, P)` with its `out` and `dtype`.
    Packing happens at the first product, for the width that the values of both operands ask for, and again only where a
    later product needs another width. `nbytes` counts the copy and what is packed. Products of bool with bool read the
    copy. Any number of threads may use it; it pickles.

    Example:
        >>> import numpy as np, octavo as oc
        >>> P = oc.PackedInteger(np.array([[1, 2], [3, 4]]))
        >>> np.array([[1, 10], [0, 2**60]]) @ P
        array([[                 31,                  42],
               [3458764513820540928, 4611686018427387904]])
        >>> P.shape, P.dtype
        ((2, 2), dtype('int64'))
    """

    __slots__ = ("_packed", "_values")
    __array_ufunc__ = None  # a @ P comes here

    def __init__(self, b: ArrayLike) -> None:
        values = integer_array(b, "b")
        if values.ndim != 2:
            raise ValueError(f"b must be 2-D, got shape {values.shape}")
        self._values = np.array(values, dtype=values.dtype.newbyteorder("="), order="C")
        self._values.flags.writeable = False
        as_bytes = as_core_array(self._values, np.dtype(np.uint8)) if values.dtype.kind == "b" else self._values
        self._packed = _core.PackedIntegers(as_bytes)

    @property
    def values(self) -> NDArray[Any]:
        """b, read-only."""
        return self._values.view()  # which nobody can make writable, as an array can be that owns its memory

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        rows, cols = self._values.shape
        return rows, cols

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of b, in native byte order."""
        return self._values.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the values and of what is packed so far."""
        return self._values.nbytes + self._packed.nbytes

    def __matmul__(self, other: object) -> NoReturn:
        raise TypeError("it is the right operand only: a @ P")

    def __rmatmul__(self, a: ArrayLike) -> Any:
        return self._left_product(a, None, None)

    def _left_product(self, a: ArrayLike, out: Out, dtype: DTypeLike | None) -> Any:
        lhs = integer_array(a, "a")
        result = result_dtype(lhs.dtype, self.dtype, dtype)
        shape = matmul_shape(lhs.shape, self.shape)
        rows = as_core_array(lhs, result)
        k, n = self.shape

        def compute(y: NDArray[Any]) -> None:
            m = math.prod(lhs.shape[:-1])
            flat, y = rows.reshape(m, k), y.reshape(m, n)
            if result.kind == "b":
                _core.integer_matmul(flat, self._values, y)
            else:
                self._packed.multiply(flat, y)

        return with_result(out, shape, result, (lhs,), compute, contiguous=True)

    def __repr__(self) -> str:
        return f"PackedInteger(shape={self.shape}, dtype={self.dtype})"

    def __reduce__(self) -> tuple[type[PackedInteger], tuple[NDArray[Any]]]:
        return PackedInteger, (self._values,)

    def __copy__(self) -> PackedInteger:
        return self

    def __deepcopy__(self, memo: object) -> PackedInteger:
        return self
