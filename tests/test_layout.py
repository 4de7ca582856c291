"""The rules of docs/design.md that no other test would notice being broken: who imports whom, and what import costs."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import octavo

PACKAGE = Path(octavo.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

MAY_IMPORT_CORE = {"fake_quant", "ops", "linear", "recurrent", "runtime"}
NUMPY_ALONE = {
    "arguments": {"qparams"},
    "qparams": set(),
    "quantize": {"qparams"},
    "int4": set(),
    "rounding": {"int4", "qparams"},
    "watched": set(),
    "gptq": {"int4", "qparams", "rounding"},
    "nn": {
        "nn_recurrent",
        "recurrent_layer",
        "qparams",
        "qat_ops",
    },  # qat_ops for values that autograd is differentiating
    "nn_recurrent": {"recurrent_layer"},
    "recurrent_layer": {"qparams"},
    "gates": set(),
    "counterparts": set(),
    "holders": set(),
    "tree": {"holders"},
    "qarray": {"qparams", "quantize"},
    "standin": {"qarray"},
    "tracing": {"qarray"},
    "observers": {"qparams"},
    "observers_minmax": {"observers", "qparams"},
    "histogram": {"qparams"},
    "observers_histogram": {"histogram", "observers", "qparams"},
    "qconfig": {"observers", "observers_minmax", "paths"},
    "paths": set(),
    "einsum": set(),
    "timing": set(),
    "progress": set(),
    "checkpoint": set(),
    "places": {"holders", "tree"},
}


def imports(module: str) -> set[str]:
    """Modules of octavo that a module imports, at the top or inside functions; "octavo" for the package itself."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "octavo":
            found |= {node.module.split(".")[1]} if "." in node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level > 0:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.partition(".")[2] or "octavo" for alias in node.names if alias.name.startswith("octavo")
            }
    return found


@pytest.mark.parametrize("module", MODULES)
def test_core_is_imported_by_the_few(module: str) -> None:
    assert "_core" not in imports(module) or module in MAY_IMPORT_CORE


@pytest.mark.parametrize("module", NUMPY_ALONE)
def test_definitions_need_numpy_alone(module: str) -> None:
    assert imports(module) <= NUMPY_ALONE[module]


def test_modules_import_no_cycle() -> None:
    graph = {m: imports(m) & set(MODULES) for m in MODULES if m != "__init__"}
    while graph:
        leaves = {m for m, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"cycle among {sorted(graph)}"
        graph = {m: needs for m, needs in graph.items() if m not in leaves}


@pytest.mark.parametrize("module", [m for m in MODULES if m != "__init__"])
def test_doctests_run(module: str) -> None:
    # import_module, because octavo.quantize is also the function of that name
    result = doctest.testmod(importlib.import_module(f"octavo.{module}"))
    assert result.failed == 0


def test_public_names_exist_and_are_documented() -> None:
    for name in octavo.__all__:
        assert getattr(octavo, name).__doc__, name


def test_import_brings_no_heavy_module() -> None:
    code = "import sys, octavo; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"sklearn", "scipy", "matplotlib", "tqdm", "safetensors", "torch", "onnx", "argparse", "autograd"}
    assert not heavy & set(loaded)


def test_package_holds_stubs_and_marker() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_core.pyi").exists()
    assert {m.name for m in pkgutil.iter_modules([str(PACKAGE)])} >= {"_core"}
