"""load(path, model): which dtype numbers have afterwards, and which conversions are refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from models import filled, random_array

F = np.float32
W, B = random_array(5, 5), random_array(5, seed=1)
X = random_array(3, 5, seed=2)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_take_the_dtype_of_the_model(dtype: str, tmp_path: Path) -> None:
    stored = {"a": W.astype(np.float64), "b": B.astype(np.float16)}
    model = filled(stored, {name: np.zeros(a.shape, dtype) for name, a in stored.items()}, tmp_path)
    for name, a in stored.items():
        assert model[name].dtype == dtype
        np.testing.assert_array_equal(model[name], a.astype(dtype))
    model = oc.load(tmp_path / "x", model, dtypes="file")
    assert [a.dtype for a in model.values()] == [np.float64, np.float16]


def test_other_numbers_take_the_dtype_of_the_model_where_they_are_there_exactly(tmp_path: Path) -> None:
    stored = {"ids": np.array([1, 200], np.int64), "on": np.array([True]), "n": np.array([1.0, 2.0])}
    model = {"ids": np.zeros(2, np.uint8), "on": np.zeros(1, np.int32), "n": np.zeros(2, np.int64)}
    found = filled(stored, model, tmp_path)
    assert [a.dtype.name for a in found.values()] == ["uint8", "int32", "int64"]
    assert [a.tolist() for a in found.values()] == [[1, 200], [1], [1, 2]]


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (np.array([2**53, -(2**63), 2**62]), "float64"), (np.array([-(2.0**63), 2.0**62]), "int64"),
        (np.array([2**63], np.uint64), "float64"), (np.array([2.0**63]), "uint64"),
        (np.array([65504, -2048]), "float16"),
    ],
)  # fmt: skip
def test_numbers_at_the_end_of_a_range_take_the_dtype_of_the_model(
    stored: np.ndarray, dtype: str, tmp_path: Path
) -> None:
    found = filled({"a": stored}, {"a": np.zeros(stored.shape, dtype)}, tmp_path)["a"]
    assert found.dtype == dtype
    assert [int(x) for x in found] == [int(x) for x in stored]


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (np.array([300]), "uint8"),
        (np.array([0.5]), "int32"),
        (np.array([1e300]), "float32"),
        (np.array([-1]), "bool"),
        (np.array([2**53 + 1]), "float64"),
        (np.array([2**24 + 1]), "float32"),
        (np.array([2**63 - 1]), "float64"),
        (np.array([2**64 - 1], np.uint64), "float64"),
        (np.array([2.0**63]), "int64"),
        (np.array([2.0**64]), "uint64"),
        (np.array([-1]), "uint64"),
        (np.array([2**64 - 1], np.uint64), "int64"),
        (np.array([-1.0]), "uint64"),
        (np.array([np.nan]), "int64"),
        (np.array([70000]), "float16"),
    ],
)
def test_numbers_that_the_models_dtype_lacks_are_refused(stored: np.ndarray, dtype: str, tmp_path: Path) -> None:
    model = {"a": np.zeros(1, dtype)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ValueError, match=rf'a: the model has dtype {dtype}, the file {stored.dtype}.*dtypes="file"'
        ):
            filled({"a": stored}, model, tmp_path)
    assert oc.load(tmp_path / "x", model, dtypes="file")["a"].dtype == stored.dtype


INT64, UINT64 = np.iinfo(np.int64), np.iinfo(np.uint64)


@pytest.mark.parametrize(
    ("number", "stored", "dtype"),
    [
        (2**53 + 1, "int64", "float64"),
        (-(2**53) - 1, "int64", "float64"),
        (INT64.max, "int64", "float64"),
        (INT64.min, "int64", "float16"),
        (UINT64.max, "uint64", "float64"),
        (2**24 + 1, "int32", "float32"),
        (2**53 + 1, "int64", "complex128"),
        (70000, "int32", "float16"),
        (2.0**63, "float64", "int64"),
        (2.0**64, "float64", "uint64"),
        (-1.0, "float64", "uint64"),
        (np.nan, "float64", "int64"),
        (np.inf, "float32", "int32"),
        (0.5, "float32", "int32"),
        (-1, "int64", "uint64"),
        (2**63, "uint64", "int64"),
        (256, "int64", "uint8"),
        (2, "int64", "bool"),
        (1j, "complex64", "float32"),
        (2.0**63, "complex64", "int64"),
    ],
)
def test_numbers_that_conversion_changes_are_refused(number: Any, stored: str, dtype: str, tmp_path: Path) -> None:
    values, model = np.array([0, number], stored), {"a": np.ones(2, dtype)}
    with pytest.raises(ValueError, match=f"a: the model has dtype {dtype}, the file {stored} with values that"):
        filled({"a": values}, model, tmp_path)
    assert model["a"].tolist() == [1, 1]
    assert oc.load(tmp_path / "x", model, dtypes="file")["a"].tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("number", "stored", "dtype"),
    [
        (2**53, "int64", "float64"),
        (2**62, "uint64", "float32"),
        (INT64.min, "int64", "float64"),
        (2**63, "uint64", "float64"),
        (-(2.0**63), "float64", "int64"),
        (2.0**63, "float64", "uint64"),
        (2**53, "int64", "complex128"),
        (INT64.max, "int64", "uint64"),
        (1, "int64", "bool"),
        (True, "bool", "float32"),
        (3, "complex64", "float32"),
        (3, "float32", "complex64"),
    ],
)
def test_numbers_that_conversion_keeps_are_converted(number: Any, stored: str, dtype: str, tmp_path: Path) -> None:
    found = filled({"a": np.array([0, number], stored)}, {"a": np.ones(2, dtype)}, tmp_path)["a"]
    assert found.dtype == dtype
    assert int(found[1].real) == int(np.real(number))


def test_array_that_is_converted_stays_one_array(tmp_path: Path) -> None:
    stored = {"a": W, "b": W}
    found = filled(stored, {"a": np.zeros((5, 5)), "b": np.zeros((5, 5))}, tmp_path)
    assert found["a"].dtype == np.float64
    assert found["a"] is found["b"]


def test_dtypes_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='dtypes must be "model" or "file", got \'float32\''):
        filled({"a": W}, {"a": None}, tmp_path, dtypes="float32")


def test_nan_and_infinity_are_floats_of_every_dtype(tmp_path: Path) -> None:
    stored = np.array([np.nan, np.inf, -np.inf])
    found = filled({"a": stored}, {"a": np.zeros(3, np.float16)}, tmp_path)["a"]
    np.testing.assert_array_equal(found, stored.astype(np.float16))


def test_bfloat16_is_stored_and_comes_back(tmp_path: Path) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays are those of ml_dtypes").bfloat16
    a = random_array(4, 6).astype(bfloat16)[:, ::2]
    stored = {"a": a, "scalar": np.array(1.5, bfloat16), "empty": np.zeros((0, 2), bfloat16)}
    oc.save(stored, tmp_path / "x")
    by_name = oc.load(tmp_path / "x")
    assert {found.dtype.name for found in by_name.values()} == {"float32"}
    for name, found in by_name.items():
        np.testing.assert_array_equal(found, stored[name].astype(F))
    model = oc.load(tmp_path / "x", {name: np.zeros(a.shape, bfloat16) for name, a in stored.items()})
    for name, found in model.items():
        assert found.dtype == bfloat16
        assert found.tobytes() == np.ascontiguousarray(stored[name]).tobytes()
    wide = oc.load(tmp_path / "x", {name: np.zeros(a.shape, F) for name, a in stored.items()})
    np.testing.assert_array_equal(wide["a"], a.astype(F))
    oc.save({"a": W}, tmp_path / "y")
    narrow = oc.load(tmp_path / "y", {"a": np.zeros(W.shape, bfloat16)})
    np.testing.assert_array_equal(narrow["a"], W.astype(bfloat16))
