"""Static throughput of the Arm kernels' inner loops, by llvm-mca.

    cmake --preset aarch64 && cmake --build --preset aarch64
    python -m bench.limits.arm_mca [--build build/aarch64] [--objects FILE.o ...] [--mca llvm-mca-19] [--cpu NAME ...]

The loops are cut from the disassembly of the object files as built: nothing in the sources marks them. For each loop
and each core, llvm-mca gives the cycles of an iteration; and, as the limit, those for which its multiply instructions
occupy their issue ports.

    share = cycles(multiply instructions) / cycles(loop)

It is a model. It knows issue ports, latencies and dispatch width as LLVM describes them, and assumes that every load
hits the first-level cache and every branch is predicted. LLVM describes some cores by an older relative; docs/arm.md
says which.

Exit status 1 where a loop that must reach a share does not, or spills.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CPUS = ("cortex-a76", "neoverse-n1", "neoverse-v1", "apple-m1")
MULTIPLY = re.compile(r"(sdot|smmla|smull2?|sadalp)\b")
STACK_ACCESS = re.compile(r"(ldr|ldp|str|stp|ldur|stur)\t.*\[(sp|x29)")
REQUIRED_SHARE = {"neon": 0.0, "neondot": 0.85, "neoni8mm": 0.90}
ROWS_PER_VECTOR = {"neon": 1, "neondot": 1, "neoni8mm": 2}
MULTIPLY_ADDS = {"smull": 8, "smull2": 8, "sdot": 16, "smmla": 32, "sadalp": 0}
ITERATIONS = 1000


@dataclass(frozen=True)
class Loop:
    kernel: str
    lhs_vectors: int
    cols: int
    is_gemv: bool
    body: tuple[str, ...]

    @property
    def rows(self) -> int:
        return self.lhs_vectors * ROWS_PER_VECTOR[self.kernel]

    @property
    def multiply_adds(self) -> int:
        return sum(MULTIPLY_ADDS[i.split()[0]] for i in self.multiplies)

    @property
    def name(self) -> str:
        return f"{'gemv' if self.is_gemv else 'gemm'} {self.rows}x{self.cols}"

    @property
    def multiplies(self) -> tuple[str, ...]:
        return tuple(i for i in self.body if MULTIPLY.match(i))

    @property
    def spills(self) -> int:
        return sum(STACK_ACCESS.match(i) is not None for i in self.body)


def disassembled(objdump: str, path: Path) -> dict[str, list[tuple[int, str]]]:
    """Functions of an object file: name to (address, instruction)."""
    text = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout
    functions: dict[str, list[tuple[int, str]]] = {}
    current: list[tuple[int, str]] = []
    for line in text.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.+)>:", line):
            current = functions.setdefault(head[1], [])
        elif instruction := re.match(r"\s*([0-9a-f]+):\s+(.*)", line):
            current.append((int(instruction[1], 16), instruction[2].split("//")[0].strip()))
    return functions


def loops_of(objdump: str, path: Path) -> list[Loop]:
    """The loops that multiply, in the functions of register tiles: from a backward branch's target to the branch."""
    kernel = path.name.removeprefix("arm_").split(".")[0]
    loops = []
    for name, code in disassembled(objdump, path).items():
        parameters = re.search(r"multiply.*ILi(\d+)ELi(\d+)ELb(\d)E|multiply_vectorsI.*Li(\d+)ELi(\d+)ELb(\d)E", name)
        if parameters is None:
            continue
        vectors, cols, gemv = (int(p) for p in parameters.groups() if p is not None)
        position = {address: i for i, (address, _) in enumerate(code)}
        for i, (_, instruction) in enumerate(code):
            branch = re.match(r"(b\.\w+\s+|cbn?z\s+\w+,\s*)([0-9a-f]+) <", instruction)
            start = position.get(int(branch[2], 16)) if branch else None
            if branch is None or start is None or start > i:
                continue
            body = (*(text for _, text in code[start:i]), f"{branch[1]}.Lloop")
            loop = Loop(kernel, vectors, cols, bool(gemv), body)
            if loop.multiplies:
                loops.append(loop)
    return loops


