"""quantize_with_accuracy_control: the smallest or fastest assignment that loses no more than a budget."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypeVar

import numpy as np

from octavo._analysis.candidates import Candidate, Candidates, Inputs, built, checked_candidates, seen_inputs
from octavo._analysis.control_report import AccuracyReport, Evaluation
from octavo._analysis.control_state import State
from octavo._analysis.fingerprint import digest, fingerprint
from octavo._analysis.layer_losses import float_bytes, linear_targets
from octavo._analysis.scores import Metric, read_again, score
from octavo._analysis.tradeoff import FLOAT, Choice, Step, assignment, steps
from octavo._layers.linear import Layout
from octavo._layers.matrix import QuantMatrix
from octavo._models import walk as tree
from octavo._quantize.batches import Forward, check_batches, check_callable, run_model
from octavo._quantize.measure import measured
from octavo._quantize.select import Arrays, unwrapped
from octavo._quantize.spec import Layers, read_layer
from octavo._quantize.targets import Target
from octavo._quantize.watching import shown
from octavo._util.caller import warn_caller

__all__ = ["quantize_with_accuracy_control"]

_Model = TypeVar("_Model")

_SKIPPED = 3  # layers whose next step loses too much, at most, before the search ends


def quantize_with_accuracy_control(
    model: _Model,
    calibration: Iterable[Any],
    validation: Iterable[Any],
    metric: Metric,
    *,
    max_drop: float = 0.01,
    drop_type: Literal["absolute", "relative"] = "absolute",
    candidates: Candidates = ("int8", "int4"),
    minimize: Literal["bytes", "time"] = "bytes",
    layers: Layers | None = None,
    arrays: Arrays | None = None,
    layout: Layout = "in_out",
    forward: Forward = run_model,
    report: Callable[[AccuracyReport], object] | None = None,
    state: str | PathLike[str] | None = None,
    progress: bool = False,
) -> _Model:
    """Quantizes as much of a model as it can while a metric drops by at most max_drop, and returns the model.

    Each layer gets a candidate or stays in float. The layers' own errors on the calibration data rank what to quantize
    next; how far to go is found by bisection on the whole quantized model, whose metric on the validation data decides.
    Up to three layers that lose too much there are left as they are, and the search goes on with the others.

    Args:
        model, layers, arrays, layout: as for `octavo.quantize_dynamic`. The model is left as it is.
        calibration: batches that scales and rounding are fitted to, and layers are ranked by.
        validation: other batches, that the metric is taken on. No batch may be in both.
        metric: a function of the list of all validation batches' results that gives a number, higher where they are
            better (accuracy, agreement, minus the loss).
        max_drop: how much of the float model's metric may be lost, at most.
        drop_type: "absolute": metric(float) - metric(quantized); "relative": that, divided by |metric(float)|.
        candidates: ways of quantizing a layer: "int8", "int4" (groups of 64), options of `Candidate` in a dict, or
            `Candidate`. Float is always one.
        minimize: "bytes" that the model's layers and arrays take, or the "time" of a call of each, measured here with
            at most 256 of its rows.
        forward: how to run the model on a batch; by default model(batch), or model.predict(batch).
        report: called with the `AccuracyReport`: the path taken, what each layer became; report=print, or a function
            that plots it.
        state: a file (JSON) that scores and errors are kept in as they are found: the same call with it goes on where
            an interrupted one ended. The model's arrays, the data and the options must be the same to the bit. Of
            functions only the results can be compared: metric must give the float model the same number as before, up
            to rounding, and the first quantized model that the file knows, too, which is scored once more.
        progress: show bars (needs tqdm).

    Returns:
        The quantized model: a copy, as from `octavo.quantize_dynamic`. Where no quantization meets the budget, a copy
        of the float model, with a warning that says what came nearest.

    Raises:
        TypeError: data is one array, or can be read only once; the metric gives no number; with state, a batch holds
            objects other than arrays, numbers and strings, whose content cannot be compared.
        ValueError: nothing matches; there is no batch; calibration and validation share a batch; the metric gives NaN
            or infinity; a layer cannot take a candidate; the budget is negative, or relative to a metric of zero; the
            state is of another model, data, metric, candidates or goal.

    Warns:
        UserWarning: the budget is not met but by the float model; or no calibration batch reaches a layer, which stays
            in float.

    Notes:
        The terms are NNCF's. With "bytes" the result is the same each time; times differ from run to run. The metric
        need not fall steadily along the path, so the assignment found meets the budget, but a smaller one might do so,
        too.
        An array that is only looked up is ranked by the error of its values, times max(n, n1) / m. Here n counts the
        lookups of its rows in the calibration data, m the lookups in the array with the most, and n1 the rows of that
        array that are looked up exactly once. About n1 of m other lookups would hit rows that this data does not reach
        (Good-Turing).
        While it runs, each layer is held in float and as each candidate, and 1024 rows or fewer of its inputs.

    Example:
        >>> import numpy as np, octavo as oc
        >>> rng = np.random.default_rng(0)
        >>> linear = oc.nn.Linear.init
        >>> model = oc.nn.Sequential(linear(64, 256, rng=rng), oc.nn.ReLU(), linear(256, 10, rng=rng))
        >>> seen, other = rng.standard_normal((2, 200, 64), dtype=np.float32)
        >>> right = model(other).argmax(1)
        >>> def accuracy(results):
        ...     return float((results[0].argmax(1) == right).mean())
        >>> small = oc.quantize_with_accuracy_control(
        ...     model, [seen], [other], accuracy, max_drop=0.05, layers=oc.nn.Linear
        ... )
        >>> accuracy([small(other)]) >= 0.95
        True
    """
    check_callable(forward)
    check_callable(metric, "metric", "lambda results: score")
    _check_budget(max_drop, drop_type, minimize)
    seen = read_again(check_batches(calibration, "calibration"), "calibration")
    held_out = read_again(check_batches(validation, "validation"), "validation")
    data = {"calibration": seen, "validation": held_out}
    _refuse_shared(seen, held_out)
    whole = unwrapped(model)
    targets = linear_targets(whole, layers, arrays, layout, "quantize_with_accuracy_control")
    ways = checked_candidates(candidates, targets)
    kept = State(state, {} if state is None else fingerprint(whole, targets, ways, data, minimize))
    outputs = [forward(tree.copy_with(whole, {}), batch) for batch in held_out]
    baseline = kept.baseline(score(metric, outputs, "the float model"))
    del outputs
    if drop_type == "relative" and baseline == 0:
        raise ValueError('drop_type="relative" needs a float metric other than 0, got 0; use "absolute"')
    inputs = seen_inputs(whole, targets, seen, forward, ways, progress=progress)
    targets = _reached(targets, inputs)
    search = _Search(whole, targets, ways, inputs, held_out, metric, forward, kept)
    choices = _choices(targets, ways, inputs, minimize, search, kept, progress)
    path, names = steps(choices), [target.path for target in targets]

    def evaluate(steps_taken: Sequence[Step]) -> Evaluation:
        chosen = assignment(steps_taken, len(steps_taken), names)
        found = search.score(chosen)
        lost = baseline - found if drop_type == "absolute" else (baseline - found) / abs(baseline)
        cost = sum(next(c.cost for c in choices[p] if c.name == name) for p, name in chosen.items())
        nbytes = sum(search.nbytes(target, chosen[target.path]) for target in targets)
        return Evaluation(len(steps_taken), steps_taken[-1], cost, nbytes, found, lost, lost <= max_drop)

    evaluations = [Evaluation(0, None, *search.float_costs(choices), baseline, 0.0, fits=True)]
    taken = _furthest(path, evaluate, evaluations, progress)
    best = next((e for e in evaluations[::-1] if e.fits and e.steps == len(taken)), evaluations[0])
    ordered = sorted(evaluations, key=lambda e: e.steps)  # stable: of as many steps, as they were tried
    chosen = assignment(taken, len(taken), names)
    result = AccuracyReport(
        evaluations=tuple(ordered),
        assignment={target.name: chosen[target.path] for target in targets},
        steps=len(path),
        best=next(place for place, e in enumerate(ordered) if e is best),
        baseline=baseline,
        max_drop=max_drop,
        drop_type=drop_type,
        minimize=minimize,
    )
    if not taken:
        warn_caller(result.nearest_text())
    if report is not None:
        report(result)
    quantized: _Model = tree.copy_with(whole, search.replacements(chosen))
    return quantized


def _check_budget(max_drop: float, drop_type: str, minimize: str) -> None:
    if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float, np.number)):
        raise TypeError(f"max_drop must be a number, got {max_drop!r}")
    if not (max_drop >= 0 and math.isfinite(max_drop)):
        raise ValueError(f"max_drop must be 0 or more, the largest loss of the metric, got {max_drop}")
    if drop_type not in ("absolute", "relative"):
        raise ValueError(f'drop_type must be "absolute" or "relative", got {drop_type!r}')
    if minimize not in ("bytes", "time"):
        raise ValueError(f'minimize must be "bytes" or "time", got {minimize!r}')


def _refuse_shared(calibration: list[Any], validation: list[Any]) -> None:
    """Raises ValueError where a batch is in both, as the same object or with the same numbers."""
    known = {digest(batch): i for i, batch in enumerate(calibration)}
    for j, batch in enumerate(validation):
        if (i := known.get(digest(batch))) is not None:
            raise ValueError(
                f"calibration and validation must not share data, and batch {i} of calibration is batch {j} of "
                "validation: a budget that is checked on what it was fitted to says little; split the data"
            )


def _reached(targets: list[Target], inputs: Mapping[str, Inputs]) -> list[Target]:
    found = []
    for target in targets:
        if target.spec is not None and inputs[target.path].sample.seen == 0:
            warn_caller(
                f"{tree.label(target.path)} was given no row by the calibration batches; it stays in float, because "
                "what quantizing it costs is not known"
            )
        else:
            found.append(target)
    if not found:
        raise ValueError("calibration reaches none of the layers; pass batches and a forward that do")
    return found


def _choices(
    targets: Sequence[Target],
    ways: Sequence[Candidate],
    inputs: Mapping[str, Inputs],
    minimize: str,
    search: _Search,
    kept: State,
    progress: bool,
) -> dict[str, list[Choice]]:
    """Float and the candidates of each layer, with cost and local loss."""
    found: dict[str, list[Choice]] = {}
    shares = _lookup_shares(inputs)
    for target in shown(targets, "ranking", "layer", progress):
        known = kept.ranking(target.path)
        if known is None:
            known = _ranked(target, ways, inputs[target.path], shares[target.path], minimize, search)
            kept.put_ranking(target.path, known)
        found[target.path] = [Choice(name, cost, loss) for name, cost, loss in known]
    return found


def _lookup_shares(inputs: Mapping[str, Inputs]) -> dict[str, float]:
    """How often rows of each are looked up, as a share of the array where that is most.

    What the data does not reach counts as other data would reach it: by Good and Turing's estimate, as often as rows
    are looked up only once.
    """
    counts = {path: int(seen.lookups.sum()) for path, seen in inputs.items()}
    most = max(counts, key=lambda path: counts[path])
    once = int((inputs[most].lookups == 1).sum())
    whole = counts[most]
    return {path: min(1.0, max(count, once, 1) / whole) if whole else 1.0 for path, count in counts.items()}


def _ranked(
    target: Target, ways: Sequence[Candidate], inputs: Inputs, share: float, minimize: str, search: _Search
) -> list[tuple[str, float, float]]:
    """(name, cost, loss): the squared relative error of the output.

    Without rows of inputs it is that of the weights times the `share` of them that is looked up.
    """
    x, exact = inputs.sample.rows, np.asarray(target.weight(), np.float32)
    if len(x):
        exact = x @ exact.T
    if len(x) and target.spec is not None:
        bias = read_layer(target.original, target.spec)[1]
        exact = exact if bias is None else exact + bias.astype(np.float32)
        exact = np.maximum(exact, 0) if target.spec.activation == "relu" else exact
    power = float(np.square(exact, dtype=np.float64).sum())
    rows: list[tuple[str, float, float]] = []
    float_cost = float(float_bytes(target))
    for way in ways:
        new = search.built(target, way.name)
        layer = new._layer if isinstance(new, QuantMatrix) else new
        wrong = float(np.square((layer(x) if len(x) else layer.weight) - exact, dtype=np.float64).sum())
        loss = wrong / power if power > 0 else 0.0 if wrong == 0 else math.inf
        if not len(x):
            loss *= share
        cost = float(new.nbytes)
        if minimize == "time":
            seconds = measured(target.original, new, target.spec, x) if len(x) else None
            cost, float_cost = (0.0, 0.0) if seconds is None else (seconds.quantized_seconds, seconds.float_seconds)
        rows.append((way.name, cost, loss))
    return [(FLOAT, float_cost, 0.0), *rows]


class _Search:
    """What was built and scored: each once. All candidates of all layers are held while it lasts."""

    def __init__(
        self,
        model: Any,
        targets: Sequence[Target],
        ways: Sequence[Candidate],
        inputs: Mapping[str, Inputs],
        validation: list[Any],
        metric: Metric,
        forward: Forward,
        kept: State,
    ) -> None:
        self._model, self._targets, self._inputs = model, targets, inputs
        self._ways = {way.name: way for way in ways}
        self._validation, self._metric, self._forward, self._kept = validation, metric, forward, kept
        self._made: dict[tuple[str, str], Any] = {}

    def replacements(self, chosen: Mapping[str, str]) -> dict[int, Any]:
        """What takes the place of each layer that is not in float, by its id."""
        return {
            id(target.original): self.built(target, chosen[target.path])
            for target in self._targets
            if chosen[target.path] != FLOAT
        }

    def built(self, target: Target, name: str) -> Any:
        """What takes the place of a layer as that candidate, made once."""
        key = target.path, name
        if key not in self._made:
            self._made[key] = built(target, self._ways[name], self._inputs[target.path])
        return self._made[key]

    def nbytes(self, target: Target, name: str) -> int:
        """Of one layer as that."""
        return float_bytes(target) if name == FLOAT else int(self.built(target, name).nbytes)

    def float_costs(self, choices: Mapping[str, Sequence[Choice]]) -> tuple[float, int]:
        """The cost of all float, and its bytes."""
        return sum(ways[0].cost for ways in choices.values()), sum(map(float_bytes, self._targets))

    def score(self, chosen: Mapping[str, str]) -> float:
        """The metric of the quantized model on the validation data."""
        key = hashlib.sha256(repr(sorted(chosen.items())).encode()).hexdigest()
        known = self._kept.score(key)
        if known is not None and self._kept.checked:
            return known
        quantized = tree.copy_with(self._model, self.replacements(chosen))
        outputs = [self._forward(quantized, batch) for batch in self._validation]
        found = score(self._metric, outputs, "a quantized model")
        if known is None:
            self._kept.put_score(key, found)
            return found
        self._kept.check(known, found)
        return known


def _furthest(
    path: list[Step],
    evaluate: Callable[[Sequence[Step]], Evaluation],
    evaluations: list[Evaluation],
    progress: bool,
) -> list[Step]:
    """The steps to take. Where the next one loses too much, its layer stays as it is, and the others go on.

    Args:
        path: all steps, in order.
        evaluate: measures the model after some steps.
        evaluations: is given what was measured.
        progress: whether to show a bar.
    """
    fits = 0
    for _ in shown(range(1 + _SKIPPED), "searching", "round", progress):
        beyond = len(path) + 1
        count = len(path)  # all of them first: often that is good enough
        while beyond - fits > 1:
            evaluations.append(evaluate(path[:count]))
            if evaluations[-1].fits:
                fits = count
            else:
                beyond = count
            count = (fits + beyond) // 2
        if fits == len(path):
            break
        path = path[:fits] + [step for step in path[fits:] if step.path != path[fits].path]
    return path[:fits]
