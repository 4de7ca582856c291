"""prepare, calibrate, convert: bad input is named and leaves the prepared model usable; copies, pickles, threads."""

from __future__ import annotations

import copy
import functools
import pickle
import sys
import threading
import warnings
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._models.containers import attributes
from octavo._models.walk import walk
from static_mlp import LINEAR, F, data, mlp, prepare


def calibrated(model: Any) -> Any:
    prepared = prepare(model)
    oc.calibrate(prepared, [data()])
    return prepared


def assert_usable(prepared: Any, model: Any) -> None:
    oc.calibrate(prepared, [data()])
    np.testing.assert_allclose(oc.convert(prepared)(data()), model(data()), atol=0.05)


# before any data


def test_convert_without_calibration_lists_every_layer() -> None:
    model = mlp()
    prepared = prepare(model)
    with pytest.raises(
        ValueError, match=r"saw no calibration data: model\.layers\.0, model\.layers\.2, model\.layers\.4\. Run"
    ):
        oc.convert(prepared)
    with pytest.raises(ValueError, match='unobserved must be "error" or "float"'):
        oc.convert(prepared, unobserved="skip")  # type: ignore[arg-type]
    left = oc.convert(prepared, unobserved="float")
    np.testing.assert_array_equal(left(data()), model(data()))
    assert_usable(prepared, model)


def test_unobserved_layers_can_stay_float() -> None:
    model = {"used": mlp(1), "unused": mlp(2)}
    prepared = prepare(model)
    oc.calibrate(prepared, [data()], forward=lambda m, b: m["used"](b))
    with pytest.raises(ValueError, match=r"""data: model\.unused\.layers\.0, [^:]*layers\.4\. Run"""):
        oc.convert(prepared)
    converted = oc.convert(prepared, unobserved="float")
    assert type(converted["unused"][0]) is oc.nn.Linear
    assert converted["unused"][0] is not model["unused"][0]
    assert type(converted["used"][0]) is oc.StaticQuantLinear


def test_empty_batch_counts_as_no_data() -> None:
    prepared = prepare(mlp())
    oc.calibrate(prepared, [data(0)])
    with pytest.raises(ValueError, match="saw no calibration data"):
        oc.convert(prepared)
    with pytest.raises(ValueError, match="at least one batch, got none"):
        oc.calibrate(prepared, [])


def test_models_that_are_not_prepared_are_refused() -> None:
    for function in (oc.convert, lambda m: oc.calibrate(m, [data()])):
        with pytest.raises(ValueError, match=r"no layer that observes; pass what octavo\.prepare returned"):
            function(mlp())


# bad batches


def bad(change: Any) -> np.ndarray:
    x = data()
    x[3, 2] = change
    return x


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            np.ones((2, 7), F),
            r"layer model\.layers\.0: x must have shape \(\.\.\., 6\) to fit the layer's inputs, got \(2, 7\)",
        ),
        (data().astype(np.float64) * 1e300, r"layer model\.layers\.0, its input: .*fit float32"),
        (bad(np.nan), r"layer model\.layers\.0, its input must be finite for calibration, got nan at \[3, 2\]"),
        (bad(-np.inf), r"layer model\.layers\.0, its input must be finite for calibration, got -inf at \[3, 2\]"),
    ],
    ids=["width", "beyond-float32", "nan", "infinity"],
)
def test_bad_batch_names_layer_and_batch_and_changes_no_range(batch: np.ndarray, message: str) -> None:
    model = mlp()
    prepared = calibrated(model)
    before = repr(oc.convert(prepared))
    with pytest.raises(ValueError, match=message) as caught:
        oc.calibrate(prepared, [data(), batch])
    assert caught.value.__notes__ == ["octavo.calibrate: this was batch 1"]
    assert repr(oc.convert(prepared)) == before
    assert_usable(prepared, model)


def test_failure_inside_the_model_leaves_no_trace() -> None:
    failing: list[bool] = [True]

    def between(h: Any) -> Any:
        if failing:
            raise ZeroDivisionError
        return np.maximum(h, 0)

    def model() -> oc.nn.Sequential:
        layers = mlp()
        return oc.nn.Sequential(layers[0], layers[1], layers[2], between, layers[4])

    prepared = prepare(model())
    with pytest.raises(ZeroDivisionError) as caught:
        oc.calibrate(prepared, [data()])
    assert caught.tb  # keeps the stand-ins of the failed run alive
    failing.clear()
    oc.calibrate(prepared, [data()])
    converted = oc.convert(prepared)
    assert converted[0].relu
    assert converted[2].relu


