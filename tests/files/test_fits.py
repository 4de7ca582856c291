"""load(path, model): a layer takes the place of its own kind, and nothing of the model is lost without a word."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from models import Dense, Model, filled, layer_class, one_layer, random_array
from octavo._models.containers import attributes

F = np.float32
W, B = random_array(5, 5), random_array(5, seed=1)
X = random_array(3, 5, seed=2)


class ReLU:
    """With a cache, as training code has."""

    def __init__(self) -> None:
        self.x = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        return np.maximum(x, 0)


class Table:
    def __init__(self, rows: int = 5, width: int = 5) -> None:
        self.weight = random_array(rows, width)

    def __call__(self, ids: Any) -> np.ndarray:
        return self.weight[ids]


class Norm:
    def __init__(self) -> None:
        self.gamma, self.beta = np.ones(5, F), np.zeros(5, F)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x * self.gamma + self.beta


def gelu_like() -> Any:
    return one_layer(lambda self, x: np.tanh(x @ self.weight.T), weight=W.copy())


def with_relu(bias: bool = True) -> Any:
    arrays = {"weight": W.copy()} | ({"bias": B.copy()} if bias else {})
    return one_layer(lambda self, x: np.maximum(x @ self.weight.T + getattr(self, "bias", 0), 0), **arrays)


class Waiting:
    """A linear layer whose arrays are still to come."""

    weight: Any = None

    def __init__(self) -> None:
        self.weight = self.bias = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight.T + self.bias


class Derived(oc.nn.Linear):
    """Looks like a linear layer, and does more."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return 2 * super().__call__(x)


LINEAR = oc.QuantLinear(W, B)
RELU_LINEAR = oc.QuantLinear(W, B, relu=True)
TABLE = oc.QuantEmbedding(W)
RNG = np.random.default_rng(0)
LSTM = oc.nn.LSTM.init(5, 5, rng=RNG)
static = oc.StaticQuantLinear(np.ones((5, 5), np.int8), np.ones(5), input=oc.QParams(0.1, 0))

# (what the file has, what the model has, what is said; "" where it fits)
CASES: dict[str, tuple[Any, Any, str]] = {
    "linear, octavo's": (LINEAR, oc.nn.Linear(W, B), ""),
    "linear, quantized": (LINEAR, oc.QuantLinear(W, B), ""),
    "linear, static": (static, oc.nn.Linear(W), ""),
    "linear, user's": (LINEAR, Dense(5, 5), ""),
    "linear, user's (in, out)": (oc.QuantLinear(random_array(3, 4), B[:3]), layer_class()(), ""),
    "linear, user's method": (LINEAR, layer_class("predict")(5, 5), ""),
    "linear, zeros": (LINEAR, one_layer(lambda s, x: x @ s.w + s.b, w=np.zeros((5, 5)), b=np.zeros(5)), ""),
    "linear, NaN": (LINEAR, one_layer(lambda s, x: x @ s.w + s.b, w=np.full((5, 5), np.nan), b=np.zeros(5)), ""),
    "linear, to come": (LINEAR, Waiting(), ""),
    "relu, user's": (RELU_LINEAR, with_relu(), ""),
    "relu, zeros": (RELU_LINEAR, one_layer(lambda s, x: np.maximum(x @ s.w + s.b, 0), w=np.zeros((5, 5)), b=B * 0), ""),
    "embedding, octavo's": (TABLE, oc.nn.Embedding(W), ""),
    "embedding, user's": (TABLE, Table(), ""),
    "LSTM": (oc.quantize_dynamic(LSTM, {oc.nn.LSTM}), LSTM, ""),
    "stub": (oc.Quantize(oc.QParams(0.1, 0)), oc.QuantStub(), ""),
    "linear for ReLU": (LINEAR, oc.nn.ReLU(), "a ReLU, the file a QuantLinear 5 -> 5"),
    "linear for user's ReLU": (LINEAR, ReLU(), "a ReLU, the file .* does not compute x W"),
    "linear for Norm": (LINEAR, Norm(), "a Norm, the file .* does not compute x W"),
    "linear for Embedding": (LINEAR, oc.nn.Embedding(W), "an Embedding .*, the file a QuantLinear"),
    "linear for user's table": (LINEAR, Table(), "a Table, the file .* does not compute x W"),
    "linear for Sequential": (LINEAR, oc.nn.Sequential(oc.nn.Linear(W)), "a Sequential, the file"),
    "linear for LSTM": (LINEAR, LSTM, "an LSTM .*, the file a QuantLinear"),
    "linear for array": (LINEAR, np.zeros((5, 5)), "an array of shape .*, the file a QuantLinear"),
    "linear for tanh": (LINEAR, gelu_like(), "does not compute x W"),
    "linear for subclass": (LINEAR, Derived(W, B), "a Derived .* does not compute x W"),
    "linear for holder": (LINEAR, Model(weight=W, bias=B), "a Model, the file .* does not compute x W"),
    "linear for stub": (LINEAR, oc.QuantStub(), "a QuantStub, the file"),
    "no relu for relu": (LINEAR, with_relu(), "the model's applies ReLU, the file's does not"),
    "relu for no relu": (RELU_LINEAR, Dense(5, 5), "the file's applies ReLU, the model's does not"),
    "relu for octavo's": (RELU_LINEAR, oc.nn.Linear(W, B), "the file's layer applies ReLU, the model's does not"),
    "embedding for Linear": (TABLE, oc.nn.Linear(W), "a Linear 5 -> 5, the file a QuantEmbedding"),
    "embedding for user's Linear": (TABLE, Dense(5, 5), "a Dense, the file .* does not look up rows"),
    "embedding for ReLU": (TABLE, ReLU(), "a ReLU, the file .* does not look up rows"),
    "matrix for Linear": (oc.QuantMatrix(W), oc.nn.Linear(W), "a Linear .*, the file a QuantMatrix"),
    "matrix for user's Linear": (oc.QuantMatrix(W), Dense(5, 5), "a Dense, the file a QuantMatrix"),
    "LSTM for GRU": (oc.quantize_dynamic(LSTM, {oc.nn.LSTM}), oc.nn.GRU.init(5, 5), "a GRU .*, the file a QuantLSTM"),
    "LSTM for user's": (oc.quantize_dynamic(LSTM, {oc.nn.LSTM}), Dense(5, 5), "a Dense, the file a QuantLSTM"),
    "stub for ReLU": (oc.QuantStub(), oc.nn.ReLU(), "a ReLU, the file a QuantStub"),
    "array for Linear": (W, oc.nn.Linear(W), "a Linear .*, the file an array"),
}


