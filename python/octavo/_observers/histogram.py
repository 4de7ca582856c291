"""Observers that keep a histogram, and leave out rare large values so that all others get finer steps.

    HistogramObserver     torch's search for the least L2 error
    PercentileObserver    a share of the values stays inside
    EntropyObserver       the least Kullback-Leibler divergence
    MSEObserver           the least squared error of quantize, then dequantize

They differ in `_search` alone. All are per tensor. The histogram and its widening are in histogram_math.py.
"""

from __future__ import annotations

import operator
from abc import abstractmethod
from os import PathLike
from typing import Any, Self, Unpack

import numpy as np

from octavo._numerics.params import SMALLEST_RANGE, Array, QParams
from octavo._observers.base import Floats, Observer, ObserverOptions, finite_number
from octavo._observers.display import plot_histogram
from octavo._observers.histogram_math import Histogram, Points, l2_range

__all__ = ["EntropyObserver", "HistogramObserver", "MSEObserver", "PercentileObserver"]

_GRID = 100  # MSEObserver: shrinkings tried on each side
_CANDIDATES = 256  # EntropyObserver: thresholds tried
_LEAST_INSIDE = 0.9  # EntropyObserver: share of the values
_SMOOTHING = 1e-4  # EntropyObserver: share of an even distribution that is mixed into both


class _HistogramKeeper(Observer):
    """What the observers of this file share: a histogram of all values."""

    def __init__(self, *, bins: int = 2048, **options: Unpack[ObserverOptions]) -> None:
        super().__init__(**options)
        if not 2 * (levels := 2**self.dtype.bits) <= (bins := operator.index(bins)) <= 1 << 20:
            raise ValueError(f"bins must lie in [{2 * levels}, {1 << 20}] for {self.dtype.name}, got {bins}")
        self.histogram = Histogram(bins)

    @property
    def bins(self) -> int:
        """Number of bins of the histogram."""
        return self.histogram.bins

    @property
    def seen(self) -> bool:
        return self.histogram.lo is not None

    def reset_min_max_vals(self) -> None:
        """Forgets all data, as if newly made."""
        self.histogram = Histogram(self.bins)

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"bins": self.bins}

    def _observe(self, values: Array, lo: Floats, hi: Floats) -> None:
        self.histogram.add(values, np.float32(lo), np.float32(hi))

    def _merge(self, other: Self) -> None:
        self.histogram.merge(other.histogram)

    def _seen_range(self) -> tuple[Floats, Floats]:
        return _as_range(*self.histogram.range)

    def _range(self) -> tuple[Floats, Floats]:
        lo, hi = self.histogram.range
        if max(-lo, hi) < SMALLEST_RANGE:
            return _as_range(lo, hi)
        with np.errstate(all="ignore"):
            found_lo, found_hi = self._search()
        return _as_range(found_lo, found_hi)

    def _draw(self, chosen: QParams, path: str | PathLike[str] | None, axes: Any) -> Any:
        return plot_histogram(type(self).__name__, self.histogram, chosen, path, axes)

    @abstractmethod
    def _search(self) -> tuple[float | np.float32, float | np.float32]:
        """(lo, hi) to cover; not all values are zeros."""


class HistogramObserver(_HistogramKeeper):
    """The range with the least L2 error: argmin over (lo, hi) of the integral of density(x) (x - x')**2.

    x' is the middle of the step that x falls into when lo..hi is cut into 2**bits steps. The search is torch's: from
    the whole range inwards, 1e-5 of the values at a time, until the error rises.

    Args:
        bins: of the histogram.
        **options: dtype, qscheme, quant_min, quant_max, eps; see `Observer`.

    Notes:
        Batches that widen the range move the counts into new bins (16 parts a bin, as torch does), so the result may
        depend on the order of batches, and on how observers were merged. The search turns on the last bit of a sum, so
        all of it has the float32 roundings that torch has on x86, and finds torch's range. The exception is values so
        large that torch's cubes overflow (about 1e12), where torch keeps the whole range. Counts are float32, added a
        batch at a time. Source: torch.ao.quantization.HistogramObserver, PyTorch 2.13, which follows
        caffe2/quantization/server/norm_minimization.cc.

    Example:
        >>> import numpy as np, octavo as oc
        >>> x = np.random.default_rng(0).laplace(size=100_000).astype(np.float32)
        >>> observer, minmax = oc.HistogramObserver(), oc.MinMaxObserver()
        >>> _ = observer(x), minmax(x)
        >>> bool(observer.calculate_qparams().scale < minmax.calculate_qparams().scale * 0.95)
        True
    """

    def _search(self) -> tuple[np.float32, np.float32]:
        return l2_range(self.histogram, 2**self.dtype.bits)


