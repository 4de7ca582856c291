"""Four-bit rounding of a model's layers by what their inputs are: statistics from batches, then layer by layer."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from octavo import tree
from octavo.counterparts import counterpart
from octavo.gptq import InputStatistics, as_statistics, round_gptq
from octavo.int4 import GroupedWeight, ScaleDtype
from octavo.layers import Layers, LayerSpec, as_specs, find_layers, nothing_found, read_layer
from octavo.progress import with_bar
from octavo.rounding import as_weight, round_nearest, round_search
from octavo.watched import Watched

__all__ = ["RoundingComparison", "RoundingErrors", "compare_rounding", "rounded_layers", "rounding_error"]

CalibratedRounding = Literal["search", "gptq"]
Forward = Callable[[Any, Any], Any]
_T = TypeVar("_T")
Report = Callable[["RoundingErrors"], object]

# Statistics held at a time, 8 K^2 bytes a layer; the model is run again for the layers beyond.
_MAX_STATISTICS_BYTES = 2 << 30


def rounded_layers(
    model: Any,
    found: list[tuple[str, Any]],
    specs: Mapping[type, LayerSpec],
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
    """The rounded weights of the layers in `found`, by the id of the layer. The model is left as it is.

    rounding="search" weighs the search with the inputs' mean squares; "gptq" is `octavo.gptq.round_gptq`.
    """
    rounded: dict[int, GroupedWeight] = {}
    options: dict[str, Any] = {"group_size": group_size, "symmetric": symmetric, "scale_dtype": scale_dtype}
    products = rounding == "gptq" or report is not None
    layers: Iterable[tuple[str, Any, npt.NDArray[Any], InputStatistics]] = _statistics(
        model, found, specs, batches, forward, products=products, progress=progress
    )
    for path, layer, weight, statistics in _barred(layers, "rounding", "layer", progress, total=len(found)):
        if statistics.rows == 0:
            warnings.warn(
                f"{tree.label(path)} was given no row by the calibration batches; its weights are rounded by the plain "
                "search",
                stacklevel=3,
            )
            way, rounded[id(layer)] = "search", round_search(weight, **options)
        elif rounding == "gptq":
            way, rounded[id(layer)] = "gptq", round_gptq(weight, statistics, **options)
        else:
            way = "search, weighted"
            rounded[id(layer)] = round_search(weight, importance=statistics.importance, **options)
        if report is not None:
            seen = statistics if statistics.rows else None
            report(RoundingErrors(path or "(model)", way, *_errors(weight, rounded[id(layer)], seen)))
    return rounded


def _barred(items: Iterable[_T], what: str, unit: str, progress: bool, *, total: int | None = None) -> Iterable[_T]:
    return with_bar(items, what, unit, total=total) if progress else items


_Run = list[tuple[str, Any, npt.NDArray[Any]]]


def _statistics(
    model: Any,
    found: list[tuple[str, Any]],
    specs: Mapping[type, LayerSpec],
    batches: Iterable[Any],
    forward: Forward,
    *,
    products: bool,
    progress: bool,
) -> Iterator[tuple[str, Any, npt.NDArray[Any], InputStatistics]]:
    """(path, layer, its weight (out, in), statistics of its inputs): as many layers a run of the model as fit."""
    runs: list[_Run] = []
    room = 0
    for path, layer in found:
        weight = read_layer(layer, specs[type(layer)])[0]
        needed = _statistics_bytes(path, weight.shape[1]) if products else 0
        if not runs or needed > room:
            runs.append([])
            room = _MAX_STATISTICS_BYTES
        runs[-1].append((path, layer, weight))
        room -= needed
    if len(runs) > 1 and iter(batches) is batches:
        raise ValueError(
            f"calibration must be a list or another iterable that can be read {len(runs)} times: the statistics of all "
            f"layers do not fit {_MAX_STATISTICS_BYTES >> 30} GiB at once; got the iterator {type(batches).__name__}"
        )
    for run in runs:
        gathered = _gathered(model, run, specs, batches, forward, products=products, progress=progress)
        for path, layer, weight in run:
            yield path, layer, weight, gathered.pop(path)


def _gathered(
    model: Any,
    run: _Run,
    specs: Mapping[type, LayerSpec],
    batches: Iterable[Any],
    forward: Forward,
    *,
    products: bool,
    progress: bool,
) -> dict[str, InputStatistics]:
    """Statistics of the inputs of the layers in `run`, by path: a copy of the model runs on each batch once."""
    watched: dict[int, Watched] = {}
    gathered: dict[str, InputStatistics] = {}
    for path, layer, weight in run:
        spec = specs[type(layer)]
        gathered[path] = InputStatistics(weight.shape[1], products=products)
        held = getattr(layer, spec.weight)
        kept = copy.deepcopy(layer, {id(held): held})  # what the layer sets in itself stays in the copy
        watched[id(layer)] = Watched(kept, spec.call, _named(gathered[path].update, path), lambda before, y: None)
    running, count = tree.copy_with(model, watched), 0
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
        group_size, symmetric, scale_dtype: as for `octavo.rounding.round_nearest`.
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
    known = _statistics(model, found, specs, calibration, forward, products=True, progress=progress)
    for path, _layer, given, statistics in _barred(known, "rounding", "layer", progress, total=len(found)):
        weight = np.asarray(given, np.float32)
        ways = {"nearest": round_nearest(weight, **options), "search": round_search(weight, **options)}
        if statistics.rows:
            ways["search, weighted"] = round_search(weight, importance=statistics.importance, **options)
            ways["gptq"] = round_gptq(weight, statistics, **options)
        seen = statistics if statistics.rows else None
        rows += [RoundingErrors(path or "(model)", way, *_errors(weight, q, seen)) for way, q in ways.items()]
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
