"""prepare, calibrate and convert of models that are arrays: what is observed, the integers that come of it, files."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from models import random_array

F = np.float32
X = random_array(40, 64, seed=3)


def params() -> dict[str, Any]:
    return {"up": random_array(64, 96), "down": random_array(64, 96, seed=1), "bias": random_array(96, seed=2)}


ARRAYS: Any = {"up": "in_out", "down": "out_in"}


def run(model: dict[str, Any], x: np.ndarray) -> np.ndarray:
    hidden = np.maximum(x @ model["up"] + model["bias"], 0)
    return hidden @ model["down"].T


def converted(model: Any = None, **options: Any) -> Any:
    prepared = oc.prepare(params() if model is None else model, oc.default_qconfig, arrays=ARRAYS, **options)
    oc.calibrate(prepared, [X[:20], X[20:]], forward=run)
    return oc.convert(prepared)


def reference(x: np.ndarray, q: oc.QuantMatrix, low: float, high: float) -> np.ndarray:
    """The static product by its definition, of x with the range that calibration saw."""
    observer = oc.MinMaxObserver(dtype="quint8")
    observer(np.array([low, high]))
    given = observer.calculate_qparams()
    layer = q._layer
    codes = oc.quantize(x, given).astype(np.int64) - int(given.zero_point)
    sums = codes @ layer.int_repr().T.astype(np.int64)
    return sums.astype(F) * (given.scale * layer.scale)


def test_prepared_arrays_compute_as_the_float_ones() -> None:
    prepared = oc.prepare(params(), oc.default_qconfig, arrays=ARRAYS)
    np.testing.assert_array_equal(run(prepared, X), run(params(), X))
    assert prepared["up"].shape == (64, 96)
    assert prepared["down"][2:4].shape == (2, 96)
    assert len(prepared["up"]) == 64
    assert float(np.sum(prepared["up"])) == float(np.sum(params()["up"]))
    assert "Observed(array of shape (64, 96))" in repr(prepared)


def test_converted_arrays_are_integer_products_with_fixed_ranges() -> None:
    q = converted()
    assert type(q["bias"]) is np.ndarray
    assert [q[name].axis for name in ARRAYS] == [1, 0]
    np.testing.assert_array_equal(X @ q["up"], reference(X, q["up"], X.min(), X.max()))
    # In the batches of calibration: a product of floats need not give a row the same bits in another batch.
    hidden = np.concatenate([np.maximum(x @ params()["up"] + params()["bias"], 0) for x in (X[:20], X[20:])])
    np.testing.assert_array_equal(hidden @ q["down"].T, reference(hidden, q["down"], hidden.min(), hidden.max()))
    exact = run(params(), X)
    assert np.abs(run(q, X) - exact).max() < 0.03 * np.abs(exact).max()
    twice = X.astype(np.float64) @ q["up"]
    assert twice.dtype == np.float64
    np.testing.assert_array_equal(twice.astype(F), X @ q["up"])


@pytest.mark.parametrize("product", ["dot", "einsum", "inner", "tensordot", "matmul"])
def test_every_product_is_observed(product: str) -> None:
    functions: dict[str, Any] = {
        "dot": lambda m, x: np.dot(x, m["up"]),
        "einsum": lambda m, x: np.einsum("bi,io->bo", x, m["up"]),
        "inner": lambda m, x: np.inner(x, m["up"].T),
        "tensordot": lambda m, x: np.tensordot(x, m["up"], axes=1),
        "matmul": lambda m, x: np.matmul(x, m["up"]),
    }
    prepared = oc.prepare(params(), oc.default_qconfig, arrays=["up"])
    oc.calibrate(prepared, [X], forward=functions[product])
    q = oc.convert(prepared)
    np.testing.assert_array_equal(functions[product](q, X), reference(X, q["up"], X.min(), X.max()))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))], ids=["copy", "pickle"])
def test_prepared_and_converted_models_copy_and_pickle(copier: Any) -> None:
    prepared = oc.prepare(params(), oc.default_qconfig, arrays=ARRAYS)
    oc.calibrate(prepared, [X], forward=run)
    expected = run(oc.convert(prepared), X)
    other = copier(prepared)
    oc.calibrate(other, [100 * X], forward=run)  # what the copy sees is its own
    np.testing.assert_array_equal(run(oc.convert(prepared), X), expected)
    np.testing.assert_array_equal(run(copier(oc.convert(prepared)), X), expected)
    assert not np.array_equal(run(oc.convert(other), X), expected)


def test_static_matrices_are_stored(tmp_path: Path) -> None:
    q = converted()
    oc.save(q, tmp_path / "q.safetensors")
    loaded = oc.load(tmp_path / "q.safetensors")
    np.testing.assert_array_equal(run(loaded, X), run(q, X))
    assert repr(loaded["up"]) == repr(q["up"])
    np.testing.assert_array_equal(run(oc.load(tmp_path / "q.safetensors", params()), X), run(q, X))


def test_nan_names_the_array() -> None:
    x = X.copy()
    x[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"model.*up.*must not hold NaN, got it first at row 1, column 2"):
        x @ converted()["up"]
    prepared = oc.prepare(params(), oc.default_qconfig, arrays=ARRAYS)
    with pytest.raises(ValueError, match=r"array model.*up.*, what it multiplies must be finite for calibration"):
        oc.calibrate(prepared, [x], forward=run)


def test_arrays_that_no_data_reached() -> None:
    prepared = oc.prepare(params(), oc.default_qconfig, arrays=ARRAYS)
    oc.calibrate(prepared, [X], forward=lambda m, x: x @ m["up"])
    with pytest.raises(ValueError, match=r"saw no calibration data: model.*down"):
        oc.convert(prepared)
    left = oc.convert(prepared, unobserved="float")
    np.testing.assert_array_equal(left["down"], params()["down"])
    assert isinstance(left["up"], oc.QuantMatrix)


def test_qconfig_and_qparams_name_arrays() -> None:
    qconfig = {"": oc.default_qconfig, "down": None}
    prepared = oc.prepare(params(), qconfig, arrays=ARRAYS)
    oc.calibrate(prepared, [X], forward=run)
    q = oc.convert(prepared, qparams={"up": {"input": oc.QParams(0.125, 128, "quint8")}})
    assert type(q["down"]) is np.ndarray
    assert "scale=0.125" in repr(q["up"])
    with pytest.raises(ValueError, match="must be for 'input' or 'weight', got 'output'"):
        oc.convert(prepared, qparams={"up": {"output": oc.QParams(0.125, 128, "quint8")}})


def test_layers_and_arrays_together() -> None:
    rng = np.random.default_rng(0)
    model = {"fc": oc.nn.Linear.init(64, 64, rng=rng), "w": random_array(64, 32)}
    prepared = oc.prepare(model, oc.default_qconfig, layers=oc.nn.Linear, arrays=["w"])
    forward = lambda m, x: m["fc"](x) @ m["w"]  # noqa: E731 - as users write it
    oc.calibrate(prepared, [X], forward=forward)
    q = oc.convert(prepared)
    assert isinstance(q["fc"], oc.StaticQuantLinear)
    assert q["fc"].output_qparams is None  # the array takes floats
    assert np.abs(forward(q, X) - forward(model, X)).max() < 0.03 * np.abs(forward(model, X)).max()


def test_inplace_and_shared_arrays() -> None:
    model = params()
    model["again"] = model["up"]
    prepared = oc.prepare(model, oc.default_qconfig, arrays=["up"], inplace=True)
    assert prepared is model
    assert model["again"] is model["up"]
    oc.calibrate(model, [X], forward=lambda m, x: x @ m["up"])
    q = oc.convert(model)
    assert q["again"] is q["up"]


def test_compare_has_rows_of_arrays() -> None:
    for quantized in (converted(), oc.quantize_dynamic(params(), arrays=ARRAYS)):
        rows = {row.path.strip("[']"): row for row in oc.compare(params(), quantized, X, arrays=True, forward=run).rows}
        assert rows.keys() == {"up", "down", "(result)"}
        exact, rough = (X @ m["up"] for m in (params(), quantized))
        noise = np.sum((rough.astype(np.float64) - exact) ** 2)
        assert rows["up"].sqnr == pytest.approx(10 * np.log10(np.sum(exact.astype(np.float64) ** 2) / noise), abs=1e-4)
        assert rows["up"].clipped == 0
        named = oc.compare(params(), quantized, X, arrays="down", forward=run).rows
        assert [row.path.strip("[']") for row in named] == ["down", "(result)"]
        assert len(oc.compare(params(), quantized, X, forward=run).rows) == 1
    rows = {
        row.path.strip("[']"): row for row in oc.compare(params(), converted(), 2 * X, arrays=True, forward=run).rows
    }
    assert rows["up"].clipped > 0.01
    with pytest.raises(ValueError, match=r"arrays: 'dwn' names no QuantMatrix of quantized_model; it has up, down"):
        oc.compare(params(), converted(), X, arrays=["dwn"], forward=run)


class Child:
    def __init__(self, parent: Any) -> None:
        self.parent = weakref.ref(parent)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.parent().fc(x)


class Parent:
    def __init__(self) -> None:
        self.fc = oc.nn.Linear.init(64, 8, rng=np.random.default_rng(0))
        self.child = Child(self)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.child(x)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["static", "dynamic"])
def test_weak_references_to_the_parent_lead_to_the_quantized_model(way: str) -> None:
    model = Parent()
    expected = model(X)
    if way == "static":
        prepared = oc.prepare(model, oc.default_qconfig, layers=oc.nn.Linear)
        oc.calibrate(prepared, [X])
        q = oc.convert(prepared)
        del prepared
    else:
        q = oc.quantize_dynamic(model, oc.nn.Linear)
    assert q.child.parent() is q
    del model
    gc.collect()
    assert isinstance(q.child.parent().fc, oc.QuantLinear)
    assert np.abs(q(X) - expected).max() < 0.05 * np.abs(expected).max()
