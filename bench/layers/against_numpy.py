"""QuantLinear against NumPy float32, interleaved in one run: median, spread, ratio.

    export OPENBLAS_NUM_THREADS=1 OCTAVO_NUM_THREADS=1 OCTAVO_ISA=avx2 OPENBLAS_CORETYPE=Haswell
    python -m bench.layers.against_numpy

OCTAVO_ISA and OPENBLAS_CORETYPE hold both sides to AVX2; leave them out for what this machine does at its best.
"""

import argparse

import numpy as np

import octavo as oc
from bench.shapes import SHAPES, Case
from octavo._util.timing import interleaved

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--seconds", type=float, default=0.1, help="of each contender in each round")
args = parser.parse_args()

print("\n".join(oc.runtime.config_lines()))
print(f"{'M x K x N':>16} {'numpy':>12} {'spread':>7} {'octavo':>12} {'spread':>7} {'TOPS':>6} {'ratio':>6}")
for shape in SHAPES:
    case = Case.random(*shape)
    contenders = {name: run for name, run in case.contenders().items() if name != "octavo-int8-asymmetric"}
    for name, run in contenders.items():
        np.testing.assert_allclose(run(), case.expected(), atol=case.tolerance(), err_msg=name)
    timings = interleaved(contenders, rounds=args.rounds, round_seconds=args.seconds)
    ours, theirs = timings["octavo-int8"], timings["numpy-float32"]
    print(
        f"{case.name:>16} {1e6 * theirs.median:9.1f} us {100 * theirs.spread:6.0f}% {1e6 * ours.median:9.1f} us "
        f"{100 * ours.spread:6.0f}% {case.operations / ours.median / 1e12:6.3f} {theirs.median / ours.median:5.2f}x"
    )
