"""What the pool of large results saves: on, off, and out=; one interleaved run of about 15 seconds.

    OCTAVO_NUM_THREADS=1 python -m bench.layers.result_pool

"dropped": the result dies before the next call. "chain": three results are alive while the next is made, as in a model
whose activations are kept. Ratios are to the pool's time. How much the pool saves depends on what the C library does
with freed memory: glibc keeps up to 32 MB for itself once a program has freed as much, and NumPy asks for huge pages
from 4 MB on, whose faults are few.
"""

from __future__ import annotations

import statistics
import time
from collections import deque

import numpy as np

import octavo as oc

ROUNDS, ROUND_SECONDS = 7, 0.05
SHAPES = [(128, 64, 768), (512, 64, 3072), (512, 768, 3072), (2048, 64, 3072), (2048, 768, 3072), (2048, 768, 4096)]


def main() -> None:
    print(f"{oc.cpu_info().brand}, {oc.get_num_threads()} threads")
    print(f"{'M x K x N':>14} {'result':>9}  {'use':8} {'pool':>10} {'off':>10} {'out=':>10}   off/pool out=/pool")
    for m, k, n in SHAPES:
        rng = np.random.default_rng(0)
        layer = oc.QuantLinear.from_quantized(rng.integers(-127, 128, (n, k), dtype=np.int8), np.full(n, 0.01))
        x, out = rng.standard_normal((m, k), dtype=np.float32), np.empty((m, n), np.float32)
        for use, alive in (("dropped", 0), ("chain", 3)):
            held: deque[np.ndarray] = deque(maxlen=alive)
            taken: dict[str, list[float]] = {"pool": [], "off": [], "out=": []}
            for _ in range(ROUNDS):
                for name, seconds in taken.items():
                    held.clear()
                    oc.set_result_pool(256 << 20 if name == "pool" else 0)
                    target = out if name == "out=" else None
                    for _ in range(alive + 2):  # what the round finds is what it leaves
                        held.append(layer(x, out=target))
                    start, calls = time.perf_counter(), 0
                    while time.perf_counter() - start < ROUND_SECONDS:
                        held.append(layer(x, out=target))
                        calls += 1
                    seconds.append((time.perf_counter() - start) / calls)
            pool, off, given = (statistics.median(seconds) for seconds in taken.values())
            cells = " ".join(f"{1e3 * t:7.3f} ms" for t in (pool, off, given))
            ratios = f"{off / pool:7.2f} {given / pool:9.2f}"
            print(f"{f'{m}x{k}x{n}':>14} {out.nbytes / 1e6:6.1f} MB  {use:8} {cells}   {ratios}")


if __name__ == "__main__":
    main()
