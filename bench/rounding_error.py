"""How large the errors of four-bit rounding are, by the way of rounding, relative to the weight and to the output.

    python bench/rounding_error.py

Weights (512, 1024) of three distributions, and inputs whose features are correlated, as activations are.
"""

import argparse

import numpy as np

import octavo as oc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--group-size", type=int, nargs="*", default=[32, 64, 128])
args = parser.parse_args()

N, K, ROWS = 512, 1024, 4096
rng = np.random.default_rng(0)
x = rng.standard_normal((ROWS, K // 8)) @ rng.standard_normal((K // 8, K)) / np.sqrt(K / 8)
x = (x + 0.3 * rng.standard_normal((ROWS, K))).astype(np.float32)
weights = {
    "Gaussian": rng.standard_normal((N, K)),
    "Student-t, 3 degrees of freedom": rng.standard_t(3, (N, K)),
    "uniform": rng.uniform(-1, 1, (N, K)),
}
for name, weight in weights.items():
    for group_size in args.group_size:
        print(f"\n{name}, groups of {group_size}")
        model = oc.nn.Linear(weight.astype(np.float32))
        print(oc.compare_rounding(model, oc.nn.Linear, [x], group_size=group_size))
