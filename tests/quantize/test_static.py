"""prepare, calibrate, convert: where integers are handed on, that the numbers come out right, and bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import octavo as oc
from static_models import (
    FLOATS,
    FOLDED,
    INTEGERS,
    REFERENCE_QCONFIG,
    F,
    Net,
    Reference,
    both,
    close,
    convert,
    data,
    prepared_net,
    relu,
)


def calibrated(body: Callable[[Net, Any], Any], **options: Any) -> tuple[Net, Net, Any]:
    net, prepared = prepared_net(body, **options)
    oc.calibrate(prepared, [data(), data()])
    return net, prepared, convert(prepared)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [F, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", INTEGERS | FOLDED)
def test_integer_uses_get_integers(name: str, dtype: type) -> None:
    body = (INTEGERS | FOLDED)[name]
    net, prepared, converted = calibrated(body, dtype=dtype)
    x = data().astype(dtype)
    assert type(converted.a(x)) is oc.QuantizedArray
    assert converted.a.relu is (name in FOLDED)
    close(converted(x), net(x))
    for a, e in zip(np.atleast_2d(prepared(x)), np.atleast_2d(net(x)), strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOATS)
def test_any_other_use_gets_float32(name: str) -> None:
    net, prepared, converted = calibrated(FLOATS[name])
    assert type(converted.a(data())) is np.ndarray
    assert not converted.a.relu
    net.log, prepared.log, converted.log = [], [], []
    for _ in range(2):
        expected = net(data())
        close(prepared(data()), expected)
        close(converted(data()), expected)


def test_model_that_returns_a_layers_result_returns_an_array() -> None:
    for body in (INTEGERS["layer"], FOLDED["chain"]):
        _, _, converted = calibrated(body)
        assert type(converted(data())) is np.ndarray
        assert converted(data()).dtype == F


def test_uses_of_all_batches_count() -> None:
    def body(m: Net, x: Any) -> Any:
        h = m.a(x)
        return m.b(relu(h)) if len(x) > 4 else m.b(relu(h)) + h

    _, prepared = prepared_net(body)
    oc.calibrate(prepared, [data()])
    assert convert(prepared).a.relu
    oc.calibrate(prepared, [data(2)])
    assert convert(prepared).a.output_qparams is None


def test_branch_that_calibration_did_not_take_is_an_error_and_not_a_wrong_number() -> None:
    net, _, converted = calibrated(lambda m, x: both(h := m.a(x), m.b(relu(h)) if len(x) > 4 else m.b(h))[1])
    close(converted(data()), net(data()))
    with pytest.raises(RuntimeError, match=r"layer model\.a was converted with the ReLU behind it"):
        converted(data(2))


def test_running_by_hand_observes_but_folds_no_relu() -> None:
    net, prepared = prepared_net(FOLDED["chain"])
    prepared(data())
    converted = convert(prepared)
    assert type(converted.a(data())) is oc.QuantizedArray
    assert not converted.a.relu
    close(converted(data()), net(data()))
    oc.calibrate(prepared, [data()])
    prepared(data())
    assert convert(prepared).a.relu
    net, prepared = prepared_net(lambda m, x: both(h := m.a(x), m.b(relu(h)) + 1))
    prepared(data())
    close(convert(prepared)(data()), net(data()))  # what was returned, nobody saw: right all the same
    result = prepared(data())
    assert type(convert(prepared).a(data())) is np.ndarray  # what is still there was returned
    del result


def test_integer_chain_equals_the_definition() -> None:
    _, _, converted = calibrated(FOLDED["relu"])
    x, a, b = data(), converted.a, converted.b
    q = oc.quantize(x, a.input_qparams)
    acc = (q.astype(np.int64) - int(a.input_qparams.zero_point)) @ a.int_repr().T.astype(np.int64)
    y = relu(acc.astype(F) * (F(a.input_qparams.scale) * a.scale) + a.bias)
    q = oc.quantize(y, a.output_qparams)
    np.testing.assert_array_equal(a(x).int_repr(), q)
    acc = (q.astype(np.int64) - int(a.output_qparams.zero_point)) @ b.int_repr().T.astype(np.int64)
    np.testing.assert_array_equal(converted(x), acc.astype(F) * (F(a.output_qparams.scale) * b.scale) + b.bias)


def test_ranges_and_weights_are_the_observers() -> None:
    net, _, converted = calibrated(FOLDED["relu"])
    x = data()
    y = relu(net.a(x))
    for found, seen in (
        (converted.a.input_qparams, x),
        (converted.a.output_qparams, y),
        (converted.b.input_qparams, y),
    ):
        expected = oc.choose_qparams(seen, "uint8", symmetric=False)
        assert found.qtype is oc.quint8
        np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-6)
        assert abs(int(found.zero_point) - int(expected.zero_point)) <= 1
    observer = oc.default_qconfig.weight()
    observer(net.a.weight)
    np.testing.assert_array_equal(converted.a.int_repr(), oc.quantize(net.a.weight, observer.calculate_qparams()))


@pytest.mark.parametrize("qscheme", ["per_tensor_affine", "per_tensor_symmetric"])
@pytest.mark.parametrize("dtype", ["qint8", "quint8"])
def test_activation_types(dtype: str, qscheme: str) -> None:
    config = oc.QConfig(activation=oc.MinMaxObserver.with_args(dtype=dtype, qscheme=qscheme))
    net = Net(FOLDED["chain"])
    prepared = oc.prepare(net, config, layers={oc.nn.Linear})
    oc.calibrate(prepared, [data()])
    converted = convert(prepared)
    assert np.maximum(converted.a(data()), 0).qtype.name == dtype
    close(converted(data()), net(data()))


# stubs


@pytest.mark.slow
@pytest.mark.parametrize("by_hand", [False, True], ids=["calibrate", "by-hand"])
@pytest.mark.parametrize("seed", range(8))
def test_reference_model_agrees_with_float(seed: int, by_hand: bool) -> None:
    rng = np.random.default_rng(seed)
    model = Reference(rng)
    x = rng.standard_normal((2, 768)).astype(F)
    prepared = oc.prepare(model, REFERENCE_QCONFIG, layers={oc.nn.Linear})
    prepared(x) if by_hand else oc.calibrate(prepared, [x])
    converted = convert(prepared)
    assert np.abs(converted(x) - model(x)).max() <= 0.0022
    assert converted.between[-1] == "QuantizedArray"
    assert type(converted.linear1(converted.quant1(x))) is oc.QuantizedArray
    assert converted.linear1.int_repr().dtype == np.int8
    assert "output=quint8 scale=" in repr(converted.linear1)
    assert repr(converted.quant1).startswith("Quantize(quint8 scale=")


def test_stubs_are_identities_in_the_float_model() -> None:
    x = data()
    assert oc.QuantStub()(x) is x
    assert oc.DeQuantStub()(x) is x


def test_quant_stub_feeds_several_layers_one_array() -> None:
    net, _, converted = calibrated(lambda m, x: both(h := m.stub(x), m.b(h) + m.c(h))[1])
    assert type(converted.stub(data())) is oc.QuantizedArray
    close(converted(data()), net(data()))


def test_quant_stub_whose_result_is_used_as_float_gives_quantized_floats() -> None:
    def body(m: Net, x: Any) -> Any:
        h = m.stub(x)
        h += 1
        return m.a(h)

    net, _, converted = calibrated(body)
    q = converted.stub(data())
    assert type(q) is np.ndarray
    np.testing.assert_array_equal(q, oc.fake_quantize(data(), converted.stub.qparams))
    close(converted(data()), net(data()))
