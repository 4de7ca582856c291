"""Gradients of the float layers: those of autograd's own functions, in float32."""

from __future__ import annotations

from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from autograd.test_util import check_vjp

import octavo as oc
from octavo.nn import _gradients

F = np.float32


@pytest.mark.parametrize("shape", [(5, 4), (4,), (2, 3, 4), (0, 4)])
def test_linear_is_x_w_b(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, w, b, g = (rng.standard_normal(s).astype(F) for s in (shape, (3, 4), (3,), (*shape[:-1], 3)))
    np.testing.assert_allclose(_gradients.linear(x, w, b), x @ w.T + b, rtol=1e-5, atol=1e-6)
    f = lambda x, w, b: anp.sum(_gradients.linear(x, w, b) * g.astype(np.float64))  # noqa: E731
    plain = lambda x, w, b: anp.sum((x @ w.T + b) * g)  # noqa: E731
    for found, expected in zip(
        autograd.grad(f, (0, 1, 2))(x, w, b), autograd.grad(plain, (0, 1, 2))(x, w, b), strict=True
    ):
        assert found.dtype == F  # although g was float64
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_linear_without_bias() -> None:
    x, w = np.ones((2, 3), F), np.ones((4, 3), F)
    np.testing.assert_array_equal(
        autograd.grad(lambda w: anp.sum(_gradients.linear(x, w, None)))(w), np.full((4, 3), 2)
    )


@pytest.mark.parametrize("layer", [oc.nn.ReLU(), oc.nn.Sigmoid()], ids=repr)
def test_layers_of_nn_can_be_differentiated(layer: Any) -> None:
    x = np.array([-30.0, -2.0, -0.5, 0.5, 3.0, 40.0])
    check_vjp(layer, x)
    _, y = autograd.make_vjp(layer)(x.astype(F))
    np.testing.assert_array_equal(y, layer(x.astype(F)))
    assert autograd.grad(lambda x: anp.sum(layer(x) * x.astype(np.float64)))(x.astype(F)).dtype == F


def test_linear_of_nn_can_be_differentiated() -> None:
    layer = oc.nn.Linear.init(3, 2, rng=np.random.default_rng(0))
    found = autograd.grad(lambda x: anp.sum(layer(x)))(np.ones((4, 3), F))
    np.testing.assert_allclose(found, np.tile(layer.weight.sum(axis=0), (4, 1)), rtol=1e-6)


@pytest.mark.parametrize("layer", [oc.nn.ReLU(), oc.nn.Sigmoid()], ids=repr)
def test_second_derivatives_of_layers_are_refused_by_name(layer: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{type(layer).__name__.lower()}: second derivatives are not supported"):
        autograd.hessian(lambda x: anp.sum(layer(x) ** 2))(np.ones(3))
