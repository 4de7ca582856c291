"""What one feature must know of another: nothing is dropped without a word where they meet."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from models import random_array
from octavo._quantize import building

W, B = random_array(96, 64), random_array(96, seed=1)
X = random_array(3, 64, seed=2)
S = np.exp2(np.arange(64) % 3).astype(np.float32)


class Dense:
    def __init__(self) -> None:
        self.W = W.copy()

    def apply(self, x: np.ndarray) -> np.ndarray:
        return x @ self.W.T


class Doubling(oc.QuantLinear):
    __slots__ = ()


@pytest.mark.parametrize(
    "options", [{"epilogue": "gelu"}, {"pre_quant_scale": S}, {"rotation": 32}, {"relu": True}], ids=list
)
def test_checkpoints_refuse_what_they_cannot_hold(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no place for"):
        oc.checkpoints.save({"fc": oc.QuantLinear(W, B, **options)}, tmp_path / "out", config={})


@pytest.mark.parametrize("kind", ["relu", "gelu", "permuted", "rotation"])
def test_gguf_refuses_what_it_cannot_hold(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    weight = oc.round_nearest(W, group_size=32, scale_dtype="float16")
    epilogue: Any = kind if kind in ("relu", "gelu") else None
    rotation = 32 if kind == "rotation" else None
    layer = oc.QuantLinear.from_grouped(weight, activation_group=32, epilogue=epilogue, rotation=rotation)
    if kind == "permuted":
        layer = oc.PermutedQuantLinear(layer, np.arange(64)[::-1].copy())
    with pytest.raises(ValueError, match="GGUF has no place for"):
        oc.gguf.save({"fc": layer}, tmp_path / "x.gguf")


@pytest.mark.parametrize("layout", ["canonical", "packed"])
@pytest.mark.parametrize("bias", [None, B], ids=["no bias", "bias"])
def test_a_layer_with_an_epilogue_is_no_matrix(tmp_path: Path, layout: Any, bias: Any) -> None:
    path = tmp_path / "model.safetensors"
    oc.save({"fc": oc.QuantLinear(W, bias, epilogue="gelu")}, path, layout=layout)
    model = {"fc.weight": W.copy()} | ({} if bias is None else {"fc.bias": B.copy()})
    with pytest.raises(ValueError, match="fc"):
        oc.load(path, model, mmap=layout == "packed")


def test_static_matrices_are_neither_split_nor_joined() -> None:
    static = oc.StaticQuantLinear(np.ones((4, 8), np.int8), 1.0, input=oc.QParams(0.5, 3, "uint8"))
    matrix = oc.QuantMatrix._made(static, 1)
    with pytest.raises(TypeError, match="must not be static"):
        oc.split(matrix, 2)
    with pytest.raises(TypeError, match="must not be static"):
        oc.concatenate([matrix, matrix])


def test_matrices_of_permuted_layers_are_neither_split_nor_joined() -> None:
    matrix = oc.QuantMatrix._made(oc.PermutedQuantLinear(oc.QuantLinear(W), np.arange(W.shape[1])), 1)
    with pytest.raises(TypeError, match="whole must hold plain QuantLinear layers, got PermutedQuantLinear"):
        oc.split(matrix, 2)
    with pytest.raises(TypeError, match="parts must hold plain QuantLinear layers, got PermutedQuantLinear"):
        oc.concatenate([matrix, matrix])


def test_a_pickle_of_a_mapped_layer_keeps_the_name_that_the_model_calls_it_by(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    oc.save({"fc": oc.QuantLinear(W)}, path, layout="packed")
    model: Any = oc.load(path, {"fc": Dense()}, mmap=True)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))["fc"].apply(X), oc.QuantLinear(W)(X))


def test_a_file_that_was_written_anew_is_not_referred_to(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    oc.save({"fc": oc.QuantLinear(W)}, path, layout="packed")
    model = oc.load(path, mmap=True)
    oc.save({**model, "step": np.arange(2)}, path, layout="packed")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))["fc"](X), oc.QuantLinear(W)(X))


def test_a_model_with_bound_methods_is_changed_in_place_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = Dense()
    model: Any = {"dense": dense, "steps": [dense.apply]}

    def fail(hollow: Any, quantized: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(building, "fill", fail)  # what replaces layers one by one
    oc.quantize_dynamic(model, {Dense: oc.LayerSpec(weight="W", bias=None, call="apply")}, inplace=True)
    np.testing.assert_array_equal(model["steps"][0](X), oc.QuantLinear(W)(X))


def test_subclasses_of_layers_are_not_pickled_as_what_they_are_not() -> None:
    with pytest.raises(TypeError, match="a Doubling would be restored as a plain layer"):
        pickle.dumps(Doubling(W))


@pytest.mark.parametrize("options", [{"symmetric": False}, {"scale_dtype": "float16"}], ids=list)
def test_candidates_refuse_options_of_another_type(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="are for int4 candidates"):
        oc.Candidate(dtype="int8", **options)
