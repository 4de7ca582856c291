"""Observers that keep a smallest and a largest value, over all batches or averaged, per tensor or per channel."""

from __future__ import annotations

import operator
from typing import Any, Self, Unpack

import numpy as np

from octavo._numerics.params import Array
from octavo._observers.base import (
    Floats,
    Observer,
    ObserverOptions,
    finite_number,
    per_channel_affine,
    per_channel_symmetric,
)

__all__ = [
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "PerChannelMinMaxObserver",
]


class MinMaxObserver(Observer):
    """The smallest and the largest value: lo = min(x_1, x_2, ..., 0), hi = max(x_1, x_2, ..., 0) over all batches.

    Args:
        **options: dtype, qscheme, quant_min, quant_max, eps; see `Observer`.

    Notes:
        Merging gives exactly what one observer of both streams would have.

    Example:
        >>> import octavo as oc
        >>> observer = oc.MinMaxObserver()
        >>> _ = observer([-1.0, 0.5]), observer([3.0])
        >>> observer.calculate_qparams()
        QParams(scale=0.015686275, zero_point=64, qtype=octavo.quint8)
    """

    def __init__(self, **options: Unpack[ObserverOptions]) -> None:
        super().__init__(**options)
        self.min_val: Floats | None = None
        self.max_val: Floats | None = None

    @property
    def seen(self) -> bool:
        return self.min_val is not None

    def reset_min_max_vals(self) -> None:
        """Forgets all data, as if newly made."""
        self.min_val = self.max_val = None

    def _range(self) -> tuple[Floats, Floats]:
        assert self.min_val is not None
        assert self.max_val is not None
        return self.min_val, self.max_val

    def _observe(self, values: Array, lo: Floats, hi: Floats) -> None:
        if self.seen:
            low, high = self._range()
            self._check_channels(lo)
            lo, hi = np.minimum(low, lo), np.maximum(high, hi)
        self.min_val, self.max_val = np.asarray(lo), np.asarray(hi)

    def _merge(self, other: Self) -> None:
        lo, hi = other._range()
        MinMaxObserver._observe(self, lo, lo, hi)

    def _check_channels(self, lo: Floats) -> None:
        low, _ = self._range()
        if lo.shape != low.shape:
            raise ValueError(
                f"{type(self).__name__} must see the same number of channels each time (ch_axis={self.ch_axis}),"
                f" got {lo.size} after {low.size}; one observer serves one array of the model"
            )


class PerChannelMinMaxObserver(MinMaxObserver):
    """The smallest and the largest value of each channel c: lo_c = min(x[.., c, ..], 0), hi_c = max(x[.., c, ..], 0).

    Args:
        ch_axis: the axis of the channels; negative counts from the end.
        **options: dtype, qscheme, quant_min, quant_max, eps; see `Observer`. qscheme is "per_channel_affine" (the
            default) or "per_channel_symmetric".

    Raises:
        ValueError: a batch lacks that axis, or has another number of channels than the first.

    Notes:
        The scale has shape (channels,). Merging is exact. A channel of zeros has scale 1; a warning comes only if all
        channels are zeros.

    Example:
        >>> import octavo as oc
        >>> observer = oc.PerChannelMinMaxObserver(dtype="qint8", qscheme="per_channel_symmetric")
        >>> _ = observer([[127.5, 2.0], [-255.0, 4.0]])
        >>> observer.calculate_qparams()
        QParams(scale=[1.0, 2.0], zero_point=[0, 0], qtype=octavo.qint8, axis=0)
    """

    _qschemes = (per_channel_affine, per_channel_symmetric)
    ch_axis: int

    def __init__(self, *, ch_axis: int = 0, **options: Unpack[ObserverOptions]) -> None:
        super().__init__(**options)
        self.ch_axis = operator.index(ch_axis)

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"ch_axis": self.ch_axis}


