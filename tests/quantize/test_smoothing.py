"""find_smoothing: scales that lower a layer's error, where they act, folding, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._numerics.smoothing import InputSample
from reference import F, assert_same_bits

LINEAR = oc.nn.Linear


class Norm:
    def __init__(self, k: int, rng: np.random.Generator) -> None:
        self.weight, self.bias = rng.uniform(0.5, 2, k).astype(F), rng.standard_normal(k).astype(F)
        self.weight[3] *= 60

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + F(1e-5)) * self.weight + self.bias


class Block:
    """norm -> two layers side by side -> relu and product -> a third; `residual` reads the norm's result again."""

    def __init__(self, residual: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.norm = Norm(64, rng)
        self.up, self.gate = (LINEAR.init(64, 48, rng=rng) for _ in range(2))
        self.down, self.residual = LINEAR.init(48, 64, rng=rng), residual

    def __call__(self, x: np.ndarray) -> np.ndarray:
        h = self.norm(x)
        y = self.down(np.maximum(self.up(h), 0) * self.gate(h))
        return y + h if self.residual else y


X = np.random.default_rng(1).standard_normal((200, 64), dtype=F)
FOLD = {"up": "norm", "gate": "norm"}


def error(quantized: Any, model: Any, x: np.ndarray = X) -> float:
    exact = model(x)
    return float(np.linalg.norm(quantized(x) - exact) / np.linalg.norm(exact))


def decibels(w: np.ndarray, x: np.ndarray, layer: Any) -> float:
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    return float(10 * np.log10(np.square(exact).sum() / np.square(layer(x) - exact).sum()))


@pytest.mark.slow
def test_planted_outliers_cost_ten_decibels_less_with_a_scale() -> None:
    """1 % of the inputs of a layer 1024 -> 256 are 50 times as large; the scale is found on other rows."""
    rng = np.random.default_rng(2026)
    w, (seen, held_out) = rng.standard_normal((256, 1024), dtype=F), rng.standard_normal((2, 512, 1024), dtype=F)
    large = rng.choice(1024, 10, replace=False)
    seen[:, large] *= 50
    held_out[:, large] *= 50
    scales = oc.find_smoothing(LINEAR(w), [seen], layers=LINEAR).scales
    plain = decibels(w, held_out, oc.QuantLinear(w))
    smooth = decibels(w, held_out, oc.quantize_dynamic(LINEAR(w), LINEAR, pre_quant_scale=scales))
    assert smooth >= plain + 10


@pytest.mark.slow
def test_scales_act_in_dynamic_static_and_int4() -> None:
    model = Block()
    found = oc.find_smoothing(model, [X], layers=LINEAR)
    assert found.model is model
    assert list(found.scales) == ["up", "gate", "down"]
    assert all(row.error_after < row.error_before for row in found.rows)
    dynamic = [oc.quantize_dynamic(model, LINEAR, pre_quant_scale=s) for s in (None, found.scales)]
    assert error(dynamic[1], model) < 0.5 * error(dynamic[0], model)
    static = []
    for scales in (None, found.scales):
        prepared = oc.prepare(model, oc.default_qconfig, layers=LINEAR, pre_quant_scale=scales)
        oc.calibrate(prepared, [X])
        static.append(oc.convert(prepared))
    assert error(static[1], model) < 0.7 * error(static[0], model)
    awq = oc.find_smoothing(model, [X], layers=LINEAR, method="awq", dtype="int4", group_size=32)
    four: dict[str, Any] = {"dtype": "int4", "group_size": 32, "calibration": [X]}
    for rounding in ("search", "gptq"):
        pair = [
            oc.quantize_dynamic(model, LINEAR, rounding=rounding, pre_quant_scale=s, **four) for s in (None, awq.scales)
        ]
        assert error(pair[1], model) < error(pair[0], model)


@pytest.mark.slow
def test_a_folded_scale_costs_nothing_and_reaches_training() -> None:
    model = Block()
    found = oc.find_smoothing(model, [X], layers=LINEAR, fold=FOLD)
    assert list(found.scales) == ["down"]
    assert [row.folded for row in found.rows] == [("norm",), ("norm",), ()]
    assert error(found.model, model) < 1e-6
    quantized = oc.quantize_dynamic(found.model, LINEAR)
    assert quantized.up.pre_quant_scale is None
    assert error(quantized, model) < 0.5 * error(oc.quantize_dynamic(model, LINEAR), model)
    trained = [oc.prepare_qat(m, oc.default_qat_qconfig, layers=LINEAR) for m in (model, found.model)]
    for prepared in trained:
        oc.calibrate(prepared, [X])
    assert error(trained[1], model) < error(trained[0], model)
    assert_same_bits(model.norm.weight, Block().norm.weight)


def test_scales_fold_into_arrays_and_linear_layers() -> None:
    rng = np.random.default_rng(0)
    arrays = {"a": rng.standard_normal((32, 48), dtype=F), "bias": rng.standard_normal(48, dtype=F)}
    arrays |= {"b": rng.standard_normal((48, 8), dtype=F)}
    arrays["a"][:, 5] *= 40

    def forward(m: dict[str, Any], x: np.ndarray) -> np.ndarray:
        return np.maximum(x @ m["a"] + m["bias"], 0) @ m["b"]

    x = rng.standard_normal((100, 32), dtype=F)
    options: dict[str, Any] = {"arrays": {"a": "in_out", "b": "in_out"}, "forward": forward}
    found = oc.find_smoothing(arrays, [x], fold={"b": ["a", "bias"]}, **options)
    assert list(found.scales) == ["a"] or not found.scales
    np.testing.assert_allclose(forward(found.model, x), forward(arrays, x), rtol=1e-3, atol=1e-3)
    pair = oc.nn.Sequential(LINEAR(arrays["a"].T, arrays["bias"]), oc.nn.ReLU(), LINEAR(arrays["b"].T))
    folded = oc.find_smoothing(pair, [x], layers=LINEAR, fold={"layers.2": "layers.0"})
    assert folded.rows[1].folded == ("layers.0",)
    np.testing.assert_allclose(folded.model(x), pair(x), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "fold", "message"),
    [
        (Block(residual=True), FOLD, "model.norm has another reader than model.up, model.gate"),
        (Block(), {"up": "norm"}, "model.norm has another reader than model.up"),
        (Block(), {"down": "up"}, "model.up has another reader|something stands between them"),
        (Block(), {"up": "down"}, "another reader"),
        (Block(), {"down": "norm"}, "model.norm has no output for each of the 48 inputs of model.down"),
        (Block(), {"up": "nowhere"}, "names 'nowhere', which is not in the model"),
        (Block(), {"norm": "up"}, "fold names 'norm', but the layers are up, gate, down"),
    ],
)
def test_what_cannot_be_folded_is_refused_by_name(model: Block, fold: dict[str, str], message: str) -> None:
    if fold == {"down": "up"}:
        model.up, model.gate = LINEAR(model.up.weight), LINEAR(model.gate.weight)
        assert oc.find_smoothing(model, [X], layers=LINEAR, fold=fold).rows[2].folded == ("up",)
        return
    before = model.norm.weight.copy()
    with pytest.raises(ValueError, match=message):
        oc.find_smoothing(model, [X], layers=LINEAR, fold=fold)
    assert_same_bits(model.norm.weight, before)
    assert type(model.up) is LINEAR


