"""Bad input to quantization-aware training: errors that say what is wrong, and where; nothing half-changed."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import pytest

import octavo as oc
from octavo._models.walk import walk
from octavo._util.arrays import is_traced
from octavo._util.extras import install_command

F = np.float32
LINEAR = {oc.nn.Linear}
X = np.random.default_rng(0).standard_normal((4, 6)).astype(F)


class Activation:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, h: Any) -> Any:
        return self.function(h)


def prepared(between: Callable[[Any], Any] = np.tanh, qconfig: Any = oc.default_qat_qconfig) -> Any:
    rng = np.random.default_rng(1)
    model = oc.nn.Sequential(oc.nn.Linear.init(6, 5, rng=rng), Activation(between), oc.nn.Linear.init(5, 3, rng=rng))
    return oc.prepare_qat(model, qconfig, layers=LINEAR)


def gradient(model: Any, x: Any = X, params: Any = None, loss: Callable[[Any], Any] = lambda y: anp.mean(y**2)) -> Any:
    return autograd.grad(lambda p: loss(oc.qat.apply(model, p, x)))(
        oc.qat.parameters(model) if params is None else params
    )


# autograd is not installed

WITHOUT_AUTOGRAD = """
import sys
sys.modules["autograd"] = sys.modules["autograd.extend"] = None
import numpy as np, octavo as oc
assert np.array_equal(oc.FakeQuantize(oc.MinMaxObserver)([0.0, 255.0]), [0, 255])
layer = oc.nn.Linear.init(4, 2)
try:
    oc.{call}
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "call", ["prepare_qat(layer, oc.default_qat_qconfig, layers={oc.nn.Linear})", "qat", "qat.parameters(layer)"]
)
def test_without_autograd_the_extra_is_named(call: str) -> None:
    code = WITHOUT_AUTOGRAD.format(call=call)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    why = "quantization-aware training needs autograd, which octavo's extra 'qat' installs"
    assert out == f"{why}: {install_command('qat')}\n"


# NaN


def test_nan_loss_names_the_last_layer_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"^layer model\.layers\.2: the gradient must be finite, got nan .* the loss is NaN"
    ):
        gradient(prepared(), loss=lambda y: anp.mean((y - np.nan) ** 2))


@pytest.mark.parametrize("as_pair", [False, True])
def test_nan_result_with_a_finite_gradient_is_refused(as_pair: bool) -> None:
    def head(h: Any) -> Any:
        y = h + np.array([0, np.nan, 0], F)  # whose derivative is 1
        return (h, y) if as_pair else y

    model = oc.nn.Sequential(oc.nn.Linear.init(6, 3, rng=np.random.default_rng(1)), Activation(head))
    model = oc.prepare_qat(model, oc.default_qat_qconfig, layers=LINEAR)
    with pytest.raises(ValueError, match="the model's result must not hold NaN, got 4 of 12 values NaN"):
        gradient(model, loss=lambda y: anp.sum(y[1] if as_pair else y))


def test_nan_in_parameters_names_them() -> None:
    model = prepared()
    params = oc.qat.parameters(model)
    params["layers.2.bias"][1] = np.nan
    before = params["layers.0.weight"].copy()
    for call in (lambda: gradient(model, params=params), lambda: oc.qat.set_parameters(model, params)):
        with pytest.raises(
            ValueError, match=r"params\['layers\.2\.bias'\] must be finite.*loss or its gradient was NaN"
        ):
            call()
    np.testing.assert_array_equal(model[0].weight, before)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_input_that_is_not_finite_names_the_layer(value: float, frozen: bool) -> None:
    model = prepared()
    oc.calibrate(model, [X])
    if frozen:
        oc.qat.disable_observer(model)
    x = X.copy()
    x[1, 2] = value
    if frozen and np.isinf(value):
        gradient(model, x)  # saturates, as in the integer model
        return
    with pytest.raises(ValueError, match=r"^layer model\.layers\.0, its input: .*the first .*at x\[1, 2\]"):
        gradient(model, x)


