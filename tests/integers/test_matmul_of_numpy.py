"""NumPy's own tests of matmul, with octavo.matmul in its place and integers in the place of floats."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc

_CORE = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
_SPEC = importlib.util.find_spec(f"{_CORE}.tests.test_multiarray")
if _SPEC is None or _SPEC.origin is None:
    pytest.skip("this NumPy comes without its tests", allow_module_level=True)
_SOURCE = Path(_SPEC.origin).read_text()

# Tests that are not about integers, or not about values.
EXCLUDED = {
    "test_out_arg": "floats into complex, and a cast of floats that is refused",
    "test_dot_equivalent_matrix_matrix_blastypes": "floats and complex numbers",
    "test_matmul_object": "objects",
    "test_matmul_object_type_scalar": "objects",
    "test_matmul_empty": "objects",
    "test_matmul_exception_multiply": "objects",
    "test_matmul_exception_add": "objects",
}

SUBSTITUTIONS = [
    (r"\bnp\.matmul\b", "oc.matmul"),
    (r"dtype=float\b", "dtype=np.int64"),
    (r"np\.arange\((\d+)\.\)", r"np.arange(\1)"),
    (r"np\.zeros\(\(3, 0\)\)", "np.zeros((3, 0), dtype=np.int64)"),
    (r"np\.ones\(\((\d), 1, 1\)\)", r"np.ones((\1, 1, 1), dtype=np.int64)"),
    (r'types = "[^"]*"', 'types = "?bhilqBHILQ"'),
    (r"    matmul = oc\.matmul", "    matmul = staticmethod(oc.matmul)"),
]


def _classes(*names: str) -> dict[str, Any]:
    """Those classes of NumPy's module, by themselves and with the substitutions."""
    found = {node.name: node for node in ast.parse(_SOURCE).body if isinstance(node, ast.ClassDef)}
    scope: dict[str, Any] = {**vars(np.testing), "np": np, "oc": oc, "pytest": pytest, "itertools": itertools}
    scope["warnings"] = warnings
    for name in names:
        source = ast.get_source_segment(_SOURCE, found[name]) or ""
        for pattern, replacement in SUBSTITUTIONS:
            source = re.sub(pattern, replacement, source)
        exec(source, scope)
    return scope


TestMatmul = _classes("MatmulCommon", "TestMatmul")["TestMatmul"]
for _name in EXCLUDED:
    if hasattr(TestMatmul, _name):  # some are newer than the oldest NumPy
        delattr(TestMatmul, _name)


def test_substitution_leaves_tests_of_octavo() -> None:
    tests = {name for name in dir(TestMatmul) if name.startswith("test_")}
    assert tests >= {"test_exceptions", "test_shapes", "test_result_types", "test_scalar_output", "test_dot_equivalent"}
    assert tests >= {
        "test_matrix_matrix_values",
        "test_matmul_bool",
        "test_out_contiguous",
        "test_vector_matrix_values",
    }
    assert TestMatmul.matmul is oc.matmul
