"""How large the errors of four-bit rounding are, by the way of rounding, relative to the weight and to the output.

    python -m bench.layers.rounding_error

Weights (512, 1024) of two distributions; inputs of three kinds, as a layer may see them. The output's error is given on
the inputs that the weights were rounded with, and on fresh ones. Takes about 15 seconds on one core.
"""

import argparse
from functools import partial

import numpy as np

import octavo as oc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--group-size", type=int, nargs="*", default=[128])
args = parser.parse_args()

N, K, ROWS = 512, 1024, 4096
rng = np.random.default_rng(0)
mixing = rng.standard_normal((K // 8, K)) / np.sqrt(K / 8)
magnitudes = np.exp(rng.standard_normal(K))


def correlated(size):
    """What K / 8 independent sources give, and some noise."""
    return rng.standard_normal((size, K // 8)) @ mixing + 0.3 * rng.standard_normal((size, K))


weights = {"Gaussian": rng.standard_normal((N, K)), "Student-t, 3 degrees of freedom": rng.standard_t(3, (N, K))}
inputs = {
    "independent inputs": lambda: rng.standard_normal((ROWS, K)),
    "correlated inputs": lambda: correlated(ROWS),
    "correlated inputs of log-normal magnitudes": lambda: correlated(ROWS) * magnitudes,
}

for group_size in args.group_size:
    for weight_name, weight in weights.items():
        for input_name, draw in inputs.items():
            seen, fresh = oc.InputStatistics(K), oc.InputStatistics(K)
            for statistics in (seen, fresh):
                statistics.update(draw().astype(np.float32))
            gptq = partial(oc.round_gptq, inputs=seen)
            ways = {
                "nearest": oc.round_nearest,
                "nearest, affine": partial(oc.round_nearest, symmetric=False),
                "search": oc.round_search,
                "search, float16 scales": partial(oc.round_search, scale_dtype="float16"),
                "search, affine": partial(oc.round_search, symmetric=False),
                "search, weighted": partial(oc.round_search, importance=seen.importance),
                "gptq": gptq,
                "gptq, affine": partial(gptq, symmetric=False),
                "gptq, ascending order": partial(gptq, activation_order=False),
            }
            print(f"\n{weight_name}, groups of {group_size}, {input_name}")
            print(f"{'rounding':<24} {'weight':>10} {'output':>10} {'output, fresh inputs':>22}")
            for way, function in ways.items():
                rounded = function(weight, group_size=group_size)
                errors = [oc.rounding_error(weight, rounded, statistics) for statistics in (seen, fresh)]
                print(
                    f"{way:<24} {errors[0].weight_error:10.3%} {errors[0].output_error:10.3%} "
                    f"{errors[1].output_error:22.3%}"
                )
