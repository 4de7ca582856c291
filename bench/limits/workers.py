"""What a worker costs: one mapped model in several processes, pickles through shared memory, and speed.

    python -m bench.limits.workers memory    8 processes with one mapped model of 200 MB: memory and load time
    python -m bench.limits.workers pickles   the same model as a pickle with buffers, through shared memory
    python -m bench.limits.workers speed     a mapped layer beside one in memory, by rows
    python -m bench.limits.workers embed     MiniLM int8: two processes beside one, and what the machine gives two
    python -m bench.limits.workers engines   MiniLM int8: Dask and Ray, where installed, beside two bare processes

Memory is PSS of /proc/PID/smaps: a page that n processes share counts 1/n for each. "Private" is what a process holds
beyond one that has imported NumPy alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np

import octavo as oc

LAYERS, WIDTH = 12, 4096  # 201 MB of int8
PROCESSES = 8


def big_model() -> list[oc.QuantLinear]:
    rng = np.random.default_rng(0)
    scale = np.full(WIDTH, 0.01, np.float32)
    shape = (WIDTH, WIDTH)
    return [
        oc.QuantLinear.from_quantized(rng.integers(-127, 128, shape, np.int8), scale, call="forward")
        for _ in range(LAYERS)
    ]


def smaps(pid: int | str, part: str = "") -> dict[str, int]:
    """Sums in KiB over the mappings whose name holds `part`."""
    sums: dict[str, int] = {}
    counts = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            counts = part in line
        elif counts and rest.strip().endswith("kB"):
            sums[first[:-1]] = sums.get(first[:-1], 0) + int(rest.split()[0])
    return sums


CHILD = """
import sys, time, json
import numpy as np
path, kind, threads = sys.argv[1:4]
if kind == "numpy":
    spent = []
else:
    import octavo as oc
    import octavo._files.save_load
    oc.set_num_threads(1)
    start = time.perf_counter()
    model = oc.load(path, **json.loads(kind))
    spent = [time.perf_counter() - start]
    x = np.ones((16, 4096), np.float32)
    for layer in model.values():
        x = layer(x)
