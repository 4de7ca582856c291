"""prepare_qat, parameters, apply and the observers' switches."""

from __future__ import annotations

import copy
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from autograd.misc.optimizers import adam, sgd

import octavo as oc
from octavo._models.walk import walk
from octavo._util.arrays import is_traced
from training import job, minmax, mlp, trained

F = np.float32
LINEAR = {oc.nn.Linear}


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
    assert list(params) == ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
    assert all(value.dtype == F for value in params.values())
    np.testing.assert_array_equal(params["layers.0.weight"], net[0].weight)
    params["layers.0.weight"] += 1
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


def test_gradient_passes_a_layers_own_relu_where_it_is_positive() -> None:
    layer = InOut(np.random.default_rng(0))
    layer.b -= 2
    own = oc.prepare_qat(layer, minmax(), layers=IN_OUT)
    behind = oc.nn.Sequential(oc.nn.Linear(layer.W.T, layer.b[0]), oc.nn.ReLU())
    separate = oc.prepare_qat(behind, minmax(), layers=LINEAR)
    x = np.random.default_rng(1).standard_normal((16, 6), dtype=F)
    found = autograd.grad(job(own, x, np.ones((16, 5))))(oc.qat.parameters(own))
    expected = autograd.grad(job(separate, x, np.ones((16, 5))))(oc.qat.parameters(separate))
    np.testing.assert_allclose(found["W"], expected["layers.0.weight"].T, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["b"][0], expected["layers.0.bias"], rtol=1e-5, atol=1e-7)


def test_gradients_and_results_are_float32_through_every_kind_of_layer() -> None:
    model = oc.prepare_qat(mlp(6, 8, 3), minmax(learnable=True), layers=LINEAR)
    x = np.random.default_rng(0).standard_normal((16, 6))
    oc.calibrate(model, [x])
    gradient = autograd.grad(job(model, x, np.zeros((16, 3))))(oc.qat.parameters(model))
    assert {g.dtype for g in gradient.values()} == {np.dtype(F)}
    assert len(gradient) == 10  # weight, bias, weight scale, input scale and zero point of both layers


@pytest.mark.slow
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
        assert caught.value.__notes__ == ["octavo.qat.apply: this was in layer model.layers.1 (Keeping)"]
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
    assert list(params) == ["layers.0.weight", "layers.0.bias", "layers.2.bias"]
    x = np.random.default_rng(1).standard_normal((4, 6), dtype=F)
    oc.calibrate(model, [x])
    oc.qat.disable_observer(model)
    params["layers.0.weight"] *= 2
    y = oc.qat.apply(model, params, x)
    oc.qat.set_parameters(model, params)
    assert model[0].layer.weight is model[2].layer.weight
    np.testing.assert_array_equal(model(x), y)


def test_layers_left_in_float_are_trained_too() -> None:
    model = oc.prepare_qat(mlp(6, 8, 3), {"": minmax(2), "layers.2": None}, layers=LINEAR)
    x = np.random.default_rng(0).standard_normal((16, 6), dtype=F)
    params = trained(model, x, np.ones((16, 3), F))
    assert "layers.2.weight" in params
    oc.calibrate(model, [x])
    converted = oc.convert(model)
    assert type(converted[2]) is oc.nn.Linear
    np.testing.assert_array_equal(converted[2].weight, params["layers.2.weight"].astype(F))
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
    assert params["layers.2.input_fake_quant.scale"] == start[2].scale
    assert params["layers.2.input_fake_quant.zero_point"] == start[2].zero_point
    assert params["layers.0.weight_fake_quant.scale"].shape == (8,)
    assert "layers.0.weight_fake_quant.zero_point" not in params
    new = trained(model, x, np.ones((64, 3), F), steps=5)
    oc.calibrate(model, [100 * x])  # the observers rest
    found = model[2].input_fake_quant.calculate_qparams()
    assert found.scale == F(new["layers.2.input_fake_quant.scale"])
    assert found.scale != start[2].scale
    converted = oc.convert(model)
    np.testing.assert_array_equal(converted[0].scale, new["layers.0.weight_fake_quant.scale"].astype(F))


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


class BehindStub:
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.q, self.a, self.b = oc.QuantStub(), oc.nn.Linear.init(8, 4, rng=rng), oc.nn.Linear.init(8, 4, rng=rng)

    def __call__(self, x: Any) -> Any:
        h = self.q(x)
        return self.a(h) + self.b(h)


def test_a_learned_range_of_a_stub_is_one_parameter_and_is_stored() -> None:
    learned = oc.FakeQuantize.with_args(learnable=True, dtype="quint8", qscheme=oc.per_tensor_affine, quant_max=15)
    qconfig = oc.QConfig(activation=learned, weight=oc.default_qat_qconfig.weight)
    x = np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32)
    model = oc.prepare_qat(BehindStub(), qconfig, layers={oc.nn.Linear})
    oc.calibrate(model, [x])
    params = oc.qat.parameters(model)
    name = "q.input_fake_quant.scale"
    assert [n for n in params if n.endswith("scale")] == [name]
    params[name] = params[name] * np.float32(2)
    expected = oc.qat.apply(model, params, x)
    oc.qat.set_parameters(model, params)
    assert model.q.input_fake_quant.scale == params[name]
    np.testing.assert_array_equal(model(x), expected)
    assert oc.convert(model).q.qparams.scale == params[name]


def test_learning_begins_for_all_layers_or_for_none() -> None:
    learned = oc.FakeQuantize.with_args(learnable=True, dtype="quint8", qscheme=oc.per_tensor_affine)
    qconfig = oc.QConfig(activation=learned, weight=oc.default_qat_qconfig.weight)
    layers = [oc.nn.Linear.init(8, 8), oc.nn.Linear.init(8, 4)]
    model = oc.prepare_qat(oc.nn.Sequential(*layers), qconfig, layers={oc.nn.Linear})
    first, x = model.layers[0].input_fake_quant, np.ones((4, 8), np.float32)
    first.observe(x)
    with pytest.raises(ValueError, match=r"layers\.1.*has seen no data"):
        oc.qat.parameters(model)
    assert first.scale is None
    oc.calibrate(model, [100 * x])
    oc.qat.parameters(model)
    assert first.scale * 255 == pytest.approx(0.99 * 1 + 0.01 * 100)  # of both, as the moving average has it
