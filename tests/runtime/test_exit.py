"""The interpreter exits while a daemon thread is inside the compiled part: quietly and with status 0, as with NumPy.

Each program leaves a daemon thread that calls one function over and over, with work enough for it to give up the GIL,
and ends its main thread meanwhile. Up to Python 3.13 the daemon is then unwound where it asks for the GIL back.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from interpreter import python

CALLS = {
    "layer": "layer(x)",
    "layer-out": "layer(x, out=out)",
    "layer-int4": "four_bits(x)",
    "static-layer": "static(x)",
    "constructor": "_core.PackedLinear(q, one_a_row, None, asymmetric=False, relu=False)",
    "constructor-int4": "_core.PackedLinearInt4(q4, one_a_row, None, None, group_k=0, asymmetric=False, relu=False)",
    "matmul_integer": "oc.ops.matmul_integer(q, q)",
    "constructor-grouped": "_core.PackedLinearGrouped(q4, one_a_row, **grouped)",
    "matmul-integers": "oc.matmul(wide, wide)",
    "matmul-of-bool": "oc.matmul(wide > 0, wide > 0)",
    "packed-integers": "wide @ packed",
    "constructor-packed-integers": "_core.PackedIntegers(wide)",
    "lstm": "_core.lstm(recurrent, inputs, state, state.copy(), outputs, False)",
    "gru": "_core.gru(recurrent_gru, inputs[:, :, :768].copy(), state, outputs, False)",
    "fake_quantize": "_core.fake_quantize(x, one, zero, -128, 127, -1)",
    "fake_quantize_backward": "_core.fake_quantize_backward(x, x, one, zero, -128, 127, -1)",
    "fake_quantize_learnable_backward": "_core.fake_quantize_learnable_backward(x, x, one, zero, -128, 127, -1)",
    "result-pool": "np.add(layer(x), 1)",
}

PROGRAM = """
import threading, time
import numpy as np
import octavo as oc
from octavo import _core

oc.set_num_threads(2)
random = np.random.default_rng(0)
x = random.standard_normal((512, 1024), dtype=np.float32)
q = random.integers(-127, 128, (1024, 1024)).astype(np.int8)
q4 = q >> 4
one_a_row, one, zero = np.ones(1024, np.float32), np.ones(1, np.float32), np.zeros(1, np.int32)
wide = random.integers(-2**40, 2**40, (512, 512))
packed = oc.PackedInteger(wide)
layer = oc.QuantLinear.from_quantized(q, one_a_row)
four_bits = oc.QuantLinear(x, dtype="int4", rounding="nearest")
static = oc.StaticQuantLinear(q, one_a_row, input=oc.QParams(np.float32(0.1), np.int8(0)))
out = np.empty((512, 1024), np.float32)
recurrent = _core.PackedLinear(q[:, :256].copy(), one_a_row, None, asymmetric=False, relu=False)
recurrent_gru = _core.PackedLinear(q[:768, :256].copy(), one_a_row[:768], None, asymmetric=False, relu=False)
inputs, state = np.zeros((20, 8, 1024), np.float32), np.zeros((8, 256), np.float32)
outputs = np.zeros((20, 8, 256), np.float32)
grouped = dict.fromkeys(("zero_point", "minimum", "group_scale", "group_minimum", "bias"))
grouped |= dict(group_k=0, bits=4, activation="symmetric", activation_group=0, relu=False)
called = threading.Event()

def daemon():
    while True:
        {call}
        called.set()

threading.Thread(target=daemon, daemon=True).start()
assert called.wait(60)
time.sleep(0.002)
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_exit_while_a_daemon_thread_calls(call: str) -> None:
    done = python(PROGRAM.replace("{call}", call))
    assert (done.returncode, done.stderr) == (0, "")


def test_only_gil_released_gives_up_the_gil() -> None:
    csrc = Path(__file__).parents[2] / "csrc"
    sources = [*csrc.rglob("*.cpp"), *csrc.rglob("*.h")]
    assert csrc / "bind/gil.h" in sources
    words = ("gil_scoped_release", "PyEval_SaveThread", "Py_BEGIN_ALLOW_THREADS")
    found = {source.name for source in sources for word in words if word in source.read_text()}
    assert found == {"gil.h"}
