"""StandIn: what NumPy code takes for a float array, whose values are made on demand and cannot be written to."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from octavo._layers.arrays.quantized import WRITING_FUNCTIONS, WRITING_METHODS

__all__ = ["StandIn", "operates_itself", "values_of"]


class StandIn(NDArrayOperatorsMixin):
    """Answers every use with what the array of `_values()` answers, and refuses to be written to.

    A subclass says what its values are, and takes the uses that it has a better way for. Operators are those of the
    values themselves, not ufuncs: so they give way to sparse matrices and others just as an array's do.
    """

    __slots__ = ("__weakref__",)

    _remedy: ClassVar[str]  # what to do instead of writing

    def _values(self) -> NDArray[Any]:
        """A new array, read-only."""
        raise NotImplementedError

    @classmethod
    def _refuse_to_write(cls, cause: Exception | None = None) -> NoReturn:
        raise TypeError(f"a {cls.__name__} cannot be written to: {cls._remedy}") from cause

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            name = type(self).__name__
            raise ValueError(f"a {name} has no float array to share: ask for copy=None or copy=True")
        values = self._values()
        x = values if dtype is None else values.astype(dtype, copy=False)
        x.flags.writeable = copy is True  # what is written to a copy that nobody asked for would be lost
        return x

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        for written in inputs[:1] if method == "at" else kwargs.get("out", ()):
            if isinstance(written, StandIn):
                written._refuse_to_write()
        return getattr(ufunc, method)(*values_of(inputs), **values_of(kwargs))

    def __array_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        first = args[0] if args else next(iter(kwargs.values()), None)
        out = kwargs.get("out")
        if isinstance(out, StandIn):
            out._refuse_to_write()
        if func in WRITING_FUNCTIONS and isinstance(first, StandIn):
            first._refuse_to_write()
        try:
            return func(*values_of(args), **values_of(kwargs))
        except ValueError as error:
            if isinstance(first, StandIn) and "read-only" in str(error):  # as np.nan_to_num(x, copy=False) does
                first._refuse_to_write(error)
            raise

    def __getattr__(self, name: str) -> Any:
        """The attributes and methods of ndarray that the class does not have, of the values."""
        kind = type(self).__name__
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"{kind!r} object has no attribute {name!r}")
        if name in WRITING_METHODS:
            self._refuse_to_write()
        if name == "ctypes":
            raise TypeError(f"a {kind} has no float memory to point to; take x = np.array(Q) and x.ctypes")
        return getattr(self._values(), name)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        self._refuse_to_write()

    def __getitem__(self, index: Any) -> Any:
        return self._values()[index]

    def __len__(self) -> int:
        return len(self._values())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values())

    def __bool__(self) -> bool:
        return bool(self._values())

    def __float__(self) -> float:
        return float(self._values().item())

    def __int__(self) -> int:
        return int(self._values().item())

    def __complex__(self) -> complex:
        return complex(self._values().item())

    def __contains__(self, value: Any) -> bool:
        return value in self._values()

    __hash__ = None  # type: ignore[assignment]  # as an array


def values_of(value: Any) -> Any:
    """`value` with every StandIn in its tuples, lists and dicts replaced by its values."""
    if isinstance(value, StandIn):
        return value._values()
    if type(value) in (tuple, list):
        return type(value)(values_of(part) for part in value)
    if type(value) is dict:
        return {key: values_of(part) for key, part in value.items()}
    return value


def operates_itself(other: Any) -> bool:
    """Whether an array would leave `array @ other` to `other`, as it does to sparse matrices."""
    unknown = object()
    takes = getattr(type(other), "__array_ufunc__", unknown)
    return takes is None or (takes is unknown and getattr(other, "__array_priority__", 0) > 0)


# The operators. Where an operator of two StandIns meets, both are values by the time NumPy sees them.


def _unary(function: Callable[[Any], Any]) -> Any:
    return lambda self: function(self._values())


def _binary(function: Callable[[Any, Any], Any]) -> Any:
    return lambda self, other: function(self._values(), values_of(other))


def _reflected(function: Callable[[Any, Any], Any]) -> Any:
    return lambda self, other: function(values_of(other), self._values())


def _in_place(self: StandIn, other: Any) -> NoReturn:
    self._refuse_to_write()


_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "xor", "or")
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(StandIn, f"__{_name}__", _binary(getattr(operator, _name)))
for _name in ("neg", "pos", "abs", "invert"):
    setattr(StandIn, f"__{_name}__", _unary(getattr(operator, _name)))
for _name in (*_ARITHMETIC, "matmul"):
    _operator = getattr(operator, f"__{_name}__")
    setattr(StandIn, f"__{_name}__", _binary(_operator))
    setattr(StandIn, f"__r{_name}__", _reflected(_operator))
    setattr(StandIn, f"__i{_name}__", _in_place)
StandIn.__divmod__ = _binary(divmod)  # type: ignore[method-assign]
StandIn.__rdivmod__ = _reflected(divmod)  # type: ignore[method-assign]
