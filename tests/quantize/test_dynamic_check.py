"""quantize_dynamic: reading and checking layers, with errors that name the layer and the remedy; random trees."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import octavo as oc
from models import (
    Dense,
    F,
    FrozenModel,
    Model,
    Pair,
    SlottedModel,
    count,
    identity_of,
    layer_class,
    one_layer,
    random_array,
)
from octavo import LayerSpec, QuantLinear, quantize_dynamic
from octavo._models.walk import walk

# Reading and checking a layer

W, B = random_array(3, 4), random_array(3, seed=1)
SQUARE = random_array(4, 4)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            one_layer(lambda s, x: x @ s.weight + s.bias, weight=SQUARE, bias=B[[0, 1, 2, 0]]),
            r"__call__ is not x weight\^T \+ bias: largest difference \d.*; it fits LayerSpec\(layout='in_out'\)$",
        ),
        (
            one_layer(lambda s, x: x @ s.weight + s.bias, weight=W.T.copy(), bias=B),
            r"bias must have 4 elements.*got shape \(3,\); it fits LayerSpec\(layout='in_out'\)$",
        ),
        (
            one_layer(lambda s, x: x @ s.weight, weight=W.T.copy()),
            r"__call__ failed on a random row of shape \(1, 3\): ValueError.*; it fits LayerSpec\(layout='in_out'\)$",
        ),
        (
            one_layer(lambda s, x: np.maximum(x @ s.weight.T + s.bias, 0), weight=W, bias=B),
            r"largest difference.*; it fits LayerSpec\(activation='relu'\)$",
        ),
        (
            one_layer(lambda s, x: np.maximum(x @ s.W + s.b, 0), W=SQUARE, b=SQUARE[:1]),
            r"no attribute 'weight'; its 2-D float arrays: W, b; .*"
            r"it fits LayerSpec\(weight='W', bias='b', layout='in_out', activation='relu'\)$",
        ),
        (
            one_layer(lambda s, x: x @ s.weight.T + s.b, weight=W, b=B),
            r"__call__ is not x weight\^T: .*; it fits LayerSpec\(bias='b'\)$",
        ),
        (
            one_layer(lambda s, x: x @ s.weight.T, weight=W, bias=B),
            r"__call__ is not x weight\^T \+ bias: .*; it fits LayerSpec\(bias=None\)$",
        ),
        (
            one_layer(lambda s, x: np.tanh(x @ s.weight.T + s.bias), weight=W, bias=B),
            r"largest difference.*; give its part that is x W\^T \+ b a class of its own, or pass check=False",
        ),
        (
            one_layer(lambda s, x: (x @ s.weight.T + s.bias)[0], weight=W, bias=B),
            r"gives shape \(3,\) for a row \(1, 4\)",
        ),
        (one_layer(lambda s, x: x @ s.weight.T * np.nan, weight=W), r"largest difference nan"),
        (one_layer(lambda s, x: x @ s.weight.T + 0j, weight=W), r"__call__ must give real numbers, got dtype complex"),
        (one_layer(lambda s, x: None, weight=W), r"__call__ must give real numbers, got dtype object"),
        (one_layer(lambda s, x: 1 / 0, weight=W), r"__call__ failed on a random row of shape \(1, 4\): ZeroDivision"),
        (one_layer(lambda s, x: x, weight=np.ones((2, 3, 4))), r"weight must be 2-D.*got shape \(2, 3, 4\)$"),
        (one_layer(lambda s, x: x, weight=np.ones(3)), r"weight must be 2-D, \(out, in\), or .*got shape \(3,\)$"),
        (
            one_layer(lambda s, x: x),
            r"no attribute 'weight'; its 2-D float arrays: none; use LayerSpec\(weight=\.\.\.\)",
        ),
        (one_layer(lambda s, x: x, kernel=W), r"no attribute 'weight'; .* kernel; use LayerSpec\(weight='kernel'\)"),
        (one_layer(lambda s, x: x, weight=W, bias=np.ones(2)), r"bias must have 3 elements, .*got shape \(2,\)$"),
        (
            one_layer(lambda s, x: x, weight=SQUARE, bias=np.ones((2, 2))),
            r"bias must have 4 elements, .*shape \(2, 2\)$",
        ),
        (one_layer(lambda s, x: x, weight=W, bias=True), r"bias must have 3 elements, .*got shape \(\)$"),
        (one_layer(lambda s, x: x, weight=np.full((3, 4), np.nan, F)), r"nan"),
        (one_layer(lambda s, x: x, weight=np.full((3, 4), np.inf, F)), r"inf"),
        (one_layer(lambda s, x: x, weight=W, bias=np.full(3, np.nan, F)), r"bias must be finite"),
    ],
)
def test_quantize_dynamic_refuses_layer(layer: Any, message: str) -> None:
    model = Model(blocks=[Model(fc=layer)])
    with pytest.raises(ValueError, match=rf"^model\.blocks\.0\.fc \(Layer\): .*{message}"):
        quantize_dynamic(model, {type(layer)})
    assert model.blocks[0].fc is layer


def unpacking(self: Any, x: np.ndarray) -> np.ndarray:
    batch, time, _ = x.shape
    return (x.reshape(batch * time, -1) @ self.weight.T + self.bias).reshape(batch, time, -1)


def three_d_alone(self: Any, x: np.ndarray) -> np.ndarray:
    return x @ self.weight.T + self.bias if x.ndim == 3 else x.sum(axis=0) @ self.weight.T


def refusing_2d(self: Any, x: np.ndarray) -> np.ndarray:
    if x.ndim != 3:
        raise TypeError("(batch, time, features) expected")
    return x @ self.weight.T + self.bias


@pytest.mark.parametrize("equation", [unpacking, three_d_alone, refusing_2d])
def test_layers_that_take_three_axes_are_checked_with_three(equation: Callable[..., Any]) -> None:
    layer = one_layer(equation, weight=W, bias=B)
    q = quantize_dynamic([layer], type(layer))[0]
    x = random_array(2, 3, 4)
    assert np.abs(q(x) - layer(x)).max() < 0.1
    layer.bias = B + 1e-3  # the same class, and the check still looks
    wrong = one_layer(lambda s, x: equation(s, x) * 1.01, weight=W, bias=B)
    with pytest.raises(ValueError, match=r"model\.0 \(Layer\): __call__ .*check=False"):
        quantize_dynamic([wrong], type(wrong))


def test_layers_that_fail_on_every_random_row_name_check() -> None:
    def four_axes(self: Any, x: np.ndarray) -> np.ndarray:
        _, _, _, k = x.shape
        return x.reshape(*x.shape[:-1], k) @ self.weight.T

    layer = one_layer(four_axes, weight=W)
    with pytest.raises(
        ValueError, match=r"failed on a random row of shape \(1, 4\): ValueError.*check=False if the"
    ) as e:
        quantize_dynamic([layer], type(layer))
    assert isinstance(e.value.__cause__.__cause__, ValueError)
    assert isinstance(quantize_dynamic([layer], type(layer), check=False)[0], QuantLinear)
    prepared = oc.prepare([layer], oc.default_qconfig, layers=type(layer), check=False)
    assert prepared[0].weight.shape == (3, 4)


@pytest.mark.parametrize("weight", [np.ones((2, 2), complex), np.array([["a"]]), np.array([[None]])])
def test_quantize_dynamic_refuses_weights_that_are_no_numbers(weight: np.ndarray) -> None:
    layer = one_layer(lambda s, x: x, weight=weight)
    with pytest.raises(TypeError, match=r"^model\.0 \(Layer\): weight must be real numbers, got dtype"):
        quantize_dynamic([layer], type(layer))


def test_quantize_dynamic_refuses_other_dtype_and_activation() -> None:
    with pytest.raises(ValueError, match=r"^dtype must be .*got quint8: weights are signed"):
        quantize_dynamic(Dense(), Dense, "uint8")
    with pytest.raises(ValueError, match=r"^model \(Dense\): activation must be"):
        quantize_dynamic(Dense(), Dense, activation="relu")


@pytest.mark.parametrize("call", ["forward", "apply"])
def test_quantize_dynamic_names_method_to_call(call: str) -> None:
    cls = layer_class(call)
    with pytest.raises(ValueError, match=rf"no method '__call__' to call it by; use LayerSpec\(call='{call}'\)"):
        quantize_dynamic(cls(), {cls: LayerSpec("W", "b", "in_out")})


def test_quantize_dynamic_refuses_subclass_that_does_more() -> None:
    class Scaled(Dense):
        def __call__(self, x: np.ndarray) -> np.ndarray:
            return 1.001 * super().__call__(x)

    with pytest.raises(ValueError, match=r"\(Scaled\): __call__ is not x weight\^T \+ bias"):
        quantize_dynamic([Scaled(), Dense()], {Scaled, Dense})


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("bias", [-30, -1, 0, 1, 30])
def test_quantize_dynamic_finds_relu_of_one_output(seed: int, bias: float) -> None:
    layer = one_layer(lambda s, x: np.maximum(x @ s.weight.T + s.bias, 0), weight=random_array(1, 5, seed=seed))
    layer.bias = np.array([bias], F)
    with pytest.raises(ValueError, match=r"it fits LayerSpec\(activation='relu'\)$"):
        quantize_dynamic(layer, type(layer))


@pytest.mark.parametrize("slope", [0.01, 0.2])
def test_quantize_dynamic_finds_leaky_relu(slope: float) -> None:
    def leaky(self: Any, x: np.ndarray) -> np.ndarray:
        y = x @ self.weight.T
        return np.where(y > 0, y, F(slope) * y)

    layer = one_layer(leaky, weight=random_array(4, 3000))
    for spec in (LayerSpec(), LayerSpec(activation="relu")):
        with pytest.raises(ValueError, match="give its part that is"):
            quantize_dynamic(layer, {type(layer): spec})


@pytest.mark.slow
@pytest.mark.parametrize("fan_in", [1, 10, 1000, 100_000])
def test_quantize_dynamic_accepts_float32_rounding_in_any_order(fan_in: int) -> None:
    def one_by_one(self: Any, x: np.ndarray) -> np.ndarray:
        y = self.bias.copy()
        for n in range(len(y)):
            y[n] += np.add.accumulate(x[0] * self.weight[n])[-1]  # term after term, unlike NumPy's sum
        return y[None]

    rng = np.random.default_rng(fan_in)
    for offset in (0, 3):
        weight = (rng.standard_normal((4, fan_in)) + offset).astype(F)
        layer = one_layer(one_by_one, weight=weight, bias=rng.standard_normal(4).astype(F))
        quantize_dynamic(layer, type(layer))


def test_quantize_dynamic_without_check_calls_nothing() -> None:
    layer = one_layer(lambda s, x: 1 / 0, weight=W)
    assert type(quantize_dynamic(layer, type(layer), check=False)) is QuantLinear
    assert quantize_dynamic(layer, {type(layer): LayerSpec(call="run")}, check=False).run(W).shape == (3, 3)


@pytest.mark.parametrize("fails", [False, True])
def test_quantize_dynamic_leaves_caching_layers_as_they_were(fails: bool) -> None:
    class Caching(Dense):
        __slots__ = ("y",)

        def __call__(self, x: np.ndarray) -> np.ndarray:
            self.x, self.calls = x, self.calls + 1
            self.cache["x"] = x
            self.inputs.append(x)
            self.y = super().__call__(x)
            x *= 0  # nor does it matter what becomes of the input
            if fails:
                raise RuntimeError("after all that")
            return self.y

    layer = Caching()
    layer.calls, layer.cache, layer.inputs = 3, {"x": None}, deque([1], maxlen=2)
    before = dict(vars(layer))
    if fails:
        with pytest.raises(ValueError, match="RuntimeError: after all that") as error:
            quantize_dynamic(layer, Caching)
        assert isinstance(error.value.__cause__, ValueError)
        assert isinstance(error.value.__cause__.__cause__, RuntimeError)
    else:
        quantize_dynamic(layer, Caching)
    assert vars(layer).keys() == before.keys()
    assert all(vars(layer)[name] is value for name, value in before.items())
    assert layer.cache == {"x": None}
    assert list(layer.inputs) == [1]
    assert not hasattr(layer, "y")


# Functions that still reach a float layer


def test_quantize_dynamic_refuses_closure_over_layer() -> None:
    dense = Dense()
    model = Model(fc=dense, hooks={"act": lambda x, layer=dense: layer(x)})
    before = identity_of(model)
    reports: list[oc.QuantizationReport] = []
    for inplace in (False, True):
        with pytest.raises(
            ValueError, match=r"still reach a float layer: model\.hooks\.act through its variable 'layer'"
        ):
            quantize_dynamic(model, {Dense}, inplace=inplace, report=reports.append)
    assert identity_of(model) == before
    assert reports == []  # they are of what is not refused
    quantized = quantize_dynamic(model, {Dense}, check=False)
    assert type(quantized.fc) is QuantLinear
    assert quantized.hooks["act"] is model.hooks["act"]


def test_quantize_dynamic_takes_closure_over_model_in_place_only() -> None:
    model = Model(fc=Dense())
    model.act = lambda x: model.fc(x)
    with pytest.raises(ValueError, match=r"model\.act through its variable 'model'"):
        quantize_dynamic(model, {Dense})
    quantize_dynamic(model, {Dense}, inplace=True)
    x = np.ones((1, 4), F)
    np.testing.assert_array_equal(model.act(x), model.fc(x))
    assert type(model.fc) is QuantLinear


def test_quantize_dynamic_takes_partials_and_methods() -> None:
    dense = Dense()
    model = Model(fc=dense, part=functools.partial(apply, dense), method=dense.__call__)
    x = np.ones((1, 4), F)
    for inplace in (False, True):
        quantized = quantize_dynamic(model, {Dense}, inplace=inplace)
        np.testing.assert_array_equal(quantized.part(x), quantized.fc(x))
        np.testing.assert_array_equal(quantized.method(x), quantized.fc(x))
        assert quantized.part.args[0] is quantized.fc


def apply(layer: Any, x: np.ndarray) -> np.ndarray:
    return layer(x)


# Random trees

POOL = [Dense(fan_in=k, seed=k) for k in range(1, 5)]
leaves = st.sampled_from(POOL) | st.integers() | st.text(max_size=2) | st.none()
CONTAINERS: list[Callable[[list[Any]], Any]] = [
    list,
    tuple,
    deque,
    lambda items: {str(i): item for i, item in enumerate(items)},
    lambda items: Model(**{f"a{i}": item for i, item in enumerate(items)}),
    SlottedModel,
    FrozenModel,
    lambda items: Pair(items[:1], tuple(items[1:])),
    lambda items: functools.partial(apply, *items),
]


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(lambda make, items: make(items), st.sampled_from(CONTAINERS), st.lists(children, max_size=4))


def structure(model: Any) -> list[tuple[str, str]]:
    found = walk(model, stop=lambda value: isinstance(value, (Dense, QuantLinear)))
    return [(path, type(value).__name__.replace("Dense", "QuantLinear")) for path, value in found]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.recursive(leaves, containers, max_leaves=25))
def test_quantize_dynamic_of_random_tree(model: Any) -> None:
    before = identity_of(model)
    layers = count(model, Dense)
    if layers == 0:
        with pytest.raises(ValueError, match="no layer of type Dense"):
            quantize_dynamic(model, {Dense})
        return
    quantized = quantize_dynamic(model, {Dense})
    assert identity_of(model) == before
    assert count(quantized, Dense) == 0
    assert count(quantized, QuantLinear) == layers
    assert structure(quantized) == structure(model)
    mine = {id(value) for _, value in walk(model) if not isinstance(value, (tuple, type(apply)))}
    assert not mine & {id(value) for _, value in walk(quantized)}

    changed = quantize_dynamic(model, {Dense}, inplace=True)
    assert count(changed, Dense) == 0
    assert structure(changed) == structure(quantized)


@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: oc.QuantLinear(np.eye(4, dtype=np.float32), dtype=dtype),
        lambda dtype: oc.QuantEmbedding(np.eye(4, dtype=np.float32), dtype=dtype),
        lambda dtype: oc.quantize_dynamic(oc.nn.Linear.init(4, 4), oc.nn.Linear, dtype),
        lambda dtype: oc.Candidate(dtype=dtype),
    ],
    ids=["QuantLinear", "QuantEmbedding", "quantize_dynamic", "Candidate"],
)
def test_only_types_that_weights_can_have_are_offered(make) -> None:
    with pytest.raises(ValueError, match=r"^dtype must be \"int8\" or \"int4\", got 'int3'$"):
        make("int3")
    with pytest.raises(ValueError, match=r'^dtype must be "int8" or "int4", got quint8: weights are signed$'):
        make("uint8")
