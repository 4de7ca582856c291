"""Rounding of a model's layers by what their inputs are; and the errors of each way of rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo._layers.linear import Layout, QuantLinear
from octavo._models import walk as tree
from octavo._numerics.definition import quantize_weight
from octavo._numerics.gptq import InputStatistics, as_statistics, round_gptq
from octavo._numerics.gptq_int8 import Int8Weight, round_gptq_int8
from octavo._numerics.input_transform import NO_TRANSFORM, InputTransform
from octavo._numerics.int4 import GroupedWeight, ScaleDtype
from octavo._numerics.params import qint8
from octavo._numerics.rounding import as_weight, round_nearest, round_search
from octavo._quantize.batches import Forward, check_batches, check_callable, run_model
from octavo._quantize.measure import relative_error
from octavo._quantize.options import Calibration, WeightOptions, as_dtypes
from octavo._quantize.select import Arrays
from octavo._quantize.spec import Layers, as_choice
from octavo._quantize.targets import Target, find_targets
from octavo._quantize.watching import input_statistics, shown
from octavo._util.caller import warn_caller
from octavo._util.plots import Panel, Plotted
from octavo._util.tables import percent

__all__ = [
    "RoundingComparison",
    "RoundingErrors",
    "check_first",
    "compare_rounding",
    "gptq_rounded",
    "plainly_rounded",
    "relative_errors",
    "rounded_weights",
    "rounding_error",
    "warn_of_no_row",
]


def rounded_weights(
    model: Any,
    targets: list[Target],
    options: WeightOptions,
    calibration: Calibration,
    *,
    transforms: Mapping[int, InputTransform] = MappingProxyType({}),
    check: bool,
) -> dict[int, GroupedWeight | Int8Weight]:
    """The rounded weights, by the id of the layer or array. The model is left as it is.

    rounding="search" weighs the search with the inputs' mean squares; "gptq" is `octavo.round_gptq`, or for int8
    `octavo.round_gptq_int8`. What no batch reaches is rounded as without calibration.

    Args:
        model: the model.
        targets: linear layers and arrays whose weights are of `options.calibrated_type`.
        options, calibration: how.
        transforms: of inputs, by the id of the layer or array: what is rounded is the weight for these.
        check: whether to check each layer before the model runs.

    Raises:
        TypeError, ValueError: what would be refused after the batches have run for long is refused before; a batch does
            not fit. The layer is named.
    """
    check_first(targets, options, check)
    rounded: dict[int, GroupedWeight | Int8Weight] = {}
    gptq, report = calibration.rounding == "gptq", calibration.report
    known = input_statistics(
        model,
        targets,
        calibration.batches,
        calibration.forward,
        transforms=transforms,
        products=gptq or report is not None,
        progress=calibration.progress,
    )
    for target, statistics in shown(known, "rounding", "weight", calibration.progress, total=len(targets)):
        transform = transforms.get(id(target.original), NO_TRANSFORM)
        weight = transform.weight(target.weight())
        new: GroupedWeight | Int8Weight
        if statistics.rows == 0:
            warn_of_no_row(target, options)
            way, new = plainly_rounded(weight, options)
        elif gptq:
            way, new = "gptq", gptq_rounded(weight, statistics, options)
        else:
            way, new = "search, weighted", round_search(weight, importance=statistics.importance, **options.groups)
        rounded[id(target.original)] = new
        if report is not None:
            report(_errors_of(target, way, weight, new, statistics))
    return rounded


def gptq_rounded(
    weight: npt.NDArray[Any], statistics: InputStatistics, options: WeightOptions
) -> GroupedWeight | Int8Weight:
    """By GPTQ, to the bits that the options ask for."""
    if options.calibrated_type == qint8:
        return round_gptq_int8(weight, statistics)
    return round_gptq(weight, statistics, **options.groups)


def plainly_rounded(weight: npt.NDArray[Any], options: WeightOptions) -> tuple[str, GroupedWeight | Int8Weight]:
    """How, and the weight: without calibration."""
    if options.calibrated_type == qint8:
        return "nearest", Int8Weight(*quantize_weight(weight))
    return "search", round_search(weight, **options.groups)


def warn_of_no_row(target: Target, options: WeightOptions) -> None:
    """Warns that a layer is rounded without calibration. An array may be looked up without any product."""
    if target.spec is not None:
        how = "to the nearest" if options.calibrated_type == qint8 else "by the plain search"
        warn_caller(
            f"{tree.label(target.path)} was given no row by the calibration batches; its weights are rounded {how}"
        )


def check_first(targets: list[Target], options: WeightOptions, check: bool) -> None:
    arguments = options.arguments(options.calibrated_type)
    if options.four_bit_types:
        arguments["rounding"] = "nearest"
    for target in targets:
        try:
            width = as_weight(target.weight()).shape[1]
            QuantLinear(np.zeros((1, width), np.float32), **arguments)
        except (TypeError, ValueError) as error:
            target.refuse(error, hint=check)
        if check:
            target.check()


@dataclass(frozen=True, slots=True)
class RoundingErrors:
    """What one way of rounding does to one layer: relative errors.

    Attributes:
        layer: its path.
        rounding: the way: "nearest", "search", "search, weighted" or "gptq".
        weight_error: RMS(w' - w) / RMS(w).
        output_error: RMS(x w'^T - x w^T) / RMS(x w^T) on the inputs x; NaN where there were none.
    """

    layer: str
    rounding: str
    weight_error: float
    output_error: float


@dataclass(frozen=True, slots=True, repr=False)
class RoundingComparison(Plotted):
    """Ways of rounding side by side: a table of `rows`."""

    rows: tuple[RoundingErrors, ...]

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        cells = [(row.layer, row.rounding, percent(row.weight_error), percent(row.output_error)) for row in self.rows]
        return ("layer", "rounding", "weight error", "output error"), cells

    def _panels(self) -> tuple[Sequence[str], Sequence[Panel]]:
        panels = [
            Panel("Weight error, %", [100 * row.weight_error for row in self.rows]),
            Panel("Output error, %", [100 * row.output_error for row in self.rows]),
        ]
        return [f"{row.layer}, {row.rounding}" for row in self.rows], panels


def compare_rounding(
    model: Any,
    layers: Layers | None,
    calibration: Iterable[Any],
    *,
    arrays: Arrays | None = None,
    layout: Layout = "in_out",
    group_size: int | None = None,
    symmetric: bool = True,
    scale_dtype: ScaleDtype = "float32",
    forward: Forward = run_model,
    progress: bool = False,
) -> RoundingComparison:
    """Rounds each float layer to four bits in every way there is, and says how large the errors are.

    The ways: `round_nearest`, `round_search`, the same with the inputs' mean squares as importance, and `round_gptq`.

    Args:
        model, layers, arrays, layout: as for `octavo.quantize_dynamic`; layers=None leaves arrays alone. The model is
            left as it is.
        calibration: batches, which the model is run on. Errors of the output are those on these inputs.
        group_size, symmetric, scale_dtype: as for `octavo.round_nearest`.
        forward: how to run the model on a batch; by default model(batch), or model.predict(batch) of an estimator.
        progress: show a bar of the batches, then of the layers (needs tqdm).

    Returns:
        A `RoundingComparison`. What was not called has no output error and no rounding by its inputs.

    Raises:
        TypeError: calibration is one array instead of batches.
        ValueError: nothing matches, or inputs are not finite.

    octavo's own recurrent layers and embeddings are left out, which no calibration changes.

    Example:
        >>> import numpy as np, octavo as oc
        >>> x = np.random.default_rng(0).standard_normal((256, 64), dtype=np.float32)
        >>> errors = oc.compare_rounding(oc.nn.Linear.init(64, 32), oc.nn.Linear, [x], group_size=32)
        >>> [row.rounding for row in errors.rows]
        ['nearest', 'search', 'search, weighted', 'gptq']
    """
    check_callable(forward)
    batches = check_batches(calibration, "calibration")
    options = WeightOptions(
        dtypes=as_dtypes("int4"), group_size=group_size, symmetric=symmetric, scale_dtype=scale_dtype
    )
    found = find_targets(
        model, None if layers is None else as_choice(layers), arrays, layout=layout, check_shape=options.check_shape
    ).items
    targets = [target for target in found if target.is_linear]
    if not targets:
        raise ValueError(
            "compare_rounding is for linear layers and arrays, and the model's layers that match are recurrent layers "
            "or embeddings, which no calibration changes"
        )
    rows = []
    known = input_statistics(model, targets, batches, forward, products=True, progress=progress)
    for target, statistics in shown(known, "rounding", "weight", progress, total=len(targets)):
        weight = np.asarray(target.weight(), np.float32)
        ways = {"nearest": round_nearest(weight, **options.groups), "search": round_search(weight, **options.groups)}
        if statistics.rows:
            ways["search, weighted"] = round_search(weight, importance=statistics.importance, **options.groups)
            ways["gptq"] = round_gptq(weight, statistics, **options.groups)
        rows += [_errors_of(target, way, weight, rounded, statistics) for way, rounded in ways.items()]
    return RoundingComparison(tuple(rows))


def _errors_of(
    target: Target, way: str, weight: npt.NDArray[Any], rounded: GroupedWeight | Int8Weight, statistics: InputStatistics
) -> RoundingErrors:
    return RoundingErrors(target.name, way, *_errors(weight, rounded, statistics if statistics.rows else None))


def rounding_error(
    weight: npt.ArrayLike,
    rounded: GroupedWeight | Int8Weight,
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
    weight: npt.NDArray[Any], rounded: GroupedWeight | Int8Weight, statistics: InputStatistics | None
) -> tuple[float, float]:
    w = weight.astype(np.float64)
    e = rounded.dequantize() - w
    if statistics is None:
        return relative_errors(w, e, None)
    # sum over the inputs of |x e^T|^2 is the trace of e H e^T.
    h = statistics.hessian
    return relative_errors(w, e, (float(np.sum((e @ h) * e)), float(np.sum((w @ h) * w))))


def relative_errors(
    w: npt.NDArray[Any], e: npt.NDArray[Any], of_output: tuple[float, float] | None
) -> tuple[float, float]:
    """RMS(e) / RMS(w) of a weight and its errors, and the same of the output from its sums of squares."""
    of_weight = relative_error(float(np.sum(e * e)), float(np.sum(w * w)))
    return of_weight, float("nan") if of_output is None else relative_error(*of_output)
