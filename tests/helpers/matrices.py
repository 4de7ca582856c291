"""A matrix, its quantized forms, and what they are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np

import octavo as oc

F = np.float32
rng = np.random.default_rng(0)
W = rng.standard_normal((70, 50), dtype=F)
X = rng.standard_normal((6, 70), dtype=F)

MATRICES = {
    "int8 columns": {},
    "int8 rows": {"axis": 0},
    "int4 columns": {"dtype": "int4", "group_size": 32},
    "int4 rows": {"dtype": "int4", "group_size": 32, "axis": 0, "symmetric": False},
    "asymmetric": {"activation": "asymmetric"},
    "int4 float16": {"dtype": "int4", "group_size": None, "scale_dtype": "float16"},
}


def layer_of(w: np.ndarray, options: dict[str, Any]) -> oc.QuantLinear:
    """x @ Q as a layer, for a matrix with one scale a column."""
    return oc.QuantLinear(w.T, **{k: v for k, v in options.items() if k != "axis"})


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
