"""Signals, forks and too little memory: the process behaves as one that only uses NumPy."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from interpreter import python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks of Unix")

START = """
import faulthandler, os, signal, sys, threading, time
import numpy as np
import octavo as oc

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
oc.set_num_threads(2)
layer = oc.QuantLinear(np.full((512, 512), 0.5, np.float32))
x = np.ones((256, 512), np.float32)
expected = layer(x)
"""

INTERRUPTED = """
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
calls = 0
try:
    while True:
        layer(x)
        calls += 1
except KeyboardInterrupt:
    pass
assert calls > 0
np.testing.assert_array_equal(layer(x), expected)  # and goes on
"""

FORKED = """
import warnings
warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # from Python 3.12 on: it has several threads

def same():
    return np.array_equal(layer(x), expected)

for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if same() else 1)
    assert same()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

EXECUTED = """
worker = threading.Thread(target=lambda: [layer(x) for _ in range(10**6)], daemon=True)
worker.start()
layer(x)
os.execv(sys.executable, [sys.executable, "-c", "print('another program')"])
"""

# Enough for what is there already and for small things, not for what is asked for next.
LIMITED = """
import resource
import octavo.ops

weight = np.ones((4096, 8192), np.float32)
integers = np.ones((4096, 4096), np.int8)
big = oc.QuantLinear(weight)
rows = np.ones((8192, 8192), np.float32)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {free}, resource.RLIM_INFINITY))
try:
    {call}
except MemoryError:
    print("MemoryError")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
np.testing.assert_array_equal(layer(x), expected)
"""

TOO_LARGE = {
    "pack": "oc.QuantLinear(weight)",
    "pack-int4": 'oc.QuantLinear(weight, dtype="int4", rounding="nearest", group_size=32)',
    "call": "big(rows)",
    "matmul-integer": "octavo.ops.matmul_integer(integers, integers)",
    "matmul": "oc.matmul(integers, integers, dtype=np.int64)",
    "pool": "held = [oc.ops.matmul_integer(integers[:1024], integers) for _ in range(64)]",
}


@pytest.mark.slow
@pytest.mark.parametrize("program", [INTERRUPTED, FORKED], ids=["ctrl-c", "fork"])
def test_program_goes_on(program: str) -> None:
    done = python(START + program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_exec_during_a_call_of_another_thread() -> None:
    done = python(START + EXECUTED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "another program\n", "")


@pytest.mark.slow
def test_faulthandler_shows_the_line_of_a_call() -> None:
    done = python(START + "faulthandler.enable()\nlayer(x)\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert 'File "<string>", line' in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
@pytest.mark.skipif("OCTAVO_TEST_UNDER_QEMU" in os.environ, reason="QEMU's user mode has no RLIMIT_AS")
@pytest.mark.parametrize("call", TOO_LARGE.values(), ids=TOO_LARGE)
def test_too_little_memory_is_a_memory_error(call: str) -> None:
    done = python(START + LIMITED.format(free=12 << 20, call=call))
    assert (done.returncode, done.stdout, done.stderr) == (0, "MemoryError\n", "")
