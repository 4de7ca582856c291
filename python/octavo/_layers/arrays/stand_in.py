"""StandIn: the base of the objects that NumPy code takes for a float array.

There are three kinds:

    QuantizedArray    integers with their scale, which converted layers hand to each other
    Traced            a float array that notes how it is used, which prepared layers return in `calibrate`
    MatrixStandIn     a matrix whose products are its own: QuantMatrix, and the watched matrices of calibration

Everything NumPy can ask of an array arrives at one of the methods below. What only rearranges values (the tables of
layout functions and methods) and ReLU stay with the kind; for all else `_values` gives a float array, which answers.
Each kind unwraps only its own objects and leaves others to answer for themselves: `array @ matrix` of two different
kinds is still the matrix's own product.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from octavo._layers.arrays.rows_first import refuse_masked_indices

__all__ = ["StandIn", "gives_way_to", "unwrapped"]

# Functions of one array, their first argument, that rearrange its values into an array or a list of arrays.
LAYOUT_FUNCTIONS: frozenset[Any] = frozenset(
    (np.reshape, np.ravel, np.transpose, np.swapaxes, np.moveaxis, np.squeeze, np.expand_dims)
).union((np.split, np.array_split, np.hsplit, np.vsplit))
# Functions of the shape alone.
SHAPE_FUNCTIONS: frozenset[Any] = frozenset([np.shape, np.ndim, np.size])
# Functions that write to their first argument, and methods that write to their array.
WRITING_FUNCTIONS: frozenset[Any] = frozenset(
    [np.copyto, np.put, np.place, np.putmask, np.put_along_axis, np.fill_diagonal]
)
WRITING_METHODS = frozenset({"fill", "put", "sort", "partition", "resize", "setfield", "setflags", "itemset"})

_Operator: TypeAlias = Callable[[Any, Any], Any]


def _unary(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda self: function(self._values(function.__name__))


def _forward(function: _Operator) -> _Operator:
    name = function.__name__
    return lambda self, other: function(self._values(name), unwrapped(other, type(self), name))


def _reflected(function: _Operator) -> _Operator:
    name = function.__name__
    return lambda self, other: function(unwrapped(other, type(self), name), self._values(name))


def _in_place(function: _Operator) -> _Operator:
    name = function.__name__
    return lambda self, other: function(self._target(name), unwrapped(other, type(self), name))


def _three(function: _Operator, in_place: _Operator) -> tuple[_Operator, _Operator, _Operator]:
    """The methods of one operator: a + b, b + a, a += b."""
    return _forward(function), _reflected(function), _in_place(in_place)


def _number(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda self: kind(self._values(kind.__name__).item())


class StandIn:
    """Answers every use as the float array of `_values` does.

    A kind has to give `shape`, `_values` and `_target`; it overrides `_carrier`, `_like`, `_element` and `_relu` for
    what it can do better than its float array.
    """

    __slots__ = ("__weakref__",)

    _remedy: ClassVar[str]  # what to do instead of writing

    # What a kind says about itself

    @property
    def shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def _values(self, use: str) -> NDArray[Any]:
        """The values as floats: the array itself, or a new one, read-only, where what is written to it would be lost.

        `use` says what they are needed for.
        """
        raise NotImplementedError

    def _target(self, use: str) -> NDArray[Any]:
        """The array that is written to. By default writing is refused."""
        self._refuse_to_write()

    def _carrier(self) -> NDArray[Any] | None:
        """An array whose elements may be rearranged in place of the values; None: only the values can be."""
        return None

    def _like(self, carrier: NDArray[Any]) -> Any:
        """An object of the same kind with this carrier."""
        raise NotImplementedError

    def _element(self, carried: Any) -> Any:
        """The float that one element of the carrier stands for."""
        raise NotImplementedError

    def _relu(self) -> Any:
        """np.maximum(self, 0); NotImplemented: as of any array."""
        return NotImplemented

    def _refuse_to_write(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be written to: {self._remedy}")

    # Shape, layout, elements

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32: what NumPy code sees."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def _laid_out(self, change: Callable[[Any], Any]) -> Any:
        """The result of a function that only rearranges values."""
        carrier = self._carrier()
        if carrier is None:
            return change(self._values("a layout"))
        result = change(carrier)
        if isinstance(result, (list, tuple)):
            return type(result)(self._like(part) for part in result)
        return self._like(result)

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
        index = unwrapped(index, type(self), "an index")
        refuse_masked_indices(index)
        carrier = self._carrier()
        if carrier is None:
            return self._values("indexing")[index]
        part = carrier[index]
        return self._like(part) if type(part) is np.ndarray else self._element(part)

    def __iter__(self) -> Iterator[Any]:
        if not self.shape:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __setitem__(self, index: Any, value: Any) -> None:
        kind = type(self)
        self._target("assignment")[unwrapped(index, kind, "an index")] = unwrapped(value, kind, "assignment")

    # NumPy's protocols

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            name = type(self).__name__
            raise ValueError(f"a {name} has no float array to share: ask for copy=None or copy=True")
        values = self._values("np.asarray")
        x = values if dtype is None else values.astype(dtype, copy=False)
        x.flags.writeable = copy is True  # what is written to a copy that nobody asked for would be lost
        return x

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        kind, name = type(self), ufunc.__name__
        for written in inputs[:1] if method == "at" else kwargs.get("out", ()):
            if type(written) is kind:
                written._target(name)
        operand = _relu_operand(ufunc, method, inputs, kwargs)
        if type(operand) is kind and (result := operand._relu()) is not NotImplemented:
            return result
        return getattr(ufunc, method)(*unwrapped(inputs, kind, name), **unwrapped(kwargs, kind, name))

    def __array_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        kind, name = type(self), func.__name__
        first = args[0] if args else next(iter(kwargs.values()), None)
        own = first if type(first) is kind else None
        out = kwargs.get("out")
        if type(out) is kind:
            out._target(name)
        if own is not None and func in WRITING_FUNCTIONS:
            own._target(name)
        if own is not None and args and func in SHAPE_FUNCTIONS:
            return func(np.broadcast_to(np.float32(0), own.shape), *args[1:], **kwargs)
        if own is not None and args and func in LAYOUT_FUNCTIONS:
            rest, options = unwrapped(args[1:], kind, name), unwrapped(kwargs, kind, name)
            return own._laid_out(lambda a: func(a, *rest, **options))
        try:
            return func(*unwrapped(args, kind, name), **unwrapped(kwargs, kind, name))
        except ValueError as error:
            if own is not None and "read-only" in str(error):  # as np.nan_to_num(x, copy=False) does
                own._target(name)
            raise

    def __getattr__(self, name: str) -> Any:
        """The attributes and methods of ndarray that the class does not have, of the values."""
        kind = type(self).__name__
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"{kind!r} object has no attribute {name!r}")
        if name in WRITING_METHODS:
            self._refuse_to_write()
        if name == "ctypes":
            raise TypeError(f"a {kind} has no float memory to point to; take x = np.array(a) and x.ctypes")
        return getattr(self._values(name), name)

    # Operators: those of the values, and not ufuncs, so that they give way to sparse matrices as an array's do.

    __lt__, __le__ = _forward(operator.lt), _forward(operator.le)
    __eq__, __ne__ = _forward(operator.eq), _forward(operator.ne)
    __gt__, __ge__ = _forward(operator.gt), _forward(operator.ge)
    __neg__, __pos__ = _unary(operator.neg), _unary(operator.pos)
    __abs__, __invert__ = _unary(operator.abs), _unary(operator.invert)
    __add__, __radd__, __iadd__ = _three(operator.add, operator.iadd)
    __sub__, __rsub__, __isub__ = _three(operator.sub, operator.isub)
    __mul__, __rmul__, __imul__ = _three(operator.mul, operator.imul)
    __truediv__, __rtruediv__, __itruediv__ = _three(operator.truediv, operator.itruediv)
    __floordiv__, __rfloordiv__, __ifloordiv__ = _three(operator.floordiv, operator.ifloordiv)
    __mod__, __rmod__, __imod__ = _three(operator.mod, operator.imod)
    __pow__, __rpow__, __ipow__ = _three(operator.pow, operator.ipow)
    __lshift__, __rlshift__, __ilshift__ = _three(operator.lshift, operator.ilshift)
    __rshift__, __rrshift__, __irshift__ = _three(operator.rshift, operator.irshift)
    __and__, __rand__, __iand__ = _three(operator.and_, operator.iand)
    __xor__, __rxor__, __ixor__ = _three(operator.xor, operator.ixor)
    __or__, __ror__, __ior__ = _three(operator.or_, operator.ior)
    __matmul__, __rmatmul__, __imatmul__ = _three(operator.matmul, operator.imatmul)
    __divmod__, __rdivmod__ = _forward(divmod), _reflected(divmod)
    __float__, __int__, __complex__ = _number(float), _number(int), _number(complex)

    def __bool__(self) -> bool:
        return bool(self._values("bool"))

    def __contains__(self, value: Any) -> bool:
        return value in self._values("in")


def unwrapped(value: Any, kind: type[StandIn], use: str) -> Any:
    """`value` with every stand-in of this kind in its tuples, lists and dicts replaced by its float array.

    Kinds are compared as types and not with isinstance, which would ask a Traced for its class and count as a use.
    """
    if type(value) is kind:
        return value._values(use)
    if type(value) in (tuple, list):
        return type(value)(unwrapped(part, kind, use) for part in value)
    if type(value) is dict:
        return {key: unwrapped(part, kind, use) for key, part in value.items()}
    return value


def gives_way_to(other: Any) -> bool:
    """Whether an array would leave `array @ other` to `other`, as it does to sparse matrices."""
    unknown = object()
    takes = getattr(type(other), "__array_ufunc__", unknown)
    return takes is None or (takes is unknown and getattr(other, "__array_priority__", 0) > 0)


def _relu_operand(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The array of np.maximum(array, 0) or np.maximum(0, array), where the call is one of these; else None."""
    if ufunc is not np.maximum or method != "__call__" or kwargs:
        return None
    for array, other in (inputs, inputs[::-1]):
        if issubclass(type(other), (int, float, np.integer, np.floating)) and other == 0:
            return array
    return None
