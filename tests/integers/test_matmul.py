"""octavo.matmul against numpy.matmul, for every pair of types, on every kernel."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, mutually_broadcastable_shapes

import octavo as oc
from integer_values import INTEGERS, KINDS, TYPES, integers, numpy_matmul

PAIRS = list(itertools.product(TYPES, TYPES))
PAIR_IDS = [f"{a.__name__}-{b.__name__}" for a, b in PAIRS]

# Products that are multiplied at once, and such as are looked at, planned, cut in K and in columns.
SMALL = [(m, k, n) for m in (0, 1, 2, 3, 4, 5, 15, 16, 17) for k, n in ((1, 1), (7, 17), (16, 15))]
SMALL += [(3, 0, 4), (2, 5, 0), (31, 3, 32), (32, 4, 33), (33, 5, 31)]
LARGE = [(17, 129, 33), (63, 33, 47), (64, 64, 64), (65, 130, 31), (2, 700, 300), (40, 1100, 17)]


def result_type(a: type, b: type) -> type:
    """NumPy's, or int64 where that is float64."""
    kind = np.result_type(a, b)
    return np.int64 if kind.kind == "f" else kind.type


@pytest.mark.slow
@pytest.mark.parametrize(("a_type", "b_type"), PAIRS, ids=PAIR_IDS)
def test_matmul_small_equals_numpy(kernel: str, a_type: type, b_type: type) -> None:
    rng = np.random.default_rng(0)
    dtype = result_type(a_type, b_type)
    for (m, k, n), kind in zip(SMALL, itertools.cycle(itertools.product(KINDS, KINDS))):
        a, b = integers(rng, (m, k), a_type, kind[0]), integers(rng, (k, n), b_type, kind[1])
        y = oc.matmul(a, b, dtype=dtype)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, numpy_matmul(a, b, dtype), err_msg=f"{(m, k, n)} {kind}")


@pytest.mark.slow
@pytest.mark.parametrize(("a_type", "b_type"), PAIRS, ids=PAIR_IDS)
def test_matmul_large_equals_numpy(kernel: str, a_type: type, b_type: type) -> None:
    rng = np.random.default_rng(1)
    dtype = result_type(a_type, b_type)
    kinds = itertools.cycle([("full", "full"), ("small", "small"), ("bytes", "words"), ("words", "bytes")])
    others = itertools.cycle(itertools.product(KINDS, KINDS))
    for m, k, n in LARGE:
        for kind in (next(kinds), next(kinds), next(others), next(others)):
            a, b = integers(rng, (m, k), a_type, kind[0]), integers(rng, (k, n), b_type, kind[1])
            y = oc.matmul(a, b, dtype=dtype)
            np.testing.assert_array_equal(y, numpy_matmul(a, b, dtype), err_msg=f"{(m, k, n)} {kind}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: t.__name__)
def test_matmul_long_sums_equal_numpy(kernel: str, dtype: type, kind: str) -> None:
    """K that is cut into pieces."""
    rng = np.random.default_rng(2)
    a, b = integers(rng, (18, 8300), dtype, kind), integers(rng, (8300, 5), dtype, kind)
    np.testing.assert_array_equal(oc.matmul(a, b), np.matmul(a, b))


@pytest.mark.slow
@pytest.mark.parametrize("result", INTEGERS, ids=lambda t: t.__name__)
@pytest.mark.parametrize("kind", ["full", "extremes", "small", "words"])
def test_matmul_with_dtype_equals_numpy(kernel: str, result: type, kind: str) -> None:
    rng = np.random.default_rng(3)
    for source in TYPES:
        if not np.can_cast(source, result, "same_kind"):
            continue
        for m, k, n in [(3, 4, 5), (33, 200, 35)]:
            a, b = integers(rng, (m, k), source, kind), integers(rng, (k, n), source, kind)
            y = oc.matmul(a, b, dtype=result)
            assert y.dtype == result
            np.testing.assert_array_equal(y, np.matmul(a, b, dtype=result), err_msg=f"{source.__name__} {(m, k, n)}")


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda t: t.__name__)
def test_matmul_wraps_as_python_integers_do(dtype: type) -> None:
    rng = np.random.default_rng(4)
    a, b = integers(rng, (20, 70), dtype, "full"), integers(rng, (70, 30), dtype, "extremes")
    bits = 8 * np.dtype(dtype).itemsize
    exact = a.astype(object) @ b.astype(object)
    expected = (exact % 2**bits).astype(np.uint64).astype(dtype)
    np.testing.assert_array_equal(oc.matmul(a, b), expected)


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["rows", "columns", "both"])
def test_matmul_blocks_of_different_ranges_equal_numpy(kernel: str, columns: str) -> None:
    """Small values with a few large ones: blocks of rows and of columns take digits, or widths, of their own."""
    rng = np.random.default_rng(5)
    a, b = rng.integers(-100, 100, (200, 150)), rng.integers(0, 200, (150, 700))
    if columns != "columns":
        a[70, 3], a[140, 9] = 2**40, -(2**17)
    if columns != "rows":
        b[5, 300], b[6, 10], b[7, 600] = -(2**62), 70000, 255
    np.testing.assert_array_equal(oc.matmul(a, b), np.matmul(a, b))


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: t.__name__)
def test_matmul_any_strides_equal_numpy(dtype: type) -> None:
    rng = np.random.default_rng(6)
    for m, k, n in [(5, 6, 7), (40, 70, 50)]:
        a, b = integers(rng, (2 * m, 3 * k), dtype, "full"), integers(rng, (2 * k, 2 * n), dtype, "words")
        for x in (a[::2, ::3], a[m - 1 :: -1, k - 1 :: -1], np.asfortranarray(a[:m, :k]), a[:1, :k].repeat(m, 0)):
            for y in (b[::2, ::2], b[k - 1 :: -1, n:], np.asfortranarray(b[:k, :n])):
                np.testing.assert_array_equal(oc.matmul(x, y), np.matmul(x, y))
        broadcast = np.broadcast_to(b[0, :n], (k, n))
        np.testing.assert_array_equal(oc.matmul(a[:m, :k], broadcast), np.matmul(a[:m, :k], broadcast))


