"""Layers with scaled inputs, epilogues and sorted inputs: in packed files, mapped, and in pickles of every protocol."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from format_fixtures import integers, powers
from models import random_array

X = random_array(5, 64, seed=3)
S = np.exp2(np.arange(64) % 5 - 2).astype(np.float32)


def layers() -> dict[str, Any]:
    w, b = random_array(24, 64), random_array(24, seed=1)
    eight = oc.QParams(0.05, 3, "uint8")
    plain = oc.QuantLinear(w, b, dtype="int4", group_size=32)
    static = oc.StaticQuantLinear(integers(24, 64), powers(24), b, input=eight, pre_quant_scale=S, name="static")
    return {
        "int8": oc.QuantLinear(w, b, pre_quant_scale=S, epilogue="gelu"),
        "int4": oc.QuantLinear(w, b, dtype="int4", group_size=32, pre_quant_scale=S, relu=True),
        "int16": oc.QuantLinear(w, b, activation="int16", pre_quant_scale=S, epilogue="silu"),
        "groups": oc.QuantLinear(w, None, dtype="int4", group_size=32, activation_group=64, epilogue="tanh"),
        "rotated": oc.QuantLinear(w, b, dtype="int4", group_size=32, rotation=64, pre_quant_scale=S),
        "static": static,
        "permuted": oc.PermutedQuantLinear(plain, np.arange(64)[::-1].copy()),
        "matrix": oc.QuantMatrix(w.T, pre_quant_scale=S),
    }


def results(found: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: X @ layer if name == "matrix" else layer(X) for name, layer in found.items()}


def assert_same(found: dict[str, Any]) -> None:
    expected = results(layers())
    for name, y in results(found).items():
        np.testing.assert_array_equal(y, expected[name], err_msg=name)
        assert repr(found[name]) == repr(layers()[name])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["canonical", "packed", "x86", "arm"])
def test_files_in_every_layout_give_the_same_layers(tmp_path: Path, layout: Any) -> None:
    path = tmp_path / "model.safetensors"
    oc.save(layers(), path, layout=layout)
    assert_same(oc.load(path))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_mapped_layers_and_of_copies_in_memory(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.safetensors"
    oc.save(layers(), path, layout="packed")
    mapped = oc.load(path, mmap="strict")
    assert_same(mapped)
    assert_same(pickle.loads(pickle.dumps(mapped, protocol)))
    with oc.pickle_by_reference(False):
        assert_same(pickle.loads(pickle.dumps(mapped, protocol)))
    assert_same(pickle.loads(pickle.dumps(layers(), protocol)))


def test_a_layer_under_a_permutation_is_not_taken_for_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    oc.save({"fc": oc.QuantLinear(random_array(24, 64))}, path, layout="packed")
    layer = oc.load(path, mmap=True)["fc"]
    turned = oc.PermutedQuantLinear(layer, np.arange(64)[::-1].copy())
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(turned))(X), layer(X[:, ::-1]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(turned.inner()))(X), layer(X))
