"""The report: every array of the model, true sizes, accuracy on data; and the warnings of layers that lose theirs."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from models import Model, random_array
from octavo._models.walk import walk
from octavo._quantize.scales import spread_of_inputs

F = np.float32


def reported(model: Any, *args: Any, **options: Any) -> oc.QuantizationReport:
    reports: list[oc.QuantizationReport] = []
    oc.quantize_dynamic(model, *args, report=reports.append, **options)
    return reports[0]


def float_bytes(model: Any) -> int:
    return sum(a.nbytes for _, a in walk(model) if isinstance(a, np.ndarray))


class Convolution:
    def __init__(self) -> None:
        self.kernel, self.bias = random_array(8, 3, 3, 3), random_array(8)


# Complete


@pytest.mark.parametrize("arrays", [None, ["table"]])
def test_report_of_layers_holds_every_array_of_the_model(arrays: Any) -> None:
    model = Model(
        conv=Convolution(), fc=oc.nn.Linear.init(64, 32), norm={"g": random_array(64)}, table=random_array(64, 64),
        ids=np.arange(3), names=np.array(["a"]),
    )  # fmt: skip
    report = reported(model, {oc.nn.Linear}, arrays=arrays)
    became = {e.path: (e.became, e.why) for e in report.entries}
    table = ("int8", "") if arrays else ("float", "in no layer that is quantized")
    assert became == {
        "fc": ("int8", ""), "table": table, "conv.kernel": ("float", "4-D"), "conv.bias": ("float", "1-D"),
        "norm.g": ("float", "1-D"), "ids": ("int64", "dtype int64"), "names": ("<U1", "dtype <U1"),
    }  # fmt: skip
    assert sum(e.bytes_before for e in report.entries) == float_bytes(model)
    assert str(report).splitlines()[-1].split()[-1] == f"{float_bytes(model):,}"


# True sizes


def test_an_array_that_several_layers_hold_is_counted_once() -> None:
    w = random_array(64, 64)
    model = [oc.nn.Linear(w, random_array(64, seed=i)) for i in range(12)]
    report = reported(model, {oc.nn.Linear})
    assert sum(e.bytes_before for e in report.entries) == float_bytes(model) == 64 * 64 * 4 + 12 * 64 * 4
    assert [e.bytes_before for e in report.entries] == [64 * 65 * 4] + [64 * 4] * 11
    assert report.entries[0].why == ""
    assert all(e.why == "holds an array of an entry above, counted there" for e in report.entries[1:])


def test_views_of_one_array_are_counted_once() -> None:
    w = random_array(64, 64)
    report = reported({"w": w, "t": w.T}, arrays={"w": "in_out", "t": "out_in"})
    assert [e.bytes_before for e in report.entries] == [w.nbytes, 0]


def test_one_layer_at_several_places_is_one_entry() -> None:
    layer = oc.nn.Linear.init(64, 32)
    assert [e.path for e in reported({"a": layer, "b": [layer]}, oc.nn.Linear).entries] == ["a"]


# Accuracy


def mlp() -> oc.nn.Sequential:
    rng = np.random.default_rng(0)
    return oc.nn.Sequential(oc.nn.Linear.init(64, 32, rng=rng), oc.nn.ReLU(), oc.nn.Linear.init(32, 8, rng=rng))


def decibels(exact: np.ndarray, rough: np.ndarray) -> float:
    exact = exact.astype(np.float64)
    return float(10 * np.log10(np.sum(exact**2) / np.sum((rough - exact) ** 2)))


def test_sqnr_is_of_each_layer_on_its_own_inputs() -> None:
    model, x = mlp(), random_array(40, 64)
    report = reported(model, {oc.nn.Linear}, x=x)
    inputs = {"layers.0": x, "layers.2": model[1](model[0](x))}
    assert [e.path for e in report.entries] == list(inputs)
    for entry, layer in zip(report.entries, (model[0], model[2]), strict=True):
        rows = inputs[entry.path]
        quantized = oc.QuantLinear(layer.weight, layer.bias)
        assert entry.sqnr_db == pytest.approx(decibels(layer(rows), quantized(rows)), abs=1e-6)
    assert "SQNR, dB" in str(report)


def test_without_data_there_is_no_sqnr() -> None:
    report = reported(mlp(), {oc.nn.Linear})
    assert all(e.sqnr_db is None for e in report.entries)
    assert "SQNR" not in str(report)


def test_sqnr_of_what_x_does_not_reach_is_not_known() -> None:
    model = {"used": random_array(64, 64), "unused": random_array(64, 64, seed=1)}
    report = reported(model, x=random_array(4, 64), forward=lambda m, x: x @ m["used"])
    found = {e.path: e.sqnr_db for e in report.entries}
    assert found["used"] > 30
    assert found["unused"] is None


@pytest.mark.parametrize("options", [{"dtype": "int4", "group_size": 32}, {"activation": "asymmetric"}], ids=str)
def test_measuring_leaves_the_model_as_it_was(options: dict[str, Any]) -> None:
    model, x = mlp(), random_array(40, 64)
    before = model(x)
    q = oc.quantize_dynamic(model, {oc.nn.Linear}, x=x, **options)
    np.testing.assert_array_equal(model(x), before)
    np.testing.assert_array_equal(q(x), oc.quantize_dynamic(model, {oc.nn.Linear}, **options)(x))


# Warnings


def uneven() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One input is 1e5 times as large as the others, and its weights as much smaller."""
    w, x = random_array(64, 64), random_array(100, 64, seed=1)
    w[0] /= 1e5
    x[:, 0] *= 1e5
    return {"w": w}, x


