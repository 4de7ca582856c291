"""Instructions executed per multiply-add by the Arm kernels, counted by QEMU, against the inner loop's own count.

    cmake --preset aarch64 && cmake --build --preset aarch64
    python -m bench.limits.arm_count [--build build/aarch64] [--shape 64 768 768]

Counted is one call of a linear layer (float32 to float32, bias) on one thread: the program runs with three calls and
with two, and the difference is one call with all that it needs - quantizing and packing the rows, zeroing and joining
accumulators, the epilogue. Packing the weights is not in it. The loop's own count is that of the largest tile.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.limits.arm_mca import first_found, largest, loops_of

MOST_OVERHEAD = 0.15


def built_plugin(folder: Path) -> Path:
    library = folder / "libqemu_count.so"
    source = Path(__file__).with_name("qemu_count.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    return library


def executed(plugin: Path, program: Path, *arguments: str) -> int:
    command = ["qemu-aarch64", "-cpu", "max,sve=off", "-L", "/usr/aarch64-linux-gnu", "-plugin", str(plugin)]
    run = subprocess.run([*command, "-d", "plugin", str(program), *arguments], capture_output=True, text=True)
    count = re.search(r"instructions: (\d+)", run.stderr)
    if run.returncode != 0 or count is None:
        sys.exit(f"arm_count: {program} {' '.join(arguments)} failed: {run.stderr.strip()[:300]}")
    return int(count[1])


def main() -> int:
    parser = argparse.ArgumentParser(description="instructions per multiply-add of the Arm kernels, under QEMU")
    parser.add_argument("--build", type=Path, default=Path("build/aarch64"), help="build folder of the aarch64 preset")
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 768, 768), metavar=("M", "K", "N"))
    args = parser.parse_args()
    m, k, n = args.shape
    objdump = first_found("aarch64-linux-gnu-objdump", "llvm-objdump", "llvm-objdump-14")
    loops = largest([loop for path in sorted(args.build.rglob("arm_*.cpp.o")) for loop in loops_of(objdump, path)])
    program = args.build / "tests/native/run_linear"

    print(f"{m}x{k}x{n}, one call\n")
    print("| kernel | instructions | per 1000 multiply-adds | the loop's own | overhead |")
    print("|---|---|---|---|---|")
    ok = bool(loops)
    with tempfile.TemporaryDirectory() as folder:
        plugin = built_plugin(Path(folder))
        for loop in loops:
            if loop.is_gemv:
                continue
            two, three = (executed(plugin, program, loop.kernel, str(m), str(k), str(n), c) for c in ("2", "3"))
            whole, own = (three - two) / (m * k * n), len(loop.body) / loop.multiply_adds
            ok &= whole <= own * (1 + MOST_OVERHEAD)
            print(f"| {loop.kernel} | {three - two} | {1000 * whole:.1f} | {1000 * own:.1f} | {whole / own - 1:.1%} |")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