class MovingAverageMinMaxObserver(MinMaxObserver):
    """Moving averages of each batch's extremes: lo <- lo + c (min(x) - lo), hi <- hi + c (max(x) - hi).

    The first batch's are taken as they are.

    Args:
        averaging_constant: c, in (0, 1].
        **options: dtype, qscheme, quant_min, quant_max, eps; see `Observer`.

    Notes:
        The order of the batches matters, so a.merge(b) means that b's stream came after a's. The update is linear in
        lo, and b's n updates from its own first batch give the same from elsewhere: lo_b + (1 - c)**n (lo_a - first_b).
        This equals the single stream up to rounding.

    Example:
        >>> import octavo as oc
        >>> observer = oc.MovingAverageMinMaxObserver(averaging_constant=0.5)
        >>> _ = observer([-1.0, 1.0]), observer([-3.0, 2.0])
        >>> observer.min_val.item(), observer.max_val.item()
        (-2.0, 1.5)
    """

    def __init__(self, *, averaging_constant: float = 0.01, **options: Unpack[ObserverOptions]) -> None:
        super().__init__(**options)
        self._begin(averaging_constant)

    def _begin(self, averaging_constant: float) -> None:
        constant = finite_number(averaging_constant, "averaging_constant", low=0.0)
        if not 0 < constant <= 1:
            raise ValueError(f"averaging_constant must lie in (0, 1], got {constant}")
        self.averaging_constant = constant
        self._batches = 0
        self._first: Floats | None = None  # (2, ...): the first batch's extremes

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"averaging_constant": self.averaging_constant}

    def reset_min_max_vals(self) -> None:
        """Forgets all data, as if newly made."""
        super().reset_min_max_vals()
        self._begin(self.averaging_constant)

    def _observe(self, values: Array, lo: Floats, hi: Floats) -> None:
        if self._first is None:
            self._set(lo, hi, batches=1, first=np.stack((lo, hi)))
            return
        self._check_channels(lo)
        low, high = self._range()
        c = np.float32(self.averaging_constant)
        if c != 1:  # otherwise the batch's own, to the bit
            lo, hi = low + c * (lo - low), high + c * (hi - high)
        self._set(lo, hi, batches=self._batches + 1, first=self._first)

    def _merge(self, other: Self) -> None:
        assert other._first is not None
        (lo, hi), batches, first = other._range(), other._batches, other._first
        if self._first is not None:
            self._check_channels(lo)
            kept = np.float32((1.0 - self.averaging_constant) ** batches)
            low, high = self._range()
            lo, hi = lo + kept * (low - first[0]), hi + kept * (high - first[1])
            batches, first = batches + self._batches, self._first
        self._set(lo, hi, batches=batches, first=first)

    def _set(self, lo: Array, hi: Array, *, batches: int, first: Floats) -> None:
        if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
            raise ValueError(
                f"{type(self).__name__}: ranges of batches differ by more than float32 holds; scale x down"
            )
        self.min_val, self.max_val = np.asarray(lo, np.float32), np.asarray(hi, np.float32)
        self._batches, self._first = batches, first


class MovingAveragePerChannelMinMaxObserver(MovingAverageMinMaxObserver, PerChannelMinMaxObserver):
    """Moving averages of each channel's extremes: lo_c <- lo_c + a (min(x_c) - lo_c), and hi_c likewise.

    Args:
        averaging_constant: a, in (0, 1].
        ch_axis: the axis of the channels; negative counts from the end.
        **options: dtype, qscheme ("per_channel_affine" or "per_channel_symmetric"), quant_min, quant_max, eps; see
            `Observer`.

    Raises:
        ValueError: a batch lacks that axis, or has another number of channels than the first.

    Notes:
        Merging as for `MovingAverageMinMaxObserver`.

    Example:
        >>> import octavo as oc
        >>> observer = oc.MovingAveragePerChannelMinMaxObserver(averaging_constant=0.5)
        >>> _ = observer([[-1.0, 1.0], [0.0, 4.0]]), observer([[-3.0, 2.0], [0.0, 2.0]])
        >>> observer.min_val, observer.max_val
        (array([-2.,  0.], dtype=float32), array([1.5, 3. ], dtype=float32))
    """

    def __init__(
        self, *, averaging_constant: float = 0.01, ch_axis: int = 0, **options: Unpack[ObserverOptions]
    ) -> None:
        PerChannelMinMaxObserver.__init__(self, ch_axis=ch_axis, **options)
        self._begin(averaging_constant)
