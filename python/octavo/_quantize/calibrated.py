"""Four-bit rounding of a model's layers by what their inputs are: statistics from batches, then layer by layer."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from octavo._layers.registry import counterpart
from octavo._layers.watched import WatchedMatrix
from octavo._models import walk as tree
from octavo._models.hooks import Watched
from octavo._numerics.gptq import InputStatistics, as_statistics, round_gptq
from octavo._numerics.int4 import GroupedWeight, ScaleDtype
from octavo._numerics.rounding import as_weight, round_nearest, round_search
from octavo._quantize.spec import Layers, LayerSpec, as_specs, find_layers, nothing_found, read_layer, refusal
from octavo._util.progress import with_bar

__all__ = [
    "RoundingComparison", "RoundingErrors", "Watchable", "compare_rounding", "rounded_weights", "rounding_error",
    "watchable_array", "watchable_layer",
]  # fmt: skip

CalibratedRounding = Literal["search", "gptq"]
Forward = Callable[[Any, Any], Any]
_T = TypeVar("_T")
Report = Callable[["RoundingErrors"], object]

# Statistics held at a time, 8 K^2 bytes a layer; the model is run again for the layers beyond.
_MAX_STATISTICS_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Watchable:
    """Something that multiplies its inputs by a weight: where it is, W (out, in), and what stands in for it.

    `watched(update)` gives a stand-in that computes the same and hands its inputs to `update`. `may_be_idle`: that no
    batch reaches it is nothing to warn of.
    """

    path: str
    original: Any
    weight: npt.NDArray[Any]
    watched: Callable[[Callable[[Any], None]], Any]
    may_be_idle: bool = False


def watchable_layer(path: str, layer: Any, spec: LayerSpec) -> Watchable:
    def watched(update: Callable[[Any], None]) -> Watched:
        # What the layer sets in itself stays in the copy, which shares the weight.
        kept = copy.deepcopy(layer, {id(held): held})
        return Watched(kept, spec.call, update, lambda before, y: None)

    try:
        weight = read_layer(layer, spec)[0]
    except (TypeError, ValueError) as error:
        raise refusal(path, layer, spec, error, hint=False) from error
    held = getattr(layer, spec.weight)
    return Watchable(path, layer, weight, watched)


def watchable_array(path: str, array: npt.NDArray[Any], axis: Literal[0, 1]) -> Watchable:
    """`axis` as for `QuantMatrix`. Rows may be looked up without any product."""
    weight = array.T if axis == 1 else array
    return Watchable(path, array, weight, lambda update: WatchedMatrix(weight, axis, update), may_be_idle=True)


def rounded_weights(
    model: Any,
    watchables: list[Watchable],
    batches: Iterable[Any],
    *,
    rounding: CalibratedRounding,
    forward: Forward,
    progress: bool,
    report: Report | None,
    group_size: int | None,
    symmetric: bool,
    scale_dtype: ScaleDtype,
) -> dict[int, GroupedWeight]:
    """The rounded weights, by the id of the layer or array. The model is left as it is.

    rounding="search" weighs the search with the inputs' mean squares; "gptq" is `octavo.round_gptq`. What no batch
    reaches is rounded by the plain search.
    """
    rounded: dict[int, GroupedWeight] = {}
    options: dict[str, Any] = {"group_size": group_size, "symmetric": symmetric, "scale_dtype": scale_dtype}
    products = rounding == "gptq" or report is not None
    known = _statistics(model, watchables, batches, forward, products=products, progress=progress)
    for item, statistics in _barred(known, "rounding", "weight", progress, total=len(watchables)):
        if statistics.rows == 0:
            if not item.may_be_idle:
                warnings.warn(
                    f"{tree.label(item.path)} was given no row by the calibration batches; its weights are rounded by "
                    "the plain search",
                    stacklevel=3,
                )
            way, new = "search", round_search(item.weight, **options)
        elif rounding == "gptq":
            way, new = "gptq", round_gptq(item.weight, statistics, **options)
        else:
            way, new = "search, weighted", round_search(item.weight, importance=statistics.importance, **options)
        rounded[id(item.original)] = new
        if report is not None:
            seen = statistics if statistics.rows else None
            report(RoundingErrors(item.path or "(model)", way, *_errors(item.weight, new, seen)))
    return rounded


def _barred(items: Iterable[_T], what: str, unit: str, progress: bool, *, total: int | None = None) -> Iterable[_T]:
    return with_bar(items, what, unit, total=total) if progress else items


def _statistics(
    model: Any,
    watchables: list[Watchable],
    batches: Iterable[Any],
    forward: Forward,
    *,
    products: bool,
    progress: bool,
) -> Iterator[tuple[Watchable, InputStatistics]]:
    """Each with the statistics of its inputs: as many a run of the model as fit the memory allowed."""
    runs: list[list[Watchable]] = []
    room = 0
    for item in watchables:
        needed = _statistics_bytes(item.path, item.weight.shape[1]) if products else 0
        if not runs or needed > room:
            runs.append([])
            room = _MAX_STATISTICS_BYTES
        runs[-1].append(item)
        room -= needed
    if len(runs) > 1 and iter(batches) is batches:
        raise ValueError(
            f"calibration must be a list or another iterable that can be read {len(runs)} times: the statistics of all "
            f"layers do not fit {_MAX_STATISTICS_BYTES >> 30} GiB at once; got the iterator {type(batches).__name__}"
        )
    for run in runs:
        gathered = _gathered(model, run, batches, forward, products=products, progress=progress)
        for item in run:
            yield item, gathered.pop(0)


def _gathered(
    model: Any, run: list[Watchable], batches: Iterable[Any], forward: Forward, *, products: bool, progress: bool
) -> list[InputStatistics]:
    """Statistics of the inputs of those in `run`: a copy of the model runs on each batch once."""
    gathered = [InputStatistics(item.weight.shape[1], products=products) for item in run]
    stand_ins = {
        id(item.original): item.watched(_named(statistics.update, item.path))
        for item, statistics in zip(run, gathered, strict=True)
    }
    running, count = tree.copy_with(model, stand_ins), 0
    for count, batch in enumerate(_barred(batches, "calibrating", "batch", progress), start=1):
        try:
            forward(running, batch)
        except Exception as error:
            error.add_note(f"octavo: this was batch {count - 1} of calibration")
            raise
    if count == 0:
        raise ValueError("calibration must hold at least one batch, got none; a generator can be used only once")
    return gathered


def _statistics_bytes(path: str, k: int) -> int:
    """Bytes that X^T X of K inputs takes; refused where GPTQ, which needs four of them, would exceed the machine."""
    memory = _memory_bytes()
    if memory is not None and 32 * k * k > memory:
        raise ValueError(
            f"{tree.label(path)} has {k} inputs, for which GPTQ and the report of output errors take 32 K^2 = "
            f"{32 * k * k / 1e9:.1f} GB of memory, and there are {memory / 1e9:.1f}; leave its class out, or use "
            'rounding="search" without rounding_report, which takes 8 K bytes'
        )
    return 8 * k * k


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not told on this operating system
        return None


def _named(update: Callable[[Any], None], path: str) -> Callable[[Any], None]:
    def named(x: Any) -> None:
        try:
            update(x)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{tree.label(path)}: {error}") from error

    return named


@dataclass(frozen=True, slots=True)
class RoundingErrors:
    """What one way of rounding does to one layer, each relative to what it is an error of.

    weight_error: RMS of w' - w over RMS of w. output_error: RMS of x w'^T - x w^T over RMS of x w^T, on the inputs; NaN
    where there were none.
    """

    layer: str
    rounding: str
    weight_error: float
    output_error: float


@dataclass(frozen=True, slots=True)
class RoundingComparison:
    """Ways of rounding side by side: print it, or read `rows`."""

    rows: tuple[RoundingErrors, ...]

    def __str__(self) -> str:
        width = max([len("layer"), *(len(row.layer) for row in self.rows)])
        lines = [f"{'layer':<{width}}  {'rounding':<16} {'weight error':>12} {'output error':>12}"]
        lines += [
            f"{row.layer:<{width}}  {row.rounding:<16} {row.weight_error:12.4%} {row.output_error:12.4%}"
            for row in self.rows
        ]
        return "\n".join(lines)


def compare_rounding(
    model: Any,
    layers: Layers,
    calibration: Iterable[Any],
    *,
    group_size: int | None = None,
    symmetric: bool = True,
    scale_dtype: ScaleDtype = "float32",
    forward: Forward = lambda model, batch: model(batch),
    progress: bool = False,
) -> RoundingComparison:
    """Rounds each float layer to four bits in every way there is, and says how large the errors are.

    The ways: `round_nearest`, `round_search`, the same with the inputs' mean squares as importance, and `round_gptq`.

    Args:
        model, layers: as for `octavo.quantize_dynamic`. The model is left as it is.
        calibration: batches, which the model is run on. Errors of the output are those on these inputs.
        group_size, symmetric, scale_dtype: as for `octavo.round_nearest`.
        forward: how to run the model on a batch.
        progress: show a bar of the batches, then of the layers (needs tqdm).

    Raises:
        ValueError: no layer matches, or inputs are not finite.

    A layer that was not called has no output error and no rounding by its inputs. octavo's own recurrent layers and
    embeddings are left out, which no calibration changes.

    Example:
        >>> import numpy as np, octavo as oc
        >>> x = np.random.default_rng(0).standard_normal((256, 64), dtype=np.float32)
        >>> errors = oc.compare_rounding(oc.nn.Linear.init(64, 32), oc.nn.Linear, [x], group_size=32)
        >>> [row.rounding for row in errors.rows]
        ['nearest', 'search', 'search, weighted', 'gptq']
    """
    specs = as_specs(layers)
    found = [(path, layer) for path, layer in find_layers(model, specs) if counterpart(type(layer)) is None]
    if not found:
        raise ValueError(nothing_found(model, specs))
    options: dict[str, Any] = {"group_size": group_size, "symmetric": symmetric, "scale_dtype": scale_dtype}
    rows = []
    watchables = [watchable_layer(path, layer, specs[type(layer)]) for path, layer in found]
    known = _statistics(model, watchables, calibration, forward, products=True, progress=progress)
    for item, statistics in _barred(known, "rounding", "weight", progress, total=len(watchables)):
        weight = np.asarray(item.weight, np.float32)
        ways = {"nearest": round_nearest(weight, **options), "search": round_search(weight, **options)}
        if statistics.rows:
            ways["search, weighted"] = round_search(weight, importance=statistics.importance, **options)
            ways["gptq"] = round_gptq(weight, statistics, **options)
        seen = statistics if statistics.rows else None
        rows += [RoundingErrors(item.path or "(model)", way, *_errors(weight, q, seen)) for way, q in ways.items()]
    return RoundingComparison(tuple(rows))


def rounding_error(
    weight: npt.ArrayLike,
    rounded: GroupedWeight,
    inputs: npt.ArrayLike | InputStatistics | None = None,
    *,
    layer: str = "",
    rounding: str = "",
) -> RoundingErrors:
    """RMS(w' - w) / RMS(w), and on inputs x RMS(x w'^T - x w^T) / RMS(x w^T).

    Args:
        weight: (N, K), what was rounded.
        rounded: what it was rounded to.
        inputs: (..., K) of the layer, or their `InputStatistics`.
        layer, rounding: names for the report.

    Raises:
        TypeError, ValueError: weight and rounded differ in shape, inputs do not fit, or something is not finite.

    Where the denominator is zero an error is 0 if there is none, and infinite otherwise.

    Example:
        >>> import numpy as np, octavo as oc
        >>> w = np.array([[7.0, 0.5]])
        >>> rounding_error(w, oc.round_nearest(w), np.array([[1.0, 0.0]])).output_error
        0.0
    """
    w = as_weight(weight)
    if rounded.q.shape != w.shape:
        raise ValueError(f"rounded must have the shape of weight, {w.shape}, got {rounded.q.shape}")
    statistics = None if inputs is None else as_statistics(inputs, w.shape[1])
    return RoundingErrors(layer, rounding, *_errors(w, rounded, statistics))


def _errors(
    weight: npt.NDArray[Any], rounded: GroupedWeight, statistics: InputStatistics | None
) -> tuple[float, float]:
    w = weight.astype(np.float64)
    e = rounded.dequantize() - w

    def ratio(wrong: float, right: float) -> float:
        if right > 0:
            return float(np.sqrt(max(wrong, 0.0) / right))
        return 0.0 if wrong <= 0 else float("inf")

    weight_error = ratio(float(np.sum(e * e)), float(np.sum(w * w)))
    if statistics is None:
        return weight_error, float("nan")
    # sum over the inputs of |x e^T|^2 is the trace of e H e^T.
    h = statistics.hessian
    return weight_error, ratio(float(np.sum((e @ h) * e)), float(np.sum((w @ h) * w)))
