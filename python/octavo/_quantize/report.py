"""The report of `quantize_dynamic`: what was quantized, what stayed in float and why, with true sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._models import walk as tree
from octavo._numerics.params import qint8
from octavo._quantize.measure import ENOUGH_DB
from octavo._util.pickling import pickled
from octavo._util.plots import BAD, GOOD, Panel, Plotted

__all__ = ["Entry", "Outcome", "QuantizationReport", "report_of"]


@pickled
@dataclass(frozen=True)
class Entry:
    """One array or layer of the report.

    Attributes:
        path: in the model.
        shape: of an array; (out, in) of a linear layer, () of others.
        became: "int8", "int4", "float" or another dtype for what stays, "dropped" for what only training needs.
        why: it was not quantized, or what its bytes leave out.
        bytes_before, bytes_after: what it held and holds. An array held in several places is counted where it comes
            first, so that the sums are the model's.
        sqnr_db: signal to quantization noise of its result on the data given; None where none were, or it met none.
    """

    path: str
    shape: tuple[int, ...]
    became: str
    why: str
    bytes_before: int
    bytes_after: int
    sqnr_db: float | None = None

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, list):  # pickled by octavo 0.1.0: the values of the first six fields
            names = ("path", "shape", "became", "why", "bytes_before", "bytes_after")
            state = dict(zip(names, state, strict=True)) | {"sqnr_db": None}
        self.__dict__.update(state)


@dataclass(frozen=True, slots=True, repr=False)
class QuantizationReport(Plotted):
    """What was quantized, what was left in float, and why: a table of `entries`."""

    entries: tuple[Entry, ...]

    @property
    def _with_errors(self) -> bool:
        return any(e.sqnr_db is not None for e in self.entries)

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        before, after = (sum(getattr(e, name) for e in self.entries) for name in ("bytes_before", "bytes_after"))
        header = ["path", "shape", "became", "bytes", "from", "SQNR, dB", "why"]
        rows = [
            [
                e.path,
                "x".join(map(str, e.shape)),
                e.became,
                f"{e.bytes_after:,}",
                f"{e.bytes_before:,}",
                _decibels(e),
                e.why,
            ]
            for e in self.entries
        ]
        rows.append(["(all)", "", "", f"{after:,}", f"{before:,}", "", ""])
        kept = [i for i, name in enumerate(header) if name != "SQNR, dB" or self._with_errors]
        return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]

    def _panels(self) -> tuple[Sequence[str], Sequence[Panel]]:
        colours = [BAD if e.became == "float" else GOOD for e in self.entries]
        panels = [
            Panel("KB before", [e.bytes_before / 1e3 for e in self.entries], colours=colours),
            Panel("KB after", [e.bytes_after / 1e3 for e in self.entries], colours=colours),
        ]
        if self._with_errors:
            errors = [float("nan") if e.sqnr_db is None else e.sqnr_db for e in self.entries]
            poor = [GOOD if not error < ENOUGH_DB else BAD for error in errors]
            panels.append(Panel("SQNR, dB", errors, [_decibels(e) for e in self.entries], poor, limit=ENOUGH_DB))
        return [e.path for e in self.entries], panels


def _decibels(entry: Entry) -> str:
    return "" if entry.sqnr_db is None else f"{entry.sqnr_db:.1f}"


class _Sizes:
    """Bytes of arrays, each memory counted once."""

    def __init__(self) -> None:
        self._counted: set[tuple[Any, int]] = set()

    def of(self, *parts: tuple[Any, int]) -> int:
        """The bytes of those (identity, bytes) that were not counted before."""
        new = [part for part in dict.fromkeys(parts) if part not in self._counted]
        self._counted.update(new)
        return sum(size for _, size in new)


def _memory(array: NDArray[Any]) -> tuple[int, int]:
    return array.__array_interface__["data"][0], array.nbytes


def _arrays(value: Any) -> list[NDArray[Any]]:
    return [a for _, a in tree.walk(value) if isinstance(a, np.ndarray) and a.dtype != object]


@dataclass(frozen=True)
class Outcome:
    """What takes the place of a float layer or array, and what is said of it."""

    new: Any
    shape: tuple[int, ...]
    became: str
    memory: tuple[Any, int]  # what tells it from other weights, and its bytes
    sqnr_db: float | None

    @classmethod
    def of(cls, original: Any, new: Any, key: Any, sqnr_db: float | None) -> Outcome:
        """Says it of a replacement that has its weights.

        Args:
            original: what is replaced.
            new: what takes its place.
            key: equal for replacements that share their weights.
            sqnr_db: 10 log10(sum y^2 / sum (y' - y)^2), where it was measured.
        """
        if isinstance(new, QuantMatrix):
            return cls(new, original.shape, new.qtype.name[1:], (key, new.nbytes), sqnr_db)
        shape = (new.out_features, new.in_features) if isinstance(new, QuantLinear) else ()
        return cls(new, shape, getattr(new, "dtype", qint8).name[1:], (key, new.nbytes), sqnr_db)


def report_of(
    model: Any, outcomes: Mapping[int, Outcome], *, why: Mapping[int, str], dropped: Mapping[int, str]
) -> QuantizationReport:
    """An entry for every array of the model and every layer that is replaced: the latter first, in the model's order.

    Args:
        model: before anything is replaced.
        outcomes: of what is replaced, by its id.
        why: arrays or layers stay, by their id.
        dropped: paths of what goes without replacement, by its id.
    """
    before, after = _Sizes(), _Sizes()
    taken, left = [], []
    seen: set[int] = set()
    for path, value in tree.references(model, lambda value: id(value) in outcomes or id(value) in dropped):
        if id(value) in seen:
            continue
        seen.add(id(value))
        name = path or "(model)"
        if id(value) in dropped:
            size = before.of(*map(_memory, _arrays(value)))
            note = "needed for training alone, which the quantized estimator refuses"
            left.append(Entry(dropped[id(value)], (), "dropped", note, size, 0))
        elif id(value) in outcomes:
            outcome, arrays = outcomes[id(value)], _arrays(value)
            size, all_sizes = before.of(*map(_memory, arrays)), sum(a.nbytes for a in arrays)
            shared = "holds an array of an entry above, counted there" if size < all_sizes else ""
            size_after = after.of(outcome.memory)
            taken.append(Entry(name, outcome.shape, outcome.became, shared, size, size_after, outcome.sqnr_db))
        elif isinstance(value, np.ndarray) and value.dtype != object:
            size = before.of(_memory(value))
            became = "float" if value.dtype.kind == "f" else str(value.dtype)
            left.append(Entry(name, value.shape, became, why.get(id(value), _unnamed(value)), size, size))
    return QuantizationReport(tuple(taken + left))


def _unnamed(value: NDArray[Any]) -> str:
    """Why an array stays that nothing looked at."""
    if value.dtype.kind != "f":
        return f"dtype {value.dtype}"
    return "in no layer that is quantized" if value.ndim == 2 else f"{value.ndim}-D"
