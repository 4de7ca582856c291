"""FakeQuantize by itself: as torch.ao's, with switches, learned scales and messages."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import octavo as oc

F = np.float32


def test_errors_of_an_observer_keep_their_class_and_are_named() -> None:
    class Decoding(oc.MinMaxObserver):
        def __call__(self, x: np.ndarray) -> np.ndarray:
            b"\xff".decode()
            return x

    quantizer = oc.FakeQuantize(observer=Decoding)
    with pytest.raises(UnicodeDecodeError, match="'utf-8' codec can't decode") as caught:
        quantizer(np.ones(3, np.float32))
    assert caught.value.__notes__ == ["octavo: FakeQuantize"]


def test_observes_then_quantizes() -> None:
    quantizer = oc.FakeQuantize(oc.MinMaxObserver, dtype="quint8")
    x = np.random.default_rng(0).standard_normal((4, 5), dtype=F)
    y = quantizer(x)
    assert quantizer.calculate_qparams() == oc.choose_qparams(x, "uint8", symmetric=False)
    np.testing.assert_array_equal(y, oc.fake_quantize(x, quantizer.calculate_qparams()))
    quantizer(10 * x)
    assert quantizer.calculate_qparams() == oc.choose_qparams(10 * x, "uint8", symmetric=False)


def test_switches() -> None:
    quantizer = oc.FakeQuantize(oc.MinMaxObserver, dtype="quint8", quant_min=0, quant_max=3)
    x = F([0, 0.4, 3])
    quantizer.disable_fake_quant()
    assert quantizer(x) is x
    quantizer.disable_observer()
    quantizer(10 * x)
    assert quantizer.observer.max_val == 3
    quantizer.enable_fake_quant()
    np.testing.assert_array_equal(quantizer(10 * x), [0, 3, 3])
    quantizer.enable_observer()
    np.testing.assert_array_equal(quantizer(10 * x), [0, 0, 30])
    quantizer.enable_observer(False)
    quantizer.enable_fake_quant(False)
    assert "observer off, fake quantization off" in repr(quantizer)


def test_frozen_without_data() -> None:
    quantizer = oc.FakeQuantize(oc.MinMaxObserver)
    quantizer.disable_observer()
    with pytest.raises(ValueError, match="FakeQuantize: its observer is frozen and has seen no data"):
        quantizer([1.0])
    with pytest.raises(ValueError, match="has seen no data"):
        quantizer.begin_learning()
    assert quantizer.scale is None


def test_factories_make_new_ones_with_their_options() -> None:
    factory = oc.FakeQuantize.with_args(observer=oc.PerChannelMinMaxObserver, ch_axis=1, dtype="qint8")
    one, other = factory(), factory.with_args(ch_axis=0)(qscheme="per_channel_symmetric")
    assert (one.observer.ch_axis, other.observer.ch_axis) == (1, 0)
    assert (one.observer.symmetric, other.observer.symmetric) == (False, True)
    assert factory() is not one
    of_factory = oc.FakeQuantize(oc.MinMaxObserver.with_args(quant_max=15), dtype="quint8")
    assert of_factory.observer.quant_max == 15


@pytest.mark.parametrize("options", [{"dtype": "float"}, {"quant_min": 200, "quant_max": 100}, {"nothing": 1}], ids=str)
def test_options_are_the_observers(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        oc.FakeQuantize(oc.MinMaxObserver, **options)
    with pytest.raises((TypeError, ValueError), match="activation must be an observer class"):
        oc.QConfig(activation=oc.FakeQuantize.with_args(observer=oc.MinMaxObserver, **options))


def test_learning_takes_over_from_the_observer() -> None:
    quantizer = oc.FakeQuantize(oc.MinMaxObserver, learnable=True, dtype="quint8")
    quantizer(F([-1, 3]))
    before = quantizer.calculate_qparams()
    quantizer.begin_learning()
    assert quantizer.calculate_qparams() == before
    quantizer(F([-100, 300]))
    assert quantizer.calculate_qparams() == before
    quantizer.scale, quantizer.zero_point = F(-3), F(7.6)
    params = quantizer.calculate_qparams()
    assert (float(params.scale), int(params.zero_point)) == (2.0**-23, 8)
    quantizer.begin_learning()  # again: nothing
    assert quantizer.scale == -3


@pytest.mark.parametrize(("dtype", "fixed"), [("qint8", 0), ("quint8", 128)])
def test_symmetric_learning_keeps_the_zero_point(dtype: str, fixed: int) -> None:
    quantizer = oc.FakeQuantize(oc.MinMaxObserver, learnable=True, dtype=dtype, qscheme=oc.per_tensor_symmetric)
    quantizer(F([-1, 3]))
    quantizer.begin_learning()
    assert quantizer.zero_point is None
    assert quantizer.calculate_qparams().zero_point == fixed


def test_copies_and_pickles() -> None:
    quantizer = oc.FakeQuantize(oc.MinMaxObserver, dtype="quint8")
    quantizer(F([0, 1]))
    for other in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert other.calculate_qparams() == quantizer.calculate_qparams()
        other(F([0, 2]))
        assert other.calculate_qparams() != quantizer.calculate_qparams()


def test_static_quantization_takes_fake_quantizes_too() -> None:
    layer = oc.nn.Linear.init(4, 2, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((8, 4), dtype=F)
    results = []
    for qconfig in (
        oc.QConfig(activation=oc.MinMaxObserver),
        oc.QConfig(activation=oc.FakeQuantize.with_args(observer=oc.MinMaxObserver)),
    ):
        prepared = oc.prepare(layer, qconfig, layers={oc.nn.Linear})
        oc.calibrate(prepared, [x])
        results.append(oc.convert(prepared)(x))
    np.testing.assert_array_equal(*results)


def test_observer_rests_once_the_scale_is_learned() -> None:
    quantizer = oc.FakeQuantize(oc.MinMaxObserver, learnable=True, dtype="quint8")
    quantizer(F([0, 1]))
    quantizer.begin_learning()
    quantizer.enable_observer()
    quantizer(F([0, 9]))
    assert quantizer.observer.max_val == 1
