"""sensitivity and quantize_with_accuracy_control: what they measure, budgets met and not, resuming, bad input."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._analysis import layer_losses
from octavo._analysis.control import _furthest
from octavo._analysis.scores import OutputError
from octavo._analysis.tradeoff import Choice, Step, assignment, steps
from octavo._quantize.measure import Measured
from reference import F, assert_same_bits

LINEAR = oc.nn.Linear
OPTIONS: dict[str, Any] = {"layers": LINEAR}
FINE = {"dtype": "int4", "group_size": 32, "rounding": "gptq", "smooth": "awq"}


def network() -> oc.nn.Sequential:
    rng = np.random.default_rng(0)
    layers = [part for _ in range(3) for part in (LINEAR.init(64, 64, rng=rng), oc.nn.ReLU())]
    return oc.nn.Sequential(*layers, LINEAR.init(64, 5, rng=rng))


MODEL = network()
SEEN, HELD_OUT = (list(part) for part in np.random.default_rng(1).standard_normal((2, 2, 60, 64), dtype=F))
EXACT = [MODEL(x) for x in HELD_OUT]


def closeness(results: list[Any]) -> float:
    """Minus the relative error: as fine a metric as there is."""
    wrong = sum(float(np.square(y - z).sum()) for y, z in zip(results, EXACT, strict=True))
    return -float(np.sqrt(wrong / sum(float(np.square(z).sum()) for z in EXACT)))


def controlled(**options: Any) -> tuple[Any, oc.AccuracyReport]:
    reports: list[oc.AccuracyReport] = []
    model = oc.quantize_with_accuracy_control(
        MODEL, SEEN, HELD_OUT, closeness, **{**OPTIONS, "report": reports.append, **options}
    )
    return model, reports[0]


@pytest.mark.slow
def test_sensitivity_is_the_loss_of_each_layer_alone() -> None:
    found = oc.sensitivity(MODEL, HELD_OUT, candidates=["int8", "int4", FINE], **OPTIONS)
    assert list(found.as_dict()) == ["layers.0", "layers.2", "layers.4", "layers.6"]
    for row in found.rows:
        if row.candidate == "int8":
            alone = oc.quantize_dynamic(MODEL, [row.path])
            wrong = np.concatenate([alone(x) for x in HELD_OUT]) - np.concatenate(EXACT)
            assert row.loss == pytest.approx(np.linalg.norm(wrong) / np.linalg.norm(np.concatenate(EXACT)), rel=1e-5)
            assert row.nbytes < row.float_nbytes or row.path == "layers.6"  # which is padded to sixteen outputs
            assert row.seconds > 0
    by_metric = oc.sensitivity(MODEL, HELD_OUT, metric=closeness, **OPTIONS).as_dict()
    assert by_metric["layers.2"]["int4"] == pytest.approx(found.as_dict()["layers.2"]["int4"], rel=1e-5)
    divergence = oc.sensitivity(MODEL, HELD_OUT, metric="kl", **OPTIONS).as_dict()
    assert 0 < divergence["layers.0"]["int8"] < divergence["layers.0"]["int4"]
    assert "loss (relative error)" in repr(found)


INF = np.inf


@pytest.mark.parametrize(
    ("expected", "found", "divergence"),
    [
        ([[0, -INF, 0]], [[0, -INF, 0]], 0.0),
        ([[0, -INF, 0]], [[0, -INF, 1]], np.log(0.5 + np.e / 2) - 0.5),
        ([[0, -INF]], [[0, 0]], np.log(2)),
        ([[0, 0]], [[0, -INF]], INF),
        ([[0, -2000]], [[0, -INF]], 0.0),
        ([[0, -INF], [0, 0]], [[0, -INF], [0, np.log(3)]], (np.log(0.5) - (np.log(0.25) + np.log(0.75)) / 2) / 2),
        ([[-INF, -INF]], [[-INF, -INF]], np.nan),
        ([[np.nan, 0]], [[0, 0]], np.nan),
        ([[0, 0]], [[np.nan, 0]], np.nan),
        ([[INF, 0]], [[INF, 0]], np.nan),
    ],
)
def test_divergence_of_masked_logits(expected: Any, found: Any, divergence: float) -> None:
    error = OutputError("kl")
    error.update(F(expected), F(found))
    np.testing.assert_allclose(error.value(), divergence, rtol=1e-6, atol=1e-12)


def test_sensitivity_by_divergence_of_a_model_that_masks_logits() -> None:
    def masked(model: Any, x: Any) -> Any:
        return np.where(np.arange(5) == 2, -INF, model(x))

    rows = oc.sensitivity(MODEL, SEEN, metric="kl", forward=masked, **OPTIONS).as_dict()
    assert all(0 < loss < 1 for losses in rows.values() for loss in losses.values())


def test_sensitivity_computes_what_comes_before_a_layer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(layer_losses, "measured", lambda *_, **__: Measured(1.0, 1.0, 0.0))

    class Counted(LINEAR):
        def __call__(self, x: np.ndarray) -> np.ndarray:
            calls.append(len(self.weight))
            return super().__call__(x)

    rng = np.random.default_rng(0)
    sizes = [8, 9, 10, 11]
    model = oc.nn.Sequential(*(Counted(rng.standard_normal((n, k))) for k, n in itertools.pairwise(sizes)))
    x = rng.standard_normal((4, 8), dtype=F)
    oc.sensitivity(model, [x], layers=Counted, candidates=["int8"])
    # Once for calibration, once in float, and then with each layer before it quantized.
    assert [calls.count(n) for n in sizes[1:]] == [2, 3, 4]


def test_sensitivity_leaves_what_layers_keep_in_themselves_as_it_was() -> None:
    class Keeping(LINEAR):
        calls, last = 0, None

        def __call__(self, x: np.ndarray) -> np.ndarray:
            self.calls, self.last = self.calls + 1, x
            self.seen.append(len(x))
            return super().__call__(x)

    rng = np.random.default_rng(0)
    layers = [Keeping(rng.standard_normal((8, 8), dtype=F)) for _ in range(2)]
    for layer in layers:
        layer.seen = []
    oc.sensitivity(oc.nn.Sequential(*layers), [rng.standard_normal((4, 8), dtype=F)], layers=Keeping)
    assert [(layer.calls, layer.last, layer.seen) for layer in layers] == [(0, None, [])] * 2


def test_sensitivity_of_arrays_follows_lookups_and_transposes() -> None:
    rng = np.random.default_rng(0)
    model = {"words": rng.standard_normal((80, 64), dtype=F), "w": rng.standard_normal((64, 64), dtype=F)}

    def forward(m: dict[str, Any], ids: np.ndarray) -> np.ndarray:
        return (m["words"][ids] @ m["w"]) @ m["words"].T

    ids = np.arange(40)
    found = oc.sensitivity(model, [ids], arrays={"words": "out_in", "w": "in_out"}, forward=forward).as_dict()
    for name in model:
        layout = "out_in" if name == "words" else "in_out"
        alone = oc.quantize_dynamic(model, arrays={name: layout})
        exact = forward(model, ids)
        wrong = np.linalg.norm(forward(alone, ids) - exact) / np.linalg.norm(exact)
        assert found[name]["int8"] == pytest.approx(wrong, rel=1e-4)


def test_the_budget_is_met_by_the_model_returned() -> None:
    for drop in (0.004, 0.02, 0.2):
        model, report = controlled(max_drop=drop)
        assert -closeness([model(x) for x in HELD_OUT]) <= drop
        assert report.chosen.drop <= drop
        assert report.chosen.fits
        assert report.chosen.nbytes <= report.evaluations[0].nbytes
    # The last layer has five outputs: padded to sixteen, it is smaller in float.
    assert report.assignment == {"layers.0": "int4", "layers.2": "int4", "layers.4": "int4", "layers.6": "float"}
    assert "1 float, 3 int4" in repr(report)
    assert type(MODEL.layers[0]) is LINEAR


@pytest.mark.slow
def test_a_larger_budget_never_costs_more_bytes() -> None:
    sizes = [controlled(max_drop=drop, candidates=["int8", "int4", FINE])[1].chosen.nbytes for drop in (0.003, 0.03, 1)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("often", "rarely", "first"), [(90, 10, "rare"), (10, 90, "common"), (100, 0, "rare")])
def test_what_is_looked_up_less_often_is_quantized_first(often: int, rarely: int, first: str) -> None:
    rng = np.random.default_rng(0)
    model = {name: rng.standard_normal((64, 64), dtype=F) for name in ("common", "rare")}

    def forward(m: dict[str, Any], ids: np.ndarray) -> np.ndarray:
        return np.concatenate([m["common"][ids[:often]], m["rare"][ids[:rarely]]])

    ids, other = rng.integers(64, size=(2, 100))
    exact = forward(model, other)

    def nearness(results: list[np.ndarray]) -> float:
        return -float(np.linalg.norm(results[0] - exact) / np.linalg.norm(exact))

    reports: list[oc.AccuracyReport] = []
    oc.quantize_with_accuracy_control(
        model, [ids], [other], nearness, max_drop=0.05, candidates=["int8", "int4"],
        arrays=dict.fromkeys(model, "out_in"), forward=forward, report=reports.append,
    )  # fmt: skip
    second = "common" if first == "rare" else "rare"
    assert reports[0].assignment == {first: "int4", second: "int8"}


def test_the_result_is_the_same_each_time() -> None:
    (a, first), (b, second) = (controlled(max_drop=0.02, candidates=["int8", FINE]) for _ in range(2))
    assert first.assignment == second.assignment
    assert first.evaluations == second.evaluations
    assert_same_bits(a(SEEN[0]), b(SEEN[0]))


def test_a_budget_that_nothing_meets_leaves_the_model_in_float() -> None:
    with pytest.warns(UserWarning, match=r"no quantization that was tried meets max_drop=0 .*nearest loses"):
        model, report = controlled(max_drop=0)
    assert report.best == 0
    assert set(report.assignment.values()) == {"float"}
    assert "The nearest loses" in repr(report)
    assert_same_bits(model(SEEN[0]), MODEL(SEEN[0]))


def test_relative_drops_and_times() -> None:
    reports: list[oc.AccuracyReport] = []
    oc.quantize_with_accuracy_control(
        MODEL, SEEN, HELD_OUT, lambda results: 100 + 100 * closeness(results), max_drop=0.03, drop_type="relative",
        minimize="time", report=reports.append, **OPTIONS,
    )  # fmt: skip
    assert reports[0].chosen.drop <= 0.03
    assert reports[0].drop_type == "relative"
    assert reports[0].chosen.cost <= reports[0].evaluations[0].cost


def test_a_search_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    state, calls = tmp_path / "search.json", 0

    def interrupted(results: list[Any]) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return closeness(results)

    arguments = SEEN, HELD_OUT, interrupted
    with pytest.raises(KeyboardInterrupt):
        oc.quantize_with_accuracy_control(MODEL, *arguments, max_drop=0.02, state=state, **OPTIONS)
    assert len(json.loads(state.read_text())["scores"]) == 1
    expected = controlled(max_drop=0.02)[1]
    other = tmp_path / "search.json.tmp"
    other.write_text("of another search")
    resumed = controlled(max_drop=0.02, state=state)[1]
    assert other.read_text() == "of another search"
    assert len(list(tmp_path.iterdir())) == 2
    assert resumed.evaluations == expected.evaluations
    with pytest.raises(ValueError, match="is of another model, data, metric, candidates or goal"):
        controlled(candidates=["int8"], state=state)
    state.write_text("{}")
    with pytest.raises(ValueError, match="state must be a file of an accuracy control"):
        controlled(state=state)


def test_layers_that_no_batch_reaches_stay_in_float() -> None:
    model = {"used": LINEAR.init(64, 64, rng=np.random.default_rng(0)), "idle": LINEAR.init(64, 64)}
    options: dict[str, Any] = {"layers": LINEAR, "forward": lambda m, x: m["used"](x)}
    with pytest.warns(UserWarning, match=r"model\.idle was given no row by the calibration batches; it stays in float"):
        found = oc.quantize_with_accuracy_control(model, SEEN, HELD_OUT, lambda results: 1.0, **options)
    assert type(found["idle"]) is LINEAR
    assert type(found["used"]) is oc.QuantLinear
    with pytest.warns(UserWarning, match=r"model\.idle was reached by no batch"):
        rows = oc.sensitivity(model, SEEN, **options).as_dict()
    assert np.isnan(rows["idle"]["int8"])


def test_dead_channels_do_not_stop_the_search() -> None:
    seen, held_out = ([x * (np.arange(64) > 3) for x in part] for part in (SEEN, HELD_OUT))
    found = oc.quantize_with_accuracy_control(
        MODEL, seen, held_out, lambda results: 1.0, candidates=[{"smooth": "smoothquant"}, FINE], **OPTIONS
    )
    assert np.isfinite(found(seen[0])).all()


def test_steps_walk_the_convex_hull() -> None:
    ways = [Choice("float", 8, 0), Choice("a", 4, 0.4), Choice("b", 2, 0.3), Choice("c", 1, 5), Choice("d", 9, 0.1)]
    path = steps({"x": ways, "y": [Choice("float", 2, 0), Choice("a", 1, 0.01)]})
    assert [(step.path, step.name) for step in path] == [("y", "a"), ("x", "b"), ("x", "c")]
    assert assignment(path, 2, ["x", "y"]) == {"x": "b", "y": "a"}


def test_a_step_that_loses_too_much_is_left_out_and_the_search_goes_on() -> None:
    path = [Step(layer, "int8", 0.1) for layer in "abcdefg"]
    found: list[oc.Evaluation] = []

    def evaluate(taken: Any) -> oc.Evaluation:
        drop = sum(step.path in "cf" for step in taken)
        return oc.Evaluation(len(taken), taken[-1], 0.0, 0, -drop, drop, fits=drop == 0)

    assert [step.path for step in _furthest(path, evaluate, found, False)] == list("abdeg")
    assert found[-1].fits


def bad(**options: Any) -> Any:
    return lambda: oc.quantize_with_accuracy_control(
        options.pop("model", MODEL), options.pop("calibration", SEEN), options.pop("validation", HELD_OUT),
        options.pop("metric", closeness), **{**OPTIONS, **options},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            bad(metric=lambda results: float("nan")),
            ValueError,
            "metric must give a finite number, got nan for the float",
        ),
        (
            bad(metric=lambda results: np.zeros(3)),
            TypeError,
            r"metric must give one number.*got a ndarray of shape \(3,",
        ),
        (bad(metric=lambda results: None), TypeError, "got a NoneType"),
        (bad(calibration=iter(SEEN)), TypeError, "calibration must be a list or the like.*runs out"),
        (bad(validation=(x for x in HELD_OUT)), TypeError, "validation must be a list or the like"),
        (bad(validation=[]), ValueError, "validation must hold at least one batch"),
        (bad(calibration=SEEN[0]), TypeError, "calibration must be an iterable of batches"),
        (bad(validation=SEEN), ValueError, "must not share data, and batch 0 of calibration is batch 0 of validation"),
        (bad(validation=[HELD_OUT[0], SEEN[1].copy()]), ValueError, "batch 1 of calibration is batch 1 of validation"),
        (
            bad(
                calibration=[("a b", SEEN[0])], validation=[("a b", SEEN[0].copy())], forward=lambda m, pair: m(pair[1])
            ),
            ValueError,
            "batch 0 of calibration is batch 0 of validation",
        ),
        (bad(max_drop=-0.1), ValueError, "max_drop must be 0 or more"),
        (bad(max_drop=float("nan")), ValueError, "max_drop must be 0 or more"),
        (bad(max_drop="1%"), TypeError, "max_drop must be a number"),
        (bad(drop_type="percent"), ValueError, "drop_type must be"),
        (bad(minimize="size"), ValueError, "minimize must be"),
        (bad(metric=lambda results: 0.0, drop_type="relative"), ValueError, "needs a float metric other than 0"),
        (bad(candidates="int8"), TypeError, "candidates must be several"),
        (bad(candidates=[]), ValueError, "one or more"),
        (bad(candidates=["int8", "int8"]), ValueError, "of different names"),
        (bad(candidates=["int3"]), ValueError, "got 'int3'"),
        (bad(candidates=[{"dtype": "int8", "colour": 1}]), ValueError, "a candidate has no option 'colour'"),
        (bad(candidates=[{"dtype": "int8", "group_size": 32}]), ValueError, "are for int4 candidates"),
        (
            bad(candidates=[{"dtype": "int4", "group_size": 32, "activation_group": 48}]),
            ValueError,
            r"candidate 'int4 g32 activations g48': .*layers\.0.*activation_group must be one of",
        ),
        (lambda: oc.sensitivity(MODEL, SEEN, metric="best", **OPTIONS), ValueError, "got 'best'"),
        (lambda: oc.sensitivity(MODEL, SEEN, metric=lambda y: y, **OPTIONS), TypeError, "got a list of shape"),
        (lambda: oc.sensitivity(MODEL, iter(SEEN), **OPTIONS), TypeError, "runs out"),
    ],
)
def test_bad_input_is_refused_and_the_model_stays(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
    assert all(type(layer) in (LINEAR, oc.nn.ReLU) for layer in MODEL.layers)


def test_one_batch_is_enough() -> None:
    model = oc.quantize_with_accuracy_control(MODEL, SEEN[:1], HELD_OUT[:1], lambda results: 1.0, **OPTIONS)
    assert type(model.layers[0]) is oc.QuantLinear


def test_the_pareto_curve_holds_what_nothing_beats() -> None:
    report = controlled(max_drop=0.02, candidates=["int8", "int4", FINE])[1]
    points = [oc.Evaluation(0, None, cost, 0, 0.0, drop, True) for cost, drop in ((4, 0), (3, 0.5), (2, 0.4), (2, 0.6))]
    assert dataclasses.replace(report, evaluations=tuple(points)).pareto == (points[2], points[0])
    curve = report.pareto
    assert set(curve) <= set(report.evaluations)
    for e in report.evaluations:
        assert e in curve or any(other.cost <= e.cost and other.drop <= e.drop for other in curve)


@pytest.mark.slow
def test_plots_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    controlled(max_drop=0.02)[1].plot(tmp_path / "trade-off.png")
    oc.sensitivity(MODEL, SEEN, **OPTIONS).plot(tmp_path / "sensitivity.png")
    oc.find_smoothing(MODEL, SEEN, **OPTIONS).plot(tmp_path / "smoothing.png")
    assert len(list(tmp_path.iterdir())) == 3