def test_bad_batch_that_can_be_read_only_once_is_an_error() -> None:
    prepared = calibrated(mlp())
    with pytest.raises(ValueError, match="must be finite for calibration, got nan"):
        oc.calibrate(prepared, [iter([data(), bad(np.nan)])], forward=lambda m, b: [m(x) for x in b])


def test_layer_whose_result_overflows_is_named() -> None:
    prepared = prepare(oc.nn.Sequential(oc.nn.Linear(np.full((1, 1), 1e38, F))))
    with (
        pytest.raises(ValueError, match=r"layer model\.layers\.0, its result must be finite"),
        np.errstate(over="ignore"),
    ):
        oc.calibrate(prepared, [np.full((1, 1), 100, F)])


def test_error_of_the_models_own_code_comes_through() -> None:
    def fails(x: Any) -> Any:
        raise KeyError("mine")

    prepared = prepare(oc.nn.Sequential(oc.nn.Linear.init(6, 6), fails))
    with pytest.raises(KeyError, match="mine"):
        oc.calibrate(prepared, [data()])


def test_zeros_alone_warn_and_work() -> None:
    model = mlp()
    model[0].bias = model[2].bias = np.zeros(16, F)
    prepared = prepare(model)
    oc.calibrate(prepared, [np.zeros((4, 6), F)])
    with pytest.warns(UserWarning, match="seen only zeros: its scale is 1") as warned:
        converted = oc.convert(prepared)
    assert "layer model.layers.0, its input" in "".join(str(w.message) for w in warned)
    assert {w.filename for w in warned} == {__file__}
    assert converted[0].input_qparams.scale == 1
    np.testing.assert_allclose(converted(np.zeros((4, 6), F)), model(np.zeros((4, 6), F)), atol=0.01)
    assert_usable(prepared, model)


def test_nan_at_inference_names_the_layer() -> None:
    converted = oc.convert(calibrated(mlp()))
    with pytest.raises(
        ValueError, match=r"layer model\.layers\.0: x must not hold NaN, got it first at row 3, column 2"
    ):
        converted(bad(np.nan))
    np.testing.assert_array_equal(converted(bad(np.inf)), converted(bad(1e9)))  # infinity saturates
    stub = oc.nn.Sequential(oc.QuantStub(), *mlp())
    with pytest.raises(ValueError, match=r"QuantStub model\.layers\.0: x must not hold NaN"):
        oc.convert(calibrated(stub))(bad(np.nan))


# models and configurations


def test_layers_that_match_nothing_or_compute_something_else_are_named() -> None:
    model = mlp()
    with pytest.raises(ValueError, match="no layer of type int"):
        oc.prepare(model, oc.default_qconfig, layers={int})
    with pytest.raises(ValueError, match=r"layers names no layer of the model; types in it .*: Linear"):
        oc.prepare(model, oc.default_qconfig, layers={"Linear"})
    spec = oc.LayerSpec(activation="relu")
    with pytest.raises(ValueError, match=r"model\.layers\.0 \(Linear\): __call__ is not relu"):
        oc.prepare(model, oc.default_qconfig, layers={oc.nn.Linear: spec})
    assert type(model[0]) is oc.nn.Linear


def test_qconfig_that_names_no_layer_is_refused() -> None:
    model = mlp()
    with pytest.raises(ValueError, match=r"qconfig names 'layers\.9', but the layers are model\.layers\.0, "):
        oc.prepare(model, {"": oc.default_qconfig, "layers.9": None}, layers=LINEAR)
    with pytest.raises(ValueError, match=r"qconfig names none of the layers model\.layers\.0, .*: give a default"):
        oc.prepare(model, {"": None}, layers=LINEAR)
    with pytest.raises(TypeError, match="qconfig must be a QConfig"):
        oc.prepare(model, oc.MinMaxObserver, layers=LINEAR)  # type: ignore[arg-type]
    assert type(model[0]) is oc.nn.Linear


def test_qconfig_of_none_leaves_a_layer_in_float() -> None:
    model = mlp()
    prepared = oc.prepare(model, {"": oc.default_qconfig, "layers.2": None}, layers=LINEAR)
    oc.calibrate(prepared, [data()])
    converted = oc.convert(prepared)
    assert type(converted[2]) is oc.nn.Linear
    assert converted[0].output_qparams is None  # a float layer uses it
    np.testing.assert_allclose(converted(data()), model(data()), atol=0.05)


class Own:
    """A user's layer: (in, out) weights, a method of its own, ReLU built in."""

    def __init__(self, W: np.ndarray, b: np.ndarray) -> None:
        self.W, self.b, self.last = W, b, None

    def apply(self, x: Any) -> Any:
        self.last = x
        return np.maximum(x @ self.W + self.b, 0)


