"""Rounding of a model's layers one after the other, each on what the quantized ones before it give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._models import walk as tree
from octavo._models.summand import as_summand
from octavo._numerics.alignment import PairedStatistics
from octavo._numerics.gptq_int8 import Int8Weight
from octavo._numerics.input_transform import NO_TRANSFORM, InputTransform
from octavo._numerics.int4 import GroupedWeight
from octavo._quantize.batches import Forward, refuse_iterator, refuse_several
from octavo._quantize.calibrated import (
    RoundingErrors,
    check_first,
    gptq_rounded,
    plainly_rounded,
    relative_errors,
    warn_of_no_row,
)
from octavo._quantize.options import Calibration, WeightOptions
from octavo._quantize.targets import Target
from octavo._quantize.watching import runs_within, shown, watched
from octavo._util.foreign import as_array

__all__ = ["rounded_in_turn"]

Floats = NDArray[np.float32]

_MAX_KEPT_BYTES = 1 << 30  # of what the float model's layers are given; it runs again for the layers beyond


def rounded_in_turn(
    model: Any,
    targets: list[Target],
    options: WeightOptions,
    calibration: Calibration,
    build: Callable[[Target, GroupedWeight | Int8Weight | None], Any],
    others: list[Target],
    *,
    transforms: Mapping[int, InputTransform],
    check: bool,
) -> dict[int, GroupedWeight | Int8Weight]:
    """The weights rounded by GPTQ in the order in which the model uses them, by the id of the layer or array.

    Before each is rounded, the model runs on all batches with all that comes before it quantized. Its weight is moved
    to where these inputs give float's results, as far as they can (`PairedStatistics.aligned`), and then rounded on
    them. What float's layers are given is kept for as many layers as fit 1 GiB; a layer that does not is watched once
    more in float. What no batch reaches is rounded first.

    Args:
        model: the model, which is left as it is.
        targets: linear layers and arrays whose weights are of `options.calibrated_type`.
        options, calibration: how.
        build: makes what takes the place of a target; without a weight, one that needs no calibration.
        others: targets that need none; they are quantized from the start.
        transforms: of inputs, by the id of the layer or array.
        check: whether to check each layer before the model runs.

    Raises:
        TypeError, ValueError: as for `rounded_weights`; batches can be read only once; the quantized model does not
            call a layer as the float model does.
    """
    batches, forward = calibration.batches, calibration.forward
    refuse_iterator(batches, "many times where sequential=True, which runs the model for each layer")
    check_first(targets, options, check)
    replaced: dict[int, Any] = {id(target.original): build(target, None) for target in others}
    rounded: dict[int, GroupedWeight | Int8Weight] = {}
    rows, added = _uses(model, targets, batches, forward)
    bar = iter(shown(sorted(targets, key=_place(rows)), "rounding", "weight", calibration.progress, total=len(targets)))
    for run in _runs(sorted(targets, key=_place(rows)), rows):
        kept = _exact_calls(model, run, batches, forward, added) if len(run) > 1 else None
        for target in run:
            next(bar)
            sums = target.path in added
            exact = _running(model, target, batches, forward, sums) if kept is None else kept.pop(target.path)
            later = [t for t in targets if id(t.original) not in rounded and t is not target]
            statistics = _paired(model, target, later, replaced, batches, forward, exact, sums)
            weight, transform = target.weight(), transforms.get(id(target.original), NO_TRANSFORM)
            if statistics.rows == 0:
                warn_of_no_row(target, options)
                way, new = plainly_rounded(transform.weight(weight), options)
            else:
                aligned, given = transform.weight(statistics.aligned(weight)), transform.statistics(statistics.given)
                way, new = "gptq", gptq_rounded(aligned, given, options)
            rounded[id(target.original)] = new
            replaced[id(target.original)] = build(target, new)
            if calibration.report is not None:
                calibration.report(_errors_of(target, way, new, transform, statistics))
    next(bar, None)
    return rounded


def _uses(
    model: Any, targets: list[Target], batches: Iterable[Any], forward: Forward
) -> tuple[dict[str, int], set[str]]:
    """How the float model uses each, by path.

    Returns:
        Rows that all batches give it, in the order in which the model first calls them; and those whose results are
        added to something before another of them is called, so that it cannot depend on them.
    """
    rows: dict[str, int] = {}
    added: set[str] = set()
    late: set[str] = set()
    last: list[_Call] = []

    def before(target: Target, x: Any) -> _Call:
        call = _Call(target, x, lambda call: (added if last[0] is call else late).add(target.path))
        rows[target.path] = rows.get(target.path, 0) + len(call.x)
        last[:] = [call]
        return call

    replaced = {id(t.original): watched(t, partial(before, t), lambda call, y: call.result(y)) for t in targets}
    running, count = tree.copy_with(model, replaced), 0
    try:
        for count, batch in enumerate(batches, start=1):
            with _named(count - 1):
                forward(running, batch)
    finally:
        last.clear()  # or it and its call, which refers to it, would wait for the garbage collector
    if count == 0:
        raise ValueError("calibration must hold at least one batch, got none")
    return rows, added - late


def _place(rows: Mapping[str, int]) -> Callable[[Target], int]:
    """Sorts targets as the model calls them, after those that it does not call."""
    places = {path: place for place, path in enumerate(rows)}
    return lambda target: places.get(target.path, -1)


def _runs(targets: list[Target], rows: Mapping[str, int]) -> list[list[Target]]:
    """Targets that one run of the float model serves: what they are given and added to fits the memory allowed."""
    kept = ((target, 4 * rows.get(target.path, 0) * sum(target.weight().shape)) for target in targets)
    return runs_within(_MAX_KEPT_BYTES, kept)


class _Call:
    """One call of a layer: its inputs, and what its result is added to."""

    def __init__(self, target: Target, x: Any, told: Callable[[_Call], object] = lambda call: None) -> None:
        refuse_several(x, f"{tree.label(target.path)}: its input")
        k = target.weight().shape[1]
        values = as_array(x, f"{tree.label(target.path)}: its input")
        if values.ndim == 0 or values.shape[-1] != k:
            raise ValueError(f"{tree.label(target.path)}: inputs must have shape (..., {k}), got {values.shape}")
        self.x: Floats = np.array(values.reshape(math.prod(values.shape[:-1]), k), np.float32)
        self.other: Floats | None = None
        self._told = told
        self._linear = target.spec is None or target.spec.activation is None

    def result(self, y: Any) -> Any:
        """y, which tells what it is added to."""
        return as_summand(y, self._add) if self._linear and isinstance(y, np.ndarray) else y

    def _add(self, other: NDArray[Any]) -> None:
        self.other = np.asarray(other.reshape(len(self.x), -1), np.float32)
        self._told(self)


def _running(model: Any, target: Target, batches: Iterable[Any], forward: Forward, sums: bool) -> Iterator[list[_Call]]:
    """The target's calls in each batch, while the float model runs."""
    calls: list[_Call] = []
    running = tree.copy_with(model, {id(target.original): _listed(target, calls, sums)})
    for i, batch in enumerate(batches):
        with _named(i):
            forward(running, batch)
        yield calls
        calls.clear()


