"""nn: the small float layers against their equations."""

from __future__ import annotations

import numpy as np
import pytest

from octavo import nn

F = np.float32


def test_linear_is_x_wt_plus_b() -> None:
    rng = np.random.default_rng(0)
    w, b, x = rng.standard_normal((3, 5), F), rng.standard_normal(3, F), rng.standard_normal((2, 4, 5), F)
    y = nn.Linear(w, b)(x)
    assert y.dtype == F
    np.testing.assert_array_equal(y, x @ w.T + b)
    np.testing.assert_array_equal(nn.Linear(w)(x), x @ w.T)


def test_linear_keeps_float_arrays_and_converts_others() -> None:
    w, b = np.ones((2, 3), F), np.ones(2)
    layer = nn.Linear(w, b)
    assert layer.weight is w
    assert layer.bias is b
    assert nn.Linear([[1, 2]], [True]).weight.dtype == nn.Linear([[1, 2]], [True]).bias.dtype == F


@pytest.mark.parametrize(
    ("weight", "bias", "error", "message"),
    [
        (np.ones(3), None, ValueError, r"weight must be 2-D \(out, in\), got shape \(3,\)"),
        (np.ones((2, 3)), np.ones(3), ValueError, r"bias must have shape \(2,\) to fit the weight, got \(3,\)"),
        (np.ones((2, 3)), 1.0, ValueError, r"bias must have shape \(2,\)"),
        (np.ones((2, 3), complex), None, TypeError, r"weight must hold real numbers .* of dtype complex128"),
        (np.ones((2, 3)), ["a", "b"], TypeError, r"bias must hold real numbers .* of dtype <U1"),
    ],
)
def test_linear_refuses(weight: object, bias: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        nn.Linear(weight, bias)


@pytest.mark.parametrize("x", [np.float32(1), np.ones(2, F), np.ones((5, 4), F)])
def test_linear_refuses_other_width(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 5\) to fit the layer's inputs, got"):
        nn.Linear(np.ones((4, 5), F))(x)


def test_linear_init_draws_uniform_within_bound() -> None:
    layer = nn.Linear.init(100, 300, rng=np.random.default_rng(0))
    assert layer.weight.shape == (300, 100)
    assert layer.weight.dtype == layer.bias.dtype == F
    for values in (layer.weight, layer.bias):
        assert 0.095 < np.abs(values).max() <= F(0.1)
        assert abs(values.mean()) < 0.02
    again = nn.Linear.init(100, 300, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(layer.weight, again.weight)
    assert nn.Linear.init(2, 3, bias=False).bias is None
    assert nn.Linear.init(0, 3)(np.ones((1, 0), F)).shape == (1, 3)


def test_linear_init_refuses_negative_sizes() -> None:
    with pytest.raises(ValueError, match="sizes must be at least 0, got in_features=2, out_features=-1"):
        nn.Linear.init(2, -1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_relu_keeps_nan_and_dtype(dtype: type[np.floating]) -> None:
    y = nn.ReLU()(np.array([-np.inf, -1, 0, 2, np.inf, np.nan], dtype))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, np.array([0, 0, 0, 2, np.inf, np.nan], dtype))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_sigmoid_neither_overflows_nor_loses_dtype(dtype: type[np.floating]) -> None:
    x = np.array([-np.inf, -1e4, -3, -0.0, 0.5, 20, 1e4, np.inf, np.nan], dtype)
    with np.errstate(all="raise"):
        y = nn.Sigmoid()(x)
    assert y.dtype == dtype
    with np.errstate(all="ignore"):
        expected = 1 / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(y, expected, rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)


def test_sigmoid_of_integers_is_float() -> None:
    np.testing.assert_allclose(nn.Sigmoid()([-1, 0]), [1 / (1 + np.e), 0.5])


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int64, np.uint64])
def test_sigmoid_of_integers_is_that_of_float32(dtype: type[np.generic]) -> None:
    low = 0 if dtype is np.bool_ else max(np.iinfo(dtype).min, -(2**20))
    x = np.array([low, 0, 1] + ([2, 100] if dtype is not np.bool_ else []), dtype)
    y = nn.Sigmoid()(x)
    assert y.dtype == F
    np.testing.assert_array_equal(y, nn.Sigmoid()(x.astype(F)))
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(y, expected, rtol=4e-7, atol=1e-38)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int64])
def test_layers_of_integers_give_what_floats_give(dtype: type[np.generic]) -> None:
    x = np.array([[1, 0, 1]], dtype)
    np.testing.assert_array_equal(nn.ReLU()(x), nn.ReLU()(x.astype(F)))
    layer = nn.Linear.init(3, 2, rng=np.random.default_rng(0))
    np.testing.assert_allclose(layer(x), layer(x.astype(F)), rtol=1e-6)
    low = np.array([[np.iinfo(np.int8).min, 127]], np.int8)
    np.testing.assert_array_equal(nn.ReLU()(low), [[0, 127]])


def test_sequential_calls_in_order() -> None:
    fc, relu = nn.Linear(np.array([[1.0, -1.0]])), nn.ReLU()
    model = nn.Sequential(fc, relu, lambda y: y + 1)
    np.testing.assert_array_equal(model([[1.0, 3.0], [3.0, 1.0]]), [[1.0], [3.0]])
    assert nn.Sequential()(3) == 3


def test_sequential_is_a_sequence() -> None:
    fc, relu = nn.Linear.init(2, 1), nn.ReLU()
    model = nn.Sequential(fc, relu)
    assert len(model) == 2
    assert list(model) == [fc, relu]
    assert model[0] is fc
    assert model[-1] is relu
    assert list(model[1:]) == [relu]
    assert isinstance(model[1:], nn.Sequential)
    assert repr(model) == "Sequential(Linear(2 -> 1, bias), ReLU())"
    assert repr(nn.Sigmoid()) == "Sigmoid()"


def test_sequential_refuses_what_is_not_callable() -> None:
    with pytest.raises(TypeError, match="layers must be callable, got list at position 1"):
        nn.Sequential(nn.ReLU(), [nn.ReLU()])