def test_dead_inputs_and_layers_that_no_batch_reaches_have_no_scale() -> None:
    x = X.copy()
    x[:, 10] = 0
    layer = LINEAR.init(64, 16, rng=np.random.default_rng(0))
    layer.weight[:, 11] = 0
    scale = oc.smoothing_scale(layer.weight, x, 0.5)
    assert scale[10] == scale[11] == 1
    assert np.isfinite(scale).all()
    assert (oc.smoothing_scale(np.zeros((2, 64)), x, 0.5) == 1).all()
    model = {"used": layer, "idle": LINEAR.init(64, 4, rng=np.random.default_rng(1))}
    with pytest.warns(UserWarning, match="model.idle was given no row by the calibration batches; it has no scale"):
        found = oc.find_smoothing(model, [x * 1], layers=LINEAR, forward=lambda m, batch: m["used"](batch))
    assert "idle" not in found.scales
    assert np.isnan(found.rows[1].error_before)
    assert "idle" in repr(found)


def test_samples_do_not_depend_on_batches() -> None:
    whole, parts = InputSample(64, rows=20), InputSample(64, rows=20)
    whole.update(X)
    for start in range(0, 200, 7):
        parts.update(X[start : start + 7])
    assert_same_bits(whole.rows, parts.rows)
    assert_same_bits(whole.largest, parts.largest)
    assert 10 <= len(whole.rows) <= 20
    assert whole.seen == parts.seen == 200


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 50])
@pytest.mark.parametrize("seen", [0, 1, 7, 8, 200])
def test_samples_keep_no_more_rows_than_asked_for(rows: int, seen: int) -> None:
    sample = InputSample(64, rows=rows)
    for x in X[:seen]:
        sample.update(x)
    assert min(seen, (rows + 1) // 2) <= len(sample.rows) <= rows
    step = max(sample._step, 1)
    assert_same_bits(sample.rows, X[:seen:step] if rows else X[:0])


def test_samples_of_no_inputs_are_empty() -> None:
    sample = InputSample(0)
    sample.update(np.zeros((3, 0)))
    assert sample.rows.shape == (3, 0)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64, np.uint8, np.bool_])