print(json.dumps(spent), flush=True)
sys.stdin.readline()
"""


def children(path: str, kind: str, count: int) -> list[tuple[subprocess.Popen[str], list[float]]]:
    """Processes that have loaded the model and multiplied with all of it, one after the other."""
    found = []
    for _ in range(count):
        command = [sys.executable, "-c", CHILD, path, kind, "1"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        found.append((child, json.loads(child.stdout.readline())))
    return found


def close(processes: list[tuple[subprocess.Popen[str], list[float]]]) -> None:
    for child, _ in processes:
        child.communicate("\n")


def private(pid: int | str) -> int:
    found = smaps(pid)
    return found["Private_Clean"] + found["Private_Dirty"]


def memory() -> None:
    with tempfile.TemporaryDirectory() as folder:
        canonical, packed = f"{folder}/canonical", f"{folder}/packed"
        model = big_model()
        oc.save(model, canonical)
        oc.save(model, packed, layout="packed")
        del model
        size = Path(packed).stat().st_size
        print(f"model {size / 1e6:.0f} MB, {PROCESSES} processes")
        plain = children(packed, "numpy", 1)
        base = private(plain[0][0].pid)
        close(plain)
        for name, path, options, count in (
            ("mapped, verify=False", packed, {"mmap": True, "verify": False}, PROCESSES),
            ("mapped, verify=True", packed, {"mmap": True}, 2),
            ("packed, in memory", packed, {"verify": False}, 2),
            ("canonical, in memory", canonical, {"verify": False}, 2),
        ):
            started = children(path, json.dumps(options), count)
            pids = [child.pid for child, _ in started]
            pss = sum(smaps(pid, path).get("Pss", 0) for pid in pids) / 1024
            own = [(private(pid) - base) / 1024 for pid in pids]
            load = statistics.median(spent[0] for _, spent in started[1:])
            print(
                f"{name:22} load {1e3 * load:7.1f} ms; {count} processes: PSS of the file {pss:7.1f} MiB "
                f"({pss * 2**20 / size:.2f} copies), private beyond Python and NumPy {statistics.median(own):6.1f} MiB"
            )
            close(started)


def receive(text: bytes, name: str, sizes: list[int], queue: Any) -> None:
    import octavo  # noqa: F401 - imported before the clock starts

    shared = shared_memory.SharedMemory(name)
    warm = pickle.loads(pickle.dumps(oc.QuantLinear(np.eye(2)), protocol=5))
    del warm
    start = time.perf_counter()
    views, at = [], 0
    for size in sizes:
        views.append(shared.buf[at : at + size])
        at += size
    model = pickle.loads(text, buffers=views)
    spent = time.perf_counter() - start
    x = np.ones((16, WIDTH), np.float32)
    for layer in model:
        x = layer(x)
    found = smaps("self", name)
    queue.put((spent, found["Pss"], private("self"), x.tobytes()))
    time.sleep(1.5)  # until the others have read their maps
    del model, layer, views
    shared.close()


def pickles() -> None:
    model = big_model()
    buffers: list[pickle.PickleBuffer] = []
    start = time.perf_counter()
    text = pickle.dumps(model, protocol=5, buffer_callback=buffers.append)
    dumped = time.perf_counter() - start
    sizes = [b.raw().nbytes for b in buffers]
    shared = shared_memory.SharedMemory(create=True, size=sum(sizes))
    at = 0
    for buffer in buffers:
        shared.buf[at : at + buffer.raw().nbytes] = buffer.raw()
        at += buffer.raw().nbytes
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=receive, args=(text, shared.name, sizes, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    shared.close()
    shared.unlink()
    x = np.ones((16, WIDTH), np.float32)
    for layer in model:
        x = layer(x)
    assert all(result[3] == x.tobytes() for result in results)
    times = [1e3 * result[0] for result in results]
    print(f"pickle of {sum(sizes) / 1e6:.0f} MB: {len(text)} bytes beside the buffers, made in {1e3 * dumped:.2f} ms")
    print(
        f"4 receivers: {min(times):.2f} to {max(times):.2f} ms each; PSS of the shared memory "
        f"{', '.join(f'{result[1] / 1024:.0f}' for result in results)} MiB, private in all "
        f"{', '.join(f'{result[2] / 1024:.0f}' for result in results)} MiB"
    )


def in_turns(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Times of each call, by name; calls take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def speed() -> None:
    oc.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        own = big_model()
        oc.save(own, f"{folder}/m", layout="packed")
        mapped = list(oc.load(f"{folder}/m", mmap="strict").values())
        kernel = next(k.name for k in oc.kernels() if k.active)
        print(f"{LAYERS} layers {WIDTH} x {WIDTH} int8, one thread, kernel {kernel}")
        rng = np.random.default_rng(0)
        for rows in (1, 4, 16, 64, 256):
            x = rng.standard_normal((rows, WIDTH), dtype=np.float32)
            assert all((a(x) == b(x)).all() for a, b in zip(own[:2], mapped[:2], strict=True))

            def run(layers: list[Any], x: np.ndarray = x) -> None:
                for layer in layers:
                    layer(x)

            times = in_turns({"own": lambda run=run: run(own), "mapped": lambda run=run: run(mapped)}, 4)
            ratios = [b / a for a, b in zip(times["own"], times["mapped"], strict=True)]
            quarters = statistics.quantiles(times["own"], n=4)
            print(
                f"{rows:4} rows: in memory {1e3 * statistics.median(times['own']):8.2f} ms (quartiles "
                f"{1e3 * quarters[0]:.2f} to {1e3 * quarters[2]:.2f}), mapped "
                f"{1e3 * statistics.median(times['mapped']):8.2f} ms, ratio {statistics.median(ratios):.3f}"
            )


# Sentences a second. Every ratio is of neighbours in time: contenders take turns. Loops that keep to registers
# (`integer_steps`), to the vector units (`float_products`) and to memory (`bytes_read`) show what the machine gives to
# two processes that have nothing to do with one another.

Tasks = list[list[list[int]]]
Run = Callable[[Tasks], list[Any]]
SENTENCES, TASK, ROUNDS = 2000, 1000, 3


def integer_steps(seconds: float) -> float:
    """Steps a second of a loop that touches registers and the first-level cache alone."""
    count, x, end = 0, 1, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(100_000):
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        count += 100_000
    return count / seconds


def float_products(seconds: float) -> float:
    """Products a second of NumPy's BLAS, 384 x 384 floats: in the second-level cache."""
    a = np.ones((384, 384), np.float32)
    out, count, end = np.empty_like(a), 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        np.matmul(a, a, out=out)
        count += 1
    return count / seconds


def bytes_read(seconds: float) -> float:
    """Bytes a second of sums over 64 MB, as from the memory beyond the caches."""
    a = np.ones(8 << 20)
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        a.max()
        count += 1
    return count * a.nbytes / seconds


