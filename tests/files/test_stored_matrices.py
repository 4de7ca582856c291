"""save and load of models that hold QuantMatrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from pickle_fixtures import contents

F = np.float32
rng = np.random.default_rng(0)
W = rng.standard_normal((70, 50), dtype=F)

MATRICES = {
    "int8": {},
    "rows": {"axis": 0, "activation": "asymmetric"},
    "int4": {"dtype": "int4", "group_size": 64, "symmetric": False, "scale_dtype": "float16"},
    "int4 rows": {"dtype": "int4", "group_size": None, "axis": 0},
}


@pytest.mark.parametrize("name", MATRICES)
def test_matrix_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    q = oc.QuantMatrix(W, **MATRICES[name])
    oc.save({"blocks": [{"w": q}], "b": W[0]}, tmp_path / "x")
    found = oc.load(tmp_path / "x")
    assert found.keys() == {"blocks.0.w", "b"}
    assert contents(found["blocks.0.w"]) == contents(q)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1)])
def test_empty_and_thin_matrices_come_back(shape: tuple[int, int], tmp_path: Path) -> None:
    oc.save([oc.QuantMatrix(np.ones(shape, F))], tmp_path / "x")
    assert oc.load(tmp_path / "x")["0"].shape == shape


@pytest.mark.parametrize("place", ["float", "quantized", "nothing"])
def test_matrices_fill_the_model(place: str, tmp_path: Path) -> None:
    x = rng.standard_normal((3, 70), dtype=F)
    shared = oc.QuantMatrix(W)
    oc.save({"w": shared, "again": (shared,)}, tmp_path / "x")
    old: Any = {"float": W, "quantized": oc.QuantMatrix(np.zeros((70, 50), F)), "nothing": None}[place]
    model = oc.load(tmp_path / "x", {"w": old, "again": (old,)})
    assert model["w"] is model["again"][0]
    np.testing.assert_array_equal(x @ model["w"], x @ shared)


@pytest.mark.parametrize("old", [W.T, oc.QuantMatrix(W.T), oc.QuantMatrix(W.T, axis=0)], ids=["float", "int8", "rows"])
def test_matrix_of_another_shape_does_not_fit(old: Any, tmp_path: Path) -> None:
    oc.save({"w": oc.QuantMatrix(W)}, tmp_path / "x")
    model = {"w": old}
    message = r"w: the model has an? \w+ of shape \(50, 70\), the file a QuantMatrix of shape \(70, 50\)"
    with pytest.raises(ValueError, match=message):
        oc.load(tmp_path / "x", model)
    assert model["w"] is old
