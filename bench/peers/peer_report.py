"""What compare_peers.py makes of its figures: a table and a page."""

from __future__ import annotations

import platform
from datetime import date
from pathlib import Path
from typing import Any

ARITHMETIC = {  # what bounds a kind: figures of limits_x86, the fastest that was measured counts
    "int8": (
        "TDPBSSD (AMX)",
        "VPDPBUSD 512",
        "VPDPBUSD 256 (EVEX)",
        "VPDPBUSD 256 (AVX-VNNI)",
        "VPMADDWD + VPADDD 256",
    ),
    "float32": ("float32 FMA 512", "float32 FMA 256"),
}


def sizes(shape: str) -> tuple[int, int, int]:
    m, k, n = map(int, shape.split("x"))
    return m, k, n


def best(figure: dict[str, Any]) -> float:
    """A limit is what the machine did at its best: other programs only make its figures worse."""
    return float(figure["low" if figure["unit"] == "ms" else "high"])


def arithmetic_limit(limits: dict[str, Any], kind: str, threads: int) -> float | None:
    """Operations a second, or None where nothing was measured for this kind."""
    names = ARITHMETIC.get("int8" if kind == "int4" else kind, ())
    found = [best(f) for f in limits["figures"] if f["name"] in names and f["threads"] == threads]
    return 1e12 * max(found) if found else None


def read_limit(limits: dict[str, Any], size_bytes: float, threads: int) -> float | None:
    """Bytes a second: of the measured sizes of data, the nearest one by ratio."""
    found = [
        f for f in limits["figures"] if f["group"] == "read" and f["threads"] == threads and "each" not in f["name"]
    ]
    if not found:
        return None
    nearest = min(found, key=lambda f: max(f["bytes"] / size_bytes, size_bytes / f["bytes"]))
    return 1e9 * best(nearest)


def least_seconds(limits: dict[str, Any], shape: str, contender: dict[str, Any], threads: int) -> float | None:
    """The roofline: what arithmetic or reading the weights takes at least."""
    m, k, n = sizes(shape)
    weight_bytes = k * n * contender["weight_bits"] / 8
    peak, read = (
        arithmetic_limit(limits, contender["kind"], threads),
        read_limit(limits, weight_bytes, threads),
    )
    if peak is None or read is None:
        return None
    return max(2 * m * k * n / peak, weight_bytes / read)


def best_peer(run: dict[str, Any], shape: str, *, kinds: tuple[str, ...] = ("float32", "bf16", "int8")) -> str | None:
    """The fastest contender from floats to floats that is not octavo and whose answer is right."""
    figures = run["shapes"][shape]
    peers = [
        name
        for name, c in run["contenders"].items()
        if not c["is_octavo"] and not c["integers_only"] and c["kind"] in kinds
        if "seconds" in figures.get(name, {}) and not figures[name]["wrong"]
    ]
    return min(peers, key=lambda name: figures[name]["seconds"], default=None)


def milliseconds(figures: dict[str, Any]) -> str:
    if "seconds" not in figures:
        return "failed" if "failed" in figures else "-"
    return f"{1e3 * figures['seconds']:.3g}" + ("!" if figures["wrong"] else "")


def share_of_limit(run: dict[str, Any], limits: dict[str, Any], shape: str, name: str) -> float | None:
    """The least time over the measured one: 1 where the contender does all that the machine can do."""
    figures = run["shapes"][shape].get(name, {})
    least = least_seconds(limits, shape, run["contenders"].get(name, {"kind": "", "weight_bits": 8}), run["threads"])
    return None if least is None or "seconds" not in figures else float(least / figures["seconds"])


def times_as_fast(run: dict[str, Any], shape: str) -> float | None:
    """The time of the best peer over octavo int8's."""
    figures, peer = run["shapes"][shape], best_peer(run, shape)
    if peer is None or "seconds" not in figures.get("octavo int8", {}):
        return None
    return float(figures[peer]["seconds"] / figures["octavo int8"]["seconds"])


