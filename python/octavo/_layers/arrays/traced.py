"""What becomes of a layer's result: how calibration learns where integers may be handed on.

A prepared layer returns a `Traced`: a stand-in that holds the float array and its `Source`, the layer that made it.
It is deliberately no subclass of ndarray, for then np.asarray, memoryview and C code would read it unseen. Every use
comes through a method of the stand-in:

    a prepared layer, a DeQuantStub       takes the array out: an integer use
    reshape, transpose, slicing, ReLU     a stand-in again, of the same source
    anything else                         the plain array answers, and the source is marked: its users need floats

"Anything else" is the rule and not a list, so what nobody thought of gives float32. isinstance(h, np.ndarray) asks
for h.__class__ and is answered with yes; that marks too. `Tracer.finish` marks what is still alive when the model has
returned: results, and arrays that were stored for later. Code that takes nothing but a true ndarray fails on a
stand-in; `calibrate` then repeats the batch without any.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from octavo._layers.arrays.quantized import LAYOUT_FUNCTIONS, LAYOUT_METHODS, SHAPE_FUNCTIONS, relu_operand
from octavo._util.pickling import pickled

__all__ = ["KEPT", "Source", "Traced", "Tracer", "taken"]

KEPT = "returned or stored"


@pickled
class Source:
    """The uses of one layer's results, over all calibration.

    Args:
        observe_relu: called with every result of np.maximum(h, 0), to know the range after ReLU; None: not asked for.
    """

    def __init__(self, observe_relu: Callable[[NDArray[Any]], None] | None) -> None:
        self.observe_relu = observe_relu
        self.float_use: str | None = None  # the first use that needs floats
        self.plain_uses = 0  # by quantized layers and DeQuantStubs
        self.relu_uses = 0  # by the same, behind ReLU
        self.bounded = False  # seen in `calibrate`, which knows what the model returns

    @property
    def gives_integers(self) -> bool:
        """Whether every use was a quantized one."""
        return self.float_use is None and self.plain_uses + self.relu_uses > 0

    @property
    def folds_relu(self) -> bool:
        """Whether every use was quantized and behind ReLU."""
        return self.gives_integers and self.plain_uses == 0 and self.bounded

    def mark(self, use: str) -> None:
        if self.float_use is None:
            self.float_use = use


@pickled
class Tracer:
    """What the layers of one prepared model share: whether they return stand-ins, and which of these are alive."""

    def __init__(self) -> None:
        self.stand_ins = True
        self.bounded = False  # within `calibrate`, which knows when the model has returned
        self.calls = 0  # of layers and QuantStubs, in this batch of `calibrate`
        self.without: list[Source] = []  # that gave true arrays in this batch, because stand-ins had failed
        self._alive: dict[int, weakref.ref[Traced]] = {}

    def wrap(self, value: NDArray[Any], source: Source, *, after_relu: bool = False) -> Any:
        """`value` as a stand-in; itself where none are to be made or the source is marked already."""
        if not self.stand_ins:
            self.without.append(source)
        if not self.stand_ins or source.float_use is not None:
            return value
        source.bounded |= self.bounded
        traced = Traced(value, source, self, after_relu)
        key = id(traced)
        self._alive[key] = weakref.ref(traced, lambda _: self._alive.pop(key, None))
        return traced

    def finish(self) -> None:
        """Marks the sources of stand-ins that have outlived the run, and of arrays in place of stand-ins."""
        for reference in list(self._alive.values()):
            if (traced := reference()) is not None:
                _mark(traced, KEPT)
        for source in self.without:
            source.mark("code that takes no stand-in")

    def begin(self, *, stand_ins: bool) -> None:
        """The start of one batch of `calibrate`."""
        self.bounded, self.stand_ins, self.calls = True, stand_ins, 0

    def end(self) -> None:
        """The end of one, finished or failed: what a failed one leaves alive in its traceback is no use."""
        self.bounded, self.stand_ins = False, True
        self.without = []
        self._alive.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tracer:
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class Traced(NDArrayOperatorsMixin):
    """A stand-in for the array `value` during calibration."""

    __slots__ = ("__weakref__", "_after_relu", "_source", "_tracer", "_value")

    def __init__(self, value: NDArray[Any], source: Source, tracer: Tracer, after_relu: bool = False) -> None:
        self._value = value
        self._source = source
        self._tracer = tracer
        self._after_relu = after_relu

    def _like(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self._like(part) for part in value)
        return self._tracer.wrap(value, self._source, after_relu=self._after_relu)

    # Shape and type are the same for integers: asking is no use.

    @property
    def shape(self) -> tuple[int, ...]:
        return self._value.shape

    @property
    def ndim(self) -> int:
        return self._value.ndim

    @property
    def size(self) -> int:
        return self._value.size

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._value.dtype

    def __len__(self) -> int:
        return len(self._value)

    # Rearranging and ReLU keep the source.

    @property
    def T(self) -> Any:  # noqa: N802 - NumPy's name
        return self._like(self._value.T)

    @property
    def mT(self) -> Any:  # noqa: N802 - NumPy's name
        return self._like(self._value.swapaxes(-1, -2))

    def __getitem__(self, index: Any) -> Any:
        value = self._value[plain(index)]
        if type(value) is np.ndarray:
            return self._like(value)
        _mark(self, "a single element")
        return value

    def __iter__(self) -> Iterator[Any]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        operand = relu_operand(ufunc, method, inputs, kwargs)
        if type(operand) is Traced:
            value = np.maximum(operand._value, operand._value.dtype.type(0))
            if operand._source.observe_relu is not None:
                operand._source.observe_relu(value)
            return operand._tracer.wrap(value, operand._source, after_relu=True)
        return getattr(ufunc, method)(*plain(inputs, ufunc.__name__), **plain(kwargs, ufunc.__name__))

    def __array_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if func in SHAPE_FUNCTIONS and args and type(args[0]) is Traced:
            return func(args[0]._value, *args[1:], **kwargs)
        if func in LAYOUT_FUNCTIONS and args and type(args[0]) is Traced:
            return args[0]._like(func(args[0]._value, *plain(args[1:]), **plain(kwargs)))
        return func(*plain(args, func.__name__), **plain(kwargs, func.__name__))

    # Everything else is a use as floats.

    def __getattr__(self, name: str) -> Any:
        if name in LAYOUT_METHODS:
            method = getattr(self._value, name)
            return lambda *args, **kwargs: self._like(method(*plain(args), **plain(kwargs)))
        return getattr(plain(self, name), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Traced.__slots__:
            object.__setattr__(self, name, value)
        else:
            setattr(plain(self, name), name, value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        value: NDArray[Any] = plain(self, "np.asarray")
        return value.astype(dtype or value.dtype, copy=bool(copy))

    def __buffer__(self, flags: int) -> memoryview:  # Python 3.12; before, memoryview(h) raises TypeError
        return memoryview(plain(self, "memoryview"))

    def __setitem__(self, index: Any, value: Any) -> None:
        plain(self, "assignment")[plain(index)] = plain(value, "assignment")

    def __pow__(self, other: Any) -> Any:
        return plain(self, "power") ** plain(other, "power")  # not np.power: an array squares where it can

    def __bool__(self) -> bool:
        return bool(plain(self, "bool"))

    def __float__(self) -> float:
        return float(plain(self, "float"))

    def __int__(self) -> int:
        return int(plain(self, "int"))

    def __complex__(self) -> complex:
        return complex(plain(self, "complex"))

    def __contains__(self, value: Any) -> bool:
        return value in plain(self, "in")

    def __repr__(self) -> str:
        return repr(plain(self, "repr"))

    def __str__(self) -> str:
        return str(plain(self, "str"))

    def __format__(self, spec: str) -> str:
        return format(plain(self, "format"), spec)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return plain(self, "pickle").__reduce_ex__(protocol)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        _mark(self, "isinstance")
        return np.ndarray


def _mark(traced: Traced, use: str) -> None:
    traced._source.mark(use)


def plain(value: Any, use: str = "an argument") -> Any:
    """`value` with every stand-in in its tuples, lists and dicts replaced by its array; `use` needs floats."""
    if type(value) is Traced:
        _mark(value, use)
        return value._value
    if type(value) in (tuple, list):
        return type(value)(plain(part, use) for part in value)
    if type(value) is dict:
        return {key: plain(part, use) for key, part in value.items()}
    return value


def source_of(value: Any) -> tuple[Source, bool] | None:
    """(whose result a stand-in is, whether behind ReLU); None for any other value."""
    return (value._source, value._after_relu) if type(value) is Traced else None


def taken(value: Any) -> Any:
    """The array of a stand-in, for a user that takes integers; any other value as it is."""
    if type(value) is not Traced:
        return value
    if value._after_relu:
        value._source.relu_uses += 1
    else:
        value._source.plain_uses += 1
    return value._value
