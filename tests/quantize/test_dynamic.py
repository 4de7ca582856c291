"""quantize_dynamic: what is replaced, by what, and all or nothing."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

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
from pickle_fixtures import contents

# LayerSpec


def test_layerspec_is_a_frozen_value() -> None:
    spec = LayerSpec(weight="W", activation="relu")
    assert spec == LayerSpec("W", "bias", "out_in", "__call__", "relu")
    assert hash(spec) == hash(copy.copy(spec))
    with pytest.raises(AttributeError):
        spec.weight = "w"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight": "a b"}, ValueError, "weight must be the name of an attribute, got 'a b'"),
        ({"weight": np.ones(2)}, TypeError, "weight must be the name of an attribute, got array"),
        ({"weight": None}, TypeError, "weight must be the name of an attribute, got None"),
        ({"bias": ""}, ValueError, "bias must be the name of an attribute, got ''"),
        ({"call": len}, TypeError, "call must be the name of an attribute, got <built-in"),
        ({"layout": "oi"}, ValueError, 'layout must be "out_in" or "in_out", got \'oi\''),
        ({"activation": "gelu"}, ValueError, "activation must be None or \"relu\", got 'gelu'"),
    ],
)
def test_layerspec_refuses(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LayerSpec(**options)


# What is replaced, by what


@pytest.mark.parametrize("inplace", [False, True], ids=["copy", "inplace"])
@pytest.mark.parametrize(
    ("hold", "take"),
    [
        (lambda f: Model(fc=f), lambda m: m.fc),
        (SlottedModel, lambda m: m.fc),
        (FrozenModel, lambda m: m.fc),
        (lambda f: [f], lambda m: m[0]),
        (lambda f: (1, f), lambda m: m[1]),
        (lambda f: Pair(f, [f]), lambda m: m.rest[0]),
        (lambda f: Model(heads=OrderedDict(out=(Pair(f, 1),))), lambda m: m.heads["out"][0].fc),
        (lambda f: functools.partial(map, f), lambda m: m.args[0]),
        (lambda f: f, lambda m: m),
    ],
    ids=["attribute", "slots", "frozen", "list", "tuple", "namedtuple", "nested", "partial", "root"],
)
def test_quantize_dynamic_replaces_layer_in(
    hold: Callable[[Any], Any], take: Callable[[Any], Any], inplace: bool
) -> None:
    dense = Dense()
    model = hold(dense)
    before = identity_of(model)
    quantized = quantize_dynamic(model, {Dense}, inplace=inplace)
    assert count(quantized, Dense) == 0
    layer = take(quantized)
    assert type(layer) is QuantLinear
    x = random_array(5, 4, seed=3)
    np.testing.assert_array_equal(layer(x), QuantLinear(dense.weight, dense.bias)(x))
    if not inplace:
        assert identity_of(model) == before
    elif not isinstance(model, (tuple, Dense)):
        assert quantized is model


@pytest.mark.parametrize("layers", [Dense, {Dense}, [Dense], (Dense,), {Dense: LayerSpec()}, iter([Dense])])
def test_quantize_dynamic_takes_layers_as(layers: Any) -> None:
    assert type(quantize_dynamic([Dense()], layers)[0]) is QuantLinear


@pytest.mark.parametrize("inplace", [False, True], ids=["copy", "inplace"])
def test_quantize_dynamic_keeps_shared_layers_and_cycles(inplace: bool) -> None:
    dense = Dense()
    model = Model(a=dense, b={"again": (dense,)}, act=dense.__call__)
    model.me = model
    quantized = quantize_dynamic(model, {Dense}, inplace=inplace)
    assert quantized.a is quantized.b["again"][0] is quantized.act.__self__
    assert quantized.me is quantized
    np.testing.assert_array_equal(quantized.act(np.ones((1, 4), F)), quantized.a(np.ones((1, 4), F)))


def test_quantize_dynamic_hands_options_to_the_layers() -> None:
    cls = layer_class("apply", forward=lambda self, x: "another method")
    spec = LayerSpec("W", "b", "in_out", "apply")
    model = [cls()]
    layer = quantize_dynamic(model, {cls: spec}, "qint8", activation="asymmetric")[0]
    assert layer.activation == "asymmetric"
    x = random_array(2, 4)
    np.testing.assert_array_equal(layer.apply(x), layer(x))
    expected = QuantLinear(model[0].W.T, model[0].b, activation="asymmetric")(x)
    np.testing.assert_array_equal(layer.apply(x), expected)


def test_quantize_dynamic_hands_options_of_int4_to_the_layers() -> None:
    options = {"group_size": 64, "symmetric": False, "scale_dtype": "float16", "rounding": "nearest"}
    model = Model(first=Dense(100, 5), second=Dense(5, 7))
    quantized = quantize_dynamic(model, Dense, dtype="int4", activation="asymmetric", **options)
    for old, new in zip((model.first, model.second), (quantized.first, quantized.second), strict=True):
        expected = QuantLinear(old.weight, old.bias, dtype="int4", activation="asymmetric", **options)
        assert contents(new) == contents(expected)
        assert (new.dtype, new.group_size, new.scale_dtype) == (oc.qint4, 64, "float16")
    with pytest.raises(ValueError, match=r"model\.first.*group_size=64 is for int4"):
        quantize_dynamic(model, Dense, group_size=64)


def test_quantize_dynamic_with_relu_in_the_layer() -> None:
    layer = one_layer(lambda self, x: np.maximum(x @ self.weight.T, 0), weight=random_array(3, 4))
    quantized = quantize_dynamic(layer, {type(layer): LayerSpec(activation="relu")})
    assert quantized.relu
    assert quantized(random_array(9, 4)).min() == 0


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1)])
def test_quantize_dynamic_takes_bias_of_shape(shape: tuple[int, ...]) -> None:
    layer = one_layer(lambda s, x: x @ s.weight.T + s.bias.ravel(), weight=random_array(3, 4))
    layer.bias = random_array(3).reshape(shape)
    np.testing.assert_array_equal(quantize_dynamic(layer, type(layer)).bias, layer.bias.ravel())


@pytest.mark.parametrize("arrays", [{}, {"bias": None}, {"bias": np.ones(3), "spec": LayerSpec(bias=None)}])
def test_quantize_dynamic_without_bias(arrays: dict[str, Any]) -> None:
    spec = arrays.pop("spec", LayerSpec())
    layer = one_layer(lambda self, x: x @ self.weight.T, weight=random_array(3, 4), **arrays)
    assert quantize_dynamic(layer, {type(layer): spec}).bias is None


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i4"])
def test_quantize_dynamic_of_weights_of_type(dtype: str) -> None:
    weight = (3 * random_array(3, 4)).astype(dtype)
    layer = one_layer(lambda self, x: x @ self.weight.T + self.bias, weight=weight, bias=weight[:, 0].copy())
    quantized = quantize_dynamic(layer, type(layer))
    with np.errstate(all="ignore"):  # of the comparison, in float16
        np.testing.assert_allclose(quantized.weight, weight, atol=0.05)


@pytest.mark.parametrize(("fan_in", "fan_out"), [(1, 1), (1, 7), (7, 1), (0, 3), (3, 0), (2000, 3)])
def test_quantize_dynamic_of_sizes(fan_in: int, fan_out: int) -> None:
    layer = quantize_dynamic(Dense(fan_in, fan_out), {Dense})
    assert (layer.in_features, layer.out_features) == (fan_in, fan_out)


def test_quantize_dynamic_matches_exact_types_only() -> None:
    class Special(Dense):
        pass

    model = [Dense(), Special()]
    model[1].weight = model[1].weight.view(np.ndarray)
    quantized = quantize_dynamic(model, {Dense})
    assert [type(layer) for layer in quantized] == [QuantLinear, Special]
    assert count(quantize_dynamic(model, {Dense, Special}), QuantLinear) == 2


def test_quantize_dynamic_leaves_what_only_a_layer_holds() -> None:
    inner, outer = Dense(seed=1), Dense(seed=2)
    outer.friend = inner
    inner.weight[0, 0] = np.nan  # would be refused
    quantized = quantize_dynamic([outer], {Dense}, inplace=True)
    assert count(quantized, QuantLinear) == 1
    assert outer.friend is inner


def test_quantize_dynamic_of_nn_sequential() -> None:
    rng = np.random.default_rng(0)
    layers = [oc.nn.Linear.init(64, 32, rng=rng), oc.nn.ReLU(), oc.nn.Linear.init(32, 8, rng=rng), oc.nn.Sigmoid()]
    model = oc.nn.Sequential(*layers)
    quantized = quantize_dynamic(model, {oc.nn.Linear})
    x = random_array(20, 64)
    assert np.abs(quantized(x) - model(x)).max() < 0.01
    assert list(model) == layers
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(quantized))(x), quantized(x))


@pytest.mark.slow
def test_quantize_dynamic_of_deep_model() -> None:
    model = Model(fc=Dense())
    for _ in range(5000):
        model = Model(next=model)
    with pytest.raises(ValueError, match=r"nested too deeply for copy\.deepcopy; pass inplace=True"):
        quantize_dynamic(model, {Dense})
    quantize_dynamic(model, {Dense}, inplace=True)
    assert count(model, QuantLinear) == 1


# All or nothing


def nan_weight() -> Dense:
    layer = Dense()
    layer.weight[1, 2] = np.nan
    return layer


@pytest.mark.parametrize("inplace", [False, True], ids=["copy", "inplace"])
@pytest.mark.parametrize(
    ("third", "message"),
    [
        (nan_weight, r"^model\.layers\.2 \(Dense\): .*nan"),
        (lambda: Dense(fan_in=200_000, fan_out=1), r"^model\.layers\.2 \(Dense\): .*131,?071"),
    ],
    ids=["NaN", "K above the bound"],
)
def test_quantize_dynamic_changes_nothing_when_third_layer_is_invalid(
    third: Callable[[], Any], message: str, inplace: bool
) -> None:
    first, second = Dense(seed=1), Dense(seed=2)
    model = Model(layers=[first, second, third()], pair=(first, 1), slots=SlottedModel(second), act=first.__call__)
    before = identity_of(model)
    with pytest.raises(ValueError, match=message):
        quantize_dynamic(model, {Dense}, inplace=inplace)
    assert identity_of(model) == before


def test_quantize_dynamic_changes_nothing_when_storing_fails() -> None:
    array = np.empty(1, object)
    array[0] = Dense(seed=1)
    array.flags.writeable = False
    model = Model(fc=Dense(), array=array)
    before = identity_of(model)
    with pytest.raises(ValueError, match=r"cannot replace model\.array\.0: .*read-only; nothing was changed"):
        quantize_dynamic(model, {Dense}, inplace=True)
    assert identity_of(model) == before


def test_quantize_dynamic_names_attribute_that_cannot_be_copied() -> None:
    model = Model(fc=Dense(), state={"lock": threading.Lock()})
    before = identity_of(model)
    with pytest.raises(TypeError, match=r"cannot copy model\.state\.lock \(type _thread\.lock\).*inplace=True"):
        quantize_dynamic(model, {Dense})
    assert identity_of(model) == before
    assert type(quantize_dynamic(model, {Dense}, inplace=True).fc) is QuantLinear


def test_quantize_dynamic_names_layer_that_a_deepcopy_of_its_own_brings_back() -> None:
    class Copier(Model):
        def __deepcopy__(self, memo: dict[int, Any]) -> Copier:
            return Copier(fc=self.fc)

    model = Model(a=Dense(), b=Copier(fc=Dense(seed=1)))
    reports: list[Any] = []
    with pytest.raises(ValueError, match=r"model\.b\.fc is still a Dense in the copy: a __deepcopy__ above it"):
        quantize_dynamic(model, {Dense}, report=reports.append)
    assert reports == []
    assert count(quantize_dynamic(model, {Dense}, inplace=True), QuantLinear) == 2


def test_quantize_dynamic_refuses_bound_method_that_quantlinear_lacks() -> None:
    dense = Dense()
    model = Model(fc=dense, save=Describing().describe)
    with pytest.raises(ValueError, match=r"model\.save holds: it is the bound method 'describe' of a Describing"):
        quantize_dynamic(model, {Dense, Describing}, inplace=True)
    assert model.fc is dense


class Describing(Dense):
    def describe(self) -> str:
        return "dense"


# No layer


def test_quantize_dynamic_says_what_it_does_not_look_into() -> None:
    layer, w = Dense(), np.ones((64, 64), np.float32)
    captured = r"; what functions capture is not looked at \(model\.call\): hold it in an object or a partial$"
    with pytest.raises(ValueError, match=r"no layer of type Dense.*" + captured):
        quantize_dynamic({"call": lambda x: layer(x), "plain": len, "alone": lambda x: x}, {Dense})
    with pytest.raises(ValueError, match="holds no array to quantize.*" + captured):
        quantize_dynamic({"call": lambda x, w=w: x @ w})
    with pytest.raises(ValueError, match=r"; the model is the class Dense: pass an instance$"):
        quantize_dynamic(Dense, {Dense})


def test_quantize_dynamic_without_match_names_subclass() -> None:
    class Special(Dense):
        pass

    with pytest.raises(ValueError, match=r"no layer of type Dense in the model; .*subclass Special: name it in layers"):
        quantize_dynamic([Special()], {Dense})


def test_quantize_dynamic_without_match_names_candidates() -> None:
    slotted = SlottedModel(np.ones((2, 2)))
    model = Model(fc=Dense(), other=slotted, ints=Model(a=np.ones((2, 2), int)))
    with pytest.raises(
        ValueError, match=r"no layer of type Linear in the model; .*as an attribute: Dense, SlottedModel$"
    ):
        quantize_dynamic(model, {oc.nn.Linear})
    with pytest.raises(ValueError, match=r"no layer of type Dense in the model; .*as an attribute: none$"):
        quantize_dynamic(3, {Dense})


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (set(), ValueError, "layers must name at least one class or layer"),
        ({}, ValueError, "layers must name at least one class or layer"),
        ([Dense()], TypeError, "layers must hold classes and names, got <.*Dense object.*pass its class"),
        (3, TypeError, "layers must be a set of classes and names or a dict .* got 3"),
        ("Dense", ValueError, "layers names no layer of the model; types in it .*: Dense"),
        ({Dense: "W"}, TypeError, "layers must map Dense to a LayerSpec, or to None .*, got 'W'"),
    ],
)
def test_quantize_dynamic_refuses_layers(layers: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quantize_dynamic(Dense(), layers)


def test_activation_group_reaches_layers_and_matrices_of_four_bits() -> None:
    rng = np.random.default_rng(0)
    model = {
        "up": oc.nn.Linear(rng.standard_normal((8, 64), dtype=np.float32)),
        "w": rng.standard_normal((64, 16), dtype=np.float32),
        "table": oc.nn.Embedding.init(10, 64),
        "head": oc.nn.Linear(rng.standard_normal((4, 64), dtype=np.float32)),
    }
    options = {"group_size": 32, "activation_group": 32, "rounding": "nearest"}
    layers = {oc.nn.Linear: oc.LayerSpec(), oc.nn.Embedding: oc.LayerSpec()}
    found = oc.quantize_dynamic(model, layers, {"": "int4", "head": "int8"}, arrays=["w"], **options)
    held = found["up"], found["w"]._layer, found["head"]
    assert [layer.activation_group for layer in held] == [32, 32, None]
    x = rng.standard_normal((3, 64), dtype=np.float32)
    expected = oc.QuantLinear(model["up"].weight, dtype="int4", **options)
    assert (found["up"](x) == expected(x)).all()
    with pytest.raises(ValueError, match="activation_group"):
        oc.quantize_dynamic(oc.nn.Linear(np.eye(64, dtype=np.float32)), activation_group=48)
