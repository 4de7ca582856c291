"""The pool of large results: reuse, its limit, views, threads, fork, and arrays that behave as any other."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import octavo as oc

MIB = 1 << 20


@pytest.fixture(autouse=True)
def empty_pool() -> Iterator[None]:
    before = oc.result_pool().max_bytes
    gc.collect()  # results that earlier tests left in cycles come back now and not in the middle of a test
    oc.set_result_pool(64 * MIB)
    oc.clear_result_pool()
    yield
    oc.clear_result_pool()
    oc.set_result_pool(before)


def layer_of(n: int) -> oc.QuantLinear:
    return oc.QuantLinear(np.ones((n, 1), np.float32))


def result_of(nbytes: int) -> np.ndarray:
    """A float32 result of that many bytes, 256 columns wide."""
    return layer_of(256)(np.ones((nbytes // 1024, 1), np.float32))


def address(a: np.ndarray) -> int:
    return a.__array_interface__["data"][0]


@pytest.mark.slow
def test_result_pool_gives_memory_again() -> None:
    y = result_of(MIB)
    where = address(y)
    assert oc.result_pool().nbytes == 0
    del y
    assert oc.result_pool() == oc.ResultPoolInfo(64 * MIB, MIB, 1)
    y = result_of(MIB - 1024)  # of the same size class
    assert address(y) == where
    assert oc.result_pool().nbytes == 0
    del y
    assert address(result_of(2 * MIB)) != where  # of another
    assert oc.result_pool().blocks == 2


@pytest.mark.slow
def test_result_pool_gives_two_living_results_memory_of_their_own() -> None:
    del_me = result_of(MIB)
    del del_me
    a, b = result_of(MIB), result_of(MIB)
    assert not np.may_share_memory(a, b)
    a[:] = 7
    assert (b == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("nbytes", [256 * 1024, 257 * 1024, 511 * 1024, MIB + 1024, 5 * MIB, 7 * MIB], ids=str)
def test_result_pool_blocks_are_at_most_a_quarter_larger(nbytes: int) -> None:
    assert result_of(nbytes).nbytes == nbytes
    assert nbytes <= oc.result_pool().nbytes <= 1.25 * nbytes


@pytest.mark.slow
def test_result_pool_views_keep_the_memory() -> None:
    y = result_of(MIB)
    y[:] = np.arange(y.size, dtype=np.float32).reshape(y.shape)
    view = y[3, 5:9]
    other = memoryview(y)
    expected = y[3, 5:9].copy()
    del y
    gc.collect()
    assert oc.result_pool().blocks == 0
    result_of(MIB)[:] = -1
    np.testing.assert_array_equal(view, expected)
    del view
    assert oc.result_pool().blocks == 1
    other.release()
    assert oc.result_pool().blocks == 2


@pytest.mark.slow
@pytest.mark.parametrize("nbytes", [255 * 1024, 65 * MIB], ids=["small", "above the limit"])
def test_result_pool_leaves_other_sizes_to_numpy(nbytes: int) -> None:
    y = result_of(nbytes)
    assert y.flags.owndata
    del y
    assert oc.result_pool().blocks == 0


@pytest.mark.slow
def test_result_pool_keeps_its_limit_and_frees_the_oldest() -> None:
    oc.set_result_pool(3 * MIB)
    results = [result_of(MIB) for _ in range(5)]
    addresses = [address(y) for y in results]
    for _ in range(5):
        results.pop(0)  # so that they come back in order
    assert oc.result_pool() == oc.ResultPoolInfo(3 * MIB, 3 * MIB, 3)
    again = [result_of(MIB) for _ in range(3)]
    assert [address(y) for y in again] == addresses[:1:-1]  # the latest first
    del again
    oc.set_result_pool(MIB)
    assert oc.result_pool() == oc.ResultPoolInfo(MIB, MIB, 1)


@pytest.mark.slow
def test_result_pool_off() -> None:
    kept = result_of(MIB)
    del kept
    alive = result_of(2 * MIB)
    oc.set_result_pool(0)
    assert oc.result_pool() == oc.ResultPoolInfo(0, 0, 0)
    assert result_of(MIB).flags.owndata
    alive[:] = 2
    del alive  # came from the pool, which is off by now
    assert oc.result_pool().nbytes == 0


@pytest.mark.slow
def test_result_pool_cleared() -> None:
    alive, kept = result_of(MIB), result_of(MIB)
    del kept
    oc.clear_result_pool()
    assert oc.result_pool().nbytes == 0
    assert (alive == 1).all()
    del alive
    assert oc.result_pool().nbytes == MIB


@pytest.mark.slow
def test_result_pool_is_not_asked_where_out_is_given() -> None:
    layer, x = layer_of(256), np.ones((1024, 1), np.float32)
    out = np.empty((1024, 256), np.float32)
    assert layer(x, out=out) is out
    assert oc.result_pool().blocks == 0


@pytest.mark.slow
def test_result_behaves_as_any_array() -> None:
    y, plain = result_of(4 * MIB), np.empty((4096, 256), np.float32)
    assert type(y) is np.ndarray
    assert not y.flags.owndata
    flags = (
        "c_contiguous",
        "f_contiguous",
        "writeable",
        "aligned",
        "writebackifcopy",
        "fnc",
        "forc",
        "behaved",
        "carray",
    )
    assert {f: getattr(y.flags, f) for f in flags} == {f: getattr(plain.flags, f) for f in flags}
    assert (y.dtype, y.shape, y.strides) == (plain.dtype, plain.shape, plain.strides)
    assert address(y) % (2 * MIB) == 0  # for huge pages
    assert address(result_of(MIB)) % 64 == 0
    y += 1
    y.sort(axis=0)
    assert np.shares_memory(y.reshape(2048, 512), y)
    assert y.copy().flags.owndata
    with pytest.raises(ValueError, match="resize"):
        y.resize((1, 1), refcheck=False)


@pytest.mark.slow
def test_integer_and_static_results_come_from_the_pool() -> None:
    a, b = np.ones((1024, 3), np.int8), np.ones((3, 256), np.int8)
    y = oc.ops.matmul_integer(a, b)
    assert not y.flags.owndata
    np.testing.assert_array_equal(y, np.full((1024, 256), 3, np.int32))
    params = oc.choose_qparams(np.array([-1.0, 1.0]), "int8")
    layer = oc.StaticQuantLinear(np.ones((256, 1), np.int8), np.float32(1), input=params)
    assert layer(np.ones((1024, 1), np.float32)).base is not None
    strided = np.ones((1024, 2), np.float32)[:, :1]
    assert layer_of(256)(strided).base is not None


@pytest.mark.slow
def test_result_pool_many_threads() -> None:
    layer = layer_of(256)
    failures: list[object] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        held: list[tuple[np.ndarray, float]] = []
        for _ in range(150):
            value = float(rng.integers(1, 1000))
            rows = int(rng.choice([256, 300, 1024]))
            y = layer(np.full((rows, 1), value, np.float32))
            np.multiply(y, 0, out=y)
            y += seed
            held.append((y, float(seed)))
            if len(held) > 3:
                old, expected = held.pop(int(rng.integers(3)))
                if not (old == expected).all():
                    failures.append((seed, expected))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        oc.clear_result_pool()
        oc.set_result_pool(2 * MIB)
        assert oc.result_pool().nbytes <= 2 * MIB
    for t in threads:
        t.join()
    assert failures == []


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("OCTAVO_")} | environment
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=env, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_result_pool_on_both_sides_of_a_fork() -> None:
    code = """
