"""quantize_dynamic(inplace=True): one layer after the other, and what an error leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import octavo as oc
from models import random_array
from octavo._quantize import building


def layers(count: int = 4) -> list[oc.nn.Linear]:
    return [oc.nn.Linear(random_array(8, 64, seed=seed)) for seed in range(count)]


X = random_array(3, 64, seed=9)


@pytest.mark.parametrize("options", [{}, {"dtype": "int4", "group_size": 32}], ids=["int8", "int4"])
@pytest.mark.parametrize("x", [None, [X]], ids=["alone", "measured"])
def test_in_place_is_what_a_copy_is(options: dict[str, Any], x: Any) -> None:
    def forward(model: Any, batch: Any) -> list[Any]:
        return [layer(np.asarray(batch[0])) for layer in model]

    reports: list[oc.QuantizationReport] = []
    copied = oc.quantize_dynamic(layers(), {oc.nn.Linear}, x=x, forward=forward, report=reports.append, **options)
    model = layers()
    changed = oc.quantize_dynamic(
        model, {oc.nn.Linear}, x=x, forward=forward, inplace=True, report=reports.append, **options
    )
    assert changed is model
    for a, b in zip(copied, changed, strict=True):
        np.testing.assert_array_equal(a(X), b(X))
    assert reports[0] == reports[1]


def test_layers_of_the_same_arrays_share_their_integers_in_place() -> None:
    first, other = layers(2)
    model = [first, oc.nn.Linear(first.weight, first.bias), other]
    oc.quantize_dynamic(model, {oc.nn.Linear}, inplace=True)
    held: Any = model
    assert held[0]._packed is held[1]._packed is not held[2]._packed


def failing(monkeypatch: pytest.MonkeyPatch, at: int, error: type[BaseException]) -> None:
    """Lets the building fail for good at that layer of four, when it is built for good."""
    fill: Callable[[Any, Any], None] = building.fill
    calls = iter(range(1, 5))

    def fail(hollow: Any, quantized: Any) -> None:
        if next(calls) == at:
            raise error
        fill(hollow, quantized)

    monkeypatch.setattr(building, "fill", fail)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [1, 3])
def test_what_is_not_quantized_yet_stays_in_float(
    monkeypatch: pytest.MonkeyPatch, at: int, error: type[BaseException]
) -> None:
    model = layers()
    before = list(model)
    with monkeypatch.context() as patch:
        failing(patch, at, error)
        with pytest.raises(error) as caught:
            oc.quantize_dynamic(model, {oc.nn.Linear}, inplace=True)
    assert f"{at - 1} of 4 layers and arrays have been quantized in place" in caught.value.__notes__[0]
    held: Any = model
    assert all(type(layer) is oc.QuantLinear for layer in held[: at - 1])
    assert held[at - 1 :] == before[at - 1 :]
    oc.quantize_dynamic(model, {oc.nn.Linear}, inplace=True)
    for layer, new in zip(before, held, strict=True):
        np.testing.assert_array_equal(new(X), oc.QuantLinear(layer.weight)(X))


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3])
def test_estimators_that_stay_in_float_may_be_trained(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    neural = pytest.importorskip("sklearn.neural_network", reason="scikit-learn is not installed")
    x = np.random.default_rng(0).standard_normal((200, 64))
    make = lambda: neural.MLPRegressor(hidden_layer_sizes=(48,), tol=1e9, n_iter_no_change=2, random_state=0)  # noqa: E731
    models = [make().fit(x, x[:, :8]), make().fit(x, x[:, :9])]
    expected = [make().fit(x, x[:, :5]).predict(x) for _ in models]
    with monkeypatch.context() as patch:
        failing(patch, at, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            oc.quantize_dynamic(models, inplace=True, min_size=0)
    whole = [model for model in models if all(type(w) is np.ndarray for w in model.coefs_)]
    assert len(whole) == (2 if at == 1 else 1)
    for model in models:
        if model in whole:
            model.partial_fit(x, x[:, :8] if model is models[0] else x[:, :9])
            np.testing.assert_array_equal(model.fit(x, x[:, :5]).predict(x), expected[0])
        else:
            with pytest.raises(TypeError, match="its matrices are quantized"):
                model.fit(x, x[:, :8])


def test_an_error_of_the_last_layer_leaves_the_first_as_it_was() -> None:
    model = layers()
    model[3].weight[2, 5] = np.nan
    before = list(model)
    with pytest.raises(ValueError, match="NaN"):
        oc.quantize_dynamic(model, {oc.nn.Linear}, inplace=True)
    assert model == before
