"""What NumPy's definitions give for a layer of any weights: octavo's kernels have no part in it."""

from __future__ import annotations

from typing import Any

import numpy as np

import octavo as oc
from octavo._layers.weights import GroupedWeights
from octavo._numerics.grouped_definition import grouped_linear
from reference import expected_of as plain_of

F = np.float32


def defined(layer: oc.QuantLinear, x: np.ndarray) -> Any:
    """The layer's result for rows of x."""
    if isinstance(layer, oc.PermutedQuantLinear):
        return defined(layer.inner(), x[:, layer.permutation])
    if isinstance(layer, oc.StaticQuantLinear):
        return static(layer, x)
    if not isinstance(layer._weights, GroupedWeights):
        return plain_of(layer, x)
    options = {"activation": layer.activation, "activation_group": layer.activation_group}
    return grouped_linear(x, layer.grouped(), layer.bias, **options)


def static(layer: oc.StaticQuantLinear, x: np.ndarray) -> Any:
    """Finite rows by fixed parameters: integers less zero points, an exact sum, one rescale; the result alike."""
    acc = steps(x, layer.input_qparams).astype(np.int64) @ layer.int_repr().astype(np.int64).T
    y = acc.astype(F) * (F(layer.input_qparams.scale) * layer.scale)
    if layer.bias is not None:
        y = y + layer.bias
    out = layer.output_qparams
    return y if out is None else steps(y, out) * F(out.scale)


def steps(x: np.ndarray, given: oc.QParams) -> np.ndarray:
    z = int(given.zero_point)
    return np.clip(np.rint(x * (F(1) / F(given.scale))), given.qmin - z, given.qmax - z)
