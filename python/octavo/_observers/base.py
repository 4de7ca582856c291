"""Observers: they see batches, keep a few numbers, and choose quantization parameters from them.

    observer = octavo.MinMaxObserver(dtype="quint8")
    for batch in batches:
        observer(batch)
    scale, zero_point = observer.calculate_qparams()

Names, options and arithmetic are those of torch.ao.quantization.observer. This file has what all observers share;
those that keep a smallest and a largest value are in minmax.py, those that keep a histogram in histogram.py, and how
they show themselves is in display.py.

To add an observer, derive from `Observer`, say which qschemes it takes, and write `seen`, `_observe`, `_merge`,
`_range` and `reset_min_max_vals`. `_observe` is given finite data only, and never empty ones.
"""

from __future__ import annotations

import math
import operator
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, ClassVar, Self, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from octavo._numerics.params import SMALLEST_RANGE, Array, QParams, QType, QTypeLike, as_qtype, qparams_from_range
from octavo._observers.display import observer_table, plot_channels, plot_range
from octavo._util.arrays import as_real_array, why_not_finite
from octavo._util.pickling import pickled
from octavo._util.tables import html_table, table

__all__ = [
    "Observer", "ObserverFactory",
    "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
]  # fmt: skip

per_tensor_affine = "per_tensor_affine"
per_tensor_symmetric = "per_tensor_symmetric"
per_channel_affine = "per_channel_affine"
per_channel_symmetric = "per_channel_symmetric"

Floats = npt.NDArray[np.float32]
T = TypeVar("T")


class ObserverOptions(TypedDict, total=False):
    """The options that every observer takes; see `Observer`."""

    dtype: QTypeLike
    qscheme: str | None
    quant_min: int | None
    quant_max: int | None
    eps: float


@pickled
@dataclass(frozen=True)
class ObserverFactory:
    """Makes observers with given options: factory() = observer(**options). What `with_args` returns.

    Args:
        observer: an observer class, or any callable that returns an observer.
        options: its keyword arguments.

    Example:
        >>> import octavo as oc
        >>> factory = oc.MinMaxObserver.with_args(dtype="qint8").with_args(qscheme=oc.per_tensor_symmetric)
        >>> factory().dtype, factory().qscheme, factory() is factory()
        (octavo.qint8, 'per_tensor_symmetric', False)
    """

    observer: type[Observer]
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __call__(self, **options: Any) -> Observer:
        """A new observer; options given here take the place of the factory's."""
        return self.observer(**{**self.options, **options})

    def with_args(self, **options: Any) -> ObserverFactory:
        """A factory with these options added or replaced."""
        return ObserverFactory(self.observer, {**self.options, **options})

    def __repr__(self) -> str:
        return f"{self.observer.__name__}.with_args({_written(self.options)})"


