"""Models rounded one layer after the other, each on what the quantized ones before it give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._numerics.alignment import PairedStatistics

F = np.float32
Array = np.ndarray


def correlated(rows: int, k: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    low_rank = rng.standard_normal((rows, k // 4)) @ rng.standard_normal((k // 4, k)) / np.sqrt(k / 4)
    return (low_rank + 0.2 * rng.standard_normal((rows, k))).astype(F)


class Backwards:
    """Its first attribute is used last."""

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        self.last = oc.nn.Linear.init(96, 32, rng=rng)
        self.first = oc.nn.Linear.init(64, 96, rng=rng)

    def __call__(self, x: Array) -> Array:
        y: Array = self.last(np.maximum(self.first(x), 0))
        return y


OPTIONS: dict[str, Any] = {"group_size": 32, "rounding": "gptq", "sequential": True}


def quantized(model: Any, batches: Any, **options: Any) -> Any:
    return oc.quantize_dynamic(model, {oc.nn.Linear}, "int4", calibration=batches, **OPTIONS | options)


@pytest.mark.parametrize("scaled", [False, True])
def test_each_layer_is_aligned_and_rounded_on_what_those_before_it_give(scaled: bool) -> None:
    model, batches = Backwards(), [correlated(200, 64, seed) for seed in range(3)]
    s = np.linspace(0.5, 2, 96, dtype=F) if scaled else None
    q = quantized(model, batches, activation="asymmetric", pre_quant_scale={} if s is None else {"last": s})
    first = oc.round_gptq(model.first.weight, np.concatenate(batches), group_size=32)
    np.testing.assert_array_equal(q.first.int_repr(), first.q)
    statistics = PairedStatistics(96, 32)
    for x in batches:
        statistics.update(np.maximum(q.first(x), 0), np.maximum(model.first(x), 0))
    aligned, given = statistics.aligned(model.last.weight), statistics.given
    if s is not None:
        aligned, given = aligned * s, given.scaled(s)
    last = oc.round_gptq(aligned, given, group_size=32)
    np.testing.assert_array_equal(q.last.int_repr(), last.q)
    np.testing.assert_array_equal(q.last.scale, last.scale)


def test_a_chain_of_layers_ends_nearer_to_float() -> None:
    rng = np.random.default_rng(4)
    layers = [part for _ in range(4) for part in (oc.nn.Linear.init(64, 64, rng=rng), oc.nn.ReLU())]
    model = oc.nn.Sequential(*layers)
    x = correlated(1500, 64)
    seen, other = [x[:1000]], x[1000:]
    exact = model(other)

    def error(**options: Any) -> float:
        y = quantized(model, seen, activation="int16", **options)(other)
        return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))

    assert error() < 0.95 * error(sequential=False)


class Looked:
    """A table that is looked up, and a matrix."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.table, self.w = (rng.standard_normal(shape).astype(F) for shape in ((50, 64), (64, 96)))

    def __call__(self, ids: Array) -> Array:
        y: Array = self.table[ids] @ self.w
        return y


@pytest.mark.parametrize("dtype", ["int4", {"": "int4", "table": "int8"}])
def test_a_table_is_quantized_before_the_matrix_that_follows(dtype: Any) -> None:
    model, batches = Looked(), [np.arange(50)]
    arrays: Any = {"table": "out_in", "w": "in_out"}
    q = oc.quantize_dynamic(model, dtype=dtype, arrays=arrays, calibration=batches, **OPTIONS)
    statistics = PairedStatistics(64, 96)
    statistics.update(q.table[batches[0]], model.table)
    expected = oc.round_gptq(statistics.aligned(model.w.T), statistics.given, group_size=32)
    np.testing.assert_array_equal(np.asarray(q.w).T, expected.dequantize())


