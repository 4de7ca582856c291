"""Which of its two modes the core is in (bench/limits/core_mode.h): compiled here, asked around each sample."""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[1] / "limits" / "core_mode.cpp"
FEWEST_FAST = 3  # samples, below which a figure is that of all


def compiled(folder: Path) -> Path | None:
    """The probe as a shared library; None where it does not build or this process may not use tiles."""
    path = folder / "core_mode.so"
    build = [os.environ.get("CXX", "c++"), "-O2", "-std=c++20", "-shared", "-fPIC", "-o", str(path), str(SOURCE)]
    try:
        subprocess.run(build, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return path if ctypes.CDLL(str(path)).octavo_bench_has_tiles() else None


def load(path: Path) -> Callable[[], bool]:
    """is_slow(): needs a CPU and a process that `library` has found to have tiles."""
    probe = ctypes.CDLL(str(path))
    probe.octavo_bench_has_tiles()  # asks the operating system, in this process
    for _ in range(200):
        probe.octavo_bench_is_slow()
    return lambda: bool(probe.octavo_bench_is_slow())


def mode_of(before: bool, after: bool) -> str:
    """Of a sample, by whether the probe was slow on its two sides."""
    return "mixed" if before != after else "slow" if before else "fast"


def figures_of(samples: list[tuple[float, str]]) -> dict[str, Any]:
    """Median and spread of the fast samples where there are enough, else of all; and what they rest on."""
    fast = [seconds for seconds, mode in samples if mode == "fast"]
    slow = [seconds for seconds, mode in samples if mode == "slow"]
    enough = len(fast) >= FEWEST_FAST
    taken = fast if enough else [seconds for seconds, _ in samples]
    median = statistics.median(taken)
    figures: dict[str, Any] = {"seconds": median, "spread": (max(taken) - min(taken)) / median, "samples": len(taken)}
    figures["mode"] = "fast" if enough else "any"
    if slow:
        figures |= {"slow_seconds": statistics.median(slow), "slow_samples": len(slow)}
    return figures
