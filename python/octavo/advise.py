"""advise: which layers and arrays of a model are worth quantizing, on this machine, at these batch sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import tree
from octavo.arrays import Arrays, Layout, chosen_arrays, shape_check, unwrapped
from octavo.layers import Layers, LayerSpec, as_specs, find_layers, nothing_found, read_layer
from octavo.linear import ActivationScheme, QuantLinear
from octavo.measure import Measured, measured, random_rows
from octavo.paths import canonical
from octavo.qmatrix import QuantMatrix
from octavo.qparams import QTypeLike, as_qtype
from octavo.watched import Watched

__all__ = ["Advice", "LayerAdvice", "advise"]

# Below it a layer's rounding shows in what a model gives: 20 dB is an error of a tenth of the result.
_ENOUGH_DB = 20.0


@dataclass(frozen=True, slots=True)
class LayerAdvice:
    """One layer or array at one batch size: median seconds a call, and what to do: "int8", "int4" or "float"."""

    path: str
    shape: tuple[int, int]
    batch_size: int
    float_seconds: float
    quantized_seconds: float
    sqnr_db: float
    recommendation: str

    @property
    def speedup(self) -> float:
        return self.float_seconds / self.quantized_seconds


@dataclass(frozen=True, slots=True)
class Advice:
    """What `advise` measured: print it, or read `rows`."""

    rows: tuple[LayerAdvice, ...]

    def __str__(self) -> str:
        width = max([5, *(len(row.path) for row in self.rows)])
        lines = [
            f"{'layer':<{width}} {'(out, in)':>14} {'rows':>6} {'float, us':>10} {'quant., us':>10} "
            f"{'speedup':>8} {'SQNR, dB':>9}  advice"
        ]
        lines += [
            f"{row.path:<{width}} {row.shape!s:>14} {row.batch_size:6} {1e6 * row.float_seconds:10.1f} "
            f"{1e6 * row.quantized_seconds:10.1f} {row.speedup:7.2f}x {row.sqnr_db:9.1f}  {row.recommendation}"
            for row in self.rows
        ]
        return "\n".join(lines)


def advise(
    model: Any,
    x: Any = None,
    *,
    layers: Layers | None = None,
    arrays: Arrays | None = None,
    layout: Layout = "in_out",
    dtype: QTypeLike = "int8",
    group_size: int | None = None,
    activation: ActivationScheme = "symmetric",
    batch_sizes: Sequence[int] = (1, 16, 256),
    forward: Callable[[Any, Any], Any] = lambda model, batch: model(batch),
) -> Advice:
    """Measures each layer and array, float and quantized, and says which to quantize.

    Args:
        model: as for `octavo.quantize_dynamic`, and left as it is.
        x: an input of the model: layers are measured on rows that they get from it. None: on standard normal ones, as
            arrays always are.
        layers, arrays, layout: what to look at, as for `quantize_dynamic`; by default every large 2-D float array.
        dtype, group_size, activation: what to compare with float.
        batch_sizes: rows a call. Fewer rows of x are repeated.
        forward: how to run the model on x.

    Returns:
        An `Advice` with a row for each layer and batch size: "float" where the quantized one is slower, or its error is
        above a tenth of the result.

    Raises:
        ValueError: nothing matches, a batch size is below 1, or a layer was not called with x.

    Times are medians of five interleaved rounds of some milliseconds, with NumPy's and octavo's threads as they are
    set: a second or so for ten layers. A busy machine shows in them.

    Example:
        >>> import numpy as np, octavo as oc
        >>> model = {"w": np.ones((256, 512), np.float32)}
        >>> [row.path for row in oc.advise(model, batch_sizes=[4]).rows]
        ['w']
    """
    if not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(f"batch_sizes must hold numbers of rows from 1 on, got {list(batch_sizes)}")
    model = unwrapped(model)
    specs = {} if layers is None else as_specs(layers)
    found = find_layers(model, specs) if specs else []
    if specs and not found:
        raise ValueError(nothing_found(model, specs))
    options: dict[str, Any] = {"dtype": dtype, "group_size": group_size, "activation": activation}
    inputs = {} if x is None or not found else _inputs(model, found, specs, x, forward)
    rows: list[LayerAdvice] = []

    def add(path: str, original: Any, new: QuantLinear | QuantMatrix, spec: LayerSpec | None, given: Any) -> None:
        shape = new.shape[::-1] if isinstance(new, QuantMatrix) and new.axis == 1 else _shape(new)
        for count in batch_sizes:
            batch = random_rows(new, count) if given is None else np.resize(given, (count, given.shape[1]))
            m = measured(original, new, spec, batch)
            rows.append(LayerAdvice(canonical(path) or "(model)", shape, count, *_figures(m), _advice(m, dtype)))

    for path, layer in found:
        spec = specs[type(layer)]
        weight, bias = read_layer(layer, spec)
        new = QuantLinear(weight, bias, relu=spec.activation == "relu", **options)
        add(path, layer, new, spec, inputs.get(path))
    if arrays is not None or layers is None:
        wanted = True if arrays is None else arrays
        fits = shape_check(dtype, group_size, True, activation)
        chosen = chosen_arrays(model, wanted, layout, None, lambda value: type(value) in specs, fits)
        for path, array, axis in chosen.arrays.values():
            add(path, array, QuantMatrix(array, axis=axis, **options), None, None)
    if not rows:
        raise ValueError("the model holds no layer or array to look at; name layers=..., or arrays=[...]")
    return Advice(tuple(rows))


def _shape(new: QuantLinear | QuantMatrix) -> tuple[int, int]:
    return new.shape if isinstance(new, QuantMatrix) else (new.out_features, new.in_features)


def _figures(m: Measured) -> tuple[float, float, float]:
    return m.float_seconds, m.quantized_seconds, m.sqnr_db


def _advice(m: Measured, dtype: QTypeLike) -> str:
    return as_qtype(dtype).name[1:] if m.speedup >= 1 and m.sqnr_db >= _ENOUGH_DB else "float"


def _inputs(
    model: Any,
    found: list[tuple[str, Any]],
    specs: dict[type, LayerSpec],
    x: Any,
    forward: Callable[[Any, Any], Any],
) -> dict[str, NDArray[np.float32]]:
    """Rows that each layer is given while the model runs on x."""
    given: dict[str, NDArray[np.float32]] = {}

    def watch(path: str, layer: Any) -> Watched:
        def note(value: Any) -> None:
            rows = np.array(value, np.float32)
            given.setdefault(path, rows.reshape(-1, rows.shape[-1]))

        return Watched(copy.deepcopy(layer), specs[type(layer)].call, note, lambda kept, y: None)

    forward(tree.copy_with(model, {id(layer): watch(path, layer) for path, layer in found}), x)
    for path, _ in found:
        if path not in given or not len(given[path]):
            raise ValueError(f"{tree.label(path)} was not called with x; leave x out to measure on random rows")
    return given
