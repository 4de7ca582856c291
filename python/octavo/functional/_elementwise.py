"""Functions of elements: a call of the compiled part each, and one way for all that is not a plain float32 array."""

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
    """e^x of each element.

    Args:
        x: any shape; float32 is computed as it is, other real numbers are converted to it.
        out: an array of the result's shape and dtype, which may be strided or x itself.

    Returns:
        The shape of x; float16 and float64 input gives its own dtype back, all else float32.

    Raises:
        TypeError: x does not hold real numbers, or out is not an array of the result's dtype.
        ValueError: out has another shape or is read-only.

    Note:
        Within 1 ulp of the true value, subnormal results included; infinity from 88.72284 on, 0 below -103.98.
        x = n ln 2 + r, and e^r is a polynomial of degree 6.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.exp(np.float32([-np.inf, 0, 1]))
        array([0.       , 1.       , 2.7182817], dtype=float32)
    """
    y = _core.elementwise(_EXP, x, out)
    return _general(_EXP, x, out) if y is None else y


def log(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """The natural logarithm of each element.

    Args:
        x, out: as for `exp`, and so are the result, its dtype and the errors.

    Note:
        Within 0.9 ulp of the true value, for subnormal x too. log(0) is -inf, and that of a negative number NaN.
        x = 2^k (1 + f), and log(1 + f) is a polynomial of degree 11.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.log(np.float32([0, 1, 10]))
        array([     -inf, 0.       , 2.3025851], dtype=float32)
    """
    y = _core.elementwise(_LOG, x, out)
    return _general(_LOG, x, out) if y is None else y


def erf(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x.

    Args:
        x, out: as for `exp`, and so are the result, its dtype and the errors.

    Note:
        Within 1 ulp of the true value. An odd polynomial below 0.92, and 1 - exp of a polynomial above.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.erf(np.float32([-1, 0, 4]))
        array([-0.84270084,  0.        ,  1.        ], dtype=float32)
    """
    y = _core.elementwise(_ERF, x, out)
    return _general(_ERF, x, out) if y is None else y


def tanh(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """The hyperbolic tangent of each element.

    Args:
        x, out: as for `exp`, and so are the result, its dtype and the errors.

    Note:
        Within 1.3 ulp of the true value. An odd polynomial below 0.6, and 1 - 2 / (e^2x + 1) above.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.tanh(np.float32([-np.inf, 0.5, 1]))
        array([-1.        ,  0.46211717,  0.7615942 ], dtype=float32)
    """
    y = _core.elementwise(_TANH, x, out)
    return _general(_TANH, x, out) if y is None else y


def sin(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """The sine of each element, in radians.

    Args:
        x, out: as for `exp`, and so are the result, its dtype and the errors.

    Note:
        Within 1.6 ulp of the true value, for all float32 numbers: up to 2^17 the angle is reduced by three parts of
        pi/2, beyond it with as many bits of 2/pi as it takes (Payne and Hanek 1983). NaN for infinity.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.sin(np.float32([0.5, 1e30]))
        array([ 0.47942555, -0.79116344], dtype=float32)
    """
    y = _core.elementwise(_SIN, x, out)
    return _general(_SIN, x, out) if y is None else y


def cos(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """The cosine of each element, in radians.

    Args:
        x, out: as for `exp`, and so are the result, its dtype and the errors.

    Note:
        Within 1.6 ulp of the true value, for all float32 numbers; as `sin`.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.cos(np.float32([0.5, 1e30]))
        array([ 0.87758255, -0.61160475], dtype=float32)
    """
    y = _core.elementwise(_COS, x, out)
    return _general(_COS, x, out) if y is None else y


def sigmoid(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """1 / (1 + e^-x) of each element.

    Args:
        x, out: as for `exp`, and so are the result, its dtype and the errors.

    Note:
        Within 2.2 ulp of the true value, however small: e / (1 + e) with e = e^x where x is negative.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.sigmoid(np.float32([-100, 0, 1]))
        array([3.783506e-44, 5.000000e-01, 7.310586e-01], dtype=float32)
    """
    y = _core.elementwise(_SIGMOID, x, out)
    return _general(_SIGMOID, x, out) if y is None else y


def silu(x: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """x / (1 + e^-x) of each element: the sigmoid linear unit, or swish.

    Args:
        x, out: as for `exp`, and so are the result, its dtype and the errors.

    Note:
        Within 3 ulp of the true value, however small. -0 for -infinity, which is the limit.

    References:
        Elfwing, Uchibe and Doya 2018, https://arxiv.org/abs/1702.03118

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.silu(np.float32([-np.inf, -1, 2]))
        array([-0.        , -0.26894143,  1.761594  ], dtype=float32)
    """
    y = _core.elementwise(_SILU, x, out)
    return _general(_SILU, x, out) if y is None else y


def gelu(x: npt.ArrayLike, *, approximate: Literal["none", "tanh"] = "none", out: Array | None = None) -> Array:
    """x Phi(x) of each element, with Phi the standard normal CDF: the Gaussian error linear unit.

        Phi(x) = (1 + erf(x / sqrt(2))) / 2
        approximate="tanh": Phi(x) = (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2

    Args:
        x: any shape; float32 is computed as it is, other real numbers are converted to it.
        approximate: "tanh" for models that were trained with the approximation.
        out: an array of the result's shape and dtype, which may be strided or x itself.

    Returns:
        The shape of x; float16 and float64 input gives its own dtype back, all else float32.

    Raises:
        TypeError: x does not hold real numbers, or out is not an array of the result's dtype.
        ValueError: approximate is another word, or out has another shape or is read-only.

    Note:
        Within 6 ulp of the true value, the whole negative tail included: below zero, Phi is computed as the small
        number that it is, not as a difference from 1. The tanh form is within 1.7 ulp of its own true value from 0 on,
        6 from -2 on, 27 from -5 on and 171 at -10, where that value has fallen to 1e-37. -0 for -infinity.

    References:
        Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.gelu(np.float32([-np.inf, -1, 2]))
        array([-0.        , -0.15865527,  1.9544997 ], dtype=float32)
    """
    if approximate == "none":
        function = _GELU
    elif approximate == "tanh":
        function = _GELU_TANH
    else:
        raise ValueError(f'approximate must be "none" or "tanh", got {approximate!r}')
    y = _core.elementwise(function, x, out)
    return _general(function, x, out) if y is None else y


def swiglu(gate: npt.ArrayLike, up: npt.ArrayLike, *, out: Array | None = None) -> Array:
    """silu(gate) up, element by element: the gated unit of Llama-style models.

    Args:
        gate, up: of one shape and one kind of dtype; float32 is computed as it is.
        out: an array of the result's shape and dtype, which may be strided, or gate or up itself.

    Returns:
        The shape of gate; float16 and float64 input gives its own dtype back, all else float32.

    Raises:
        TypeError: an operand does not hold real numbers, their results would have different dtypes, or out is not an
            array of that dtype.
        ValueError: shapes differ, or out is read-only.

    Note:
        The bits of ``silu(gate) * up``, in one pass.

    References:
        Shazeer 2020, https://arxiv.org/abs/2002.05202

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.functional.swiglu(np.float32([-1, 2]), np.float32([10, 10]))
        array([-2.6894143, 17.61594  ], dtype=float32)
    """
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
