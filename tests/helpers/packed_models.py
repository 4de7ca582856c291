"""A model with every kind of layer that files hold, and what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import octavo as oc

rng = np.random.default_rng(19)
W, B = (rng.standard_normal(shape, dtype=np.float32) for shape in ((70, 257), (70,)))
X = rng.standard_normal((9, 257), dtype=np.float32)


def weights(k: int = 257) -> np.ndarray:
    return W[:, :k]


def every_layer() -> dict[str, Any]:
    codes = oc.round_nearest(weights(256), group_size=32, symmetric=False)
    prepared = oc.prepare([oc.nn.Linear(W, B)], oc.default_qconfig, layers={oc.nn.Linear})
    prepared[0](X)
    return {
        "int8": oc.QuantLinear(W, B, relu=True),
        "int4": oc.QuantLinear(W, B, dtype="int4", group_size=32, scale_dtype="float16"),
        "zero points": oc.QuantLinear(W, dtype="int4", symmetric=False, activation="asymmetric"),
        "codes": oc.QuantLinear.from_grouped(codes, B, activation="int16"),
        "static": oc.convert(prepared)[0],
        "matrix": oc.QuantMatrix(W),
        "table": oc.QuantEmbedding(W, dtype="int4", group_size=64),
        "lstm": oc.QuantLSTM.from_float(oc.nn.LSTM.init(7, 5, rng=np.random.default_rng(0))),
        "norm": B,
    }


def results(m: dict[str, Any]) -> list[np.ndarray]:
    found = [m[name](X[:, : m[name].in_features]) for name in ("int8", "int4", "zero points", "codes", "static")]
    found = [getattr(y, "q", y) if not isinstance(y, oc.QuantizedArray) else y.int_repr() for y in found]
    return [*found, m["matrix"] @ X.T, m["table"]([3, 0]), m["lstm"](X[:, None, :7])[0], m["norm"]]


def assert_equal(m: dict[str, Any], n: dict[str, Any]) -> None:
    for y, z in zip(results(m), results(n), strict=True):
        np.testing.assert_array_equal(y, z)


def products(m: dict[str, Any]) -> Iterator[Any]:
    """The compiled layers of a model."""
    yield from (m[name]._packed for name in ("int8", "int4", "zero points", "codes", "static"))
    yield m["matrix"]._layer._packed
    yield from (layer._packed for layer in m["lstm"]._layers.values())
