"""The picture of compare_peers.py: octavo beside the best peer, and beside what the CPU can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.peers.peer_report import machine_of, share_of_limit, sizes, times_as_fast

# Legible on white and on black.
TEXT, GRID, BARS, BEHIND = "#6e7781", "#8b949e", ("#1f6feb", "#7cb3ff"), "#d29922"


def plot(comparison: dict[str, Any], path: Path) -> None:
    """Draws both panels over the same layers, grouped by their weights, a bar for each number of rows and threads."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    runs, limits = comparison["runs"], comparison["limits"]
    shapes = list(runs[0]["shapes"])
    with plt.rc_context(dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT)):
        figure, (above, below) = plt.subplots(2, 1, figsize=(8.6, 5.6), layout="constrained", sharex=True)
        bars(above, runs, shapes, times_as_fast, mark_below=1.0)
        above.axhline(1, color=TEXT, lw=0.8)
        above.set_ylabel("times as fast\nas the best peer")
        bars(below, runs, shapes, lambda run, shape: share_of_limit(run, limits, shape, "octavo int8"))
        below.axhline(1, color=TEXT, lw=0.8)
        below.set_ylim(0, 1.1)
        below.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        below.set_ylabel("share of what\nthe CPU can do")
        label_layers(above, below, shapes)
        title = f"octavo int8, float32 in and out: {machine_of(comparison)}, kernel {runs[0]['kernel']}"
        figure.suptitle(title, fontsize=9)
        figure.savefig(path, dpi=200, transparent=True)
    plt.close(figure)


def bars(
    axis: Any,
    runs: list[dict[str, Any]],
    shapes: list[str],
    value: Callable[[dict[str, Any], str], float | None],
    *,
    mark_below: float = 0.0,
) -> None:
    """One bar for each shape and run; those below `mark_below` in another colour."""
    width = 0.8 / len(runs)
    for i, (run, colour) in enumerate(zip(runs, BARS, strict=False)):
        found = [(at, y) for at, shape in enumerate(shapes) if (y := value(run, shape)) is not None]
        places = [at + (i - (len(runs) - 1) / 2) * width for at, _ in found]
        threads = f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}"
        colours = [BEHIND if y < mark_below else colour for _, y in found]
        axis.bar(places, [y for _, y in found], width, color=colours, label=threads)
    axis.grid(axis="y", color=GRID, lw=0.4, alpha=0.5)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GRID)
    handles = [mpl_patch(colour) for _, colour in zip(runs, BARS, strict=False)]
    names = [f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}" for run in runs]
    if mark_below and any((value(run, shape) or mark_below) < mark_below for run in runs for shape in shapes):
        handles, names = [*handles, mpl_patch(BEHIND)], [*names, "behind"]
    if mark_below:
        axis.legend(handles, names, fontsize=8, frameon=False, loc="upper right", ncols=len(names))


def mpl_patch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour)


def label_layers(above: Any, below: Any, shapes: list[str]) -> None:
    """Rows under each bar; over each group of bars its K x N, and lines between the groups."""
    below.set_xticks(range(len(shapes)), [str(sizes(shape)[0]) for shape in shapes], rotation=90, fontsize=7)
    below.set_xlabel("rows M of x (M, K); the weights are K x N", fontsize=8)
    below.set_xlim(-0.8, len(shapes) - 0.2)
    layers = [sizes(shape)[1:] for shape in shapes]
    first = 0
    for at in range(1, len(layers) + 1):
        if at < len(layers) and layers[at] == layers[first]:
            continue
        k, n = layers[first]
        if at - first > 2:
            above.text((first + at - 1) / 2, 1.0, f"{k} x {n}", transform=above.get_xaxis_transform(), ha="center",
                       va="bottom", fontsize=8)  # fmt: skip
        for axis in (above, below):
            if at < len(layers):
                axis.axvline(at - 0.5, color=GRID, lw=0.6, ls=":")
        first = at
