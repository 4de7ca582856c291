"""Several threads against one, interleaved in one run: what they gain at each shape, awake and asleep.

    python -m bench.layers.threads [--threads 2] [--shapes MxKxN ...] [--gap-us 1000]

About 30 seconds. Calls follow each other at once, so that the workers are still looking for work; then, "after a gap",
each call comes when they have fallen asleep, and only the calls are timed. Aimed at: 1.8 times where one thread takes
0.5 ms and the weights come out of the caches, and a gain from 0.1 ms on. Nothing else may run: a second thread shares
its core with whatever does.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import octavo as oc
from bench.shapes import parse_shapes, shape_name

ROUNDS = 7
ROUND_SECONDS = 0.03
SHAPES = [
    *("1x768x768", "1x768x3072", "1x4096x4096", "1x4096x11008"),
    *("4x768x768", "4x768x3072", "4x4096x4096", "16x768x768", "16x768x3072", "16x4096x4096"),
    *("32x768x768", "32x768x3072", "64x768x768", "64x768x3072", "64x3072x768", "64x4096x4096"),
    *("128x768x768", "128x768x3072", "512x768x768", "512x768x3072", "512x3072x768", "512x4096x4096"),
]


def seconds_of(run, calls: int, gap_seconds: float) -> float:
    """Of one call, the gaps between them not counted; the median where there are gaps."""
    if gap_seconds == 0:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls
    taken = []
    for _ in range(calls):
        time.sleep(gap_seconds)
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def compare(run, threads: int, gap_seconds: float) -> tuple[float, float]:
    """Median seconds of one thread and of several."""
    oc.set_num_threads(threads)
    run()
    once = seconds_of(run, 3, 0)
    calls = max(1, int(ROUND_SECONDS / (once + gap_seconds)))
    taken: dict[int, list[float]] = {1: [], threads: []}
    for _ in range(ROUNDS):
        for n, seconds in taken.items():
            oc.set_num_threads(n)
            run()
            seconds.append(seconds_of(run, calls, gap_seconds))
    return statistics.median(taken[1]), statistics.median(taken[threads])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="MxKxN or the names of sets in shapes.py")
    parser.add_argument("--gap-us", type=float, default=1000, help="between the calls of the second measurement")
    args = parser.parse_args()
    kernel = next(k.name for k in oc.kernels() if k.active)
    print(f"{oc.cpu_info().brand}, kernel {kernel}: one thread against {args.threads}")
    print(f"{'M x K x N':>16} {'one':>10} {'several':>10} {'gain':>6}   after a gap:")
    for m, k, n in parse_shapes(list(args.shapes)):
        rng = np.random.default_rng(0)
        layer = oc.QuantLinear.from_quantized(rng.integers(-127, 128, (n, k), dtype=np.int8), np.full(n, 0.01))
        x = rng.standard_normal((m, k), dtype=np.float32)
        out = np.empty((m, n), np.float32)
        cells = ""
        for gap in (0.0, args.gap_us / 1e6):
            one, several = compare(lambda: layer(x, out=out), args.threads, gap)  # noqa: B023 - called in this turn
            short = "!" if one / several < (1.8 if one >= 5e-4 else 1.0 if one >= 1e-4 else 0.97) else " "
            cells += f" {1e6 * one:7.1f} us {1e6 * several:7.1f} us {one / several:5.2f}{short}            "
        print(f"{shape_name((m, k, n)):>16}{cells}".rstrip())
    print("! less than aimed at")


if __name__ == "__main__":
    main()
