"""Four-bit rounding of a model's layers by what their inputs are: statistics from batches, then layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from octavo import tree
from octavo.gptq import InputStatistics, round_gptq
from octavo.int4 import GroupedWeight, ScaleDtype
from octavo.layers import Layers, LayerSpec, as_specs, find_layers, nothing_found, read_layer
from octavo.qmatrix import watched_matrix
from octavo.rounding import round_nearest, round_search
from octavo.watched import Watched

__all__ = [
    "RoundingComparison", "RoundingErrors", "Watchable", "compare_rounding", "rounded_weights", "watchable_array",
    "watchable_layer",
]  # fmt: skip

CalibratedRounding = Literal["search", "gptq"]
Forward = Callable[[Any, Any], Any]

# Statistics held at a time, 8 K^2 bytes a layer; the model is run again for the layers beyond.
_MAX_STATISTICS_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Watchable:
    """Something that multiplies its inputs by a weight: where it is, W (out, in), and what stands in for it.

    `watched(update)` gives a stand-in that computes the same and hands its inputs to `update`.
    """

    path: str
    original: Any
    weight: npt.NDArray[Any]
    watched: Callable[[Callable[[Any], None]], Any]
    must_be_called: bool = True


def watchable_layer(path: str, layer: Any, spec: LayerSpec) -> Watchable:
    weight, _ = read_layer(layer, spec)
    return Watchable(
        path, layer, weight, lambda update: Watched(copy.deepcopy(layer), spec.call, update, lambda kept, y: None)
    )


def watchable_array(path: str, array: npt.NDArray[Any], axis: Literal[0, 1]) -> Watchable:
    """`axis` as for `QuantMatrix`. Rows may be looked up without any product, so it need not be called."""
    weight = array.T if axis == 1 else array
    return Watchable(path, array, weight, lambda update: watched_matrix(weight, axis, update), must_be_called=False)


def rounded_weights(
    model: Any,
    watchables: list[Watchable],
    batches: Iterable[Any],
    *,
    rounding: CalibratedRounding,
    forward: Forward,
    progress: bool,
    group_size: int | None,
    symmetric: bool,
    scale_dtype: ScaleDtype,
) -> dict[int, GroupedWeight]:
    """The rounded weights, by the id of the layer or array. The model is left as it is.

    rounding="search" weighs the search with the inputs' mean squares; "gptq" is `octavo.gptq.round_gptq`. What was not
    called and need not be is left out.
    """
    rounded: dict[int, GroupedWeight] = {}
    options: dict[str, Any] = {"group_size": group_size, "symmetric": symmetric, "scale_dtype": scale_dtype}
    bar = _bar(len(watchables)) if progress else None
    for item, statistics in _statistics(model, watchables, batches, forward):
        if statistics.rows == 0:
            if item.must_be_called:
                raise ValueError(
                    f"{tree.label(item.path)} was not called with any row by the calibration batches; "
                    'leave its class out of layers, or use rounding="search" without calibration'
                )
        elif rounding == "gptq":
            rounded[id(item.original)] = round_gptq(item.weight, statistics, **options)
        else:
            rounded[id(item.original)] = round_search(item.weight, importance=statistics.importance, **options)
        if bar is not None:
            bar.update()
    if bar is not None:
        bar.close()
    return rounded


def _bar(total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install 'octavo[cli]'") from error
    return tqdm(total=total, desc="rounding", unit="layer")


def _statistics(
    model: Any, watchables: list[Watchable], batches: Iterable[Any], forward: Forward
) -> Iterator[tuple[Watchable, InputStatistics]]:
    """Each with the statistics of its inputs: as many a run of the model as fit the memory allowed."""
    runs: list[list[Watchable]] = []
    room = 0
    for item in watchables:
        needed = 8 * item.weight.shape[1] ** 2
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
        statistics = [InputStatistics(item.weight.shape[1]) for item in run]
        stand_ins = {
            id(item.original): item.watched(_named(gathered.update, item.path))
            for item, gathered in zip(run, statistics, strict=True)
        }
        running, empty = tree.copy_with(model, stand_ins), True
        for batch in batches:
            forward(running, batch)
            empty = False
        if empty:
            raise ValueError("calibration must hold at least one batch, got none; a generator can be used only once")
        while run:
            yield run.pop(0), statistics.pop(0)


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

    weight_error: RMS of w' - w over RMS of w. output_error: RMS of x w'^T - x w^T over RMS of x w^T, on the inputs.
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
) -> RoundingComparison:
    """Rounds each float layer to four bits in every way there is, and says how large the errors are.

    The ways: `round_nearest`, `round_search`, the same with the inputs' mean squares as importance, and `round_gptq`.

    Args:
        model, layers: as for `octavo.quantize_dynamic`. The model is left as it is.
        calibration: batches, which the model is run on. Errors of the output are those on these inputs.
        group_size, symmetric, scale_dtype: as for `octavo.rounding.round_nearest`.
        forward: how to run the model on a batch.

    Raises:
        ValueError: no layer matches, a layer was not called, inputs are not finite.

    Example:
        >>> import numpy as np, octavo as oc
        >>> x = np.random.default_rng(0).standard_normal((256, 64), dtype=np.float32)
        >>> errors = oc.compare_rounding(oc.nn.Linear.init(64, 32), oc.nn.Linear, [x], group_size=32)
        >>> [row.rounding for row in errors.rows]
        ['nearest', 'search', 'search, weighted', 'gptq']
    """
    specs = as_specs(layers)
    found = find_layers(model, specs)
    if not found:
        raise ValueError(nothing_found(model, specs))
    options: dict[str, Any] = {"group_size": group_size, "symmetric": symmetric, "scale_dtype": scale_dtype}
    rows = []
    watchables = [watchable_layer(path, layer, specs[type(layer)]) for path, layer in found]
    for item, statistics in _statistics(model, watchables, calibration, forward):
        weight = np.asarray(item.weight, np.float32)
        ways = {
            "nearest": round_nearest(weight, **options),
            "search": round_search(weight, **options),
            "search, weighted": round_search(weight, importance=statistics.importance, **options),
            "gptq": round_gptq(weight, statistics, **options),
        }
        for name, rounded in ways.items():
            rows.append(RoundingErrors(item.path or "(model)", name, *_errors(weight, rounded, statistics.hessian)))
    return RoundingComparison(tuple(rows))


def _errors(
    weight: npt.NDArray[np.float32], rounded: GroupedWeight, hessian: npt.NDArray[np.float64]
) -> tuple[float, float]:
    w, e = weight.astype(np.float64), rounded.dequantize() - weight.astype(np.float64)

    def ratio(wrong: float, right: float) -> float:
        return float(np.sqrt(wrong / right)) if right > 0 else 0.0

    # sum over the inputs of |x e^T|^2 is the trace of e H e^T.
    output = ratio(float(np.sum((e @ hessian) * e)), float(np.sum((w @ hessian) * w)))
    return ratio(float(np.sum(e * e)), float(np.sum(w * w))), output
