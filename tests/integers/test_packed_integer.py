"""PackedInteger: the products of octavo.matmul, packed once."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import threading

import numpy as np
import pytest

import octavo as oc
from integer_values import TYPES, integers, numpy_matmul
from interpreter import python


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "small", "words", "outliers", "extremes"])
@pytest.mark.parametrize("b_type", TYPES, ids=lambda t: t.__name__)
def test_packed_integer_products_equal_numpy(kernel: str, b_type: type, kind: str) -> None:
    rng = np.random.default_rng(0)
    for k, n in [(5, 7), (150, 40)]:
        b = integers(rng, (k, n), b_type, kind)
        packed = oc.PackedInteger(b)
        for a_type, m, a_kind in itertools.product(TYPES, (1, 40), ("small", "full")):
            dtype = np.result_type(a_type, b_type)
            a = integers(rng, (m, k), a_type, a_kind)
            if dtype.kind == "f":
                with pytest.raises(TypeError, match="dtype="):
                    a @ packed
                dtype = np.dtype(np.int64)
            y = oc.matmul(a, packed, dtype=dtype)
            assert y.dtype == dtype
            np.testing.assert_array_equal(y, numpy_matmul(a, b, dtype))


def test_packed_integer_long_sums_and_many_columns_equal_numpy() -> None:
    rng = np.random.default_rng(1)
    for k, n in [(9000, 20), (40, 3000)]:
        b = rng.integers(-(2**63), 2**63, (k, n))
        a = rng.integers(-(2**63), 2**63, (20, k))
        np.testing.assert_array_equal(a @ oc.PackedInteger(b), a @ b)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5), (2, 0, 5)], ids=str)
def test_packed_integer_takes_vectors_and_stacks(shape: tuple[int, ...]) -> None:
    b = np.arange(20).reshape(5, 4)
    a = np.arange(int(np.prod(shape))).reshape(shape)
    packed = oc.PackedInteger(b)
    for x in (a, np.asfortranarray(a), a.astype(">i8")):
        np.testing.assert_array_equal(x @ packed, a @ b)
    out = np.zeros((a @ b).shape, np.int32)
    assert oc.matmul(a, packed, out=out) is out
    np.testing.assert_array_equal(out, a @ b)
    np.testing.assert_array_equal(oc.matmul(a, packed, dtype=np.int8), np.matmul(a, b, dtype=np.int8))


def test_packed_integer_empty_sums_are_zero() -> None:
    np.testing.assert_array_equal(np.ones((3, 0), int) @ oc.PackedInteger(np.ones((0, 4), int)), np.zeros((3, 4)))
    assert (np.ones((3, 4), int) @ oc.PackedInteger(np.ones((4, 0), int))).shape == (3, 0)


def test_packed_integer_is_a_copy() -> None:
    b = np.arange(6).reshape(2, 3)
    packed = oc.PackedInteger(b)
    b[:] = 0
    np.testing.assert_array_equal(np.eye(2, dtype=int) @ packed, np.arange(6).reshape(2, 3))
    with pytest.raises(ValueError, match="read-only"):
        packed.values[0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        packed.values.flags.writeable = True


def test_packed_integer_pickles_and_copies() -> None:
    packed = oc.PackedInteger(np.arange(6, dtype=">i4").reshape(2, 3))
    assert (packed.shape, packed.ndim, packed.dtype, repr(packed)) == (
        (2, 3), 2, np.dtype(np.int32), "PackedInteger(shape=(2, 3), dtype=int32)",
    )  # fmt: skip
    again = pickle.loads(pickle.dumps(packed))
    np.testing.assert_array_equal(again.values, packed.values)
    assert copy.copy(packed) is packed
    assert copy.deepcopy(packed) is packed


def test_packed_integer_counts_what_it_packs() -> None:
    packed = oc.PackedInteger(np.ones((100, 64), np.int16))
    before = packed.nbytes
    assert before >= packed.values.nbytes
    np.ones((50, 100), np.int16) @ packed
    once = packed.nbytes
    assert once >= before + 100 * 64
    np.ones((50, 100), np.int16) @ packed
    assert packed.nbytes == once


def test_packed_integer_is_shared_by_threads() -> None:
    rng = np.random.default_rng(2)
    b = rng.integers(-(2**63), 2**63, (200, 100))
    packed = oc.PackedInteger(b)
    operands = [rng.integers(-100, 100, (30, 200)).astype(t) for t in (np.int8, np.int16, np.int32, np.int64)] * 2
    results: list[np.ndarray | None] = [None] * len(operands)

    def run(i: int) -> None:
        results[i] = operands[i] @ packed

    workers = [threading.Thread(target=run, args=(i,)) for i in range(len(operands))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for a, y in zip(operands, results, strict=True):
        np.testing.assert_array_equal(y, a @ b)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_packed_integer_works_in_a_child_forked_while_another_thread_packs() -> None:
    code = """
import os, signal, threading, time, warnings, numpy as np, octavo as oc
warnings.simplefilter("ignore")
oc.set_num_threads(2)
b = np.random.default_rng(0).integers(-2**62, 2**62, (2000, 2000))
a = b[:20]
expected = (oc.matmul(a, b)).tobytes()
codes = []
for _ in range(4):
    packed = oc.PackedInteger(b)
    begun = threading.Event()
    other = threading.Thread(target=lambda: (begun.set(), a @ packed))
    other.start()
    begun.wait()
    time.sleep(0.002)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        oc.set_num_threads(1)
        os._exit(0 if (a @ packed).tobytes() == expected and packed.nbytes > b.nbytes else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    other.join()
print(codes)
"""
    result = python(code)
    assert (result.stdout, result.stderr) == ("[0, 0, 0, 0]\n", "")


def test_packed_integer_refuses_what_it_is_not_for() -> None:
    with pytest.raises(TypeError, match=r"np\.matmul"):
        oc.PackedInteger(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        oc.PackedInteger(np.ones(2, int))
    packed = oc.PackedInteger(np.ones((2, 3), int))
    with pytest.raises(ValueError, match="core dimension"):
        np.ones((2, 3), int) @ packed
    with pytest.raises(TypeError, match=r"np\.matmul"):
        np.ones((3, 2)) @ packed


def test_packed_integer_on_the_left_says_that_it_is_for_the_right() -> None:
    packed = oc.PackedInteger(np.eye(3, dtype=np.int8))
    for right in (np.eye(3, dtype=np.int8), packed):
        with pytest.raises(TypeError, match="right operand only: a @ P"):
            packed @ right
