"""Errors raised again with the place: plain ones in their message, classes of users as they are, with a note."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._cli import main as cli
from octavo._util.errors import raise_named, with_notes

BATCH = np.ones((2, 4), np.float32)


class BadBatchError(ValueError):
    """A user's, which takes more than a message."""

    def __init__(self, batch: int, reason: str) -> None:
        super().__init__(f"batch {batch}: {reason}")
        self.batch = batch


class BadKindError(TypeError):
    pass


@pytest.mark.parametrize("kind", [TypeError, ValueError])
@pytest.mark.parametrize("hide", [False, True])
def test_plain_errors_have_the_place_in_their_message(kind: type[Exception], hide: bool) -> None:
    error = kind("no text")
    with pytest.raises(kind, match=r"^layer fc: no text; try another$") as caught:
        raise_named(error, "layer fc", "; try another", hide=hide)
    assert type(caught.value) is kind
    assert caught.value.__cause__ is (None if hide else error)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "error",
    [
        BadBatchError(3, "empty"), BadKindError("x"), json.JSONDecodeError("no", "{", 0),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "no"), LookupError("x"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_errors_of_other_classes_are_kept_and_have_the_place_in_a_note(error: Exception) -> None:
    text = str(error)
    for _ in range(2):  # as where a layer names itself, too
        with pytest.raises(type(error)) as caught:
            raise_named(error, "layer fc", "; try another")
    assert caught.value is error
    assert (str(error), error.__notes__) == (text, ["octavo: layer fc; try another"])
    assert (error.__cause__, error.__context__) == (None, None)
    assert with_notes(error) == f"{text}; octavo: layer fc; try another"


class Refusing(oc.MinMaxObserver):
    """Raises errors of a user's own, in one of its methods."""

    where = "call"

    def __call__(self, x: Any) -> Any:
        if self.where == "call":
            raise BadBatchError(7, "too dark")
        return super().__call__(x)

    def calculate_qparams(self) -> oc.QParams:
        if self.where == "qparams":
            raise BadBatchError(7, "too dark")
        return super().calculate_qparams()


@pytest.mark.parametrize("qat", [False, True])
def test_calibrate_raises_an_observers_own_error(qat: bool) -> None:
    model = oc.nn.Sequential(oc.nn.Linear.init(4, 2))
    if qat:
        pytest.importorskip("autograd", reason="quantization-aware training needs autograd")
        qconfig = oc.QConfig(activation=Refusing, weight=oc.default_qat_qconfig.weight)
        prepared = oc.prepare_qat(model, qconfig, layers={oc.nn.Linear})
    else:
        prepared = oc.prepare(model, oc.QConfig(activation=Refusing), layers={oc.nn.Linear})
    with pytest.raises(BadBatchError, match="batch 7: too dark") as caught:
        oc.calibrate(prepared, [BATCH])
    assert caught.value.batch == 7
    assert caught.value.__notes__[0].startswith("octavo: layer model.layers.0, its input")
    assert caught.value.__notes__[-1] == "octavo.calibrate: this was batch 0"


@pytest.mark.parametrize("where", ["call", "qparams"])
@pytest.mark.parametrize("error", [LookupError("no"), TypeError("no")], ids=["LookupError", "TypeError"])
def test_errors_of_observers_name_the_layer_whatever_their_class(where: str, error: Exception) -> None:
    class Failing(oc.MinMaxObserver):
        def __call__(self, x: Any) -> Any:
            if where == "call":
                raise error
            return super().__call__(x)

        def calculate_qparams(self) -> oc.QParams:
            raise error

    prepared = oc.prepare([oc.nn.Linear.init(4, 2)], oc.QConfig(activation=Failing), layers={oc.nn.Linear})

    def run() -> None:
        oc.calibrate(prepared, [BATCH], forward=lambda model, x: model[0](x))
        oc.convert(prepared)

    with pytest.raises(type(error), match=r"layer model\.0, its input"):
        run()


def test_convert_raises_an_observers_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Refusing, "where", "qparams")
    model = oc.nn.Sequential(oc.nn.Linear.init(4, 2))
    prepared = oc.prepare(model, oc.QConfig(activation=Refusing), layers={oc.nn.Linear})
    oc.calibrate(prepared, [BATCH])
    with pytest.raises(BadBatchError, match="too dark") as caught:
        oc.convert(prepared)
    assert caught.value.__notes__[0] == "octavo: layer model.layers.0, its input"


class Dense:
    """A user's layer, which looks at its inputs."""

    def __init__(self) -> None:
        self.weight = np.eye(4, dtype=np.float32)

    def __call__(self, x: Any) -> Any:
        if x.shape == BATCH.shape:
            raise BadBatchError(1, "torn")
        return x @ self.weight.T


@pytest.mark.parametrize("kind", [TypeError, KeyError])
def test_compare_names_the_layer_that_fails(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise kind("torn")

    model = [Dense()]
    quantized = oc.quantize_dynamic(model, Dense)
    monkeypatch.setattr(Dense, "__call__", fails)
    with pytest.raises(kind, match=r"layer model\.0"):
        oc.compare(model, quantized, BATCH, forward=lambda model, x: model[0](x))


def test_compare_raises_a_layers_own_error() -> None:
    model = [Dense()]
    quantized = oc.quantize_dynamic(model, Dense)
    with pytest.raises(BadBatchError) as caught:
        oc.compare(model, quantized, BATCH, forward=lambda model, x: model[0](x))
    assert caught.value.__notes__ == ["octavo: layer model.0"]


def test_model_that_fails_on_a_pair_shows_the_place() -> None:
    model = oc.nn.Sequential(lambda pair: pair[0], oc.nn.Linear.init(4, 2))
    prepared = oc.prepare(model, oc.QConfig(activation=Refusing), layers=oc.nn.Linear)
    with pytest.raises(BadBatchError, match=r"^batch 7: too dark\noctavo: layer model\.layers\.1, its input\noctavo:"):
        oc.calibrate(prepared, [(BATCH, BATCH)])


def test_command_line_shows_the_place(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise_named(json.JSONDecodeError("no", "{", 0), "layer fc")

    monkeypatch.setattr("octavo._cli.inspection.command", fails)
    assert cli.main(["inspect", "x.safetensors"]) == 1
    assert capsys.readouterr().err == "octavo inspect: no: line 1 column 1 (char 0); octavo: layer fc\n"
