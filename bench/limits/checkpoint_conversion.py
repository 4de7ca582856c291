"""`octavo quantize` on quantized checkpoints of other tools: bytes a second beside plain reading, and memory.

    python -m bench.limits.checkpoint_conversion [--layers 8] [--folder /dev/shm]

Writes checkpoints of random integers (4096 x 11008 a layer, groups of 128), reads one through a buffer of 8 MB from the
page cache (the limit), copies it with the checksum that octavo's files have (what the format costs), and converts each
in a process of its own, on one thread. Memory is the peak of that process above what it had before, in sizes of the
largest tensor.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from octavo._files.safetensors import Tensor, Writer

N, K, GROUP = 11008, 4096, 128
_RUN = """
import resource, sys, time
import octavo.checkpoints
from octavo.checkpoints._convert import convert
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return {l.split(":")[0]: int(l.split()[1]) * 1024 for l in lines if l.startswith(("VmHWM", "VmRSS"))}
before = peak()["VmRSS"]
start = time.perf_counter()
convert(sys.argv[1], sys.argv[2])
print(time.perf_counter() - start, peak()["VmHWM"] - before)
"""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--layers", type=int, default=8)
parser.add_argument("--folder", default=None, help="where the files are made (default: the system's temporary folder)")
args = parser.parse_args()

G = K // GROUP
FORMS = {
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


def write(folder: Path, name: str) -> int:
    """Writes a checkpoint; the bytes of its largest tensor."""
    parts, config = FORMS[name]
    rng = np.random.default_rng(0)
    tensors = {f"l{i}.{p}": Tensor(*form) for i in range(args.layers) for p, form in parts.items()}
    with Writer(folder / "model.safetensors", tensors) as writer:
        for full, t in tensors.items():
            part = full.partition(".")[2]
            if part == "g_idx":
                data = (np.arange(K) // GROUP).astype(np.int32)
            elif part == "weight_shape":
                data = np.array([N, K])
            elif t.dtype in ("F16", "F32"):
                data = np.full(t.shape, 0.01, np.float16 if t.dtype == "F16" else np.float32)
            else:
                data = np.frombuffer(rng.bytes(t.nbytes), np.uint8)
            writer.append(full, data if data.dtype != np.uint8 else data.tobytes())
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    return max(t.nbytes for t in tensors.values())


def reading(path: Path, copy: Path | None = None) -> float:
    """Seconds to read a file; to copy it with checksums."""
    buffer = bytearray(8 << 20)
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as file, open(copy or "/dev/null", "wb", buffering=0) as out:
        while count := file.readinto(buffer):
            if copy is not None:
                zlib.crc32(memoryview(buffer)[:count])
                out.write(memoryview(buffer)[:count])
    return time.perf_counter() - start


print(f"{'':28} {'MB':>6} {'read':>11} {'copy, CRC':>11} {'convert':>11} {'of read':>8} {'of copy':>8} {'memory':>8}")
for name in FORMS:
    with tempfile.TemporaryDirectory(dir=args.folder) as text:
        folder = Path(text)
        largest = write(folder, name)
        path = folder / "model.safetensors"
        size = path.stat().st_size
        read = min(reading(path) for _ in range(3))
        copy = min(reading(path, folder / "copy.bin") for _ in range(2))
        (folder / "copy.bin").unlink()
        found = []
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", _RUN, text, str(folder / "out.st")], check=True, capture_output=True, text=True
            )
            found.append(tuple(map(float, done.stdout.split())))
        seconds, memory = min(found)
        print(
            f"{name:28} {size / 1e6:6.0f} {size / read / 1e9:6.2f} GB/s {size / copy / 1e9:6.2f} GB/s "
            f"{size / seconds / 1e9:6.2f} GB/s {read / seconds:8.1%} {copy / seconds:8.1%} {memory / largest:7.2f}x"
        )
