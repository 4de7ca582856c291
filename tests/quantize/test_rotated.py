"""Models quantized with rotated inputs: what is rounded, on which statistics, and which layers may be named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._files.weight_error import estimated_error
from octavo._numerics.alignment import PairedStatistics
from octavo._numerics.rotation import rotated, rotated_weight, rotation_signs

F = np.float32
LINEAR = oc.nn.Linear
MODEL = oc.nn.Sequential(
    LINEAR.init(64, 96, rng=np.random.default_rng(0)), oc.nn.ReLU(), LINEAR.init(96, 32, rng=np.random.default_rng(1))
)
FIRST, _, LAST = MODEL.layers
MIXING = np.random.default_rng(2).standard_normal((16, 64), dtype=F)
SEEN = [np.random.default_rng(seed).standard_normal((200, 16), dtype=F) @ MIXING for seed in range(3)]
INT4: dict[str, Any] = {"dtype": "int4", "group_size": 32}


def test_every_layer_has_the_rotation() -> None:
    q = oc.quantize_dynamic(MODEL, LINEAR, rotation=32)
    assert [layer.rotation for layer in (q.layers[0], q.layers[2])] == [32, 32]
    np.testing.assert_array_equal(q.layers[0].int_repr(), oc.QuantLinear(rotated_weight(FIRST.weight, 32)).int_repr())
    for rotation, expected in (
        ({"layers.2": 16}, [None, 16]), ({"": 32, "layers[0]": None}, [None, 32]), ({LINEAR: 16, "*.0": 64}, [64, 16]),
    ):  # fmt: skip
        q = oc.quantize_dynamic(MODEL, LINEAR, rotation=rotation)
        assert [layer.rotation for layer in (q.layers[0], q.layers[2])] == expected


def test_layers_that_have_none_refuse_it() -> None:
    with pytest.raises(ValueError, match="rotation is for linear layers and arrays"):
        oc.quantize_dynamic({"rnn": oc.nn.GRU.init(32, 8)}, oc.nn.GRU, rotation=16)
    with pytest.raises(ValueError, match="power of two"):
        oc.quantize_dynamic({"rnn": oc.nn.GRU.init(32, 8)}, oc.nn.GRU, rotation=3)


def test_arrays_have_it_too_and_a_scale_beside_it() -> None:
    params = {"up": np.ascontiguousarray(FIRST.weight.T), "table": np.ascontiguousarray(LAST.weight)}
    s = np.linspace(0.5, 2, 64, dtype=F)
    arrays: Any = {"up": "in_out", "table": "out_in"}
    q: Any = oc.quantize_dynamic(params, arrays=arrays, rotation=32, pre_quant_scale={"up": s})
    expected = oc.QuantLinear(FIRST.weight, rotation=32, pre_quant_scale=s)
    np.testing.assert_array_equal(SEEN[0] @ q["up"], expected(SEEN[0]))
    x = np.ones((2, 96), F)
    np.testing.assert_array_equal(x @ q["table"].T, oc.QuantLinear(LAST.weight, rotation=32)(x))


@pytest.mark.parametrize("options", [INT4, {"dtype": "int8", "activation": "int16"}], ids=["int4", "int8"])
def test_gptq_rounds_rotated_weights_on_rotated_inputs(options: dict[str, Any]) -> None:
    q = oc.quantize_dynamic(MODEL, LINEAR, rotation=32, rounding="gptq", calibration=SEEN, **options)
    weight, inputs = rotated_weight(LAST.weight, 32), oc.InputStatistics(96)
    for x in SEEN:
        inputs.update(rotated(np.maximum(FIRST(x), 0), 32))
    if options is INT4:
        expected: Any = oc.round_gptq(weight, inputs, group_size=32)
    else:
        expected = oc.round_gptq_int8(weight, inputs)
    np.testing.assert_array_equal(q.layers[2].int_repr(), expected.q)
    other = np.random.default_rng(9).standard_normal((100, 16), dtype=F) @ MIXING
    plain = oc.quantize_dynamic(MODEL, LINEAR, rotation=32, **options)
    exact = MODEL(other)
    assert np.linalg.norm(q(other) - exact) < 0.7 * np.linalg.norm(plain(other) - exact)


def test_search_weighs_rotated_inputs() -> None:
    q = oc.quantize_dynamic(FIRST, LINEAR, rotation=32, calibration=SEEN, **INT4)
    known, seen = oc.InputStatistics(64, products=False), oc.InputStatistics(64)
    for x in SEEN:
        known.update(rotated(x, 32))
        seen.update(x)
    np.testing.assert_allclose(seen.rotated(32).importance, known.importance, rtol=1e-5)
    expected = oc.round_search(rotated_weight(FIRST.weight, 32), group_size=32, importance=known.importance)
    np.testing.assert_array_equal(q.int_repr(), expected.q)


@pytest.mark.parametrize("seed", range(5))
def test_search_takes_inputs_that_sum_to_zero(seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((64, 128), dtype=F)
    x = oc.functional.layer_norm(x, eps=1e-5) * rotation_signs(128, 128)  # one element of what is rotated is zero
    layer = LINEAR.init(128, 8, rng=np.random.default_rng(seed))
    oc.quantize_dynamic(layer, LINEAR, rotation=128, calibration=iter([x]), dtype="int4", group_size=32)
    statistics = oc.InputStatistics(128)
    statistics.update(x)
    assert (statistics.rotated(128).importance >= 0).all()


def test_statistics_that_cannot_be_rotated_are_refused() -> None:
    with pytest.raises(ValueError, match=r"these statistics hold no X\^T X"):
        oc.InputStatistics(64, products=False).rotated(32)
    with pytest.raises(ValueError, match="rotation must divide the number of inputs, 96, got 64"):
        oc.InputStatistics(96).rotated(64)


def test_rotated_layers_are_built_in_place_too() -> None:
    model = oc.nn.Sequential(LINEAR(FIRST.weight.copy()), LINEAR(LAST.weight.copy()))
    expected = oc.quantize_dynamic(model, LINEAR, rotation=32, **INT4)
    q = oc.quantize_dynamic(model, LINEAR, rotation=32, inplace=True, **INT4)
    assert q is model
    np.testing.assert_array_equal(q(SEEN[0]), expected(SEEN[0]))


def test_inspection_estimates_the_error_of_rotated_weights() -> None:
    w = np.random.default_rng(0).standard_normal((64, 512), dtype=F)
    for options in (
        {"dtype": "int4", "group_size": 64, "rounding": "nearest"},
        {"pre_quant_scale": np.full(512, 4, F)},
    ):
        layer: Any = oc.QuantLinear(w, rotation=128, **options)
        measured = np.linalg.norm(layer.weight - w) / np.linalg.norm(w)
        assert estimated_error(layer) == pytest.approx(measured, rel=0.2)


def test_in_turn_each_is_aligned_before_it_is_rotated() -> None:
    reports: list[Any] = []
    q = oc.quantize_dynamic(
        MODEL, LINEAR, rotation=32, rounding="gptq", calibration=SEEN, sequential=True, rounding_report=reports.append,
        **INT4,
    )  # fmt: skip
    statistics = PairedStatistics(96, 32)
    for x in SEEN:
        statistics.update(np.maximum(q.layers[0](x), 0), np.maximum(FIRST(x), 0))
    aligned = rotated_weight(statistics.aligned(LAST.weight), 32)
    last = oc.round_gptq(aligned, statistics.given.rotated(32), group_size=32)
    np.testing.assert_array_equal(q.layers[2].int_repr(), last.q)
    np.testing.assert_array_equal(q.layers[2].scale, last.scale)
    error = np.linalg.norm(q.layers[2].weight - LAST.weight) / np.linalg.norm(LAST.weight)
    assert reports[-1].weight_error == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("rotation", "error", "message"),
    [
        (64, ValueError, r"layers\.2 has 96, got 64; give it another, or None: rotation={'': 64, 'layers.2': None}"),
        ({"": 32, "*.9": 16}, ValueError, r"rotation names '\*\.9', but"),
        ({"layers.9": 32}, ValueError, "rotation names 'layers.9', but the linear layers and arrays are"),
        ({"layers.0": 24}, ValueError, "rotation must be a power of two"),
        (32.5, TypeError, "rotation must be an integer"),
    ],
)
def test_what_does_not_fit_is_named(rotation: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        oc.quantize_dynamic(MODEL, LINEAR, rotation=rotation)


def test_layers_of_the_same_arrays_still_share_integers() -> None:
    tied = LINEAR(FIRST.weight)
    model = {"a": tied, "b": LINEAR(FIRST.weight)}
    q: Any = oc.quantize_dynamic(model, LINEAR, rotation=32)
    assert q["a"]._packed is q["b"]._packed


def test_candidates_rotate_what_can_be() -> None:
    candidate = oc.Candidate(dtype="int4", group_size=32, rounding="gptq", rotation=64)
    assert candidate.name == "int4 g32 gptq rotated 64"
    found = oc.sensitivity(MODEL, SEEN, layers=LINEAR, candidates=[candidate])
    assert {row.path for row in found.rows} == {"layers.0", "layers.2"}
    model = oc.quantize_with_accuracy_control(
        MODEL, SEEN[:2], SEEN[2:], lambda results: -float(np.linalg.norm(results[0] - MODEL(SEEN[2]))),
        max_drop=1e9, candidates=[candidate], layers=LINEAR,
    )  # fmt: skip
    assert [layer.rotation for layer in (model.layers[0], model.layers[2])] == [64, None]
    with pytest.raises(ValueError, match="rotation must be a power of two"):
        oc.Candidate(rotation=3)
