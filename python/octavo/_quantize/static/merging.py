"""Calibration by many processes: `merge_calibration` adds what copies of a prepared model have seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from octavo._quantize.static.observed import ObservedMatrix, Prepared, PreparedLinear, observed_layers
from octavo._quantize.static.snapshot import Snapshot

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
        prepared: what `prepare` or `prepare_qat` returned. It is changed. Ranges of weights stay its own, and
            so do frozen ones (`octavo.qat.disable_observer`).
        others: copies of it. What a copy had seen before it was sent counts again.

    Returns:
        prepared.

    Raises:
        TypeError: an observer cannot be merged or copied, or is of another class.
        ValueError: another model is not prepared, or has other layers, weights, options or learned scales.

        Whatever is raised, by an observer of your own too: `prepared` is as it was.

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
    before = Snapshot(layer for _, layer in mine)
    try:
        for layers in theirs:
            pairs = [(layer, other) for (_, layer), (_, other) in zip(mine, layers, strict=True)]
            twins = {
                id(theirs): part
                for layer, other in pairs
                for part, theirs in zip(layer.watched(), other.watched(), strict=True)
            }
            for layer, other in pairs:
                layer.merge(other, twins)
    except BaseException:  # of a user's observer, or an interrupt
        before.restore()
        raise
    return prepared


def _check_same(mine: list[tuple[str, Prepared]], theirs: list[tuple[str, Prepared]], number: int) -> None:
    kinds = [[(path, type(layer).__name__, len(layer.watched())) for path, layer in part] for part in (mine, theirs)]
    if kinds[0] != kinds[1]:
        differ = sorted({*kinds[0]} ^ {*kinds[1]}) or kinds[0]
        raise ValueError(
            f"others[{number}] is not a copy of the prepared model: they differ in {differ[0][1]} at {differ[0][0]!r}; "
            "send copies of what prepare returned"
        )
    for (_, layer), (_, other) in zip(mine, theirs, strict=True):
        if not all(map(_equal, _weights(layer), _weights(other))):
            raise ValueError(
                f"others[{number}] is not a copy of the prepared model: the weights of {layer.name} differ; calibrate "
                "copies of one model"
            )


def _weights(layer: Prepared) -> tuple[Any, ...]:
    """What decides about the ranges that it sees."""
    if isinstance(layer, PreparedLinear):
        return *layer.read_float(), layer.pre_quant_scale
    return (layer.array, layer.pre_quant_scale) if isinstance(layer, ObservedMatrix) else ()


def _equal(a: Any, b: Any) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b, equal_nan=True))
