"""merge_calibration: parts of the data seen by copies of a model count as if one model had seen all."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import octavo as oc

rng = np.random.default_rng(3)
BATCHES = [rng.standard_normal((8, 6), dtype=np.float32) * (i + 1) for i in range(6)]


def prepared(observer: Any = oc.MinMaxObserver) -> Any:
    model = oc.nn.Sequential(
        oc.QuantStub(),
        oc.nn.Linear.init(6, 5, rng=np.random.default_rng(0)),
        oc.nn.ReLU(),
        oc.nn.Linear.init(5, 3, rng=np.random.default_rng(1)),
        oc.DeQuantStub(),
    )
    return oc.prepare(model, oc.QConfig(activation=observer), layers={oc.nn.Linear})


def by_parts(model: Any) -> Any:
    parts = [pickle.loads(pickle.dumps(model)) for _ in range(3)]
    for i, part in enumerate(parts):
        oc.calibrate(part, BATCHES[2 * i : 2 * i + 2])
    return oc.merge_calibration(model, parts)


@pytest.mark.parametrize("observer", [oc.MinMaxObserver, oc.MovingAverageMinMaxObserver, oc.HistogramObserver])
def test_merged_parts_give_the_model_of_one_process(observer: Any) -> None:
    whole = prepared(observer)
    oc.calibrate(whole, BATCHES)
    one, many = oc.convert(whole), oc.convert(by_parts(prepared(observer)))
    assert [type(layer) for layer in many] == [type(layer) for layer in one]
    for a, b in zip((one[1], one[3]), (many[1], many[3]), strict=True):
        assert (a.relu, a.output_qparams is None) == (b.relu, b.output_qparams is None)
        if observer is oc.MinMaxObserver:
            assert a.input_qparams == b.input_qparams
        else:
            np.testing.assert_allclose(a.input_qparams.scale, b.input_qparams.scale, rtol=0.05)
    if observer is oc.MinMaxObserver:
        np.testing.assert_array_equal(one(BATCHES[0]), many(BATCHES[0]))


def test_use_as_floats_in_one_part_counts() -> None:
    model = prepared()
    parts = [copy.deepcopy(model) for _ in range(2)]
    oc.calibrate(parts[0], BATCHES[:1])
    oc.calibrate(parts[1], BATCHES[:1], forward=lambda m, x: m[1](m[0](x)) + 1)
    assert oc.convert(oc.merge_calibration(copy.deepcopy(model), parts[:1]))[1].output_qparams is not None
    with pytest.raises(ValueError, match="saw no calibration data"):
        oc.convert(oc.merge_calibration(copy.deepcopy(model), parts[1:]))
    assert oc.convert(oc.merge_calibration(model, parts))[1].output_qparams is None


def test_another_model_is_refused_and_nothing_changed() -> None:
    model, good = prepared(), prepared()
    oc.calibrate(good, BATCHES)
    other = oc.prepare(oc.nn.Linear.init(6, 5), oc.default_qconfig, layers={oc.nn.Linear})
    with pytest.raises(ValueError, match=r"others\[1\] is not a copy of the prepared model"):
        oc.merge_calibration(model, [good, other])
    with pytest.raises(TypeError, match=r"QuantStub .*: only a MinMaxObserver can be merged"):
        oc.merge_calibration(model, [good, prepared(oc.HistogramObserver)])
    assert not model[1].input.seen
    assert not model[1].input.observer.seen
    with pytest.raises(ValueError, match="no layer that observes"):
        oc.merge_calibration(model, [oc.nn.ReLU()])


def test_statistics_of_parts_add_up() -> None:
    x = rng.integers(-8, 8, (3000, 7)).astype(np.float32)  # whose sums float32 holds exactly
    whole, parts = oc.InputStatistics(7), [oc.InputStatistics(7) for _ in range(3)]
    whole.update(x)
    for part, rows in zip(parts, np.array_split(x, 3), strict=True):
        part.update(rows)
    assert parts[1].hessian.any()  # asked for in between
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.rows == whole.rows
    np.testing.assert_array_equal(merged.hessian, whole.hessian)
    np.testing.assert_array_equal(merged.importance, whole.importance)
    with pytest.raises(ValueError, match="same"):
        merged.merge(oc.InputStatistics(7, products=False))
    with pytest.raises(TypeError, match="only InputStatistics"):
        merged.merge(x)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [10, 1500])
@pytest.mark.parametrize("products", [True, False])
def test_statistics_merged_with_themselves_count_twice(rows: int, products: bool) -> None:
    x = rng.integers(-8, 8, (rows, 7)).astype(np.float32)
    twice, once = oc.InputStatistics(7, products=products), oc.InputStatistics(7, products=products)
    for part in np.array_split(x, 3):
        once.update(part)
    twice.update(x)
    twice.update(x)
    once.merge(once)
    assert once.rows == 2 * rows
    np.testing.assert_array_equal(once.importance, twice.importance)
    if products:
        np.testing.assert_array_equal(once.hessian, twice.hessian)


class Failing(oc.MinMaxObserver):
    """Merges as its base does, but the second time it fails in its own way."""

    def merge(self, other: Any) -> Any:
        super().merge(other)
        self.merged = getattr(self, "merged", 0) + 1
        if self.merged == 2:
            raise LookupError("of a user's own")
        return self


def test_error_of_an_observer_leaves_the_model_as_it_was() -> None:
    model = prepared(Failing)
    oc.calibrate(model, BATCHES[:1])
    parts = [copy.deepcopy(model) for _ in range(2)]
    for part in parts:
        oc.calibrate(part, BATCHES[1:])
    before = [vars(layer.input.observer).copy() for layer in (model[0], model[1], model[3])]
    uses = vars(model[1].source).copy()
    with pytest.raises(LookupError, match="of a user's own") as caught:
        oc.merge_calibration(model, parts)
    assert "octavo: QuantStub model.layers.0" in caught.value.__notes__[0]
    assert [vars(layer.input.observer) for layer in (model[0], model[1], model[3])] == before
    assert vars(model[1].source) == uses


class Encoded(oc.MinMaxObserver):
    def merge(self, other: Any) -> Any:
        raise UnicodeDecodeError("utf-8", b"x", 0, 1, "five arguments")


def test_error_of_a_users_own_class_is_kept_with_the_place_in_a_note() -> None:
    model = prepared(Encoded)
    with pytest.raises(UnicodeDecodeError, match="five arguments") as caught:
        oc.merge_calibration(model, [copy.deepcopy(model)])
    assert caught.value.__notes__ == ["octavo: QuantStub model.layers.0"]


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_copy_with_other_weights_is_refused_by_name(part: str) -> None:
    model = prepared()
    good, other = copy.deepcopy(model), copy.deepcopy(model)
    getattr(other[3].layer, part)[...] += np.float32(1e-6)
    for each in (good, other):
        oc.calibrate(each, BATCHES[:1])
    with pytest.raises(ValueError, match=r"others\[1\] is not a copy .*: the weights of model\.layers\.3 differ"):
        oc.merge_calibration(model, [good, other])
    assert not model[0].input.seen


def test_copy_with_another_array_or_scale_is_refused_by_name() -> None:
    w = rng.standard_normal((6, 3), dtype=np.float32)
    layer = oc.nn.Linear.init(6, 6, rng=np.random.default_rng(0))
    net = {"layer": layer, "w": w}
    model = oc.prepare(net, oc.default_qconfig, layers=oc.nn.Linear, arrays=["w"])
    others = [copy.deepcopy(model) for _ in range(2)]
    others[0]["w"].array[0, 0] += np.float32(1)
    others[1]["layer"].pre_quant_scale = np.full(6, 2, np.float32)
    for other, name in zip(others, ["w", "layer"], strict=True):
        with pytest.raises(ValueError, match=rf"the weights of .*{name}.* differ"):
            oc.merge_calibration(model, [other])


def test_weights_with_nan_are_those_of_a_copy() -> None:
    model = prepared()
    model[3].layer.bias[0] = np.nan
    oc.merge_calibration(model, [copy.deepcopy(model)])
