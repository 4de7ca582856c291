"""state= of quantize_with_accuracy_control: of which search a file is, and which are refused."""

from __future__ import annotations

import copy
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._analysis.fingerprint import digest
from reference import F

LINEAR = oc.nn.Linear
RNG = np.random.default_rng(0)
LAYERS = oc.nn.Sequential(LINEAR.init(64, 64, rng=RNG), oc.nn.ReLU(), LINEAR.init(64, 5, rng=RNG))
MODEL = {"layers": LAYERS, "gain": np.ones(64, F)}
SEEN, HELD_OUT = (list(part) for part in np.random.default_rng(1).standard_normal((2, 2, 60, 64), dtype=F))
RIGHT = [LAYERS(x).argmax(1) for x in HELD_OUT]


def agreement(results: list[Any]) -> float:
    """1 for every float model that decides as this one."""
    return float(np.mean([(y.argmax(1) == right).mean() for y, right in zip(results, RIGHT, strict=True)]))


def forward(model: Any, x: Any) -> Any:
    return model["layers"](x * model["gain"])


def search(model: Any, seen: Any, held_out: Any, metric: Any, **options: Any) -> Any:
    options = {"forward": forward, "max_drop": 0.02, "layers": LINEAR, **options}
    return oc.quantize_with_accuracy_control(model, seen, held_out, metric, **options)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a finished search."""
    path = tmp_path_factory.mktemp("state") / "search.json"
    search(MODEL, SEEN, HELD_OUT, agreement, state=path)
    return path


def changed(change: Any) -> Any:
    model = copy.deepcopy(MODEL)
    change(model)
    return model


def shift_bias(model: Any) -> None:
    model["layers"].layers[0].bias[0] += F(1e-6)


def shift_gain(model: Any) -> None:
    model["gain"][3] += F(1e-6)


@pytest.mark.parametrize(
    ("model", "seen", "held_out", "metric"),
    [
        (MODEL, [SEEN[0], SEEN[1] + F(1)], HELD_OUT, agreement),
        (MODEL, SEEN[::-1], HELD_OUT, agreement),
        (MODEL, SEEN, [HELD_OUT[0], HELD_OUT[1] * F(1 + 1e-6)], agreement),
        (changed(shift_bias), SEEN, HELD_OUT, agreement),
        (changed(shift_gain), SEEN, HELD_OUT, agreement),
        (MODEL, SEEN, HELD_OUT, lambda results: 1.0 if agreement(results) == 1 else 0.5),
    ],
    ids=["calibration", "order", "validation", "bias", "other array", "metric"],
)
def test_state_of_another_search_with_the_same_float_metric_is_refused(
    state: Path, model: Any, seen: Any, held_out: Any, metric: Any
) -> None:
    before = state.read_bytes()
    with pytest.raises(ValueError, match="is of another model, data, metric, candidates or goal"):
        search(model, seen, held_out, metric, state=state)
    assert state.read_bytes() == before


def test_state_of_the_same_search_in_other_objects_is_used(state: Path) -> None:
    calls = 0

    def counted(results: list[Any]) -> float:
        nonlocal calls
        calls += 1
        return agreement(results)

    before = state.read_bytes()
    seen, held_out = ([x.copy() for x in part] for part in (SEEN, HELD_OUT))
    search(copy.deepcopy(MODEL), seen, held_out, counted, state=state)
    assert state.read_bytes() == before
    assert calls == 2  # the float model, and the first quantized one, by which the metric is known


class Batch:
    """Data of the user's own kind."""

    def __init__(self, x: Any) -> None:
        self.x = x


@pytest.mark.parametrize(
    "wrapped", [Batch, lambda x: {"x": Batch(x)}, lambda x: (x, {1, 2})], ids=["own", "dict", "set"]
)
def test_state_is_refused_for_batches_without_a_digest(tmp_path: Path, wrapped: Any) -> None:
    def run(model: Any, batch: Any) -> Any:
        part = batch["x"] if isinstance(batch, dict) else batch
        return forward(model, part.x if isinstance(part, Batch) else part[0])

    seen, held_out = ([wrapped(x) for x in part] for part in (SEEN, HELD_OUT))
    path = tmp_path / "search.json"
    with pytest.raises(
        TypeError, match=r"state= needs batches .* batch 0 of calibration holds a (Batch|set)\. Pass its"
    ):
        search(MODEL, seen, held_out, agreement, forward=run, state=path)
    assert not path.exists()
    search(MODEL, seen, held_out, agreement, forward=run)  # without it they are fine


