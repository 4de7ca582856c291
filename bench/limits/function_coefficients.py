"""The polynomials of octavo.functional, fitted in high precision and rounded to float32.

    python -m bench.limits.function_coefficients

prints each polynomial's coefficients, lowest power first, as csrc/kernels/detail/float_functions.h and
octavo._numerics.functions hold them, with the largest relative error of the function that they make, in units of 2^-24
and without the rounding of evaluation. Fits are by Remez exchange, and a coefficient is rounded to float32 and fixed
before the others are fitted anew. That of the normal tail, whose variable passes zero, interpolates at Chebyshev nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mpmath as mp
import numpy as np

mp.mp.prec = 120

Real = mp.mpf
Function = Callable[[Real], Real]


@dataclass(frozen=True)
class Fit:
    """The sum of c[i] x^powers[i], as near to `target` as it gets where an error counts `weight` times, on [lo, hi]."""

    name: str
    target: Function
    weight: Function
    lo: float
    hi: float
    powers: Sequence[int]
    interpolated: bool = False


def interpolation(fit: Fit) -> list[float]:
    """Coefficients of the polynomial through the target at Chebyshev's nodes, each rounded to float32."""
    n = len(fit.powers)
    middle, half = (Real(fit.lo) + Real(fit.hi)) / 2, (Real(fit.hi) - Real(fit.lo)) / 2
    nodes = [middle + half * mp.cos(mp.pi * (i + Real(1) / 2) / n) for i in range(n)]
    solution = mp.lu_solve(mp.matrix([[x**p for p in fit.powers] for x in nodes]), mp.matrix([*map(fit.target, nodes)]))
    return [float(np.float32(float(c))) for c in solution]


def remez(target: Function, weight: Function, lo: float, hi: float, powers: Sequence[int]) -> list[Real]:
    """Coefficients of the best approximation, of which the weighted errors at n + 1 points are equal, signs in turn."""
    n = len(powers)
    grid = [
        (Real(lo) + Real(hi)) / 2 + (Real(hi) - Real(lo)) / 2 * mp.cos(mp.pi * i / (40 * n)) for i in range(40 * n + 1)
    ]
    values = [(x, target(x), max(weight(x), Real(1e-5))) for x in reversed(grid)]
    chosen = values[::40]
    coefficients: list[Real] = []
    for _ in range(12):
        rows = [[x**p for p in powers] + [(-1) ** i / w] for i, (x, _, w) in enumerate(chosen)]
        solution = mp.lu_solve(mp.matrix(rows), mp.matrix([t for _, t, _ in chosen]))
        coefficients = list(solution[:n])
        errors = [w * (sum(c * x**p for c, p in zip(coefficients, powers, strict=True)) - t) for x, t, w in values]
        peaks: list[int] = []
        for i, e in enumerate(errors):
            if peaks and (errors[peaks[-1]] > 0) == (e > 0):
                if abs(e) > abs(errors[peaks[-1]]):
                    peaks[-1] = i
            else:
                peaks.append(i)
        while len(peaks) > n + 1:
            peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
        if len(peaks) < n + 1:
            break
        chosen = [values[i] for i in peaks]
    return coefficients


def rounded_fit(fit: Fit) -> list[float]:
    """float32 coefficients: the first is fitted with all, rounded and fixed, and so on."""
    fixed: list[float] = []
    for i in range(len(fit.powers)):
        done = list(zip(fixed, fit.powers, strict=False))
        rest = remez(
            lambda x, done=done: fit.target(x) - sum(Real(c) * x**p for c, p in done),
            fit.weight,
            fit.lo,
            fit.hi,
            fit.powers[i:],
        )
        fixed.append(float(np.float32(float(rest[0]))))
    return fixed


