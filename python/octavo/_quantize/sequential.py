"""Four-bit rounding of a model's layers one after the other, each on what the quantized ones before it give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._models import walk as tree
from octavo._models.summand import as_summand
from octavo._numerics.alignment import PairedStatistics
from octavo._numerics.gptq import round_gptq
from octavo._numerics.input_scale import scaled_weight
from octavo._numerics.int4 import GroupedWeight
from octavo._numerics.rounding import round_search
from octavo._quantize.batches import Forward, refuse_several
from octavo._quantize.calibrated import RoundingErrors, check_first, relative_errors, warn_of_no_row
from octavo._quantize.options import Calibration, WeightOptions
from octavo._quantize.targets import Target
from octavo._quantize.watching import shown, watched

__all__ = ["rounded_in_turn"]

Floats = NDArray[np.float32]


def rounded_in_turn(
    model: Any,
    targets: list[Target],
    options: WeightOptions,
    calibration: Calibration,
    build: Callable[[Target, GroupedWeight | None], Any],
    others: list[Target],
    *,
    scales: Mapping[int, Floats],
    check: bool,
) -> dict[int, GroupedWeight]:
    """The weights rounded by GPTQ in the order in which the model uses them, by the id of the layer or array.

    Before each is rounded, the model runs on all batches twice: in float, and with all that comes before it quantized.
    Its weight is moved to where these inputs give float's results, as far as they can (`PairedStatistics.aligned`), and
    then rounded on them. What the first batch does not reach is rounded first.

    Args:
        model: the model, which is left as it is.
        targets: linear layers and arrays whose weights are to have four bits.
        options, calibration: how.
        build: makes what takes the place of a target; without a weight, one that needs no calibration.
        others: targets that need none; they are quantized from the start.
        scales: of inputs, by the id of the layer or array.
        check: whether to check each layer before the model runs.

    Raises:
        TypeError, ValueError: as for `rounded_weights`; batches can be read only once; the quantized model does not
            call a layer as the float model does.
    """
    batches, forward = calibration.batches, calibration.forward
    if iter(batches) is batches:
        raise ValueError(
            "calibration must be a list or another iterable that can be read many times where sequential=True, which "
            f"runs the model for each layer; got the iterator {type(batches).__name__}"
        )
    check_first(targets, options, check)
    replaced: dict[int, Any] = {id(target.original): build(target, None) for target in others}
    rounded: dict[int, GroupedWeight] = {}
    ordered = _in_order(model, targets, batches, forward)
    for target in shown(ordered, "rounding", "weight", calibration.progress, total=len(targets)):
        weight, s = target.weight(), scales.get(id(target.original))
        statistics = _paired(model, target, replaced, batches, forward)
        if statistics.rows == 0:
            warn_of_no_row(target)
            way, new = "search", round_search(scaled_weight(weight, s), **options.groups)
        else:
            way, given = "gptq", statistics.given if s is None else statistics.given.scaled(s)
            new = round_gptq(scaled_weight(statistics.aligned(weight), s), given, **options.groups)
        rounded[id(target.original)] = new
        replaced[id(target.original)] = build(target, new)
        if calibration.report is not None:
            calibration.report(_errors_of(target, way, new, s, statistics))
    return rounded


def _in_order(model: Any, targets: list[Target], batches: Iterable[Any], forward: Forward) -> list[Target]:
    """Targets as the first batch reaches them, after those that it does not reach."""
    called: list[str] = []

    def note(path: str, x: Any) -> None:
        if path not in called:
            called.append(path)

    running = tree.copy_with(model, {id(t.original): watched(t, partial(note, t.path)) for t in targets})
    for batch in batches:
        forward(running, batch)
        break
    else:
        raise ValueError("calibration must hold at least one batch, got none")
    return sorted(targets, key=lambda t: called.index(t.path) if t.path in called else -1)  # stable


class _Call:
    """One call of a layer: its inputs, and what its result is added to."""

    def __init__(self, target: Target, x: Any) -> None:
        refuse_several(x, f"{tree.label(target.path)}: its input")
        k = target.weight().shape[1]
        values = np.asarray(x)
        if values.ndim == 0 or values.shape[-1] != k:
            raise ValueError(f"{tree.label(target.path)}: inputs must have shape (..., {k}), got {values.shape}")
        self.x: Floats = np.array(values.reshape(-1, k), np.float32)
        self.other: Floats | None = None

    def result(self, y: Any) -> Any:
        """y, which tells what it is added to."""
        return as_summand(y, self._add) if isinstance(y, np.ndarray) else y

    def _add(self, other: NDArray[Any]) -> None:
        self.other = np.asarray(other.reshape(len(self.x), -1), np.float32)


def _paired(
    model: Any, target: Target, replaced: Mapping[int, Any], batches: Iterable[Any], forward: Forward
) -> PairedStatistics:
    """Of what the target is given in the model with `replaced` in it, and in the float model."""
    found: tuple[list[_Call], list[_Call]] = ([], [])
    in_float, quantized = (
        tree.copy_with(model, {**others, id(target.original): _listed(target, calls)})
        for others, calls in zip(({}, replaced), found, strict=True)
    )
    n, k = target.weight().shape
    statistics = PairedStatistics(k, n)
    for i, batch in enumerate(batches):
        try:
            for running in (in_float, quantized):
                forward(running, batch)
            exact, given = found
            if [call.x.shape for call in exact] != [call.x.shape for call in given]:
                raise ValueError(
                    f"{tree.label(target.path)} is not called with as many rows in the quantized model as in the float "
                    "one; use sequential=False"
                )
            for q, x in zip(given, exact, strict=True):
                missing = None if q.other is None or x.other is None else x.other - q.other
                statistics.update(q.x, x.x, missing)
        except Exception as error:
            error.add_note(f"octavo: this was batch {i} of calibration")
            raise
        for calls in found:
            calls.clear()
    return statistics


def _listed(target: Target, calls: list[_Call]) -> Any:
    """What computes as the target does and lists its calls."""

    def before(x: Any) -> _Call:
        calls.append(_Call(target, x))
        return calls[-1]

    linear = target.spec is None or target.spec.activation is None
    return watched(target, before, lambda call, y: call.result(y) if linear else y)


def _errors_of(
    target: Target, way: str, rounded: GroupedWeight, scale: Floats | None, statistics: PairedStatistics
) -> RoundingErrors:
    """Against what the float model's layer gives for its own inputs."""
    w, v = np.asarray(target.weight(), np.float64), np.asarray(rounded.dequantize(), np.float64)
    if scale is not None:
        v /= scale
    of_output = statistics.errors(w, v) if statistics.rows else None
    return RoundingErrors(target.name, way, *relative_errors(w, v - w, of_output))
