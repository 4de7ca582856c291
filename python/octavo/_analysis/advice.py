"""advise: which layers and arrays of a model are worth quantizing, on this machine, at these batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from octavo._analysis.results import ENOUGH_DB, Advice, LayerAdvice
from octavo._layers.linear import ActivationScheme, QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.registry import counterpart
from octavo._models import walk as tree
from octavo._numerics.params import QTypeLike, as_qtype
from octavo._quantize.calibrated import Watchable, watchable_array, watchable_layer
from octavo._quantize.measure import Measured, measured, random_rows
from octavo._quantize.select import Arrays, Layout, chosen_arrays, shape_check, unwrapped
from octavo._quantize.spec import Layers, LayerSpec, as_specs, find_layers, nothing_found, read_layer

__all__ = ["advise"]

_Matrix = tuple[str, NDArray[Any], Literal[0, 1]]  # path, array, axis of its outputs


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
    forward: Callable[[Any, Any], Any] | None = None,
) -> Advice:
    """Measures each layer and array, float and quantized, and says which to quantize.

    Args:
        model: as for `octavo.quantize_dynamic`, and left as it is.
        x: an input of the model: layers and arrays are measured on rows that they get from it; arrays that meet none in
            a product have no row. None: on standard normal rows.
        layers, arrays, layout: what to look at, as for `quantize_dynamic`; by default every large 2-D float array. With
            x, the layout of an array is that in which the model uses it.
        dtype, group_size, activation: what to compare with float.
        batch_sizes: rows a call. Fewer rows of x are repeated.
        forward: how to run the model on x; by default model(x), or model.predict(x) where it cannot be called.

    Returns:
        An `Advice` with a row for each layer and batch size: "float" where the quantized one is slower, or its error is
        above a tenth of the result.

    Raises:
        TypeError: the model cannot be called with x, and there is no forward.
        ValueError: nothing matches, a layer is recurrent or an embedding, a batch size is below 1, or a layer was not
            called with x.

    Times are medians of five interleaved rounds of some milliseconds, with NumPy's and octavo's threads as they are
    set: a second or so for ten layers. A busy machine shows in them.

    Example:
        >>> import numpy as np, octavo as oc
        >>> model = {"w": np.ones((256, 512), np.float32)}
        >>> x = np.ones((4, 512), np.float32)
        >>> [(r.path, r.layout) for r in oc.advise(model, x, batch_sizes=[4], forward=lambda m, x: x @ m["w"].T).rows]
        [('w', 'out_in')]
    """
    if not len(batch_sizes) or min(batch_sizes) < 1:
        raise ValueError(f"batch_sizes must hold numbers of rows from 1 on, got {list(batch_sizes)}")
    model = unwrapped(model)
    specs = {} if layers is None else as_specs(layers)
    found = find_layers(model, specs) if specs else []
    if specs and not found:
        raise ValueError(nothing_found(model, specs))
    for path, layer in found:
        if counterpart(type(layer)) is not None:
            raise ValueError(
                f"{tree.label(path)} is an octavo.nn.{type(layer).__name__}, and advise measures linear layers and "
                "arrays alone; leave its class out of layers"
            )
    matrices: list[_Matrix] = []
    if arrays is not None or layers is None:
        wanted = True if arrays is None else arrays
        fits = shape_check(dtype, group_size, True, activation)
        chosen = chosen_arrays(model, wanted, layout, None, lambda value: type(value) in specs, fits)
        matrices = list(chosen.arrays.values())
    if not found and not matrices:
        raise ValueError("the model holds no layer or array to look at; name layers=..., or arrays=[...]")
    inputs: dict[str, NDArray[np.float32]] = {}
    if x is not None:
        inputs, matrices = _inputs(model, found, specs, matrices, x, _default_forward if forward is None else forward)
    options: dict[str, Any] = {"dtype": dtype, "group_size": group_size, "activation": activation}
    rows: list[LayerAdvice] = []

    def add(path: str, original: Any, new: QuantLinear | QuantMatrix, spec: LayerSpec | None) -> None:
        given = inputs.get(path)
        kind: Layout | None = None if spec is not None else "in_out" if cast("QuantMatrix", new).axis == 1 else "out_in"
        for count in batch_sizes:
            batch = random_rows(new, count) if given is None else np.resize(given, (count, given.shape[1]))
            m = measured(original, new, spec, batch)
            name = path or "(model)"
            rows.append(LayerAdvice(name, _shape(new), count, *_figures(m), _advice(m, dtype), kind))

    for path, layer in found:
        spec = specs[type(layer)]
        weight, bias = read_layer(layer, spec)
        add(path, layer, QuantLinear(weight, bias, relu=spec.activation == "relu", **options), spec)
    for path, array, axis in matrices:
        add(path, array, QuantMatrix(array, axis=axis, **options), None)
    if not rows:
        raise ValueError("x meets no array in a product; leave x out to measure on random rows")
    return Advice(tuple(rows))


def _default_forward(model: Any, x: Any) -> Any:
    run = model if callable(model) else getattr(model, "predict", None)
    if run is None:
        raise TypeError(
            f"the model, a {type(model).__name__}, cannot be called; say how to run it on x: "
            "forward=lambda model, x: ..., or leave x out to measure on random rows"
        )
    return run(x)


def _shape(new: QuantLinear | QuantMatrix) -> tuple[int, int]:
    layer = new._layer if isinstance(new, QuantMatrix) else new
    return layer.out_features, layer.in_features


def _figures(m: Measured) -> tuple[float, float, float]:
    return m.float_seconds, m.quantized_seconds, m.sqnr_db


def _advice(m: Measured, dtype: QTypeLike) -> str:
    return as_qtype(dtype).name[1:] if m.speedup >= 1 and m.sqnr_db >= ENOUGH_DB else "float"


def _inputs(
    model: Any,
    found: list[tuple[str, Any]],
    specs: dict[type, LayerSpec],
    matrices: list[_Matrix],
    x: Any,
    forward: Callable[[Any, Any], Any],
) -> tuple[dict[str, NDArray[np.float32]], list[_Matrix]]:
    """Rows by path that layers and arrays are given while the model runs on x; and the arrays that are given any.

    How an array is multiplied is seen by trying: those that are not given rows with the axis they are said to have are
    watched once more with the other.
    """
    layers = [watchable_layer(path, layer, specs[type(layer)]) for path, layer in found]
    given = _watched(model, [*layers, *(watchable_array(*matrix) for matrix in matrices)], x, forward)
    for path, _ in found:
        if path not in given:
            raise ValueError(f"{tree.label(path)} was not called with x; leave x out to measure on random rows")
    others = [_turned(matrix) for matrix in matrices if matrix[0] not in given]
    if others:
        given |= _watched(model, [watchable_array(*matrix) for matrix in others], x, forward)
    turned = {matrix[0]: matrix for matrix in others}
    return given, [turned.get(matrix[0], matrix) for matrix in matrices if matrix[0] in given]


def _turned(matrix: _Matrix) -> _Matrix:
    path, array, axis = matrix
    return path, array, 0 if axis == 1 else 1


def _watched(
    model: Any, watchables: list[Watchable], x: Any, forward: Callable[[Any, Any], Any]
) -> dict[str, NDArray[np.float32]]:
    """The rows of each one's first call that has any, by path."""
    given: dict[str, NDArray[np.float32]] = {}

    def note(path: str, value: Any) -> None:
        rows = np.array(value, np.float32)
        if rows.size and path not in given:
            given[path] = rows.reshape(-1, rows.shape[-1])

    stand_ins = {id(item.original): item.watched(partial(note, item.path)) for item in watchables}
    forward(tree.copy_with(model, stand_ins), x)
    return given
