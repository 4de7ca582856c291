"""One measurement of `bench.models.llama`, in a process whose environment fixes the threads. Writes JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import octavo as oc
from bench.models import llama_contenders as contenders
from bench.models.llama_quality import docstrings, qualities

Clock = Callable[[], float]
PROMPTS = (128, 512)
BURST = 16  # tokens that one contender decodes before it is the next one's turn
SETTLE_SECONDS = 0.03  # threads of OpenMP and OpenBLAS look for work for a while after their last


def resident_bytes() -> int:
    """Memory that this process holds; 0 where /proc does not say."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
    return 0


def seconds(run: Callable[[], Any], clock: Clock) -> float:
    start = clock()
    run()
    return clock() - start


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def decode_seconds(contender: contenders.Contender, tokens: np.ndarray, clock: Clock = time.perf_counter) -> float:
    """Of a burst behind a prompt of 128, which is not timed."""
    contender.start(128 + BURST)
    contender.extend(tokens[:128].tolist())
    contender.begin()
    after = [[token] for token in tokens[128 : 128 + BURST].tolist()]
    return seconds(lambda: [contender.extend(token) for token in after], clock)


def prefill_seconds(
    contender: contenders.Contender, tokens: np.ndarray, count: int, clock: Clock = time.perf_counter
) -> float:
    contender.start(count)
    contender.begin()
    prompt = tokens[:count].tolist()
    return seconds(lambda: contender.extend(prompt), clock)


def exactness(path: str, threads: int, names: list[str], rounds: int, tokens: np.ndarray) -> dict[str, Any]:
    reference = contenders.maker(contenders.NUMPY)(path, threads)
    made = {name: make(path, threads) for name, make in contenders.available(names).items() if name != contenders.NUMPY}
    made[contenders.NUMPY] = reference
    return {name: quality._asdict() for name, quality in qualities(reference, made, tokens).items()}


def speed(path: str, threads: int, names: list[str], rounds: int, tokens: np.ndarray) -> dict[str, Any]:
    """Tokens a second, all contenders in turn, round after round; before the first each one decodes to warm up.

    With one thread processor time counts, and so not the programs beside it.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    made = {name: make(path, threads) for name, make in contenders.available(names).items()}
    found: dict[str, dict[str, list[float]]] = {}
    for name, contender in made.items():
        found[name] = {"decode": [], **{f"prefill {n}": [] for n in PROMPTS}}
        decode_seconds(contender, tokens)
    for _ in range(rounds):
        for name, contender in made.items():
            time.sleep(SETTLE_SECONDS)
            found[name]["decode"].append(BURST / decode_seconds(contender, tokens, clock))
            for n in PROMPTS:
                found[name][f"prefill {n}"].append(n / prefill_seconds(contender, tokens, n, clock))
    return {name: {what: spread(rates) for what, rates in row.items()} for name, row in found.items()}


def outside(path: str, threads: int, names: list[str], rounds: int, tokens: np.ndarray) -> dict[str, Any]:
    """Seconds that octavo's model takes outside its products: for a token behind 128, and for a prompt of 512."""
    found = {}
    for name in [name for name in names if name in contenders.ACTIVATIONS]:
        contender = contenders.Octavo(path, threads, **contenders.ACTIVATIONS[name])
        clock = contender.split()
        ones, prompts = [], []
        for _ in range(rounds + 1):
            ones.append((decode_seconds(contender, tokens) - clock.seconds) / BURST)
            prompts.append(prefill_seconds(contender, tokens, 512) - clock.seconds)
        found[name] = {"decode": spread(ones[1:]), "prefill 512": spread(prompts[1:])}
    return found


def memory(path: str, threads: int, names: list[str]) -> dict[str, Any]:
    """Of the only name: what the process grows by until it has loaded the model and decoded behind 512 tokens."""
    (make,) = contenders.available(names).values()
    contenders.import_library(names[0])
    before = resident_bytes()
    contender = make(path, threads)
    contender.start(512 + 1)
    contender.extend([1] * 512)
    contender.extend([1])
    return {names[0]: {"resident": resident_bytes() - before, "weights": contender.weights}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["quality", "memory", "speed", "outside"])
    parser.add_argument("path")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--only", nargs="+", required=True)
    args = parser.parse_args()
    oc.set_num_threads(args.threads)
    with contextlib.redirect_stdout(sys.stderr):
        if args.step == "memory":
            result = memory(args.path, args.threads, args.only)
        else:
            tokens = docstrings(oc.gguf.load(args.path).metadata, max(args.tokens, 513))
            result = {"quality": exactness, "speed": speed, "outside": outside}[args.step](
                args.path, args.threads, args.only, args.rounds, tokens
            )
    info = oc.cpu_info()
    print(json.dumps({"cpu": info.brand, "kernel": next(k.name for k in oc.kernels() if k.active), "result": result}))


if __name__ == "__main__":
    main()
