"""find_smoothing: the scale of each layer's inputs with which its quantized result is nearest to the float one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._layers.linear import Layout, QuantLinear
from octavo._layers.weights import ActivationScheme
from octavo._models import walk as tree
from octavo._numerics.params import QTypeLike, as_qtype, qint4
from octavo._numerics.smoothing import ALPHAS, InputSample, SmoothingMethod, best_alpha
from octavo._quantize.batches import Forward, check_batches, check_callable, run_model
from octavo._quantize.folding import fold_plan, folded_model
from octavo._quantize.measure import relative_error
from octavo._quantize.options import WeightOptions, as_dtypes
from octavo._quantize.select import Arrays, unwrapped
from octavo._quantize.spec import Layers, as_choice
from octavo._quantize.targets import Target, find_targets
from octavo._quantize.watching import gather, shown
from octavo._util.caller import warn_caller
from octavo._util.plots import Panel, bar_panels
from octavo._util.tables import Tabular, percent

__all__ = ["SmoothedLayer", "Smoothing", "find_smoothing", "input_samples", "searched_scale"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SmoothedLayer:
    """What a scale of its inputs does to one layer: relative errors of its quantized result on calibration data.

    Attributes:
        layer: its path.
        alpha: of the scale; None where no scale is better than none.
        error_before, error_after: RMS(y' - y) / RMS(y), without and with the scale; NaN where no batch reached it.
        folded: paths that the scale was folded into; () where the layer has it itself.
    """

    layer: str
    alpha: float | None
    error_before: float
    error_after: float
    folded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Smoothing(Tabular):
    """What `find_smoothing` found: a table of `rows`, one a layer.

    Attributes:
        rows: a `SmoothedLayer` each.
        scales: by path, for `pre_quant_scale` of `quantize_dynamic` and `prepare`; those that were folded are not in
            it.
        model: the float model to quantize: a copy with the folded scales in it, or the model itself where none were.
    """

    rows: tuple[SmoothedLayer, ...]
    scales: Mapping[str, Floats]
    model: Any

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        cells = [
            (
                row.layer,
                "-" if row.alpha is None else f"{row.alpha:.2f}",
                percent(row.error_before),
                percent(row.error_after),
                ", ".join(row.folded) or "-",
            )
            for row in self.rows
        ]
        return ("layer", "alpha", "error before", "error after", "folded into"), cells

    def plot(self, path: str | PathLike[str] | None = None, axes: Any = None) -> tuple[Any, ...]:
        """Draws the error of each layer without and with its scale.

        Args:
            path: of a picture to write; its ending gives the format.
            axes: two matplotlib axes to draw into; by default those of a new figure, which a notebook shows unless
                there is a path.

        Returns:
            The two axes.

        Raises:
            ImportError: matplotlib is missing; the message has the command that installs it.
            ValueError: the number of axes is not two.
        """
        panels = [
            Panel("Error without scale, %", [100 * row.error_before for row in self.rows]),
            Panel("Error with scale, %", [100 * row.error_after for row in self.rows]),
        ]
        return bar_panels([row.layer for row in self.rows], panels, path=path, axes=axes)


def find_smoothing(
    model: Any,
    calibration: Iterable[Any],
    *,
    layers: Layers | None = None,
    arrays: Arrays | None = None,
    layout: Layout = "in_out",
    method: SmoothingMethod = "smoothquant",
    alpha: float | None = None,
    dtype: QTypeLike = "int8",
    group_size: int | None = None,
    symmetric: bool = True,
    activation: ActivationScheme = "symmetric",
    fold: Mapping[str, str | Sequence[str]] | None = None,
    forward: Forward = run_model,
    progress: bool = False,
) -> Smoothing:
    """Searches for scales of each layer's inputs as in SmoothQuant or AWQ, choosing alpha by the layer's output error.

    Args:
        model, layers, arrays, layout: as for `quantize_dynamic`. The model is left as it is.
        calibration: batches, which the float model is run on once; [x] for one.
        method: "smoothquant": for outliers in the inputs; the error is that of the quantized layer. "awq": for int4
            weights; the error is that of the weights alone, on the inputs as they are. `smoothing_scale` has both.
        alpha: 0 to 1, for all layers; None: the best of 0, 0.05, ... 1 for each.
        dtype, group_size, symmetric, activation: how layers will be quantized, as for `QuantLinear`. While alpha is
            searched, int4 weights are rounded to nearest, and inputs are not rotated.
        fold: what to fold a scale into, so that it costs nothing: {"up": "norm"}, by paths. Name the one thing that
            produces the layer's inputs: a linear layer, a norm with `weight` and `bias`, or arrays of that many
            elements, ["norm.0", "norm.1"]. It is divided by the scale, and the layer's weight is multiplied by it.
            Layers that name the same thing share one scale. The model is run with other scales folded in, to check that
            its result does not change.
        forward: how to run the model on a batch; by default model(batch), or model.predict(batch).
        progress: show a bar of the batches, then of the layers (needs tqdm).

    Returns:
        A `Smoothing`: quantize its `model` with `pre_quant_scale=` its `scales`.

    Raises:
        TypeError: calibration is one array instead of batches.
        ValueError: nothing matches; inputs are not finite; fold names what is not in the model or does not make as many
            outputs, or what other code reads too: each is named.

    Warns:
        UserWarning: a layer was given no row, and has no scale.

    Notes:
        Up to 1024 rows of each layer's inputs are kept for the search, 4 K bytes each. A scale whose error is not below
        that of none is left out. Recurrent layers and embeddings have none.

    Example:
        >>> import numpy as np, octavo as oc
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((256, 64), dtype=np.float32)
        >>> x[:, 3] *= 100
        >>> layer = oc.nn.Linear.init(64, 32, rng=rng)
        >>> found = oc.find_smoothing(layer, [x], layers=oc.nn.Linear)
        >>> found.rows[0].error_after < found.rows[0].error_before / 2
        True
        >>> oc.quantize_dynamic(found.model, oc.nn.Linear, pre_quant_scale=found.scales)
        QuantLinear(64 -> 32, int8, activation=symmetric, pre_quant_scale, bias)
    """
    check_callable(forward)
    batches = check_batches(calibration, "calibration")
    model = unwrapped(model)
    options = WeightOptions(dtypes=as_dtypes(dtype), group_size=group_size, symmetric=symmetric, activation=activation)
    arguments = options.arguments(as_qtype(dtype))
    if as_qtype(dtype) == qint4:
        arguments["rounding"] = "nearest"
    choice = None if layers is None else as_choice(layers)
    found = find_targets(model, choice, arrays, layout=layout, check_shape=options.check_shape).items
    targets = [target for target in found if target.is_linear]
    if not targets:
        raise ValueError("find_smoothing is for linear layers and arrays, and layers names neither")
    if method not in ("smoothquant", "awq"):
        raise ValueError(f'method must be "smoothquant" or "awq", got {method!r}')
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}")
    plan = fold_plan(model, targets, fold or {})
    first = next(iter(batches), None) if plan and iter(batches) is not batches else None
    if plan and first is None:
        raise ValueError("fold needs calibration in a list, because the model is run on its first batch again")
    samples = input_samples(model, targets, batches, forward, progress=progress)
    if not any(sample.seen for sample in samples.values()):
        raise ValueError(
            f"calibration gives no row to {', '.join(target.name for target in targets[:20])}; pass batches and a "
            "forward that do, layers=... where the model has layers, and the layout in which arrays are multiplied"
        )
    groups = [[target] for target in targets if target.path not in {r.path for p in plan for r in p.readers}]
    groups += [list(p.readers) for p in plan]
    rows: dict[str, SmoothedLayer] = {}
    scales: dict[str, Floats] = {}
    folded: dict[str, Floats] = {}
    places = {r.path: p.places for p in plan for r in p.readers}
    for group in shown(groups, "smoothing", "layer", progress):
        scale, results = _searched(group, [samples[t.path] for t in group], arguments, method, alpha)
        for target, row in zip(group, results, strict=True):
            into = places.get(target.path, ())
            rows[target.path] = SmoothedLayer(*row, into if scale is not None else ())
            if scale is not None:
                (folded if into else scales)[target.path] = scale
    used = [p for p in plan if p.readers[0].path in folded]
    made = folded_model(model, used, folded, first, forward) if used else model
    return Smoothing(tuple(rows[target.path] for target in targets), scales, made)


def input_samples(
    model: Any, targets: Sequence[Target], batches: Iterable[Any], forward: Forward, *, progress: bool = False
) -> dict[str, InputSample]:
    """A sample of each one's inputs, by path, from one run of a copy of the model."""
    samples = [InputSample(target.weight().shape[1]) for target in targets]
    gather(model, targets, samples, batches, forward, progress=progress)
    return {target.path: sample for target, sample in zip(targets, samples, strict=True)}


def searched_scale(
    weight: NDArray[Any], sample: InputSample, arguments: Mapping[str, Any], method: SmoothingMethod
) -> Floats | None:
    """The scale of one layer's inputs, or None where none is better; arguments are those of `QuantLinear`."""
    w, own = np.asarray(weight, np.float32), dict(arguments)
    if "rounding" in own:
        own["rounding"] = "nearest"
    exact = sample.rows @ w.T

    def error(scale: Floats | None) -> float:
        return _error(w, exact, sample.rows, scale, own, weights_alone=method == "awq")

    return best_alpha([w], sample, error, method)[1]


def _searched(
    group: list[Target],
    samples: list[InputSample],
    arguments: dict[str, Any],
    method: SmoothingMethod,
    alpha: float | None,
) -> tuple[Floats | None, list[tuple[str, float | None, float, float]]]:
    """The scale that layers of the same inputs share; and for each its name, alpha, and errors before and after."""
    sample = samples[0]
    if sample.seen == 0:
        for target in group:
            if target.spec is not None:  # an array may be looked up without any product
                warn_caller(f"{tree.label(target.path)} was given no row by the calibration batches; it has no scale")
        return None, [(target.name, None, float("nan"), float("nan")) for target in group]
    weights = [np.asarray(target.weight(), np.float32) for target in group]
    exact = [sample.rows @ w.T for w in weights]

    def errors(scale: Floats | None) -> list[float]:
        return [
            _error(w, y, sample.rows, scale, arguments, weights_alone=method == "awq")
            for w, y in zip(weights, exact, strict=True)
        ]

    def error(scale: Floats | None) -> float:
        return float(sum(errors(scale)))

    best, scale, _, _ = best_alpha(weights, sample, error, method, ALPHAS if alpha is None else (alpha,))
    before = errors(None)
    after = before if scale is None else errors(scale)
    power = [float(np.square(y, dtype=np.float64).sum()) for y in exact]
    return scale, [
        (target.name, best, relative_error(b, p), relative_error(a, p))
        for target, b, a, p in zip(group, before, after, power, strict=True)
    ]


def _error(
    w: Floats, y: Floats, x: Floats, scale: Floats | None, arguments: dict[str, Any], *, weights_alone: bool
) -> float:
    """sum (y' - y)^2 of the quantized layer, or of its weights alone."""
    layer = QuantLinear(w, pre_quant_scale=scale, **arguments)
    found = x @ layer.weight.T if weights_alone else layer(x)
    return float(np.square(found - y, dtype=np.float64).sum())
