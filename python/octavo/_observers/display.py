"""How observers show themselves: a table of what they have seen and chosen, and a plot of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo._numerics.params import QParams
from octavo._observers.histogram_math import Histogram
from octavo._util.plots import BAD, GOOD, GRID, TEXT, one_axes, save, short, style

__all__ = ["observer_table", "plot_channels", "plot_histogram", "plot_range"]

_SHOWN_CHANNELS = 16  # rows of the table of a per-channel observer
_DRAWN_BINS = 256  # of a histogram

Reals = npt.NDArray[np.float64]
Range = tuple[npt.NDArray[Any], npt.NDArray[Any]]


def observer_table(
    name: str, options: Mapping[str, Any], seen: Range | None, chosen: QParams | str
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Header and rows: an observer's options, the range seen, and what it chooses or why it cannot choose.

    Per channel there is a row for each channel, or for the first and last ones.
    """
    rows = [
        (option, f"{value:.6g}" if isinstance(value, float) else str(value))
        for option, value in options.items()
        if value is not None
    ]
    if isinstance(chosen, str) or seen is None:
        return (name, ""), [*rows, ("qparams", str(chosen))]
    lo, hi = seen
    if lo.ndim == 0:
        return (name, ""), [
            *rows,
            ("seen", _range(seen)),
            ("covered", _range(covered(chosen))),
            ("scale", f"{float(chosen.scale):.6g}"),
            ("zero_point", f"{int(chosen.zero_point)}"),
        ]
    columns = (lo, hi, chosen.scale, chosen.zero_point)
    channels = [(f"{c}", *(f"{float(column[c]):.6g}" for column in columns)) for c in _shown(lo.size)]
    if lo.size > _SHOWN_CHANNELS:
        channels.insert(_SHOWN_CHANNELS // 2, ("...", "", "", "", ""))
    return ("channel", "lowest", "highest", "scale", "zero_point"), channels


def _range(ends: Range) -> str:
    lo, hi = (short(float(end)) for end in ends)
    return f"{lo} to {hi}"


def _shown(channels: int) -> list[int]:
    if channels <= _SHOWN_CHANNELS:
        return list(range(channels))
    half = _SHOWN_CHANNELS // 2
    return [*range(half), *range(channels - half, channels)]


def covered(params: QParams) -> tuple[Reals, Reals]:
    """The lowest and highest reals that integers stand for."""
    scale, zero_point = params.scale.astype(np.float64), params.zero_point.astype(np.float64)
    return (params.qmin - zero_point) * scale, (params.qmax - zero_point) * scale


def plot_histogram(
    name: str, histogram: Histogram, chosen: QParams, path: str | PathLike[str] | None, axes: Any
) -> Any:
    """The counts on a logarithmic axis, with lines at the ends of the range that integers cover."""
    axis = one_axes(axes, (6.4, 3.2), path)
    edges, counts = histogram.edges, histogram.counts.astype(np.float64)
    ends = [float(end) for end in covered(chosen)]
    if edges[0] == edges[-1]:
        axis.bar([edges[0]], [counts.sum()], width=max(abs(edges[0]) * 0.02, 0.01), color=GOOD)
    else:
        per = -(-histogram.bins // _DRAWN_BINS)
        firsts = np.arange(0, histogram.bins, per)
        axis.stairs(np.add.reduceat(counts, firsts), np.append(edges[firsts], edges[-1]), fill=True, color=GOOD)
    for end in ends:
        axis.axvline(end, color=BAD, lw=1.5)
    axis.set_yscale("log")
    axis.set_ylim(bottom=0.7)
    middles = histogram.centers
    outside = counts[(middles < ends[0]) | (middles > ends[1])].sum() / counts.sum()
    axis.set_title(
        f"{name}: {_range(covered(chosen))} covered, {outside:.2%} of values outside",
        fontsize=10,
    )
    axis.set_xlabel("value", fontsize=9)
    axis.set_ylabel("values a bin", fontsize=9)
    return _finished(axis, path)


def plot_range(name: str, seen: Range, chosen: QParams, path: str | PathLike[str] | None, axes: Any) -> Any:
    """Two bars, one over the other: the range seen, and the range that integers cover."""
    axis = one_axes(axes, (6.4, 1.8), path)
    ranges = [tuple(float(end) for end in pair) for pair in (seen, covered(chosen))]
    lows, highs = zip(*ranges, strict=True)
    bars = axis.barh([0, 1], np.subtract(highs, lows), left=lows, color=[GOOD, BAD], height=0.6)
    texts = [f"{short(lo)} to {short(hi)}" for lo, hi in ranges]
    axis.bar_label(bars, labels=texts, padding=4, color=TEXT, fontsize=8)
    least, most = min(0.0, *lows), max(0.0, *highs)
    span = most - least or 1.0
    axis.set_xlim(least - 0.02 * span, most + 0.3 * span)
    axis.set_ylim(1.6, -0.6)
    axis.set_yticks([0, 1], ["seen", "covered"])
    axis.axvline(0, color=GRID, lw=0.8)
    axis.set_title(f"{name}, {chosen.qtype.name}", fontsize=10)
    return _finished(axis, path)


def plot_channels(name: str, seen: Range, chosen: QParams, path: str | PathLike[str] | None, axes: Any) -> Any:
    """The range seen of each channel as a band, and lines at the ends of the range that its integers cover."""
    axis = one_axes(axes, (6.4, 3.2), path)
    edges = np.arange(chosen.scale.size + 1) - 0.5
    lo, hi = seen
    axis.stairs(hi, edges, baseline=lo, fill=True, color=GOOD, label="seen")
    for end, label in zip(covered(chosen), ("covered", None), strict=True):
        axis.stairs(end, edges, baseline=None, color=BAD, lw=1.2, label=label)
    axis.axhline(0, color=GRID, lw=0.8)
    axis.set_xlim(edges[0], edges[-1])
    least, most = min(0.0, float(lo.min())), max(0.0, float(hi.max()))
    if most > least:  # a channel of zeros has scale 1, whose range would dwarf all others
        axis.set_ylim(least - 0.12 * (most - least), most + 0.12 * (most - least))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_title(f"{name}, {chosen.qtype.name}", fontsize=10)
    axis.set_xlabel("channel", fontsize=9)
    axis.set_ylabel("value", fontsize=9)
    axis.legend(frameon=False, labelcolor=TEXT, fontsize=8)
    return _finished(axis, path)


def _finished(axis: Any, path: str | PathLike[str] | None) -> Any:
    style(axis)
    save(axis, path)
    return axis
