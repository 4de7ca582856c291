"""prepare_qat, parameters, apply and convert: training simulates the integer model, and conversion gives it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from autograd.misc.optimizers import adam, sgd

import octavo as oc
from octavo.qparams import is_traced
from octavo.tree import walk
from test_static_ptq import FLOATS, FOLDED, INTEGERS, REFERENCE_QCONFIG, Net, Reference, both, data, relu

F = np.float32
LINEAR = {oc.nn.Linear}


def minmax(bits: int = 8, *, learnable: bool = False, weight_bits: int | None = None) -> oc.QConfig:
    """Unsigned activations and signed symmetric weights per channel of so many bits."""
    half = 2 ** ((weight_bits or bits) - 1)
    return oc.QConfig(
        activation=oc.FakeQuantize.with_args(
            observer=oc.MinMaxObserver, learnable=learnable, dtype="quint8", quant_min=0, quant_max=2**bits - 1
        ),
        weight=oc.FakeQuantize.with_args(
            observer=oc.PerChannelMinMaxObserver, learnable=learnable, dtype="qint8",
            qscheme=oc.per_channel_symmetric, quant_min=-half, quant_max=half - 1,
        ),
    )  # fmt: skip


def mlp(*sizes: int, seed: int = 0) -> oc.nn.Sequential:
    rng = np.random.default_rng(seed)
    layers: list[Any] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [oc.nn.Linear.init(fan_in, fan_out, rng=rng), oc.nn.ReLU()]
    return oc.nn.Sequential(*layers[:-1])


def job(model: Any, x: np.ndarray, target: np.ndarray) -> Callable[[Any], Any]:
    """The loss as a function of the parameters."""
    return lambda params: anp.mean((oc.qat.apply(model, params, x) - target) ** 2)


def trained(model: Any, x: np.ndarray, target: np.ndarray, steps: int = 3) -> dict[str, np.ndarray]:
    gradient = autograd.grad(job(model, x, target))
    params = adam(lambda p, i: gradient(p), oc.qat.parameters(model), num_iters=steps, step_size=0.01)
    oc.qat.set_parameters(model, params)
    return params


def integers(layer: Any) -> tuple[Any, ...]:
    """What makes a converted layer."""
    return (
        layer.int_repr().tobytes(), layer.scale.tobytes(), layer.bias.tobytes(), layer.input_qparams,
        layer.output_qparams, layer.relu,
    )  # fmt: skip


# conversion


@pytest.mark.parametrize("name", INTEGERS | FOLDED)
def test_convert_gives_the_model_of_static_quantization(name: str) -> None:
    net = Net((INTEGERS | FOLDED)[name])
    static = oc.prepare(net, REFERENCE_QCONFIG, layers=LINEAR)
    qat = oc.prepare_qat(net, minmax(), layers=LINEAR)
    oc.qat.disable_fake_quant(qat)  # so that both see the float model's values
    for prepared in (static, qat):
        oc.calibrate(prepared, [data()])
    expected, found = (oc.convert(prepared, unobserved="float") for prepared in (static, qat))
    alike = name not in ("slice", "split", "relu-and-plain", "layer-and-stub", "slice-relu")  # takers see one range
    for layer in "abc":
        one, other = getattr(found, layer), getattr(expected, layer)
        assert type(one) is type(other)
        if isinstance(one, oc.StaticQuantLinear):
            assert one.int_repr().tobytes() == other.int_repr().tobytes()
            assert one.scale.tobytes() == other.scale.tobytes()
            assert one.input_qparams == other.input_qparams
            if alike:
                assert integers(one) == integers(other)


# Of bodies that assign in place, which training refuses, some would change what a layer has handed on.
NOT_IN_PLACE = {
    name: body
    for name, body in (INTEGERS | FOLDED | FLOATS).items()
    if body.__name__ not in ("residual_in_place", "relu_in_place", "masked_in_place", "copied_into", "view_in_place")
}


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", NOT_IN_PLACE)
def test_converted_model_computes_what_training_simulated(name: str, bits: int) -> None:
    model = oc.prepare_qat(Net(NOT_IN_PLACE[name]), minmax(bits), layers=LINEAR)
    oc.calibrate(model, [data()])
    converted = oc.convert(model, unobserved="float")
    model.log, converted.log = [], []
    expected, found = model(data()), converted(data())
    # An element that float and integer sums put on two sides of a tie is off by a step, and what comes of it by
    # a step times some weights; such elements are rare, and everything else agrees to float32.
    largest = max(
        float(layer.input_qparams.scale) for _, layer in walk(converted) if type(layer) is oc.StaticQuantLinear
    )
    for e, f in zip(*(v if isinstance(v, (tuple, list)) else [v] for v in (expected, found)), strict=True):
        apart = np.abs(np.asarray(f) - np.asarray(e))
        assert apart.max() <= 2 * largest
        assert np.mean(apart > 1e-5) < 0.05


def test_in_place_code_between_layers_gives_floats() -> None:
    """What in-place code gets in calibration, it gets in the converted model."""
    net = Net(FLOATS["relu-in-place"])
    model = oc.prepare_qat(net, minmax(), layers=LINEAR)
    oc.calibrate(model, [data()])
    converted = oc.convert(model, unobserved="float")
    assert converted.a.output_qparams is None
    np.testing.assert_allclose(converted(data()), net(data()), atol=0.06)


def test_takers_with_ranges_of_their_own_quantize_themselves() -> None:
    model = oc.prepare_qat(Net(lambda m, x: both(h := m.a(x), m.b(relu(h)) + m.c(h))[1]), minmax(4), layers=LINEAR)
    oc.calibrate(model, [data()])
    converted = oc.convert(model, unobserved="float")
    assert converted.a.output_qparams is None
    assert converted.b.input_qparams != converted.c.input_qparams
    np.testing.assert_allclose(converted(data()), model(data()), atol=1e-5)


def test_layer_behind_a_quant_stub_takes_its_grid() -> None:
    net = Net(lambda m, x: m.a(m.stub(x)))
    model = oc.prepare_qat(net, minmax(2), layers={oc.nn.Linear: oc.LayerSpec()})
    trained(model, data(), data(seed=2))
    assert not model.a.input_fake_quant.seen
    oc.calibrate(model, [data()])
    converted = oc.convert(model, unobserved="float")
    assert type(converted.stub(data())) is oc.QuantizedArray
    assert converted.a.input_qparams == converted.stub.qparams
    np.testing.assert_allclose(converted(data()), model(data()), atol=1e-5)


def test_quant_stub_used_as_float_too() -> None:
    net = Net(lambda m, x: both(h := m.stub(x), m.a(h) + h)[1])
    model = oc.prepare_qat(net, minmax(3), layers=LINEAR)
    oc.calibrate(model, [data()])
    converted = oc.convert(model, unobserved="float")
    np.testing.assert_allclose(converted(data()), model(data()), atol=1e-5)


@pytest.mark.parametrize("learnable", [False, True], ids=["observed", "learned"])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_trained_model_converts_to_its_integers(bits: int, learnable: bool) -> None:
    model = oc.prepare_qat(mlp(12, 16, 16, 5), minmax(bits, learnable=learnable), layers=LINEAR)
    rng = np.random.default_rng(3)
    x, target = rng.standard_normal((64, 12), dtype=F), rng.standard_normal((64, 5), dtype=F)
    oc.calibrate(model, [x])
    trained(model, x, target)
    converted = oc.convert(model)
    assert [converted[i].relu for i in (0, 2, 4)] == [True, True, False]
    assert type(converted[0](x)) is oc.QuantizedArray
    for i in (0, 2, 4):
        q = converted[i].int_repr()
        assert q.min() >= -(2 ** (bits - 1))
        assert q.max() < 2 ** (bits - 1)
        np.testing.assert_array_equal(q, oc.quantize(model[i].weight, model[i].weight_fake_quant.calculate_qparams()))
    apart = np.abs(converted(x) - model(x))
    step = float(converted[4].input_qparams.scale) * np.abs(converted[4].weight).max()
    assert apart.max() <= step + 1e-5
    assert np.mean(apart > 1e-5) < 0.05


def test_reference_model_trains_converts_and_runs() -> None:
    rng = np.random.default_rng(0)
    model = oc.prepare_qat(Reference(rng), minmax(), layers=LINEAR)
    x, target = rng.standard_normal((256, 768), dtype=F), rng.standard_normal((256, 64), dtype=F)
    value_and_grad = autograd.value_and_grad(job(model, x, target))
    losses = []

    def gradient(params: Any, _: int) -> Any:
        model.between.clear()
        loss, g = value_and_grad(params)
        losses.append(float(loss))
        return g

    params = adam(gradient, oc.qat.parameters(model), num_iters=4, step_size=0.01)
    assert losses[0] > losses[1] > losses[2]
    oc.qat.set_parameters(model, params)
    oc.calibrate(model, [x[:10]])
    converted = oc.convert(model)
    assert converted.linear1.output_qparams == converted.linear2.input_qparams
    assert all(getattr(converted, f"linear{i}").output_qparams is not None for i in (1, 2, 3, 4))
    assert np.abs(converted(x) - model(x)).max() < 0.02
    assert converted.between[-1] == "QuantizedArray"


def test_conversion_without_calibration_keeps_the_numbers_and_hands_on_floats() -> None:
    model = oc.prepare_qat(mlp(6, 8, 3), minmax(4), layers=LINEAR)
    x = np.random.default_rng(0).standard_normal((16, 6), dtype=F)
    trained(model, x, np.zeros((16, 3), F))
    converted = oc.convert(model)
    assert converted[0].output_qparams is None
    np.testing.assert_allclose(converted(x), model(x), atol=1e-5)


def test_types_of_four_bits_convert() -> None:
    qconfig = oc.QConfig(
        activation=oc.MinMaxObserver.with_args(dtype="quint4"),
        weight=oc.PerChannelMinMaxObserver.with_args(dtype="qint4", qscheme=oc.per_channel_symmetric),
    )
    for prepare in (oc.prepare, oc.prepare_qat):
        model = prepare(mlp(6, 8, 3), qconfig, layers=LINEAR)
        x = np.random.default_rng(0).standard_normal((16, 6), dtype=F)
        oc.calibrate(model, [x])
        converted = oc.convert(model)
        assert converted[0].input_qparams.qtype is oc.quint8
        assert converted[0].input_qparams.qmax == 15
        assert np.abs(converted[0].int_repr()).max() <= 8
        if prepare is oc.prepare_qat:
            np.testing.assert_allclose(converted(x), model(x), atol=1e-5)


# given parameters


def test_given_parameters_make_the_integer_model_without_data() -> None:
    model = mlp(6, 8, 3)
    x = np.random.default_rng(0).standard_normal((16, 6), dtype=F)
    scale = np.linspace(0.01, 0.02, 8).astype(F)
    given = {
        "layers[0]": {
            "input": oc.QParams(0.05, 10, "uint8"),
            "weight": oc.QParams(scale, 0, "int8", axis=0),
            "output": oc.QParams(0.02, 3, "uint8"),
        },
        "layers[2]": {"input": oc.QParams(0.02, 3, "uint8"), "weight": oc.QParams(0.01, 0, "int4")},
    }
    for prepare in (oc.prepare, oc.prepare_qat):
        converted = oc.convert(prepare(model, oc.default_qconfig, layers=LINEAR), qparams=given)
        first, second = converted[0], converted[2]
        assert (first.input_qparams, first.output_qparams) == (
            given["layers[0]"]["input"],
            given["layers[0]"]["output"],
        )
        np.testing.assert_array_equal(first.int_repr(), oc.quantize(model[0].weight, given["layers[0]"]["weight"]))
        np.testing.assert_array_equal(first.scale, scale)
        np.testing.assert_array_equal(second.scale, F([0.01] * 3))
        assert second.int_repr().max() <= 7
        h = oc.fake_quantize(x, given["layers[0]"]["input"]) @ first.weight.T + first.bias
        h = np.maximum(oc.fake_quantize(h, first.output_qparams), 0)
        np.testing.assert_allclose(converted(x), h @ second.weight.T + second.bias, atol=0.02)


def test_given_parameters_go_before_those_of_training() -> None:
    model = oc.prepare_qat(mlp(6, 8, 3), minmax(), layers=LINEAR)
    x = np.random.default_rng(0).standard_normal((16, 6), dtype=F)
    oc.calibrate(model, [x])
    given = oc.QParams(0.25, 7, "uint8")
    converted = oc.convert(model, qparams={"layers[0]": {"input": given}})
    assert converted[0].input_qparams == given
    assert converted[0].relu
    assert oc.convert(model, qparams={"layers[0]": {"output": given}})[0].output_qparams == given


# parameters and apply


class InOut:
    def __init__(self, rng: np.random.Generator) -> None:
        self.W = rng.standard_normal((6, 5))  # float64, (in, out)
        self.b = rng.standard_normal((1, 5))

    def run(self, x: Any) -> Any:
        return np.maximum(x @ self.W + self.b, 0)


IN_OUT = {InOut: oc.LayerSpec(weight="W", bias="b", layout="in_out", call="run", activation="relu")}


def test_parameters_are_float32_copies_by_path() -> None:
    net = mlp(6, 8, 3)
    model = oc.prepare_qat(net, minmax(), layers=LINEAR)
    params = oc.qat.parameters(model)
    assert list(params) == ["layers[0].weight", "layers[0].bias", "layers[2].weight", "layers[2].bias"]
    assert all(value.dtype == F for value in params.values())
    np.testing.assert_array_equal(params["layers[0].weight"], net[0].weight)
    params["layers[0].weight"] += 1
    np.testing.assert_array_equal(model[0].weight, net[0].weight)


def test_in_out_layer_of_float64_with_its_own_relu() -> None:
    layer = InOut(np.random.default_rng(0))
    model = oc.prepare_qat(layer, minmax(), layers=IN_OUT)
    x = np.random.default_rng(1).standard_normal((16, 6))
    params = oc.qat.parameters(model)
    assert {name: value.shape for name, value in params.items()} == {"W": (6, 5), "b": (1, 5)}
    gradient = autograd.grad(job(model, x, np.zeros((16, 5))))(params)
    assert {name: (g.shape, g.dtype) for name, g in gradient.items()} == {"W": ((6, 5), F), "b": ((1, 5), F)}
    oc.qat.set_parameters(model, {"W": params["W"] / 2})
    assert model.layer.W.dtype == np.float64
    np.testing.assert_array_equal(layer.W.astype(F), 2 * model.layer.W)
    oc.calibrate(model, [x], forward=lambda m, b: m.run(b))
    converted = oc.convert(model)
    np.testing.assert_allclose(converted.run(x), model.run(x.astype(F)), atol=1e-5)


def test_gradients_and_results_are_float32_through_every_kind_of_layer() -> None:
    model = oc.prepare_qat(mlp(6, 8, 3), minmax(learnable=True), layers=LINEAR)
    x = np.random.default_rng(0).standard_normal((16, 6))
    oc.calibrate(model, [x])
    gradient = autograd.grad(job(model, x, np.zeros((16, 3))))(oc.qat.parameters(model))
    assert {g.dtype for g in gradient.values()} == {np.dtype(F)}
    assert len(gradient) == 10  # weight, bias, weight scale, input scale and zero point of both layers


@pytest.mark.parametrize("optimizer", [adam, sgd])
def test_loss_falls_with_autograds_optimizers(optimizer: Any) -> None:
    model = oc.prepare_qat(mlp(6, 32, 3), minmax(4), layers=LINEAR)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((128, 6), dtype=F)
    loss = job(model, x, np.tanh(x[:, :3]) * 2)
    gradient = autograd.grad(loss)
    params = oc.qat.parameters(model)
    oc.calibrate(model, [x])
    before = loss(params)
    after = loss(optimizer(lambda p, i: gradient(p), params, num_iters=60, step_size=0.05))
    assert after < before / 2


def test_apply_binds_parameters_and_leaves_the_model_as_it_was() -> None:
    model = oc.prepare_qat(mlp(6, 8, 3), minmax(), layers=LINEAR)
    x = np.random.default_rng(0).standard_normal((16, 6), dtype=F)
    oc.calibrate(model, [x])
    params, y = oc.qat.parameters(model), model(x)
    other = {name: 2 * value for name, value in params.items()}
    changed = oc.qat.apply(model, other, x)
    assert not np.allclose(changed, y)
    np.testing.assert_array_equal(oc.qat.apply(model, {}, x), y)
    np.testing.assert_array_equal(model(x), y)
    oc.qat.disable_observer(model)
    oc.qat.set_parameters(model, other)
    oc.qat.set_parameters(model, params)
    np.testing.assert_array_equal(model(x), y)


class Keeping:
    """Keeps what it sees, in an attribute and in a list, and counts its calls."""

    def __init__(self, fail: bool = False) -> None:
        self.kept: Any = None
        self.all: list[Any] = []
        self.calls, self.fail = 0, fail

    def __call__(self, x: Any) -> Any:
        self.kept, self.calls = (x, x), self.calls + 1
        self.all.append(x)
        if self.fail:
            raise KeyError("of the model's own")
        return np.tanh(x)


@pytest.mark.parametrize("fail", [False, True])
def test_no_traced_value_stays_behind(fail: bool) -> None:
    rng = np.random.default_rng(0)
    keeping = Keeping(fail)
    net = oc.nn.Sequential(oc.nn.Linear.init(6, 8, rng=rng), keeping, oc.nn.Linear.init(8, 3, rng=rng))
    model = oc.prepare_qat(net, minmax(), layers=LINEAR)
    x = rng.standard_normal((16, 6), dtype=F)
    gradient = autograd.grad(job(model, x, np.zeros((16, 3))))
    if fail:
        with pytest.raises(KeyError) as caught:
            gradient(oc.qat.parameters(model))
        assert caught.value.__notes__ == ["octavo.qat.apply: this was in layer model.layers[1] (Keeping)"]
    else:
        gradient(oc.qat.parameters(model))
    assert not any(is_traced(v) for _, v in walk(model))
    assert type(model[1].kept[0]) is np.ndarray
    assert model[1].calls == 1
    assert model[0].tracer.bound == {}
    assert not model[0].tracer.applying


def test_shared_layers_and_shared_arrays_are_one_parameter() -> None:
    layer = oc.nn.Linear.init(6, 6, rng=np.random.default_rng(0))
    tied = oc.nn.Linear(layer.weight, layer.bias.copy())
    model = oc.prepare_qat(oc.nn.Sequential(layer, layer, tied), minmax(), layers=LINEAR)
    params = oc.qat.parameters(model)
    assert list(params) == ["layers[0].weight", "layers[0].bias", "layers[2].bias"]
    x = np.random.default_rng(1).standard_normal((4, 6), dtype=F)
    oc.calibrate(model, [x])
    oc.qat.disable_observer(model)
    params["layers[0].weight"] *= 2
    y = oc.qat.apply(model, params, x)
    oc.qat.set_parameters(model, params)
    assert model[0].layer.weight is model[2].layer.weight
    np.testing.assert_array_equal(model(x), y)


def test_layers_left_in_float_are_trained_too() -> None:
    model = oc.prepare_qat(mlp(6, 8, 3), {"": minmax(2), "layers[2]": None}, layers=LINEAR)
    x = np.random.default_rng(0).standard_normal((16, 6), dtype=F)
    params = trained(model, x, np.ones((16, 3), F))
    assert "layers[2].weight" in params
    oc.calibrate(model, [x])
    converted = oc.convert(model)
    assert type(converted[2]) is oc.nn.Linear
    np.testing.assert_array_equal(converted[2].weight, params["layers[2].weight"].astype(F))
    np.testing.assert_allclose(converted(x), model(x), atol=1e-5)


def test_inputs_of_any_leading_shape_and_type() -> None:
    model = oc.prepare_qat(oc.nn.Linear.init(6, 3, rng=np.random.default_rng(0)), minmax(), layers=LINEAR)
    params = oc.qat.parameters(model)
    pixels = np.random.default_rng(1).integers(0, 255, (2, 5, 6)).astype(np.uint8)
    gradient = autograd.grad(job(model, pixels, np.zeros((2, 5, 3))))(params)
    flat = autograd.grad(job(model, pixels.reshape(10, 6).astype(F), np.zeros((10, 3))))(params)
    for name in params:
        np.testing.assert_allclose(gradient[name], flat[name], rtol=1e-6)
    assert model(pixels[0, 0]).shape == (3,)
    assert oc.qat.apply(model, params, pixels[:0]).shape == (0, 5, 3)


def test_gradient_of_the_input() -> None:
    model = oc.prepare_qat(mlp(6, 8, 3), minmax(), layers=LINEAR)
    x = np.random.default_rng(0).standard_normal((4, 6), dtype=F)
    oc.calibrate(model, [x])
    g = autograd.grad(lambda x: anp.sum(model(x)))(x)
    h = model[0].weight.T @ ((model[0](x) > 0).T * (model[2].weight.sum(axis=0)[:, None]))
    np.testing.assert_allclose(g, h.T, atol=0.05)
    assert g.dtype == F


# observers


def test_observers_run_in_training_only_and_see_raw_values() -> None:
    model = oc.prepare_qat(oc.nn.Linear.init(6, 3, rng=np.random.default_rng(0)), minmax(2), layers=LINEAR)
    params, observer = oc.qat.parameters(model), model.input_fake_quant.observer
    x = np.random.default_rng(1).standard_normal((16, 6), dtype=F)
    oc.qat.apply(model, params, x, training=True)
    assert (observer.min_val, observer.max_val) == (x.min(), x.max())
    model(3 * x)
    oc.qat.apply(model, params, 3 * x)
    assert observer.max_val == x.max()
    autograd.grad(job(model, 2 * x, np.zeros((16, 3))))(params)
    assert observer.max_val == 2 * x.max()
    oc.qat.disable_observer(model)
    autograd.grad(job(model, 3 * x, np.zeros((16, 3))))(params)
    oc.calibrate(model, [3 * x])
    assert observer.max_val == 2 * x.max()
    oc.qat.enable_observer(model)
    oc.calibrate(model, [3 * x])
    assert observer.max_val == 3 * x.max()


def test_default_qconfig_takes_the_range_of_the_weights_as_they_are() -> None:
    model = oc.prepare_qat(oc.nn.Linear.init(6, 3), oc.default_qat_qconfig, layers=LINEAR)
    for factor in (1, 0.1, 5):
        weight = factor * np.random.default_rng(0).standard_normal((3, 6), dtype=F)
        oc.qat.set_parameters(model, {"weight": weight})
        expected = oc.choose_qparams(weight, "int8", axis=0)
        assert model.weight_fake_quant.calculate_qparams() == expected


def test_without_fake_quantization_the_model_is_the_float_model() -> None:
    net = mlp(6, 8, 3)
    model = oc.prepare_qat(net, minmax(2), layers=LINEAR)
    x = np.random.default_rng(0).standard_normal((16, 6), dtype=F)
    oc.calibrate(model, [x])
    assert not np.allclose(model(x), net(x))
    oc.qat.disable_fake_quant(model)
    np.testing.assert_array_equal(model(x), net(x))
    oc.qat.enable_fake_quant(model)
    assert not np.allclose(model(x), net(x))


def test_learned_scales_start_from_the_observer_and_move() -> None:
    model = oc.prepare_qat(mlp(6, 8, 3), minmax(3, learnable=True), layers=LINEAR)
    x = np.random.default_rng(0).standard_normal((64, 6), dtype=F)
    oc.calibrate(model, [x])
    start = {i: model[i].input_fake_quant.observer.calculate_qparams() for i in (0, 2)}
    params = oc.qat.parameters(model)
    assert params["layers[2].input_fake_quant.scale"] == start[2].scale
    assert params["layers[2].input_fake_quant.zero_point"] == start[2].zero_point
    assert params["layers[0].weight_fake_quant.scale"].shape == (8,)
    assert "layers[0].weight_fake_quant.zero_point" not in params
    new = trained(model, x, np.ones((64, 3), F), steps=5)
    oc.calibrate(model, [100 * x])  # the observers rest
    found = model[2].input_fake_quant.calculate_qparams()
    assert found.scale == F(new["layers[2].input_fake_quant.scale"])
    assert found.scale != start[2].scale
    converted = oc.convert(model)
    np.testing.assert_array_equal(converted[0].scale, new["layers[0].weight_fake_quant.scale"].astype(F))


def test_copies_of_a_prepared_model_are_independent() -> None:
    model = oc.prepare_qat(mlp(6, 8, 3), minmax(), layers=LINEAR)
    other = copy.deepcopy(model)
    assert other[0].tracer is other[2].tracer
    assert other[0].tracer is not model[0].tracer
    oc.calibrate(model, [np.ones((2, 6), F)])
    assert not other[0].input_fake_quant.seen


def test_original_is_left_alone_and_inplace_changes_it() -> None:
    net = mlp(6, 8, 3)
    oc.prepare_qat(net, minmax(), layers=LINEAR)
    assert type(net[0]) is oc.nn.Linear
    layer = net[0]
    assert oc.prepare_qat(net, minmax(), layers=LINEAR, inplace=True) is net
    assert net[0].layer is layer