class PercentileObserver(_HistogramKeeper):
    """The range that leaves out a share of the values: affine, (100 - p) / 2 percent on either side;

        affine      lo = quantile(x, (1 - p/100) / 2), hi = quantile(x, 1 - (1 - p/100) / 2)
        symmetric   hi = quantile(|x|, p/100) = -lo

    Args:
        percentile: p, in (0, 100]; 100 is the whole range.
        bins: of the histogram.
        **options: dtype, qscheme, quant_min, quant_max, eps; see `Observer`.

    Raises:
        ValueError: percentile outside (0, 100].

    Notes:
        The quantile is exact to one bin, (largest - smallest value seen) / bins, plus one for each widening of the
        range; values count as spread evenly in their bins. A single value a thousand times larger than the others
        leaves them eight of 8192 bins: give more bins where outliers are that large. Both definitions are those of ONNX
        Runtime's percentile calibration (onnxruntime/python/tools/quantization/calibrate.py).

    Example:
        >>> import numpy as np, octavo as oc
        >>> observer = oc.PercentileObserver(percentile=90, dtype="int8", qscheme="per_tensor_symmetric")
        >>> _ = observer(np.linspace(-1, 1, 100_001))
        >>> round(float(observer.calculate_qparams().scale * 127.5), 3)
        0.9
    """

    def __init__(self, *, percentile: float = 99.99, bins: int = 8192, **options: Unpack[ObserverOptions]) -> None:
        super().__init__(bins=bins, **options)
        self.percentile = finite_number(percentile, "percentile", low=0.0)
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile must lie in (0, 100], got {percentile}")

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"percentile": self.percentile}

    def _search(self) -> tuple[float | np.float32, float | np.float32]:
        lo, hi = self.histogram.range
        if self.percentile == 100 or lo == hi:
            return _with_zero(lo, hi, symmetric=self.symmetric)
        edges, below = self.histogram.edges, np.concatenate(([0.0], np.cumsum(self.histogram.counts, dtype=np.float64)))
        outside = (1 - self.percentile / 100) * below[-1]
        if not self.symmetric:
            return _crossing(edges, below, outside / 2), _crossing(edges, below, below[-1] - outside / 2)
        reach = np.unique(np.concatenate(([0.0], np.abs(edges))))
        within = np.interp(reach, edges, below) - np.interp(-reach, edges, below)
        limit = _crossing(reach, within, below[-1] - outside)
        return -limit, limit


