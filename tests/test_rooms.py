"""The rules of docs/design.md that no other test would notice being broken: who imports whom, and what import costs."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import octavo
from octavo import _pickles

PACKAGE = Path(octavo.__file__).parent

# From the top. A room imports only rooms further down; rooms of one line are independent of one another.
ROOMS = (
    ("__main__",),
    ("_cli",),
    ("qat", "gguf", "checkpoints"),
    ("_analysis",),
    ("_files",),
    ("_quantize",),
    ("_layers", "_observers"),
    ("nn",),
    ("ops", "functional", "runtime", "_integers", "_models", "_numerics"),
    ("_util",),
    ("_core",),
)
MAY_IMPORT_CORE = {
    "functional._attention",
    "functional._cache",
    "functional._elementwise",
    "functional._loss",
    "functional._rotary",
    "functional._rows",
    "_integers.operands",
    "_integers.packed",
    "_integers.products",
    "_layers.images",
    "_layers.packing",
    "_layers.weights",
    "_layers.recurrent",
    "_numerics.fake_quant",
    "checkpoints._packing",
    "ops",
    "runtime",
}
ROOT = {"__init__", "_pickles"}  # above all rooms

DATA = Path(__file__).parent / "data"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    return module.partition(".")[0]


@functools.cache
def imports(module: str) -> set[str]:
    """Modules of octavo that a module imports, at the top or inside functions, by their names within the package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            parts = (node.module or "").split(".")
            if parts[0] == "octavo":
                within = ".".join(parts[1:])
                names = {f"{within}.{alias.name}".removeprefix(".") for alias in node.names}
                found |= {name if name in MODULES or not within else within for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == "octavo"}
    return found


def below(name: str) -> set[str]:
    """The room itself and those that it may import."""
    level = next(i for i, rooms in enumerate(ROOMS) if name in rooms)
    return {name}.union(*ROOMS[level + 1 :])


def test_every_module_is_in_a_room() -> None:
    assert {room(module) for module in MODULES} - ROOT == {name for rooms in ROOMS for name in rooms} - {"_core"}


def test_modules_import_from_rooms_below_alone() -> None:
    upward = {m: {name for name in imports(m) if room(name) not in below(room(m))} for m in MODULES.keys() - ROOT}
    assert {m: names for m, names in upward.items() if names} == {}


def test_modules_import_the_compiled_core_only_where_listed() -> None:
    assert {m for m in MODULES.keys() - ROOT if "_core" in imports(m)} <= MAY_IMPORT_CORE


def test_modules_import_no_cycle() -> None:
    graph = {m: imports(m) & MODULES.keys() - {m} for m in MODULES if m not in ROOT}
    while graph:
        leaves = {m for m, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"cycle among {sorted(graph)}"
        graph = {m: needs for m, needs in graph.items() if m not in leaves}


def test_no_module_has_the_name_of_a_public_function() -> None:
    functions = {name for name in octavo.__all__ if callable(getattr(octavo, name))}
    assert not functions & {part for module in MODULES for part in module.split(".")}


def test_public_names_of_0_1_0_are_there_and_documented() -> None:
    assert set((DATA / "public_names_v0.1.0.txt").read_text().split()) <= set(octavo.__all__)
    for name in octavo.__all__:
        assert getattr(octavo, name).__doc__, name


def test_public_things_are_named_after_the_package() -> None:
    for name in octavo.__all__:
        thing = getattr(octavo, name)
        if isinstance(thing, type) or callable(thing):
            assert getattr(thing, "__module__", "octavo") == "octavo", name


@pytest.mark.parametrize("name", _pickles.PICKLED)
def test_pickled_name_is_found(name: str) -> None:
    thing = getattr(octavo, name)
    assert (thing.__module__, thing.__qualname__) == ("octavo", name)


def defined_in(path: Path) -> set[str]:
    """Names of the classes and functions of a file."""
    return {n.name for n in ast.parse(path.read_text()).body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}


def doctests(module: str) -> Iterator[doctest.DocTest]:
    """Those of a module. doctest's own search leaves out what names another module as its own, as public things do."""
    loaded = importlib.import_module(f"octavo.{module}" if module != "__init__" else "octavo")
    yield from doctest.DocTestFinder(recurse=False).find(loaded)
    for name in defined_in(MODULES[module]):
        yield from doctest.DocTestFinder().find(getattr(loaded, name), name, module=False, globs=vars(loaded).copy())


def examples_in(path: Path) -> int:
    """How many examples the docstrings of a file hold."""
    texts = [
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
    ]
    return sum(len(doctest.DocTestParser().get_examples(text)) for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("module", [m for m in MODULES if m != "__main__"])
def test_every_example_runs(module: str) -> None:
    runner = doctest.DocTestRunner()
    for test in doctests(module):
        runner.run(test)
    assert (runner.failures, runner.tries) == (0, examples_in(MODULES[module]))


# What importing octavo may import besides itself: NumPy, what NumPy imports, and these with what they import.
MAY_IMPORT = (
    "__future__",
    "numpy.typing",
    "dataclasses",
    "copy",
    "graphlib",
    "contextlib",
    "functools",
    "platform",
    "re",
)


@pytest.mark.slow
def test_import_brings_what_is_listed_alone() -> None:
    code = f"""
import sys, numpy
for name in {MAY_IMPORT}:
    __import__(name)
before = set(sys.modules)
import octavo
print(*sorted(name for name in set(sys.modules) - before if name.partition(".")[0] != "octavo"))
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []


def test_dir_of_the_package_has_public_names_alone() -> None:
    assert set(dir(octavo)) == {*octavo.__all__, "__version__", "checkpoints", "gguf", "qat"}
    for name in octavo.__all__:
        assert getattr(octavo, name) is getattr(octavo, name)  # also those that are imported at their first use


def test_package_holds_stubs_and_marker() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_core.pyi").exists()
