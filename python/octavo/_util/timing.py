"""Timing contenders side by side, for the demo and the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Timing", "duration", "interleaved"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that a call took in each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.rounds))

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median of the rounds."""
        return (max(self.rounds) - min(self.rounds)) / self.median


def duration(seconds: float) -> str:
    """A time in three digits, in the unit that suits it.

    Example:
        >>> from octavo._util.timing import duration
        >>> [duration(s) for s in (3.2e-8, 9.999e-6, 0.0321, 75.0)]
        ['32.0 ns', '10.0 us', '32.1 ms', '75.0 s']
    """
    smaller = (("ns", 1e9), ("us", 1e6), ("ms", 1e3))
    unit, factor = next(((u, f) for u, f in smaller if seconds * f < 999.5), ("s", 1.0))
    value = seconds * factor
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    round_seconds: float = 0.05,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times each contender once a round, in turn, so that a machine that slows down slows them all.

    Args:
        contenders: what to call, by name. Each is warmed up first.
        rounds: how often each is timed.
        round_seconds: each is called as often as fits into this time, at least once; a round's figure is the mean.
        clock: `time.thread_time` counts what this thread computes alone, and so not the programs beside it; it suits
            contenders that have no other threads.

    Returns:
        The seconds of a call in each round, by name.

    Example:
        >>> from octavo._util.timing import interleaved
        >>> t = interleaved({"sum": lambda: sum(range(100))}, rounds=3, round_seconds=0.001)
        >>> len(t["sum"].rounds)
        3
    """
    calls = {name: max(1, int(round_seconds / max(_seconds(run, 1, clock), 1e-9))) for name, run in contenders.items()}
    for name, run in contenders.items():  # the first call above may have paged in, packed or started threads
        calls[name] = max(1, int(round_seconds / max(_seconds(run, min(calls[name], 100), clock), 1e-9)))
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            taken[name].append(_seconds(run, calls[name], clock))
    return {name: Timing(tuple(seconds)) for name, seconds in taken.items()}


def _seconds(run: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls
