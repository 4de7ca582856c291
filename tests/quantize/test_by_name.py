"""layers=, dtype= and qconfig= by name, pattern and type: what is selected, excluded, and of how many bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc
from models import Model, random_array
from octavo import LayerSpec, QuantLinear, quantize_dynamic
from octavo._quantize.by_name import ByName


class Dense:
    def __init__(self, fan_in: int, fan_out: int, seed: int) -> None:
        self.weight, self.bias = random_array(fan_out, fan_in, seed=seed), random_array(fan_out, seed=seed + 1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x @ self.weight.T + self.bias)


class Up(Dense):
    pass


class Other:
    """A layer whose arrays have names of their own."""

    def __init__(self) -> None:
        self.W = random_array(64, 64)

    def run(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x @ self.W)


def blocks() -> Model:
    """Two blocks of an Up and a Dense, and a head; 64 inputs each."""
    return Model(
        blocks=[Model(up=Up(64, 64, seed=i), down=Dense(64, 64, seed=i + 5)) for i in range(2)],
        head=Dense(64, 10, seed=9),
        other=Other(),
    )


def kinds(model: Any) -> dict[str, str]:
    """What each layer is: its weights' type or its class."""
    found = {"head": model.head, "other": model.other}
    found |= {f"{i}.{name}": getattr(b, name) for i, b in enumerate(model.blocks) for name in ("up", "down")}
    return {p: v.dtype.name[1:] if isinstance(v, QuantLinear) else type(v).__name__ for p, v in found.items()}


FLOAT = {"0.up": "Up", "0.down": "Dense", "1.up": "Up", "1.down": "Dense", "head": "Dense", "other": "Other"}


@pytest.mark.parametrize(
    ("layers", "quantized"),
    [
        ({Dense, Up}, {"0.up", "0.down", "1.up", "1.down", "head"}),
        ({Dense: LayerSpec(), "head": None}, {"0.down", "1.down"}),
        ({Dense: LayerSpec(), Up: None}, {"0.down", "1.down", "head"}),
        ({Dense: LayerSpec(), Up: LayerSpec(), "blocks[0]": None}, {"1.up", "1.down", "head"}),
        ({Dense: LayerSpec(), Up: LayerSpec(), "blocks.*.up": None}, {"0.down", "1.down", "head"}),
        ({"blocks.*.up": None, "blocks.1.up": LayerSpec()}, {"1.up"}),
        ("head", {"head"}),
        (["blocks.1", Up], {"0.up", "1.up", "1.down"}),
        ("blocks.?.down", {"0.down", "1.down"}),
        ({"": LayerSpec(), "head": None}, {"0.up", "0.down", "1.up", "1.down"}),
        ({"other": LayerSpec(weight="W", layout="in_out", call="run")}, {"other"}),
        ({"other": LayerSpec(weight="W", layout="in_out", call="run"), Up: LayerSpec()}, {"other", "0.up", "1.up"}),
    ],
)
def test_layers_select_by_name_pattern_and_type(layers: Any, quantized: set[str]) -> None:
    model = blocks()
    q = quantize_dynamic(model, layers)
    assert kinds(q) == {path: "int8" if path in quantized else kind for path, kind in FLOAT.items()}
    assert kinds(model) == FLOAT


def test_layers_of_octavo_are_selected_by_name_too() -> None:
    model = {
        "lstm": oc.nn.LSTM.init(8, 8),
        "table": oc.nn.Embedding(random_array(16, 8)),
        "fc": oc.nn.Linear.init(8, 8),
    }
    q = quantize_dynamic(model, ["lstm", "fc"])
    assert [type(v).__name__ for v in q.values()] == ["QuantLSTM", "Embedding", "QuantLinear"]
    q = quantize_dynamic(model, {"": LayerSpec(), "lstm": None})
    assert [type(v).__name__ for v in q.values()] == ["LSTM", "QuantEmbedding", "QuantLinear"]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ({"": "int8", "blocks.*.down": "int4", "head": None}, {"0.down": "int4", "1.down": "int4", "head": "Dense"}),
        ({"": "int4", Dense: "int8", "blocks[1]": "int4"}, {"0.up": "int4", "1.up": "int4", "1.down": "int4"}),
        ({"": oc.qint8, "blocks.0": None}, {"0.up": "Up", "0.down": "Dense"}),
    ],
)
def test_dtype_by_name_pattern_and_type(dtype: Any, expected: dict[str, str]) -> None:
    options: Any = {"group_size": 32} if "int4" in dtype.values() else {}
    q = quantize_dynamic(blocks(), {Dense, Up}, dtype, **options)
    assert kinds(q) == dict.fromkeys(FLOAT, "int8") | {"other": "Other"} | expected
    assert {v.group_size for b in q.blocks for v in (b.up, b.down) if getattr(v, "dtype", 0) == oc.qint4} <= {32}


