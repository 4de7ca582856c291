"""A histogram of a stream whose range is not known beforehand, in constant memory.

    counts[i]   values in [lo + i w, lo + (i + 1) w),  w = (hi - lo) / bins;  the last bin holds hi too

[lo, hi] is the range seen so far. When a batch or another histogram widens it, the old counts move into the new bins:
each bin is cut into 16 equal parts, which go where their middles lie. So a count may be off by one bin after each
widening, and the total never changes. Bin indices are those of torch.histc, and the widening that of torch's
HistogramObserver.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo._numerics.params import Array
from octavo._util.pickling import pickled

Counts = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

_PARTS = 16  # as torch's upsample_rate
_QUANTILE_STEP = 1e-5  # torch's granularity of the search
_BLOCK_ELEMS = 1 << 16  # values binned at a time, so that temporaries stay in cache
_FLOAT32_SPANS = (2.0**-100, 2.0**100)  # where float32 neither overflows nor loses bits in the arithmetic below


@pickled
class Histogram:
    """Counts of a stream in equal bins between its extremes. Both extremes are None before the first value."""

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self.lo: np.float32 | None = None
        self.hi: np.float32 | None = None
        self.counts: Counts = np.zeros(bins, np.float32)

    @property
    def range(self) -> tuple[np.float32, np.float32]:
        """(lo, hi), after the first value."""
        assert self.lo is not None
        assert self.hi is not None
        return self.lo, self.hi

    @property
    def nbytes(self) -> int:
        return self.counts.nbytes + 8

    @property
    def edges(self) -> Points:
        """(bins + 1,): where bins begin and end."""
        lo, hi = self.range
        return np.linspace(float(lo), float(hi), self.bins + 1)

    @property
    def centers(self) -> Points:
        """(bins,): the middles of bins."""
        edges = self.edges
        return (edges[:-1] + edges[1:]) / 2

    def add(self, values: Array, lo: np.float32, hi: np.float32) -> None:
        """Counts finite values with these extremes."""
        new_lo, new_hi = self._with(lo, hi)
        flat, added = values.ravel(), np.zeros(self.bins, np.int64)
        for start in range(0, flat.size, _BLOCK_ELEMS):
            block = flat[start : start + _BLOCK_ELEMS].astype(np.float32)
            added += np.bincount(_bin_of(block, new_lo, new_hi, self.bins), minlength=self.bins)
        counts = added.astype(np.float32)
        if self.lo is not None:
            counts += self.rebinned(new_lo, new_hi)
        self.lo, self.hi, self.counts = new_lo, new_hi, counts

    def merge(self, other: Histogram) -> None:
        """Adds what another histogram of as many bins has counted; both have values."""
        new_lo, new_hi = self._with(*other.range)
        counts = other.rebinned(new_lo, new_hi)
        if self.lo is not None:
            counts = counts + self.rebinned(new_lo, new_hi)
        self.lo, self.hi, self.counts = new_lo, new_hi, counts

    def rebinned(self, new_lo: np.float32, new_hi: np.float32) -> Counts:
        """The counts in as many bins between wider limits."""
        lo, hi = self.range
        if (lo, hi) == (new_lo, new_hi):
            return self.counts
        if lo == hi:
            one = _bin_of(np.asarray([lo]), new_lo, new_hi, self.bins)
            return _weighted(one, np.asarray([self.counts.sum(dtype=np.float64)], np.float32), self.bins)
        parts = self.bins * _PARTS
        real = _arithmetic(new_lo, new_hi)
        half = real((hi - real(lo)) / real(parts)) * real(0.5)
        middles = _linspace(lo, hi, parts, real)[:-1] + half
        target = np.searchsorted(_linspace(new_lo, new_hi, self.bins, real), middles, side="right") - 1
        np.clip(target, 0, self.bins - 1, out=target)
        return _weighted(target, np.repeat(self.counts / np.float32(_PARTS), _PARTS), self.bins)

    def _with(self, lo: np.float32, hi: np.float32) -> tuple[np.float32, np.float32]:
        return (lo, hi) if self.lo is None else (min(self.range[0], lo), max(self.range[1], hi))


def l2_range(histogram: Histogram, levels: int) -> tuple[np.float32, np.float32]:
    """torch's search for the range (lo, hi) that has the least L2 error when cut into `levels` equal steps.

    From the whole range, the quantile bounds alpha = 0 and beta = 1 close in by 1e-5 a time: on the side where that
    skips more bins, else from above. Each time a bound moves to another bin, the error is computed with the values
    spread evenly in their bins; the search ends when it rises. Every value is taken to its step's middle, and
    those outside to the first or last one's. The moves do not depend on the errors, so errors are
    computed for several moves at once, in float32 as torch does.
    """
    lo, hi = histogram.range
    real = _arithmetic(lo, hi)
    width = real(real(hi) - real(lo)) / real(histogram.bins)
    if not width > 0:
        return lo, hi
    kept, least = (0, histogram.bins - 1), np.inf
    moves, stopped = _Moves(histogram), False
    while not stopped and (chunk := moves.take(16)):
        for move, error in zip(chunk, _l2_errors(histogram, np.array(chunk), levels), strict=True):
            if stopped := bool(error > least):
                break
            kept, least = move, error
    start, end = kept
    return np.float32(lo + width * real(start)), np.float32(lo + width * real(end + 1))


class _Moves:
    """(first bin, last bin) after each move of the search."""

    def __init__(self, histogram: Histogram) -> None:
        self.total = float(_sums(histogram.counts))
        self.alphas, self.betas = _quantile_bounds()
        self.cumulative = np.cumsum(histogram.counts, dtype=np.float64).astype(np.float32)
        self.alpha = self.beta = self.start = 0  # steps taken from either side, and the bins they led to
        self.end = histogram.bins - 1

    def take(self, count: int) -> list[tuple[int, int]]:
        """The next moves, `count` of them, or fewer at the end."""
        moves: list[tuple[int, int]] = []
        while len(moves) < count and self.start < self.end and self.alphas[self.alpha] < self.betas[self.beta]:
            low, high = (np.float32(q * self.total) for q in (self.alphas[self.alpha + 1], self.betas[self.beta + 1]))
            left = int(np.searchsorted(self.cumulative, low, side="left"))
            right = int(np.searchsorted(self.cumulative, high, side="right")) - 1
            left, right = min(max(left, self.start), self.end), max(min(right, self.end), self.start)
            if left - self.start > self.end - right:
                self.start = left
                self.alpha += 1
            elif right < self.end:
                self.end = right
                self.beta += 1
            else:
                # Nothing moves until beta has left the last bin. One step short, as the sums are rounded.
                ahead = int((1 - float(self.cumulative[self.end]) / self.total) / _QUANTILE_STEP) - 2
                self.beta = min(max(ahead, self.beta + 1), len(self.betas) - 2)
                continue
            moves.append((self.start, self.end))
        return moves


@functools.cache
def _quantile_bounds() -> tuple[Points, Points]:
    """alpha and beta after each number of steps, summed as torch's loop does, with its rounding errors."""
    steps = np.full(round(1 / _QUANTILE_STEP) + 1, _QUANTILE_STEP)
    alphas, betas = np.append(0.0, steps), np.append(1.0, steps)
    return np.add.accumulate(alphas), np.subtract.accumulate(betas)


