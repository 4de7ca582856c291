"""convert after prepare_qat: the integer model that training simulated, and parameters found elsewhere."""

from __future__ import annotations

from typing import Any

import autograd
import numpy as np
import pytest
from autograd.misc.optimizers import adam

import octavo as oc
from octavo._models.walk import walk
from static_models import FLOATS, FOLDED, INTEGERS, REFERENCE_QCONFIG, Net, Reference, both, data, relu
from training import job, minmax, mlp, trained

F = np.float32
LINEAR = {oc.nn.Linear}


def integers(layer: Any) -> tuple[Any, ...]:
    """What makes a converted layer."""
    return (
        layer.int_repr().tobytes(), layer.scale.tobytes(), layer.bias.tobytes(), layer.input_qparams,
        layer.output_qparams, layer.relu,
    )  # fmt: skip


# What training refuses, and calibration gives floats.
IN_PLACE = ("residual-in-place", "relu-in-place", "masked-in-place", "copied-into", "view-in-place")


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", [name for name in INTEGERS | FOLDED | FLOATS if name not in IN_PLACE])
def test_converted_model_computes_what_training_simulated(name: str, bits: int) -> None:
    body = (INTEGERS | FOLDED | FLOATS)[name]
    model = oc.prepare_qat(Net(body), minmax(bits), layers=LINEAR)
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


def test_layer_with_a_range_of_its_own_behind_a_quant_stub_quantizes_again() -> None:
    net = Net(lambda m, x: m.a(m.stub(x)[:2]))
    model = oc.prepare_qat(net, minmax(3), layers=LINEAR)
    x = data()
    x[:2] *= 0.6
    oc.calibrate(model, [x])
    converted = oc.convert(model, unobserved="float")
    assert converted.a.input_qparams != converted.stub.qparams
    np.testing.assert_allclose(converted(x), model(x), atol=1e-5)


def test_quant_stub_used_as_float_too() -> None:
    net = Net(lambda m, x: both(h := m.stub(x), m.a(h) + h)[1])
    model = oc.prepare_qat(net, minmax(3), layers=LINEAR)
    oc.calibrate(model, [data()])
    converted = oc.convert(model, unobserved="float")
    np.testing.assert_allclose(converted(data()), model(data()), atol=1e-5)


@pytest.mark.slow
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


@pytest.mark.slow
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
        "layers.0": {
            "input": oc.QParams(0.05, 10, "uint8"),
            "weight": oc.QParams(scale, 0, "int8", axis=0),
            "output": oc.QParams(0.02, 3, "uint8"),
        },
        "layers.2": {"input": oc.QParams(0.02, 3, "uint8"), "weight": oc.QParams(0.01, 0, "int4")},
    }
    for prepare in (oc.prepare, oc.prepare_qat):
        converted = oc.convert(prepare(model, oc.default_qconfig, layers=LINEAR), qparams=given)
        first, second = converted[0], converted[2]
        assert (first.input_qparams, first.output_qparams) == (
            given["layers.0"]["input"],
            given["layers.0"]["output"],
        )
        np.testing.assert_array_equal(first.int_repr(), oc.quantize(model[0].weight, given["layers.0"]["weight"]))
        np.testing.assert_array_equal(first.scale, scale)
        np.testing.assert_array_equal(second.scale, F([0.01] * 3))
        assert second.int_repr().max() <= 7
        h = oc.fake_quantize(x, given["layers.0"]["input"]) @ first.weight.T + first.bias
        h = np.maximum(oc.fake_quantize(h, first.output_qparams), 0)
        np.testing.assert_allclose(converted(x), h @ second.weight.T + second.bias, atol=0.02)


def test_given_parameters_go_before_those_of_training() -> None:
    model = oc.prepare_qat(mlp(6, 8, 3), minmax(), layers=LINEAR)
    x = np.random.default_rng(0).standard_normal((16, 6), dtype=F)
    oc.calibrate(model, [x])
    given = oc.QParams(0.25, 7, "uint8")
    converted = oc.convert(model, qparams={"layers.0": {"input": given}})
    assert converted[0].input_qparams == given
    assert converted[0].relu
    converted = oc.convert(model, qparams={"layers.0": {"output": given}})
    assert converted[0].output_qparams == given
    assert not converted[0].relu  # "output" is that of the layer, not of the ReLU behind it
