"""Which arrays of a model are quantized where there are no layers: chosen by path, shape and size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from octavo._layers.linear import Layout
from octavo._models import walk as tree
from octavo._models.estimators import holds_trees, is_estimator, is_fitted
from octavo._models.paths import is_within, matches
from octavo._quantize.spec import layer_types, quantized_in, unseen

__all__ = ["Arrays", "Chosen", "FoundArray", "chosen_arrays", "no_array", "unwrapped"]

Arrays = bool | str | Collection[str] | Mapping[str, Layout]

# Elements from which an array is quantized where no pattern names it. At 64 x 64 x @ Q breaks even with float32 x @ w
# for a single row (0.96 times as fast on one thread of a Zen 4) and wins from 16 rows on (1.2 times, 2.0 with 256). At
# 32 x 32 it loses up to 256 rows (0.9), for it is the call that takes the time; and a few KiB are not worth rounding.
MIN_SIZE = 4096

# Where scikit-learn's estimators keep what they multiply by: neural networks x @ coefs_[i], linear models x @ coef_.T.
_ESTIMATOR: dict[str, Layout] = {"coefs_.*": "in_out", "coef_": "out_in"}
# What estimators hand to compiled code, which takes nothing but true arrays.
_COMPILED = ("*dual_coef_*", "support_vectors_", "tree_*", "_tree*", "*_fit_X*")


def unwrapped(model: Any) -> Any:
    """A read-only mapping, such as what np.load gives for an .npz file, as a dict; anything else as it is."""
    if isinstance(model, Mapping) and not isinstance(model, (dict, MutableMapping)) and not callable(model):
        return {key: model[key] for key in model}
    return model


@dataclass(frozen=True)
class FoundArray:
    """An array to quantize: its path, and the axis of its outputs."""

    path: str
    array: NDArray[Any]
    axis: Literal[0, 1]


Item = TypeVar("Item")


@dataclass(frozen=True)
class Chosen(Generic[Item]):
    """What is to be quantized, and why each array that was looked at and stays does, by its id."""

    items: list[Item]
    why: dict[int, str]


def chosen_arrays(
    model: Any,
    arrays: Arrays,
    layout: Layout,
    min_size: int | None,
    inside: Callable[[Any], bool],
    check: Callable[[str, NDArray[Any]], None],
) -> Chosen[FoundArray]:
    """Looks through the model, but not into what `inside` says is replaced as a whole.

    Args:
        model, arrays, layout, min_size: as for `quantize_dynamic`.
        inside: told each holder.
        check: given a path and the matrix (outputs, inputs) there; raises ValueError where no layer can have its shape.

    Raises:
        TypeError, ValueError: arrays or min_size is of another kind, a pattern matches nothing, or a name without * or
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
    chosen: dict[int, FoundArray] = {}
    left: dict[int, str] = {}
    matched: set[str] = set()
    for path, value in tree.references(model, inside):
        if is_estimator(value):
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
        why = why or _why_no_matrix(path, value, wanted, check)
        if why:
            if exact:
                raise ValueError(f"{tree.label(path)} cannot be quantized: {why}")
            left[id(value)] = why
            continue
        chosen[id(value)] = FoundArray(path, value, 1 if wanted == "in_out" else 0)
        left.pop(id(value), None)
    missing = [p for p in patterns or () if p not in matched]
    if missing:
        there = [path or "(model)" for path, value in places if value.ndim == 2 and value.dtype.kind == "f"]
        raise ValueError(
            f"arrays: {', '.join(map(repr, missing))} names no array of the model; "
            f"its 2-D float arrays: {', '.join(there[:20]) or 'none'}{', ...' if len(there) > 20 else ''}"
        )
    return Chosen(list(chosen.values()), left)


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
        return layout, why or _not_multiplied(path, name)
    outputs = value.shape[0 if wanted == "out_in" else 1]
    return wanted, "" if outputs > 1 else "one output, which a product of integers is no faster for"


def _not_multiplied(path: str, name: str) -> str:
    """Why an array of an estimator, called `name` in it, is not quantized unasked."""
    if any(matches(name, pattern) for pattern in _COMPILED):
        return "not what scikit-learn multiplies by: it is handed to compiled code"
    return f"not among the layers and coefficients; where x @ {name}.T uses it, name it: arrays={{{path!r}: 'out_in'}}"


def _why_not(value: NDArray[Any], least: int) -> str:
    if type(value) not in (np.ndarray, np.memmap):
        return f"is a {type(value).__name__}, whose behaviour a QuantMatrix does not have"
    if value.dtype.kind != "f" or value.dtype.itemsize > 8:
        return f"dtype {value.dtype}"
    if value.ndim != 2:
        return f"{value.ndim}-D"
    return "" if value.size >= least else f"fewer than {least} elements"


def _why_no_matrix(path: str, value: NDArray[Any], layout: Layout, check: Callable[[str, NDArray[Any]], None]) -> str:
    """Why the values or the shape cannot be quantized."""
    limit = np.finfo(np.float32).max
    if not (value.min(initial=0) >= -limit and value.max(initial=0) <= limit):  # NaN is neither
        return "holds NaN or infinity, or what is beyond float32"
    try:
        check(path, value if layout == "out_in" else value.T)
    except ValueError as error:
        use = "x @ w" if layout == "out_in" else "w[ids] or x @ w.T"
        return f'{error}; an array used as {use} has layout="{"in_out" if layout == "out_in" else "out_in"}"'
    return ""


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


def _is_of_trees(estimator: Any) -> bool:
    """Whether it is a tree or an ensemble of trees itself, rather than a pipeline that holds one or a part of one."""
    kind = type(estimator)
    of_trees = kind.__module__.startswith(("sklearn.tree.", "sklearn.ensemble.")) and not kind.__name__.startswith("_")
    return of_trees and holds_trees(estimator)


def no_array(model: Any, places: Mapping[str, str]) -> str:
    """Why there was nothing to quantize; `places`: why each array stays, by its path."""
    if quantized := quantized_in(model):
        return f"the model is already quantized: it holds {quantized} and no float array that is large enough"
    # A pipeline has no fitted attribute of its own, whatever its steps have.
    estimators = [(path, value) for path, value in tree.walk(model) if is_estimator(value)]
    if estimators and not any(is_fitted(value) for _, value in estimators):
        names = ", ".join(f"{tree.label(path)} ({type(value).__name__})" for path, value in estimators[:10])
        return f"not fitted: {names}; call fit first, then quantize"
    if trees := sorted({type(value).__name__ for _, value in estimators if _is_of_trees(value)}):
        return (
            f"the model holds no array to quantize: trees ({', '.join(trees)}) are not quantized, they multiply by none"
        )
    stays = "; ".join(f"{path}: {why}" for path, why in list(places.items())[:10])
    layers = ", ".join(layer_types(model))
    return (
        f"the model holds no array to quantize{f' ({stays})' if stays else ''}; "
        f"{f'pass layers={{{layers}}}' if layers else 'name layers=...'}, or arrays=[...] and min_size{unseen(model)}"
    )
