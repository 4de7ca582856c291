"""Small models of plain classes, for the tests of quantize_dynamic."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import octavo as oc
from octavo._models.walk import walk

F = np.float32


class Precious(np.ndarray):
    """An array that must not be copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Precious:
        raise AssertionError("float weights were copied")

    def copy(self, *args: Any) -> Precious:
        raise AssertionError("float weights were copied")


def random_array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=F)


class Dense:
    """y = x W^T + b. Its weights must never be copied."""

    def __init__(self, fan_in: int = 4, fan_out: int = 3, seed: int = 0) -> None:
        self.weight = random_array(fan_out, fan_in, seed=seed).view(Precious)
        self.bias = random_array(fan_out, seed=seed + 1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x @ self.weight.T + self.bias)


class Model:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


class SlottedModel:
    __slots__ = ("fc",)

    def __init__(self, fc: Any) -> None:
        self.fc = fc


@dataclass(frozen=True)
class FrozenModel:
    fc: Any


Pair = namedtuple("Pair", ["fc", "rest"])


def layer_class(call: str = "__call__", **methods: Any) -> type:
    """A class with W (in, out) and b whose `call` is x W + b, and other methods."""

    def compute(self: Any, x: np.ndarray) -> np.ndarray:
        return x @ self.W + self.b

    def init(self: Any, fan_in: int = 4, fan_out: int = 3) -> None:
        self.W, self.b = random_array(fan_in, fan_out), random_array(fan_out, seed=1)

    return type("Layer", (), {"__init__": init, call: compute} | methods)


def one_layer(equation: Callable[[Any, np.ndarray], Any], **arrays: Any) -> Any:
    """A layer of a class of its own: __call__ is the equation, the arrays are its attributes."""
    layer = type("Layer", (), {"__call__": equation})()
    vars(layer).update(arrays)
    return layer


def identity_of(model: Any) -> list[tuple[str, int]]:
    """Which object is where, arrays included."""
    return [(path, id(value)) for path, value in walk(model)]


def count(model: Any, cls: type) -> int:
    return sum(type(value) is cls for _, value in walk(model))


def filled(stored: Any, model: Any, tmp_path: Path, **options: Any) -> Any:
    """The model, filled from a file of `stored`."""
    oc.save(stored, tmp_path / "x")
    return oc.load(tmp_path / "x", model, **options)