class Tensor:
    """What NumPy reads as an array, as it does torch's tensors."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self.values, dtype)


def test_digest_is_of_content() -> None:
    values = [
        np.zeros(2, F), np.zeros(2, np.int32), np.zeros((2, 1), F), np.array(["a", None], object),
        np.array(["a", 1], object), [1, 2], (1, 2), {"a": 1}, {"a": True}, "1", 1, b"1", None, np.float32(1),
        np.array(["ab"]),
    ]  # fmt: skip
    digests = [digest(copy.deepcopy(value)) for value in values]
    assert digests == [digest(value) for value in values]
    assert len(set(digests)) == len(values)
    assert digest(Tensor([1.0, 2.0])) == digest(np.array([1.0, 2.0]))
    assert digest(Batch(1)) != digest(Batch(1))
    assert digest(np.asfortranarray(np.arange(6).reshape(2, 3))) == digest(np.arange(6).reshape(2, 3))
    big_endian = np.arange(3, dtype=">f4")
    assert digest(big_endian) != digest(big_endian.astype(F))
    days = np.array(["2020-01-01", "2020-01-02"], "M8[D]")
    assert digest(days) == digest(days.copy()) != digest(days[::-1])


def test_digest_of_an_array_with_a_mask_has_the_mask() -> None:
    values = np.arange(4, dtype=F)
    masks: list[Any] = [np.ma.masked_array(values, [i == k for i in range(4)]) for k in range(2)]
    filled = masks[0].copy()
    filled.fill_value = F(7)
    digests = [digest(a) for a in (values, *masks, filled)]
    assert len(set(digests)) == 4
    assert digests[1] == digest(masks[0].copy())


def test_digest_of_records_that_hold_objects_is_their_identity() -> None:
    records = np.array([(1, "a")], dtype=[("n", int), ("s", object)])
    assert digest(records) != digest(records.copy())


def test_digest_takes_no_second_copy_of_an_array() -> None:
    x = np.ones((1 << 20, 4), F)
    tracemalloc.start()
    digest(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 8


def test_state_refuses_batches_without_a_digest_before_any_model_runs(tmp_path: Path) -> None:
    def run(model: Any, batch: Any) -> Any:
        raise AssertionError("must not be called")

    with pytest.raises(TypeError, match="state= needs batches"):
        search(MODEL, SEEN, [Batch(x) for x in HELD_OUT], agreement, forward=run, state=tmp_path / "search.json")


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e-11])
def test_state_is_used_where_the_metric_differs_by_rounding(tmp_path: Path, scale: float) -> None:
    def metric(off: float) -> Callable[[list[Any]], float]:
        return lambda results: agreement(results) * scale * (1 + off)

    path = tmp_path / "search.json"
    reports: list[Any] = []
    options: Any = {"state": path, "max_drop": 0.02 * scale, "report": reports.append}
    search(MODEL, SEEN, HELD_OUT, metric(0), **options)
    before = path.read_bytes()
    search(MODEL, SEEN, HELD_OUT, metric(2.3e-16), **options)
    assert path.read_bytes() == before
    assert reports[0] == reports[1]


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e-11])
@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda found: found * 0.5, "gives .* for the float model where it gave"),
        (lambda found: 1.0 if found == 1 else 0.5, "gives .* for a quantized model where it gave"),
    ],
    ids=["float", "quantized"],
)
def test_state_is_refused_where_a_small_metric_is_another(tmp_path: Path, scale: float, other: Any, what: str) -> None:
    path = tmp_path / "search.json"
    search(MODEL, SEEN, HELD_OUT, lambda results: scale * agreement(results), state=path, max_drop=0.02 * scale)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=what):
        search(
            MODEL, SEEN, HELD_OUT, lambda results: scale * other(agreement(results)), state=path, max_drop=0.02 * scale
        )
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": changed(shift_gain)}, "model"),
        ({"seen": SEEN[::-1]}, "calibration"),
        ({"seen": SEEN[:1], "held_out": HELD_OUT[:1]}, "calibration, validation"),
        ({"candidates": ["int8"]}, "candidates"),
        ({"minimize": "time"}, "minimize"),
    ],
)
def test_error_says_what_of_a_search_is_other(state: Path, changes: dict[str, Any], what: str) -> None:
    call: Any = {"model": MODEL, "seen": SEEN, "held_out": HELD_OUT, "metric": agreement, "state": state, **changes}
    with pytest.raises(ValueError, match=rf"candidates or goal: other {what}; name another file"):
        search(**call)


@pytest.mark.parametrize("change", [{"version": 1}, {"baseline": None}, {"fingerprint": {}}, {"fingerprint": "0"}])
def test_state_of_another_format_is_refused(state: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "search.json"
    path.write_text(json.dumps(json.loads(state.read_text()) | change))
    with pytest.raises(ValueError, match="must be a file of an accuracy control"):
        search(MODEL, SEEN, HELD_OUT, agreement, state=path)
