"""Checks what the linker sees: wide instructions live in kernel objects alone, and kernel objects share nothing.

    python tests/native/check_objects.py BUILD_DIR

A linker keeps one copy of a weak or COMDAT function for everyone. Were that the copy of a file compiled for AVX2, a CPU
without AVX2 would crash in code that is meant to be portable. So, for the build in BUILD_DIR:
1. a kernel object defines no weak, unique or COMDAT symbol, exports its kernel table rows alone, and has no static
   initialiser (a sanitizer's own constructor is passed over);
2. no other object holds an instruction on 256-bit or 512-bit registers or tiles, or an Arm dot or matrix product;
3. tile instructions stand in x86_amxint8, its _int4 and its _grouped alone, and each holds them all: configuring,
   loading, zeroing, multiplying in its own way, storing, giving back;
4. each row of kernels.inc has an object named after it, and each kernel object a row (or, for four-bit weights and for
   wide integers, grouped codes and functions, the row of its name without _int4, _integer, _grouped or _functions);
5. kernel objects hold their prefetches: GCC may drop calls of functions that do nothing else (docs/kernels.md);
6. each linked program or module holds exactly as many of them as the kernel objects, or none where it uses no kernel.
"""

import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

PROGRAMS = {
    "test_attention",
    "test_kernels",
    "test_int4",
    "test_integers",
    "test_grouped",
    "test_fake_quant",
    "test_functions",
    "test_fixture",
    "test_thread_pool",
}
# Linked into programs of their own: the tests' builds of kernels, a benchmark, and what configures tiles itself.
APART = {"emulated_kernels.dir", "kernel_share.dir", "test_tiles.dir", "test_tiles_trapped.dir"}
TILES = {
    "sttilecfg",
    "ldtilecfg",
    "tileloadd",
    "tileloaddt1",
    "tilezero",
    "tilestored",
    "tilerelease",
}
TILE_OBJECTS = {
    "x86_amxint8": TILES | {"tdpbssd"},
    "x86_amxint8_int4": TILES | {"tdpbsud"},
    "x86_amxint8_grouped": TILES - {"tileloaddt1"} | {"tdpbsud", "tdpbssd"},
}
# Fewer than there are, as compilers unroll differently; many fewer where calls were dropped.
LEAST_PREFETCHES = {
    "x86_amxint8": 20,
    "x86_amxint8_grouped": 12,
    "x86_amxint8_int4": 6,
    "x86_avx2": 20,
    "x86_avx2_grouped": 90,
    "x86_avx2_int4": 35,
    "x86_avx512vnni": 90,
    "x86_avx512vnni_grouped": 700,
    "x86_avx512vnni_int4": 90,
    "x86_avxvnni": 18,
}
WIDE = re.compile(r"%[yz]mm\d|%tmm\d|\t(sdot|smmla)\b")


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def tool(name: str, file: Path) -> str:
    """The binutils program that reads the file: an Arm object needs the cross tools elsewhere."""
    is_arm = int.from_bytes(file.read_bytes()[18:20], "little") == 183  # e_machine, EM_AARCH64
    return f"aarch64-linux-gnu-{name}" if is_arm and platform.machine() != "aarch64" else name


def wide_instructions(file: Path) -> int:
    return sum(
        1
        for line in output(tool("objdump", file), "-d", "--no-show-raw-insn", str(file)).splitlines()
        if WIDE.search(line)
    )


def tile_faults(file: Path) -> Iterable[str]:
    text = output(tool("objdump", file), "-d", "--no-show-raw-insn", str(file))
    found = set(re.findall(r"\t(?:\{\w+\} )?((?:ld|st)tilecfg|tile\w+|tdp\w+)\b", text))
    expected = TILE_OBJECTS.get(file.name.partition(".")[0], set())
    if found != expected:
        yield f"{file.name}: tile instructions {sorted(found)}, expected {sorted(expected)}"


def prefetch_faults(file: Path) -> Iterable[str]:
    least = LEAST_PREFETCHES.get(file.name.partition(".")[0], 0)
    if least == 0:
        return
    found = len(re.findall(r"\tprefetch", output(tool("objdump", file), "-d", "--no-show-raw-insn", str(file))))
    if found < least:
        yield f"{file.name}: {found} prefetches, expected at least {least}"


def symbol_faults(file: Path) -> Iterable[str]:
    for line in output(tool("nm", file), "-C", "--defined-only", str(file)).splitlines():
        kind, name = line.split(maxsplit=2)[1:]
        sanitizer = "asan" in name or "tsan" in name or name.startswith(("_sub_I", "_sub_D", "__odr_"))
        if sanitizer:
            continue
        if kind in "WwVvu":
            yield f"{file.name}: weak or shared symbol {name}"
        elif kind.isupper() and not name.startswith(
            ("octavo::kernel_", "octavo::int4_", "octavo::integer_", "octavo::grouped_", "octavo::functions_")
        ):
            yield f"{file.name}: exports {name}"
        elif "_GLOBAL__sub_I" in name or "static_initialization" in name:
            yield f"{file.name}: static initialiser {name}"


def table_faults(kernels: list[Path]) -> Iterable[str]:
    """Rows and objects that do not belong together. Objects are of one architecture; rows of others may lack theirs."""
    table = Path(__file__).parents[2] / "csrc/kernels/kernels.inc"
    rows = set(re.findall(r"^OCTAVO_KERNEL\((\w+)\)", table.read_text(), re.MULTILINE))
    sources = {source.stem for source in table.parent.glob("*.cpp")}
    built = {o.name.partition(".")[0] for o in kernels}
    for name in sorted(rows):
        if not {f"x86_{name}", f"arm_{name}", name} & sources:
            yield f"kernels.inc: row {name} has no file"
    for name in sorted(built):
        if re.sub(r"^(x86|arm)_|_(int4|integer|grouped|functions)$", "", name) not in rows:
            yield f"{name}: no row in kernels.inc"
    architecture = {name.partition("_")[0] for name in built if name.startswith(("x86_", "arm_"))}
    for name in sorted(sources - built):
        if name.partition("_")[0] in architecture | {"scalar"}:
            yield f"{name}: CMakeLists.txt does not compile it"


def main(build: Path) -> int:
    objects = sorted(o for o in build.rglob("*.o") if not APART & set(o.parts))
    kernels = [o for o in objects if "octavo_kernels.dir" in o.parts]
    linked = [p for p in build.rglob("*") if p.is_file() and (p.name in PROGRAMS or p.suffix == ".so")]
    faults = [] if kernels and linked else [f"no kernel objects or nothing linked under {build}"]
    for kernel in kernels:
        faults += symbol_faults(kernel)
        faults += prefetch_faults(kernel)
    faults += table_faults(kernels)
    for each in objects:
        faults += tile_faults(each)
    wide = {o: wide_instructions(o) for o in objects}
    faults += [f"{o.name}: {wide[o]} wide instructions" for o in objects if o not in kernels and wide[o]]
    in_kernels = sum(wide[o] for o in kernels)
    found = {program: wide_instructions(program) for program in linked}
    if in_kernels not in found.values():
        faults.append("no linked file holds all kernels")
    for program, count in found.items():
        if count not in (0, in_kernels):
            faults.append(f"{program.name}: {count} wide instructions, the kernel objects hold {in_kernels}")
    print(f"{build}: {len(kernels)} kernel objects, {in_kernels} wide instructions, {len(linked)} linked files")
    for fault in faults:
        print(f"FAILED: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
