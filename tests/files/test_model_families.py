"""Checkpoints in the naming of real model families, in one file and in several: converted, they fill a NumPy model.

The models are the plainest there can be: their layers are classes of this file, built with other numbers than those of
the checkpoint. Each layer then gives what octavo's own class gives for the checkpoint's weights, to the bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import octavo as oc
from checkpoints import random, write_shards
from model_families import FAMILIES, Part
from octavo._files.choice import Choice
from octavo._files.conversion import Conversion, quantize_checkpoint

F = np.float32


class Linear:
    def __init__(self, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Conv1D:
    """GPT-2's."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight + self.bias


class Table:
    def __init__(self, weight: np.ndarray) -> None:
        self.weight = weight

    def __call__(self, ids: Any) -> np.ndarray:
        return self.weight[ids]


def built(part: Part, arrays: dict[str, np.ndarray]) -> Any:
    """What a NumPy model holds for a part."""
    values = list(arrays.values())
    if part.kind in ("linear", "conv1d", "table"):
        return {"linear": Linear, "conv1d": Conv1D, "table": Table}[part.kind](*values)
    if part.kind == "lstm":
        return oc.nn.LSTM(arrays, prefix=f"{part.name}.")
    if part.kind == "convolution":
        return values[0][:, :, 0, 0]
    return list(values[0]) if part.kind == "experts" else values[0]


def model_of(parts: dict[str, Any]) -> Any:
    """Objects in dicts and lists, as their names say: blocks.0.fc is model["blocks"][0]["fc"]."""
    tree: dict[str, Any] = {}
    for name, value in parts.items():
        *holders, last = name.split(".")
        inner = tree
        for holder in holders:
            inner = inner.setdefault(holder, {})
        inner[last] = value

    def listed(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        numbered = node and all(key.isdecimal() for key in node)
        values = {key: listed(value) for key, value in node.items()}
        if not numbered:
            return values
        found: list[Any] = [None] * (max(map(int, node)) + 1)
        for key, value in values.items():
            found[int(key)] = value
        return found

    return listed(tree)


def at(model: Any, name: str) -> Any:
    for key in name.split("."):
        model = model[int(key) if isinstance(model, list) else key]
    return model


def converted(name: str, folder: Path, count: int) -> tuple[list[Part], Conversion]:
    """The family's checkpoint in that many files, converted to folder/out."""
    parts = list(FAMILIES[name]())
    floats = {k: v for i, part in enumerate(parts) for k, v in part.arrays(100 * i).items()}
    source = folder / "in.safetensors"
    if count > 1:
        source = write_shards(folder / "in", floats, count)
    else:
        save_file(floats, source)
    choice = Choice(layout="in_out") if any(part.kind == "conv1d" for part in parts) else Choice()
    return parts, quantize_checkpoint(source, folder / ("out" if count > 1 else "out.safetensors"), choice=choice)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3], ids=["one file", "three files"])
@pytest.mark.parametrize("name", FAMILIES)
def test_converted_family_fills_a_numpy_model(name: str, count: int, tmp_path: Path) -> None:
    parts, _ = converted(name, tmp_path, count)
    model = model_of({part.name: built(part, part.arrays(1000 + i)) for i, part in enumerate(parts)})
    filled = oc.load(tmp_path / ("out" if count > 1 else "out.safetensors"), model)
    for i, part in enumerate(parts):
        check(part, at(filled, part.name), part.arrays(100 * i))


def check(part: Part, found: Any, arrays: dict[str, np.ndarray]) -> None:
    """The filled layer gives what octavo's class gives, to the bit, and nearly the float result."""
    weight, *rest = arrays.values()
    if part.kind == "array":
        assert found.tobytes() == weight.tobytes()
        return
    original = built(part, arrays)
    if part.kind == "table":
        ids = np.arange(len(weight))[::-1]
        assert type(found) is oc.QuantEmbedding
        same(found(ids), oc.QuantEmbedding(weight)(ids), original(ids))
    elif part.kind == "lstm":
        x = random(5, 2, weight.shape[1])
        assert type(found) is oc.QuantLSTM
        same(found(x)[0], oc.QuantLSTM(arrays, prefix=f"{part.name}.")(x)[0], original(x)[0])
    elif part.kind in ("linear", "conv1d"):
        w = weight.T if part.kind == "conv1d" else weight
        x = random(5, w.shape[1])
        assert type(found) is oc.QuantLinear
        same(found(x), oc.QuantLinear(w, *rest)(x), original(x))
    else:
        for w, matrix in zip(original, found, strict=True) if part.kind == "experts" else [(original, found)]:
            x = random(5, w.shape[1])
            assert type(matrix) is oc.QuantMatrix
            same(x @ matrix.T, x @ oc.QuantMatrix(w, axis=0).T, x @ w.T)


def same(found: np.ndarray, expected: np.ndarray, exact: np.ndarray) -> None:
    assert found.tobytes() == expected.tobytes()
    assert np.linalg.norm(found - exact) <= 0.02 * np.linalg.norm(exact)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_family_in_several_files_holds_what_one_file_holds(name: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    _, one = converted(name, tmp_path / "one", 1)
    _, many = converted(name, tmp_path / "many", 3)
    assert sorted(many.layers) == sorted(one.layers)
    assert dict(many.skipped) == dict(one.skipped)
    whole, parts = oc.load(tmp_path / "one" / "out.safetensors"), oc.load(tmp_path / "many" / "out")
    assert {key: repr(value) for key, value in parts.items()} == {key: repr(value) for key, value in whole.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_family_converted_to_arrays_fills_a_dict_of_arrays(name: str, tmp_path: Path) -> None:
    parts = list(FAMILIES[name]())
    kinds = {tensor: part.kind for part in parts for tensor in part.shapes}
    floats = {k: v for i, part in enumerate(parts) for k, v in part.arrays(100 * i).items()}
    save_file(floats, tmp_path / "in")
    layout = "in_out" if "conv1d" in kinds.values() else None
    quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(arrays=True, layout=layout))
    model = {key: np.zeros_like(a[:, :, 0, 0] if kinds[key] == "convolution" else a) for key, a in floats.items()}
    filled = oc.load(tmp_path / "out", model)
    assert filled.keys() == floats.keys()
    for key, w in floats.items():
        found, kind = filled[key], kinds[key]
        if kind == "experts":
            for e, expert in enumerate(w):
                same_products(found[e], expert, axis=0)
        elif kind == "convolution":
            same_products(found, w[:, :, 0, 0], axis=0)
        elif w.ndim == 2:
            same_products(found, w, axis=1 if kind == "conv1d" else 0)
        else:
            assert found.tobytes() == w.tobytes()


def same_products(found: Any, w: np.ndarray, axis: int) -> None:
    assert type(found) is oc.QuantMatrix
    turned, w = (found.T, w.T) if axis == 0 else (found, w)
    x = random(3, w.shape[0])
    same(x @ turned, x @ oc.QuantMatrix(w), x @ w)