def test_nan_between_layers_names_the_next() -> None:
    with pytest.raises(ValueError, match=r"^layer model\.layers\.2, its input: "):
        gradient(prepared(lambda h: h * np.nan))


def test_weight_that_is_not_finite_is_refused_by_prepare() -> None:
    layer = oc.nn.Linear(np.full((2, 4), np.inf, F))
    with pytest.raises(ValueError, match=r"layer model, its weight: .*must be finite"):
        oc.prepare_qat(layer, oc.default_qat_qconfig, layers=LINEAR, check=False)


# observers without data


@pytest.mark.parametrize("frozen", [False, True])
def test_no_range(frozen: bool) -> None:
    model = prepared()
    state = "has seen no data"
    if frozen:
        oc.qat.disable_observer(model)
        state = "is frozen and has seen no data"
        with pytest.raises(ValueError, match=rf"^layer model\.layers\.0, its input: its observer {state}"):
            gradient(model)
    with pytest.raises(
        ValueError, match=rf"^layer model\.layers\.0, its input: its observer {state}.*octavo\.calibrate"
    ):
        model(X)
    with pytest.raises(ValueError, match=r"these layers saw no calibration data: model\.layers\.0, model\.layers\.2"):
        oc.convert(model)
    assert type(oc.convert(model, unobserved="float")[0]) is oc.nn.Linear


def test_learnable_scale_without_data() -> None:
    qconfig = oc.QConfig(activation=oc.FakeQuantize.with_args(observer=oc.MinMaxObserver, learnable=True))
    model = prepared(qconfig=qconfig)
    with pytest.raises(
        ValueError, match=r"layer model\.layers\.0, its input_fake_quant: .* no data.*octavo\.calibrate"
    ):
        oc.qat.parameters(model)


# code that cannot be differentiated


def written(h: Any) -> Any:
    buffer = np.zeros(h.shape, F)
    buffer[:] = h
    return buffer


def masked(h: Any) -> Any:
    h[h < 0] = 0
    return h


def first(h: Any) -> Any:
    h[0] = 0
    return h


def unknown_primitive(h: Any) -> Any:
    return autograd.extend.primitive(lambda a: a * 2)(h)


@pytest.mark.parametrize("code", [written, masked, first])
def test_assignment_in_place_names_the_layer(code: Callable[[Any], Any]) -> None:
    model = prepared(code)
    with pytest.raises(TypeError, match=r"layer model\.layers\.1 \(Activation\) assigns .*in place.*numpy\.where"):
        gradient(model)
    assert not any(is_traced(v) for _, v in walk(model))


@pytest.mark.parametrize(
    "code",
    [
        lambda h: np.vectorize(math.erf)(h),
        lambda h: math.tanh(h),
        lambda h: np.maximum(h, 0, out=np.zeros(h.shape, F)),
        lambda h: np.cbrt(h),
        lambda h: h.no_such_method(),
        lambda h: oc.fake_quantize(h, oc.QParams(0.5, 0)),
        unknown_primitive,
    ],
    ids=["vectorize", "math", "out", "no-gradient", "attribute", "octavo.fake_quantize", "primitive"],
)
def test_code_that_cannot_be_differentiated_names_the_layer(code: Callable[[Any], Any]) -> None:
    with pytest.raises(
        TypeError, match=r"layer model\.layers\.1 \(Activation\) cannot be differentiated.*autograd\.numpy"
    ):
        gradient(prepared(code))


@pytest.mark.parametrize(
    "code", [lambda h: np.clip(h, 0, 1), lambda h: np.asarray(h) * 2, lambda h: np.concatenate([h])]
)
def test_numpy_functions_that_lose_the_gradient_are_refused_by_the_next_layer(code: Callable[[Any], Any]) -> None:
    with pytest.raises(
        TypeError, match=r"layer model\.layers\.2: x must be real numbers, got dtype object.*autograd\.numpy"
    ):
        gradient(prepared(code))