@pytest.mark.parametrize("shapes", [((3, 4), (4,)), ((4,), (4, 5)), ((4,), (4,)), ((2, 1, 3, 4), (5, 4, 6)),
                                    ((0, 3, 4), (4, 5)), ((2, 3, 4), (4,)), ((4,), (2, 4, 5)), ((7, 3, 4), (7, 4, 2)),
                                    ((2, 30, 40), (40, 50)), ((3, 30, 40), (1, 40, 50)), ((3, 0, 2), (3, 2, 0)),
                                    ((3, 2, 0), (3, 0, 2))])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.bool_], ids=lambda t: t.__name__)
def test_matmul_stacks_and_vectors_equal_numpy(shapes: tuple[tuple[int, ...], tuple[int, ...]], dtype: type) -> None:
    rng = np.random.default_rng(7)
    a, b = (integers(rng, shape, dtype, "full") for shape in shapes)
    y, expected = oc.matmul(a, b), np.matmul(a, b)
    assert (type(y), y.dtype, y.shape) == (type(expected), expected.dtype, expected.shape)
    np.testing.assert_array_equal(y, expected)


def test_matmul_many_small_matrices_equal_numpy(threads: int) -> None:
    rng = np.random.default_rng(8)
    a, b = rng.integers(-(2**31), 2**31, (1000, 16, 16)).astype(np.int32), rng.integers(-9, 9, (16, 16), dtype=np.int32)
    np.testing.assert_array_equal(oc.matmul(a, a), np.matmul(a, a))
    np.testing.assert_array_equal(oc.matmul(b, a), np.matmul(b, a))
    np.testing.assert_array_equal(oc.matmul(a, b), np.matmul(a, b))
    c = rng.integers(-(2**63), 2**63, (9, 40, 40))
    np.testing.assert_array_equal(oc.matmul(c, c), np.matmul(c, c))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "small", "words"])
@pytest.mark.parametrize("shape", [(300, 120, 280), (5, 700, 600), (16, 300, 1000), (1000, 300, 9)], ids=str)
def test_matmul_is_independent_of_threads(threads: int, shape: tuple[int, int, int], kind: str) -> None:
    rng = np.random.default_rng(9)
    m, k, n = shape
    for dtype in (np.int64, np.int16, np.bool_):
        a, b = integers(rng, (m, k), dtype, kind), integers(rng, (k, n), dtype, kind)
        np.testing.assert_array_equal(oc.matmul(a, b), np.matmul(a, b))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.3, 1])
