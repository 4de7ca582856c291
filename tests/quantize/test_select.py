"""quantize_dynamic on models that are arrays: dicts, lists, dataclasses, objects; which arrays, and the report."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc

F = np.float32
rng = np.random.default_rng(0)


def matrix(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=F)


def transformer() -> dict[str, Any]:
    shared = matrix(100, 64)
    return {
        "wte": shared,
        "head": shared,
        "blocks": [
            {"w": matrix(64, 64), "b": matrix(64), "norm": {"g": matrix(64)}, "n": 3, "name": "block"} for _ in range(2)
        ],
        "ids": np.arange(6).reshape(2, 3),
        "kernel": matrix(3, 64, 64),
        "small": matrix(4, 4),
    }


def run(params: dict[str, Any], ids: np.ndarray) -> np.ndarray:
    x = params["wte"][ids]
    for block in params["blocks"]:
        x = x + np.tanh(x @ block["w"] + block["b"])
    return x @ params["head"].T


PATTERNS: dict[str, Any] = {"blocks.*.w": "in_out", "wte": "out_in"}


@pytest.mark.parametrize("options", [{}, {"dtype": "int4", "group_size": 32}, {"activation": "asymmetric"}], ids=str)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_dict_of_arrays_runs_its_own_code_on_integers(options: dict[str, Any], inplace: bool) -> None:
    params, ids = transformer(), np.array([[1, 5], [99, 0]])
    expected, w = run(params, ids), params["blocks"][0]["w"]
    q = oc.quantize_dynamic(params, arrays=PATTERNS, inplace=inplace, **options)
    assert (q is params) is inplace
    assert isinstance(q["blocks"][1]["w"], oc.QuantMatrix)
    assert isinstance(q["wte"], oc.QuantMatrix)
    assert q["head"] is q["wte"]  # shared stays shared, by either path
    assert (q["wte"].axis, q["blocks"][0]["w"].axis) == (0, 1)
    for name in ("ids", "kernel", "small"):
        assert type(q[name]) is np.ndarray
    assert type(q["blocks"][0]["b"]) is np.ndarray
    error = np.abs(run(q, ids) - expected).max() / np.abs(expected).max()
    assert error < (0.03 if "dtype" not in options else 0.3)
    x = matrix(3, 64)
    np.testing.assert_array_equal(x @ q["blocks"][0]["w"], oc.QuantLinear(w.T, **options)(x))
    if not inplace:
        assert type(params["wte"]) is np.ndarray


def test_by_default_large_2d_float_arrays_are_taken_and_the_report_says_why_others_stay() -> None:
    params = transformer()
    reports: list[oc.QuantizationReport] = []
    q = oc.quantize_dynamic(params, report=reports.append)
    taken = {e.path for e in reports[0].entries if e.became == "int8"}
    assert taken == {"wte", "blocks.0.w", "blocks.1.w"}
    left = {e.path: e.why for e in reports[0].entries if e.became != "int8"}
    assert left["blocks.0.b"] == left["blocks.1.norm.g"] == "1-D"
    assert left["ids"] == "dtype int64"
    assert left["kernel"] == "3-D"
    assert left["small"] == "fewer than 4096 elements"
    text = str(reports[0])
    assert "wte" in text
    assert "100x64" in text
    total = next(e for e in reports[0].entries if e.path == "wte")
    assert total.bytes_before == 100 * 64 * 4
    assert total.bytes_after == q["wte"].nbytes
    assert isinstance(oc.quantize_dynamic(params, min_size=16)["small"], oc.QuantMatrix)


@dataclasses.dataclass
class Weights:
    w: np.ndarray
    b: np.ndarray


class Net:
    __slots__ = ("cache", "layers", "out")

    def __init__(self) -> None:
        self.layers = (Weights(matrix(64, 80), matrix(80)), Weights(matrix(80, 64), matrix(64)))
        self.out = [matrix(64, 10)]
        self.cache: Any = None

    def predict(self, x: np.ndarray) -> np.ndarray:
        for layer in self.layers:
            x = np.maximum(x @ layer.w + layer.b, 0)
        return x @ self.out[0]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("patterns", [["layers.*.w", "out.0"], ["layers[0].w", "layers[1].w", "out[0]"], "*", {"*"}])
def test_objects_slots_tuples_and_dataclasses(inplace: bool, patterns: Any) -> None:
    model, x = Net(), matrix(5, 64)
    expected = model.predict(x)
    q = oc.quantize_dynamic(model, arrays=patterns, inplace=inplace)
    assert all(isinstance(w, oc.QuantMatrix) for w in (q.layers[0].w, q.layers[1].w, q.out[0]))
    assert type(q.layers[0].b) is np.ndarray
    assert np.abs(q.predict(x) - expected).max() < 0.05 * np.abs(expected).max()
    again = pickle.loads(pickle.dumps(copy.deepcopy(q)))
    np.testing.assert_array_equal(again.predict(x), q.predict(x))


@pytest.mark.parametrize("name", ["['b[0]'].w", "b[0].w", "b[?].w", "b*w"])
def test_keys_with_brackets_are_named_as_the_report_prints_them(name: str) -> None:
    params = {"a": {"w": matrix(8, 8)}, "b[0]": {"w": matrix(8, 8)}}
    q = oc.quantize_dynamic(params, arrays=[name])
    assert isinstance(q["b[0]"]["w"], oc.QuantMatrix)
    assert isinstance(q["a"]["w"], np.ndarray)


def test_npz_files_become_dicts(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", **{"a.w": matrix(64, 64), "b": matrix(64)})
    with np.load(tmp_path / "model.npz") as stored:
        q = oc.quantize_dynamic(stored)
    assert isinstance(q["a.w"], oc.QuantMatrix)
    assert type(q["b"]) is np.ndarray
    assert isinstance(oc.quantize_dynamic({"a.w": matrix(4, 4)}, arrays=["a.w"])["a.w"], oc.QuantMatrix)


def test_a_bare_array_becomes_a_matrix() -> None:
    assert isinstance(oc.quantize_dynamic(matrix(64, 64)), oc.QuantMatrix)


def test_layers_and_arrays_together() -> None:
    model = {"fc": oc.nn.Linear(matrix(64, 64)), "w": matrix(64, 64), "v": matrix(64, 64)}
    reports: list[oc.QuantizationReport] = []
    q = oc.quantize_dynamic(model, {oc.nn.Linear}, arrays=["w"], report=reports.append)
    assert isinstance(q["fc"], oc.QuantLinear)
    assert isinstance(q["w"], oc.QuantMatrix)
    assert type(q["v"]) is np.ndarray
    assert [(e.path, e.became, e.why) for e in reports[0].entries] == [
        ("fc", "int8", ""), ("w", "int8", ""), ("v", "float", "named by no pattern"),
    ]  # fmt: skip
    layers_alone = oc.quantize_dynamic(model, {oc.nn.Linear})
    assert type(layers_alone["w"]) is np.ndarray


def test_arrays_inside_replaced_layers_are_not_reported() -> None:
    reports: list[oc.QuantizationReport] = []
    oc.quantize_dynamic([oc.nn.Linear(matrix(64, 64))], {oc.nn.Linear}, report=reports.append)
    assert [e.path for e in reports[0].entries] == ["0"]
    assert reports[0].entries[0].bytes_before == 4 * 64 * 64


class Odd:
    def __repr__(self) -> str:
        return "Odd()"


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (transformer(), {"arrays": ["ids"]}, ValueError, "model.ids cannot be quantized: dtype int64"),
        (transformer(), {"arrays": ["kernel"]}, ValueError, "model.kernel cannot be quantized: 3-D"),
        (transformer(), {"arrays": ["blocks.0.b"]}, ValueError, r"model.blocks.0.b cannot be quantized: 1-D"),
        (transformer(), {"arrays": ["wte", "blocks.*.v"]}, ValueError, r"'blocks.\*.v' names no array.*wte, head"),
        (transformer(), {"arrays": []}, ValueError, "at least one array"),
        (transformer(), {"arrays": [3]}, TypeError, "paths such as"),
        (transformer(), {"arrays": 3}, TypeError, "arrays must be True"),
        (transformer(), {"arrays": False}, TypeError, "arrays must be True"),
        (transformer(), {"arrays": {"wte": "rows"}}, ValueError, "layout of 'wte' must be \"in_out\""),
        (transformer(), {"layout": "rows"}, ValueError, "layout must be"),
        (
            oc.nn.Sequential(oc.nn.Linear(np.eye(3))),
            {},
            ValueError,
            r"fewer than 4096 .*; pass layers=\{Linear\}, or arr",
        ),
        ([oc.nn.LSTM.init(2, 2), oc.nn.Linear(np.eye(3))], {}, ValueError, r"; pass layers=\{LSTM, Linear\}, or"),
        ({"w": np.ones((3, 3))}, {}, ValueError, r"; name layers=\.\.\., or arrays="),
        ({"w": np.full((64, 64), np.nan)}, {"arrays": ["w"]}, ValueError, "model.w cannot be quantized: holds NaN"),
        ({"w": np.full((64, 64), np.nan)}, {}, ValueError, "no array to quantize.*w: holds NaN"),
        ({"a": Odd(), "b": [1, "x", None]}, {}, ValueError, "no array to quantize"),
        ({"w": matrix(64, 64)}, {"dtype": "int4", "group_size": 5}, ValueError, "group_size"),
    ],
)
def test_wrong_arrays_are_named(model: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    before = copy.deepcopy(model)
    with pytest.raises(error, match=message):
        oc.quantize_dynamic(model, inplace=True, **options)
    assert repr(model) == repr(before)


def test_unknown_objects_are_copied_as_they_are() -> None:
    q = oc.quantize_dynamic({"w": matrix(64, 64), "odd": Odd(), "f": len})
    assert repr(q["odd"]) == "Odd()"
    assert q["f"] is len


class Subclass(np.ndarray):
    pass


def test_subclasses_of_ndarray_stay() -> None:
    reports: list[oc.QuantizationReport] = []
    oc.quantize_dynamic({"w": matrix(64, 64), "m": matrix(64, 64).view(Subclass)}, report=reports.append)
    assert [e.why for e in reports[0].entries if e.path == "m"] == [
        "is a Subclass, whose behaviour a QuantMatrix does not have"
    ]


def reported(model: Any, **options: Any) -> tuple[Any, dict[str, oc.arrays.Entry]]:
    reports: list[oc.QuantizationReport] = []
    quantized = oc.quantize_dynamic(model, report=reports.append, **options)
    return quantized, {e.path: e for e in reports[0].entries}


UNFIT: dict[str, tuple[Any, str]] = {
    "too many inputs": (np.zeros((140_000, 2), F), 'int32 sums are exact up to 131071 .* has layout="out_in"'),
    "beyond float32": (np.full((64, 64), -1e300), "beyond float32"),
    "one infinity": (np.diag(np.full(64, np.inf)), "NaN or infinity"),
    "long double": (np.ones((64, 64), np.longdouble), "dtype float128|dtype longdouble|dtype float96"),
    "complex": (np.ones((64, 64), complex), "dtype complex128"),
    "masked": (np.ma.array(matrix(64, 64)), "is a MaskedArray"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_cannot_be_quantized_stays_unless_it_is_named(kind: str) -> None:
    array, why = UNFIT[kind]
    model = {"a": array, "w": matrix(64, 64)}
    for wanted in (True, ["*"], ["?"]):
        quantized, entries = reported(model, arrays=wanted)
        assert type(quantized["a"]) is type(array)
        assert isinstance(quantized["w"], oc.QuantMatrix)
        assert re.search(why, entries["a"].why)
    with pytest.raises(ValueError, match=f"model.a cannot be quantized: .*({why})"):
        oc.quantize_dynamic(model, arrays=["a"])


def test_number_of_inputs_is_that_of_the_layout_and_type() -> None:
    w = np.zeros((140_000, 2), F)
    assert isinstance(oc.quantize_dynamic({"wte": w}, layout="out_in")["wte"], oc.QuantMatrix)
    assert isinstance(oc.quantize_dynamic({"wte": w}, dtype="int4", group_size=32)["wte"], oc.QuantMatrix)
    with pytest.raises(ValueError, match="up to 65793"):
        oc.quantize_dynamic({"wte": w[:70_000]}, activation="asymmetric")


def test_arrays_in_mapped_files_are_quantized(tmp_path: Path) -> None:
    w = matrix(64, 64)
    np.save(tmp_path / "w.npy", w)
    quantized = oc.quantize_dynamic({"w": np.load(tmp_path / "w.npy", mmap_mode="r")})
    np.testing.assert_array_equal(quantized["w"], oc.QuantMatrix(w))


@pytest.mark.parametrize("kind", ["view", "fortran", "big endian", "read-only", "float16", "float64"])
def test_arrays_of_any_memory_layout(kind: str) -> None:
    w = matrix(64, 64)
    with np.errstate(all="ignore"):
        w = {"view": w[::-1].T, "fortran": np.asfortranarray(w), "big endian": w.astype(">f4"), "read-only": w.copy(),
         "float16": w.astype(np.float16), "float64": w.astype(np.float64)}[kind]  # fmt: skip
    w.flags.writeable = kind != "read-only"
    np.testing.assert_array_equal(oc.quantize_dynamic({"w": w})["w"], oc.QuantMatrix(np.array(w)))


def test_views_of_one_array_are_quantized_each_by_itself() -> None:
    w = matrix(64, 64)
    quantized = oc.quantize_dynamic({"w": w, "t": w.T}, arrays={"w": "in_out", "t": "out_in"})
    np.testing.assert_array_equal(np.asarray(quantized["w"]), np.asarray(quantized["t"]).T)


def test_what_is_quantized_already_stays() -> None:
    once = oc.quantize_dynamic({"w": matrix(64, 64)})
    twice, entries = reported(once | {"v": matrix(64, 64)})
    assert twice["w"] is once["w"]
    assert list(entries) == ["v"]
    with pytest.raises(ValueError, match="already quantized: it holds QuantMatrix"):
        oc.quantize_dynamic(once)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_size": "1"}, TypeError, "min_size must be a number of elements, got '1'"),
        ({"min_speedup": float("nan")}, ValueError, "min_speedup must be a factor such as 1.0, got nan"),
        ({"min_speedup": -1}, ValueError, "min_speedup must be a factor"),
        ({"min_speedup": 1, "batch_size": 0}, ValueError, "batch_size must be at least 1, a number of rows, got 0"),
    ],
)
def test_wrong_limits_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        oc.quantize_dynamic({"w": matrix(64, 64)}, **options)


class Remembering:
    """A layer that keeps what it was called with, as training code does."""

    def __init__(self) -> None:
        self.weight, self.inputs = matrix(64, 64), [np.zeros(1)]
        self.last: Any = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.last = x
        self.inputs.append(x)
        return x @ self.weight.T


@pytest.mark.parametrize("least", [0.0, np.inf])
def test_measuring_leaves_layers_as_they_were(least: float) -> None:
    layer = Remembering()
    oc.quantize_dynamic([layer], {Remembering}, min_speedup=least)
    oc.advise([layer], layers={Remembering}, batch_sizes=[2])
    assert layer.last is None
    assert len(layer.inputs) == 1


@pytest.mark.parametrize("least", [0.0, np.inf])
def test_min_speedup_leaves_measured_losers_in_float(least: float) -> None:
    model = {"fc": oc.nn.Linear(matrix(64, 64)), "w": matrix(64, 64)}
    reports: list[oc.QuantizationReport] = []
    q = oc.quantize_dynamic(model, {oc.nn.Linear}, arrays=True, min_speedup=least, batch_size=4, report=reports.append)
    lost = least == np.inf
    assert isinstance(q["fc"], oc.nn.Linear if lost else oc.QuantLinear)
    assert isinstance(q["w"], np.ndarray if lost else oc.QuantMatrix)
    for e in reports[0].entries:
        assert e.became == ("float" if lost else "int8")
        assert ("times as fast with 4 rows" in e.why) is lost
    assert len(reports[0].entries) == 2
