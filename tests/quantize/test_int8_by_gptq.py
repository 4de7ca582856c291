"""Models whose int8 weights are rounded by GPTQ: all at once, in turn, and as a candidate of the accuracy control."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._numerics.alignment import PairedStatistics

F = np.float32
LINEAR = oc.nn.Linear


def correlated(rows: int, k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low_rank = rng.standard_normal((rows, k // 4)) @ rng.standard_normal((k // 4, k)) / np.sqrt(k / 4)
    return (low_rank + 0.2 * rng.standard_normal((rows, k))).astype(F)


def network() -> oc.nn.Sequential:
    rng = np.random.default_rng(0)
    return oc.nn.Sequential(LINEAR.init(64, 96, rng=rng), oc.nn.ReLU(), LINEAR.init(96, 32, rng=rng))


MODEL, ROWS = network(), correlated(700, 64)
SEEN, HELD_OUT = [ROWS[:200], ROWS[200:400], ROWS[400:600]], ROWS[600:]
FIRST, LAST = MODEL.layers[0], MODEL.layers[2]
INNER = np.maximum(FIRST(np.concatenate(SEEN)), 0)
S = np.linspace(0.5, 2, 96, dtype=F)
OPTIONS: dict[str, Any] = {"rounding": "gptq", "calibration": SEEN}


@pytest.mark.parametrize("activation", ["symmetric", "asymmetric", "int16"])
@pytest.mark.parametrize("scale", [None, S], ids=["unscaled", "scaled"])
def test_each_layer_is_rounded_on_what_float_gives_it(activation: Any, scale: np.ndarray | None) -> None:
    q = oc.quantize_dynamic(
        MODEL, LINEAR, activation=activation, pre_quant_scale={} if scale is None else {"layers.2": scale}, **OPTIONS
    )
    weight, statistics = LAST.weight, oc.InputStatistics(96)
    for x in SEEN:
        statistics.update(np.maximum(FIRST(x), 0))
    if scale is not None:
        weight, statistics = weight * scale, statistics.scaled(scale)
    expected = oc.round_gptq_int8(weight, statistics)
    np.testing.assert_array_equal(q.layers[2].int_repr(), expected.q)
    np.testing.assert_array_equal(q.layers[2].scale.ravel(), expected.scale)
    np.testing.assert_array_equal(q.layers[2].bias, LAST.bias)
    assert q.layers[2].activation == activation
    assert type(MODEL.layers[2]) is LINEAR


def test_int8_layers_in_turn_are_aligned_first() -> None:
    q = oc.quantize_dynamic(MODEL, LINEAR, sequential=True, **OPTIONS)
    statistics = PairedStatistics(96, 32)
    for x in SEEN:
        statistics.update(np.maximum(q.layers[0](x), 0), np.maximum(FIRST(x), 0))
    expected = oc.round_gptq_int8(statistics.aligned(LAST.weight), statistics.given)
    np.testing.assert_array_equal(q.layers[2].int_repr(), expected.q)


def test_int8_arrays_by_gptq() -> None:
    w = np.ascontiguousarray(FIRST.weight.T)
    q = oc.quantize_dynamic({"w": w}, arrays={"w": "in_out"}, forward=lambda m, x: x @ m["w"], **OPTIONS)
    expected = oc.round_gptq_int8(w.T, np.concatenate(SEEN))
    np.testing.assert_array_equal(np.asarray(q["w"]).T, expected.dequantize())


def test_int8_by_gptq_in_place() -> None:
    q = oc.quantize_dynamic(network(), LINEAR, inplace=True, **OPTIONS)
    copied = oc.quantize_dynamic(MODEL, LINEAR, **OPTIONS)
    np.testing.assert_array_equal(q.layers[2].int_repr(), copied.layers[2].int_repr())


def test_int8_weights_beside_int4_ones_stay_as_they_are_nearest() -> None:
    q = oc.quantize_dynamic(MODEL, LINEAR, dtype={"": "int8", "layers.2": "int4"}, group_size=32, **OPTIONS)
    np.testing.assert_array_equal(q.layers[0].int_repr(), oc.QuantLinear(FIRST.weight).int_repr())
    np.testing.assert_array_equal(q.layers[2].int_repr(), oc.round_gptq(LAST.weight, INNER, group_size=32).q)


@pytest.mark.parametrize("sequential", [False, True])
def test_a_layer_that_no_batch_reaches_is_rounded_to_the_nearest(sequential: bool) -> None:
    model = {"used": FIRST, "unused": LAST}
    reports: list[oc.RoundingErrors] = []
    with pytest.warns(UserWarning, match=r"unused.* was given no row .* rounded to the nearest"):
        q = oc.quantize_dynamic(
            model, LINEAR, forward=lambda m, x: m["used"](x), sequential=sequential, rounding_report=reports.append,
            **OPTIONS,
        )  # fmt: skip
    np.testing.assert_array_equal(q["unused"].int_repr(), oc.QuantLinear(LAST.weight).int_repr())
    assert {report.layer: report.rounding for report in reports} == {"used": "gptq", "unused": "nearest"}


@pytest.mark.parametrize("smooth", [None, "smoothquant"])
def test_int8_gptq_is_a_candidate(smooth: Any) -> None:
    candidate = oc.Candidate(rounding="gptq", activation="int16", smooth=smooth)
    assert candidate.name == "int8 gptq int16" + (f" {smooth}" if smooth else "")
    exact = MODEL(HELD_OUT)

    def closeness(results: list[Any]) -> float:
        return -float(np.linalg.norm(results[0] - exact) / np.linalg.norm(exact))

    reports: list[oc.AccuracyReport] = []
    for candidates in ([candidate], [{"activation": "int16"}]):
        q = oc.quantize_with_accuracy_control(
            MODEL, SEEN, [HELD_OUT], closeness, max_drop=1.0, candidates=candidates, layers=LINEAR,
            report=reports.append,
        )  # fmt: skip
        assert isinstance(q.layers[2], oc.QuantLinear)
    assert reports[0].chosen.drop < 0.7 * reports[1].chosen.drop
    if smooth is None:
        alone = oc.quantize_with_accuracy_control(
            MODEL, SEEN, [HELD_OUT], closeness, max_drop=1.0, candidates=[candidate], layers=LINEAR
        )
        plain = oc.quantize_dynamic(MODEL, LINEAR, activation="int16", **OPTIONS)
        np.testing.assert_array_equal(alone.layers[2].int_repr(), plain.layers[2].int_repr())


def test_other_roundings_of_int8_are_refused() -> None:
    with pytest.raises(ValueError, match=r'other rounding than "gptq".* are for int4 candidates'):
        oc.Candidate(rounding="search")
    with pytest.raises(ValueError, match='rounding="gptq" needs calibration=batches'):
        oc.quantize_dynamic(MODEL, LINEAR, rounding="gptq")