def largest_error(fit: Fit, coefficients: Sequence[float]) -> float:
    worst = Real(0)
    for i in range(2001):
        x = Real(fit.lo) + (Real(fit.hi) - Real(fit.lo)) * i / 2000
        value = sum(Real(c) * x**p for c, p in zip(coefficients, fit.powers, strict=True))
        worst = max(worst, abs(fit.weight(x) * (value - fit.target(x))))
    return float(worst * 2**24)


def _exp_rest(r: Real) -> Real:
    return (mp.exp(r) - 1 - r) / r**2 if abs(r) > 1e-9 else Real(1) / 2 + r / 6


def _log_rest(f: Real) -> Real:
    return (mp.log1p(f) - f + f * f / 2) / f**3 if abs(f) > 1e-8 else Real(1) / 3 - f / 4


def _over(x: Real, function: Function, at_zero: Real) -> Real:
    return function(x) if abs(x) > 1e-9 else at_zero


def _sin_rest(z: Real) -> Real:
    r = mp.sqrt(z)
    return _over(z, lambda _: (mp.sin(r) - r) / r**3, Real(-1) / 6)


def _cos_rest(z: Real) -> Real:
    return _over(z, lambda _: (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2, Real(1) / 24)


def _tanh_rest(z: Real) -> Real:
    a = mp.sqrt(z)
    return _over(z, lambda _: (mp.tanh(a) - a) / a**3, Real(-1) / 3)


def _erf_near(z: Real) -> Real:
    a = mp.sqrt(z)
    return _over(z, lambda _: mp.erf(a) / a - 1, 2 / mp.sqrt(mp.pi) - 1)


def _erf_far(a: Real) -> Real:  # erf(a) = 1 - exp(-a - a q(a))
    return -mp.log(mp.erfc(a)) / a - 1


NORMAL_TAIL_K = 2.5


def _tail(t: Real) -> Real:
    """exp(a^2 / 2) times the normal tail above a, times a + K, where t = (a - K) / (a + K)."""
    a = NORMAL_TAIL_K * (1 + t) / (1 - t)
    return mp.exp(a * a / 2) * mp.erfc(a / mp.sqrt(2)) / 2 * (a + NORMAL_TAIL_K)


def _tail_t(a: float) -> float:
    return (a - NORMAL_TAIL_K) / (a + NORMAL_TAIL_K)


def _half_ln2() -> float:
    return 0.34657360


FITS = [
    Fit("EXP", _exp_rest, lambda r: r * r / mp.exp(r), -_half_ln2(), _half_ln2(), range(5)),
    Fit("LOG", _log_rest, lambda f: abs(f**3 / mp.log1p(f)) if f else Real(0) + 1e-20, -0.2929, 0.4143, range(9)),
    Fit("SIN", _sin_rest, lambda z: z**1.5 / mp.sin(mp.sqrt(z)) if z else Real(1e-20), 0, 0.6169, range(3)),
    Fit("COS", _cos_rest, lambda z: z * z / mp.cos(mp.sqrt(z)) if z else Real(1e-20), 0, 0.6169, range(3)),
    Fit("TANH", _tanh_rest, lambda z: z**1.5 / mp.tanh(mp.sqrt(z)) if z else Real(1e-20), 0, 0.36, range(5)),
    Fit(
        "ERF_NEAR", _erf_near, lambda z: mp.sqrt(z) / mp.erf(mp.sqrt(z)) if z else mp.sqrt(mp.pi) / 2, 0, 0.86, range(6)
    ),
    Fit("ERF_FAR", _erf_far, lambda a: a * mp.erfc(a) / mp.erf(a), 0.92, 3.95, range(7)),
    Fit("TAIL", _tail, lambda t: 1 / _tail(t), _tail_t(0.0), _tail_t(15.0), range(10), True),
]


def main() -> None:
    for fit in FITS:
        coefficients = interpolation(fit) if fit.interpolated else rounded_fit(fit)
        print(f"{fit.name}: error {largest_error(fit, coefficients):.3f} x 2^-24")
        print("   ", ", ".join(f"{np.float32(c):.9g}" for c in coefficients))


if __name__ == "__main__":
    main()
