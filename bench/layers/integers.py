"""How much faster than NumPy's are products of integer matrices? One interleaved run, one thread.

    OPENBLAS_NUM_THREADS=1 python -m bench.layers.integers [--cases int64 bool] [--threads 1]

Beside NumPy's own product stand the cast to float64 where that is exact, and what is installed of numba (loops
compiled), python-flint (`fmpz_mat`, `nmod_mat`) and galois (modulo a prime). The last two multiply matrices of their
own types, which are made before the clock starts. Each answer is compared with NumPy's first. OCTAVO_ISA forces a
kernel. NumPy takes a second for most of the large ones: the whole table is 2 minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import octavo as oc
from octavo._util.timing import Timing, interleaved

Array = NDArray[Any]


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@dataclass(frozen=True)
class Case:
    """One product; `exact_in_float64` where no sum reaches 2**53; with a modulus the remainders of it."""

    name: str
    a: Array
    b: Array
    dtype: type[Any] | None = None
    exact_in_float64: bool = False
    modulus: int | None = None

    def expected(self) -> Array:
        y = np.matmul(self.a, self.b, dtype=self.dtype)
        return y if self.modulus is None else y % self.modulus

    def contenders(self) -> dict[str, Callable[[], object]]:
        if self.modulus is not None:
            return self.modular_contenders(self.modulus)
        a, b, dtype = self.a, self.b, self.dtype
        result = self.expected().dtype
        runs: dict[str, Callable[[], object]] = {
            "octavo": lambda: oc.matmul(a, b, dtype=dtype),
            "numpy": lambda: np.matmul(a, b, dtype=dtype),
        }
        if self.name.startswith("512"):
            runs["ops.matmul_integer"] = lambda: oc.ops.matmul_integer(a, b)
        if self.exact_in_float64:
            runs["float64 cast"] = lambda: (a.astype(np.float64) @ b.astype(np.float64)).astype(result)
            if result == np.int64 and installed("flint"):
                import flint

                theirs = [flint.fmpz_mat(m.tolist()) for m in (a, b)]
                runs["flint"] = lambda: theirs[0] * theirs[1]
        if a.ndim == 2 and a.dtype == result and result.kind != "b" and installed("numba"):
            loops = numba_loops()
            runs["numba"] = lambda: loops(a, b)
        return runs

    def modular_contenders(self, p: int) -> dict[str, Callable[[], object]]:
        a, b = self.a, self.b
        runs: dict[str, Callable[[], object]] = {
            "octavo": lambda: oc.matmul(a, b) % p,
            "numpy": lambda: (a @ b) % p,
            "float64 cast": lambda: (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64) % p,
        }
        if installed("flint"):
            import flint

            theirs = [flint.nmod_mat(*m.shape, m.ravel().tolist(), p) for m in (a, b)]
            runs["flint"] = lambda: theirs[0] * theirs[1]
        if installed("galois"):
            import galois

            field = galois.GF(p)
            elements = [field(m) for m in (a, b)]
            runs["galois"] = lambda: elements[0] @ elements[1]
        return runs


def as_array(y: Any) -> Array:
    """A contender's answer: an array, or a matrix of python-flint."""
    if hasattr(y, "table"):
        return np.array([[int(value) for value in row] for row in y.table()])
    return np.asarray(y)


def numba_loops() -> Callable[[Array, Array], Array]:
    """The product as three loops in the order that reads rows, compiled."""
    import numba

    @numba.njit(cache=True)
    def loops(a: Array, b: Array) -> Array:
        y = np.zeros((a.shape[0], b.shape[1]), a.dtype)
        for i in range(a.shape[0]):
            for k in range(a.shape[1]):
                for j in range(b.shape[1]):
                    y[i, j] += a[i, k] * b[k, j]
        return y

    return loops


def whole_range(rng: np.random.Generator, shape: tuple[int, ...], dtype: type[Any]) -> Array:
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def cases() -> list[Case]:
    rng = np.random.default_rng(0)
    side = (1000, 1000)

    def pair(dtype: type[Any]) -> tuple[Array, Array]:
        return whole_range(rng, side, dtype), whole_range(rng, side, dtype)

    def small(limit: int) -> tuple[Array, Array]:
        return rng.integers(0, limit, side), rng.integers(0, limit, side)

    tiny = {name: (whole_range(rng, (8, 8), t), whole_range(rng, (8, 8), t)) for name, t in
            (("int8", np.int8), ("int16", np.int16), ("int32", np.int32), ("int64", np.int64))}  # fmt: skip
    batch = whole_range(rng, (1000, 16, 16), np.int32)
    return [
        Case("1000 int64", *pair(np.int64)),
        Case("1000 int64, below 2^31", *small(2**31)),
        Case("1000 int64, below 128", *small(128), exact_in_float64=True),
        Case("1000 int64 modulo 65521", *small(65521), modulus=65521),
        Case("1000 int32", *pair(np.int32)),
        Case("1000 int16", *pair(np.int16)),
        Case("1000 int8", *pair(np.int8)),
        Case("1000 bool, 1 %", rng.random(side) < 0.01, rng.random(side) < 0.01),
        Case("1000 bool, 50 %", rng.random(side) < 0.5, rng.random(side) < 0.5),
        Case("512x768x768 int8 to int32", whole_range(rng, (512, 768), np.int8), whole_range(rng, (768, 768), np.int8),
             np.int32, exact_in_float64=True),
        *(Case(f"8x8x8 {name}", *operands) for name, operands in tiny.items()),
        Case("8x8x8 bool", rng.random((8, 8)) < 0.5, rng.random((8, 8)) < 0.5),
        Case("1000 of 16x16 int32", batch, batch),
        Case("1x1000x1000 int64", whole_range(rng, (1, 1000), np.int64), whole_range(rng, side, np.int64)),
        Case("1000x1000x1 int64", whole_range(rng, side, np.int64), whole_range(rng, (1000, 1), np.int64)),
    ]  # fmt: skip


def row(case: Case, timings: dict[str, Timing]) -> str:
    """The fastest of the rounds, because what else runs on a machine only slows down; and their spread."""
    ours = min(timings["octavo"].rounds)
    others = "   ".join(
        f"{name} {1e3 * min(t.rounds):9.3f} ms {min(t.rounds) / ours:7.1f}x"
        for name, t in timings.items()
        if name != "octavo"
    )
    return f"{case.name:27}{1e3 * ours:9.4f} ms spread {100 * timings['octavo'].spread:3.0f}%   {others}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=[""], help="parts of names, such as int64 or 8x8x8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    oc.set_num_threads(args.threads)
    print("\n".join(oc.runtime.config_lines()))
    for case in cases():
        if not any(part in case.name for part in args.cases):
            continue
        contenders = case.contenders()
        for name, run in contenders.items():
            np.testing.assert_array_equal(as_array(run()), case.expected(), err_msg=f"{case.name}, {name}")
        print(row(case, interleaved(contenders, rounds=args.rounds, round_seconds=0.02)), flush=True)


if __name__ == "__main__":
    main()