@pytest.mark.parametrize("shape", [(3, 5, 7), (70, 129, 511), (10, 700, 1030), (4, 300, 64)], ids=str)
def test_matmul_bool_equals_numpy(kernel: str, shape: tuple[int, int, int], share: float) -> None:
    rng = np.random.default_rng(10)
    m, k, n = shape
    a, b = rng.random((m, k)) < share, rng.random((k, n)) < 1.5 * share
    for x, y in ((a, b), (np.asfortranarray(a), np.asfortranarray(b))):
        result = oc.matmul(x, y)
        assert result.dtype == bool
        np.testing.assert_array_equal(result.view(np.uint8), np.matmul(x, y).view(np.uint8))


def test_matmul_bool_of_columns_that_fill_up_unevenly_equals_numpy() -> None:
    rng = np.random.default_rng(11)
    a, b = rng.random((20, 300)) < 0.5, rng.random((300, 1100)) < 0.01
    b[:, :64], b[:, 512:576], b[:, 700] = True, True, False
    np.testing.assert_array_equal(oc.matmul(a, b), np.matmul(a, b))


def test_matmul_bool_counts_every_true_byte_once() -> None:
    a = np.array([[2, 255, 0, 1]], np.uint8).view(np.bool_)
    np.testing.assert_array_equal(oc.matmul(a, a.T, dtype=np.int64), [[3]])
    np.testing.assert_array_equal(oc.matmul(a, np.ones((4, 1), np.int8)), [[3]])
    np.testing.assert_array_equal(oc.matmul(a, a.T).view(np.uint8), [[1]])


@pytest.mark.slow
def test_matmul_ten_million_products_a_sum() -> None:
    k = 10_000_000
    least = np.full((1, k), -128, np.int8)
    assert oc.matmul(least, least.T, dtype=np.int64)[0, 0] == 16384 * k
    assert oc.matmul(least, least.T, dtype=np.int32)[0, 0] == np.int64(16384 * k).astype(np.int32)
    assert oc.matmul(least, least.T)[0, 0] == 0
    a = np.arange(k, dtype=np.int64)
    squares = (k - 1) * k * (2 * k - 1) // 6
    assert oc.matmul(a, a) == (squares + 2**63) % 2**64 - 2**63


@pytest.mark.slow
def test_matmul_memory_beside_the_result_is_bounded() -> None:
    pytest.importorskip("resource", reason="peak memory is read by the resource module, which Windows lacks")
    code = """
import resource, sys
import numpy as np, octavo as oc
oc.set_num_threads(2)
a, b = np.ones((8, 4_000_000), np.int8), np.ones((4_000_000, 8), np.int8)
c, d = np.ones((8, 16), np.int64), np.full((16, 2_000_000), 2**40)
e, f = np.full((3_000, 3_000), 300, np.int16), np.full((3_000, 3_000), 300, np.int16)
g, h = np.ones((8, 4_000_000), bool), np.zeros((4_000_000, 1), bool)
outs = [np.zeros((8, 8), np.int64), np.zeros((8, 2_000_000), np.int64), np.zeros((3_000, 3_000), np.int16)]
outs.append(np.zeros((8, 1), bool))
for out in outs:
    out[:] = 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for (x, y), out in zip(((a, b), (c, d), (e, f), (g, h)), outs):
    oc.matmul(x, y, out=out, dtype=out.dtype)
assert outs[0][0, 0] == 4_000_000 and outs[1][7, -1] == 2**44
assert outs[2][5, 5] == np.int64(300 * 300 * 3000).astype(np.int16)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    kib = int(run.stdout)
    assert kib < 64 * 1024


@st.composite
def operands(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays whose shapes fit, of any types, with values from anywhere in their range."""
    shapes = draw(mutually_broadcastable_shapes(signature="(m,k),(k,n)->(m,n)", max_dims=2, max_side=9)).input_shapes
    a, b = (draw(arrays(draw(st.sampled_from(TYPES)), shape)) for shape in shapes)
    return a, b


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(operands())
def test_matmul_hypothesis_equals_numpy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    dtype = result_type(a.dtype.type, b.dtype.type)
    np.testing.assert_array_equal(oc.matmul(a, b, dtype=dtype), numpy_matmul(a, b, dtype))
