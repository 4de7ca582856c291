"""Layers and matrices joined and split along their outputs, as integers: nothing becomes a float."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from octavo._layers.described import option_texts
from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.static import StaticQuantLinear
from octavo._layers.weights import GroupedWeights, Int4Weights
from octavo._numerics.grouped import GroupedCodes, each_array, join_rows
from octavo._numerics.int4 import GroupedWeight

__all__ = ["concatenate", "split"]

T = TypeVar("T", QuantLinear, QuantMatrix)


def concatenate(parts: Sequence[T]) -> T:
    """One layer or matrix with the outputs of all, in order: concatenate([q, k, v])(x) is their results side by side.

    One product of three times the outputs is faster than three, and x is quantized once. The results are the same bits.

    Args:
        parts: QuantLinear layers, or QuantMatrix objects of one `axis`, of the same inputs, whose weights and
            activations are of the same form. Biases are joined: all layers have one, or none has.

    Returns:
        Of the parts' class. A matrix is joined along its axis of outputs: columns with axis=1, rows with axis=0.

    Raises:
        TypeError: parts are of other classes, or not all of one.
        ValueError: there are none, or they differ in inputs, form, activation, epilogue, or in having a bias.

    Example:
        >>> import numpy as np, octavo as oc
        >>> a, b = (oc.QuantLinear(w * np.eye(3, dtype=np.float32)) for w in (1, 2))
        >>> oc.concatenate([a, b])
        QuantLinear(3 -> 6, int8, activation=symmetric)
    """
    found: list[Any] = list(parts)
    if not found:
        raise ValueError("parts must hold at least one layer or matrix, got none")
    first = found[0]
    for part in found:
        if type(part) not in (QuantLinear, QuantMatrix) or type(part) is not type(first):
            raise TypeError(
                "parts must be QuantLinear layers or QuantMatrix objects, all of one class, "
                f"got {type(first).__name__} and {type(part).__name__}"
            )
        if isinstance(part, QuantMatrix):
            _refuse_others(part._layer, "parts")
    if isinstance(first, QuantMatrix):
        if len({m.axis for m in found}) > 1:
            raise ValueError("matrices must have the same axis; use the transposes of some")
        found = [m._layer for m in found]
    joined = _concatenated(found)
    made: Any = QuantMatrix._made(joined, first._axis) if isinstance(first, QuantMatrix) else joined
    result: T = made
    return result


def split(whole: T, outputs: int | Sequence[int]) -> list[T]:
    """The layers or matrices of some outputs each: the opposite of `concatenate`, and as `np.split` along the outputs.

    Args:
        whole: a QuantLinear or QuantMatrix.
        outputs: how many equal parts; or where to cut, ascending: [2, 5] gives the outputs :2, 2:5 and 5:.

    Raises:
        TypeError: whole is something else.
        ValueError: the outputs cannot be cut so.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.split(oc.QuantLinear(np.eye(6, dtype=np.float32)), 2)[1]
        QuantLinear(6 -> 3, int8, activation=symmetric)
    """
    if type(whole) not in (QuantLinear, QuantMatrix):
        raise TypeError(f"whole must be a QuantLinear or QuantMatrix, got {type(whole).__name__}")
    layer: QuantLinear = whole._layer if isinstance(whole, QuantMatrix) else whole
    _refuse_others(layer, "whole")
    n = layer.out_features
    if isinstance(outputs, (int, np.integer)):
        count = int(outputs)
        if count < 1 or n % count != 0:
            raise ValueError(f"{n} outputs cannot be split into {count} equal parts; give the places to cut")
        cuts = [n // count * i for i in range(count + 1)]
    else:
        places: Any = outputs
        cuts = [0, *map(operator.index, places), n]
    if any(a > b for a, b in itertools.pairwise(cuts)):
        raise ValueError(f"places to cut must ascend within 0 to {n}, got {list(cuts[1:-1])}")
    source = _source(layer)
    parts: list[Any] = [_part(layer, source, slice(a, b)) for a, b in itertools.pairwise(cuts)]
    return [QuantMatrix._made(part, whole._axis) for part in parts] if isinstance(whole, QuantMatrix) else parts


def _refuse_others(layer: QuantLinear, name: str) -> None:
    """Raises TypeError for a layer that is more than a plain QuantLinear."""
    if isinstance(layer, StaticQuantLinear):
        raise TypeError(f"{name} must not be static: ranges belong to the inputs that were calibrated")
    if type(layer) is not QuantLinear:
        raise TypeError(f"{name} must hold plain QuantLinear layers, got {type(layer).__name__}")


_Source = tuple[NDArray[np.int8], NDArray[np.float32]] | GroupedWeight | GroupedCodes


def _source(layer: QuantLinear) -> _Source:
    weights = layer._weights
    if isinstance(weights, GroupedWeights):
        return weights.codes()
    if isinstance(weights, Int4Weights):
        return weights.grouped()
    return layer.int_repr(), layer.scale


def _like(layer: QuantLinear, source: _Source, bias: NDArray[np.float32] | None) -> QuantLinear:
    made = QuantLinear.__new__(QuantLinear)
    made._set(
        source,
        bias,
        activation=layer.activation,
        activation_group=layer.activation_group,
        inputs=layer._inputs,
        epilogue=layer.epilogue,
        call=layer._call_name,
    )
    return made


def _part(layer: QuantLinear, source: _Source, index: slice) -> QuantLinear:
    bias = None if layer.bias is None else layer.bias[index]
    if isinstance(source, tuple):
        return _like(layer, (np.ascontiguousarray(source[0][index]), source[1][index]), bias)
    return _like(layer, each_array([source], lambda a: a[0][index]), bias)


def _concatenated(layers: list[QuantLinear]) -> QuantLinear:
    first, form = layers[0], _Form.of(layers[0])
    for layer in layers[1:]:
        if (other := _Form.of(layer)) != form:
            raise ValueError(f"parts must be of one form, got {form} and {other}")
        if not first._inputs.same_as(layer._inputs):
            raise ValueError(
                "parts must have the same pre_quant_scale, because their inputs are quantized once; "
                "quantize them with one scale, or join the float layers and find_smoothing for the whole"
            )
    biases = [layer.bias for layer in layers]
    bias = None if first.bias is None else np.concatenate([b for b in biases if b is not None])
    return _like(first, _joined([_source(layer) for layer in layers]), bias)


def _joined(sources: list[Any]) -> _Source:
    if isinstance(sources[0], tuple):
        return np.concatenate([q for q, _ in sources]), np.concatenate([s for _, s in sources])
    joined: _Source = (
        join_rows(sources) if isinstance(sources[0], GroupedCodes) else each_array(sources, np.concatenate)
    )
    return joined


@dataclass(frozen=True)
class _Form:
    """What has to be the same of all parts."""

    inputs: int
    numbers: str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, layer: QuantLinear) -> _Form:
        _, numbers, options = layer._described()
        return cls(layer.in_features, numbers, options)

    def __str__(self) -> str:
        bias = [] if self.options["bias"] else ["no bias"]
        return ", ".join([f"{self.inputs} inputs", self.numbers, *option_texts(self.options), *bias])