def cycles(mca: str, cpu: str, body: tuple[str, ...], figure: str = "Total Cycles") -> float:
    """Cycles of an iteration: in sequence, or ("Block RThroughput") as the issue ports alone allow."""
    source = ".Lloop:\n" + "\n".join(body) + "\n"
    command = [
        mca,
        "-mtriple=aarch64-linux-gnu",
        "-mattr=+dotprod,+i8mm",
        f"-mcpu={cpu}",
        f"-iterations={ITERATIONS}",
    ]
    run = subprocess.run(
        [*command, "-instruction-info=0", "-resource-pressure=0"],
        input=source,
        capture_output=True,
        text=True,
    )
    total = re.search(rf"{figure}:\s+([\d.]+)", run.stdout)
    if run.returncode != 0 or total is None or "not a recognized processor" in run.stderr:
        raise RuntimeError(f"{mca} -mcpu={cpu}: {run.stderr.strip()[:200]}")
    return float(total[1]) / (ITERATIONS if figure == "Total Cycles" else 1)


def largest(loops: list[Loop]) -> list[Loop]:
    """Of each kernel's loops of a kind the largest tile: what a large product spends its time in."""
    best: dict[tuple[str, bool], Loop] = {}
    for loop in loops:
        key = (loop.kernel, loop.is_gemv)
        if key not in best or loop.multiply_adds > best[key].multiply_adds:
            best[key] = loop
    return list(best.values())


def first_found(*names: str) -> str:
    found = next((name for name in names if shutil.which(name)), None)
    if found is None:
        sys.exit(f"arm_mca: none of {', '.join(names)} is installed")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="llvm-mca on the Arm kernels' inner loops")
    parser.add_argument("--build", type=Path, default=Path("build/aarch64"), help="build folder of the aarch64 preset")
    parser.add_argument("--objects", type=Path, nargs="+", help="object files instead, say of another compiler")
    parser.add_argument("--mca", help="llvm-mca to use (default: the newest found)")
    parser.add_argument("--cpu", nargs="+", default=CPUS, help="cores, as LLVM names them")
    parser.add_argument("--all", action="store_true", help="every tile, not the largest ones alone")
    args = parser.parse_args()
    mca = args.mca or first_found("llvm-mca-19", "llvm-mca-18", "llvm-mca-17", "llvm-mca-16", "llvm-mca", "llvm-mca-14")
    objdump = first_found("aarch64-linux-gnu-objdump", "llvm-objdump", "llvm-objdump-14")
    objects = args.objects or sorted(args.build.rglob("arm_*.cpp.o"))
    loops = [loop for path in objects for loop in loops_of(objdump, path)]
    if not loops:
        sys.exit(f"arm_mca: no multiplying loop in {[str(p) for p in objects]}; build the aarch64 preset first")
    loops = sorted(loops if args.all else largest(loops), key=lambda x: (x.kernel, x.is_gemv, x.rows))

    version = re.search(r"version ([\d.]+)", subprocess.run([mca, "--version"], capture_output=True, text=True).stdout)
    print(f"llvm-mca {version[1] if version else '?'}\n")
    print("| kernel | loop | instructions | spills | core | cycles | multiply-adds a cycle | share of the limit |")
    print("|---|---|---|---|---|---|---|---|")
    ok = True
    for loop in loops:
        head = f"| {loop.kernel} | {loop.name} | {len(loop.body)} ({len(loop.multiplies)} multiply) | {loop.spills} |"
        ok &= loop.spills == 0
        for cpu in args.cpu:
            try:
                whole, limit = (
                    cycles(mca, cpu, loop.body),
                    cycles(mca, cpu, loop.multiplies, "Block RThroughput"),
                )
            except RuntimeError as error:
                print(f"{head} {cpu} | not known: {error} | | |")
                continue
            share = limit / whole
            reached = loop.is_gemv or share >= REQUIRED_SHARE[loop.kernel]
            ok &= reached
            per_cycle, note = loop.multiply_adds / whole, "" if reached else " (too low)"
            print(f"{head} {cpu} | {whole:.1f} | {per_cycle:.0f} | {share:.0%}{note} |")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
