"""What counts as batches, wherever a function takes them; and how a model is run on one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

import octavo as oc
from models import random_array
from octavo._quantize import batches as module
from octavo._quantize.batches import check_batches, run_model

F = np.float32
X, Y = random_array(40, 64), np.arange(40) % 3


def linear() -> oc.nn.Linear:
    return oc.nn.Linear.init(64, 32, rng=np.random.default_rng(0))


def static(batches: Any) -> Any:
    prepared = oc.prepare(linear(), oc.default_qconfig, layers=oc.nn.Linear)
    oc.calibrate(prepared, batches)
    return oc.convert(prepared)


def trained(batches: Any) -> Any:
    pytest.importorskip("autograd", reason="quantization-aware training needs autograd")
    prepared = oc.prepare_qat(linear(), oc.default_qat_qconfig, layers=oc.nn.Linear)
    oc.calibrate(prepared, batches)
    return oc.convert(prepared)


TAKERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "calibrate": ("batches", static),
    "calibrate of prepare_qat": ("batches", trained),
    "quantize_dynamic": ("calibration", lambda b: oc.quantize_dynamic(linear(), oc.nn.Linear, "int4", calibration=b)),
    "gptq": (
        "calibration",
        lambda b: oc.quantize_dynamic(linear(), oc.nn.Linear, "int4", rounding="gptq", calibration=b),
    ),
    "compare_rounding": ("calibration", lambda b: oc.compare_rounding(linear(), oc.nn.Linear, b)),
}


class Frame:
    """As data frames are: an array on request, and iterating gives the names of columns."""

    shape = (40, 64)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return X

    def __iter__(self) -> Any:
        return iter(["a", "b"])


class Sparse:
    shape = (40, 64)

    def tocsr(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return iter(X)


def control(**options: Any) -> Any:
    arguments: dict[str, Any] = {"metric": len, "max_drop": 1, "layers": oc.nn.Linear}
    return oc.quantize_with_accuracy_control(linear(), [X], [X + 1], **arguments | options)


CALLERS: dict[str, Callable[..., Any]] = {
    "calibrate": lambda **o: oc.calibrate(oc.prepare(linear(), oc.default_qconfig, layers=oc.nn.Linear), [X], **o),
    "quantize_dynamic": lambda **o: oc.quantize_dynamic(linear(), oc.nn.Linear, **o),
    "compare_rounding": lambda **o: oc.compare_rounding(linear(), oc.nn.Linear, [X], **o),
    "find_smoothing": lambda **o: oc.find_smoothing(linear(), [X], layers=oc.nn.Linear, **o),
    "sensitivity": lambda **o: oc.sensitivity(linear(), [X], layers=oc.nn.Linear, **o),
    "advise": lambda **o: oc.advise(linear(), X, **o),
    "compare": lambda **o: oc.compare(linear(), oc.quantize_dynamic(linear(), oc.nn.Linear), X, **o),
    "control": control,
}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("value", ["predict", None])
def test_forward_that_cannot_be_called_is_named(caller: str, value: Any) -> None:
    message = f"forward must be callable, got {type(value).__name__} {value!r}; pass forward=lambda model, x: "
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        CALLERS[caller](forward=value)


@pytest.mark.parametrize(
    ("caller", "name", "value"),
    [
        ("quantize_dynamic", "report", []),
        ("quantize_dynamic", "rounding_report", "print"),
        ("control", "metric", "sqnr"),
        ("sensitivity", "metric", 5),
    ],
)
def test_other_functions_that_cannot_be_called_are_named(caller: str, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be .*got .*{re.escape(repr(value))}"):
        CALLERS[caller](**{name: value})


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (X, r"got one ndarray of shape \(40, 64\), whose rows would be taken for batches: put it into a list, \[x\]"),
        (X[:, None], r"got one ndarray of shape \(40, 1, 64\)"),
        (Frame(), r"got one Frame of shape \(40, 64\).*\[x\]"),
        (Sparse(), r"got one Sparse of shape \(40, 64\).*\[x\]"),
        ({"x": X}, r"got a dict, which gives its keys: put it into a list, \[x\]"),
        ("x.npy", r"got a str, which gives its characters"),
        (3, r"must be an iterable of batches, such as \[x\], got a int"),
        ((X, Y), r"got \(inputs, targets\).*pass \[inputs\]; .*forward=lambda model, batch: model\(batch\[0\]\)"),
    ],
    ids=["array", "3-D", "frame", "sparse", "dict", "str", "int", "pair"],
)
def test_one_array_is_not_taken_for_batches(taker: str, batches: Any, message: str) -> None:
    name, take = TAKERS[taker]
    with pytest.raises(TypeError, match=f"{name} must be an iterable of batches.*{message}|{message}"):
        take(batches)


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("batch", [(X, Y), (X, X), [X, Y], [X, X]], ids=["targets", "alike", "list", "list alike"])
def test_pairs_point_to_forward(taker: str, batch: Any) -> None:
    with pytest.raises(
        TypeError, match=r"a batch that is a \w+ of 2.*forward=lambda model, batch: model\(batch\[0\]\)"
    ):
        TAKERS[taker][1]([batch])


@pytest.mark.slow
@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    "make", [list, tuple, iter, lambda b: (x for x in b)], ids=["list", "tuple", "iter", "generator"]
)
def test_every_iterable_of_batches_is_taken(taker: str, make: Callable[[Iterable[Any]], Any]) -> None:
    assert TAKERS[taker][1](make([X[:20], X[20:]])) is not None


def test_arrays_of_objects_may_hold_batches() -> None:
    batches = np.empty(2, object)
    batches[:] = [X[:20], X[30:]]
    assert check_batches(batches, "batches") is batches


def test_calibrating_on_a_pair_with_forward() -> None:
    prepared = oc.prepare(linear(), oc.default_qconfig, layers=oc.nn.Linear)
    oc.calibrate(prepared, [(X, Y)], forward=lambda model, batch: model(batch[0]))
    np.testing.assert_array_equal(oc.convert(prepared)(X), static([X])(X))


def test_models_that_take_a_tuple_get_it() -> None:
    class TwoInputs:
        def __init__(self) -> None:
            self.fc = linear()

        def __call__(self, batch: Any) -> Any:
            return self.fc(batch[0]) + self.fc(batch[1])

    prepared = oc.prepare(TwoInputs(), oc.default_qconfig, layers=oc.nn.Linear)
    oc.calibrate(prepared, [(X, X)])
    assert oc.convert(prepared)((X, X)).shape == (40, 32)


def test_run_model_calls_or_predicts() -> None:
    class Predicting:
        def predict(self, x: Any) -> Any:
            return x + 1

    assert run_model(lambda x: x * 2, 4) == 8
    assert run_model(Predicting(), 4) == 5
    with pytest.raises(TypeError, match="the model, a dict, cannot be called; say how to run it on a batch: forward="):
        run_model({}, 4)
    with pytest.raises(ZeroDivisionError):
        run_model(lambda x: 1 / 0, [4])  # no pair: the model's own error


class RefusedError(LookupError):
    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.code = code


@pytest.mark.parametrize("raised", [RefusedError("too long", 7), ValueError("no such token"), KeyError("mask")])
def test_errors_of_models_on_pairs_keep_their_class_and_message(raised: Exception) -> None:
    def model(batch: Any) -> Any:
        raise raised

    with pytest.raises(type(raised)) as caught:
        run_model(model, (X, Y))
    assert caught.value is raised
    (note,) = raised.__notes__
    assert re.search(r"called with a batch that is a tuple of 2; .*forward=lambda model, batch: model\(\*batch\)", note)


def test_calls_that_a_pair_does_not_fit_point_to_forward() -> None:
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'mask'[\s\S]*model\(\*batch\)"):
        run_model(lambda x, mask: x, (X, Y))


def test_all_lists_the_functions_that_other_modules_import() -> None:
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    assert {name for name in own if not name.startswith("_")} == {*module.__all__} - {"Forward"}
