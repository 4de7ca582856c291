"""Float against quantized, layer by layer: where a quantized model loses accuracy."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._analysis.recording import RecordedMatrix
from octavo._analysis.results import Comparison, LayerComparison
from octavo._layers.arrays.quantized import QuantizedArray
from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.static import StaticQuantLinear
from octavo._models import walk as tree
from octavo._models.hooks import Watched
from octavo._models.paths import matches
from octavo._numerics.definition import dequantize
from octavo._numerics.input_scale import scaled_inputs
from octavo._numerics.params import QParams
from octavo._quantize.batches import Forward, check_callable, run_model
from octavo._util.errors import raise_named
from octavo._util.floating import quiet
from octavo.nn._recurrent_base import RecurrentLayer

__all__ = ["compare"]


@dataclass(slots=True)
class _Call:
    x: Any
    y: Any


def compare(
    float_model: Any,
    quantized_model: Any,
    x: Any,
    *,
    arrays: bool | str | Collection[str] = False,
    forward: Forward = run_model,
) -> Comparison:
    """Runs both models on x and compares what each quantized layer gives with what the float layer in its place gives.

    Args:
        float_model: the model before quantization.
        quantized_model: what `quantize_dynamic` or `convert` made of it. Both are left as they are.
        x: a batch.
        arrays: which arrays that became a `QuantMatrix` get rows, too: paths and patterns, or True for all.
        forward: how to run a model on x; by default model(x), or model.predict(x) where it cannot be called.

    Returns:
        A `Comparison`: print it, or `.plot(path)`. Errors accumulate: each layer's includes those of the layers before
        it.

    Raises:
        ValueError: quantized_model has no quantized layer; the float model has nothing in one's place; the models are
            one and the same, or share a quantized layer; they call a layer a different number of times or get results
            of different shapes. The layer is named.

    Notes:
        A layer that applies a ReLU itself is compared after the ReLU. A QuantLSTM, QuantGRU or QuantEmbedding, and a
        QuantMatrix that `arrays` does not name, has no row of its own; its error shows in what comes behind it. All of
        x's results are held at once.

    Example:
        >>> import numpy as np, octavo as oc
        >>> model = oc.nn.Sequential(oc.nn.Linear(np.float32([[1, 2], [3, 4]])), oc.nn.ReLU())
        >>> print(oc.compare(model, oc.quantize_dynamic(model, {oc.nn.Linear}), np.float32([[127, 0], [0, 127]])))
        layer     SQNR, dB    cosine  largest error  clipped
        layers.0     53.84  0.999998              1   0.000%
        (result)     53.84  0.999998              1   0.000%
    """
    check_callable(forward)
    found = list(tree.walk(quantized_model, stop=lambda value: isinstance(value, (RecurrentLayer, QuantMatrix))))
    layers: dict[str, Any] = {path: layer for path, layer in found if isinstance(layer, QuantLinear)}
    if not layers and not any(isinstance(value, QuantMatrix) for _, value in found):
        raise ValueError("quantized_model has no quantized layer; pass what quantize_dynamic or convert returned")
    layers |= _matrices(found, arrays)
    originals = dict(tree.walk(float_model))
    _refuse_identical(float_model, quantized_model, found, originals)
    missing = [tree.label(path) for path in layers if path not in originals]
    if missing:
        raise ValueError(f"float_model has no layer at {', '.join(missing)}; pass the model that was quantized")
    methods = {path: getattr(layer, "_call_name", None) for path, layer in layers.items()}
    expected, y = _recorded(float_model, originals, methods, x, forward)
    actual, y_quantized = _recorded(quantized_model, layers, methods, x, forward)
    rows = [_compared(path, layers[path], expected.get(path, []), calls) for path, calls in actual.items()]
    if _is_real(y) and _is_real(y_quantized):
        rows.append(_measured("(result)", [_as64(y)], [_as64(y_quantized)], []))
    return Comparison(tuple(rows))


def _matrices(found: list[tuple[str, Any]], arrays: bool | str | Collection[str]) -> dict[str, QuantMatrix]:
    """Those of the quantized model that `arrays` names, by path."""
    matrices = {path: value for path, value in found if isinstance(value, QuantMatrix)}
    if isinstance(arrays, bool):
        return matrices if arrays else {}
    patterns = [arrays] if isinstance(arrays, str) else list(arrays)
    unused = [p for p in patterns if not any(matches(path, p) for path in matrices)]
    if unused:
        names = ", ".join(path or "(model)" for path in matrices)
        raise ValueError(
            f"arrays: {', '.join(map(repr, unused))} names no QuantMatrix of quantized_model; it has {names or 'none'}"
        )
    return {path: value for path, value in matrices.items() if any(matches(path, p) for p in patterns)}


def _refuse_identical(
    float_model: Any, quantized_model: Any, found: list[tuple[str, Any]], originals: dict[str, Any]
) -> None:
    """Raises ValueError where a quantized layer or matrix would be compared with itself."""
    quantized = [(path, value) for path, value in found if isinstance(value, (QuantLinear, QuantMatrix))]
    shared = [path for path, value in quantized if originals.get(path) is value]
    if quantized_model is float_model:
        what = "float_model and quantized_model are one object"
    elif shared:
        what = f"float_model holds the quantized layer that quantized_model has at {tree.label(shared[0])}"
    else:
        return
    raise ValueError(
        f"{what}, which would be compared with itself: pass the model from before quantization. load and "
        "inplace=True change the model that they are given; give them a copy, copy.deepcopy(model)"
    )


def _recorded(
    model: Any, layers: dict[str, Any], methods: dict[str, str | None], x: Any, forward: Forward
) -> tuple[dict[str, list[_Call]], Any]:
    """The calls by path, in the order of first calls, while a copy of the model runs on x; and its result.

    Raises whatever a layer, which is named, or the model's own code raises.
    """
    calls: dict[str, list[_Call]] = {}
    running: list[str] = []

    def recorder(path: str, method: str | None) -> Watched | RecordedMatrix:
        def begin(x: Any) -> Any:
            running.append(path)
            return _kept(x)

        def end(kept: Any, y: Any) -> None:
            running.remove(path)
            note(kept, y)

        def note(kept: Any, y: Any) -> None:
            calls.setdefault(path, []).append(_Call(kept, _kept(y)))

        if method is None:
            return RecordedMatrix(layers[path], lambda x, y: note(_kept(x), y))
        return Watched(copy.deepcopy(layers[path]), method, begin, end)

    recorders = {id(layers[path]): recorder(path, method) for path, method in methods.items()}
    try:
        y = forward(tree.copy_with(model, recorders), x)
    except Exception as error:
        if not running or str(error).startswith("layer "):  # a static layer names itself
            raise
        raise_named(error, f"layer {tree.label(running[-1])}")
    return calls, _kept(y)


def _compared(
    path: str, layer: QuantLinear | QuantMatrix, expected: list[_Call], actual: list[_Call]
) -> LayerComparison:
    shapes = [call.y.shape for call in expected], [call.y.shape for call in actual]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"layer {tree.label(path)} gives results of shapes {shapes[0]} in the float model and {shapes[1]} in the "
            "quantized one; pass the model that was quantized"
        )
    layer = layer._layer if isinstance(layer, QuantMatrix) else layer
    folded = isinstance(layer, StaticQuantLinear) and layer.relu
    y = [_as64(call.y) for call in expected]
    y = [np.maximum(part, 0) for part in y] if folded else y
    beyond: list[NDArray[np.bool_]] = []
    if isinstance(layer, StaticQuantLinear):
        scale = layer.pre_quant_scale
        floats = [call.x for call in actual if type(call.x) is not QuantizedArray]
        beyond += [_beyond(x if scale is None else scaled_inputs(x, scale), layer.input_qparams) for x in floats]
        if layer.output_qparams is not None:
            beyond += [_beyond(part, layer.output_qparams) for part in y]
    return _measured(path, y, [_as64(call.y) for call in actual], beyond)


@quiet
def _measured(
    path: str,
    expected: list[NDArray[np.float64]],
    actual: list[NDArray[np.float64]],
    beyond: list[NDArray[np.bool_]],
) -> LayerComparison:
    y, z = (np.concatenate([part.ravel() for part in parts]) for parts in (expected, actual))
    signal, noise, power = float(y @ y), float((z - y) @ (z - y)), float(z @ z)
    with np.errstate(all="ignore"):
        sqnr = float(10 * (np.log10(signal) - np.log10(noise))) if noise else np.inf
    product = float(np.sqrt(signal) * np.sqrt(power))
    cosine = float(y @ z) / product if product else float(signal == power)
    clipped = sum(int(part.sum()) for part in beyond) / max(1, sum(part.size for part in beyond))
    return LayerComparison(path or "(model)", sqnr, cosine, float(np.abs(z - y).max(initial=0)), clipped)


@quiet
def _beyond(x: Any, params: QParams) -> NDArray[np.bool_]:
    """Where x is more than half a step outside what the integers reach."""
    steps = _as64(x) / float(params.scale)
    zero = int(params.zero_point)
    return np.asarray((steps < params.qmin - zero - 0.5) | (steps > params.qmax - zero + 0.5))


def _kept(value: Any) -> Any:
    """A copy that later in-place code does not reach."""
    return value if type(value) is QuantizedArray else np.array(value) if _is_real(value) else value


def _is_real(value: Any) -> bool:
    return type(value) is QuantizedArray or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub")


@quiet
def _as64(value: Any) -> NDArray[np.float64]:
    # A layer's integers are compared as they are, behind ReLU where it was taken in: `dequantize` of the array itself
    # refuses those.
    if type(value) is QuantizedArray:
        return dequantize(value.int_repr(), value.qparams).astype(np.float64)
    return np.asarray(value, np.float64)