def _exact_calls(
    model: Any, run: list[Target], batches: Iterable[Any], forward: Forward, added: set[str]
) -> dict[str, list[list[_Call]]]:
    """The calls of each target in each batch, by path, while the float model runs on each once."""
    calls: dict[str, list[_Call]] = {target.path: [] for target in run}
    found: dict[str, list[list[_Call]]] = {target.path: [] for target in run}
    running = tree.copy_with(model, {id(t.original): _listed(t, calls[t.path], t.path in added) for t in run})
    for i, batch in enumerate(batches):
        with _named(i):
            forward(running, batch)
        for path, made in calls.items():
            found[path].append(made.copy())
            made.clear()
    return found


class _Enough(BaseException):
    """Ends a run of the model: what follows is not needed."""


def _paired(
    model: Any,
    target: Target,
    later: list[Target],
    replaced: Mapping[int, Any],
    batches: Iterable[Any],
    forward: Forward,
    exact: Iterable[list[_Call]],
    sums: bool,
) -> PairedStatistics:
    """Of the target's calls in the model with `replaced` in it, beside those in the float model.

    Each run ends where the model calls one of the `later` ones and has called the target as often as the float model.
    """
    n, k = target.weight().shape
    statistics, calls, count = PairedStatistics(k, n), list[_Call](), 0

    def stop(x: Any) -> None:
        if len(calls) >= count:
            raise _Enough

    stops = {id(t.original): watched(t, stop) for t in later}
    parts = {**replaced, **stops, id(target.original): _listed(target, calls, sums)}
    for i, (found, batch) in enumerate(zip(exact, batches, strict=True)):
        calls.clear()
        count = len(found)
        with _named(i), suppress(_Enough):
            forward(tree.copy_with(model, parts), batch)  # a new copy: a run that ends early may leave anything behind
        if [call.x.shape for call in found] != [call.x.shape for call in calls]:
            raise ValueError(
                f"{tree.label(target.path)} is not called with as many rows in the quantized model as in the float "
                "one; use sequential=False"
            )
        for q, x in zip(calls, found, strict=True):
            statistics.update(q.x, x.x, None if q.other is None or x.other is None else x.other - q.other)
    return statistics


@contextmanager
def _named(batch: int) -> Iterator[None]:
    """Names the batch in errors."""
    try:
        yield
    except Exception as error:
        error.add_note(f"octavo: this was batch {batch} of calibration")
        raise


def _listed(target: Target, calls: list[_Call], sums: bool) -> Any:
    """What computes as the target does and lists its calls, with what results are added to if `sums` asks for it."""

    def before(x: Any) -> _Call:
        calls.append(_Call(target, x))
        return calls[-1]

    return watched(target, before, lambda call, y: call.result(y) if sums else y)


def _errors_of(
    target: Target,
    way: str,
    rounded: GroupedWeight | Int8Weight,
    transform: InputTransform,
    statistics: PairedStatistics,
) -> RoundingErrors:
    """Against what the float model's layer gives for its own inputs."""
    w, v = np.asarray(target.weight(), np.float64), transform.undone(np.asarray(rounded.dequantize(), np.float64))
    of_output = statistics.errors(w, v) if statistics.rows else None
    return RoundingErrors(target.name, way, *relative_errors(w, v - w, of_output))