def test_result_that_lost_the_gradient_is_refused() -> None:
    model = oc.prepare_qat(
        oc.nn.Sequential(oc.nn.Linear.init(6, 5), Activation(lambda h: np.clip(h, 0, 1))),
        oc.default_qat_qconfig, layers=LINEAR,
    )  # fmt: skip
    with pytest.raises(TypeError, match=r"the model's result must be a float array, got dtype object"):
        gradient(model)


def test_stub_results_cannot_be_changed_in_place() -> None:
    class Net:
        def __init__(self) -> None:
            self.stub, self.fc = oc.QuantStub(), oc.nn.Linear.init(6, 3)

        def __call__(self, x: Any) -> Any:
            h = self.stub(x)
            h += 1
            return self.fc(h)

    model = oc.prepare_qat(Net(), oc.default_qat_qconfig, layers=LINEAR)
    with pytest.raises(TypeError, match=r"layer model \(Net\) assigns to parts of a value in place.*read-only"):
        gradient(model)


def test_other_errors_pass_with_a_note() -> None:
    def fail(h: Any) -> Any:
        raise ZeroDivisionError("the model's own")

    with pytest.raises(ZeroDivisionError, match="the model's own") as caught:
        gradient(prepared(fail))
    assert caught.value.__notes__ == ["octavo.qat.apply: this was in layer model.layers.1 (Activation)"]


# arguments


def test_inputs_that_do_not_fit() -> None:
    model = prepared()
    with pytest.raises(
        ValueError,
        match=r"layer model\.layers\.0: x must have shape \(\.\.\., 6\) to fit the layer's inputs, got \(4, 5\)",
    ):
        gradient(model, X[:, :5])
    with pytest.raises(TypeError, match=r"layer model\.layers\.0: x must be real numbers, got dtype complex64"):
        gradient(model, X * 1j)
    with pytest.raises(TypeError, match=r"layer model\.layers\.0: takes one argument in training, got 2"):
        model[0](X, 1)


@pytest.mark.parametrize(
    ("params", "kind", "message"),
    [
        ([1.0], TypeError, "params must be a dict of arrays by path"),
        ({"fc": np.zeros(3)}, ValueError, r"params names 'fc', but the model's parameters are 'layers\.0\.weight'"),
        ({"layers.0.bias": np.zeros(4)}, ValueError, r"must have shape \(5,\), got \(4,\)"),
        ({"layers.0.bias": np.zeros(5, int)}, TypeError, "must be a float array, got dtype int64"),
    ],
    ids=["list", "name", "shape", "dtype"],
)
def test_parameters_that_do_not_fit(params: Any, kind: type[Exception], message: str) -> None:
    model = prepared()
    for call in (lambda: oc.qat.apply(model, params, X), lambda: oc.qat.set_parameters(model, params)):
        with pytest.raises(kind, match=message):
            call()


@pytest.mark.parametrize("call", [oc.qat.parameters, oc.qat.disable_observer, lambda m: oc.qat.apply(m, {}, X)])
def test_models_that_are_not_prepared(call: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match="no fake-quantized layer; pass what octavo"):
        call(oc.nn.Linear.init(6, 3))


def test_models_prepared_in_parts() -> None:
    model = oc.nn.Sequential(prepared(), prepared())
    with pytest.raises(ValueError, match="several prepare_qat calls"):
        oc.qat.apply(model, {}, X)


