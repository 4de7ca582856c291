"""Counterparts: the quantized class for each of octavo's own float classes that is more than y = x W^T + b.

A quantized class is registered with `@stands_for(nn.LSTM)`, and `quantize_dynamic` asks for `counterpart(nn.LSTM)`. All
other classes are described by a `LayerSpec` and become QuantLinear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["counterpart", "stands_for"]

_Class = TypeVar("_Class", bound=type)

_QUANTIZED: dict[type, Any] = {}


def stands_for(float_class: type) -> Callable[[_Class], _Class]:
    """A decorator for the quantized class, whose `from_float(layer, **options)` makes one from a float layer.

    Example:
        >>> import octavo as oc
        >>> from octavo._layers.registry import counterpart
        >>> counterpart(oc.nn.LSTM)
        <class 'octavo.QuantLSTM'>
    """

    def register(quantized_class: _Class) -> _Class:
        _QUANTIZED[float_class] = quantized_class
        return quantized_class

    return register


def counterpart(float_class: type) -> Any:
    """The quantized class for a float class; None for classes that need a `LayerSpec`.

    Example:
        >>> import octavo as oc
        >>> from octavo._layers.registry import counterpart
        >>> counterpart(oc.nn.Linear) is None
        True
    """
    return _QUANTIZED.get(float_class)
