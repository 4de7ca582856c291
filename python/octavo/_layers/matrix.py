"""QuantMatrix: integers in the place of a 2-D float array, in code that has arrays and no layers.

    x @ Q, x @ Q.T, Q @ x; np.matmul, dot, inner, tensordot, einsum of the same products     integer products
    Q[ids], Q[:, ids]                                                                        rows, columns, dequantized
    all else                                                                                 on the dequantized values

It is a `QuantLinear` that is spelt as a matrix: results are that layer's, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NoReturn, cast, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo._layers.arrays.einsum import as_product
from octavo._layers.arrays.lazy import StandIn, operates_itself, values_of
from octavo._layers.linear import ActivationScheme, QuantLinear, Rounding, _linear_from_state
from octavo._layers.static import StaticQuantLinear, _static_from_state
from octavo._numerics.int4 import GroupedWeight, ScaleDtype
from octavo._numerics.params import QType, QTypeLike, qint8
from octavo._util.arrays import read_only, refuse_masked, require_finite, unmasked
from octavo._util.pickling import pickled

__all__ = ["QuantMatrix", "watched_matrix"]

# Elements that a product along the scaled axis dequantizes at a time.
_BLOCK_ELEMENTS = 1 << 18


@final
class QuantMatrix(StandIn):
    """x' = q * s, (rows, columns): stands where a 2-D float array stood, and multiplies with integers.

    A product sums along one axis of the matrix; scales run along the other, the axis of the outputs, so that they can
    be taken out of the sum. `axis` says which one that is:

        axis=1 (default)   one scale a column:  x @ Q and Q.T @ x are integer products
        axis=0             one scale a row:     x @ Q.T and Q @ x are, and the rows Q[ids] of an embedding are finest

    A matrix that is used both ways (a tied embedding: wte[ids] and x @ wte.T) takes axis=0. A product along the other
    axis is right too: it takes dequantized values, a block at a time, and so as long as the float product and the
    unpacking, which for a single row of x is many times the float product alone.

    Args:
        w: (rows, columns), float16, float32 or float64, finite.
        dtype: "int8" or "int4".
        axis: 1 or 0: the axis of the products' outputs, which scales run along.
        group_size, symmetric, scale_dtype, rounding: of int4, as for `QuantLinear`; groups lie along the other axis.
        activation: how the other operand's rows are quantized, as for `QuantLinear`.

    Raises:
        TypeError: w does not hold real floats.
        ValueError: w is not 2-D, holds NaN or infinity, or an option is unknown.

    NumPy lets nobody take over the method x.dot(Q), nor SciPy the products of its sparse matrices: these are of the
    dequantized values; np.dot(x, Q) multiplies integers. Q[i] and Q[2:5] are read-only, because they stand for views,
    and writing to a view would change the matrix; Q[ids] is a copy as of any array. Results of products have the dtype
    that `QuantLinear` gives: that of a float16, float32 or float64 operand, else float32. The matrix is immutable, any
    number of threads may use it, and it pickles and deep-copies.

    Example:
        >>> import numpy as np, octavo as oc
        >>> w = np.float32([[127, 1], [0, -254]])
        >>> Q = oc.QuantMatrix(w)
        >>> np.float32([[127, 0]]) @ Q
        array([[16129.,     0.]], dtype=float32)
        >>> oc.QuantMatrix(w, axis=0)[1], Q.shape, Q.dtype
        (array([   0., -254.], dtype=float32), (2, 2), dtype('float32'))
    """

    __slots__ = ("_axis", "_layer", "_quick")

    _remedy = (
        "its values are integers with fixed scales; compute a new array (Q + 1, not Q += 1), or take "
        "w = Q.dequantize(), write to w, and quantize it again"
    )
    _layer: QuantLinear  # x W^T with W (outputs, inputs)
    _axis: Literal[0, 1]  # of the outputs
    _quick: Any  # whose try_call(x) is the product, or None where x is not as most are

    def __init__(
        self,
        w: ArrayLike,
        *,
        dtype: QTypeLike = "int8",
        axis: int = 1,
        group_size: int | None = None,
        symmetric: bool = True,
        scale_dtype: ScaleDtype = "float32",
        rounding: Rounding | None = None,
        activation: ActivationScheme = "symmetric",
    ) -> None:
        a = unmasked(w, "w")
        if a.ndim != 2:
            raise ValueError(f"w must be 2-D, got shape {a.shape}")
        if a.dtype.kind != "f":
            raise TypeError(f"w must hold floats, got dtype {a.dtype}; integers and indices stay what they are")
        if axis not in (0, 1):
            raise ValueError(f"axis must be 1 (one scale a column) or 0 (one scale a row), got {axis!r}")
        require_finite(a, "w")
        layer = QuantLinear(
            a.T if axis else a,
            dtype=dtype,
            group_size=group_size,
            symmetric=symmetric,
            scale_dtype=scale_dtype,
            rounding=rounding,
            activation=activation,
        )
        self._hold(layer, 1 if axis else 0)

    @classmethod
    def from_grouped(
        cls, weight: GroupedWeight, *, axis: int = 1, activation: ActivationScheme = "symmetric"
    ) -> QuantMatrix:
        """A matrix from int4 integers, as `octavo.rounding` gives them for W (outputs, inputs).

        Args:
            weight: the matrix itself with axis=0; its transpose with axis=1.
            axis, activation: as for ``QuantMatrix``.

        Raises:
            TypeError, ValueError: as for `QuantLinear.from_grouped`.
        """
        return cls._made(QuantLinear.from_grouped(weight, activation=activation), 1 if axis else 0)

    @classmethod
    def _made(cls, layer: QuantLinear, axis: Literal[0, 1]) -> QuantMatrix:
        q = cls.__new__(cls)
        q._hold(layer, axis)
        return q

    def _hold(self, layer: QuantLinear, axis: Literal[0, 1]) -> None:
        self._layer, self._axis = layer, axis
        self._quick = _NoQuickCall() if isinstance(layer, StaticQuantLinear) else layer._packed

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("QuantMatrix cannot be subclassed; hold one in an object of your own")

    # what it is

    @property
    def shape(self) -> tuple[int, int]:
        n, k = self._layer.out_features, self._layer.in_features
        return (k, n) if self._axis == 1 else (n, k)

    @property
    def ndim(self) -> int:
        return 2

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """That of the values it stands for: float32."""
        return np.dtype(np.float32)

    @property
    def qtype(self) -> QType:
        """Type of the integers: `qint8` or `qint4`."""
        return self._layer.dtype

    @property
    def axis(self) -> int:
        """The axis that scales run along: 1, one a column, or 0, one a row."""
        return self._axis

    @property
    def nbytes(self) -> int:
        """Bytes that it holds, padding included."""
        return self._layer.nbytes

    def dequantize(self) -> NDArray[np.float32]:
        """The values q * s: a new array."""
        w = self._layer.weight
        return np.array(w.T if self._axis == 1 else w, order="C")

    @property
    def T(self) -> QuantMatrix:  # noqa: N802 - NumPy's name
        """The same integers as the transposed matrix: nothing is copied."""
        return QuantMatrix._made(self._layer, 0 if self._axis == 1 else 1)

    mT = T  # noqa: N815 - NumPy's name

    def transpose(self, *axes: Any) -> QuantMatrix:
        return self._laid_out(lambda a: a.transpose(*axes))

    def swapaxes(self, axis1: int, axis2: int) -> QuantMatrix:
        return self._laid_out(lambda a: a.swapaxes(axis1, axis2))

    def _laid_out(self, change: Callable[[Any], Any]) -> QuantMatrix:
        """The matrix with its axes in the order that `change` gives those of an array; NumPy checks its arguments."""
        return self.T if change(np.empty((2, 3), np.bool_)).shape == (3, 2) else self

    # products

    def __matmul__(self, other: Any) -> Any:
        return self._values() @ other if operates_itself(other) else np.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return other @ self._values() if operates_itself(other) else np.matmul(other, self)

    def _times_from_left(self, x: Any, out: Any = None) -> Any:
        """x @ self."""
        a = _operand(x)
        k = self.shape[0]
        if a.ndim == 0 or a.shape[-1] != k:
            raise ValueError(f"x @ Q needs x of shape (..., {k}) for Q {self.shape}, got {a.shape}")
        if a.dtype.kind not in "fiub":  # complex numbers, objects
            return np.matmul(a, self._values(), out=out)
        if self._axis == 0:
            return _stored(_blockwise(a, self), out)
        if out is None:
            return self._layer(a)
        dtype = a.dtype.newbyteorder("=") if a.dtype.kind == "f" else np.float32
        fits = out.dtype == dtype and out.shape == (*a.shape[:-1], self.shape[1])
        return self._layer(a, out=out) if fits else _stored(self._layer(a), out)

    def _times_from_right(self, x: Any, out: Any = None) -> Any:
        """self @ x: the transpose of x^T @ self^T."""
        a = _operand(x)
        if a.ndim == 0 or a.shape[-2 if a.ndim > 1 else 0] != self.shape[1]:
            needed = f"({self.shape[1]},) or (..., {self.shape[1]}, n)"
            raise ValueError(f"Q @ x needs x of shape {needed} for Q {self.shape}, got {a.shape}")
        if a.ndim == 1:
            return self.T._times_from_left(a, out)
        return _stored(np.swapaxes(self.T._times_from_left(np.swapaxes(a, -1, -2)), -1, -2), out)

    def _product(self, a: Any, b: Any, out: Any = None) -> Any:
        """np.matmul(a, b), where self is one of them."""
        if type(b) is QuantMatrix:
            return b._times_from_left(values_of(a), out)
        return self._times_from_right(b, out)

    # rows

    def __getitem__(self, index: Any) -> Any:
        """Rows Q[i], Q[ids], Q[2:5] and columns Q[:, ids], dequantized; other indices as in the float array."""
        match index if type(index) is tuple else (index,):
            case (rows,) if (ids := _as_ids(rows, self.shape[0])) is not None:
                return _as_view(self._rows(ids), rows)
            case (rows, rest) if _is_all(rest) and (ids := _as_ids(rows, self.shape[0])) is not None:
                return _as_view(self._rows(ids), rows)
            case (rest, columns) if _is_all(rest) and (ids := _as_ids(columns, self.shape[1])) is not None:
                return _as_view(np.moveaxis(self.T._rows(ids, axis=1), -1, 0), columns)
        return self._values()[index]

    def _rows(self, ids: NDArray[Any], axis: int = 0) -> NDArray[np.float32]:
        """Rows of the matrix; `axis` is what a message calls theirs."""
        length = self.shape[0]
        flat = ids.ravel()
        outside = flat >= length  # before anything is converted, which a large unsigned number would not survive
        if flat.dtype.kind == "i":
            outside |= flat < -length
        if outside.any():
            raise IndexError(f"index {int(flat[outside.argmax()])} is out of bounds for axis {axis} with size {length}")
        flat = flat.astype(np.int64, copy=False)
        take = _outputs if self._axis == 0 else _inputs
        return take(self._layer, np.where(flat < 0, flat + length, flat)).reshape(*ids.shape, self.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    # what computes with the values

    def _values(self) -> NDArray[np.float32]:
        return read_only(self.dequantize())

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if ufunc is np.matmul and method == "__call__" and not kwargs:
            a, b = inputs
            if type(b) is QuantMatrix and b._axis == 1:  # the shortest ways for what nearly every call is
                y = b._quick.try_call(a)
                if y is not None:
                    return y
                if type(a) is np.ndarray and a.dtype.char == "d" and a.shape[-1:] == (b._layer.in_features,):
                    return b._layer(a)
            return self._product(a, b)
        out = kwargs.get("out", ())
        if ufunc is np.matmul and method == "__call__" and kwargs.keys() <= {"out"} and type(out[0]) is not QuantMatrix:
            return self._product(*inputs, *out)
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

    def __repr__(self) -> str:
        options = repr(self._layer).split(", ", 1)[1].removesuffix(")")
        return f"QuantMatrix({self.shape[0]} x {self.shape[1]}, {options}, axis={self._axis})"

    def __copy__(self) -> QuantMatrix:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantMatrix:
        return self  # immutable

    def __reduce__(self) -> tuple[Any, ...]:
        return _matrix_from_state, (self._state(),)

    def _state(self) -> dict[str, Any]:
        """The state of the layer, and the axis."""
        return self._layer._state() | {"axis": self._axis}


@pickled
def _matrix_from_state(state: dict[str, Any]) -> QuantMatrix:
    """What a pickle calls."""
    state = dict(state)
    axis = state.pop("axis")
    layer = _static_from_state(state) if "input" in state else _linear_from_state(state)
    return QuantMatrix._made(layer, axis)


def _outputs(layer: QuantLinear, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of the layer's weight, dequantized: (len(ids), inputs)."""
    q, scale = layer._packed.int_rows(ids), layer.scale[ids]
    if layer.dtype == qint8:
        return q * scale[:, None]
    zero_point = None if layer.symmetric else layer.zero_point[ids].astype(np.int8)
    return GroupedWeight(q, scale, zero_point, layer.group_size).dequantize()


def _inputs(layer: QuantLinear, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Columns of the layer's weight, dequantized: (len(ids), outputs)."""
    q = layer._packed.int_columns(ids)
    if layer.dtype == qint8:
        return q * layer.scale
    group = np.zeros_like(ids) if layer.group_size is None else ids // layer.group_size
    values = q.astype(np.float32)
    if not layer.symmetric:
        values -= layer.zero_point[:, group].T
    return values * layer.scale[:, group].T


class _NoQuickCall:
    """For a layer with fixed input ranges: every call goes through the layer itself."""

    def try_call(self, x: Any) -> None:
        """None, as the compiled layer gives for what it leaves to the way through `__call__`."""


def watched_matrix(w: NDArray[Any], axis: Literal[0, 1], before: Callable[[Any], None]) -> QuantMatrix:
    """A stand-in for a float matrix whose layer is w (outputs, inputs): `before` is given what it multiplies."""
    return QuantMatrix._made(cast("QuantLinear", _FloatLayer(w, before)), axis)


class _FloatLayer:
    """What a QuantMatrix asks of its layer, of float weights."""

    dtype = qint8

    def __init__(self, w: NDArray[Any], before: Callable[[Any], None]) -> None:
        self.weight, self._before, self._packed = w, before, self
        self.out_features, self.in_features = w.shape
        self.scale = np.ones(len(w), w.dtype)

    def __call__(self, x: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        self._before(x)
        return np.matmul(x, self.weight.T, out=out)

    def __repr__(self) -> str:
        return f"FloatLayer({self.in_features} -> {self.out_features}, {self.weight.dtype}, watched)"

    def try_call(self, x: Any) -> None:
        """As the compiled layer has it: None is for the way through `__call__`."""

    def int_rows(self, outputs: NDArray[np.int64]) -> NDArray[Any]:
        return self.weight[outputs]

    def int_columns(self, inputs: NDArray[np.int64]) -> NDArray[Any]:
        return self.weight.T[inputs]


def _blockwise(x: NDArray[Any], q: QuantMatrix) -> NDArray[Any]:
    """x @ q on dequantized values, a block of q's rows at a time, summed in ascending order."""
    k, n = q.shape
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        a = x.astype(np.float32, copy=False)
        y = np.zeros((*a.shape[:-1], n), np.float32)
        step = max(1, _BLOCK_ELEMENTS // max(n, 1))
        for first in range(0, k, step):
            y += a[..., first : first + step] @ q[first : first + step]
        return y.astype(dtype, copy=False)


def _operand(x: Any) -> NDArray[Any]:
    refuse_masked(x, "x")
    return np.asanyarray(x)


def _stored(y: Any, out: Any) -> Any:
    """y, or `out` with y in it: of y's shape, and of a dtype that np.matmul would take too."""
    if out is None:
        return y
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an array, got {type(out).__name__}")
    if out.shape != y.shape:
        raise ValueError(f"out must have shape {y.shape}, as the result has, got {out.shape}")
    np.copyto(out, y, casting="same_kind")
    return out


# Indices


def _is_all(index: Any) -> bool:
    return index is Ellipsis or (isinstance(index, slice) and index == slice(None))


def _as_ids(index: Any, length: int) -> NDArray[Any] | None:
    """The integers of an index of one axis; None where it is no slice and no integers."""
    if isinstance(index, slice):
        return np.arange(length)[index]
    if index is None or index is Ellipsis:
        return None
    ids = np.asarray(index)
    return ids if ids.dtype.kind in "iu" else None


def _as_view(rows: NDArray[np.float32], index: Any) -> NDArray[np.float32]:
    """Read-only where a float array would give a view of itself: what is written to it would be lost here."""
    is_view = isinstance(index, slice) or (not isinstance(index, np.ndarray) and np.ndim(index) == 0)
    return read_only(rows) if is_view else rows


# NumPy functions that keep to the integers, for the calls they are meant for; NotImplemented hands the call on.


def _dot(a: Any, b: Any, out: Any = None) -> Any:
    if type(out) is QuantMatrix or np.ndim(a) == 0 or np.ndim(b) not in (1, 2):
        return NotImplemented  # scaling, or a sum over the last but one axis of more dimensions
    return np.matmul(a, b) if out is None else np.matmul(a, b, out=out)


def _inner(a: Any, b: Any) -> Any:
    return np.matmul(a, b.T) if type(b) is QuantMatrix and np.ndim(a) in (1, 2) else NotImplemented


def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    one = isinstance(axes, int) and axes == 1 and np.ndim(a) > 0 and np.ndim(b) in (1, 2)
    return np.matmul(a, b) if one else NotImplemented


def _einsum(*operands: Any, **kwargs: Any) -> Any:
    product = as_product(operands, kwargs, QuantMatrix)
    if product is None:
        return NotImplemented
    x, q, transposed, order = product
    return np.matmul(x, q.T if transposed else q).transpose(order)


def _layout(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, *args, **kwargs: a._laid_out(lambda b: function(b, *args, **kwargs))


def _take(a: Any, indices: Any, axis: Any = None, out: Any = None, mode: Any = "raise") -> Any:
    plain = type(a) is QuantMatrix and axis == 0 and out is None and mode == "raise"
    return a[np.asarray(indices)] if plain and np.asarray(indices).dtype.kind in "iu" else NotImplemented


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.dot: _dot,
    np.inner: _inner,
    np.tensordot: _tensordot,
    np.einsum: _einsum,
    np.transpose: _layout(np.transpose),
    np.swapaxes: _layout(np.swapaxes),
    np.take: _take,
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: 2,
    np.size: lambda a, axis=None: a.size if axis is None else a.shape[axis],
}
