"""A small model of octavo's layers, its data, and how it is prepared: for the tests of static quantization."""

from __future__ import annotations

from typing import Any

import numpy as np

import octavo as oc

F = np.float32
LINEAR = {oc.nn.Linear}


def mlp(seed: int = 0) -> oc.nn.Sequential:
    rng = np.random.default_rng(seed)
    layers = [oc.nn.Linear.init(*size, rng=rng) for size in [(6, 16), (16, 16), (16, 3)]]
    return oc.nn.Sequential(layers[0], oc.nn.ReLU(), layers[1], oc.nn.ReLU(), layers[2])


def data(m: int = 32, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((m, 6)).astype(F)


def prepare(model: Any, **options: Any) -> Any:
    return oc.prepare(model, oc.default_qconfig, layers=LINEAR, **options)
