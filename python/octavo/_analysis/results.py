"""What `advise` and `compare` return: tables that draw themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from octavo._layers.linear import Layout
from octavo._quantize.measure import ENOUGH_DB
from octavo._util.pickling import pickled
from octavo._util.plots import BAD, GOOD, Panel, Plotted
from octavo._util.timing import duration

__all__ = ["Advice", "Comparison", "LayerAdvice", "LayerComparison"]


@pickled
@dataclass(frozen=True, slots=True)
class LayerComparison:
    """One layer's result y' in the quantized model against the float model's y.

    Attributes:
        path: of the layer; "(result)" is the model's own.
        sqnr: signal to quantization noise ratio, 10 log10(sum y^2 / sum (y' - y)^2), in dB; infinite where y' = y.
        cosine: sum y y' / sqrt(sum y^2 sum y'^2); 1 where both are zeros.
        largest_error: max |y' - y|.
        clipped: share of the values that the layer quantizes (a float input, an integer result) that lie beyond the
            range of its integers. 0 for `QuantLinear`, whose ranges fit every row.
    """

    path: str
    sqnr: float
    cosine: float
    largest_error: float
    clipped: float


@pickled
@dataclass(frozen=True, slots=True, repr=False)
class Comparison(Plotted):
    """What `compare` found: a table of `rows`, one a layer in the order of calls, then the model's result."""

    rows: tuple[LayerComparison, ...]

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        cells = [
            (row.path, f"{row.sqnr:.2f}", f"{row.cosine:.6f}", f"{row.largest_error:.4g}", f"{row.clipped:.3%}")
            for row in self.rows
        ]
        return ("layer", "SQNR, dB", "cosine", "largest error", "clipped"), cells

    def _panels(self) -> tuple[Sequence[str], Sequence[Panel]]:
        panels = [
            Panel(
                "SQNR, dB",
                [row.sqnr for row in self.rows],
                [f"{row.sqnr:.1f}" for row in self.rows],
                colours=[GOOD if row.sqnr >= ENOUGH_DB else BAD for row in self.rows],
                limit=ENOUGH_DB,
            ),
            Panel("Largest error", [row.largest_error for row in self.rows]),
            Panel("Clipped, %", [100 * row.clipped for row in self.rows]),
        ]
        return [row.path for row in self.rows], panels


@pickled
@dataclass(frozen=True, slots=True)
class LayerAdvice:
    """One layer or array at one batch size.

    Attributes:
        path: as `quantize_dynamic` takes it in arrays.
        shape: (outputs, inputs).
        batch_size: rows of a call.
        float_seconds, quantized_seconds: of a call, the fastest.
        sqnr_db: signal to quantization noise ratio of the result on the rows that the layer gets from x; None where
            there was no x: what random rows give says nothing of real ones.
        recommendation: "int8", "int4" or "float".
        layout: of an array: "in_out" or "out_in", as `quantize_dynamic` takes it; None for a layer.
    """

    path: str
    shape: tuple[int, int]
    batch_size: int
    float_seconds: float
    quantized_seconds: float
    sqnr_db: float | None
    recommendation: str
    layout: Layout | None = None

    @property
    def speedup(self) -> float:
        """How many times as fast as the float one the quantized one is."""
        return self.float_seconds / self.quantized_seconds


@pickled
@dataclass(frozen=True, slots=True, repr=False)
class Advice(Plotted):
    """What `advise` measured: a table of `rows`, one for each layer and batch size."""

    rows: tuple[LayerAdvice, ...]

    @property
    def _with_errors(self) -> bool:
        return any(row.sqnr_db is not None for row in self.rows)

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        with_errors = self._with_errors
        header = (
            "layer", "(out, in)", "layout", "rows", "float", "quantized", "speedup",
            *(("SQNR, dB",) if with_errors else ()), "advice",
        )  # fmt: skip
        cells = [
            (
                row.path,
                str(row.shape),
                row.layout or "-",
                f"{row.batch_size}",
                duration(row.float_seconds),
                duration(row.quantized_seconds),
                f"{row.speedup:.2f}x",
                *((_decibels(row),) if with_errors else ()),
                row.recommendation,
            )
            for row in self.rows
        ]
        return header, cells

    def _note(self) -> str:
        if self._with_errors:
            return ""
        return "On speed alone: the error depends on your data. Pass x, an input of the model, to have it measured."

    def _panels(self) -> tuple[Sequence[str], Sequence[Panel]]:
        names = [f"{row.path}, {row.batch_size} row{'s' * (row.batch_size > 1)}" for row in self.rows]
        colours = [BAD if row.recommendation == "float" else GOOD for row in self.rows]
        speedups = [row.speedup for row in self.rows]
        panels = [Panel("Speedup", speedups, [f"{s:.2f}x" for s in speedups], colours, limit=1.0)]
        if self._with_errors:
            errors = [float("nan") if row.sqnr_db is None else row.sqnr_db for row in self.rows]
            panels.append(Panel("SQNR, dB", errors, [_decibels(row) for row in self.rows], colours, limit=ENOUGH_DB))
        return names, panels


def _decibels(row: LayerAdvice) -> str:
    return "-" if row.sqnr_db is None else f"{row.sqnr_db:.1f}"
