"""What a process holds for its layers is what they say: resident memory against nbytes, in a process of its own."""

from __future__ import annotations

import os
import sys

import pytest

from interpreter import python

START = """
import gc
import numpy as np
import octavo as oc

def memory(key):
    gc.collect()
    with open("/proc/self/status") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))
"""

LAYERS = """
np.ones(24 << 20, np.uint8)  # freed at once: from here on glibc's malloc keeps blocks of up to 24 MiB
weight = np.full({shape}, 0.5, np.float32)
weight[:, ::3] = -0.25
oc.QuantLinear(weight[:16], **{options})  # what the first layer of a process brings in
before = memory("VmRSS")
layers = [oc.QuantLinear(weight, **{options}) for _ in range({count})]
held, nbytes = memory("VmRSS") - before, sum(layer.nbytes for layer in layers)
del layers
print(held, nbytes, memory("VmRSS") - before)
"""

IN_PLACE = """
random = np.random.default_rng(0)
oc.quantize_dynamic([oc.nn.Linear(np.ones((64, 64), np.float32))], {oc.nn.Linear}, inplace=True)
before = memory("VmRSS")
model = [oc.nn.Linear(random.standard_normal((768, 3072), dtype=np.float32)) for _ in range(12)]
floats = memory("VmRSS") - before
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is counted from here on
gc.disable()  # what is not needed any more is freed at once, not by the collector
oc.quantize_dynamic(model, {oc.nn.Linear}, inplace=True)
print(floats, memory("VmHWM") - before, memory("VmRSS") - before, sum(layer.nbytes for layer in model))
"""

INT4 = {"dtype": "int4", "rounding": "nearest", "group_size": 128}


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, INT4], ids=["int8", "int4"])
@pytest.mark.parametrize(
    ("shape", "count"),
    [((64, 64), 2000), ((256, 256), 200), ((768, 768), 30), ((768, 3072), 20), ((1456, 1456), 12), ((4096, 11008), 1)],
    ids=str,
)
def test_resident_memory_is_nbytes(shape: tuple[int, int], count: int, options: dict[str, object]) -> None:
    done = python(START + LAYERS.format(shape=shape, count=count, options=options))
    assert done.returncode == 0, done.stderr
    held, nbytes, left = map(int, done.stdout.split())
    assert held <= 1.1 * nbytes + 1024 * count
    assert held >= 0.8 * nbytes, "something was not measured"
    if shape[0] * shape[1] >= 2**17:  # smaller ones are malloc's, which keeps some of what is freed
        assert left <= 0.1 * nbytes + 1024 * count


@pytest.mark.slow
@pytest.mark.skipif("OCTAVO_TEST_UNDER_QEMU" in os.environ, reason="the emulator's memory is a part of the process's")
def test_quantize_dynamic_in_place_peaks_at_the_floats_and_one_layer() -> None:
    done = python(START + IN_PLACE)
    assert done.returncode == 0, done.stderr
    floats, peak, after, nbytes = map(int, done.stdout.split())
    assert peak <= floats + 1.3 * 768 * 3072 * 4
    assert after <= 1.1 * nbytes + 1024 * 12
