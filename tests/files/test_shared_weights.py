"""One array held by several layers: one packed weight, one set of tensors in files, true sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import octavo as oc
from models import Model, random_array

rng = np.random.default_rng(0)
W, B = rng.standard_normal((256, 256), dtype=np.float32), rng.standard_normal(256, dtype=np.float32)
X = rng.standard_normal((3, 256), dtype=np.float32)


def packed_in(layers: list[oc.QuantLinear]) -> int:
    return len({id(layer._packed) for layer in layers})


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("inplace", [False, True])
def test_layers_of_one_array_share_their_integers(dtype: str, inplace: bool) -> None:
    reports: list[oc.QuantizationReport] = []
    model = oc.nn.Sequential(*(oc.nn.Linear(W, B) for _ in range(12)))
    quantized = oc.quantize_dynamic(model, {oc.nn.Linear}, dtype, report=reports.append, inplace=inplace)
    assert packed_in(quantized.layers) == 1
    assert len({id(layer) for layer in quantized.layers}) == 12  # as there were 12
    one = oc.QuantLinear(W, B, dtype=dtype)
    np.testing.assert_array_equal(quantized[7](X), one(X))
    entries = reports[0].entries
    assert sum(entry.bytes_before for entry in entries) == W.nbytes + B.nbytes
    assert sum(entry.bytes_after for entry in entries) == one.nbytes


def test_layers_that_differ_in_anything_do_not_share() -> None:
    spec = oc.LayerSpec(activation=None)
    layers = [oc.nn.Linear(W), oc.nn.Linear(W, B), oc.nn.Linear(W.copy()), oc.nn.Linear(W.T)]
    quantized = oc.quantize_dynamic(layers, {oc.nn.Linear: spec})
    assert packed_in(quantized) == 4
    for layer, new in zip(layers, quantized, strict=True):
        np.testing.assert_array_equal(new(X), oc.QuantLinear(layer.weight, layer.bias)(X))


class Lists:
    """Its weights are lists of numbers."""

    def __init__(self, number: int) -> None:
        self.weight, self.bias = random_array(7, 256, seed=number).tolist(), [float(number)] * 7

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ np.asarray(self.weight, np.float32).T + np.asarray(self.bias, np.float32)


class ListBias(Lists):
    """Its weight is one for all, and its bias a list."""

    def __init__(self, number: int) -> None:
        self.weight, self.bias = W, [float(number)] * 256


class Seeded(Lists):
    """Its weight is made anew at each use."""

    bias = None

    def __init__(self, number: int) -> None:
        self.seed = number

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight.T

    @property
    def weight(self) -> np.ndarray:
        return random_array(7, 256, seed=self.seed)


class Scaled(Seeded):
    """Its weight is a multiple of one array for all."""

    def __init__(self, number: int) -> None:
        self.base, self.factor = W, number + 1

    @property
    def weight(self) -> np.ndarray:
        return self.base * np.float32(self.factor)


class Closure(Seeded):
    """Its weight is the result of a function, in slots."""

    __slots__ = ("make",)

    def __init__(self, number: int) -> None:
        array = random_array(7, 256, seed=number)
        self.make = lambda: array

    @property
    def weight(self) -> np.ndarray:
        return self.make()


class Viewed(Seeded):
    """Its weight depends on the type of the array that it holds."""

    def __init__(self, number: int) -> None:
        self.held = W.view(Doubled) if number else W

    @property
    def weight(self) -> np.ndarray:
        return np.asarray(self.held) * np.float32(2 if isinstance(self.held, Doubled) else 1)


class Doubled(np.ndarray):
    """Memory of one array, another type."""


@pytest.mark.parametrize("inplace", [False, True], ids=["copy", "inplace"])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("cls", [Lists, ListBias, Seeded, Scaled, Closure, Viewed])
def test_layers_whose_weights_are_not_arrays_of_their_own_keep_their_numbers(
    cls: type[Lists], dtype: str, inplace: bool
) -> None:
    model = [cls(0), cls(1)]
    expected = [oc.QuantLinear(layer.weight, layer.bias, dtype=dtype)(X) for layer in model]
    quantized = oc.quantize_dynamic(model, {cls}, dtype, inplace=inplace)
    assert not np.array_equal(*expected)
    for new, y in zip(quantized, expected, strict=True):
        np.testing.assert_array_equal(new(X), y)


@pytest.mark.slow
def test_calibrated_layers_have_weights_of_their_own() -> None:
    model = oc.nn.Sequential(oc.nn.Linear(W), oc.nn.ReLU(), oc.nn.Linear(W))
    options = {"calibration": [X], "rounding": "gptq", "group_size": 32}
    quantized = oc.quantize_dynamic(model, {oc.nn.Linear}, "int4", **options)
    assert packed_in([quantized[0], quantized[2]]) == 2


def test_shared_layers_are_stored_once_and_come_back_shared(tmp_path: Path) -> None:
    block = Model(fc=oc.nn.Linear(W, B), other=oc.nn.Linear(W))
    model = Model(first=oc.nn.Linear(W, B), again=[oc.nn.Linear(W), block], block=block)
    quantized = oc.quantize_dynamic(model, {oc.nn.Linear})
    oc.save(quantized, tmp_path / "x")
    assert sorted(load_file(tmp_path / "x")) == [
        "again.0.scale", "again.0.weight", "first.bias", "first.scale", "first.weight",
    ]  # fmt: skip
    found = oc.load(tmp_path / "x")
    assert set(found) == {"first", "again.0", "again.1.fc", "again.1.other", "block.fc", "block.other"}
    filled = oc.load(tmp_path / "x", model)
    layers = [filled.first, filled.again[0], filled.block.fc, filled.block.other]
    assert packed_in(layers) == 2
    np.testing.assert_array_equal(filled.block.fc(X), quantized.first(X))
    np.testing.assert_array_equal(filled.block.other(X), quantized.again[0](X))
    assert filled.again[1] is filled.block
    oc.save(filled, tmp_path / "y")
    assert load_file(tmp_path / "y").keys() == load_file(tmp_path / "x").keys()


def test_one_array_of_a_float_model_is_stored_once(tmp_path: Path) -> None:
    oc.save(oc.nn.Sequential(oc.nn.Linear(W), oc.nn.Linear(W)), tmp_path / "x")
    assert list(load_file(tmp_path / "x")) == ["layers.0.weight"]