def samples_of(run: dict[str, Any], shape: str) -> str:
    """How many samples each figure of a row rests on, and of which mode of the core where modes were told apart."""
    timed = [f for f in run["shapes"][shape].values() if "seconds" in f]
    counts = sorted(f.get("samples", f.get("rounds", 0)) for f in timed)
    modes = {f.get("mode", "any") for f in timed}
    if not counts:
        return "-"
    text = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]}-{counts[-1]}"
    return text if modes == {"any"} else f"{text} fast" if modes == {"fast"} else f"{text}, not all fast"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def rows(run: dict[str, Any], limits: dict[str, Any]) -> list[list[str]]:
    """Shape; every contender's milliseconds; octavo's spread, rate, share of the limit, ratio to the best peer."""
    found = []
    for shape, figures in run["shapes"].items():
        row = [shape, *(milliseconds(figures.get(name, {})) for name in run["contenders"])]
        ours = figures.get("octavo int8", {})
        peer = best_peer(run, shape)
        m, k, n = sizes(shape)
        if "seconds" in ours:
            rate = 2 * m * k * n / ours["seconds"] / 1e12
            row += [percent(ours["spread"]), f"{rate:.3f}", percent(share_of_limit(run, limits, shape, "octavo int8"))]
            row.append("-" if peer is None else f"{times_as_fast(run, shape):.2f}x {peer}")
        else:
            row += ["-"] * 4
        found.append([*row, samples_of(run, shape)])
    return found


def heads(run: dict[str, Any]) -> list[str]:
    return ["M x K x N", *run["contenders"], "spread", "TOPS", "of limit", "best peer takes", "samples"]


def complaints(run: dict[str, Any]) -> list[str]:
    """Who is wrong, and who failed, a line each."""
    found = []
    for name, contender in run["contenders"].items():
        saturation = contender["saturation"]
        if saturation.get("wrong"):
            found.append(f"{name} is wrong on data all ones, K = {saturation['expected']}: {saturation['got']:.6g}")
        if "failed" in saturation:
            found.append(f"{name} failed on data all ones: {saturation['failed']}")
        wrong = [shape for shape, figures in run["shapes"].items() if figures.get(name, {}).get("wrong")]
        if wrong:
            worst = max(run["shapes"][shape][name]["error"] for shape in wrong)
            found.append(f"{name} is wrong (!) at {', '.join(wrong)}: relative error up to {worst:.2g}")
        failures = {f[name]["failed"]: s for s, f in run["shapes"].items() if "failed" in f.get(name, {})}
        found += [f"{name} failed, last at {shape}: {message}" for message, shape in failures.items()]
    return found


def table(run: dict[str, Any], limits: dict[str, Any]) -> str:
    """Milliseconds in columns, for a terminal."""
    names = list(run["contenders"])
    lines = [f"{run['cpu']}, kernel {run['kernel']}, threads {run['threads']}; milliseconds a call"]
    lines += [f"  ({chr(ord('a') + i)}) {name}" for i, name in enumerate(names)]
    letters = [f"({chr(ord('a') + i)})" for i in range(len(names))]
    lines.append(
        f"{'M x K x N':>16} "
        + "".join(f"{a:>9}" for a in letters)
        + "  spread   TOPS of limit  best peer takes, samples"
    )
    for shape, *cells in rows(run, limits):
        times, (spread, rate, limit, ratio, count) = cells[: len(names)], cells[len(names) :]
        figures = f"{spread:>8} {rate:>6} {limit:>8}  {ratio}, {count}"
        lines.append(f"{shape:>16} " + "".join(f"{t:>9}" for t in times) + figures)
    return "\n".join([*lines, *(complaints(run) or ["all answers are right"])])