def test_prepare_refuses_what_static_quantization_refuses() -> None:
    class Scaled:
        def __init__(self) -> None:
            self.weight = np.eye(3, dtype=F)

        def __call__(self, x: Any) -> Any:
            return 2 * x @ self.weight.T

    with pytest.raises(ValueError, match=r"model\.layers\.0 \(Scaled\): __call__ is not x weight\^T"):
        oc.prepare_qat(oc.nn.Sequential(Scaled()), oc.default_qat_qconfig, layers={Scaled})
    with pytest.raises(ValueError, match="no layer of type Scaled in the model"):
        oc.prepare_qat(oc.nn.Linear.init(2, 2), oc.default_qat_qconfig, layers={Scaled})
    with pytest.raises(ValueError, match="qconfig names 'fc9'"):
        oc.prepare_qat(oc.nn.Sequential(oc.nn.Linear.init(2, 2)), {"fc9": oc.default_qat_qconfig}, layers=LINEAR)
    with pytest.raises(ValueError, match="qconfig names none of the layers"):
        oc.prepare_qat(oc.nn.Sequential(oc.nn.Linear.init(2, 2)), {"": None}, layers=LINEAR)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"fc": {}}, ValueError, r"qparams names 'fc', but the prepared layers are 'layers\.0', 'layers\.2'"),
        ({"layers.0": {"activation": 0}}, ValueError, "must be for 'input' or 'weight' or 'output', got 'activation'"),
        ({"layers.0": {"input": 0.5}}, TypeError, r"model\.layers\.0, input: must be a QParams, got 0\.5"),
        (
            {"layers.0": {"input": oc.QParams([1.0] * 6, 0, axis=1)}},
            TypeError,
            r"layer model\.layers\.0: input must have int8 or uint8 parameters per tensor",
        ),
        (
            {"layers.0": {"weight": oc.QParams(1.0, 3)}},
            TypeError,
            r"layer model\.layers\.0: weights must be symmetric",
        ),
        (
            {"layers.0": {"weight": oc.QParams([1.0] * 4, 0, axis=0)}},
            ValueError,
            r"layer model\.layers\.0, its weight: x of shape \(5, 6\) needs a scale of shape \(5,\)",
        ),
    ],
    ids=["layer", "entry", "kind", "input", "zero-point", "channels"],
)
def test_given_parameters_that_do_not_fit(given: Any, kind: type[Exception], message: str) -> None:
    model = prepared()
    oc.calibrate(model, [X])
    with pytest.raises(kind, match=message):
        oc.convert(model, qparams=given)


@pytest.mark.parametrize(("dtype", "value"), [(np.float32, 1e300), (np.float64, 1e300), (np.float16, 1e5)], ids=str)
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_values_that_overflow_in_the_layer_are_refused_and_nothing_is_stored(
    name: str, dtype: Any, value: float
) -> None:
    layer = oc.nn.Linear(np.ones((2, 4), dtype), np.zeros(2, dtype))
    model = oc.prepare_qat(layer, oc.default_qat_qconfig, layers=LINEAR)
    params = {"weight": np.full((2, 4), 7.0), "bias": np.full(2, 7.0)}
    params[name] = np.full_like(params[name], value)
    with pytest.raises(ValueError, match=rf"params\['{name}'\] must be finite, .*{np.dtype(dtype)}"):
        oc.qat.set_parameters(model, params)
    with pytest.raises(ValueError, match="must be finite"):
        oc.qat.apply(model, params, np.ones((1, 4), F))
    assert (model.weight == 1).all()
    assert (model.bias == 0).all()


def test_masked_inputs_are_refused() -> None:
    model = prepared()
    oc.calibrate(model, [X])
    with pytest.raises(TypeError, match=r"layers\.0.*masked array"):
        model(np.ma.masked_array(X, mask=X > 0))


def test_calibrate_takes_a_first_batch_without_rows_as_the_static_one_does() -> None:
    model, other = prepared(), prepared()
    oc.calibrate(model, [X[:0], X], progress=False)
    oc.calibrate(other, [X], progress=False)
    np.testing.assert_array_equal(oc.convert(model)(X), oc.convert(other)(X))
    empty = prepared()
    oc.calibrate(empty, [X[:0]], progress=False)
    with pytest.raises(ValueError, match="saw no calibration data"):
        oc.convert(empty)
