"""Scales of a layer's inputs: the bits of the definition on every kernel, what the layer says of itself, bad ones."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._numerics.input_scale import input_factors, scaled_inputs, scaled_weight
from reference import FORMS, F, assert_same_bits, hard_rows

STATIC = oc.QParams(0.05, 3, "uint8")


def random_scale(k: int, seed: int = 0) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).uniform(-3, 3, k)).astype(F)


def pair(k: int, n: int, options: dict[str, Any]) -> tuple[oc.QuantLinear, oc.QuantLinear]:
    """A layer with scales, and the one without that the definition gives x' to."""
    rng = np.random.default_rng(k)
    w, b, s = rng.standard_normal((n, k), dtype=F), rng.standard_normal(n, dtype=F), random_scale(k)
    return oc.QuantLinear(w, b, pre_quant_scale=s, **options), oc.QuantLinear(scaled_weight(w, s), b, **options)


@pytest.mark.parametrize("form", FORMS)
def test_call_equals_the_definition(kernel: str, form: str) -> None:
    for k in (32, 64, 192) if form.startswith("int4 ") else (1, 7, 33, 100):
        k = k if "groups" not in form else 2 * k
        layer, plain = pair(k, 19, FORMS[form])
        for m in (1, 5, 14):
            x = hard_rows(m, k)
            assert_same_bits(layer(x), plain(scaled_inputs(x, layer.pre_quant_scale)), f"{kernel} {form} {m}x{k}")


def test_static_call_equals_the_definition(kernel: str) -> None:
    q = np.random.default_rng(0).integers(-127, 128, (9, 50)).astype(np.int8)
    s, x = random_scale(50), np.random.default_rng(1).standard_normal((7, 50), dtype=F)
    for output in (None, STATIC):
        layer = oc.StaticQuantLinear(q, 0.01, input=STATIC, output=output, pre_quant_scale=s)
        plain = oc.StaticQuantLinear(q, 0.01, input=STATIC, output=output)
        y, expected = layer(x), plain(scaled_inputs(x, s))
        if output is None:
            assert_same_bits(y, expected)
        else:
            np.testing.assert_array_equal(y.int_repr(), expected.int_repr())
    integers = oc.QuantizedArray(np.zeros((2, 50), np.uint8), STATIC)
    with pytest.raises(TypeError, match=r"has a pre_quant_scale, which divides floats, and got a QuantizedArray"):
        layer(integers)


@pytest.mark.parametrize("form", FORMS)
def test_layer_shows_keeps_and_copies_its_scale(form: str, tmp_path: Path) -> None:
    layer, plain = pair(64, 12, FORMS[form])
    s, x = layer.pre_quant_scale, hard_rows(9, 64)
    assert s is not None
    assert not s.flags.writeable
    assert plain.pre_quant_scale is None
    assert ", pre_quant_scale, bias)" in repr(layer)
    assert "pre_quant_scale" not in repr(plain)
    assert layer.nbytes > plain.nbytes
    np.testing.assert_array_equal(layer.int_repr(), plain.int_repr())
    assert_same_bits(layer.weight, plain.weight * input_factors(s))
    at = np.array([3, 0, 7])
    assert_same_bits(layer._weight_rows(at), layer.weight[at])
    assert_same_bits(layer._weight_columns(at), np.ascontiguousarray(layer.weight.T[at]))
    oc.save({"fc": layer}, tmp_path / "layer.safetensors")
    loaded = oc.load(tmp_path / "layer.safetensors")["fc"]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert_same_bits(other.pre_quant_scale, s)
        assert_same_bits(other(x), layer(x))
    oc.save({"fc": plain}, tmp_path / "plain.safetensors")
    assert b"pre_quant_scale" in (tmp_path / "layer.safetensors").read_bytes()
    assert b"pre_quant_scale" not in (tmp_path / "plain.safetensors").read_bytes()


def test_static_layer_and_matrix_keep_their_scale(tmp_path: Path) -> None:
    w, s, x = np.random.default_rng(0).standard_normal((20, 8), dtype=F), random_scale(20), hard_rows(4, 20)
    matrix = oc.QuantMatrix(w, pre_quant_scale=s)
    assert_same_bits(x @ matrix, oc.QuantLinear(w.T, pre_quant_scale=s)(x))
    assert_same_bits(matrix[[1, 5]], matrix.dequantize()[[1, 5]])
    layer = oc.StaticQuantLinear(np.ones((3, 20), np.int8), 1.0, input=STATIC, pre_quant_scale=s)
    assert "pre_quant_scale" in repr(layer)
    assert "pre_quant_scale" in repr(matrix)
    for value in (matrix, layer):
        oc.save({"w": value}, tmp_path / "one.safetensors")
        loaded = oc.load(tmp_path / "one.safetensors")["w"]
        for other in (pickle.loads(pickle.dumps(value)), loaded):
            assert repr(other) == repr(value)
    x = np.ones((2, 20), F)
    assert_same_bits(loaded(x), layer(x))


def test_joined_layers_have_one_scale() -> None:
    w, s = np.random.default_rng(0).standard_normal((6, 8), dtype=F), random_scale(8)
    a, b = (oc.QuantLinear(part, pre_quant_scale=s) for part in (w[:2], w[2:]))
    both = oc.concatenate([a, b])
    x = np.random.default_rng(1).standard_normal((3, 8), dtype=F)
    assert_same_bits(both(x), np.concatenate([a(x), b(x)], axis=1))
    assert_same_bits(oc.split(both, [2])[0](x), a(x))
    with pytest.raises(ValueError, match="parts must have the same pre_quant_scale"):
        oc.concatenate([a, oc.QuantLinear(w, pre_quant_scale=2 * s)])
    with pytest.raises(ValueError, match="parts must be of one form"):
        oc.concatenate([a, oc.QuantLinear(w)])


@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [
        ([1.0, 0.0], ValueError, "pre_quant_scale must be positive and finite.*got 0.0 at input 1; use 1 for inputs"),
        ([np.inf, 1.0], ValueError, "got inf at input 0"),
        ([1.0, np.nan], ValueError, "got nan at input 1"),
        ([1.0, -2.0], ValueError, "got -2.0 at input 1"),
        ([1.0, 1e-40], ValueError, r"2\*\*-126 to 2\*\*126, got 1e-40"),
        ([1.0, 1e300], ValueError, r"got 1e\+300 at input 1"),
        ([1.0], ValueError, r"must have shape \(2,\), a scale for each input, got \(1,\)"),
        (2.0, ValueError, r"must have shape \(2,\)"),
        (["a", "b"], TypeError, "pre_quant_scale"),
        ([1.0, 8e37], ValueError, r"weight times pre_quant_scale must be finite, got 30.0 \* 8e\+37"),
    ],
)
def test_bad_scales_are_refused(scale: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        oc.QuantLinear(np.float32([[1, 30]]), pre_quant_scale=scale)


@pytest.mark.parametrize("activation", ["symmetric", "asymmetric", "int16"])
def test_rows_that_overflow_under_a_scale_are_nan(kernel: str, activation: Any) -> None:
    s = np.float32([2.0**-100, 1, 1])
    layer = oc.QuantLinear(np.ones((2, 3), F), pre_quant_scale=s, activation=activation)
    y = layer(np.float32([[1e30, 0, 0], [1, 2, 3], [0, np.nan, 0]]))
    assert np.isnan(y[[0, 2]]).all()
    assert np.isfinite(y[1]).all()
