"""A chain 768 -> 3072 -> 768 with ReLU between: integers handed on, against dynamic quantization; one interleaved run.

    OPENBLAS_NUM_THREADS=1 OCTAVO_NUM_THREADS=1 python -m bench.layers.static_chain

The dynamic chain has its ReLU fused and writes into arrays that are allocated once (out=).
"""

import argparse

import numpy as np

import octavo as oc
from octavo._util.timing import interleaved

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--rows", type=int, default=512)
args = parser.parse_args()

rng = np.random.default_rng(0)
model = oc.nn.Sequential(oc.nn.Linear.init(768, 3072, rng=rng), oc.nn.ReLU(), oc.nn.Linear.init(3072, 768, rng=rng))
x = rng.standard_normal((args.rows, 768), dtype=np.float32)

up = oc.QuantLinear(model[0].weight, model[0].bias, relu=True)
down = oc.QuantLinear(model[2].weight, model[2].bias)
hidden, result = np.empty((args.rows, 3072), np.float32), np.empty((args.rows, 768), np.float32)

prepared = oc.prepare(model, oc.default_qconfig, layers={oc.nn.Linear})
oc.calibrate(prepared, [x])
static = oc.convert(prepared)
assert type(static[0](x)) is oc.QuantizedArray

contenders = {
    "numpy float32": lambda: model(x),
    "dynamic, out=": lambda: down(up(x, out=hidden), out=result),
    "static": lambda: static(x),
}
expected = model(x)
for name, run in contenders.items():
    np.testing.assert_allclose(run(), expected, atol=0.05, err_msg=name)
timings = interleaved(contenders, rounds=args.rounds, round_seconds=0.3)
print("\n".join(oc.runtime.config_lines()))
base = timings["dynamic, out="].median
for name, t in timings.items():
    print(
        f"{name:14} {1e3 * t.median:8.2f} ms  spread {100 * t.spread:3.0f}%  {base / t.median:5.2f}x the dynamic chain"
    )
