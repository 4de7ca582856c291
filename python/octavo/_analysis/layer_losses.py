"""sensitivity: what quantizing each layer alone costs the model's result, and what it saves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._analysis.candidates import Candidate, Candidates, Inputs, built, checked_candidates, seen_inputs
from octavo._analysis.replay import Replay
from octavo._analysis.scores import Metric, OutputError, read_again, score
from octavo._layers.linear import Layout
from octavo._models import walk as tree
from octavo._quantize.batches import Forward, check_batches, check_callable, run_model
from octavo._quantize.measure import measured
from octavo._quantize.options import WeightOptions, as_dtypes
from octavo._quantize.select import Arrays, unwrapped
from octavo._quantize.spec import Layers, as_choice, read_layer
from octavo._quantize.targets import Target, find_targets
from octavo._quantize.watching import shown
from octavo._util.caller import warn_caller
from octavo._util.plots import Panel, bar_panels
from octavo._util.tables import Tabular
from octavo._util.timing import duration

__all__ = ["LayerSensitivity", "Sensitivity", "float_bytes", "linear_targets", "sensitivity"]


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """One layer quantized in one way, all others in float.

    Attributes:
        path: of the layer.
        candidate: the name of the way.
        loss: of the model's result: what the metric loses, the KL divergence, or RMS(y' - y) / RMS(y). NaN where no
            batch reached the layer.
        nbytes, float_nbytes: of the layer so, and in float.
        seconds, float_seconds: of a call with rows that reached it; NaN where none did in a product.
    """

    path: str
    candidate: str
    loss: float
    nbytes: int
    float_nbytes: int
    seconds: float
    float_seconds: float


@dataclass(frozen=True, slots=True, repr=False)
class Sensitivity(Tabular):
    """What `sensitivity` measured: a table of `rows`, one for each layer and candidate.

    Attributes:
        rows: a `LayerSensitivity` each.
        metric: what the loss is of.
    """

    rows: tuple[LayerSensitivity, ...]
    metric: str

    def as_dict(self) -> dict[str, dict[str, float]]:
        """The losses: by path, then by candidate."""
        found: dict[str, dict[str, float]] = {}
        for row in self.rows:
            found.setdefault(row.path, {})[row.candidate] = row.loss
        return found

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        cells = [
            (
                row.path, row.candidate, "-" if np.isnan(row.loss) else f"{row.loss:.5g}", f"{row.nbytes:,}",
                f"{row.nbytes / row.float_nbytes:.1%}", *(_duration(s) for s in (row.float_seconds, row.seconds)),
            )
            for row in self.rows
        ]  # fmt: skip
        return ("layer", "candidate", f"loss ({self.metric})", "bytes", "of float", "float", "quantized"), cells

    def plot(self, path: str | PathLike[str] | None = None, axes: Any = None) -> tuple[Any, ...]:
        """Draws the loss of each layer, a column of bars for each candidate.

        Args:
            path: of a picture to write; its ending gives the format.
            axes: matplotlib axes to draw into, one a candidate; by default those of a new figure, which a notebook
                shows unless there is a path.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is missing; the message has the command that installs it.
            ValueError: the number of axes does not fit.
        """
        losses = self.as_dict()
        candidates = list(dict.fromkeys(row.candidate for row in self.rows))
        panels = [
            Panel(f"{name}: loss ({self.metric})", [losses[layer][name] for layer in losses]) for name in candidates
        ]
        return bar_panels(list(losses), panels, path=path, axes=axes)


def _duration(seconds: float) -> str:
    return "-" if np.isnan(seconds) else duration(seconds)


def linear_targets(model: Any, layers: Layers | None, arrays: Arrays | None, layout: Layout, what: str) -> list[Target]:
    """The linear layers and arrays that are named.

    Raises:
        TypeError, ValueError: nothing matches, or all are of another kind.
    """
    choice = None if layers is None else as_choice(layers)
    check = WeightOptions(dtypes=as_dtypes("int8")).check_shape
    targets = [t for t in find_targets(model, choice, arrays, layout=layout, check_shape=check).items if t.is_linear]
    if not targets:
        raise ValueError(f"{what} is for linear layers and arrays, and neither is named")
    return targets


def sensitivity(
    model: Any,
    data: Iterable[Any],
    *,
    layers: Layers | None = None,
    arrays: Arrays | None = None,
    layout: Layout = "in_out",
    forward: Forward = run_model,
    metric: Metric | str | None = None,
    candidates: Candidates = ("int8", "int4"),
    progress: bool = False,
) -> Sensitivity:
    """Quantizes each layer alone, in each way, and says what the model's result loses by it.

    Args:
        model, layers, arrays, layout: as for `octavo.quantize_dynamic`. The model is left as it is.
        data: batches to run it on, in a list or the like; [x] for one. They also serve candidates that need
            calibration.
        forward: how to run the model on a batch; by default model(batch), or model.predict(batch).
        metric: a function of the list of all batches' results that gives a number, higher where they are better: the
            loss is what it loses. "kl": the mean KL(softmax y || softmax y') of results y' against the float model's y:
            logits that are -inf in y count nothing; one that is -inf in y' alone makes it infinite.
            "sqnr" or None: RMS(y' - y) / RMS(y).
        candidates: ways of quantizing: "int8", "int4" (groups of 64), options of `Candidate` in a dict, or `Candidate`.
        progress: show a bar of the layers (needs tqdm).

    Returns:
        A `Sensitivity`: print it, `.plot(path)` or `.as_dict()`.

    Raises:
        TypeError: data is one array, or can be read only once; the metric gives no number; without a metric, results
            are not arrays.
        ValueError: nothing matches, there is no batch, the metric gives NaN, or a layer cannot take a candidate: both
            are named.

    Warns:
        UserWarning: no batch reaches a layer; its loss is NaN.

    Notes:
        The model runs once on each batch for calibration, once in float and once for each layer and candidate, and what
        comes before that layer is then taken from the float run. Without a metric, no more is kept than one batch's
        results. Times are the fastest of interleaved rounds on at most 256 rows.

    Example:
        >>> import numpy as np, octavo as oc
        >>> rng = np.random.default_rng(0)
        >>> linear = oc.nn.Linear.init
        >>> model = oc.nn.Sequential(linear(64, 64, rng=rng), oc.nn.ReLU(), linear(64, 8, rng=rng))
        >>> x = rng.standard_normal((32, 64), dtype=np.float32)
        >>> found = oc.sensitivity(model, [x], layers=oc.nn.Linear).as_dict()
        >>> found["layers.0"]["int8"] < found["layers.0"]["int4"]
        True
    """
    check_callable(forward)
    batches = read_again(check_batches(data, "data"), "data")
    model = unwrapped(model)
    if not (metric is None or callable(metric) or metric in ("sqnr", "kl")):
        raise (ValueError if isinstance(metric, str) else TypeError)(
            f'metric must be a function of the results, "sqnr" or "kl", got {metric!r}'
        )
    targets = linear_targets(model, layers, arrays, layout, "sensitivity")
    ways = checked_candidates(candidates, targets)
    inputs = seen_inputs(model, targets, batches, forward, ways, progress=progress)
    made = {
        (t.path, way.name): built(t, way, inputs[t.path])
        for t in shown(targets, "quantizing", "layer", progress)
        for way in ways
    }
    losses, reached = _losses(model, targets, ways, made, batches, forward, metric, progress)
    rows = []
    for target in targets:
        if target.path not in reached:
            warn_caller(f"{tree.label(target.path)} was reached by no batch; what quantizing it costs is not known")
        for way in ways:
            new = made[target.path, way.name]
            seconds = _seconds(target, new, inputs[target.path])
            loss = losses[target.path, way.name] if target.path in reached else float("nan")
            size = float_bytes(target)
            rows.append(LayerSensitivity(target.name, way.name, loss, new.nbytes, size, *seconds))
    return Sensitivity(tuple(rows), metric if isinstance(metric, str) else "metric" if metric else "relative error")


def _losses(
    model: Any,
    targets: Sequence[Target],
    ways: Sequence[Candidate],
    made: dict[tuple[str, str], Any],
    batches: list[Any],
    forward: Forward,
    metric: Metric | str | None,
    progress: bool,
) -> tuple[dict[tuple[str, str], float], set[str]]:
    """By path and candidate; and the paths of what some batch used."""
    callable_metric = metric if callable(metric) else None
    outputs: dict[tuple[str, str], list[Any]] = {key: [] for key in made}
    errors = {key: OutputError("kl" if metric == "kl" else "sqnr") for key in made}
    exact: list[Any] = []
    reached: set[str] = set()
    for batch in shown(batches, "measuring", "batch", progress):
        replay = Replay(model, targets, forward, batch)
        reached |= {target.path for target in targets if replay.reached(target.path)}
        if callable_metric is not None:
            exact.append(_kept(replay.y))
        for target in targets:
            for way in ways:
                key = target.path, way.name
                y = replay.with_one(target, made[key])
                if callable_metric is None:
                    errors[key].update(replay.y, y)
                else:
                    outputs[key].append(_kept(y))
    if callable_metric is None:
        return {key: error.value() for key, error in errors.items()}, reached
    best = score(callable_metric, exact, "the float model")
    return {
        (path, name): best - score(callable_metric, found, f"{path or 'the model'} in {name}")
        for (path, name), found in outputs.items()
    }, reached


def _kept(y: Any) -> Any:
    return np.array(y) if isinstance(y, np.ndarray) else y


def _seconds(target: Target, new: Any, inputs: Inputs) -> tuple[float, float]:
    """(quantized, float) of a call with the rows kept."""
    rows: NDArray[np.float32] = inputs.sample.rows[:256]
    if not len(rows):
        return float("nan"), float("nan")
    found = measured(target.original, new, target.spec, rows)
    return found.quantized_seconds, found.float_seconds


def float_bytes(target: Target) -> int:
    """Of a layer's weight and bias, or of an array."""
    if target.spec is None:
        return int(target.original.nbytes)
    weight, bias = read_layer(target.original, target.spec)
    return int(weight.nbytes) + (0 if bias is None else int(bias.nbytes))