class EntropyObserver(_HistogramKeeper):
    """The threshold T with the least loss of information, for the range lo = max(min(x), -T), hi = min(max(x), T):

        argmin_T KL(P || Q) = sum_i P_i log(P_i / Q_i)

    P is the histogram inside the range, with what lies outside added to its end bins. Q is the histogram inside,
    without what lies outside, summed into quant_max - quant_min + 1 groups of bins and spread evenly over those bins of
    each group that have counts.

    Args:
        bins: of the histogram.
        **options: dtype, qscheme, quant_min, quant_max, eps; see `Observer`. Symmetric: the histogram goes from
            -max|x| to max|x|.

    Notes:
        At most 256 thresholds are tried, from the widest inwards to where a tenth of the values lies outside (with
        little inside, P and Q grow alike again); the widest of equal ones is taken. Both distributions are smoothed by
        mixing in 1e-4 of an even one. The bin of zero counts no more than the fuller of its neighbours: zero is exact
        at every threshold, and after a ReLU its bin would outweigh all others. KL weighs shares of values, not errors,
        so heavy tails may be clipped so far that the squared error exceeds MinMaxObserver's. This is the calibration of
        TensorRT (S. Migacz, 8-bit Inference with TensorRT, GTC 2017) on signed values, as in ONNX Runtime's
        get_entropy_threshold, with a range that may be asymmetric.

    Example:
        >>> import numpy as np, octavo as oc
        >>> x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
        >>> observer = oc.EntropyObserver(dtype="int8", qscheme="per_tensor_symmetric")
        >>> _ = observer(np.append(x, np.float32(40)))
        >>> bool(observer.calculate_qparams().scale * 127 < 10)
        True
    """

    def _search(self) -> tuple[float | np.float32, float | np.float32]:
        lo, hi = _with_zero(*self.histogram.range, symmetric=self.symmetric)
        counts = self.histogram.rebinned(lo, hi).astype(np.float64)
        width = (float(hi) - float(lo)) / self.bins
        zero = min(int(-float(lo) / width), self.bins - 1)
        beside = [counts[i] for i in (zero - 1, zero + 1) if 0 <= i < self.bins]
        counts[zero] = min(counts[zero], max(beside))
        levels, total = self.quant_max - self.quant_min + 1, counts.sum()
        furthest = max(zero, self.bins - 1 - zero)
        best, least = (0, self.bins), np.inf
        for reach in range(furthest, 0, -max(1, self.bins // _CANDIDATES)):
            start, stop = max(0, zero - reach), min(self.bins, zero + reach + 1)
            if stop - start < levels or counts[start:stop].sum() < _LEAST_INSIDE * total:
                break
            if (divergence := _divergence(counts, start, stop, levels)) < least:
                best, least = (start, stop), divergence
        start, stop = best
        return max(float(lo) + width * start, float(lo)), min(float(lo) + width * stop, float(hi))


class MSEObserver(_HistogramKeeper):
    """The range with the least squared error: argmin over (a, b) of sum_i counts_i (c_i - fake_quantize(c_i))**2.

    c_i are the middles of the histogram's bins, quantized with the parameters for the range a lo..b hi, where
    lo <= 0 <= hi are the extremes seen, and a and b are 1, 0.99, ..., 0.01.

    Args:
        bins: of the histogram.
        **options: dtype, qscheme, quant_min, quant_max, eps; see `Observer`. Symmetric: a = b, from max|x|.

    Notes:
        For affine schemes both ends first shrink together (a = b), then each alone with the other at its best: 300 of
        the 10,000 ranges. The error is that of the parameters that are returned, in octavo's arithmetic; of equal
        errors the widest range is taken. Shrinking on a grid is what R. Banner et al. (ACIQ, 2019) solve in closed form
        for Gaussian and Laplacian data.

    Example:
        >>> import numpy as np, octavo as oc
        >>> x = np.random.default_rng(0).laplace(size=100_000).astype(np.float32)
        >>> mse, minmax = oc.MSEObserver(dtype="int4"), oc.MinMaxObserver(dtype="int4")
        >>> errors = [np.square(x - oc.fake_quantize(x, o.calculate_qparams())).mean() for o in (mse, minmax) if [o(x)]]
        >>> bool(errors[0] < errors[1] / 2)
        True
    """

    def _search(self) -> tuple[np.float32, np.float32]:
        lo, hi = _with_zero(*self.histogram.range, symmetric=self.symmetric)
        shrink = np.linspace(1, 1 / _GRID, _GRID).astype(np.float32)
        best_lo, best_hi = self._best(shrink * lo, shrink * hi)
        if not self.symmetric and lo < 0 < hi:
            best_lo, best_hi = self._best(np.append(best_lo, shrink * lo), np.full(_GRID + 1, best_hi))
            best_lo, best_hi = self._best(np.full(_GRID + 1, best_lo), np.append(best_hi, shrink * hi))
        return best_lo, best_hi

    def _best(self, lows: Floats, highs: Floats) -> tuple[np.float32, np.float32]:
        """The pair of lows and highs with the least error, the first of equals."""
        bins = np.flatnonzero(self.histogram.counts)
        counts, centers = (
            self.histogram.counts[bins].astype(np.float64),
            self.histogram.centers[bins].astype(np.float32),
        )
        params = self._qparams(lows, highs, axis=0)
        scale, zero_point = params.scale[:, None], params.zero_point[:, None].astype(np.float32)
        reciprocal = np.float32(1) / scale
        errors: list[float] = []
        for s, r, z in zip(scale, reciprocal, zero_point, strict=True):
            steps = np.clip(np.rint(centers * r), self.quant_min - z, self.quant_max - z)
            errors.append(float(np.square(steps * s - centers, dtype=np.float64) @ counts))
        best = int(np.argmin(errors))
        return lows[best], highs[best]


def _with_zero(lo: np.float32, hi: np.float32, *, symmetric: bool) -> tuple[np.float32, np.float32]:
    """The range widened to hold zero, and its mirror image if symmetric."""
    zero = np.float32(0)
    if symmetric:
        return -max(-lo, hi), max(-lo, hi)
    return min(lo, zero), max(hi, zero)


def _as_range(lo: float | np.float32, hi: float | np.float32) -> tuple[Floats, Floats]:
    return np.asarray(lo, np.float32), np.asarray(hi, np.float32)


def _crossing(at: Points, cumulative: Points, mass: float) -> float:
    """Where `cumulative`, linear between the points `at`, first reaches `mass`."""
    i = min(max(int(np.searchsorted(cumulative, mass, side="left")), 1), len(at) - 1)
    below, above = cumulative[i - 1], cumulative[i]
    share = (mass - below) / (above - below) if above > below else 0.0
    return float(at[i - 1] + min(max(share, 0.0), 1.0) * (at[i] - at[i - 1]))


def _divergence(counts: Points, start: int, stop: int, levels: int) -> float:
    """KL(P || Q) of the bins start..stop-1, at least `levels` of them; infinite where nothing lies inside."""
    inside, n = counts[start:stop], stop - start
    held = inside.sum()
    if held == 0:
        return float("inf")
    p = inside.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[stop:].sum()
    firsts = np.arange(levels) * n // levels
    filled = inside > 0
    group_counts, group_filled = np.add.reduceat(inside, firsts), np.add.reduceat(filled.astype(np.float64), firsts)
    each = group_counts / np.maximum(group_filled, 1)
    q = np.where(filled, np.repeat(each, np.diff(firsts, append=n)), 0.0)
    p, q = ((1 - _SMOOTHING) * a / a.sum() + _SMOOTHING / n for a in (p, q))
    return float(np.sum(p * np.log(p / q)))