@pytest.mark.parametrize("case", [case for case, (_, _, text) in CASES.items() if not text])
def test_layer_takes_the_place_of_its_own_kind(case: str, tmp_path: Path) -> None:
    stored, old, _ = CASES[case]
    before = attributes(old)
    model = filled(Model(x=stored), Model(x=old), tmp_path)
    assert type(model.x) is type(stored)
    assert {name: id(held) for name, held in attributes(old).items()} == {n: id(v) for n, v in before.items()}


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case, (_, _, text) in CASES.items() if text])
def test_layer_of_another_kind_is_refused(case: str, tmp_path: Path) -> None:
    stored, old, text = CASES[case]
    model = Model(x=old)
    for strict in (True, False):
        with pytest.raises(ValueError, match=f"they do not fit: x: .*{text}"):
            filled(Model(x=stored), model, tmp_path, strict=strict)
    assert model.x is old


@pytest.mark.parametrize("old", [ReLU(), gelu_like(), with_relu(), Table(), Model()], ids=lambda v: type(v).__name__)
def test_check_false_leaves_classes_of_the_users_to_them(old: Any, tmp_path: Path) -> None:
    assert filled(Model(x=LINEAR), Model(x=old), tmp_path, check=False).x(X).shape == (3, 5)
    with pytest.raises(ValueError, match="a ReLU, the file"):
        filled(Model(x=LINEAR), Model(x=oc.nn.ReLU()), tmp_path, check=False)


def test_search_for_what_a_class_computes_is_made_once(tmp_path: Path) -> None:
    calls: list[str] = []

    def compute(self: Any, x: np.ndarray) -> np.ndarray:
        calls.append(self.name)
        return np.maximum(x @ self.kernel + self.offset, 0)

    first = one_layer(compute, kernel=random_array(5, 5), offset=B)
    layers = [first] + [type(first)() for _ in range(9)]
    for seed, layer in enumerate(layers):
        layer.name, layer.kernel, layer.offset = str(seed), random_array(5, 5, seed=seed), B
    model = filled([oc.QuantLinear(layer.kernel.T, B, relu=True) for layer in layers], layers, tmp_path)
    *others, searched = sorted(map(calls.count, map(str, range(10))))
    assert others == [2] * 9  # a row and its negative
    assert searched > 4
    assert all(type(layer) is oc.QuantLinear for layer in model)


class Act(enum.Enum):
    NONE, RELU = 0, 1


class Config:
    def __init__(self, relu: bool) -> None:
        self.relu = relu