class Residual:
    """h + down(relu(up(h))) of h = stem(first(x)), as objects or as arrays."""

    def __init__(self, arrays: bool) -> None:
        rng = np.random.default_rng(6)
        self.arrays = arrays
        sizes = {"first": (64, 64), "stem": (64, 64), "up": (64, 96), "down": (96, 64)}
        for name, (k, n) in sizes.items():
            layer = oc.nn.Linear.init(k, n, rng=rng)
            setattr(self, name, np.ascontiguousarray(layer.weight.T) if arrays else layer)

    def times(self, name: str, x: Array) -> Array:
        part = getattr(self, name)
        y: Array = x @ part if self.arrays else part(x)
        return y

    def inner(self, x: Array) -> dict[str, Array]:
        """The inputs of each layer."""
        inputs = {"first": x, "stem": self.times("first", x)}
        inputs["up"] = self.times("stem", inputs["stem"])
        inputs["down"] = np.maximum(self.times("up", inputs["up"]), 0)
        return inputs

    def __call__(self, x: Array) -> Array:
        inputs = self.inner(x)
        return inputs["up"] + self.times("down", inputs["down"])


@pytest.mark.parametrize("arrays", [False, True], ids=["layers", "arrays"])
def test_a_layer_makes_up_for_the_error_of_what_it_is_added_to(arrays: bool) -> None:
    model, batches = Residual(arrays), [correlated(200, 64, seed) for seed in range(2)]
    names = ("first", "stem", "up", "down")
    chosen: Any = {"arrays": dict.fromkeys(names, "in_out")} if arrays else {"layers": oc.nn.Linear}
    q = oc.quantize_dynamic(model, dtype="int4", calibration=batches, **chosen, **OPTIONS)
    for name in names:
        part, made = getattr(model, name), getattr(q, name)
        w, found = (part.T, np.asarray(made).T) if arrays else (part.weight, made.weight)
        statistics = PairedStatistics(*w.shape[::-1])
        for x in batches:
            exact, given = model.inner(x), q.inner(x)
            # stem is added to something as well, but that depends on its result
            missing = exact["up"] - given["up"] if name == "down" else None
            statistics.update(given[name], exact[name], missing)
        expected = oc.round_gptq(statistics.aligned(w), statistics.given, group_size=32)
        np.testing.assert_array_equal(found, expected.dequantize())


def test_the_second_of_two_branches_makes_up_for_the_first() -> None:
    rng = np.random.default_rng(8)
    model, x = [oc.nn.Linear.init(64, 64, rng=rng) for _ in range(2)], correlated(200, 64)
    q = quantized(model, [x], forward=lambda model, x: model[0](x) + model[1](x))
    np.testing.assert_array_equal(q[0].int_repr(), oc.round_gptq(model[0].weight, x, group_size=32).q)
    statistics = PairedStatistics(64, 64)
    statistics.update(x, x, model[0](x) - q[0](x))
    expected = oc.round_gptq(statistics.aligned(model[1].weight), statistics.given, group_size=32)
    np.testing.assert_array_equal(q[1].int_repr(), expected.q)


def test_a_sum_that_depends_on_the_result_itself_is_not_made_up_for() -> None:
    rng = np.random.default_rng(9)
    model, x = [oc.nn.Linear.init(64, 64, rng=rng) for _ in range(2)], correlated(200, 64)

    def run(model: Any, x: Array) -> Array:
        y = model[1](model[0](x))
        return y + model[1](y)

    q = quantized(model, [x], forward=run)
    statistics = PairedStatistics(64, 64)
    exact, given = model[0](x), q[0](x)
    statistics.update(given, exact)
    statistics.update(given @ model[1].weight.T + model[1].bias, model[1](exact))
    expected = oc.round_gptq(statistics.aligned(model[1].weight), statistics.given, group_size=32)
    np.testing.assert_array_equal(q[1].int_repr(), expected.q)


def test_results_behind_a_relu_of_the_layer_make_up_for_nothing() -> None:
    class Dense:
        def __init__(self, weight: Array) -> None:
            self.weight = weight

        def __call__(self, x: Array) -> Array:
            return np.maximum(x @ self.weight.T, 0)

    rng = np.random.default_rng(7)
    first, second = (Dense(rng.standard_normal((64, 64)).astype(F) / 8) for _ in range(2))
    spec = oc.LayerSpec(weight="weight", activation="relu")
    x = correlated(200, 64)

    def run(model: Any, x: Array) -> Array:
        y = model[0](x)
        return y + model[1](y)

    q = oc.quantize_dynamic([first, second], {Dense: spec}, "int4", calibration=[x], forward=run, **OPTIONS)
    statistics = PairedStatistics(64, 64)
    statistics.update(q[0](x), first(x))
    expected = oc.round_gptq(statistics.aligned(second.weight), statistics.given, group_size=32)
    np.testing.assert_array_equal(q[1].int_repr(), expected.q)


