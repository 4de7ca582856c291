"""Calibration by many processes: `merge_calibration` adds what copies of a prepared model have seen."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

from octavo._layers.arrays.traced import Source
from octavo._quantize.static.observed import Prepared, observed_layers
from octavo._quantize.static.ranges import Range

__all__ = ["merge_calibration"]

_Model = TypeVar("_Model")


def merge_calibration(prepared: _Model, others: Iterable[Any]) -> _Model:
    """Adds to a prepared model what copies of it have seen, as if it had been calibrated with all their batches.

    Send copies of `prepared` to processes or machines (they pickle), run `calibrate` there on a part of the data each,
    and merge what comes back:

        minima and maxima        exactly those of one process
        moving averages          those of one process that takes the parts one after the other, up to rounding
        histograms               within the rule of `HistogramObserver`: bins of the wider one, counts split evenly
        uses of layers' results  a layer gives integers where every copy found that it may

    Args:
        prepared: what `prepare` returned. It is changed.
        others: copies of it. What a copy had seen before it was sent counts again.

    Returns:
        prepared.

    Raises:
        TypeError: an observer cannot be merged, or is of another class.
        ValueError: another model is not prepared, or has other layers or options. Nothing has been changed.

    Example:
        >>> import copy, numpy as np, octavo as oc
        >>> prepared = oc.prepare(oc.nn.Linear.init(4, 2), oc.default_qconfig, layers={oc.nn.Linear})
        >>> parts = [copy.deepcopy(prepared) for _ in range(2)]
        >>> for part, scale in zip(parts, (1, 3)):
        ...     oc.calibrate(part, [np.full((1, 4), scale, np.float32)])
        >>> merged = oc.merge_calibration(prepared, parts)
        >>> round(float(oc.convert(merged).input_qparams.scale) * 255, 3)
        3.0
    """
    mine = observed_layers(prepared)
    theirs = [observed_layers(other) for other in others]
    for number, layers in enumerate(theirs):
        _check_same(mine, layers, number)
    parts = [part for _, layer in mine for part in _parts(layer)]
    merged = [copy.deepcopy(vars(part.observer)) if isinstance(part, Range) else None for part in parts]
    try:
        for layers in theirs:
            for part, other in zip(parts, [p for _, layer in layers for p in _parts(layer)], strict=True):
                if isinstance(part, Range):
                    _merge_range(part, other)
    except (TypeError, ValueError):
        for part, before in zip(parts, merged, strict=True):
            if isinstance(part, Range) and before is not None:
                vars(part.observer).clear()
                vars(part.observer).update(before)
        raise
    for layers in theirs:
        for part, other in zip(parts, [p for _, layer in layers for p in _parts(layer)], strict=True):
            if isinstance(part, Range):
                part.seen |= other.seen
            else:
                _merge_source(part, other)
    return prepared


def _check_same(mine: list[tuple[str, Prepared]], theirs: list[tuple[str, Prepared]], number: int) -> None:
    kinds = [[(path, type(layer).__name__) for path, layer in layers] for layers in (mine, theirs)]
    if kinds[0] != kinds[1]:
        differ = sorted({*kinds[0]} ^ {*kinds[1]}) or kinds[0]
        raise ValueError(
            f"others[{number}] is not a copy of the prepared model: they differ in {differ[0][1]} at {differ[0][0]!r}; "
            "send copies of what prepare returned"
        )


def _parts(layer: Prepared) -> list[Any]:
    """The ranges of a layer, and its source, in the order of their names."""
    found = vars(layer)
    return [found[name] for name in sorted(found) if isinstance(found[name], Range | Source)]


def _merge_range(mine: Range, other: Range) -> None:
    if not hasattr(mine.observer, "merge"):
        raise TypeError(f"{mine.name}: {type(mine.observer).__name__} has no merge(other), so it cannot be merged")
    try:
        mine.observer.merge(other.observer)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{mine.name}: {error}") from error


def _merge_source(mine: Source, other: Source) -> None:
    mine.plain_uses += other.plain_uses
    mine.relu_uses += other.relu_uses
    mine.bounded |= other.bounded
    if other.float_use is not None:
        mine.mark(other.float_use)
