"""merge_calibration of models from prepare_qat: parts of the data seen by copies count as if one model had seen all."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import octavo as oc
from reference import F
from static_models import FLOATS, FOLDED, INTEGERS, Net, data
from training import minmax

LINEAR = {oc.nn.Linear}
BATCHES = [data(8, seed) * F(seed + 1) for seed in range(4)]


def integers(model: Any) -> list[Any]:
    """What makes each converted layer."""
    layers = [getattr(model, name) for name in ("stub", "a", "b", "c") if hasattr(model, name)]
    return [
        (type(layer).__name__, *(getattr(layer, name, None) for name in ("input_qparams", "output_qparams", "relu")))
        for layer in layers
    ]


@pytest.mark.parametrize("name", INTEGERS | FOLDED | FLOATS)
def test_merged_parts_give_the_model_of_one_process(name: str) -> None:
    model = oc.prepare_qat(Net((INTEGERS | FOLDED | FLOATS)[name]), minmax(), layers=LINEAR)
    oc.qat.disable_fake_quant(model)  # so that no part computes with what it has seen so far
    whole, parts = copy.deepcopy(model), [copy.deepcopy(model) for _ in range(2)]
    oc.calibrate(whole, BATCHES)
    for i, part in enumerate(parts):
        oc.calibrate(part, BATCHES[2 * i : 2 * i + 2])
    merged = oc.merge_calibration(model, parts)
    assert integers(oc.convert(merged, unobserved="float")) == integers(oc.convert(whole, unobserved="float"))


def network() -> Any:
    rng = np.random.default_rng(0)
    layers = [oc.QuantStub(), oc.nn.Linear.init(6, 5, rng=rng), oc.nn.ReLU(), oc.nn.Linear.init(5, 3, rng=rng)]
    return oc.prepare_qat(oc.nn.Sequential(*layers, oc.DeQuantStub()), oc.default_qat_qconfig, layers=LINEAR)


def test_merged_copies_know_the_stub_that_feeds_a_layer() -> None:
    rng = np.random.default_rng(1)
    model = network()
    parts = [pickle.loads(pickle.dumps(model)) for _ in range(3)]
    for part in parts[:2]:
        oc.calibrate(part, [rng.standard_normal((8, 6), dtype=F)])
    assert oc.merge_calibration(model, parts) is model
    assert model[1].fed_by is model[0].input_fake_quant
    assert {id(quantizer) for quantizer, _ in model[1].use.takers} <= {id(model[3].input_fake_quant)}
    converted = oc.convert(model)
    assert converted[1].input_qparams == model[0].input_fake_quant.calculate_qparams()
    assert isinstance(converted[3], oc.StaticQuantLinear)


def test_weights_keep_their_own_ranges() -> None:
    model = network()
    before = model[1].weight_fake_quant.calculate_qparams()
    part = copy.deepcopy(model)
    oc.calibrate(part, [np.ones((2, 6), F)])
    assert oc.merge_calibration(model, [part])[1].weight_fake_quant.calculate_qparams() == before


def test_learned_scales_that_differ_are_refused_and_nothing_changed() -> None:
    model = network()
    oc.calibrate(model, [np.ones((2, 6), F)])
    good, other = copy.deepcopy(model), copy.deepcopy(model)
    oc.calibrate(good, [np.full((2, 6), 9, F)])
    other[3].input_fake_quant.begin_learning()
    before = repr(model[0].input_fake_quant)
    with pytest.raises(
        ValueError, match=r"layer .*layers\.3, its input: learned scales and zero points must be the same"
    ):
        oc.merge_calibration(model, [good, other])
    assert repr(model[0].input_fake_quant) == before
    for learned in (model, good):
        learned[3].input_fake_quant.scale, learned[3].input_fake_quant.zero_point = F(0.5), F(3)
    oc.merge_calibration(model, [good])
    assert model[3].input_fake_quant.scale == F(0.5)


def test_observer_without_merge_is_refused_by_name() -> None:
    class Own:
        dtype, seen = oc.quint8, True

        def __call__(self, x: Any) -> Any:
            return x

        def calculate_qparams(self) -> oc.QParams:
            return oc.QParams(1.0, 0, "quint8")

    qconfig = oc.QConfig(activation=Own, weight=oc.default_qat_qconfig.weight)
    model = oc.prepare_qat(oc.nn.Sequential(oc.nn.Linear.init(6, 5)), qconfig, layers=LINEAR)
    with pytest.raises(TypeError, match=r"layers\.0, its input: Own has no merge\(other\)"):
        oc.merge_calibration(model, [copy.deepcopy(model)])


def test_models_of_other_layers_in_float_are_refused() -> None:
    model = oc.nn.Sequential(oc.nn.Linear.init(6, 5), oc.nn.Linear.init(5, 3))
    one, other = (
        oc.prepare_qat(model, {"layers.0": oc.default_qat_qconfig, "layers.1": second}, layers=LINEAR)
        for second in (oc.default_qat_qconfig, None)
    )
    with pytest.raises(ValueError, match=r"others\[0\] is not a copy of the prepared model: they differ in QATLinear"):
        oc.merge_calibration(one, [other])


def test_frozen_ranges_stay_as_they_are() -> None:
    model = network()
    oc.calibrate(model, [np.ones((2, 6), F)])
    part = copy.deepcopy(model)
    oc.calibrate(part, [np.full((2, 6), 9, F)])
    oc.qat.disable_observer(model)
    before = [model[i].input_fake_quant.calculate_qparams() for i in (0, 3)]
    oc.merge_calibration(model, [part])
    assert [model[i].input_fake_quant.calculate_qparams() for i in (0, 3)] == before
    oc.qat.enable_observer(model)
    oc.merge_calibration(model, [part])
    assert model[0].input_fake_quant.calculate_qparams() != before[0]


def test_copy_with_trained_weights_is_refused_by_name() -> None:
    model = network()
    part = copy.deepcopy(model)
    part[1].layer.weight[...] *= F(2)
    with pytest.raises(ValueError, match=r"the weights of model\.layers\.1 differ"):
        oc.merge_calibration(model, [part])
