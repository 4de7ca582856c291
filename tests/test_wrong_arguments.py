"""Wrong inputs, as people give them: each is refused with what was received and what to do, and nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import octavo as oc
from models import identity_of

F = np.float32
rng = np.random.default_rng(0)
W, B, X = rng.standard_normal((8, 64), dtype=F), np.zeros(8, F), rng.standard_normal((4, 64), dtype=F)
LINEAR = oc.nn.Linear


class Dense:
    """A user's layer with (in, out) weights under a name of its own."""

    def __init__(self) -> None:
        self.W = W.T.copy()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.W


class Tanh(LINEAR):
    def __call__(self, x: Any) -> Any:
        return np.tanh(super().__call__(x))


def layer() -> oc.nn.Linear:
    return LINEAR(W, B)


def model() -> oc.nn.Sequential:
    return oc.nn.Sequential(layer(), oc.nn.ReLU(), LINEAR(W[:, :8]))


def prepared() -> Any:
    return oc.prepare(model(), oc.default_qconfig, layers=LINEAR)


def calibrated() -> Any:
    ready = prepared()
    oc.calibrate(ready, [X])
    return ready


def with_nan(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[1, 2] = np.nan
    return x


class Wrong(NamedTuple):
    """What is done, on what `given` makes; the error, and all that its message must say."""

    given: Callable[[], Any]
    done: Callable[[Any], Any]
    error: type[Exception]
    says: list[str]


INPUTS: dict[str, Wrong] = {
    # layers and arrays
    "a 3-D weight": Wrong(lambda: W[None], oc.QuantLinear, ValueError, ["2-D", "(1, 8, 64)"]),
    "a bias of another length": Wrong(lambda: B[:3], lambda b: oc.QuantLinear(W, b), ValueError, ["bias", "(3,)", "8"]),
    "NaN in a weight": Wrong(lambda: with_nan(W), oc.QuantLinear, ValueError, ["weight", "nan", "[1, 2]"]),
    "x of another width": Wrong(lambda: X[:, :5], oc.QuantLinear(W), ValueError, ["64", "(4, 5)"]),
    "text for x": Wrong(lambda: np.array(["a"] * 64), oc.QuantLinear(W), TypeError, ["x", "<U1"]),
    "a group size of 5": Wrong(
        lambda: 5, lambda g: oc.QuantLinear(W, dtype="int4", group_size=g), ValueError, ["group_size", "32", "5"]
    ),
    "a group size for int8": Wrong(
        lambda: 32, lambda g: oc.QuantLinear(W, group_size=g), ValueError, ["group_size=32", "int4"]
    ),
    "an unknown type": Wrong(lambda: "int7", lambda d: oc.QuantLinear(W, dtype=d), ValueError, ["int8", "'int7'"]),
    "writing to a QuantMatrix": Wrong(
        lambda: oc.QuantMatrix(W), lambda q: q.__setitem__(0, 1), TypeError, ["cannot be written to", "dequantize()"]
    ),
    "a scale of zero": Wrong(lambda: 0.0, lambda s: oc.QParams(s, 0), ValueError, ["scale", "0"]),
    # quantize_dynamic
    "a layer instead of its class": Wrong(layer, lambda v: oc.quantize_dynamic([v], v), TypeError, ["layers", "class"]),
    "a class that the model has not": Wrong(
        lambda: [Dense()], lambda m: oc.quantize_dynamic(m, LINEAR), ValueError, ["no layer of type Linear", "Dense"]
    ),
    "a weight of another name": Wrong(
        lambda: [Dense()],
        lambda m: oc.quantize_dynamic(m, Dense),
        ValueError,
        ["(Dense)", "no attribute 'weight'", "LayerSpec(weight='W', layout='in_out')"],
    ),
    "a layer with an activation": Wrong(
        lambda: [Tanh(W)], lambda m: oc.quantize_dynamic(m, Tanh), ValueError, ["(Tanh)", "is not x weight^T", "check"]
    ),
    "a path that leads nowhere": Wrong(
        lambda: {"w": rng.standard_normal((64, 64))},
        lambda m: oc.quantize_dynamic(m, arrays=["v"]),
        ValueError,
        ["'v'", "names no array", "w"],
    ),
    "a model of nothing": Wrong(lambda: {"a": 1}, oc.quantize_dynamic, ValueError, ["no array to quantize", "layers="]),
    "a model that is quantized": Wrong(
        lambda: oc.quantize_dynamic(model(), LINEAR),
        lambda m: oc.quantize_dynamic(m, LINEAR),
        ValueError,
        ["already quantized", "QuantLinear"],
    ),
    "an array as calibration": Wrong(
        lambda: X, lambda x: oc.quantize_dynamic(model(), LINEAR, "int4", calibration=x), TypeError, ["[x]", "(4, 64)"]
    ),
    "GPTQ without calibration": Wrong(
        model, lambda m: oc.quantize_dynamic(m, LINEAR, "int4", rounding="gptq"), ValueError, ["calibration=batches"]
    ),
    "uint8 weights": Wrong(model, lambda m: oc.quantize_dynamic(m, LINEAR, "uint8"), ValueError, ['"int8"', "uint8"]),
    "a misspelt name in dtype": Wrong(
        model,
        lambda m: oc.quantize_dynamic(m, LINEAR, {"": "int8", "layers.9": None}),
        ValueError,
        ["'layers.9'", "layers.0"],
    ),
    # static quantization
    "an observer instead of its class": Wrong(
        oc.MinMaxObserver, lambda o: oc.QConfig(activation=o), TypeError, ["every layer needs its own", "with_args"]
    ),
    "an observer of weights that is not symmetric": Wrong(
        lambda: oc.MinMaxObserver,
        lambda o: oc.QConfig(weight=o),
        TypeError,
        ["quint8", 'qscheme="per_tensor_symmetric"'],
    ),
    "converting before calibrating": Wrong(prepared, oc.convert, ValueError, ["saw no calibration data", "calibrate("]),
    "calibrating a float model": Wrong(model, lambda m: oc.calibrate(m, [X]), ValueError, ["prepare"]),
    "an array as batches": Wrong(prepared, lambda p: oc.calibrate(p, X), TypeError, ["[x]", "(4, 64)"]),
    "batches with targets": Wrong(
        prepared, lambda p: oc.calibrate(p, [(X, np.arange(4))]), TypeError, ["forward=lambda", "batch[0]"]
    ),
    "no batch": Wrong(prepared, lambda p: oc.calibrate(p, []), ValueError, ["at least one batch"]),
    "NaN in a batch": Wrong(
        prepared, lambda p: oc.calibrate(p, [with_nan(X)]), ValueError, ["nan", "[1, 2]", "layers"]
    ),
    "a QConfig for a layer that is not there": Wrong(
        model,
        lambda m: oc.prepare(m, {"": oc.default_qconfig, "fc9": None}, layers=LINEAR),
        ValueError,
        ["'fc9'", "layers"],
    ),
    "NaN in x of a static layer": Wrong(
        lambda: oc.convert(calibrated()), lambda m: m(with_nan(X)), ValueError, ["NaN", "row 1", "column 2"]
    ),
    # analysis, observers, files, operators, runtime
    "comparing with a float model": Wrong(model, lambda m: oc.compare(m, m, X), ValueError, ["no quantized layer"]),
    "a model that cannot be called": Wrong(
        lambda: {"w": rng.standard_normal((64, 64))}, lambda m: oc.advise(m, X), TypeError, ["forward=lambda"]
    ),
    "an observer asked too early": Wrong(
        oc.MinMaxObserver, lambda o: o.calculate_qparams(), ValueError, ["no data", "call it on"]
    ),
    "inputs that do not fit GPTQ": Wrong(lambda: X[:, :5], lambda x: oc.round_gptq(W, x), ValueError, ["64", "(4, 5)"]),
    "saving nothing": Wrong(
        lambda: {"a": 1.0}, lambda m: oc.save(m, "x.safetensors"), ValueError, ["nothing to store"]
    ),
    "loading a file that does not exist": Wrong(
        lambda: "missing.safetensors", oc.load, FileNotFoundError, ["missing.safetensors"]
    ),
    "an unknown kernel": Wrong(lambda: "sse9", oc.use_kernel, ValueError, ["sse9"]),
    "a thread count of zero": Wrong(lambda: 0, oc.set_num_threads, ValueError, ["0"]),
}


def held(value: Any) -> list[tuple[str, int]]:
    """Which object is where, without what a prepared model notes of its last batch."""
    return [(path, found) for path, found in identity_of(value) if "tracer" not in path]


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_wrong_input_says_what_came_and_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given, done, error, says = INPUTS[name]
    value = given()
    before, settings = held(value), (oc.get_num_threads(), oc.kernels())
    with pytest.raises(error) as caught:
        done(value)
    for text in says:
        assert text in str(caught.value)
    assert len(str(caught.value)) < 700
    assert not re.search(r"<(function|lambda|bound method)", str(caught.value))
    assert held(value) == before
    assert list(tmp_path.iterdir()) == []
    assert (oc.get_num_threads(), oc.kernels()) == settings


def test_there_are_thirty_of_them() -> None:
    assert len(INPUTS) >= 30
