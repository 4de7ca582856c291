"""How far a stored layer's integers are from the floats they were made from: measured, or estimated by scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._files.checkpoint import Checkpoint
from octavo._files.choice import Choice
from octavo._files.fields import tensor_name
from octavo._files.items import Matrix
from octavo._files.plan import make_plan
from octavo._files.rows import row_blocks
from octavo._layers.embedding import QuantEmbedding
from octavo._layers.linear import Layout, QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.recurrent import QuantGRU, QuantLSTM

__all__ = ["ErrorOf", "error_against", "estimate", "estimated_error", "measure_against"]

# Dequantized weights (out, in) by the float tensor that each was made from, and the layout there; None: not known here.
Weights = Mapping[str, tuple[NDArray[np.float32], Layout | None]]
# The error of a stored layer, by its name; None where there is none.
ErrorOf = Callable[[str, Any], float | None]


def _weights(name: str, item: Any) -> Weights:
    if isinstance(item, QuantLinear):
        return {tensor_name(name, "weight"): (item.weight, None)}
    if isinstance(item, QuantEmbedding):
        return {tensor_name(name, "weight"): (item.weight, "out_in")}
    if isinstance(item, QuantMatrix):
        return {name: (item._layer.weight, "in_out" if item.axis == 1 else "out_in")}
    if isinstance(item, (QuantLSTM, QuantGRU)):
        weights = {key: w for key, w in item.weights.items() if key.startswith("weight")}
        return {tensor_name(name, key): (w, "out_in") for key, w in weights.items()}
    return {}


def estimate(name: str, item: Any) -> float | None:
    layer = item._layer if isinstance(item, QuantMatrix) else item
    return estimated_error(layer) if isinstance(layer, QuantLinear) else None


def measure_against(original: Checkpoint, layout: Layout | None) -> ErrorOf:
    matrices = [m for item in make_plan(original, Choice(layout=layout), None).items for m in item.matrices]
    layouts = {m.tensor: m.layout for m in matrices}

    def error_of(name: str, item: Any) -> float | None:
        weights = _weights(name, item)
        return error_against(weights, original, layouts, layout or "out_in") if weights else None

    return error_of


def estimated_error(layer: QuantLinear) -> float:
    """sqrt(mean(s^2)/12) / rms(W): the error of rounding alone, relative to the weights.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo._files.weight_error import estimated_error
        >>> w = np.random.default_rng(0).standard_normal((8, 512), dtype=np.float32)
        >>> round(estimated_error(oc.QuantLinear(w)), 3)
        0.007
    """
    scale = layer.scale.astype(np.float64)
    w = layer._weights.dequantize()  # what was rounded: behind scales and rotations of the inputs
    with np.errstate(all="ignore"):  # the squares of tiny weights are zeros
        mean_square = float(np.mean(np.square(w, dtype=np.float64))) if w.size else 0.0
        mean_step = float(np.mean(scale**2)) if scale.size else 0.0
    return math.sqrt(mean_step / 12 / mean_square) if mean_square else 0.0


def error_against(
    weights: Weights, original: Checkpoint, layouts: Mapping[str, Layout] | None = None, layout: Layout = "out_in"
) -> float:
    """||W' - W|| / ||W|| over the weights of a layer, with W from the float checkpoint.

    Args:
        weights: dequantized weights (out, in), and the layout of the tensor that each was made from, by its name.
        original: the float checkpoint.
        layouts, layout: how it holds the others; `layout` counts for those that `layouts` does not name.

    Raises:
        ValueError: the checkpoint has no matrix of that name and shape.
    """
    difference = total = 0.0
    for tensor, (weight, own) in weights.items():
        matrix = _original_of(tensor, weight.shape, original, {} if own else layouts or {}, own or layout)
        for start, block in row_blocks(original, matrix):
            exact = block.astype(np.float64)
            with np.errstate(all="ignore"):  # the squares of tiny weights are zeros
                total += float(np.sum(exact**2))
                difference += float(np.sum((weight[start : start + len(block)] - exact) ** 2))
        original.release(matrix.tensor)
    return math.sqrt(difference / total) if total else 0.0


def _original_of(
    tensor: str, shape: tuple[int, ...], original: Checkpoint, layouts: Mapping[str, Layout], layout: Layout
) -> Matrix:
    stack, _, number = tensor.rpartition(".")
    known = [name for name in (tensor, tensor.removesuffix(".weight")) if name in original.tensors]
    index = None
    if not known and stack in original.tensors and number.isdecimal():
        known, index = [stack], int(number)
    if not known:
        raise ValueError(f"{original.path} has no tensor {tensor!r}")
    found = original.tensors[known[0]].shape
    own = layouts.get(known[0], layout)
    inner = found if index is None else found[1:] if index < found[0] else ()
    squeezed = inner[:2] if math.prod(inner[2:]) == 1 else inner
    if squeezed != (shape if own == "out_in" else shape[::-1]):
        raise ValueError(
            f"{original.path}: {known[0]} has shape {list(found)} with layout {own}, the layer needs {list(shape)} "
            "(out, in); is it the checkpoint that the file was made from?"
        )
    return Matrix(known[0], (shape[0], shape[1]), own, index=index)
