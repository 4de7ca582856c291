"""Plots of results, by matplotlib: legible on white and on black, in a file, a notebook or axes of the caller's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from octavo._util.extras import import_extra
from octavo._util.tables import Tabular

__all__ = ["BAD", "GOOD", "GRID", "TEXT", "Panel", "Plotted", "bar_panels", "one_axes", "save", "short", "style"]

# Of middle lightness, so that they show on white and on black.
GOOD, BAD, TEXT, GRID = "#1f6feb", "#c27a00", "#6e7781", "#818b96"

_ROOM = 0.28  # beside the longest bar, for its label, as a share of the axis


@dataclass(frozen=True, slots=True)
class Panel:
    """A column of horizontal bars.

    Attributes:
        title: over it, with the unit.
        values: a bar each; those that are not finite are written where the bar would begin.
        labels: written at the bars' ends; None: the values.
        colours: of the bars; None: all GOOD.
        limit: where a line is drawn across the bars.
    """

    title: str
    values: Sequence[float]
    labels: Sequence[str] | None = None
    colours: Sequence[str] | None = None
    limit: float | None = None


class Plotted(Tabular):
    """A table that draws itself, too. Subclasses write `_panels`."""

    __slots__ = ()

    def _panels(self) -> tuple[Sequence[str], Sequence[Panel]]:
        """The names of the rows, and the columns of bars."""
        raise NotImplementedError

    def plot(self, path: str | PathLike[str] | None = None, axes: Any = None) -> tuple[Any, ...]:
        """Draws the table's figures as bars, a row each: their columns side by side.

        What is better left in float, or loses more than a tenth of its result, has another colour. Lines are at 20 dB
        and at speedup 1.

        Args:
            path: of a picture to write; its ending gives the format.
            axes: matplotlib axes to draw into, one a column; by default those of a new figure, which a notebook shows
                where there is no path.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is missing; the message has the command that installs it.
            ValueError: the number of axes does not fit.
        """
        names, panels = self._panels()
        return bar_panels(names, panels, path=path, axes=axes)


def bar_panels(
    names: Sequence[str], panels: Sequence[Panel], *, path: str | PathLike[str] | None, axes: Any
) -> tuple[Any, ...]:
    """Draws panels of bars side by side, a row for each name, the first name on top.

    Args:
        names: of the rows.
        panels: from left to right.
        path: of the picture, whose ending gives the format; None: no file.
        axes: matplotlib axes to draw into, one a panel; None: those of a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: as many axes are given as there are not panels.
    """
    drawn = _axes(axes, len(panels), (1.6 + 2.8 * len(panels), 0.9 + 0.24 * max(2, len(names))), path)
    for axis, panel in zip(drawn, panels, strict=True):
        _draw(axis, panel)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_yticks(range(len(names)), names if axis is drawn[0] else [])
        axis.tick_params(axis="y", length=0)
    save(drawn[0], path)
    return drawn


def _draw(axis: Any, panel: Panel) -> None:
    finite = [value if math.isfinite(value) else 0.0 for value in panel.values]
    low, high = min(0.0, *finite, panel.limit or 0.0), max(0.0, *finite, panel.limit or 0.0)
    empty = low == high
    span = 1.0 if empty else high - low
    labels = [short(value) for value in panel.values] if panel.labels is None else panel.labels
    bars = axis.barh(range(len(finite)), finite, color=panel.colours or GOOD, height=0.65)
    axis.bar_label(bars, labels=labels, padding=3, color=TEXT, fontsize=8)
    axis.set_xlim(low - (_ROOM * span if low < 0 else 0), low + (1 + _ROOM) * span)
    if empty:
        axis.set_xticks([0])
    if panel.limit is not None:
        axis.axvline(panel.limit, color=GRID, lw=0.8, ls="--", zorder=0)
    axis.set_title(panel.title, fontsize=10)
    style(axis)


def one_axes(axes: Any, size: tuple[float, float], path: str | PathLike[str] | None) -> Any:
    """The axes given, or those of a new figure."""
    return _axes(axes, 1, size, path)[0]


def _axes(axes: Any, count: int, size: tuple[float, float], path: str | PathLike[str] | None) -> tuple[Any, ...]:
    if axes is None:
        return _new_axes(count, size, path)
    given = tuple(axes.flat if hasattr(axes, "flat") else axes if isinstance(axes, Sequence) else [axes])
    if len(given) != count:
        raise ValueError(f"axes must be {count} matplotlib axes, got {len(given)}; plt.subplots(1, {count}) makes them")
    return given


def _new_axes(count: int, size: tuple[float, float], path: str | PathLike[str] | None) -> tuple[Any, ...]:
    if path is None:  # pyplot's figures are what notebooks and plt.show() display
        figure = import_extra("matplotlib.pyplot", purpose="plot", extra="cli").figure(
            figsize=size, layout="constrained"
        )
    else:
        figure = import_extra("matplotlib.figure", purpose="plot", extra="cli").Figure(
            figsize=size, layout="constrained"
        )
        figure.patch.set_alpha(0)
    axes = figure.subplots(1, count, squeeze=False)[0]
    if path is not None:
        for axis in axes:
            axis.patch.set_alpha(0)
    return tuple(axes)


def style(axis: Any) -> None:
    """The colours and lines that all plots share."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GRID)
    axis.tick_params(colors=TEXT, labelsize=8)
    for text in (axis.title, axis.xaxis.label, axis.yaxis.label):
        text.set_color(TEXT)


def save(axis: Any, path: str | PathLike[str] | None) -> None:
    """Writes the figure of the axes, where a path is given."""
    if path is not None:
        axis.figure.savefig(path, dpi=150)


def short(value: float) -> str:
    """A number in three digits or more, without an exponent where it has six digits or fewer.

    Example:
        >>> from octavo._util.plots import short
        >>> [short(x) for x in (0.0, 41.234, 0.01234, 32100.4, 1.5e-7, float("inf"))]
        ['0', '41.2', '0.0123', '32,100', '1.5e-07', 'inf']
    """
    size = abs(value)
    if value == 0 or not math.isfinite(value):
        return f"{value + 0.0:.0f}"
    if size >= 999.5:
        return f"{value:,.0f}" if size < 999_999.5 else f"{value:.2e}"
    return f"{value:.3g}" if size >= 0.0005 else f"{value:.1e}"
