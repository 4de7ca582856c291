"""Embedding and QuantEmbedding: rows against the integers and scales that stand for them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo import nn
from octavo._numerics.rounding import round_nearest, round_search

F = np.float32
W = np.random.default_rng(0).standard_normal((50, 37)).astype(F)
IDS = np.array([[3, 49, 0], [3, 3, 17]])
OPTIONS: dict[str, dict[str, Any]] = {
    "int8": {},
    "int4": {"dtype": "int4"},
    "int4-groups": {"dtype": "int4", "group_size": 16},
    "int4-affine-float16": {"dtype": "int4", "group_size": 8, "symmetric": False, "scale_dtype": "float16"},
    "int4-nearest": {"dtype": "int4", "rounding": "nearest"},
}
EACH = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def test_embedding_is_a_lookup() -> None:
    layer = nn.Embedding(W)
    assert layer.weight is W
    np.testing.assert_array_equal(layer(IDS), W[IDS])
    assert layer([]).shape == (0, 37)
    assert nn.Embedding.init(4, 3, rng=np.random.default_rng(0)).weight.shape == (4, 3)


def test_int8_rows_are_within_half_a_step() -> None:
    layer = oc.QuantEmbedding(W)
    y = layer(IDS)
    assert y.dtype == F
    step = np.abs(W).max(axis=1, keepdims=True) / 127
    assert (np.abs(y - W[IDS]) <= 0.5001 * step[IDS]).all()
    np.testing.assert_array_equal(y, (layer.int_repr() * (np.abs(W).max(axis=1) / F(127))[:, None])[IDS])
    assert layer.nbytes == 50 * 37 + 50 * 4


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "int8"])
def test_int4_rows_are_those_of_the_rounded_weight(name: str) -> None:
    options = {key: value for key, value in OPTIONS[name].items() if key not in ("dtype", "rounding")}
    round_weight = round_nearest if name == "int4-nearest" else round_search
    grouped = round_weight(W, **{"group_size": None, **options})
    layer = oc.QuantEmbedding(W, **OPTIONS[name])
    np.testing.assert_array_equal(layer(IDS), grouped.dequantize()[IDS])
    np.testing.assert_array_equal(layer.int_repr(), grouped.q)
    assert layer.nbytes < 50 * 37


@EACH
def test_every_index_form_gives_rows_of_the_whole(options: dict[str, Any]) -> None:
    layer = oc.QuantEmbedding(W, **options)
    whole = layer.weight
    assert whole.shape == W.shape
    assert not whole.flags.writeable
    for ids in (IDS, 7, [1, 2], np.uint8([49]), np.zeros((0, 2), int), IDS.T, IDS.astype(np.int16)):
        np.testing.assert_array_equal(layer(ids), whole[np.asarray(ids)])
    assert layer([]).shape == (0, 37)
    np.testing.assert_array_equal(layer.forward(IDS), whole[IDS])


@EACH
def test_pickles_and_copies_keep_every_bit(options: dict[str, Any]) -> None:
    layer = oc.QuantEmbedding(W, **options)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        np.testing.assert_array_equal(other.weight, layer.weight)
        assert repr(other) == repr(layer)
    restore, (state,) = layer.__reduce__()
    with pytest.raises(ValueError, match="pickled with format 5"):
        restore(state | {"version": 5})


@pytest.mark.parametrize("layer", [nn.Embedding(W), oc.QuantEmbedding(W)], ids=["float", "quantized"])
def test_call_refuses(layer: Any) -> None:
    for ids, error, message in (
        ([1.0], TypeError, "ids must be integers, got dtype float64"),
        ([True], TypeError, "ids must be integers, got dtype bool"),
        ([[0, -1]], IndexError, r"ids must be from 0 to 49, got -1 at index \(0, 1\)"),
        ([50], IndexError, r"ids must be from 0 to 49, got 50 at index \(0,\)"),
    ):
        with pytest.raises(error, match=message):
            layer(ids)


@pytest.mark.parametrize(
    ("weight", "options", "error", "message"),
    [
        (np.ones(3), {}, ValueError, r"weight must be 2-D \(num_embeddings, embedding_dim\), got shape \(3,\)"),
        (np.ones((2, 2), complex), {}, TypeError, "weight must hold real numbers"),
        (np.ma.ones((2, 2)), {}, TypeError, "weight must not be a masked array"),
        ([[np.nan]], {}, ValueError, "finite|nan"),
        (W, {"group_size": 8}, ValueError, "group_size"),
        (W, {"dtype": "uint8"}, ValueError, "dtype"),
        (W, {"dtype": "int4", "group_size": 0}, ValueError, "group_size"),
    ],
)
def test_quant_embedding_refuses(weight: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        oc.QuantEmbedding(weight, **options)


def test_float_embedding_refuses() -> None:
    with pytest.raises(ValueError, match=r"weight must be 2-D"):
        nn.Embedding(np.ones(3))
    with pytest.raises(ValueError, match=r"sizes must be at least 0, got num_embeddings=-1"):
        nn.Embedding.init(-1, 3)
    with pytest.raises(TypeError, match="must have a weight"):
        oc.QuantEmbedding.from_float(object())
