"""predict of scikit-learn's MLPClassifier on digits, float against int8, interleaved in one run.

OPENBLAS_NUM_THREADS=2 OCTAVO_NUM_THREADS=2 python -m bench.models.sklearn_mlp
"""

import argparse
import pickle
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import octavo as oc
from octavo._util.timing import interleaved

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=1024, help="of a call of predict (default: %(default)s)")
args = parser.parse_args()
warnings.simplefilter("ignore")  # training stops before it has converged

x, y = load_digits(return_X_y=True)
x = x / 16
batch = np.resize(x, (args.rows, 64))
print("\n".join(oc.runtime.config_lines()))
print(
    f"{'hidden':>12} {'float':>10} {'int8':>10} {'speedup':>8} {'spread':>7} {'accuracy float, int8':>21} {'bytes':>7}"
)
for hidden in ((100,), (512, 512), (1024, 1024)):
    float_model = MLPClassifier(hidden, max_iter=20, random_state=0).fit(x[:1200], y[:1200])
    int8_model = oc.quantize_dynamic(float_model, arrays=["coefs_.*"])
    accuracy = [model.score(x[1200:], y[1200:]) for model in (float_model, int8_model)]
    runs = {"float": lambda m=float_model: m.predict(batch), "int8": lambda m=int8_model: m.predict(batch)}
    t = interleaved(runs, rounds=7, round_seconds=0.1)
    spread = max(timing.spread for timing in t.values())
    share = len(pickle.dumps(int8_model.coefs_)) / len(pickle.dumps(float_model.coefs_))
    print(
        f"{hidden!s:>12} {1e3 * t['float'].median:7.2f} ms {1e3 * t['int8'].median:7.2f} ms "
        f"{t['float'].median / t['int8'].median:7.2f}x {100 * spread:6.0f}% {accuracy[0]:11.2%} {accuracy[1]:9.2%} "
        f"{share:7.1%}"
    )