def measure(runs: dict[str, Run], tasks: Tasks, reference: list[bytes]) -> None:
    """Prints the sentences a second of each way, and the ratio to the first; equal bits are checked."""
    for run in runs.values():  # starts the workers, and loads the model
        run([task[:20] for task in tasks])
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            found = run(tasks)
            spent[name].append(time.perf_counter() - start)
            got = [np.asarray(y).tobytes() for y in found]
            assert not reference or got == reference, f"{name}: other bits"
            reference[:] = got
    count, first = sum(map(len, tasks)), next(iter(spent.values()))
    for name, times in spent.items():
        ratio = statistics.median([a / b for a, b in zip(first, times, strict=True)])
        rates = sorted(count / t for t in times)
        print(
            f"{name:14} {rates[0]:6.1f} to {rates[-1]:6.1f} sentences/s, {ratio:.3f} x {next(iter(runs))}", flush=True
        )


def jobs() -> Any:
    """MiniLM int8 in a packed file, and sentences in tasks of equal work: shuffled, so that none has the long ones."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "cluster"))
    import argparse

    import work

    return work, work.job(argparse.Namespace(small=False, limit=SENTENCES, task=TASK, workers=2))


def shuffled(tasks: Tasks) -> Tasks:
    sentences = [ids for task in tasks for ids in task]
    order = np.random.default_rng(0).permutation(len(sentences))
    return [[sentences[i] for i in order[start : start + TASK]] for start in range(0, len(order), TASK)]


def processes(pool: Any, call: Any, path: str) -> Run:
    return lambda tasks: list(pool.map(call, [path] * len(tasks), tasks))


def embed() -> None:
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    work, made = jobs()
    with made as job, ProcessPoolExecutor(1, context) as one, ProcessPoolExecutor(2, context) as two:
        tasks, call = shuffled(job.tasks), work.embed

        def sentences(pool: Any) -> float:
            start = time.perf_counter()
            list(pool.map(call, [job.path] * len(tasks), tasks))
            return sum(map(len, tasks)) / (time.perf_counter() - start)

        def together(loop: Callable[[float], float], count: int) -> float:
            return sum(future.result() for future in [two.submit(loop, 1.0) for _ in range(count)])

        loops = (integer_steps, float_products, bytes_read)
        contenders: dict[str, Callable[[int], float]] = {"sentences": lambda n: sentences(two if n > 1 else one)}
        contenders |= {loop.__name__: lambda n, loop=loop: together(loop, n) for loop in loops}
        for pool in (one, two):  # starts the workers, and loads the model
            list(pool.map(call, [job.path] * 2, [task[:20] for task in tasks]))
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, rate in contenders.items():
                rates[name].append((rate(1), rate(2)))
    ratios = {name: statistics.median(two / one for one, two in found) for name, found in rates.items()}
    for name, found in rates.items():
        medians = [statistics.median(rate) for rate in zip(*found, strict=True)]
        each = ", ".join(f"{two / one:.2f}" for one, two in found)
        share = "" if name == "sentences" else f", of which MiniLM reaches {ratios['sentences'] / ratios[name]:.0%}"
        print(f"{name:15} {medians[0]:9.3g} and {medians[1]:9.3g} a second: {ratios[name]:.2f} x ({each}){share}")


def engines() -> None:
    from concurrent.futures import ProcessPoolExecutor

    work, made = jobs()
    with made as job, ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as two:
        tasks, reference = shuffled(job.tasks), list[bytes]()
        bare = processes(two, work.embed, job.path)
        for name, start in (("Dask", dask), ("Ray", ray)):
            try:
                with start(work.embed, job.path) as run:
                    measure({"two processes": bare, name: run}, tasks, reference)
            except ImportError:
                print(f"{name} is not installed")


@contextmanager
def dask(call: Any, path: str) -> Iterator[Run]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield lambda tasks: client.gather(client.map(call, [path] * len(tasks), tasks, pure=False))


@contextmanager
def ray(call: Any, path: str) -> Iterator[Run]:
    import ray
    from ray.util import ActorPool

    folders = os.pathsep.join(sys.path)  # of this process, for the workers
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would measure what else the machine does
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": folders}}
    )

    class Embedder:
        def embed(self, task: Any) -> Any:
            return call(path, task)

    pool = ActorPool([ray.remote(num_cpus=1)(Embedder).remote() for _ in range(2)])
    yield lambda tasks: list(pool.map(lambda actor, task: actor.embed.remote(task), tasks))
    ray.shutdown()


if __name__ == "__main__":
    parts = {"memory": memory, "pickles": pickles, "speed": speed, "embed": embed, "engines": engines}
    if len(sys.argv) != 2 or sys.argv[1] not in parts:
        sys.exit(f"one of {', '.join(parts)}")
    parts[sys.argv[1]]()
