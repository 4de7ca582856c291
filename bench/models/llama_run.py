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
from bench.models.llama_quality import docstrings, quality

PROMPTS = (128, 512)
BURST = 16  # tokens that one contender decodes before it is the next one's turn
SETTLE_SECONDS = 0.03  # threads of OpenMP and OpenBLAS look for work for a while after their last


def resident_bytes() -> int:
    """Memory that this process holds; 0 where /proc does not say."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
    return 0


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def decode_burst(contender: contenders.Contender, tokens: np.ndarray) -> float:
    """Tokens a second behind a prompt of 128, which is not timed."""
    contender.start(128 + BURST)
    contender.extend(tokens[:128].tolist())
    after = [[token] for token in tokens[128 : 128 + BURST].tolist()]
    return BURST / seconds(lambda: [contender.extend(token) for token in after])


def prefill(contender: contenders.Contender, tokens: np.ndarray, count: int) -> float:
    contender.start(count)
    prompt = tokens[:count].tolist()
    return count / seconds(lambda: contender.extend(prompt))


def speed(path: str, threads: int, names: list[str], rounds: int, tokens: np.ndarray) -> dict[str, Any]:
    """Tokens a second, all contenders in turn, round after round; the first round warms up and does not count."""
    made = {name: make(path, threads) for name, make in contenders.available(names).items()}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in made}
    for turn in range(rounds + 1):
        for name, contender in made.items():
            time.sleep(SETTLE_SECONDS)
            rates = {"decode": decode_burst(contender, tokens)}
            if turn or rounds == 1:
                rates |= {f"prefill {n}": prefill(contender, tokens, n) for n in PROMPTS}
            for what, rate in rates.items() if turn else ():
                found[name].setdefault(what, []).append(rate)
    return {name: {what: spread(rates) for what, rates in row.items()} for name, row in found.items()}


def outside(path: str, threads: int, names: list[str], rounds: int, tokens: np.ndarray) -> dict[str, Any]:
    """Seconds that octavo's model takes outside its products: for one token behind 128, and for a prompt of 512."""
    found = {}
    for name in names:
        if name not in contenders.ACTIVATIONS:
            continue
        contender = contenders.Octavo(path, threads, **contenders.ACTIVATIONS[name])
        products = contender.split()

        def rest(run: Callable[[], Any], products: contenders.Products = products) -> float:
            products.seconds = 0.0
            return seconds(run) - products.seconds

        def prompt(n: int, contender: contenders.Contender = contender) -> None:
            contender.start(n + 1)
            contender.extend(tokens[:n].tolist())

        ones, prompts = [], []
        for turn in range(rounds + 1):
            prompt(128)
            ones.append(rest(lambda contender=contender: contender.extend(tokens[128:129].tolist())))
            if turn:
                prompts.append(rest(lambda prompt=prompt: prompt(512)))
        found[name] = {"decode": spread(ones[1:]), "prefill 512": spread(prompts)}
    return found


def memory(path: str, threads: int, names: list[str], tokens: np.ndarray) -> dict[str, Any]:
    """Of the only name: what the process grew by from before loading until it has decoded behind 512 tokens."""
    before = resident_bytes()
    (make,) = contenders.available(names).values()
    contender = make(path, threads)
    contender.start(512 + 1)
    contender.extend(tokens[:512].tolist())
    contender.extend(tokens[512:513].tolist())
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
        tokens = docstrings(oc.gguf.load(args.path).metadata, max(args.tokens, 513))
        if args.step == "quality":
            reference = contenders.maker(contenders.NUMPY)(args.path, args.threads)
            made = contenders.available(args.only)
            result = {
                n: quality(reference, make(args.path, args.threads), tokens)._asdict() for n, make in made.items()
            }
        elif args.step == "memory":
            result = memory(args.path, args.threads, args.only, tokens)
        else:
            step = speed if args.step == "speed" else outside
            result = step(args.path, args.threads, args.only, args.rounds, tokens)
    info = oc.cpu_info()
    print(json.dumps({"cpu": info.brand, "kernel": next(k.name for k in oc.kernels() if k.active), "result": result}))


if __name__ == "__main__":
    main()
