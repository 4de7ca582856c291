"""The errors of octavo.functional, in units in the last place, over all exponents of float32.

    python -m bench.limits.function_errors [--step 1021]

Each function is computed for every 1021st bit pattern of float32 (4.2 million values of all exponents and both
signs) and compared with float64. The 40 worst values of each range are then compared with mpmath at 200 bits, and their
largest error is printed: the distance from the true value in spacings of float32 there, subnormal ones included. So it
is 0.5 at best.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np

import octavo as oc

F = oc.functional
Array = np.ndarray[Any, Any]

_erf = np.frompyfunc(math.erf, 1, 1)
_erfc = np.frompyfunc(math.erfc, 1, 1)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def _gelu(x: Array) -> Array:
    return x * _erfc(-x / math.sqrt(2)).astype(np.float64) / 2


def _gelu_tanh(x: Array) -> Array:
    return x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _mp_sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def _mp_gelu_tanh(x: Any) -> Any:
    return x * _mp_sigmoid(2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))


# Name, function, the same in float64 and in mpmath, and ranges of x, each with a line of its own.
EVERYWHERE = (-math.inf, math.inf)
Case = tuple[str, Callable[[Array], Array], Callable[[Array], Array], Callable[[Any], Any], list[tuple[float, float]]]
CASES: list[Case] = [
    ("exp", F.exp, np.exp, mp.exp, [(-87.3, 88.8), EVERYWHERE]),
    ("log", F.log, np.log, mp.log, [(0, math.inf)]),
    ("erf", F.erf, lambda x: _erf(x).astype(np.float64), mp.erf, [EVERYWHERE]),
    ("tanh", F.tanh, np.tanh, mp.tanh, [EVERYWHERE]),
    ("sigmoid", F.sigmoid, _sigmoid, _mp_sigmoid, [(-87.3, math.inf), EVERYWHERE]),
    ("sin", F.sin, np.sin, mp.sin, [(-(2.0**17), 2.0**17), EVERYWHERE]),
    ("cos", F.cos, np.cos, mp.cos, [(-(2.0**17), 2.0**17), EVERYWHERE]),
    ("silu", F.silu, lambda x: x * _sigmoid(x), lambda x: x * _mp_sigmoid(x), [(0, math.inf), EVERYWHERE]),
    ("gelu", F.gelu, _gelu, lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2, [(0, math.inf), (-2, 0), EVERYWHERE]),
    (
        'gelu(approximate="tanh")',
        lambda x: F.gelu(x, approximate="tanh"),
        _gelu_tanh,
        _mp_gelu_tanh,
        [(0, math.inf), (-2, 0), (-5, 0), EVERYWHERE],
    ),
]


def spacing(truth: Array) -> Array:
    return np.spacing(np.abs(np.asarray(truth, np.float64)).astype(np.float32)).astype(np.float64)


def measure(case: Case, x: Array) -> None:
    name, function, in_float64, exact, ranges = case
    with np.errstate(all="ignore"):
        y = function(x).astype(np.float64)
        truth = in_float64(x.astype(np.float64))
        errors = np.abs(y - truth) / spacing(truth)
        fits = np.isfinite(truth) & (np.abs(truth) < 2.0**128 * (1 - 2.0**-25))
        lost = fits & ~np.isfinite(y)
        assert not lost.any(), (name, x[lost][:5])
        assert (y[~fits] == np.sign(truth[~fits]) * np.inf)[~np.isnan(truth[~fits])].all(), name
    for lo, hi in ranges:
        inside = fits & (x > lo) & (x < hi)
        worst = np.flatnonzero(inside)[np.argsort(errors[inside], kind="stable")[-40:]]
        exact_errors = [
            (float(abs(mp.mpf(float(y[i])) - exact(mp.mpf(float(x[i])))) / mp.mpf(float(spacing(truth[i])))), i)
            for i in worst
        ]
        error, i = max(exact_errors)
        print(f"{name:26} {lo:>12.8g} < x < {hi:<12.8g} {error:8.3f} ulp at {x[i]!s}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=1021, help="of the bit patterns (default 1021)")
    step = parser.parse_args().step
    mp.mp.prec = 200
    x = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    print(f"{x.size} values")
    for case in CASES:
        measure(case, x)


if __name__ == "__main__":
    main()