def test_report_has_the_errors_against_the_float_model() -> None:
    model, x, errors = Backwards(), correlated(300, 64), []
    q = quantized(model, [x], rounding_report=errors.append)
    assert [(e.layer, e.rounding) for e in errors] == [("first", "gptq"), ("last", "gptq")]
    exact = np.maximum(model.first(x), 0) @ model.last.weight.T
    y = np.maximum(q.first(x), 0) @ q.last.weight.T
    assert errors[1].output_error == pytest.approx(np.linalg.norm(y - exact) / np.linalg.norm(exact), rel=1e-3)


@pytest.mark.parametrize("room", [0, 4 * 50 * (64 + 96), 4 * 50 * 2 * (64 + 96)])
def test_the_result_does_not_depend_on_the_memory_for_inputs(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = Residual(arrays=False), [correlated(50, 64)]
    expected = quantized(model, batches)
    monkeypatch.setattr("octavo._quantize.sequential._MAX_KEPT_BYTES", room)
    again = quantized(model, batches)
    for name in ("first", "stem", "up", "down"):
        np.testing.assert_array_equal(getattr(again, name).weight, getattr(expected, name).weight)


class Counted(Residual):
    """Notes how far each of its runs gets."""

    def __init__(self, reached: list[str]) -> None:
        super().__init__(arrays=False)
        self.reached = reached

    def __deepcopy__(self, memo: dict[int, Any]) -> Counted:
        other = Counted(self.reached)
        for name in ("first", "stem", "up", "down"):
            part = getattr(self, name)
            setattr(other, name, memo.get(id(part), part))
        return other

    def times(self, name: str, x: Array) -> Array:
        y = super().times(name, x)
        self.reached.append(name)
        return y


def test_runs_end_where_the_next_layer_begins() -> None:
    reached: list[str] = []
    quantized(Counted(reached), [correlated(50, 64)])
    names = ["first", "stem", "up", "down"]
    # twice in float: how layers are used, and what they are given; then as far as each
    assert reached == [*names, *names, *names[:1], *names[:2], *names[:3], *names]


def test_the_batch_that_fails_is_named() -> None:
    with pytest.raises(ValueError, match="must have shape") as caught:
        quantized(Backwards(), [correlated(50, 64), correlated(50, 63)], check=False)
    assert "batch 1 of calibration" in "".join(caught.value.__notes__)


def test_the_model_is_as_it_was() -> None:
    model = Backwards()
    before = [layer.weight.copy() for layer in (model.first, model.last)]
    quantized(model, [correlated(50, 64)])
    for old, layer in zip(before, (model.first, model.last), strict=True):
        np.testing.assert_array_equal(layer.weight, old)


def test_a_layer_that_no_batch_reaches_is_searched_with_a_warning() -> None:
    model = [Backwards(), Backwards()]
    with pytest.warns(UserWarning, match=r"model\.1\.(first|last) was given no row") as caught:
        q = quantized(model, [correlated(50, 64)], forward=lambda model, x: model[0](x))
    assert len(caught) == 2
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(q[1].last.int_repr(), oc.round_search(model[1].last.weight, group_size=32).q)


class Fickle(Backwards):
    """Calls a layer as often as what another gives asks for."""

    def __call__(self, x: Array) -> Array:
        y = self.first(x)
        for _ in range(1 if isinstance(self.first, oc.QuantLinear) else 2):
            self.last(y)
        return y


def test_layers_that_are_called_otherwise_in_the_quantized_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"last is not called with as many rows in the quantized model"):
        quantized(Fickle(), [correlated(50, 64)])


def test_batches_that_can_be_read_only_once_are_refused() -> None:
    with pytest.raises(ValueError, match=r"read many times where sequential=True.*got the iterator list_iterator"):
        quantized(Backwards(), iter([correlated(50, 64)]))


def test_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold at least one batch, got none"):
        quantized(Backwards(), [])


@pytest.mark.parametrize("rounding", ["search", "nearest", None])
def test_sequential_is_for_gptq(rounding: Any) -> None:
    with pytest.raises(ValueError, match=r'sequential=True is for rounding="gptq", got'):
        quantized(Backwards(), [correlated(50, 64)], rounding=rounding)