class Observer(ABC):
    """Chooses quantization parameters from what it has seen. The base of all observers, which differ in lo and hi:

        affine      scale = max((hi - lo) / (qmax - qmin), eps)
                    zero_point = clamp(qmin - rint(lo / scale), qmin, qmax)
        symmetric   scale = max(max(|lo|, |hi|) / ((qmax - qmin) / 2), eps)
                    zero_point = 0, or (qmin + qmax + 1) // 2 for an unsigned dtype

    where lo <= 0 <= hi.

    Args:
        dtype: the integer type, in any spelling: "quint8", octavo.qint8, np.int8, ...
        qscheme: "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine" or "per_channel_symmetric" (also
            octavo.per_tensor_affine, ...), of which each observer takes the two of its own kind. Default: affine.
        quant_min, quant_max: the integers to use, within the range of `dtype`. Default: all of it.
        eps: finite, >= 0; scales below it are raised to it. Default 2**-23, as in torch.

    Raises:
        TypeError: an option of the wrong kind, or an unknown one.
        ValueError: a value outside the limits above; symmetric with a signed dtype and quant_min..quant_max without 0.

    Notes:
        Batches are converted to float32; then one rounding per operation, ties to even, as in torch. Memory does not
        grow with the number of batches. Differences from torch.ao: a range below 2**-100 counts as zeros and gets scale
        1 (torch: eps), also in a single channel. Where the middle of an unsigned range is not an integer, it is rounded
        up (torch: up for 0..255 by default, down if quant_min and quant_max are given). No data, NaN and a range beyond
        float32 are errors, where torch warns or says nothing. reduce_range is not needed, because octavo's kernels do
        not saturate. Source: torch/ao/quantization/observer.py, PyTorch 2.13.
    """

    _qschemes: ClassVar[tuple[str, ...]] = (per_tensor_affine, per_tensor_symmetric)
    ch_axis: int | None = None

    def __init__(
        self,
        *,
        dtype: QTypeLike = "quint8",
        qscheme: str | None = None,
        quant_min: int | None = None,
        quant_max: int | None = None,
        eps: float = 2.0**-23,
    ) -> None:
        if qscheme is None:
            qscheme = self._qschemes[0]
        elif not isinstance(qscheme, str):
            raise TypeError(f"qscheme must be a string such as {self._qschemes[0]!r}, got {qscheme!r}")
        if qscheme not in self._qschemes:
            kinds = " or ".join(map(repr, self._qschemes))
            raise ValueError(f"qscheme of {type(self).__name__} must be {kinds}, got {qscheme!r}")
        # By name, because copies and pickles of a QType are other objects.
        self._dtype = as_qtype(dtype).name
        self.qscheme = qscheme
        self.quant_min = self.dtype.qmin if quant_min is None else operator.index(quant_min)
        self.quant_max = self.dtype.qmax if quant_max is None else operator.index(quant_max)
        self.eps = finite_number(eps, "eps", low=0.0)
        zero = np.zeros((), np.float32)
        qparams_from_range(zero, zero, self.dtype, symmetric=self.symmetric, qmin=self.quant_min, qmax=self.quant_max)

    @classmethod
    def with_args(cls, **options: Any) -> ObserverFactory:
        """A factory of observers with these options, as a QConfig takes; see `ObserverFactory`."""
        return ObserverFactory(cls, options)

    @property
    def dtype(self) -> QType:
        """The integer type."""
        return as_qtype(self._dtype)

    @property
    def symmetric(self) -> bool:
        """Whether the qscheme is symmetric."""
        return self.qscheme.endswith("symmetric")

    @property
    @abstractmethod
    def seen(self) -> bool:
        """Whether there was any data."""

    @abstractmethod
    def _observe(self, values: Array, lo: Floats, hi: Floats) -> None:
        """Takes a batch: finite, not empty, its extremes in the shape of the scale."""

    @abstractmethod
    def _merge(self, other: Self) -> None:
        """Takes what another observer with the same options has seen; both have seen data."""

    @abstractmethod
    def _range(self) -> tuple[Floats, Floats]:
        """(lo, hi) that the integers are to cover, in the shape of the scale; data has been seen."""

    @abstractmethod
    def reset_min_max_vals(self) -> None:
        """Forgets all data, as if newly made."""

    def reset(self) -> None:
        """Forgets all data, as if newly made; the same as `reset_min_max_vals`."""
        self.reset_min_max_vals()

    def __call__(self, x: T) -> T:
        """Takes a batch into account, and returns it.

        Args:
            x: finite real numbers of any shape and memory layout. An empty batch changes nothing.

        Raises:
            TypeError: x holds something other than real numbers.
            ValueError: NaN or infinity in x, a value beyond float32, or another number of channels than before. The
                observer stays as it was.
        """
        values = as_real_array(x, "x")  # type: ignore[arg-type]  # of any kind: it is checked there
        if values.size:
            with np.errstate(all="ignore"):
                lo, hi = (self._reduced(extreme, values) for extreme in (np.minimum, np.maximum))
                # NaN goes through both, so that the data themselves need no pass of their own.
                if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
                    raise ValueError(f"{type(self).__name__}: calibration data {why_not_finite(values, 'x')}")
                self._observe(values, lo, hi)
        return x

    def _reduced(self, extreme: np.ufunc, values: Array) -> Floats:
        if self.ch_axis is None:
            return np.asarray(extreme.reduce(values, axis=None), np.float32)
        if not -values.ndim <= self.ch_axis < values.ndim:
            raise ValueError(f"x must have an axis {self.ch_axis} (ch_axis), got shape {values.shape}")
        kept = self.ch_axis % values.ndim
        return np.asarray(extreme.reduce(values, axis=tuple(i for i in range(values.ndim) if i != kept)), np.float32)

    def merge(self, other: Self) -> Self:
        """Takes into account what another observer has seen, so that calibration can be split over processes.

        Args:
            other: an observer of the same class with the same options; not changed.

        Returns:
            This observer, so that functools.reduce can fold many.

        Raises:
            TypeError: `other` is of another class.
            ValueError: its options or its number of channels differ. Neither observer is changed.
        """
        if type(other) is not type(self):
            raise TypeError(f"only a {type(self).__name__} can be merged into one, got {type(other).__name__}")
        if (mine := self._options()) != (theirs := other._options()):
            differ = ", ".join(f"{k}: {mine[k]} and {theirs[k]}" for k in mine if mine[k] != theirs[k])
            raise ValueError(f"observers must have the same options to be merged, got {differ}")
        if other.seen:
            with np.errstate(all="ignore"):
                self._merge(other)
        return self

    def calculate_qparams(self) -> QParams:
        """The parameters for what was seen. Unpacks as scale, zero_point.

        Returns:
            QParams with a scale of shape () or, per channel, (channels,).

        Raises:
            ValueError: there was no data, or its range is beyond float32.

        Warns:
            UserWarning: all data were zeros (below 2**-100); the scale is 1.
        """
        lo, hi = self._found()
        if np.maximum(-lo, hi).max() < SMALLEST_RANGE:
            warnings.warn(
                f"{type(self).__name__} has seen only zeros: its scale is 1. Calibrate with real data", stacklevel=2
            )
        return self._qparams(lo, hi, self.ch_axis)

    def _found(self) -> tuple[Floats, Floats]:
        if not self.seen:
            raise ValueError(f"{type(self).__name__} has seen no data: call it on batches of real inputs first")
        return self._range()

    def _qparams(self, lo: Floats, hi: Floats, axis: int | None) -> QParams:
        qmin, qmax = self.quant_min, self.quant_max
        params = qparams_from_range(lo, hi, self.dtype, symmetric=self.symmetric, axis=axis, qmin=qmin, qmax=qmax)
        scale, zero_point = np.maximum(params.scale, np.float32(self.eps)), params.zero_point
        if not self.symmetric and (raised := scale > params.scale).any():
            steps = np.rint(np.minimum(lo, np.float32(0)) / scale)
            zero_point = np.where(raised, np.clip(np.float32(qmin) - steps, qmin, qmax), zero_point).astype(np.int32)
        return QParams(scale, zero_point, self.dtype, qmin=qmin, qmax=qmax, axis=axis)

    @property
    def nbytes(self) -> int:
        """Bytes of the statistics held; it does not grow with the number of batches."""
        return sum(getattr(value, "nbytes", 0) for value in vars(self).values())

    def _options(self) -> dict[str, Any]:
        """What the constructor takes, by name; subclasses add theirs."""
        options = {"dtype": self.dtype.name, "qscheme": self.qscheme}
        return options | {"quant_min": self.quant_min, "quant_max": self.quant_max, "eps": self.eps}

    def _seen_range(self) -> tuple[Floats, Floats]:
        """What repr shows; data has been seen."""
        return self._range()

    def __repr__(self) -> str:
        options = self._options()
        unset = {"quant_min": self.dtype.qmin, "quant_max": self.dtype.qmax, "eps": 2.0**-23}
        shown = {name: value for name, value in options.items() if name not in unset or value != unset[name]}
        found = "no data"
        if self.seen:
            lo, hi = (np.array2string(a, precision=8, threshold=4, edgeitems=2) for a in self._seen_range())
            found = f"min_val={lo}, max_val={hi}"
        return f"{type(self).__name__}({_written(shown)}: {found})"

    def __str__(self) -> str:
        return table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        chosen: QParams | str
        try:
            chosen = self._qparams(*self._found(), self.ch_axis)
        except ValueError as error:
            chosen = str(error)
        seen = self._seen_range() if self.seen else None
        return observer_table(type(self).__name__, self._options(), seen, chosen)

    def plot(self, path: str | PathLike[str] | None = None, axes: Any = None) -> Any:
        """Draws what was seen, and the range that the integers cover.

        Observers that keep a histogram draw it; the others draw the range seen, per channel where they have channels.

        Args:
            path: of a picture to write; its ending gives the format.
            axes: matplotlib axes to draw into; by default those of a new figure, which a notebook shows where there is
                no path.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is missing; the message has the command that installs it.
            ValueError: there was no data, or its range does not fit float32.
        """
        return self._draw(self._qparams(*self._found(), self.ch_axis), path, axes)

    def _draw(self, chosen: QParams, path: str | PathLike[str] | None, axes: Any) -> Any:
        draw = plot_range if self.ch_axis is None else plot_channels
        return draw(type(self).__name__, self._seen_range(), chosen, path, axes)


def finite_number(value: float, name: str, *, low: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    if not (math.isfinite(value) and value >= low):
        raise ValueError(f"{name} must be finite and at least {low:g}, got {value}")
    return float(value)


def _written(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={getattr(v, '__name__', v) if k == 'dtype' else repr(v)}" for k, v in options.items())
