"""`PermutedQuantLinear`: groups of inputs that do not lie side by side."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

import octavo as oc
from grouped_weights import make_codes
from octavo._files.header import parse_json
from octavo._files.safetensors import Reader
from reference import assert_same_bits

F = np.float32


@pytest.fixture
def layer() -> oc.PermutedQuantLinear:
    inner = oc.QuantLinear.from_grouped(make_codes(9, 64, "zero point"), np.arange(9, dtype=F))
    return oc.PermutedQuantLinear(inner, np.random.default_rng(0).permutation(64))


def test_call_permutes_x(layer: oc.PermutedQuantLinear) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 64), dtype=F)
    expected = layer.inner()(x[..., layer.permutation])
    assert_same_bits(layer(x), expected)
    assert_same_bits(layer.forward(x), expected)
    out = np.empty((2, 3, 9), F)
    assert layer(x, out) is out
    assert_same_bits(out, expected)
    assert layer(x.astype(np.float16)).dtype == np.float16
    with pytest.raises(ValueError, match="64"):
        layer(x[..., 1:])


def test_weight_has_the_order_of_x(layer: oc.PermutedQuantLinear) -> None:
    inner = layer.inner()
    assert_same_bits(layer.weight[:, layer.permutation], inner.weight)
    np.testing.assert_array_equal(layer.int_repr()[:, layer.permutation], inner.int_repr())
    assert_same_bits(layer._weight_rows(np.array([2, 0])), layer.weight[[2, 0]])
    assert_same_bits(layer._weight_columns(np.array([5, 0])), layer.weight.T[[5, 0]])
    assert repr(layer).endswith("bias, permuted)")


def test_copies_pickles_and_files_are_equal(layer: oc.PermutedQuantLinear, tmp_path: Path) -> None:
    oc.save({"fc": layer}, tmp_path / "x.safetensors")
    with Reader(tmp_path / "x.safetensors") as reader:
        assert parse_json(reader.metadata["octavo"], "header")["features"] == ["grouped", "permuted"]
    loaded = oc.load(tmp_path / "x.safetensors")["fc"]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert type(other) is oc.PermutedQuantLinear
        assert_same_bits(other.weight, layer.weight)
        np.testing.assert_array_equal(other.bias, layer.bias)


def test_wrong_permutations_are_refused(layer: oc.PermutedQuantLinear) -> None:
    inner = layer.inner()
    with pytest.raises(ValueError, match=r"each of 0\.\.63 once"):
        oc.PermutedQuantLinear(inner, np.zeros(64, int))
    with pytest.raises(ValueError, match=r"each of 0\.\.63 once"):
        oc.PermutedQuantLinear(inner, np.arange(63))
    with pytest.raises(TypeError, match="integers"):
        oc.PermutedQuantLinear(inner, np.arange(64.0))
    with pytest.raises(TypeError, match="QuantLinear"):
        oc.PermutedQuantLinear(layer, np.arange(64))
    with pytest.raises(TypeError, match="make a QuantLinear"):
        oc.PermutedQuantLinear.from_grouped(inner.grouped())
    with pytest.raises(TypeError, match="got PermutedQuantLinear"):
        oc.concatenate([layer, layer])
