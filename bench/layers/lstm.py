"""LSTM 256 -> 512, 64 steps, batch 8: octavo against torch (where it is installed) and NumPy; one interleaved run.

    OPENBLAS_NUM_THREADS=2 python -m bench.layers.lstm --threads 2

Weights are the same in all. Prints each contender's largest difference from float64's answer, and refuses to time one
that is off by more than 0.02.
"""

import argparse
import warnings

import numpy as np

import octavo as oc
from octavo._util.timing import interleaved

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--sizes", type=int, nargs=4, default=(256, 512, 64, 8), metavar=("IN", "HIDDEN", "STEPS", "BATCH"))
args = parser.parse_args()
inputs, hidden, steps, batch = args.sizes
oc.set_num_threads(args.threads)

rng = np.random.default_rng(0)
model = oc.nn.LSTM.init(inputs, hidden, rng=rng)
x = rng.standard_normal((steps, batch, inputs), dtype=np.float32)
int8, int4 = (oc.QuantLSTM.from_float(model, **options) for options in ({}, {"dtype": "int4", "group_size": 64}))
contenders = {
    "octavo int8": lambda: int8(x)[0],
    "octavo int4 g64": lambda: int4(x)[0],
    "numpy float32": lambda: model(x)[0],
}
try:
    import torch
except ImportError:
    print("torch is not installed: its LSTM is left out")
else:
    torch.set_num_threads(args.threads)
    theirs = torch.nn.LSTM(inputs, hidden).eval()
    theirs.load_state_dict({name: torch.from_numpy(w) for name, w in model.weights.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization announces its successor
        dynamic = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(theirs), {torch.nn.LSTM})[0]
    xt = torch.from_numpy(x)
    contenders["torch float32"] = torch.inference_mode()(lambda: theirs(xt)[0].numpy())
    contenders["torch dynamic int8"] = torch.inference_mode()(lambda: dynamic(xt)[0].numpy())

exact = oc.nn.LSTM({name: w.astype(np.float64) for name, w in model.weights.items()})(x)[0]
errors = {name: np.abs(run() - exact).max() for name, run in contenders.items()}
for name, error in errors.items():
    if error > 0.02 and "int4" not in name:
        raise SystemExit(f"{name} is off by {error:.3g}")
timings = interleaved(contenders, rounds=args.rounds, round_seconds=0.3)
print("\n".join(oc.runtime.config_lines()))
print(f"LSTM {inputs} -> {hidden}, {steps} steps, batch {batch}, {args.threads} threads")
base = timings["octavo int8"].median
for name, t in timings.items():
    print(
        f"{name:20} {1e3 * t.median:8.2f} ms  spread {100 * t.spread:3.0f}%  {t.median / base:5.2f}x octavo int8's time"
        f"  largest error {errors[name]:.2g}"
    )
