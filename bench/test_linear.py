"""pytest-benchmark suite: QuantLinear against NumPy's float32 x @ W + b, layer by layer.

    pip install '.[bench]'
    OPENBLAS_NUM_THREADS=1 OCTAVO_NUM_THREADS=1 pytest bench/test_linear.py --benchmark-group-by=group

Each contender's answer is checked before it is timed. For ratios measured in one interleaved run use
bench/against_numpy.py.
"""

import numpy as np
import pytest

import octavo as oc
from shapes import SHAPES, Case


@pytest.fixture(scope="module", params=SHAPES, ids=lambda s: "x".join(map(str, s)))
def case(request: pytest.FixtureRequest) -> Case:
    return Case.random(*request.param)


@pytest.mark.parametrize("contender", ["numpy-float32", "octavo-int8", "octavo-int8-asymmetric"])
def test_linear(benchmark, case: Case, contender: str) -> None:
    run = case.contenders()[contender]
    np.testing.assert_allclose(run(), case.expected(), atol=case.tolerance())
    benchmark.group = case.name
    benchmark.extra_info["kernel"] = next(k.name for k in oc.kernels() if k.active)
    benchmark.extra_info["threads"] = oc.get_num_threads()
    benchmark.extra_info["operations"] = case.operations
    benchmark(run)
