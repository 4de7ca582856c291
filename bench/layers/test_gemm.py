"""pytest-benchmark suite: products of integer matrices, ops.matmul_integer, shape by shape.

    pip install '.[bench]'
    OPENBLAS_NUM_THREADS=1 OCTAVO_NUM_THREADS=1 pytest bench/layers/test_gemm.py --benchmark-group-by=group

Takes about four minutes on one thread. The operator packs its right-hand side in every call, so few rows are bound by
packing. NumPy's way to the same integers is a product of float32 copies, exact while every sum stays below 2**24: its
own integer product takes 100 times as long and is left out. Each answer is checked before it is timed: some rows,
exactly.
"""

import numpy as np
import pytest

import octavo as oc
from bench.shapes import GRID, shape_name

ROWS_CHECKED = 4
LARGEST = 15  # so that float32 holds every sum of 11,008 products


@pytest.fixture(scope="module", params=GRID, ids=shape_name)
def operands(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    m, k, n = request.param
    rng = np.random.default_rng(m + k + n)
    return (
        rng.integers(-LARGEST, LARGEST + 1, (m, k), dtype=np.int8),
        rng.integers(-LARGEST, LARGEST + 1, (k, n), dtype=np.int8),
    )


def through_float32(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a.astype(np.float32) @ b.astype(np.float32)).astype(np.int32)


CONTENDERS = {"octavo": oc.ops.matmul_integer, "numpy-through-float32": through_float32}


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.benchmark(max_time=0.2, min_rounds=3)
def test_gemm(benchmark, operands: tuple[np.ndarray, np.ndarray], contender: str) -> None:
    a, b = operands
    run = CONTENDERS[contender]
    expected = a[:ROWS_CHECKED].astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_array_equal(run(a, b)[:ROWS_CHECKED], expected)
    benchmark.group = shape_name((*a.shape, b.shape[1]))
    benchmark.extra_info["kernel"] = next(k.name for k in oc.kernels() if k.active)
    benchmark.extra_info["threads"] = oc.get_num_threads()
    benchmark.extra_info["operations"] = 2 * a.size * b.shape[1]
    benchmark(run, a, b)