def markdown_table(head: list[str], body: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def limits_table(limits: dict[str, Any]) -> str:
    counts = sorted({f["threads"] for f in limits["figures"]})
    named: dict[str, dict[int, str]] = {}
    for f in limits["figures"]:
        named.setdefault(f["name"], {})[f["threads"]] = f"{best(f):.3g} {f['unit']}"
    head = ["what", *(f"{n} thread{'s' if n > 1 else ''}" for n in counts)]
    return markdown_table(head, [[name, *(cells.get(n, "") for n in counts)] for name, cells in named.items()])


def command_of(comparison: dict[str, Any], markdown: Path, picture: Path | None) -> str:
    threads = " ".join(str(run["threads"]) for run in comparison["runs"])
    drawn = f" --plot {picture}" if picture is not None else ""
    named = f" --machine '{comparison['machine']}'" if "machine" in comparison else ""
    return f"python -m bench.peers.compare_peers --threads {threads} --markdown {markdown}{drawn}{named}"


def machine_of(comparison: dict[str, Any]) -> str:
    """What to call the CPU: as it was named, else as it names itself."""
    return str(comparison.get("machine", comparison["runs"][0]["cpu"]))


def what_bounds(run: dict[str, Any], limits: dict[str, Any]) -> list[list[str]]:
    """Of each layer of the run: the batch from which arithmetic, not reading the weights, is the limit."""
    found = []
    peak = arithmetic_limit(limits, "int8", run["threads"])
    for k, n in dict.fromkeys(sizes(shape)[1:] for shape in run["shapes"]):
        read = read_limit(limits, k * n, run["threads"])
        if peak is None or read is None:
            continue
        turning = peak / read / 2
        found.append([f"{k} x {n}", f"{k * n / 1e6:.2g} MB", f"{read / 1e9:.0f} GB/s", f"{turning:.1f}"])
    return found


def page(comparison: dict[str, Any], path: Path, picture: Path | None) -> str:
    """docs/benchmarks.md."""
    runs, limits = comparison["runs"], comparison["limits"]
    versions = ", ".join(f"{name} {version}" for name, version in runs[0]["versions"].items())
    parts = [
        "# Benchmarks",
        "This page is generated; do not edit it. To regenerate it, on an otherwise idle machine "
        f"(this took {sum(run['seconds'] for run in runs) / 60:.0f} minutes):",
        f"```\n{command_of(comparison, path, picture)}\n```",
        f"{date.today():%B %Y}, {machine_of(comparison)}, {platform.system()} {platform.release()}, octavo's kernel "
        f"`{runs[0]['kernel']}`. {versions}.",
        "All contenders take and return float32, dynamic quantization included, except those marked (ints), which "
        "only multiply integers. Times are milliseconds per call, the median of interleaved rounds in one process; "
        "`!` marks a wrong answer. *TOPS*: 2 M K N operations divided by octavo int8's time. *Of limit*: the least "
        "possible time divided by octavo int8's time. The least possible time is the larger of two: the operations "
        "divided by the best measured rate of any integer instruction, and the bytes of the weights divided by the "
        "best read bandwidth measured for about as many bytes. *Best peer takes*: the time of the fastest correct "
        "contender from floats to floats (octavo and int4 excluded), divided by octavo int8's. *Samples*: how many "
        "samples each figure of a line rests on.",
    ]
    if picture is not None:
        parts.append(
            "![Above: octavo's speed relative to the best other library, layer by layer. "
            f"Below: its share of the CPU's limit.]({picture.name})"
        )
    for run in runs:
        parts.append(f"## {run['threads']} thread{'s' if run['threads'] > 1 else ''}")
        parts.append(markdown_table(heads(run), rows(run, limits)))
        parts.append("\n".join(f"- {line}" for line in complaints(run)) or "All answers are correct.")
    if limits["figures"]:
        parts += [
            "## The machine's limits",
            "The figures are from `bench/limits/limits_x86.cpp`, run right before the runs above; each is the best of "
            "its rounds. Reads and writes cover as many bytes as named.",
            limits_table(limits),
            "## What bounds each layer",
            "Weights are read once per call, and each byte takes part in 2 M operations. The last column is the number "
            "of rows from which arithmetic is the limit; with fewer rows, reading is (one thread):",
            markdown_table(["K x N", "int8 weights", "read at", "rows"], what_bounds(runs[0], limits)),
        ]
    return "\n\n".join(parts) + "\n"
