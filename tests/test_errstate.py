"""Under np.seterr(all="raise") every public call gives what it gives without, and code of the user keeps its setting.

The whole suite runs this way too: pytest --errstate=raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import octavo as oc

F = np.float32
rng = np.random.default_rng(0)
NORMAL = rng.standard_normal((64, 64), dtype=F)

# What to multiply a normal matrix or batch with: underflow to subnormal numbers and to zero, overflow of squares.
MAGNITUDES = {"tiny": 1e-44, "small": 1e-30, "one": 1.0, "large": 1e30, "largest": 3e37}


def scaled(magnitude: float, dtype: Any = F) -> np.ndarray:
    with np.errstate(all="ignore"):
        return (NORMAL.astype(np.float64) * magnitude).astype(dtype)


def dead(x: np.ndarray) -> np.ndarray:
    """With inputs that are always zero."""
    return np.where(np.arange(64) % 3 == 0, F(0), x)


def static(w: np.ndarray, x: np.ndarray) -> Any:
    model = oc.nn.Sequential(oc.nn.Linear(w), oc.nn.ReLU(), oc.nn.Linear(w[:8]))
    prepared = oc.prepare(model, oc.default_qconfig, layers={oc.nn.Linear}, check=False)
    oc.calibrate(prepared, [x])
    return np.asarray(oc.convert(prepared)(x))


def recurrent(kind: Any, x: np.ndarray, **options: Any) -> Any:
    layer = kind.from_float(getattr(oc.nn, kind.__name__[5:]).init(64, 8, rng=np.random.default_rng(0)), **options)
    return layer(x[:, None])[0]


def observed(kind: str, x: np.ndarray, **options: Any) -> Any:
    observer = getattr(oc, kind)(**options)
    observer(x)
    return [np.asarray(a) for a in observer.merge(observer).calculate_qparams()]


def compared(w: np.ndarray, x: np.ndarray) -> Any:
    model = oc.nn.Sequential(oc.nn.Linear(w))
    row = oc.compare(model, oc.quantize_dynamic(model, {oc.nn.Linear}, check=False), x).rows[0]
    return [getattr(row, name) for name in ("sqnr", "cosine")]


INT4: dict[str, Any] = {"dtype": "int4", "group_size": 32}
OBSERVERS = [
    "MinMaxObserver", "MovingAverageMinMaxObserver", "PerChannelMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver", "HistogramObserver", "PercentileObserver", "EntropyObserver",
    "MSEObserver",
]  # fmt: skip


def trained(w: np.ndarray, x: np.ndarray) -> Any:
    model = oc.prepare_qat(oc.nn.Sequential(oc.nn.Linear(w)), oc.default_qat_qconfig, layers={oc.nn.Linear})
    oc.calibrate(model, [x])
    return [model(x), np.asarray(oc.convert(model)(x))]


def gradients(w: np.ndarray, x: np.ndarray) -> Any:
    import autograd

    model = oc.prepare_qat(oc.nn.Sequential(oc.nn.Linear(w), oc.nn.Sigmoid()), oc.default_qat_qconfig,
                           layers={oc.nn.Linear})  # fmt: skip
    oc.calibrate(model, [x])
    loss = autograd.grad(lambda params: autograd.numpy.sum(oc.qat.apply(model, params, x)))
    return list(loss(oc.qat.parameters(model)).values())


# Of weights w (64, 64) and inputs x (64, 64), both of one magnitude.
CALLS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "QuantLinear": lambda w, x: oc.QuantLinear(w)(x),
    "QuantLinear float64": lambda w, x: oc.QuantLinear(w)(x.astype(np.float64) * 1e-16),
    "QuantLinear float16": lambda w, x: oc.QuantLinear(w)(scaled(1e-6, np.float16)),
    "QuantLinear out": lambda w, x: oc.QuantLinear(w)(x.astype(np.float64), out=np.empty((64, 64))),
    "QuantLinear asymmetric": lambda w, x: oc.QuantLinear(w, activation="asymmetric")(x),
    "QuantLinear int4": lambda w, x: oc.QuantLinear(w, **INT4)(x),
    "QuantLinear int4 affine": lambda w, x: oc.QuantLinear(w, symmetric=False, rounding="nearest", **INT4)(x),
    "weight": lambda w, x: [oc.QuantLinear(w).weight, oc.QuantLinear(w, **INT4).weight],
    "QuantMatrix": lambda w, x: [x @ oc.QuantMatrix(w), x @ oc.QuantMatrix(w, axis=0), oc.QuantMatrix(w)[[1, 2], :3]],
    "QuantMatrix float64": lambda w, x: x.astype(np.float64) @ oc.QuantMatrix(w, axis=0),
    "QuantEmbedding": lambda w, x: [oc.QuantEmbedding(w)([1, 2]), oc.QuantEmbedding(w, **INT4)([1, 2])],
    "QuantLSTM": lambda w, x: recurrent(oc.QuantLSTM, x),
    "QuantLSTM float64": lambda w, x: recurrent(oc.QuantLSTM, x.astype(np.float64) * 1e-20),
    "QuantGRU float16": lambda w, x: recurrent(oc.QuantGRU, scaled(1e-6, np.float16), **INT4),
    "nn": lambda w, x: [oc.nn.Linear(w)(x), oc.nn.Sigmoid()(x), oc.nn.ReLU()(x)],
    "nn.LSTM": lambda w, x: oc.nn.LSTM.init(64, 4, rng=np.random.default_rng(0))(x[:, None])[0],
    "nn.GRU float16": lambda w, x: oc.nn.GRU.init(64, 4, rng=np.random.default_rng(0))(scaled(1e-6, "f2")[:, None])[0],
    "choose_qparams": lambda w, x: list(oc.choose_qparams(x, "uint8", symmetric=False)),
    "quantize": lambda w, x: oc.quantize(x, oc.choose_qparams(x, axis=0)),
    "dequantize": lambda w, x: oc.dequantize(oc.quantize(x, oc.choose_qparams(x)), oc.choose_qparams(x)),
    "fake_quantize": lambda w, x: oc.fake_quantize(x, oc.choose_qparams(x, group_size=32)),
    "round_nearest": lambda w, x: oc.round_nearest(w, group_size=32).dequantize(),
    "round_search": lambda w, x: oc.round_search(w, symmetric=False, importance=np.square(x[0], dtype="f8")).q,
    "round_gptq": lambda w, x: oc.round_gptq(w, dead(x), group_size=32).dequantize(),
    "round_gptq_int8": lambda w, x: oc.round_gptq_int8(w, dead(x)).dequantize(),
    "round_gptq in order": lambda w, x: oc.round_gptq(w, dead(x), group_size=32, activation_order=False).q,
    "rounding_error": lambda w, x: list(
        vars_of(oc.rounding_error(w, oc.round_nearest(w, group_size=32), x), "weight_error", "output_error")
    ),
    "static": static,
    "static float64": lambda w, x: static(w.astype(np.float64), x.astype(np.float64) * 1e-16),
    "prepare_qat": trained,
    "prepare_qat float64": lambda w, x: trained(w.astype(np.float64) * 1e-16, x.astype(np.float64) * 1e-16),
    "gradients": gradients,
    "quantize_dynamic float64": lambda w, x: oc.quantize_dynamic(
        oc.nn.Sequential(oc.nn.Linear(w.astype(np.float64) * 1e-16)), {oc.nn.Linear}
    )(x.astype(np.float64) * 1e-16),
    "arrays": lambda w, x: x @ oc.quantize_dynamic({"w": w.astype(np.float64) * 1e-16}, arrays=["w"])["w"],
    "compare": compared,
    "advise": lambda w, x: [r.sqnr_db for r in oc.advise({"w": w.copy()}, arrays=["w"], batch_sizes=(1,)).rows],
    "quantize_dynamic": lambda w, x: oc.quantize_dynamic(oc.nn.Sequential(oc.nn.Linear(w)), {oc.nn.Linear})(x),
    "quantize_dynamic gptq": lambda w, x: oc.quantize_dynamic(
        oc.nn.Sequential(oc.nn.Linear(w)), {oc.nn.Linear}, rounding="gptq", calibration=[dead(x)], **INT4
    )(x),
    "compare_rounding": lambda w, x: [
        r.weight_error for r in oc.compare_rounding(oc.nn.Linear(w), oc.nn.Linear, [dead(x)], group_size=32).rows
    ],
    "ops.quantize_linear": lambda w, x: oc.ops.quantize_linear(x, F(0.5), np.uint8(3)),
    "ops.dynamic_quantize_linear": lambda w, x: list(oc.ops.dynamic_quantize_linear(x)),
    "ops.dequantize_linear": lambda w, x: oc.ops.dequantize_linear(np.int8([[1, -3]]), np.abs(w[0, 0])),
} | {kind: lambda w, x, kind=kind: observed(kind, x) for kind in OBSERVERS}


def vars_of(value: Any, *names: str) -> list[Any]:
    return [getattr(value, name) for name in names]


def answer(call: Callable[[np.ndarray, np.ndarray], Any], magnitude: float) -> Any:
    """What the call gives, or the kind of its error; a magnitude may be beyond what a function takes."""
    w, x = scaled(magnitude), scaled(magnitude)[::-1].copy()
    try:
        return call(w, x)
    except (ValueError, TypeError) as error:
        return type(error)


@pytest.mark.slow
@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore:.*has seen only zeros:UserWarning")
def test_call_gives_the_same_whatever_the_callers_errstate(name: str, magnitude: str) -> None:
    with np.errstate(all="ignore"):
        expected = answer(CALLS[name], MAGNITUDES[magnitude])
    with np.errstate(all="raise"):
        actual = answer(CALLS[name], MAGNITUDES[magnitude])
    if isinstance(expected, type):
        assert actual is expected
    else:
        np.testing.assert_equal(actual, expected)
    with np.errstate(all="warn"):  # warnings are errors in this suite
        np.testing.assert_equal(answer(CALLS[name], MAGNITUDES[magnitude]), expected)


class Layer:
    """A layer of the user that notes NumPy's settings while it runs."""

    def __init__(self) -> None:
        self.weight = NORMAL[:8].copy()
        self.seen: list[dict[str, str]] = []

    def __call__(self, x: np.ndarray) -> np.ndarray:
        SEEN.append(np.geterr())
        return x @ self.weight.T


SEEN: list[Any] = []


@pytest.mark.parametrize(
    "use",
    [
        lambda m: oc.quantize_dynamic(m, {Layer}),
        lambda m: oc.quantize_dynamic(m, {Layer}, rounding="gptq", calibration=[NORMAL], **INT4),
        lambda m: oc.calibrate(oc.prepare(m, oc.default_qconfig, layers={Layer}), [NORMAL]),
        lambda m: oc.compare(m, oc.quantize_dynamic(m, {Layer}), NORMAL),
        lambda m: oc.advise(m, NORMAL, layers={Layer}, batch_sizes=(1,)),
        lambda m: oc.compare_rounding(m, {Layer}, [NORMAL]),
    ],
    ids=["check", "gptq", "calibrate", "compare", "advise", "compare_rounding"],
)
def test_code_of_the_user_keeps_its_errstate(use: Callable[[Any], Any]) -> None:
    SEEN.clear()
    with np.errstate(all="raise", under="warn"):
        use(oc.nn.Sequential(Layer()))
    assert SEEN
    assert all(seen == {"divide": "raise", "over": "raise", "under": "warn", "invalid": "raise"} for seen in SEEN)
