"""What the accuracy control reports: the assignments that it tried, and the trade-off that they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from octavo._analysis.tradeoff import Step
from octavo._util.plots import BAD, GOOD, GRID, TEXT, one_axes, save, style
from octavo._util.tables import Tabular
from octavo._util.timing import duration

__all__ = ["AccuracyReport", "Evaluation"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One assignment, measured on the whole model.

    Attributes:
        steps: how far along the path: 0 is all float.
        last: the step that led to it.
        cost: its bytes, or seconds.
        nbytes: its bytes.
        metric: on the validation data.
        drop: what of the float model's metric is lost.
        fits: whether that is within the budget.
    """

    steps: int
    last: Step | None
    cost: float
    nbytes: int
    metric: float
    drop: float
    fits: bool


@dataclass(frozen=True, slots=True, repr=False)
class AccuracyReport(Tabular):
    """What `quantize_with_accuracy_control` tried: a table of `evaluations`, from all float on.

    Attributes:
        evaluations: an `Evaluation` each, by ascending steps.
        assignment: what each layer became: the name of a candidate, or "float".
        steps: of the whole path.
        best: which of the evaluations is that of the model that was returned.
        baseline: the float model's metric.
        max_drop, drop_type, minimize: as they were asked for.
    """

    evaluations: tuple[Evaluation, ...]
    assignment: Mapping[str, str]
    steps: int
    best: int
    baseline: float
    max_drop: float
    drop_type: str
    minimize: str

    @property
    def chosen(self) -> Evaluation:
        """That of the model that was returned."""
        return self.evaluations[self.best]

    @property
    def pareto(self) -> tuple[Evaluation, ...]:
        """Those that lose less than all that cost as much or less, by ascending cost: the trade-off."""
        found: list[Evaluation] = []
        for e in sorted(self.evaluations, key=lambda e: (e.cost, e.drop)):
            if not found or e.drop < found[-1].drop:
                found.append(e)
        return tuple(found)

    def _share(self, evaluation: Evaluation) -> float:
        whole = self.evaluations[0].cost
        return evaluation.cost / whole if whole else 1.0

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        cells = [
            (
                f"{e.steps} of {self.steps}" + (" *" if e is self.chosen else ""),
                f"{e.nbytes:,}" if self.minimize == "bytes" else duration(e.cost),
                f"{self._share(e):.1%}",
                f"{e.metric:.6g}",
                f"{e.drop:.4g}",
                "yes" if e.fits else "no",
            )
            for e in self.evaluations
        ]
        return ("steps", self.minimize, "of float", "metric", f"drop, {self.drop_type}", "within budget"), cells

    def _note(self) -> str:
        if self.best == 0:
            return self.nearest_text()
        counts = Counter(self.assignment.values())
        parts = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        return f"* returned, at most {self.max_drop:g} {self.drop_type} drop asked for: {parts}."

    def nearest_text(self) -> str:
        """What came nearest to a budget that no quantized model meets."""
        others = [e for e in self.evaluations if e.steps]
        if not others:
            return "no candidate is cheaper than float, so that nothing was quantized"
        nearest = min(others, key=lambda e: (e.drop, -e.steps))
        return (
            f"no quantization that was tried meets max_drop={self.max_drop:g} ({self.drop_type}); the model stays in "
            f"float. The nearest loses {nearest.drop:.4g} at {self._share(nearest):.1%} of float's {self.minimize}: "
            'allow more, add finer candidates (activation="int16", smaller groups), or leave out sensitive layers'
        )

    def plot(self, path: str | PathLike[str] | None = None, axes: Any = None) -> Any:
        """Draws the drop over the share of float's bytes or time: the assignments tried, and the budget.

        The line is the Pareto curve: it joins those that `pareto` gives.

        Args:
            path: of a picture to write; its ending gives the format.
            axes: matplotlib axes to draw into; by default those of a new figure, which a notebook shows unless there is
                a path.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is missing; the message has the command that installs it.
        """
        axis = one_axes(axes, (5.2, 3.2), path)
        shares = [100 * self._share(e) for e in self.evaluations]
        drops = [e.drop for e in self.evaluations]
        axis.plot(
            [100 * self._share(e) for e in self.pareto], [e.drop for e in self.pareto], color=GRID, lw=1, zorder=1
        )
        colours = [GOOD if e.fits else BAD for e in self.evaluations]
        sizes = [90 if e is self.chosen else 30 for e in self.evaluations]
        axis.scatter(shares, drops, c=colours, s=sizes, zorder=2)
        axis.axhline(self.max_drop, color=GRID, lw=0.8, ls="--", zorder=0)
        axis.annotate(
            "budget", (1, self.max_drop), xycoords=("axes fraction", "data"), color=TEXT, fontsize=8,
            ha="right", va="bottom",
        )  # fmt: skip
        axis.annotate(
            f"returned: {self._share(self.chosen):.1%}", (100 * self._share(self.chosen), self.chosen.drop),
            xytext=(7, 7), textcoords="offset points", color=TEXT, fontsize=8,
        )  # fmt: skip
        axis.set_xlabel(f"{self.minimize}, % of float")
        axis.set_ylabel(f"drop of the metric, {self.drop_type}", color=TEXT)
        axis.set_title("Accuracy against " + ("size" if self.minimize == "bytes" else "time"), fontsize=10)
        style(axis)
        save(axis, path)
        return axis
