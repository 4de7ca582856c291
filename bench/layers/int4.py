"""QuantLinear with int4 weights against NumPy float32, octavo int8, and what this machine can do; one run, interleaved.

    OPENBLAS_NUM_THREADS=1 OCTAVO_NUM_THREADS=1 python -m bench.layers.int4

With one row the weights' bytes are the bound: "of reading" is the time that reading as many bytes takes (a sum over
uint64, which ran as fast as a prefetching AVX2 loop in C or faster) over the time of the layer.
With many rows it is the multiplications: compare TOPS with bench/limits/limits_x86.cpp. Answers are checked first.
"""

import argparse
import functools

import numpy as np

import octavo as oc
from bench.shapes import Case
from octavo._util.timing import interleaved

SHAPES = [(1, 4096, 4096), (1, 4096, 11008), (4, 4096, 4096), (16, 768, 3072), (64, 768, 3072), (512, 768, 3072),
          (512, 4096, 4096)]  # fmt: skip
OPTIONS = {
    "g128": {"group_size": 128},
    "g32": {"group_size": 32},
    "row": {"group_size": None},
    "g128 z": {"group_size": 128, "symmetric": False, "activation": "asymmetric"},
    "g32 half": {"group_size": 32, "scale_dtype": "float16"},
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--seconds", type=float, default=0.05, help="of each contender in each round")
args = parser.parse_args()


def close(y: np.ndarray, case: Case) -> bool:
    """Int4 weights are off by about a fourteenth of their spread, so outputs of unit variance by about 0.1."""
    return bool(np.sqrt(np.mean((y - case.expected()) ** 2)) < 0.25)


print("\n".join(oc.runtime.config_lines()))
print(
    f"{'M x K x N':>14} {'weights':>9} {'us':>9} {'spread':>7} {'TOPS':>6} {'x numpy':>8} {'x int8':>7} "
    f"{'of reading':>11}"
)
for shape in SHAPES:
    case = Case.random(*shape)
    layers = {
        name: oc.QuantLinear(case.weight, case.bias, dtype="int4", rounding="nearest", **options)
        for name, options in OPTIONS.items()
    }
    for name, layer in layers.items():
        assert close(layer(case.x), case), name
    bytes_held = np.ones(layers["g128"].nbytes // 8, np.uint64)
    contenders = {name: functools.partial(layer, case.x) for name, layer in layers.items()}
    contenders |= {"reading": bytes_held.sum}
    contenders |= {name: run for name, run in case.contenders().items() if name != "octavo-int8-asymmetric"}
    timings = interleaved(contenders, rounds=args.rounds, round_seconds=args.seconds)
    numpy, eight = timings["numpy-float32"].median, timings["octavo-int8"].median
    for name, layer in layers.items():
        t = timings[name]
        reading = timings["reading"].median * layer.nbytes / layers["g128"].nbytes
        print(
            f"{case.name:>14} {name:>9} {1e6 * t.median:9.1f} {100 * t.spread:6.0f}% "
            f"{case.operations / t.median / 1e12:6.3f} {numpy / t.median:7.2f}x {eight / t.median:6.2f}x "
            f"{100 * reading / t.median:10.0f}%"
        )
