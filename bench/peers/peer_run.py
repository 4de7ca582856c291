"""One run of all contenders at one number of threads, to a JSON file. Started by compare_peers.py, which fixes the
threads in the environment before anything is imported.

On a CPU with AMX each sample is told apart by the core's mode (core_mode.py), for all contenders alike, and a figure is
of fast samples where there are enough. Shapes of one layer share what was built for it. At each shape every
contender's answer is checked, then all are called in turn, round after round. One that fails is recorded with its
message, and the run goes on.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import octavo as oc
from bench.peers import contenders as peers
from bench.peers import core_mode
from bench.shapes import parse_shapes, shape_name

ROUNDS, ROUNDS_IF_SLOW = 5, 3
SLOW_SECONDS = 0.5  # a call
SAMPLE_SECONDS = 5e-5  # the core's modes follow each other within milliseconds
SETTLE_SECONDS = 0.03  # OpenBLAS threads look for work for 26 ms after their last, and take a core meanwhile
ROWS_CHECKED = 16

# Root mean square of the error over that of the result, beyond which an answer counts as wrong. Rounding normal data
# gives about 0.01 with 8 bits a row, twice that with one scale for all rows, 0.09 with 4 bits in groups of 128.
LARGEST_ERROR = {"float32": 1e-4, "bf16": 0.02, "int8": 0.04, "int4": 0.15}


def result_of(run: Callable[[], Any]) -> np.ndarray:
    return np.asarray(run.floats() if isinstance(run, peers.IntegerCall) else run())


def error_of(run: Callable[[], Any], x: np.ndarray, layer: peers.Layer) -> float:
    """Relative root mean square error of some rows against float64."""
    rows = np.unique(np.linspace(0, len(x) - 1, ROWS_CHECKED).astype(int))
    expected = x[rows].astype(np.float64) @ layer.weight.T.astype(np.float64) + layer.bias
    y = result_of(run)
    if y.shape != (len(x), len(layer.weight)):
        raise ValueError(f"the result has shape {y.shape}")
    return float(np.sqrt(np.mean((y[rows] - expected) ** 2) / np.mean(expected**2)))


def saturation_of(contender: peers.Contender, threads: int) -> dict[str, Any]:
    """x and W all ones, which integers hold exactly as their largest values: the sums are as large as they get."""
    k = 768
    layer = peers.Layer(np.ones((64, k), np.float32), np.zeros(64, np.float32))
    x = np.ones((16, k), np.float32)
    try:
        got = result_of(contender.make(layer, threads)(x))
    except Exception as error:
        return {"failed": message_of(error)}
    worst = float(got.flat[np.argmax(np.abs(got - k))])
    return {"expected": k, "got": worst, "wrong": abs(worst - k) > 0.01 * k}


def message_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def seconds_of(run: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def time_in_turn(
    runs: dict[str, Callable[[], Any]], round_seconds: float, pause: float, is_slow: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Median, spread, samples, rounds and calls a round. In each round a contender is warmed up with one call
    where that is short. A round is one sample; with a probe of the core's mode, samples of 50 us or a call each."""
    calls, results, rounds, calls_a_sample = {}, {}, {}, {}
    for name, run in runs.items():
        first = seconds_of(run, 1)
        if first < SLOW_SECONDS:
            first = seconds_of(run, max(1, min(100, int(round_seconds / first))))
        calls[name] = max(1, int(round_seconds / first))
        rounds[name] = ROUNDS_IF_SLOW if first > SLOW_SECONDS else ROUNDS
        calls_a_sample[name] = calls[name] if is_slow is None else min(calls[name], max(1, int(SAMPLE_SECONDS / first)))
    taken: dict[str, list[tuple[float, str]]] = {name: [] for name in runs}
    for i in range(ROUNDS):
        for name, run in runs.items():
            if i >= rounds[name]:
                continue
            time.sleep(pause)  # until the threads of the one before have stopped looking for work
            if calls[name] > 1:
                run()
            for _ in range(calls[name] // calls_a_sample[name]):
                before = is_slow is not None and is_slow()
                seconds = seconds_of(run, calls_a_sample[name])
                after = is_slow is not None and is_slow()
                taken[name].append((seconds, "any" if is_slow is None else core_mode.mode_of(before, after)))
    for name, samples in taken.items():
        results[name] = core_mode.figures_of(samples) | {"rounds": rounds[name], "calls": calls[name]}
    return results


def measure_layer(
    k: int, n: int, batches: list[int], chosen: list[peers.Contender], args: argparse.Namespace
) -> dict[str, Any]:
    """Of every batch: contender to its figures, or to why there are none."""
    rng = np.random.default_rng(k + n)
    weight = rng.standard_normal((n, k), dtype=np.float32) / np.float32(k**0.5)
    layer = peers.Layer(weight, rng.standard_normal(n, dtype=np.float32))
    is_slow = None if args.core_mode is None else core_mode.load(args.core_mode)
    built: dict[str, Any] = {}
    for contender in chosen:
        try:
            built[contender.name] = contender.make(layer, args.threads)
        except Exception as error:
            built[contender.name] = message_of(error)
    results: dict[str, Any] = {}
    for m in batches:
        x = rng.standard_normal((m, k), dtype=np.float32)
        shape: dict[str, Any] = {}
        runs = {}
        for contender in chosen:
            bind = built[contender.name]
            if isinstance(bind, str):
                shape[contender.name] = {"failed": bind}
                continue
            try:
                run = bind(x)
                error_size = error_of(run, x, layer)
            except Exception as error:
                shape[contender.name] = {"failed": message_of(error)}
                continue
            shape[contender.name] = {"error": error_size, "wrong": not error_size <= LARGEST_ERROR[contender.kind]}
            runs[contender.name] = run
        pause = SETTLE_SECONDS if args.threads > 1 else 0.0
        for name, figures in time_in_turn(runs, args.round_seconds, pause, is_slow).items():
            shape[name] |= figures
        results[shape_name((m, k, n))] = shape
        ours, theirs = shape.get("octavo int8", {}), shape.get("numpy float32", {})
        if "seconds" in ours and "seconds" in theirs:
            print(
                f"{time.perf_counter() - START:5.0f} s  {m}x{k}x{n}: octavo int8 {1e3 * ours['seconds']:.4g} ms, "
                f"numpy float32 {1e3 * theirs['seconds']:.4g} ms",
                file=sys.stderr,
            )
    return results


START = time.perf_counter()


def main() -> int:
    parser = argparse.ArgumentParser(description="one run of all contenders; see compare_peers.py")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--shapes", nargs="+", required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--round-seconds", type=float, required=True)
    parser.add_argument("--core-mode", type=Path, help="the library that tells a core's two modes apart")
    args = parser.parse_args()
    peers.set_threads(args.threads)
    chosen = [
        c
        for c in peers.contenders()
        if c.most_threads >= args.threads and (not args.only or any(word in c.name for word in args.only))
    ]
    saturation = {c.name: saturation_of(c, args.threads) for c in chosen}
    shapes = parse_shapes(args.shapes)
    results: dict[str, Any] = {}
    by_layer = itertools.groupby(sorted(shapes, key=lambda s: (s[1] * s[2], s[1], s[0])), key=lambda s: s[1:])
    for (k, n), group in by_layer:
        usable = [c for c in chosen if c.kind != "int4" or k % peers.GROUP == 0]
        results |= measure_layer(k, n, [m for m, _, _ in group], usable, args)
        gc.collect()
    described = {
        c.name: {
            "kind": c.kind,
            "weight_bits": c.weight_bits,
            "integers_only": c.integers_only,
            "is_octavo": c.is_octavo,
            "saturation": saturation[c.name],
        }
        for c in chosen
    }
    run = {
        "threads": args.threads,
        "kernel": next(kernel.name for kernel in oc.kernels() if kernel.active),
        "cpu": oc.cpu_info().brand,
        "versions": peers.versions(),
        "seconds": time.perf_counter() - START,
        "contenders": described,
        "shapes": {shape_name(shape): results[shape_name(shape)] for shape in shapes},
    }
    args.json.write_text(json.dumps(run, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