def test_scale_of_integer_weights_is_that_of_floats(dtype: type[np.generic]) -> None:
    weight = np.ones((3, 64), dtype)
    if np.issubdtype(dtype, np.signedinteger):
        weight[:, 3] = [np.iinfo(dtype).min, 1, 2]  # whose absolute value the type does not hold
    if dtype is not np.bool_:
        weight[:, 4] = [100, 1, 2]
    for method in ("smoothquant", "awq"):
        found = oc.smoothing_scale(weight, X, 0.5, method)
        assert_same_bits(found, oc.smoothing_scale(weight.astype(np.float64), X, 0.5, method))


@pytest.mark.parametrize(
    ("call", "error_type", "message"),
    [
        (lambda: oc.find_smoothing(Block(), X, layers=LINEAR), TypeError, "iterable of batches"),
        (lambda: oc.find_smoothing(Block(), [], layers=LINEAR), ValueError, "at least one batch"),
        (lambda: oc.find_smoothing(Block(), [X], layers=LINEAR, method="best"), ValueError, "got 'best'"),
        (lambda: oc.find_smoothing(Block(), [X], layers=LINEAR, alpha=2), ValueError, "alpha must be from 0 to 1"),
        (lambda: oc.find_smoothing(Block(), [X * F(np.nan)], layers=LINEAR), ValueError, "inputs must be finite"),
        (lambda: oc.find_smoothing(LINEAR(np.ones((64, 64))), [X]), ValueError, "gives no row to weight; pass batches"),
        (lambda: oc.find_smoothing(Block(), iter([X]), layers=LINEAR, fold=FOLD), ValueError, "in a list"),
        (lambda: oc.smoothing_scale(np.ones((2, 3)), np.ones((4, 5)), 0.5), ValueError, r"shape \(..., 3\)"),
        (lambda: oc.smoothing_scale(np.ones((2, 3)), np.ones((0, 3)), 0.5), ValueError, "at least one row"),
        (lambda: oc.smoothing_scale(np.ones((2, 3)), np.ones((4, 3)), "x"), TypeError, "alpha must be a number"),
        (
            lambda: oc.smoothing_scale([[1.0, np.nan, 1]], np.ones((4, 3)), 0.5),
            ValueError,
            r"weight must be finite.*at weight\[0, 1\]",
        ),
        (lambda: oc.smoothing_scale([[1.0, np.inf, 1]], np.ones((4, 3)), 0.5), ValueError, "weight must be finite"),
        (lambda: InputSample(3, rows=-1), ValueError, "sizes must be at least 0, got in_features=3, rows=-1"),
        (lambda: InputSample(-3), ValueError, "sizes must be at least 0, got in_features=-3"),
        (lambda: InputSample(3, rows=1.5), TypeError, "integer"),  # type: ignore[arg-type]
        (lambda: oc.quantize_dynamic(Block(), LINEAR, pre_quant_scale={"x": X[0]}), ValueError, "names 'x', but"),
        (
            lambda: oc.quantize_dynamic(Block(), LINEAR, pre_quant_scale={"up": np.zeros(64)}),
            ValueError,
            "pre_quant_scale of up must be positive and finite.*got 0.0 at input 0",
        ),
    ],
)
def test_bad_arguments_are_refused(call: Any, error_type: type[Exception], message: str) -> None:
    with pytest.raises(error_type, match=message):
        call()