import os, threading, numpy as np, octavo as oc
layer, x = oc.QuantLinear(np.ones((256, 1), np.float32)), np.ones((1024, 1), np.float32)
stop = []
def churn():
    while not stop:
        layer(x)  # takes and gives, so that a fork falls into the middle of it now and then
thread = threading.Thread(target=churn)
thread.start()
alive = layer(x)
statuses = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        layer(x)[:] = 5
        ok = bool((alive == 1).all()) and oc.result_pool().nbytes >= 1 << 20
        oc.clear_result_pool()
        os._exit(0 if ok and oc.result_pool().nbytes == 0 else 1)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.append(True)
thread.join()
print(set(statuses), bool((alive == 1).all()))
"""
    result = python(code)
    assert result.stdout.split() == ["{0}", "True"], result.stderr


@pytest.mark.slow
def test_environment_sizes_the_pool() -> None:
    show = "import octavo as oc; print(oc.result_pool().max_bytes)"
    assert python(show).stdout.split() == [str(128 * MIB)]
    assert python(show, OCTAVO_RESULT_POOL_BYTES="1000").stdout.split() == ["1000"]
    assert python(show, OCTAVO_RESULT_POOL_BYTES="0").stdout.split() == ["0"]
    for wrong in ("64M", "-1", "1" * 30):
        result = python(show, OCTAVO_RESULT_POOL_BYTES=wrong)
        assert f'ValueError: OCTAVO_RESULT_POOL_BYTES must be a whole number of bytes, got "{wrong}"' in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (2**63, ValueError), (1.5, TypeError), (True, TypeError), ("1", TypeError)]
)
def test_set_result_pool_refuses(value, error) -> None:
    with pytest.raises(error, match="max_bytes must be"):
        oc.set_result_pool(value)
    assert oc.result_pool().max_bytes == 64 * MIB