def test_own_layers_are_read_by_their_spec() -> None:
    rng = np.random.default_rng(0)
    first, second = (Own((rng.standard_normal((6, 6)) / 4).astype(F), np.ones(6, F)) for _ in range(2))

    class Model:
        def __init__(self) -> None:
            self.parts = (first, [second])

        def __call__(self, x: Any) -> Any:
            return self.parts[1][0].apply(self.parts[0].apply(x))

    model = Model()
    spec = oc.LayerSpec(weight="W", bias="b", layout="in_out", call="apply", activation="relu")
    prepared = oc.prepare(model, oc.default_qconfig, layers={Own: spec})
    oc.calibrate(prepared, [data()])
    converted = oc.convert(prepared)
    assert first.last is None
    np.testing.assert_allclose(converted(data()), model(data()), atol=0.1)
    assert type(converted.parts[0].apply(data())) is oc.QuantizedArray
    assert converted.parts[0].relu
    assert np.asarray(converted.parts[0].apply(data())).min() >= 0  # its own ReLU, so any use may see it


def test_weights_of_zeros_warn_and_work() -> None:
    layer = oc.nn.Linear(np.zeros((3, 6), F), np.ones(3, F))
    with pytest.warns(UserWarning, match="model, its weight: .* seen only zeros") as warned:
        converted = oc.convert(calibrated(layer))
    assert {w.filename for w in warned} == {__file__}
    np.testing.assert_array_equal(converted(data()), layer(data()))


def test_layer_called_with_more_than_x_gives_floats() -> None:
    class Scaled(oc.nn.Linear):
        def __call__(self, x: Any, times: float = 1) -> Any:
            return times * super().__call__(x)

    layer = Scaled(np.eye(6, dtype=F))
    model = oc.nn.Sequential(lambda x: prepared[1](x, times=2), layer, layer)
    prepared = oc.prepare(model, oc.default_qconfig, layers={Scaled}, check=False)
    oc.calibrate(prepared, [data()])
    np.testing.assert_allclose(prepared(data()), 2 * data(), rtol=1e-6)
    assert oc.convert(prepared)[1].output_qparams is None


def test_original_is_left_alone_unless_inplace() -> None:
    model = mlp()
    weight = model[0].weight
    prepared = prepare(model)
    assert type(model[0]) is oc.nn.Linear
    assert prepared[0].weight is not weight
    np.testing.assert_array_equal(prepared[0].weight, weight)
    assert prepare(model, inplace=True) is model
    np.testing.assert_array_equal(model(data()), prepared(data()))
    assert_usable(model, mlp())
    assert type(oc.convert(prepare(mlp(), inplace=True), unobserved="float")[0]) is oc.nn.Linear


def test_shared_layer_stays_shared() -> None:
    layer = oc.nn.Linear.init(6, 6, rng=np.random.default_rng(0))
    model = oc.nn.Sequential(layer, oc.nn.ReLU(), layer)
    converted = oc.convert(calibrated(model))
    assert converted[0] is converted[2]
    np.testing.assert_allclose(converted(data()), model(data()), atol=0.05)


def test_closure_that_keeps_the_float_layer_is_refused() -> None:
    layer = oc.nn.Linear.init(6, 6)
    model = oc.nn.Sequential(layer, lambda x: layer(x))
    with pytest.raises(ValueError, match=r"would still reach a float layer: .*layers\.1"):
        prepare(model)


def test_weights_that_kernels_do_not_have_are_refused() -> None:
    """Those of the user's own observers, which show it when they have seen the weights."""

    class Own:
        def __init__(self, qparams: oc.QParams) -> None:
            self.calculate_qparams = lambda: qparams

        def __call__(self, x: Any) -> Any:
            return x

    cases = [
        (oc.QParams(0.1, 0, "quint8"), "weights must be qint8"),
        (oc.QParams(0.1, 3, "qint8"), "weights must be symmetric"),
    ]
    for qparams, message in cases:
        weight = functools.partial(Own, qparams)
        prepared = oc.prepare(mlp(), oc.QConfig(activation=oc.MinMaxObserver, weight=weight), layers=LINEAR)
        oc.calibrate(prepared, [data()])
        with pytest.raises(TypeError, match=rf"layer model\.layers\.0: {message}"):
            oc.convert(prepared)


def test_weights_per_tensor_have_one_scale() -> None:
    weight = oc.MinMaxObserver.with_args(dtype="qint8", qscheme="per_tensor_symmetric")
    model = mlp()
    prepared = oc.prepare(model, oc.QConfig(weight=weight), layers=LINEAR)
    oc.calibrate(prepared, [data()])
    converted = oc.convert(prepared)
    assert np.unique(converted[0].scale).size == 1
    np.testing.assert_allclose(converted(data()), model(data()), atol=0.05)


