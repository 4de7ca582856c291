"""Layers and arrays without their weights, which stand in a model until there is memory for the weights."""

from __future__ import annotations

from typing import Any

from octavo._models.containers import slot_members, slots

__all__ = ["empty", "fill"]


def empty(quantized: Any) -> None:
    """Drops all that takes memory. What is left has its class and the names it answers to, and computes nothing.

    Args:
        quantized: a layer or array of octavo's, whose state is in slots.

    Example:
        >>> import numpy as np, octavo as oc
        >>> layer, full = oc.QuantLinear(np.ones((2, 3)), call="run"), oc.QuantLinear(np.ones((2, 3)), call="run")
        >>> empty(layer)
        >>> callable(layer.run), hasattr(layer, "_packed")
        (True, False)
        >>> fill(layer, full)
        >>> layer.run(np.ones(3, np.float32))
        array([3., 3.], dtype=float32)
    """
    members = slot_members(quantized)
    for name, value in slots(quantized).items():
        if not isinstance(value, (str, int)):  # bool among them
            members[name].__delete__(quantized)


def fill(hollow: Any, quantized: Any) -> None:
    """Gives a hollow one all that another of its class holds."""
    members = slot_members(hollow)
    for name, value in slots(quantized).items():
        members[name].__set__(hollow, value)
