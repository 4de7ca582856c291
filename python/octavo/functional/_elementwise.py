"""Functions of elements."""

from __future__ import annotations

from typing import Literal

import numpy.typing as npt

from octavo import _core
from octavo.functional._arrays import Array, computed, operand

__all__ = ["cos", "erf", "exp", "gelu", "log", "sigmoid", "silu", "sin", "swiglu", "tanh"]

# Elementwise in csrc/kernels/functions.h
_EXP, _LOG, _ERF, _TANH, _SIGMOID, _SIN, _COS, _SILU, _GELU, _GELU_TANH = range(10)


def _general(function: int, x: npt.ArrayLike, out: Array | None) -> Array:
    a, dtype = operand(x, "x")
    return computed(lambda: _core.elementwise(function, a, None), a.shape, dtype, out)


def exp(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """e to the power of x."""
    y = _core.elementwise(_EXP, x, out)
    return _general(_EXP, x, out) if y is None else y


def log(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """The natural logarithm."""
    y = _core.elementwise(_LOG, x, out)
    return _general(_LOG, x, out) if y is None else y


def erf(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """The error function."""
    y = _core.elementwise(_ERF, x, out)
    return _general(_ERF, x, out) if y is None else y


def tanh(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """The hyperbolic tangent."""
    y = _core.elementwise(_TANH, x, out)
    return _general(_TANH, x, out) if y is None else y


def sigmoid(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """1 / (1 + exp(-x))."""
    y = _core.elementwise(_SIGMOID, x, out)
    return _general(_SIGMOID, x, out) if y is None else y


def sin(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """The sine of x in radians."""
    y = _core.elementwise(_SIN, x, out)
    return _general(_SIN, x, out) if y is None else y


def cos(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """The cosine of x in radians."""
    y = _core.elementwise(_COS, x, out)
    return _general(_COS, x, out) if y is None else y


def silu(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """x sigmoid(x)."""
    y = _core.elementwise(_SILU, x, out)
    return _general(_SILU, x, out) if y is None else y


def gelu(x: npt.ArrayLike, *, approximate: Literal["none", "tanh"] = "none", out: Array | None = None) -> Array:
    """x times the normal distribution at x."""
    if approximate == "none":
        function = _GELU
    elif approximate == "tanh":
        function = _GELU_TANH
    else:
        raise ValueError(f'approximate must be "none" or "tanh", got {approximate!r}')
    y = _core.elementwise(function, x, out)
    return _general(function, x, out) if y is None else y


def swiglu(gate: npt.ArrayLike, up: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """silu(gate) up."""
    y = _core.swiglu(gate, up, out)
    return _general_swiglu(gate, up, out) if y is None else y


def _general_swiglu(gate: npt.ArrayLike, up: npt.ArrayLike, out: Array | None) -> Array:
    g, dtype = operand(gate, "gate")
    u, up_dtype = operand(up, "up")
    if g.shape != u.shape:
        raise ValueError(f"gate and up must have the same shape, got {g.shape} and {u.shape}")
    if dtype != up_dtype:
        raise TypeError(f"gate and up must have the same dtype, got results of {dtype} and {up_dtype}; convert one")
    return computed(lambda: _core.swiglu(g, u, None), g.shape, dtype, out)
