"""Layers of grouped codes, as GGUF files hold them: their speed by form, activations and shape; one run, interleaved.

    OCTAVO_NUM_THREADS=1 python -m bench.layers.grouped [--shapes 1x4096x4096 ...] [--kernel avx2]

With one row the weights' bytes are the bound: "of reading" is the time that reading as many bytes takes (a sum over
uint64) over the time of the layer. Each call takes the next of as many copies as make up 64 MB, so that weights come
from where a model's come from; --near keeps to one copy. With many rows multiplications and flushes bound: GMAC/s is
billions of multiply-adds a second. Answers are checked first, against the dequantized weights. With one thread its
processor time counts.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import octavo as oc
from octavo._numerics.grouped import GroupedCodes
from octavo._util.tables import table
from octavo._util.timing import interleaved

F = np.float32
FAR_BYTES = 64_000_000  # more than a core's share of the caches
# bits, signed, group, minima, two levels: as each type is held
FORMS = {
    "Q4_0": (4, True, 32, False, False),
    "Q4_1": (4, False, 32, True, False),
    "Q8_0": (8, True, 32, False, False),
    "Q5_0": (5, True, 32, False, False),
    "Q5_1": (5, False, 32, True, False),
    "Q4_K": (4, False, 32, True, True),
    "Q5_K": (5, False, 32, True, True),
    "Q6_K": (6, True, 16, False, True),
    "Q5_0 as bytes": (8, True, 32, False, False),
    "Q5_K as bytes": (8, False, 32, True, True),
    "Q6_K as bytes": (8, True, 16, False, True),
}
# SmolLM2-135M's layers: q, k and v joined; attn_output; gate and up joined; ffn_down
SHAPES = ["1x576x960", "1x576x576", "1x576x3072", "1x1536x576", "1x4096x4096", "128x576x3072", "128x1536x576",
          "512x576x3072"]  # fmt: skip
ACTIVATIONS: dict[str, dict[str, Any]] = {"groups": {}, "rows": {"activation_group": None},
                                          "int16": {"activation": "int16", "activation_group": None}}  # fmt: skip


def codes_of(form: str, n: int, k: int) -> GroupedCodes:
    """Random codes over the form's whole range."""
    rng = np.random.default_rng(0)
    bits, signed, group, minima, two_level = FORMS[form]
    low = -(1 << (bits - 1)) if signed else 0
    codes = rng.integers(low, low + (1 << bits), (n, k)).astype(np.int8 if signed else np.uint8)
    floats = (n, k // 256) if two_level else (n, k // group)

    def levels() -> Any:
        return rng.integers(1, 64, (n, k // group)).astype(np.int8 if signed else np.uint8)

    return GroupedCodes(
        codes,
        rng.uniform(0.001, 0.01, floats).astype(np.float16),
        bits,
        group,
        minimum=rng.uniform(-0.05, 0.05, floats).astype(np.float16) if minima else None,
        group_scale=levels() if two_level else None,
        group_minimum=levels() if two_level and minima else None,
    )


def in_turn(make: Callable[[], oc.QuantLinear], x: Any, copies: int) -> Callable[[], Any]:
    """A call of the next of so many layers."""
    following = itertools.cycle([make() for _ in range(copies)])
    return lambda: next(following)(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="MxKxN")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--activations", nargs="+", default=list(ACTIVATIONS), choices=list(ACTIVATIONS))
    parser.add_argument("--kernel", help="in the place of the best one")
    parser.add_argument("--near", action="store_true", help="one copy of each layer, which stays in the caches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each contender in each round")
    args = parser.parse_args()
    oc.use_kernel(args.kernel)
    print("\n".join(oc.runtime.config_lines()), "\n")
    rows = []
    for shape in args.shapes:
        m, k, n = (int(size) for size in shape.split("x"))
        x = np.random.default_rng(1).standard_normal((m, k), dtype=F)
        contenders: dict[str, Callable[[], Any]] = {}

        def copies(size: int, few: bool = m <= 8) -> int:
            return FAR_BYTES // size + 1 if few and not args.near else 1

        sizes = {}
        for form in args.forms:
            if k % (256 if FORMS[form][-1] else 32):
                continue
            w = codes_of(form, n, k)
            expected = x @ oc.QuantLinear.from_grouped(w).weight.T
            for name in args.activations:
                options = {"activation_group": 256 if FORMS[form][-1] else 32} | ACTIVATIONS[name]
                layer = oc.QuantLinear.from_grouped(w, **options)
                assert np.sqrt(np.mean((layer(x) - expected) ** 2)) < 0.02 * expected.std(), (form, name)
                sizes[f"{form} {name}"] = layer.nbytes
                make = functools.partial(oc.QuantLinear.from_grouped, w, **options)
                contenders[f"{form} {name}"] = in_turn(make, x, copies(layer.nbytes))
        floats = np.random.default_rng(2).standard_normal((n, k), dtype=F)
        sizes["int8 a channel"] = nbytes = oc.QuantLinear(floats).nbytes
        contenders["int8 a channel"] = in_turn(functools.partial(oc.QuantLinear, floats), x, copies(nbytes))
        stretch = np.ones((1 if args.near else FAR_BYTES // nbytes + 1, nbytes // 8), np.uint64)
        lines = itertools.cycle(stretch)
        timings = interleaved(
            contenders | {"reading": lambda lines=lines: next(lines).sum()},
            rounds=args.rounds,
            round_seconds=args.seconds,
            clock=time.thread_time if oc.get_num_threads() == 1 else time.perf_counter,
        )
        rate = nbytes / timings["reading"].median
        for name in contenders:
            t = timings[name]
            rows.append(
                (
                    shape, name, f"{1e6 * t.median:.1f}", f"{100 * t.spread:.0f} %",
                    f"{sizes[name] / t.median / 1e9:.1f}", f"{100 * sizes[name] / rate / t.median:.0f} %",
                    f"{1e-9 * m * k * n / t.median:.1f}",
                )
            )  # fmt: skip
    print(table(("M x K x N", "weights", "us", "spread", "GB/s", "of reading", "GMAC/s"), rows))


if __name__ == "__main__":
    main()