SETTINGS: dict[str, tuple[Callable[[bool], Any], Callable[[Any], Any]]] = {
    "function": (lambda relu: (lambda y: np.maximum(y, 0)) if relu else (lambda y: y), lambda held: held),
    "enum": (Act, lambda act: (lambda y: np.maximum(y, 0)) if act is Act.RELU else (lambda y: y)),
    "tuple": (lambda relu: ("relu",) * relu, lambda names: (lambda y: np.maximum(y, 0)) if names else (lambda y: y)),
    "object": (Config, lambda config: (lambda y: np.maximum(y, 0)) if config.relu else (lambda y: y)),
    "array": (np.array, lambda flag: (lambda y: np.maximum(y, 0)) if flag else (lambda y: y)),
}


@pytest.mark.slow
@pytest.mark.parametrize("inner", SETTINGS)
@pytest.mark.parametrize("order", [(True, False), (False, True)], ids=["relu first", "relu last"])
def test_each_layer_is_held_to_what_it_computes_itself(order: tuple[bool, ...], inner: str, tmp_path: Path) -> None:
    made, read = SETTINGS[inner]
    first = one_layer(lambda self, x: read(self.setting)(x @ self.weight.T + self.bias), weight=W, bias=B)
    layers = [first, type(first)()]
    layers[1].weight, layers[1].bias = W, B
    for layer, relu in zip(layers, order, strict=True):
        layer.setting = made(relu)
    for relu in (True, False):
        name = str(order.index(not relu))
        with pytest.raises(ValueError, match=f"they do not fit: {name}: .*applies ReLU"):
            filled([oc.QuantLinear(W, B, relu=relu), oc.QuantLinear(W, B, relu=relu)], list(layers), tmp_path)
    stored = [oc.QuantLinear(W, B, relu=relu) for relu in order]
    model = filled(stored, list(layers), tmp_path)
    for new, old in zip(model, stored, strict=True):
        np.testing.assert_array_equal(new(X), old(X))


def test_layer_is_called_as_the_model_calls_it(tmp_path: Path) -> None:
    layer = layer_class("predict")(5, 5)
    model = filled([oc.QuantLinear(W, B)], [layer], tmp_path)
    np.testing.assert_array_equal(model[0].predict(X), LINEAR(X))


# Nothing of the model is lost


@pytest.mark.parametrize(
    ("old", "lost"),
    [
        (oc.nn.Linear(W, B), "x.bias"),
        (oc.QuantLinear(W, B), "x.bias"),
        (Dense(5, 5), "x.bias"),
        (layer_class()(5, 5), "x.b"),
        (one_layer(lambda s, x: x @ s.w + s.b, w=np.zeros((5, 5)), b=np.zeros(5)), "x.b"),
    ],
    ids=["octavo's", "quantized", "user's", "user's (in, out)", "zeros"],
)
def test_bias_that_the_file_does_not_give_is_missed(old: Any, lost: str, tmp_path: Path) -> None:
    model = Model(x=old)
    with pytest.raises(ValueError, match=f"names missing from the file: {lost}$"):
        filled(Model(x=oc.QuantLinear(W)), model, tmp_path)
    assert model.x is old
    with pytest.warns(UserWarning, match=f"missing from the file: {lost}$"):
        assert type(filled(Model(x=oc.QuantLinear(W)), model, tmp_path, strict=False).x) is oc.QuantLinear


def test_array_within_what_gives_way_has_no_place(tmp_path: Path) -> None:
    stored = {"fc": oc.QuantLinear(W), "fc.bias": B}
    with pytest.raises(ValueError, match=r"missing from the file: fc\.bias; .* no place for: fc\.bias$"):
        filled(stored, Model(fc=oc.nn.Linear(W, B)), tmp_path)


def test_dict_with_an_empty_key_is_filled_whole(tmp_path: Path) -> None:
    stored = {"": oc.QuantMatrix(W), "other": oc.QuantMatrix(W.T)}
    model = {"": None, "other": None}
    assert filled(stored, model, tmp_path) is model
    np.testing.assert_array_equal(X @ model[""], X @ stored[""])
    np.testing.assert_array_equal(X @ model["other"], X @ stored["other"])


def test_file_of_0_1_0_fills_an_empty_key(tmp_path: Path) -> None:
    model = {"": None}
    assert filled(oc.QuantMatrix(W), model, tmp_path) is model  # 0.1.0 called what the key "" holds as the model itself
    np.testing.assert_array_equal(X @ model[""], X @ oc.QuantMatrix(W))


# Dicts of arrays, prefixes and other names