# what calibration needs of its surroundings


def test_progress_shows_a_bar_or_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("tqdm", reason="progress bars need tqdm")
    prepared = prepare(mlp())
    oc.calibrate(prepared, [data()], progress=True)
    assert "calibrating" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="progress=True needs tqdm, which octavo's extra 'cli' installs: pip install"):
        oc.calibrate(prepared, [data()], progress=True)
    oc.calibrate(prepared, [data()])


def test_calibrate_takes_generators_and_a_forward() -> None:
    prepared = prepare({"net": mlp()})
    oc.calibrate(prepared, ((data(4, seed), None) for seed in range(3)), forward=lambda m, b: m["net"](b[0]))
    assert oc.convert(prepared)["net"](data()).shape == (32, 3)


def test_fine_tuned_weights_are_what_is_converted() -> None:
    prepared = calibrated(mlp())
    prepared[4].layer.weight = np.eye(3, 16, dtype=F)
    np.testing.assert_array_equal(oc.convert(prepared)[4].weight != 0, np.eye(3, 16))


# copies and threads


def test_prepared_models_copy_and_pickle_with_what_they_saw() -> None:
    model = mlp()
    prepared = calibrated(model)
    kept = prepared(data())  # a stand-in that is alive
    expected = oc.convert(prepared)
    for other in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        assert repr(oc.convert(other)) == repr(expected)
        np.testing.assert_array_equal(other(data()), kept)
        assert_usable(other, model)


def test_converted_models_copy_and_pickle_to_the_same_bits() -> None:
    converted = oc.convert(calibrated(oc.nn.Sequential(oc.QuantStub(), *mlp(), oc.DeQuantStub())))
    expected = converted(data())
    for other in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert repr(other) == repr(converted)
        np.testing.assert_array_equal(other(data()), expected)


def test_converted_inference_is_thread_safe() -> None:
    converted = oc.convert(calibrated(mlp()))
    inputs = [data(m, seed=m) for m in range(1, 30)]
    expected = [converted(x) for x in inputs]
    wrong = []

    def work() -> None:
        for _ in range(20):
            wrong.extend(i for i, x in enumerate(inputs) if not np.array_equal(converted(x), expected[i]))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("prepare", [oc.prepare, oc.prepare_qat])
def test_weights_that_are_not_finite_are_named(prepare: Any) -> None:
    pytest.importorskip("autograd", reason="quantization-aware training needs autograd")
    with pytest.raises(ValueError, match=r"^model \(Linear\): weight must be finite, got inf$"):
        prepare(oc.nn.Linear(np.full((2, 3), np.inf, F)), oc.default_qconfig, layers=LINEAR)


def test_masked_batches_are_told_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"its input must not be a masked array.*pass x\.filled\(value\)"):
        oc.calibrate(prepare(mlp()), [np.ma.array(data())])


@pytest.mark.parametrize("given", [3, {"layers.0": oc.QParams(0.5, 0, "uint8")}], ids=["number", "parameters"])
def test_qparams_that_are_no_dicts_say_what_to_pass(given: Any) -> None:
    with pytest.raises(
        TypeError, match=r'^qparams must be a dict such as \{"fc1": \{"input": QParams\(\.\.\.\)\}\}, got '
    ):
        oc.convert(calibrated(mlp()), qparams=given)


def test_converting_twice_gives_the_same_model() -> None:
    prepared = calibrated(mlp())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = oc.convert(prepared), oc.convert(prepared)
    np.testing.assert_array_equal(first(data()), second(data()))


def test_batches_that_are_run_again_with_arrays_count_once() -> None:
    seen: list[int] = []

    class OnlyArrays:
        def __call__(self, h: Any) -> Any:
            seen.append(1)
            if type(h) is not np.ndarray:
                raise TypeError("arrays only")
            return h

    def ranges(between: Any) -> list[Any]:
        layers = mlp().layers
        model = oc.nn.Sequential(layers[0], between, layers[2])
        qconfig = oc.QConfig(activation=oc.HistogramObserver.with_args(bins=512), weight=oc.default_qconfig.weight)
        prepared = oc.prepare(model, qconfig, layers=LINEAR)
        oc.calibrate(prepared, [data(seed=seed) for seed in range(3)])
        found = [value for _, value in walk(prepared) if isinstance(value, oc.HistogramObserver)]
        return [attributes(value.histogram) for value in found]

    once, again = ranges(lambda h: h), ranges(OnlyArrays())
    assert len(seen) > 3
    assert once
    for a, b in zip(once, again, strict=True):
        np.testing.assert_equal(a, b)