def test_dtype_without_default_leaves_the_rest_in_float_and_the_report_says_so() -> None:
    reports: list[oc.QuantizationReport] = []
    q = quantize_dynamic(blocks(), {Dense, Up}, {"head": "int4"}, report=reports.append)
    assert kinds(q) == FLOAT | {"head": "int4"}
    params = {"a": random_array(64, 64), "b": random_array(64, 64)}
    q = quantize_dynamic(params, dtype={"b": "int4"}, report=reports.append)
    assert isinstance(q["a"], np.ndarray)
    assert q["b"].qtype == oc.qint4
    assert {e.path: e.why for e in reports[1].entries}["a"] == "left in float by dtype"


def test_calibration_is_of_the_four_bit_weights_alone() -> None:
    x = random_array(50, 64)
    errors: list[oc.RoundingErrors] = []
    params = {"a": random_array(64, 64), "b": random_array(64, 64, seed=1)}
    q = quantize_dynamic(
        params,
        dtype={"": "int8", "b": "int4"},
        rounding="gptq",
        calibration=[x],
        forward=lambda m, x: x @ m["a"] + x @ m["b"],
        rounding_report=errors.append,
    )
    assert [e.layer for e in errors] == ["b"]
    np.testing.assert_array_equal(np.asarray(q["b"]).T, oc.round_gptq(params["b"].T, x).dequantize())
    np.testing.assert_array_equal(np.asarray(q["a"]), np.asarray(oc.QuantMatrix(params["a"])))


def test_prepare_takes_names_and_patterns() -> None:
    model = blocks()
    run = lambda m, x: m.head(m.blocks[0].up(x))  # noqa: E731 - as users write it
    prepared = oc.prepare(model, oc.default_qconfig, layers=["head", "blocks.*.up"])
    oc.calibrate(prepared, [random_array(8, 64)], forward=run)
    q = oc.convert(prepared, unobserved="float")
    assert kinds(q) == FLOAT | {"head": "int8", "0.up": "int8"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": {Dense: LayerSpec(), "haed": None}}, ValueError, "layers names 'haed', which is none of the model"),
        ({"layers": {"blocks.*.dwn": LayerSpec()}}, ValueError, r"layers names no layer.*: Dense, Other, Up"),
        ({"layers": {"Dense"}}, ValueError, "'Dense' is taken for a path; pass the class"),
        ({"layers": {"head": None}}, ValueError, "at least one class or layer to quantize"),
        ({"layers": {3: LayerSpec()}}, TypeError, "classes and names, got 3"),
        ({"layers": {"head": "int8"}}, TypeError, "layers must map 'head' to a LayerSpec, or to None .*got 'int8'"),
        ({"layers": Dense, "dtype": {"head": None}}, ValueError, "it leaves all in float"),
        ({"layers": Dense, "dtype": {"": None}}, TypeError, "omit the default"),
        ({"layers": Dense, "dtype": {"": "int8", "haed": "int4"}}, ValueError, "dtype names 'haed', but what .*head"),
        ({"layers": Dense, "dtype": {3: "int8"}}, TypeError, r"keys of dtype must be names, patterns, .*got 3"),
        ({"layers": Dense, "dtype": {"": "float16"}}, ValueError, "dtype must be .*got 'float16'"),
        ({"layers": Up, "dtype": {Up: "int8", "blocks": None}}, ValueError, "leaves everything in float"),
    ],
)
def test_wrong_selections_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = blocks()
    with pytest.raises(error, match=message):
        quantize_dynamic(model, **options)
    assert kinds(model) == FLOAT


def test_by_name_is_equal_by_its_entries() -> None:
    def made(*entries: tuple[Any, int]) -> ByName[int]:
        choices = ByName[int]()
        for key, value in entries:
            choices.put(key, value)
        return choices

    assert made(("a", 1), (int, 2)) == made((int, 2), ("a", 1)) != made(("a", 1))
    assert made(("a.*", 1), ("*", 2)) != made(("*", 2), ("a.*", 1))  # the first pattern counts
    assert repr(made(("a", 1), (int, 2))) == "ByName({'': None, 'a': 1, int: 2})"
    assert made(("a[0]", 1), ("a.0", 2)).values() == [2]