def flat(**arrays: np.ndarray) -> dict[str, np.ndarray]:
    return {name.replace("__", "."): a for name, a in arrays.items()}


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("nested", [False, True])
def test_converted_layers_fill_a_dict_of_arrays(dtype: str, nested: bool, tmp_path: Path) -> None:
    w, b = random_array(6, 5), random_array(6)
    layers = {"fc": oc.QuantLinear(w, b, dtype=dtype), "head": oc.QuantLinear(W, dtype=dtype)}
    if nested:
        model: dict[str, Any] = {"fc": {"weight": w * 0, "bias": b * 0}, "head": {"weight": None}}
        model = filled(layers, model, tmp_path)
        weight, bias, head = model["fc"]["weight"], model["fc"]["bias"], model["head"]["weight"]
    else:
        model = filled(layers, {"fc.weight": w * 0, "fc.bias": b * 0, "head.weight": None}, tmp_path)
        weight, bias, head = model["fc.weight"], model["fc.bias"], model["head.weight"]
    np.testing.assert_array_equal(bias, b)
    np.testing.assert_array_equal(X @ weight.T + bias, layers["fc"](X))
    np.testing.assert_array_equal(X @ head.T, layers["head"](X))


def test_converted_layers_fill_arrays_of_the_other_layout(tmp_path: Path) -> None:
    w = random_array(6, 5)
    layers = {"fc": oc.QuantLinear(w), "square": oc.QuantLinear(W)}
    model = filled(layers, {"fc.weight": w.T * 0, "square.weight": W * 0}, tmp_path)
    np.testing.assert_array_equal(X @ model["fc.weight"], layers["fc"](X))
    np.testing.assert_array_equal(X @ model["square.weight"], layers["square"](X))  # as the others are
    model = filled(layers, {"fc.weight": w * 0, "square.weight": W * 0}, tmp_path)
    np.testing.assert_array_equal(X @ model["square.weight"].T, layers["square"](X))


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_converted_table_fills_an_array_of_rows(dtype: str, tmp_path: Path) -> None:
    table = oc.QuantEmbedding(random_array(7, 5), dtype=dtype)
    model = filled({"wte": table}, {"wte.weight": np.zeros((7, 5), F)}, tmp_path)
    np.testing.assert_array_equal(model["wte.weight"][[6, 0]], table([6, 0]))


def test_bias_that_a_dict_of_arrays_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no place for: fc\.bias$"):
        filled({"fc": LINEAR}, {"fc.weight": W}, tmp_path)


def test_prefix_and_rename_lead_to_the_models_names(tmp_path: Path) -> None:
    shared = oc.QuantLinear(W)
    stored = {"transformer": {"h": [{"fc": oc.QuantLinear(W, B)}, {"fc": oc.QuantLinear(W.T)}]}, "wte": shared}
    stored["lm_head"] = shared
    model = Model(model=Model(blocks=[Model(fc=Dense(5, 5)), Model(fc=None)], emb=None, head=None))
    names = {"transformer.h.*": "blocks.*", "wte": "emb", "lm_head": "head"}
    found = filled(stored, model, tmp_path, prefix="model.", rename=names)
    assert found is model
    assert found.model.head is found.model.emb
    np.testing.assert_array_equal(found.model.blocks[1].fc(X), oc.QuantLinear(W.T)(X))
    by_name = oc.load(tmp_path / "x", prefix="p.", rename={"transformer['h'].*.fc": "*"})
    assert list(by_name) == ["p.0", "p.1", "p.wte", "p.lm_head"]
    assert by_name["p.lm_head"] is by_name["p.wte"]
    flat_model = {"model.0.weight": W, "model.0.bias": B, "model.1.weight": W}
    names = {"transformer.h.*.fc": "*", "wte": "x", "lm_head": "x2"}
    with pytest.raises(ValueError, match=r"no place for: model\.x$"):
        oc.load(tmp_path / "x", flat_model, prefix="model.", rename=names)


def test_first_pattern_that_matches_names_a_thing(tmp_path: Path) -> None:
    oc.save({"a.x": W, "a.y": B}, tmp_path / "x")
    assert list(oc.load(tmp_path / "x", rename={"a.x": "b", "a.*": "c.*"})) == ["b", "c.y"]
    with pytest.raises(ValueError, match=r"'a\.x' matches no name"):
        oc.load(tmp_path / "x", rename={"a.*": "c.*", "a.x": "b"})


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"rename": {"b*": "c"}}, ValueError, r"'b\*' matches no name of the file that is left; it has a, aa"),
        ({"rename": {"a": "c*"}}, ValueError, r"rename\['a'\] must have at most as many \* as its pattern"),
        ({"rename": {"a*": "c"}}, ValueError, "gives 'a' and 'aa' one name, 'c'"),
        ({"rename": {"a": 1}}, TypeError, "must be text, .* got 1"),
        ({"prefix": 1}, TypeError, "must be text, .* got 1"),
    ],
)
def test_names_that_lead_nowhere_are_refused(options: dict[str, Any], kind: type, text: str, tmp_path: Path) -> None:
    oc.save({"a": W, "aa": B}, tmp_path / "x")
    with pytest.raises(kind, match=text):
        oc.load(tmp_path / "x", **options)
