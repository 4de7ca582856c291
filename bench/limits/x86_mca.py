"""Static throughput of the x86 kernels' inner loops on Intel's cores, by llvm-mca.

    cmake --preset default && cmake --build --preset default
    python -m bench.limits.x86_mca [--build build/default] [--mca llvm-mca-19] [--cpu NAME ...]

The loops are cut from the disassembly of the object files as built, as arm_mca.py does, and the figures mean what they
mean there: the cycles of an iteration, and as the limit those for which its arithmetic alone occupies its ports:
the VPDPBUSD, or what avx2 does to take lines in pairs, all on the three vector ports or the multiplications on theirs.
Alder Lake and Sapphire Rapids are described from LLVM 17 on; before that llvm-mca takes an older core for them.

Exit status 1 where the loop of the full tile spills, or does not reach 90 % of its limit.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.limits.arm_mca import ITERATIONS, disassembled, first_found

CPUS = {
    "avx2": ("haswell", "skylake"),
    "avxvnni": ("alderlake", "sapphirerapids"),
    "avx512vnni": ("sapphirerapids", "icelake-server"),
}
FULL_TILE = {"avx2": 18, "avxvnni": 12, "avx512vnni": 24}  # multiplications of bytes in a step
ARITHMETIC = re.compile(r"(\{\w+\} )?vp(dpbusd|xor|abs|cmpgt|madd|add)")
VECTOR_PORTS = 3
REQUIRED_SHARE = 0.90


@dataclass(frozen=True)
class Loop:
    kernel: str
    body: tuple[str, ...]

    @property
    def byte_products(self) -> int:
        return sum("vpdpbusd" in i or "vpmaddubsw" in i for i in self.body)

    @property
    def arithmetic(self) -> tuple[str, ...]:
        return tuple(i for i in self.body if ARITHMETIC.match(i))

    @property
    def spills(self) -> int:
        return sum(re.search(r"\(%r[sb]p\).*[yz]mm|[yz]mm.*\(%r[sb]p\)", i) is not None for i in self.body)


def loops_of(path: Path, kernel: str) -> list[Loop]:
    """The innermost loops of tiles that multiply: a backward branch's target to the branch, no branch between."""
    loops = []
    for code in disassembled(first_found("objdump", "llvm-objdump"), path).values():
        position = {address: i for i, (address, _) in enumerate(code)}
        for i, (_, instruction) in enumerate(code):
            branch = re.match(r"(j\w+)\s+([0-9a-f]+) <", instruction)
            start = position.get(int(branch[2], 16)) if branch else None
            if branch is None or start is None or start > i:
                continue
            body = tuple(text for _, text in code[start:i])
            if any(re.match(r"(j\w+|call\w*|ret)\b", text) for text in body):
                continue
            loop = Loop(kernel, (*body, f"{branch[1]} .Lloop"))
            if loop.byte_products and not any("prefetch" in text for text in body):  # those stream, for few rows
                loops.append(loop)
    return loops


def cycles(mca: str, cpu: str, body: tuple[str, ...], figure: str) -> float:
    run = subprocess.run(
        [mca, "-mtriple=x86_64", f"-mcpu={cpu}", f"-iterations={ITERATIONS}", "-instruction-info=0"],
        input=".Lloop:\n" + "\n".join(body) + "\n",
        capture_output=True,
        text=True,
    )
    total = re.search(rf"{figure}:\s+([\d.]+)", run.stdout)
    if run.returncode != 0 or total is None or "not a recognized processor" in run.stderr:
        raise RuntimeError(f"{mca} -mcpu={cpu}: {run.stderr.strip()[:200]}")
    return float(total[1]) / (ITERATIONS if figure == "Total Cycles" else 1)


def main() -> int:
    parser = argparse.ArgumentParser(description="llvm-mca on the x86 kernels' inner loops")
    parser.add_argument("--build", type=Path, default=Path("build/default"), help="build folder of the default preset")
    parser.add_argument("--mca", help="llvm-mca to use (default: the newest found)")
    parser.add_argument("--cpu", nargs="+", help="cores, as LLVM names them")
    args = parser.parse_args()
    mca = args.mca or first_found("llvm-mca-19", "llvm-mca-18", "llvm-mca-17", "llvm-mca")
    print("| kernel | instructions | spills | core | cycles | arithmetic alone | share |")
    print("|---|---|---|---|---|---|---|")
    ok = True
    for kernel, count in FULL_TILE.items():
        objects = [o for o in args.build.rglob(f"x86_{kernel}.cpp.o") if "octavo_kernels.dir" in o.parts]
        loops = [loop for path in objects for loop in loops_of(path, kernel) if loop.byte_products == count]
        if not loops:
            sys.exit(
                f"x86_mca: no loop with {count} byte products in x86_{kernel}.cpp.o under {args.build}; build it first"
            )
        for loop in loops:
            ok &= loop.spills == 0
            for cpu in args.cpu or CPUS[kernel]:
                whole = cycles(mca, cpu, loop.body, "Total Cycles")
                alone = max(cycles(mca, cpu, loop.arithmetic, "Block RThroughput"), len(loop.arithmetic) / VECTOR_PORTS)
                ok &= alone / whole >= REQUIRED_SHARE
                head = f"| {kernel} | {len(loop.body)} ({len(loop.arithmetic)} of arithmetic) | {loop.spills} | {cpu}"
                print(f"{head} | {whole:.1f} | {alone:.1f} | {alone / whole:.0%} |")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
