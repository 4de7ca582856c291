"""`octavo quantize` on quantized checkpoints of other tools: bytes a second beside what must be done, and memory.

    python -m bench.limits.checkpoint_conversion [--layers 4] [--folder /dev/shm]

Writes checkpoints of random integers (4096 x 11008 a layer, groups of 128), and on one thread, for each form, takes the
time of

    disk       reading its file from the disk: it is dropped from the page cache first (where the system can)
    memory     reading it from the page cache, through a buffer of 256 KB
    least      that, and what any conversion does besides: the checksum of as many bytes as come out, writing them and
               waiting for the disk to have them
    convert    converting it from the page cache, in a process of its own, with the wait for the disk
    cold       converting it from the disk

All are in bytes of the source, taken in turn, the best of --rounds; "CPU" has the processor's own time, without what
the disk takes. The shares are those of convert in least, by both, and of cold in disk. "peak" is the most memory of the
converting process above what it had before, in sizes of the largest tensor. The checksum is that of the package isal
where it is installed. With --profile the functions that take the time of the first form are listed.
"""

import argparse
import cProfile
import json
import os
import platform
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from octavo._files.checksum import crc32, fastest
from octavo._files.safetensors import Tensor, Writer
from octavo.checkpoints._convert import convert

N, K, GROUP = 11008, 4096, 128
G = K // GROUP
CHUNK = 1 << 18
FORMS: dict[str, tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, Any]]] = {
    "GPTQ": (
        {
            "qweight": ("I32", (K // 8, N)), "qzeros": ("I32", (G, N // 8)), "scales": ("F16", (G, N)),
            "g_idx": ("I32", (K,)),
        },
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP},
    ),
    "AWQ": (
        {"qweight": ("I32", (K, N // 8)), "qzeros": ("I32", (G, N // 8)), "scales": ("F16", (G, N))},
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"},
    ),
    "compressed-tensors 4 bits": (
        {"weight_packed": ("I32", (N, K // 8)), "weight_scale": ("F16", (N, G)), "weight_shape": ("I64", (2,))},
        {
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {
                "g": {"targets": [], "weights": {"num_bits": 4, "strategy": "group", "group_size": GROUP}}
            },
        },
    ),
    "compressed-tensors int8": (
        {"weight": ("I8", (N, K)), "weight_scale": ("F32", (N, 1))},
        {
            "quant_method": "compressed-tensors", "format": "int-quantized",
            "config_groups": {"g": {"targets": [], "weights": {"num_bits": 8, "strategy": "channel"}}},
        },
    ),
}  # fmt: skip
_RUN = """
import sys, time
from octavo.checkpoints._convert import convert
def memory(of):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(l.split()[1]) * 1024 for l in lines if l.startswith(of))
before = memory("VmRSS")
start, used = time.perf_counter(), time.process_time()
convert(sys.argv[1], sys.argv[2])
print(time.perf_counter() - start, time.process_time() - used, memory("VmHWM") - before)
"""


def write(folder: Path, name: str, layers: int) -> int:
    """Writes a checkpoint; the bytes of its largest tensor."""
    parts, config = FORMS[name]
    rng = np.random.default_rng(0)
    tensors = {f"l{i}.{p}": Tensor(*form) for i in range(layers) for p, form in parts.items()}
    with Writer(folder / "model.safetensors", tensors) as writer:
        for full, t in tensors.items():
            part = full.partition(".")[2]
            if part == "g_idx":
                writer.append(full, (np.arange(K) // GROUP).astype(np.int32))
            elif part == "weight_shape":
                writer.append(full, np.array([N, K]))
            elif t.dtype in ("F16", "F32"):
                writer.append(full, np.full(t.shape, 0.01, np.float16 if t.dtype == "F16" else np.float32))
            else:
                writer.append(full, rng.bytes(t.nbytes))
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    return max(t.nbytes for t in tensors.values())


def drop(path: Path) -> bool:
    """Takes a file out of the page cache."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def reading(path: Path) -> None:
    buffer = bytearray(CHUNK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def least(path: Path, copy: Path, count: int) -> None:
    """Reads a file; writes `count` bytes with their checksum, as far as the disk."""
    buffer, crc, written = bytearray(CHUNK), 0, 0
    out = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(out, 0, count)
    with open(path, "rb", buffering=0) as file:
        while (size := file.readinto(buffer)) or written < count:
            piece = memoryview(buffer)[: min(size or CHUNK, count - written)]
            crc = crc32(piece, crc)
            written += os.pwrite(out, piece, written)
    os.fsync(out)
    os.close(out)
    copy.unlink()


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    start, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - used


def converting(folder: Path) -> tuple[float, ...]:
    """Seconds, those of the processor, and bytes at the peak."""
    out = folder / "out.st"
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(folder), str(out)], check=True, capture_output=True, text=True
    )
    out.unlink()
    return tuple(map(float, done.stdout.split()))


def row(name: str, folder: Path, layers: int, rounds: int) -> tuple[str, ...]:
    largest = write(folder, name, layers)
    path, out = folder / "model.safetensors", folder / "out.st"
    convert(folder, out)
    size, count = path.stat().st_size, out.stat().st_size
    out.unlink()
    taken: dict[str, list[tuple[float, ...]]] = {what: [] for what in ("disk", "memory", "least", "convert", "cold")}
    for _ in range(rounds):
        if drop(path):
            taken["disk"].append(timed(lambda: reading(path)))
        taken["memory"].append(timed(lambda: reading(path)))
        taken["least"].append(timed(lambda: least(path, folder / "copy.bin", count)))
        taken["convert"].append(converting(folder))
        if drop(path):
            taken["cold"].append(converting(folder))

    def rate(what: str, which: int = 0) -> float:
        return size / min((values[which] for values in taken[what]), default=float("nan")) / 1e9

    rates = [rate(what) for what in ("disk", "memory", "least", "convert", "cold")]
    processor = [rate("least", 1), rate("convert", 1)]
    shares = (rate("convert") / rate("least"), processor[1] / processor[0], rate("cold") / rate("disk"))
    peak = max(values[2] for values in taken["convert"]) / largest
    figures = [*(f"{r:.2f}" for r in (*rates, *processor)), *(f"{share:.0%}" for share in shares), f"{peak:.2f}x"]
    return (name, f"{size / 1e6:.0f}", *figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="of each checkpoint")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--folder", help="where the files are made (default: the system's temporary folder)")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    print(f"{platform.platform()}, checksum of {fastest().__module__}; GB/s of the source\n")
    columns = (
        "checkpoint", "MB", "disk", "memory", "least", "convert", "cold", "least CPU", "CPU", "of least", "of CPU",
        "of disk", "peak",
    )  # fmt: skip
    print(f"{columns[0]:26}", *(f"{column:>9}" for column in columns[1:]))
    for name in args.forms:
        with tempfile.TemporaryDirectory(dir=args.folder) as text:
            folder = Path(text)
            if args.profile:
                write(folder, name, args.layers)
                convert(folder, folder / "out.st")
                with cProfile.Profile() as profile:
                    convert(folder, folder / "other.st")
                pstats.Stats(profile).sort_stats("tottime").print_stats(15)
                return
            first, *others = row(name, folder, args.layers, args.rounds)
            print(f"{first:26}", *(f"{value:>9}" for value in others), flush=True)


if __name__ == "__main__":
    main()
