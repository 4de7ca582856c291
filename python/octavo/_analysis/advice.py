"""advise: which layers and arrays of a model are worth quantizing, on this machine, at these batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._analysis.results import Advice, LayerAdvice
from octavo._layers.linear import Layout, QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.weights import ActivationScheme
from octavo._models import walk as tree
from octavo._numerics.params import QTypeLike, as_qtype
from octavo._quantize.batches import Forward, check_callable, run_model
from octavo._quantize.measure import ENOUGH_DB, measured, random_rows, signal_to_noise
from octavo._quantize.options import WeightOptions, as_dtypes
from octavo._quantize.scales import LARGE_SPREAD, spread_of_inputs
from octavo._quantize.select import Arrays, unwrapped
from octavo._quantize.spec import Layers, as_choice, read_layer
from octavo._quantize.targets import Target, find_targets
from octavo._quantize.watching import first_rows

__all__ = ["advise"]


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
    forward: Forward = run_model,
) -> Advice:
    """Measures each layer and array, float and quantized, and says which to quantize.

    Args:
        model: as for `octavo.quantize_dynamic`, and left as it is.
        x: an input of the model. Layers and arrays are measured on the rows that they get from it; arrays that meet
            none in a product have no row. None: times are measured on random rows, and the error, which depends on real
            ones, is not reported.
        layers, arrays, layout: what to look at, as for `quantize_dynamic`; by default every large 2-D float array. With
            x, the layout of an array is that in which the model uses it.
        dtype, group_size, activation: what to compare with float.
        batch_sizes: rows a call. Fewer rows of x are repeated.
        forward: how to run the model on x; by default model(x), or model.predict(x) where it cannot be called.

    Returns:
        An `Advice` with a row for each layer and batch size: "float" where the quantized one is slower, or its error on
        x is above a tenth of the result (SQNR below 20 dB, or NaN). Without x: where it is slower, or where the ranges
        of the weights of different inputs differ 1000-fold or more. They do where the inputs themselves do, and then
        the small ones would be lost.

    Raises:
        TypeError: the model cannot be called with x, and there is no forward.
        ValueError: nothing matches, a layer is recurrent or an embedding, a batch size is below 1, or a layer was not
            called with x.

    Notes:
        The error is measured on all rows that a layer gets in its first call. Times are the fastest of eight
        interleaved rounds of some milliseconds, with NumPy's and octavo's threads as they are set: a second or so for
        ten layers.

    Example:
        >>> import numpy as np, octavo as oc
        >>> model = {"w": np.ones((256, 512), np.float32)}
        >>> x = np.ones((4, 512), np.float32)
        >>> [(r.path, r.layout) for r in oc.advise(model, x, batch_sizes=[4], forward=lambda m, x: x @ m["w"].T).rows]
        [('w', 'out_in')]
    """
    check_callable(forward)
    if not len(batch_sizes) or min(batch_sizes) < 1:
        raise ValueError(f"batch_sizes must hold numbers of rows from 1 on, got {list(batch_sizes)}")
    model = unwrapped(model)
    options = WeightOptions(dtypes=as_dtypes(dtype), group_size=group_size, activation=activation)
    choice = None if layers is None else as_choice(layers)
    targets = find_targets(model, choice, arrays, layout=layout, check_shape=options.check_shape).items
    for target in targets:
        if not target.is_linear:
            raise ValueError(
                f"{tree.label(target.path)} is an octavo.nn.{type(target.original).__name__}, and advise measures "
                "linear layers and arrays alone; leave its class out of layers"
            )
    inputs: dict[str, NDArray[np.float32]] = {}
    if x is not None:
        inputs, targets = _inputs(model, targets, x, forward)
    rows: list[LayerAdvice] = []
    for target in targets:
        new = _quantized(target, options.arguments(as_qtype(dtype)))
        given = inputs.get(target.path)
        sqnr = None if given is None else signal_to_noise(target.original, new, target.spec, given)
        wrong = spread_of_inputs(target.weight()) >= LARGE_SPREAD if sqnr is None else not sqnr >= ENOUGH_DB
        for count in batch_sizes:
            batch = random_rows(new, count) if given is None else np.resize(given, (count, given.shape[1]))
            m = measured(target.original, new, target.spec, batch)
            advice = "float" if wrong or not m.speedup >= 1 else as_qtype(dtype).name[1:]
            seconds = m.float_seconds, m.quantized_seconds
            rows.append(LayerAdvice(target.name, _shape(new), count, *seconds, sqnr, advice, _layout(target)))
    if not rows:
        raise ValueError("x meets no array in a product; leave x out to measure on random rows")
    return Advice(tuple(rows))


def _quantized(target: Target, arguments: dict[str, Any]) -> QuantLinear | QuantMatrix:
    if target.spec is None:
        return QuantMatrix(target.original, axis=target.axis or 0, **arguments)
    weight, bias = read_layer(target.original, target.spec)
    return QuantLinear(weight, bias, relu=target.spec.activation == "relu", **arguments)


def _layout(target: Target) -> Layout | None:
    return None if target.spec is not None else "in_out" if target.axis == 1 else "out_in"


def _shape(new: QuantLinear | QuantMatrix) -> tuple[int, int]:
    layer = new._layer if isinstance(new, QuantMatrix) else new
    return layer.out_features, layer.in_features


def _inputs(
    model: Any, targets: list[Target], x: Any, forward: Forward
) -> tuple[dict[str, NDArray[np.float32]], list[Target]]:
    """Rows by path that layers and arrays are given while the model runs on x; and the targets that are given any.

    How an array is multiplied is seen by trying: those that are not given rows with the axis they are said to have are
    watched once more with the other.
    """
    given = first_rows(model, targets, x, forward)
    for target in targets:
        if target.spec is not None and target.path not in given:
            raise ValueError(f"{tree.label(target.path)} was not called with x; leave x out to measure on random rows")
    turned = {t.path: replace(t, axis=0 if t.axis == 1 else 1) for t in targets if t.path not in given}
    if turned:
        given |= first_rows(model, list(turned.values()), x, forward)
    return given, [turned.get(target.path, target) for target in targets if target.path in given]
