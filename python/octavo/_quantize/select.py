"""Which arrays of a model are quantized where there are no layers: chosen by path, shape and size; and the report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo._layers.linear import ActivationScheme, check_weight_shape
from octavo._layers.matrix import QuantMatrix
from octavo._models import walk as tree
from octavo._models.paths import is_within, matches
from octavo._numerics.params import QTypeLike, as_qtype, qint4
from octavo._util.pickling import pickled

__all__ = ["Arrays", "Entry", "QuantizationReport", "chosen_arrays", "entry", "shape_check", "unwrapped"]

Layout = Literal["in_out", "out_in"]
Arrays = bool | str | Collection[str] | Mapping[str, Layout]

# Elements from which an array is quantized where no pattern names it. At 64 x 64 x @ Q breaks even with float32 x @ w
# for a single row (0.96 times as fast on one thread of a Zen 4) and wins from 16 rows on (1.2 times, 2.0 with 256). At
# 32 x 32 it loses up to 256 rows (0.9), for it is the call that takes the time; and a few KiB are not worth rounding.
MIN_SIZE = 4096

# Where scikit-learn's estimators keep what they multiply by: neural networks x @ coefs_[i], linear models x @ coef_.T.
# Not dual_coef_, which support vector machines hand to compiled code.
_ESTIMATOR: dict[str, Layout] = {"coefs_.*": "in_out", "coef_": "out_in"}


@pickled
@dataclass(frozen=True, slots=True)
class Entry:
    """One array or layer of the report. `became` is "int8", "int4" or "float", and `why` says why."""

    path: str
    shape: tuple[int, ...]
    became: str
    why: str
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """What was quantized, what was left in float, and why: print it, or read `entries`."""

    entries: tuple[Entry, ...]

    def __str__(self) -> str:
        width = max([4, *(len(e.path) for e in self.entries)])
        shapes = ["x".join(map(str, e.shape)) for e in self.entries]
        wide = max([5, *map(len, shapes)])
        lines = [f"{'path':<{width}}  {'shape':>{wide}}  {'became':<6} {'bytes':>12} {'from':>12}  why"]
        lines += [
            f"{e.path:<{width}}  {s:>{wide}}  {e.became:<6} {e.bytes_after:12,} {e.bytes_before:12,}  {e.why}".rstrip()
            for e, s in zip(self.entries, shapes, strict=True)
        ]
        before, after = (sum(getattr(e, name) for e in self.entries) for name in ("bytes_before", "bytes_after"))
        lines.append(f"{'(all)':<{width}}  {'':>{wide}}  {'':<6} {after:12,} {before:12,}")
        return "\n".join(lines)


def unwrapped(model: Any) -> Any:
    """A read-only mapping, such as what np.load gives for an .npz file, as a dict; anything else as it is."""
    if isinstance(model, Mapping) and not isinstance(model, (dict, MutableMapping)) and not callable(model):
        return {key: model[key] for key in model}
    return model


def _is_estimator(value: Any) -> bool:
    """Whether it is scikit-learn's or derived from that, so that it is known where its matrices are."""
    return any(cls.__module__.partition(".")[0] == "sklearn" for cls in type(value).__mro__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Arrays to quantize, by id, with the axis of their outputs; and the entries of those that stay."""

    arrays: dict[int, tuple[str, NDArray[Any], Literal[0, 1]]]
    left: list[Entry]


def chosen_arrays(
    model: Any,
    arrays: Arrays,
    layout: Layout,
    min_size: int | None,
    inside: Callable[[Any], bool],
    check: Callable[[NDArray[Any]], None],
) -> Chosen:
    """Looks through the model, but not into what `inside` says is replaced as a whole.

    Args:
        model, arrays, layout, min_size: as for `quantize_dynamic`.
        inside: told each holder.
        check: raises ValueError where a matrix (outputs, inputs) has a shape that no layer can have.

    Raises:
        TypeError, ValueError: arrays or min_size is of no such kind, a pattern matches nothing, or a name without * or
            ? leads to something that cannot be quantized. The path is named.
    """
    if min_size is not None and not isinstance(min_size, (int, np.integer)):
        raise TypeError(f"min_size must be a number of elements, got {min_size!r}")
    if layout not in ("in_out", "out_in"):
        raise ValueError(f'layout must be "in_out" (x @ w) or "out_in" (x @ w.T), got {layout!r}')
    patterns = _as_patterns(arrays, layout)
    least = (MIN_SIZE if patterns is None else 0) if min_size is None else min_size
    estimators: set[str] = set()
    places: list[tuple[str, NDArray[Any]]] = []
    chosen: dict[int, tuple[str, NDArray[Any], Literal[0, 1]]] = {}
    left: dict[int, Entry] = {}
    matched: set[str] = set()
    for path, value in tree.references(model, inside):
        if _is_estimator(value):
            estimators.add(path)
        if not _is_array(value):
            continue
        places.append((path, value))
        hits = [] if patterns is None else [p for p in patterns if matches(path, p)]
        matched.update(hits)
        if id(value) in chosen:
            continue
        exact = [p for p in hits if "*" not in p and "?" not in p]
        if patterns is None:
            wanted, why = _by_default(path, value, layout, 0 if min_size is None else least, least, estimators)
        else:
            wanted, why = (patterns[hits[0]], "") if hits else (layout, "named by no pattern")
            why = _why_not(value, least) or why
        why = why or _why_no_matrix(value, wanted, check)
        if why:
            if exact:
                raise ValueError(f"{tree.label(path)} cannot be quantized: {why}")
            left[id(value)] = _left(path, value, why)
            continue
        chosen[id(value)] = (path, value, 1 if wanted == "in_out" else 0)
        left.pop(id(value), None)
    missing = [p for p in patterns or () if p not in matched]
    if missing:
        there = [path or "(model)" for path, value in places if value.ndim == 2 and value.dtype.kind == "f"]
        raise ValueError(
            f"arrays: {', '.join(map(repr, missing))} names no array of the model; "
            f"its 2-D float arrays: {', '.join(there[:20]) or 'none'}{', ...' if len(there) > 20 else ''}"
        )
    return Chosen(chosen, list(left.values()))


def entry(path: str, before: NDArray[Any], after: QuantMatrix) -> Entry:
    return Entry(path or "(model)", before.shape, after.qtype.name[1:], "", before.nbytes, after.nbytes)


def _left(path: str, value: NDArray[Any], why: str) -> Entry:
    return Entry(path or "(model)", value.shape, "float" if value.dtype.kind == "f" else str(value.dtype), why,
                 value.nbytes, value.nbytes)  # fmt: skip


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype != object


def _by_default(
    path: str, value: NDArray[Any], layout: Layout, least_known: int, least: int, estimators: set[str]
) -> tuple[Layout, str]:
    """(layout, why not) of an array that no pattern names; `least_known` is for those known to be multiplied by."""
    inside = [prefix for prefix in estimators if not prefix or is_within(path, prefix)]
    if not inside:
        return layout, _why_not(value, least)
    name = path[len(max(inside, key=len)) :].removeprefix(".")
    wanted = next((kind for pattern, kind in _ESTIMATOR.items() if matches(name, pattern)), None)
    why = _why_not(value, least_known)
    if why or wanted is None:
        return layout, why or "not what scikit-learn multiplies by"
    outputs = value.shape[0 if wanted == "out_in" else 1]
    return wanted, "" if outputs > 1 else "one output, which a product of integers is no faster for"


def _why_not(value: NDArray[Any], least: int) -> str:
    if type(value) not in (np.ndarray, np.memmap):
        return f"is a {type(value).__name__}, whose behaviour a QuantMatrix does not have"
    if value.dtype.kind != "f" or value.dtype.itemsize > 8:
        return f"dtype {value.dtype}"
    if value.ndim != 2:
        return f"{value.ndim}-D"
    return "" if value.size >= least else f"fewer than {least} elements"


def _why_no_matrix(value: NDArray[Any], layout: Layout, check: Callable[[NDArray[Any]], None]) -> str:
    """Why the values or the shape are none that can be quantized."""
    limit = np.finfo(np.float32).max
    if not (value.min(initial=0) >= -limit and value.max(initial=0) <= limit):  # NaN is neither
        return "holds NaN or infinity, or what is beyond float32"
    try:
        check(value if layout == "out_in" else value.T)
    except ValueError as error:
        use = "x @ w" if layout == "out_in" else "w[ids] or x @ w.T"
        return f'{error}; an array used as {use} has layout="{"in_out" if layout == "out_in" else "out_in"}"'
    return ""


def shape_check(
    dtype: QTypeLike, group_size: int | None, symmetric: bool, activation: ActivationScheme
) -> Callable[[NDArray[Any]], None]:
    """`check` of `chosen_arrays` for matrices that are quantized so."""
    four_bits = as_qtype(dtype) == qint4
    return lambda w: check_weight_shape(w, activation, int4=four_bits, group_size=group_size, symmetric=symmetric)


def _as_patterns(arrays: Arrays, layout: Layout) -> dict[str, Layout] | None:
    """From pattern to layout; None: no pattern, every array that is large enough."""
    if arrays is True:
        return None
    if isinstance(arrays, str):
        arrays = [arrays]
    if isinstance(arrays, bool) or not isinstance(arrays, (Mapping, Sequence, set, frozenset)):
        raise TypeError(f"arrays must be True, patterns of paths, or a dict from pattern to layout, got {arrays!r}")
    found = dict(arrays) if isinstance(arrays, Mapping) else dict.fromkeys(arrays, layout)
    if not found:
        raise ValueError("arrays must name at least one array, got none; arrays=True takes every large one")
    for pattern, kind in found.items():
        if not isinstance(pattern, str):
            raise TypeError(f'arrays must hold paths such as "blocks.*.w", got {pattern!r}')
        if kind not in ("in_out", "out_in"):
            raise ValueError(f'arrays: the layout of {pattern!r} must be "in_out" or "out_in", got {kind!r}')
    return found