def run(model: dict[str, Any], x: np.ndarray) -> np.ndarray:
    return x @ model["w"]


def test_low_sqnr_on_data_is_warned_of_with_the_remedy() -> None:
    model, x = uneven()
    with pytest.warns(UserWarning, match=r"SQNR below 20 dB\): w \(-?\d.* dB\)") as caught:
        report = reported(model, x=x, forward=run)
    assert len(caught) == 1
    for remedy in ("StandardScaler", "smooth", "dtype={'': 'int8', 'w': None}"):
        assert remedy in str(caught[0].message)
    assert report.entries[0].sqnr_db < 20
    assert caught[0].filename == __file__


def test_weights_of_uneven_columns_are_warned_of_without_data() -> None:
    model, _ = uneven()
    for make in (
        lambda: oc.quantize_dynamic(model),
        lambda: oc.prepare(model, oc.default_qconfig),
        lambda: oc.quantize_dynamic(oc.nn.Linear(model["w"].T), oc.nn.Linear),
    ):
        with pytest.warns(UserWarning, match=r"differ in range by 1000 times or more: .* \(\de\+05 times\)") as caught:
            make()
        assert [w.filename for w in caught] == [__file__]
        assert "x=inputs" in str(caught[0].message)


def test_data_on_which_it_is_right_silence_the_warning_of_weights() -> None:
    model, _ = uneven()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = reported(model, x=random_array(100, 64), forward=run)
    assert report.entries[0].sqnr_db > 30


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ([1, 2, 4], 4), ([1e-3, 1], 1e3), ([0, 1, 8], 8), ([1e-15, 1, 8], 8), ([0, 0], 1), ([-3, 1.5], 2),
        ([2.0**-40, 1], 1), ([2.0**-39, 1], 2.0**39),
    ],
)  # fmt: skip
def test_spread_of_inputs_is_the_ratio_of_ranges(columns: list[float], expected: float) -> None:
    w = np.array([[0.5], [-1], [0.25]]) * np.array(columns)
    assert spread_of_inputs(w) == pytest.approx(expected, rel=1e-12)
    assert spread_of_inputs(np.zeros((0, 3))) == spread_of_inputs(np.zeros((3, 0))) == 1
    assert spread_of_inputs(np.array([[-128, 1]], np.int8)) == 128


def test_two_lines_of_warning_for_ten_layers_is_one_warning() -> None:
    w = uneven()[0]["w"]
    with pytest.warns(UserWarning, match=r"more: 0 \(.*, 9 \(.*, \.\.\.\. Where") as caught:
        oc.quantize_dynamic([w + 0 for _ in range(12)])
    assert len(caught) == 1


# Notebooks and pickles


def test_reports_show_as_tables() -> None:
    report = reported(mlp(), {oc.nn.Linear}, x=random_array(4, 64))
    errors = oc.compare_rounding(mlp(), oc.nn.Linear, [random_array(100, 64)])
    for shown, cells in ((report, ["layers.0", "(all)", "SQNR, dB"]), (errors, ["layers.2", "gptq", "output error"])):
        assert repr(shown) == str(shown)
        html = shown._repr_html_()
        assert html.startswith("<table>")
        for cell in cells:
            assert f">{cell}</t" in html
            assert cell in str(shown)
        assert pickle.loads(pickle.dumps(shown)) == shown


@pytest.mark.slow
def test_reports_draw_themselves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots are matplotlib's: pip install 'octavo[cli]'")
    report = reported(mlp(), {oc.nn.Linear}, x=random_array(4, 64))
    errors = oc.compare_rounding(mlp(), oc.nn.Linear, [random_array(100, 64)])
    for shown, titles in (
        (report, ["KB before", "KB after", "SQNR, dB"]),
        (reported(mlp(), {oc.nn.Linear}), ["KB before", "KB after"]),
        (errors, ["Weight error, %", "Output error, %"]),
    ):
        axes = shown.plot(tmp_path / "plot.png")
        assert [a.get_title() for a in axes] == titles
        assert (tmp_path / "plot.png").stat().st_size > 1000
    heights = [bar.get_width() for bar in report.plot()[0].patches]
    assert heights == [e.bytes_before / 1e3 for e in report.entries]
