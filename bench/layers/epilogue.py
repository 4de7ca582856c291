"""What does a layer's epilogue save, beside a call of the function on the layer's result? One interleaved run.

    OCTAVO_NUM_THREADS=1 python -m bench.layers.epilogue [--shapes 512x768x3072 ...]

The same bits are checked first. "apart" is octavo.functional's function in place, on the result of the layer without
it; "saved" is the share of that time which the epilogue saves. Processor time of one thread, medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import octavo as oc
from octavo._util.tables import table
from octavo._util.timing import interleaved

FUNCTIONS: dict[str, Callable[..., Any]] = {"gelu": oc.functional.gelu, "silu": oc.functional.silu}


def contenders(m: int, k: int, n: int, dtype: str, name: str) -> dict[str, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(shape, np.float32) for shape in ((m, k), (n, k), (n,)))
    weight *= np.float32(k**-0.5)  # results of about one
    plain, fused = (oc.QuantLinear(weight, bias, dtype=dtype, **options) for options in ({}, {"epilogue": name}))
    function = FUNCTIONS[name]

    def apart() -> Any:
        y = plain(x)
        return function(y, out=y)

    assert np.array_equal(apart(), fused(x))
    return {"plain": lambda: plain(x), "apart": apart, "fused": lambda: fused(x)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["512x768x3072", "32x768x3072", "1x768x3072"], metavar="MxKxN")
    parser.add_argument("--dtypes", nargs="+", default=["int8", "int4"])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    oc.set_num_threads(1)
    print("\n".join(oc.runtime.config_lines()), "\n")
    rows = []
    for shape in args.shapes:
        m, k, n = (int(size) for size in shape.split("x"))
        for dtype in args.dtypes:
            for name in FUNCTIONS:
                found = interleaved(
                    contenders(m, k, n, dtype, name), rounds=args.rounds, round_seconds=0.02, clock=time.thread_time
                )
                plain, apart, fused = (found[who].median for who in ("plain", "apart", "fused"))
                times = [f"{1e6 * seconds:.1f}" for seconds in (plain, apart, fused)]
                rows.append((shape, dtype, name, *times, f"{100 * (1 - fused / apart):.1f} %"))
    print(table(("M x K x N", "weights", "function", "layer alone, us", "apart, us", "epilogue, us", "saved"), rows))


if __name__ == "__main__":
    main()
