"""What becomes of a layer's result: how calibration learns where integers may be handed on.

A prepared layer returns a `Traced`: a stand-in that holds the float array and its `Source`, the layer that made it.
It is not a subclass of ndarray, because np.asarray, memoryview and C code would then read it unseen. Every use comes
through a method of the stand-in:

    a prepared layer, a DeQuantStub       takes the array out: an integer use
    reshape, transpose, slicing, ReLU     give a Traced again, of the same source
    anything else                         the float array answers, and the source is marked: its users need floats

"Anything else" is the rule and not a list, so a use that nobody thought of gives float32. isinstance(h, np.ndarray)
is true, because it asks for h.__class__; that marks the source too. `Tracer.finish` marks what is still alive when the
model has returned: results, and arrays stored for later. Code that accepts only a true ndarray fails on a stand-in;
`calibrate` then repeats the batch without stand-ins.
"""

from __future__ import annotations

import weakref
from _thread import RLock  # threading would be one more import
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from octavo._layers.arrays.stand_in import StandIn, unwrapped
from octavo._util.pickling import pickled
from octavo._util.transient import Transient

__all__ = ["KEPT", "Source", "Traced", "Tracer", "plain", "source_of", "taken"]

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

    def merge(self, other: Self, twins: Mapping[int, Any]) -> None:
        """Adds the uses that another has seen of the same layer in a copy of the model.

        Args:
            other: its source.
            twins: this model's part for each of the copy's, by the copy's id.
        """
        self.plain_uses += other.plain_uses
        self.relu_uses += other.relu_uses
        self.bounded |= other.bounded
        if other.float_use is not None:
            self.mark(other.float_use)


@pickled
class Tracer(Transient):
    """What the layers of one prepared model share: whether they return stand-ins, and which of these are alive."""

    def __init__(self) -> None:
        self.lock = RLock()  # threads that calibrate one model take turns
        self.stand_ins = True
        self.bounded = False  # within `calibrate`, which knows when the model has returned
        self.calls = 0  # of layers and QuantStubs, in this batch of `calibrate`
        self.heavy = False  # whether users' observers hold too much to be copied before each batch of `calibrate`
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
                traced._source.mark(KEPT)
        for source in self.without:
            source.mark("code that takes no stand-in")

    def begin(self, *, stand_ins: bool) -> None:
        """The start of one batch of `calibrate`."""
        self.bounded, self.stand_ins, self.calls = True, stand_ins, 0

    def end(self) -> None:
        """The end of one, finished or failed: what a failed one leaves alive in its traceback does not count."""
        self.bounded, self.stand_ins = False, True
        self.without = []
        self._alive.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tracer:
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class Traced(StandIn):
    """The stand-in for the array `value` during calibration."""

    __slots__ = ("_after_relu", "_source", "_tracer", "_value")

    def __init__(self, value: NDArray[Any], source: Source, tracer: Tracer, after_relu: bool = False) -> None:
        self._value = value
        self._source = source
        self._tracer = tracer
        self._after_relu = after_relu

    # Shape and type are the same for integers: to ask for them is not a use.

    @property
    def shape(self) -> tuple[int, ...]:
        return self._value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._value.dtype

    # Rearranging and ReLU keep the source.

    def _carrier(self) -> NDArray[Any]:
        return self._value

    def _like(self, carrier: NDArray[Any]) -> Any:
        return self._tracer.wrap(carrier, self._source, after_relu=self._after_relu)

    def _relu(self) -> Any:
        value = np.maximum(self._value, self._value.dtype.type(0))
        if self._source.observe_relu is not None:
            self._source.observe_relu(value)
        return self._tracer.wrap(value, self._source, after_relu=True)

    # Everything else is a use as floats.

    def _values(self, use: str) -> NDArray[Any]:
        self._source.mark(use)
        return self._value

    def _target(self, use: str) -> NDArray[Any]:
        return self._values(use)

    def _element(self, carried: Any) -> Any:
        self._source.mark("a single element")
        return carried

    def __getattr__(self, name: str) -> Any:
        return getattr(self._values(name), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Traced.__slots__:
            object.__setattr__(self, name, value)
        else:
            setattr(self._values(name), name, value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        value = self._values("np.asarray")
        return value.astype(dtype or value.dtype, copy=bool(copy))

    def __buffer__(self, flags: int) -> memoryview:  # Python 3.12; before, memoryview(h) raises TypeError
        return self._values("memoryview").data

    def __repr__(self) -> str:
        return repr(self._values("repr"))

    def __str__(self) -> str:
        return str(self._values("str"))

    def __format__(self, spec: str) -> str:
        return format(self._values("format"), spec)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._values("pickle").__reduce_ex__(protocol)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        self._source.mark("isinstance")
        return np.ndarray


def plain(value: Any, use: str = "an argument") -> Any:
    """`value` with every Traced in its tuples, lists and dicts replaced by its array; `use` needs floats."""
    return unwrapped(value, Traced, use)


def source_of(value: Any) -> tuple[Source, bool] | None:
    """(whose result a Traced is, whether behind ReLU); None for any other value."""
    return (value._source, value._after_relu) if type(value) is Traced else None


def taken(value: Any) -> Any:
    """The array of a Traced, for a user that takes integers; any other value as it is."""
    if type(value) is not Traced:
        return value
    if value._after_relu:
        value._source.relu_uses += 1
    else:
        value._source.plain_uses += 1
    return value._value
