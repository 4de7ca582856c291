"""MatrixStandIn: a 2-D stand-in whose products are its own, in every spelling that NumPy has for them.

x @ Q, x @ Q.T, Q @ x; np.matmul, dot, inner, tensordot and einsum of the same products      `_times`
Q[ids], Q[:, ids], np.take                                                                 `__getitem__`
transposing                                                                                `_transposed`
all else                                                                                   on the float values
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from octavo._layers.arrays.einsum import as_product
from octavo._layers.arrays.stand_in import StandIn, gives_way_to, unwrapped
from octavo._util.foreign import as_array, is_real

__all__ = ["MatrixStandIn"]


class MatrixStandIn(StandIn):
    """A kind gives `shape`, `_values`, `_transposed` and `_times`.

    Products of two matrices take the values of the left one.
    """

    __slots__ = ()

    @property
    def shape(self) -> tuple[int, int]:
        raise NotImplementedError

    def _transposed(self) -> Self:
        raise NotImplementedError

    def _times(self, a: NDArray[Any], out: NDArray[Any] | None) -> NDArray[Any]:
        """a @ self for real numbers a (..., rows). `out`, which has the result's core dimensions, may be ignored."""
        raise NotImplementedError

    # Transposing keeps the kind

    @property
    def T(self) -> Self:  # noqa: N802 - NumPy's name
        """The same matrix with its axes exchanged: nothing is copied."""
        return self._transposed()

    @property
    def mT(self) -> Self:  # noqa: N802 - NumPy's name
        return self._transposed()

    def transpose(self, *axes: Any) -> Self:
        return self._permuted(lambda a: a.transpose(*axes))

    def swapaxes(self, axis1: int, axis2: int) -> Self:
        return self._permuted(lambda a: a.swapaxes(axis1, axis2))

    def _permuted(self, change: Callable[[Any], Any]) -> Self:
        """The matrix with its axes in the order that `change` gives those of an array; NumPy checks its arguments."""
        return self._transposed() if change(np.empty((2, 3), np.bool_)).shape == (3, 2) else self

    # Products

    def __matmul__(self, other: Any) -> Any:
        return self._values("@") @ other if gives_way_to(other) else np.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return other @ self._values("@") if gives_way_to(other) else np.matmul(other, self)

    def _times_from_left(self, x: Any, out: Any = None) -> Any:
        """x @ self."""
        a = as_array(x, "x")
        rows, columns = self.shape
        if a.ndim == 0 or a.shape[-1] != rows:
            hint = "; is Q transposed? x @ Q.T fits" if a.shape[-1:] == (columns,) else ""
            raise ValueError(f"x @ Q needs x of shape (..., {rows}) for Q {self.shape}, got {a.shape}{hint}")
        if not is_real(a.dtype):  # complex numbers, objects
            return np.matmul(a, self._values("@"), out=out)
        if out is not None:
            _check_out(out, (*a.shape[-2:-1], columns))
        return _stored(self._times(a, out), out)

    def _times_from_right(self, x: Any, out: Any = None) -> Any:
        """self @ x: the transpose of x^T @ self^T."""
        a = as_array(x, "x")
        rows, columns = self.shape
        if a.ndim == 0 or a.shape[-2 if a.ndim > 1 else 0] != columns:
            needed = f"({columns},) or (..., {columns}, n)"
            raise ValueError(f"Q @ x needs x of shape {needed} for Q {self.shape}, got {a.shape}")
        if a.ndim == 1:
            return self._transposed()._times_from_left(a, out)
        if out is not None:
            _check_out(out, (rows, a.shape[-1]))
        y = self._transposed()._times_from_left(np.swapaxes(a, -1, -2))
        return _stored(np.swapaxes(y, -1, -2), out)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        kind = type(self)
        out = kwargs.get("out", (None,))[0]
        if ufunc is np.matmul and method == "__call__" and kwargs.keys() <= {"out"} and type(out) is not kind:
            a, b = inputs
            if type(b) is kind:
                return b._times_from_left(unwrapped(a, kind, "@"), out)
            return self._times_from_right(b, out)
        return super().__array_ufunc__(ufunc, method, *inputs, **kwargs)

    def __array_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        special = _FUNCTIONS.get(func)
        if special is not None:
            result = special(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return super().__array_function__(func, types, args, kwargs)

    def dot(self, other: Any, out: Any = None) -> Any:
        return np.dot(self, other) if out is None else np.dot(self, other, out=out)

    def take(self, indices: Any, axis: Any = None, out: Any = None, mode: Any = "raise") -> Any:
        return np.take(self, indices, axis=axis, out=out, mode=mode)


def _check_out(out: Any, core: tuple[int, ...]) -> None:
    """Raises where np.matmul would: the last axes of `out` are the result's, those before them broadcast."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an array, got {type(out).__name__}")
    if out.shape[out.ndim - len(core) :] != core or out.ndim < len(core):
        raise ValueError(f"out must have shape (..., {', '.join(map(str, core))}), as the result has, got {out.shape}")


def _stored(y: NDArray[Any], out: Any) -> Any:
    """y, or `out` with y in it, of a dtype that np.matmul would take too."""
    if out is None or y is out:
        return y
    np.copyto(out, y, casting="same_kind")
    return out


# NumPy functions that a matrix answers in its own way, for the calls that are meant; NotImplemented hands the call on.


def _is_matrix(value: Any) -> bool:
    return issubclass(type(value), MatrixStandIn)


def _dot(a: Any, b: Any, out: Any = None) -> Any:
    if _is_matrix(out) or np.ndim(a) == 0 or np.ndim(b) not in (1, 2):
        return NotImplemented  # scaling, or a sum over the last but one axis of more dimensions
    y = np.matmul(a, b)
    if out is None:
        return y
    if type(out) is not np.ndarray or (out.dtype, out.shape) != (y.dtype, y.shape) or not out.flags.c_contiguous:
        raise ValueError(f"out must be a C-contiguous array of shape {y.shape} and dtype {y.dtype}, as np.dot needs it")
    return _stored(y, out)


def _inner(a: Any, b: Any) -> Any:
    return np.matmul(a, b.T) if _is_matrix(b) and np.ndim(a) in (1, 2) else NotImplemented


def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    one = isinstance(axes, int) and axes == 1 and np.ndim(a) > 0 and np.ndim(b) in (1, 2)
    return np.matmul(a, b) if one else NotImplemented


def _einsum(*operands: Any, **kwargs: Any) -> Any:
    product = as_product(operands, kwargs, _is_matrix)
    if product is None:
        return NotImplemented
    x, q, transposed, order = product
    return np.matmul(x, q.T if transposed else q).transpose(order)


def _layout(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, *args, **kwargs: a._permuted(lambda b: function(b, *args, **kwargs))


def _take(a: Any, indices: Any, axis: Any = None, out: Any = None, mode: Any = "raise") -> Any:
    if not _is_matrix(a) or axis not in (0, 1, -1, -2) or out is not None or mode != "raise":
        return NotImplemented
    ids = as_array(indices, "indices")
    if ids.dtype.kind not in "iu" or isinstance(axis, bool):
        return NotImplemented
    taken = a[ids] if axis in (0, -2) else a[:, ids]
    return taken if taken.flags.writeable else taken.copy()


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.dot: _dot,
    np.inner: _inner,
    np.tensordot: _tensordot,
    np.einsum: _einsum,
    np.transpose: _layout(np.transpose),
    np.swapaxes: _layout(np.swapaxes),
    np.take: _take,
}
