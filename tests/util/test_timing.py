"""Timing side by side, and how times are written."""

from __future__ import annotations

import pytest

from octavo._util.timing import Timing, duration, interleaved


def test_interleaved_calls_in_turn() -> None:
    calls: list[str] = []
    times = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3, round_seconds=0.0)
    assert {name: len(time.rounds) for name, time in times.items()} == {"a": 3, "b": 3}
    assert "".join(calls[-6:]) == "ababab"


@pytest.mark.parametrize(("rounds", "median", "spread"), [((3.0, 1.0, 2.0), 2.0, 1.0), ((1.0, 2.0), 1.5, 1 / 1.5)])
def test_timing_has_the_median_and_the_spread(rounds: tuple[float, ...], median: float, spread: float) -> None:
    timing = Timing(rounds)
    assert (timing.median, timing.spread) == (median, pytest.approx(spread))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 ns"), (3.2e-8, "32.0 ns"), (9.994e-6, "9.99 us"), (9.996e-6, "10.0 us"), (99.96e-6, "100 us"),
        (0.0321, "32.1 ms"), (0.9994, "999 ms"), (0.9996, "1.00 s"), (75.0, "75.0 s"), (3600.0, "3600 s"),
    ],
)  # fmt: skip
def test_duration_has_three_digits_in_the_unit_that_suits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
