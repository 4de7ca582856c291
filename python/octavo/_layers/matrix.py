"""QuantMatrix: integers in the place of a 2-D float array, in code that has arrays and no layers.

It is a `QuantLinear` in the guise of a matrix: `x @ Q` gives that layer's bits. `MatrixStandIn` has the spellings of
products, `rows_first` the indices; here are the integers behind them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal, NoReturn, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo._layers.arrays.products import MatrixStandIn
from octavo._layers.arrays.rows_first import rows_first
from octavo._layers.described import Described
from octavo._layers.linear import QuantLinear, Rounding, _linear_from_state
from octavo._layers.packing import no_result
from octavo._layers.static import _static_from_state
from octavo._layers.weights import ActivationScheme
from octavo._numerics.grouped import GroupedCodes
from octavo._numerics.int4 import GroupedWeight, ScaleDtype
from octavo._numerics.params import QType, QTypeLike
from octavo._util.arrays import read_only, real_dtype, require_finite
from octavo._util.foreign import as_real
from octavo._util.pickling import pickled

__all__ = ["QuantMatrix"]

# Elements that a product along the scaled axis dequantizes at a time.
_BLOCK_ELEMENTS = 1 << 18

_MATMUL = np.matmul


@final
class QuantMatrix(Described, MatrixStandIn):
    """x' = q * s, (rows, columns): replaces a 2-D float array, and multiplies with integers.

    A product sums along one axis of the matrix; scales run along the other, the axis of the outputs, so that they can
    be taken out of the sum. `axis` says which one that is:

        axis=1 (default)   one scale a column:  x @ Q and Q.T @ x are integer products
        axis=0             one scale a row:     x @ Q.T and Q @ x are, and the rows Q[ids] of an embedding are finest

    Use axis=0 for a matrix that is used both ways (a tied embedding: wte[ids] and x @ wte.T). Products along the other
    axis are also correct, but slower: they use dequantized values, a block at a time, so they take as long as the float
    product plus the unpacking. For a single row of x that is many times as long as the float product alone.

    Args:
        w: (rows, columns), float16, float32 or float64, finite.
        dtype: "int8" or "int4".
        axis: 1 or 0: the axis of the products' outputs, which scales run along.
        group_size, symmetric, scale_dtype, rounding: of int4, as for `QuantLinear`; groups lie along the other axis.
        activation, activation_group, pre_quant_scale, rotation: how the other operand's rows are quantized, as for
            `QuantLinear`.

    Raises:
        TypeError: w does not hold real floats.
        ValueError: w is not 2-D, holds NaN or infinity, or an option is unknown.

    NumPy does not let other classes override the method x.dot(Q), nor does SciPy for products of its sparse matrices.
    These use the dequantized values; np.dot(x, Q) multiplies integers. Q[i] and Q[2:5] are read-only, because they
    stand for views, and writing to a view would change the matrix; Q[ids] is a copy as of any array. Results of
    products have the dtype that `QuantLinear` gives: that of a float16, float32 or float64 operand, else float32. The
    matrix is immutable, any number of threads may use it, and it pickles and deep-copies.

    Example:
        >>> import numpy as np, octavo as oc
        >>> w = np.float32([[127, 1], [0, -254]])
        >>> Q = oc.QuantMatrix(w)
        >>> np.float32([[127, 0]]) @ Q
        array([[16129.,     0.]], dtype=float32)
        >>> oc.QuantMatrix(w, axis=0)[1], Q.shape, Q.dtype
        (array([   0., -254.], dtype=float32), (2, 2), dtype('float32'))
    """

    __slots__ = ("_axis", "_call", "_layer", "_twin")

    _remedy = (
        "its values are integers with fixed scales; compute a new array (Q + 1, not Q += 1), or take "
        "w = Q.dequantize(), write to w, and quantize it again"
    )
    _layer: QuantLinear  # x W^T with W (outputs, inputs)
    _axis: Literal[0, 1]  # of the outputs
    _call: Callable[[Any], NDArray[np.float32] | None]  # x @ Q for nearly every x: float32, contiguous; else None
    _twin: QuantMatrix | weakref.ref[QuantMatrix] | None  # the transpose, once asked for; only one holds the other

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
        activation_group: int | None = None,
        pre_quant_scale: ArrayLike | None = None,
        rotation: int | None = None,
    ) -> None:
        a = as_real(w, "w")
        if a.ndim != 2:
            raise ValueError(f"w must be 2-D, got shape {a.shape}")
        if a.dtype.kind != "f":
            raise TypeError(f"w must hold floats, got dtype {a.dtype}; integers and indices stay what they are")
        _check_axis(axis)
        require_finite(a, "w")
        layer = QuantLinear(
            a.T if axis else a,
            dtype=dtype,
            group_size=group_size,
            symmetric=symmetric,
            scale_dtype=scale_dtype,
            rounding=rounding,
            activation=activation,
            activation_group=activation_group,
            pre_quant_scale=pre_quant_scale,
            rotation=rotation,
        )
        self._hold(layer, 1 if axis else 0)

    @classmethod
    def from_grouped(
        cls,
        weight: GroupedWeight | GroupedCodes,
        *,
        axis: int = 1,
        activation: ActivationScheme = "symmetric",
        activation_group: int | None = None,
        pre_quant_scale: ArrayLike | None = None,
        rotation: int | None = None,
    ) -> QuantMatrix:
        """A matrix from integers in groups, as `octavo.round_gptq` or a file gives them for W (outputs, inputs).

        Args:
            weight: the matrix itself with axis=0; its transpose with axis=1.
            axis, activation, activation_group, pre_quant_scale, rotation: as for ``QuantMatrix``.

        Raises:
            TypeError, ValueError: as for `QuantLinear.from_grouped`.
        """
        _check_axis(axis)
        layer = QuantLinear.from_grouped(
            weight,
            activation=activation,
            activation_group=activation_group,
            pre_quant_scale=pre_quant_scale,
            rotation=rotation,
        )
        return cls._made(layer, 1 if axis else 0)

    @classmethod
    def _made(cls, layer: QuantLinear, axis: Literal[0, 1]) -> QuantMatrix:
        q = cls.__new__(cls)
        q._hold(layer, axis)
        return q

    def _hold(self, layer: QuantLinear, axis: Literal[0, 1]) -> None:
        self._layer, self._axis = layer, axis
        self._call = layer._quick_call() if axis else no_result
        self._twin = None

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("QuantMatrix cannot be subclassed; hold one in an object of your own")

    # What it is

    @property
    def shape(self) -> tuple[int, int]:
        n, k = self._layer.out_features, self._layer.in_features
        return (k, n) if self._axis else (n, k)

    @property
    def qtype(self) -> QType:
        """Type of the integers, as `QuantLinear.dtype`. `dtype` here is that of the values they stand for, float32."""
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
        return np.array(w.T if self._axis else w, order="C")

    def _values(self, use: str) -> NDArray[np.float32]:
        return read_only(self.dequantize())

    def _transposed(self) -> QuantMatrix:
        return self.T

    @property
    def T(self) -> QuantMatrix:  # noqa: N802 - NumPy's name
        """The same integers as the transposed matrix: nothing is copied."""
        twin = self._twin
        if type(twin) is QuantMatrix:
            return twin
        if twin is not None and (made := twin()) is not None:
            return made
        self._twin = QuantMatrix._made(self._layer, 0 if self._axis else 1)
        self._twin._twin = weakref.ref(self)
        return self._twin

    # Products

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if ufunc is _MATMUL and inputs[1] is self and not kwargs and method == "__call__":
            y = self._call(inputs[0])  # the short way, which nearly every product takes
            if y is not None:
                return y
        return super().__array_ufunc__(ufunc, method, *inputs, **kwargs)

    def _times(self, a: NDArray[Any], out: NDArray[Any] | None) -> NDArray[Any]:
        if self._axis == 0:
            return _blockwise(a, self)
        if out is not None and (out.dtype, out.shape) == (real_dtype(a), (*a.shape[:-1], self.shape[1])):
            return self._layer(a, out=out)
        return self._layer(a)

    # Rows

    def __getitem__(self, index: Any) -> Any:
        """Q.dequantize()[index], of which only the rows (or columns) that the index needs are dequantized.

        What would be a view of a float array is read-only, because writing to it would not change the matrix.
        """
        return rows_first(index, self.shape, self._rows, self._columns)

    def _rows(self, ids: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """Those rows, dequantized; None: all of them."""
        if ids is None:
            return self.dequantize()
        return self._layer._weight_columns(ids) if self._axis else self._layer._weight_rows(ids)

    def _columns(self, ids: NDArray[np.int64] | None) -> NDArray[np.float32]:
        return self._transposed()._rows(ids).T

    def item(self, *index: Any) -> float:
        """One element, as a Python number: Q.item(i, j), Q.item((i, j)), or Q.item(k) counted in C order."""
        if len(index) == 1 and not isinstance(index[0], tuple):
            index = np.unravel_index(range(self.size)[index[0]], self.shape)
        return float(self[index[0] if isinstance(index[0], tuple) else index])

    def _described(self) -> tuple[str, str, dict[str, Any]]:
        return f"{self.shape[0]} x {self.shape[1]}", self.qtype.name[1:], self._layer._options() | {"axis": self._axis}

    def __copy__(self) -> QuantMatrix:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantMatrix:
        return self  # immutable

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__reduce_ex__(0)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol < 5 and self._layer._origin is None:
            return _matrix_from_state, (self._state(),)
        return _matrix_of, (self._layer, self._axis)

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


@pickled
def _matrix_of(layer: QuantLinear, axis: Literal[0, 1]) -> QuantMatrix:
    """What a pickle calls that holds the layer by itself."""
    return QuantMatrix._made(layer, axis)


def _check_axis(axis: int) -> None:
    if axis not in (0, 1):
        raise ValueError(f"axis must be 1 (one scale a column) or 0 (one scale a row), got {axis!r}")


def _blockwise(x: NDArray[Any], q: QuantMatrix) -> NDArray[Any]:
    """x @ q on dequantized values, a block of q's rows at a time, summed in ascending order."""
    k, n = q.shape
    with np.errstate(all="ignore"):
        a = x.astype(np.float32, copy=False)
        y = np.zeros((*a.shape[:-1], n), np.float32)
        step = max(1, _BLOCK_ELEMENTS // max(n, 1))
        for first in range(0, k, step):
            y += a[..., first : first + step] @ q._rows(np.arange(first, min(first + step, k)))
        return y.astype(real_dtype(x), copy=False)
