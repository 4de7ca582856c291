"""Models rounded by what their layers are given, and the report of the errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo.gptq import InputStatistics, round_gptq
from octavo.rounding import round_nearest, round_search

F = np.float32


def correlated(rows: int, k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low_rank = rng.standard_normal((rows, k // 4)) @ rng.standard_normal((k // 4, k)) / np.sqrt(k / 4)
    return (low_rank + 0.2 * rng.standard_normal((rows, k))).astype(F)


def two_layers() -> oc.nn.Sequential:
    rng = np.random.default_rng(4)
    return oc.nn.Sequential(
        oc.nn.Linear(rng.standard_normal((96, 64), dtype=F)), oc.nn.ReLU(), oc.nn.Linear.init(96, 32, rng=rng)
    )


@pytest.mark.parametrize("rounding", ["gptq", "search", None])
def test_quantize_dynamic_rounds_by_what_layers_are_given(rounding: Any) -> None:
    model, batches = two_layers(), [correlated(200, 64, seed) for seed in range(3)]
    x = np.concatenate(batches)
    q = oc.quantize_dynamic(model, {oc.nn.Linear}, "int4", group_size=32, rounding=rounding, calibration=iter(batches))
    first, second = InputStatistics(64), InputStatistics(96)
    for batch in batches:
        first.update(batch)
        second.update(model[1](model[0](batch)))
    for layer, statistics in ((0, first), (2, second)):
        w = model[layer].weight
        if rounding == "gptq":
            expected = round_gptq(w, statistics, group_size=32)
        else:
            expected = round_search(w, group_size=32, importance=statistics.importance)
        np.testing.assert_array_equal(q[layer].int_repr(), expected.q)
        np.testing.assert_array_equal(q[layer].scale, expected.scale)
    assert np.abs(q(x) - model(x)).max() < 0.2 * np.abs(model(x)).max()


def test_layers_beyond_the_memory_are_watched_in_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = two_layers(), [correlated(50, 64)]
    options: dict[str, Any] = {"group_size": 32, "rounding": "gptq"}
    expected = oc.quantize_dynamic(model, {oc.nn.Linear}, "int4", calibration=batches, **options)
    monkeypatch.setattr("octavo.calibrated_rounding._MAX_STATISTICS_BYTES", 8 * 96**2)
    again = oc.quantize_dynamic(model, {oc.nn.Linear}, "int4", calibration=batches, **options)
    np.testing.assert_array_equal(again[2].int_repr(), expected[2].int_repr())
    with pytest.raises(ValueError, match="can be read 2 times"):
        oc.quantize_dynamic(model, {oc.nn.Linear}, "int4", calibration=iter(batches), **options)


def test_compare_rounding_reports_each_way_and_leaves_the_model_alone() -> None:
    model = two_layers()
    before = [model[i].weight.copy() for i in (0, 2)]
    report = oc.compare_rounding(model, oc.nn.Linear, [correlated(300, 64)], group_size=32)
    rows = {(row.layer, row.rounding): row for row in report.rows}
    assert [row.layer for row in report.rows] == ["layers[0]"] * 4 + ["layers[2]"] * 4
    for layer in ("layers[0]", "layers[2]"):
        nearest, search, weighted, gptq = (
            rows[layer, way] for way in ("nearest", "search", "search, weighted", "gptq")
        )
        assert search.weight_error < nearest.weight_error
        assert gptq.output_error < min(nearest.output_error, search.output_error, weighted.output_error)
    w, x = model[0].weight, correlated(300, 64)
    rounded = round_nearest(w, group_size=32).dequantize()
    measured = np.linalg.norm(x @ (rounded - w).T) / np.linalg.norm(x @ w.T)
    assert rows["layers[0]", "nearest"].output_error == pytest.approx(measured, rel=1e-3)
    assert "gptq" in str(report)
    for old, i in zip(before, (0, 2), strict=True):
        np.testing.assert_array_equal(old, model[i].weight)


class Unused:
    def __init__(self) -> None:
        self.used, self.unused = oc.nn.Linear.init(8, 8), oc.nn.Linear.init(8, 8)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.used(x)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Unused(), {"calibration": [np.ones((2, 8))]}, "unused was not called with any row"),
        (two_layers(), {"calibration": []}, "at least one batch, got none"),
        (two_layers(), {"calibration": [np.full((2, 64), np.nan)]}, r"layers\[0\]: inputs must be finite"),
        (two_layers(), {"rounding": "gptq"}, "needs calibration=batches"),
        (two_layers(), {"rounding": "nearest", "calibration": [np.ones((1, 64))]}, '"search" or "gptq"'),
        (two_layers(), {"dtype": "int8", "calibration": [np.ones((1, 64))]}, 'is for dtype="int4", got qint8'),
    ],
)
def test_calibrated_rounding_refuses(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oc.quantize_dynamic(model, {oc.nn.Linear}, **({"dtype": "int4"} | options))


def test_progress_names_the_extra_where_tqdm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"octavo\[cli\]"):
        oc.quantize_dynamic(two_layers(), {oc.nn.Linear}, "int4", calibration=[np.ones((2, 64), F)], progress=True)
