"""What layers and arrays are given while their model runs: statistics for rounding, rows to measure on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from octavo._layers.watched import WatchedMatrix
from octavo._models import walk as tree
from octavo._models.hooks import Watched
from octavo._numerics.checks import as_input_rows
from octavo._numerics.gptq import InputStatistics
from octavo._numerics.input_transform import NO_TRANSFORM, InputTransform
from octavo._quantize.batches import Forward, refuse_iterator, refuse_several
from octavo._quantize.targets import Target
from octavo._util.errors import raise_named
from octavo._util.foreign import as_array
from octavo._util.memory import memory_bytes
from octavo._util.progress import with_bar

__all__ = ["first_rows", "gather", "input_statistics", "running_copy", "runs_within", "shown", "watched"]

_T = TypeVar("_T")

# Statistics held at a time, 8 K^2 bytes a layer; the model is run again for the layers beyond.
_MAX_STATISTICS_BYTES = 2 << 30


class Gathered(Protocol):
    """What takes a layer's inputs."""

    def update(self, x: Any) -> None: ...


def watched(
    target: Target,
    update: Callable[[Any], Any],
    after: Callable[[Any, Any], Any] = lambda kept, y: y,
    looked_up: Callable[[NDArray[np.int64]], object] = lambda ids: None,
) -> Any:
    """What computes as the layer or array does, and hands the inputs that it multiplies to `update`.

    Args:
        target: the layer or array.
        update: given the inputs, before they are multiplied.
        after: given what `update` returned and the result; what it returns takes the result's place.
        looked_up: given the indices of rows that are looked up in an array.
    """
    if target.axis is not None:
        return WatchedMatrix(target.weight(), target.axis, update, after, looked_up)
    assert target.spec is not None
    return Watched(running_copy(target), target.spec.call, update, after)


def running_copy(target: Target) -> Any:
    """A copy of a target's layer, which keeps what the layer sets in itself as it runs. The two share the weight."""
    assert target.spec is not None
    weight = getattr(target.original, target.spec.weight)
    return copy.deepcopy(target.original, {id(weight): weight})


def first_rows(model: Any, targets: list[Target], x: Any, forward: Forward) -> dict[str, NDArray[np.float32]]:
    """The rows (M, K) of each one's first call that has any, by path, while a copy of the model runs on x."""
    given: dict[str, NDArray[np.float32]] = {}

    def note(path: str, value: Any) -> None:
        with np.errstate(all="ignore"):
            rows = np.array(as_array(value, f"{tree.label(path)}: its input"), np.float32)
        if rows.size and path not in given:
            given[path] = rows.reshape(-1, rows.shape[-1])

    replaced = {id(target.original): watched(target, partial(note, target.path)) for target in targets}
    forward(tree.copy_with(model, replaced), x)
    return given


def input_statistics(
    model: Any,
    targets: list[Target],
    batches: Iterable[Any],
    forward: Forward,
    *,
    transforms: Mapping[int, InputTransform] = MappingProxyType({}),
    products: bool,
    progress: bool,
) -> Iterator[tuple[Target, InputStatistics]]:
    """Each with the statistics of its inputs, of those that have a transform behind it.

    One run of the model serves as many as fit the memory allowed.
    """
    held = ((t, _statistics_bytes(t.path, t.weight().shape[1]) if products else 0) for t in targets)
    runs = runs_within(_MAX_STATISTICS_BYTES, held)
    if len(runs) > 1:
        most = _MAX_STATISTICS_BYTES >> 30
        refuse_iterator(batches, f"{len(runs)} times: the statistics of all layers do not fit {most} GiB at once")
    for run in runs:
        own = [transforms.get(id(target.original), NO_TRANSFORM) for target in run]
        gathered = _gathered(model, run, batches, forward, own, products=products, progress=progress)
        for target in run:
            yield target, gathered.pop(0)


def runs_within(most_bytes: int, targets: Iterable[tuple[Target, int]]) -> list[list[Target]]:
    """Targets, each with the bytes that it needs, in runs that need at most so many; one that needs more is alone."""
    runs: list[list[Target]] = []
    room = 0
    for target, needed in targets:
        if not runs or needed > room:
            runs.append([])
            room = most_bytes
        runs[-1].append(target)
        room -= needed
    return runs


@dataclass(frozen=True, slots=True)
class _Transformed:
    """Statistics of what a transform makes of the inputs."""

    statistics: InputStatistics
    transform: InputTransform

    def update(self, x: Any) -> None:
        self.statistics.update(self.transform.inputs(as_input_rows(x, self.statistics.in_features)))


def _gathered(
    model: Any,
    run: list[Target],
    batches: Iterable[Any],
    forward: Forward,
    transforms: list[InputTransform],
    *,
    products: bool,
    progress: bool,
) -> list[InputStatistics]:
    """Statistics of the inputs of those in `run`: a copy of the model runs on each batch once."""
    found = [InputStatistics(target.weight().shape[1], products=products) for target in run]
    gathered = [_Transformed(of, own) if own else of for of, own in zip(found, transforms, strict=True)]
    gather(model, run, gathered, batches, forward, progress=progress)
    return found


def gather(
    model: Any,
    targets: Sequence[Target],
    statistics: Sequence[Gathered],
    batches: Iterable[Any],
    forward: Forward,
    *,
    progress: bool,
    looked_up: Sequence[Callable[[NDArray[np.int64]], object]] | None = None,
) -> None:
    """Updates the statistics of each one's inputs: a copy of the model runs on each batch once.

    looked_up: of each, as for `watched`.
    """
    replaced = {
        id(target.original): watched(target, _named(of.update, target.path), looked_up=look)
        for target, of, look in zip(targets, statistics, looked_up or [lambda ids: None] * len(targets), strict=True)
    }
    running, count = tree.copy_with(model, replaced), 0
    for count, batch in enumerate(shown(batches, "calibrating", "batch", progress), start=1):
        try:
            forward(running, batch)
        except Exception as error:
            error.add_note(f"octavo: this was batch {count - 1} of calibration")
            raise
    if count == 0:
        raise ValueError("calibration must hold at least one batch, got none; a generator can be used only once")


def shown(items: Iterable[_T], what: str, unit: str, progress: bool, *, total: int | None = None) -> Iterable[_T]:
    """The items, with a bar that counts them where `progress` asks for one."""
    return with_bar(items, what, unit, total=total) if progress else items


def _statistics_bytes(path: str, k: int) -> int:
    """Bytes that X^T X of K inputs takes; refused where GPTQ, which needs four of them, would exceed the memory."""
    memory = memory_bytes()
    if memory is not None and 32 * k * k > memory:
        raise ValueError(
            f"{tree.label(path)} has {k} inputs, for which GPTQ and the report of output errors take 32 K^2 = "
            f"{32 * k * k / 1e9:.1f} GB of memory, and there are {memory / 1e9:.1f}; leave its class out, or use "
            'rounding="search" without rounding_report, which takes 8 K bytes'
        )
    return 8 * k * k


def _named(update: Callable[[Any], None], path: str) -> Callable[[Any], None]:
    def updated(x: Any) -> None:
        refuse_several(x, f"{tree.label(path)}: its input")
        try:
            update(x)
        except (TypeError, ValueError) as error:
            raise_named(error, tree.label(path))

    return updated
