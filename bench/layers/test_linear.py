"""pytest-benchmark suite: QuantLinear against NumPy's float32 x @ W + b, layer by layer.

    pip install '.[bench]'
    OPENBLAS_NUM_THREADS=1 OCTAVO_NUM_THREADS=1 pytest bench/layers/test_linear.py --benchmark-group-by=group

Takes about five minutes on one thread (-k "not 11008 and not 2048x" leaves one). Each contender's answer is checked
before it is timed. Ratios measured in one interleaved run come from against_numpy.py and ../peers/compare_peers.py.
"""

import numpy as np
import pytest

import octavo as oc
from bench.shapes import GRID, SHAPES, Case, shape_name

ALL_SHAPES = list(dict.fromkeys(SHAPES + GRID))
ROWS_CHECKED = 16


@pytest.fixture(scope="module", params=ALL_SHAPES, ids=shape_name)
def case(request: pytest.FixtureRequest) -> Case:
    return Case.random(*request.param)


@pytest.mark.parametrize("contender", ["numpy-float32", "octavo-int8", "octavo-int8-asymmetric"])
@pytest.mark.benchmark(max_time=0.2, min_rounds=3)
def test_linear(benchmark, case: Case, contender: str) -> None:
    run = case.makers()[contender]()
    some = Case(case.x[:ROWS_CHECKED], case.weight, case.bias)
    np.testing.assert_allclose(run()[:ROWS_CHECKED], some.expected(), atol=case.tolerance())
    benchmark.group = case.name
    benchmark.extra_info["kernel"] = next(k.name for k in oc.kernels() if k.active)
    benchmark.extra_info["threads"] = oc.get_num_threads()
    benchmark.extra_info["operations"] = case.operations
    benchmark(run)