def _l2_errors(histogram: Histogram, moves: npt.NDArray[np.intp], levels: int) -> Counts:
    """The L2 error of each (first bin, last bin), up to a common factor, with torch's float32 roundings."""
    lo, hi = map(float, histogram.range)
    # Scaled by a power of two, which changes no bit of the result and cannot overflow when cubed.
    width = float(np.frexp((hi - lo) / histogram.bins)[0])
    density = histogram.counts / np.float32(width)
    start, end = moves[:, :1], moves[:, 1:]
    step = (width * (end - start + 1) / levels).astype(np.float32)
    half, last = step / 2, np.float32(levels - 1)
    begins = (np.arange(histogram.bins) - start).astype(np.float32) * np.float32(width)
    ends = begins + np.float32(width)
    first_step = np.clip(np.floor(begins / step), 0, last)
    last_step = np.clip(np.floor(ends / step), 0, last)
    from_begin = begins - (first_step + np.float32(0.5)) * step
    to_end = ends - (last_step * step + half)
    cube = half * half * half
    error = density * ((cube - from_begin * from_begin * from_begin) / 3)
    error += (last_step - first_step - 1) * (density * ((cube + cube) / 3))
    error += density * ((to_end * to_end * to_end + cube) / 3)
    return _sums(error)


def _sums(values: Counts) -> Counts:
    """Sums over the last axis, added in the order of torch.sum on x86: the search turns on the last bit of them.

    32 running sums (4 registers of 8 lanes) of 16 values each, blocks of 16 x 32 added up, then registers, then lanes.
    torch's order differs for more than 8192 values, or where their number is not a multiple of 512.
    """
    missing = -values.shape[-1] % 512
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)])
    running = padded.reshape(*values.shape[:-1], -1, 16, 4, 8)
    for axis in (-3, -3, -2):  # NumPy adds in order along all axes but the last
        running = np.add.reduce(running, axis=axis)
    lanes: Counts = np.add.accumulate(running, axis=-1)[..., -1]
    return lanes


def _arithmetic(lo: np.float32, hi: np.float32) -> type[np.floating[Any]]:
    """float32, in which torch computes, or float64 where that would overflow."""
    least, most = _FLOAT32_SPANS
    return np.float32 if least < float(hi) - float(lo) < most else np.float64


def _bin_of(values: npt.NDArray[np.float32], lo: np.float32, hi: np.float32, bins: int) -> npt.NDArray[np.intp]:
    if lo == hi:
        return np.full(values.shape, bins // 2, np.intp)
    real = _arithmetic(lo, hi)
    position = np.subtract(values, lo, dtype=real)
    position *= real(bins)
    position /= real(hi) - real(lo)
    return np.minimum(position.astype(np.intp), bins - 1)


def _weighted(bin_of_each: npt.NDArray[np.intp], weights: Counts, bins: int) -> Counts:
    counts = np.zeros(bins, np.float32)
    np.add.at(counts, bin_of_each, weights)  # in order and in float32, unlike np.bincount
    return counts


def _linspace(lo: np.float32, hi: np.float32, intervals: int, real: type[np.floating[Any]]) -> Array:
    """Both halves counted from their own end, as torch.linspace does."""
    i, step = np.arange(intervals + 1), float((real(hi) - real(lo)) / real(intervals))
    # float64 holds the products exactly: one rounding a point, as the fused multiply-add of torch has.
    up, down = float(lo) + step * i, float(hi) - step * (intervals - i)
    points: Array = np.where(i < (intervals + 1) // 2, up, down).astype(real)
    return points
