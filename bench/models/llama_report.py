"""The tables and the picture of `bench.models.llama`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

KINDS = ("decode", "prefill 128", "prefill 512")
TEXT, GRID = "#6e7781", "#8b949e"  # legible on white and on black
COLOURS = ("#1f6feb", "#7cb3ff", "#d29922", "#8b949e", "#57606a")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rate(figure: dict[str, float] | None) -> str:
    """A median and the range of the rounds."""
    if figure is None:
        return ""
    digits = 1 if figure["median"] < 100 else 0
    median, lowest, highest = (f"{figure[name]:.{digits}f}" for name in ("median", "lowest", "highest"))
    return f"{median} ({lowest}-{highest})"


def speed_table(run: dict[str, Any]) -> str:
    """Tokens a second, and times those of llama.cpp where it ran."""
    peer = run.get("llama.cpp")
    header = ["tokens/s, median (range)", *KINDS] + [f"{kind}, times llama.cpp" for kind in KINDS if peer]
    rows = []
    for name, figures in run.items():
        cells = [rate(figures.get(kind)) for kind in KINDS]
        if peer:
            cells += [f"{figures[kind]['median'] / peer[kind]['median']:.2f}" for kind in KINDS]
        rows.append([name, *cells])
    return markdown(header, rows)


def quality_table(quality: dict[str, Any], memory: dict[str, Any]) -> str:
    rows = []
    for name in {**quality, **memory}:
        q, m = quality.get(name), memory.get(name)
        cells = [f"{q['perplexity']:.3f}", f"{q['kl']:.2g}", f"{100 * q['top1']:.2f} %"] if q else ["", "", ""]
        megabytes = [m[kind] / 1e6 if m else 0 for kind in ("weights", "resident")]
        rows.append([name, *cells, *(f"{size:.0f} MB" if size else "" for size in megabytes)])
    header = ["", "perplexity", "KL to float32", "same likeliest token", "weights", "process grows by"]
    return markdown(header, rows)


def outside_table(runs: dict[str, Any]) -> str:
    rows = [
        [name, threads, *(f"{1e3 * figures[kind]['median']:.1f} ms" for kind in ("decode", "prefill 512"))]
        for threads, run in runs.items()
        for name, figures in run.items()
    ]
    return markdown(["outside of products", "threads", "a token behind 128", "a prompt of 512"], rows)


def page(results: dict[str, Any]) -> str:
    """All tables that the results have figures for."""
    parts = [f"{results['cpu']}, kernel {results['kernel']}"] if "cpu" in results else []
    for threads, run in results.get("speed", {}).items():
        parts += [f"{threads} thread{'s' if threads != '1' else ''}:", speed_table(run)]
    if "quality" in results or "memory" in results:
        parts.append(quality_table(results.get("quality", {}), results.get("memory", {})))
    if "outside" in results:
        parts.append(outside_table(results["outside"]))
    return "\n\n".join(parts)


def plot(results: dict[str, Any], path: Path) -> None:
    """Tokens a second: a panel for each kind of work, a group of bars for each number of threads."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    runs = results["speed"]
    names = list(dict.fromkeys(name for run in runs.values() for name in run))
    width = 0.8 / len(names)
    with plt.rc_context(dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT)):
        figure, axes = plt.subplots(1, len(KINDS), figsize=(8.6, 3.2), layout="constrained")
        for axis, kind in zip(axes, KINDS, strict=True):
            for i, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
                found = [(at, run[name][kind]) for at, run in enumerate(runs.values()) if name in run]
                places = [at + (i - (len(names) - 1) / 2) * width for at, _ in found]
                medians = [f["median"] for _, f in found]
                ranges = [[f["median"] - f["lowest"] for _, f in found], [f["highest"] - f["median"] for _, f in found]]
                axis.bar(places, medians, width, yerr=ranges, color=colour, ecolor=TEXT, label=name,
                         error_kw={"lw": 0.8})  # fmt: skip
            axis.set_title(kind, fontsize=9)
            axis.set_xticks(range(len(runs)), [f"{t} thread{'s' if t != '1' else ''}" for t in runs], fontsize=8)
            axis.tick_params(axis="y", labelsize=8)
            axis.grid(axis="y", color=GRID, lw=0.4, alpha=0.5)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
            axis.spines[["left", "bottom"]].set_color(GRID)
        axes[0].set_ylabel("tokens a second", fontsize=8)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=8,
                      frameon=False)  # fmt: skip
        figure.suptitle(f"SmolLM2-135M: {results['cpu']}, kernel {results['kernel']}", fontsize=9)
        figure.savefig(path, dpi=200, transparent=True)
    plt.close(figure)
