"""Fake quantization that autograd differentiates.

    fake_quantize             straight-through
    fake_quantize_learnable   with gradients for the scale and the zero point too

The gradients themselves cannot be differentiated: rounding has no second derivative, and asking for one is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._numerics import fake_quant
from octavo._numerics.params import QParams
from octavo._util.arrays import is_traced
from octavo._util.extras import import_extra

__all__ = ["fake_quantize", "fake_quantize_learnable", "first_order"]

_autograd = import_extra("autograd.extend", purpose="quantization-aware training", extra="qat")
defvjp, defvjp_argnums, primitive = _autograd.defvjp, _autograd.defvjp_argnums, _autograd.primitive


def first_order(name: str, gradient: Callable[[Any], Any], *used: Any) -> Callable[[Any], Any]:
    """The gradient of the primitive `name`, which refuses to be differentiated; `used`: the values that go into it.

    Example:
        >>> import numpy as np
        >>> float(first_order("relu", lambda g: g * 2)(np.float32(3)))
        6.0
    """

    def guarded(g: Any) -> Any:
        if any(map(is_traced, (g, *used))):
            raise TypeError(
                f"{name}: second derivatives are not supported, as rounding has none: autograd.hessian and gradients "
                "of gradients cannot go through it; use first derivatives"
            )
        with np.errstate(all="ignore"):
            return gradient(g)

    return guarded


@primitive  # type: ignore[untyped-decorator]
def fake_quantize(x: Any, qparams: QParams) -> Any:
    """y = fake_quantize(x), with the gradient dL/dx = dL/dy where x is within the range, 0 where it is clamped.

    Args:
        x: real numbers, as for `octavo.fake_quantize`, or a value that autograd is differentiating.
        qparams: per tensor, per channel or per group; see `octavo.choose_qparams`.

    Returns:
        y of the shape of x: float16 for float16, float64 for float64, float32 for all else. So is the gradient.

    Raises:
        TypeError, ValueError: as `octavo.fake_quantize`.

    Notes:
        The same bits as `octavo.fake_quantize`. Rounding has the derivative 1 here, the straight-through estimator of
        Bengio, Leonard, Courville 2013; "within the range" asks the rounded value, as torch does: qmin - zero_point
        <= rint(x / scale) <= qmax - zero_point.

    Example:
        >>> import autograd, octavo as oc
        >>> import autograd.numpy as np
        >>> f = lambda x: np.sum(oc.qat.fake_quantize(x, oc.QParams(0.5, 0, "int4")) ** 2)
        >>> autograd.grad(f)(np.array([0.3, 1.0, 9.0]))
        array([1., 2., 0.])
    """
    return fake_quant.forward(x, qparams)


defvjp(
    fake_quantize,
    lambda y, x, qparams: first_order("fake_quantize", lambda g: fake_quant.backward(g, x, qparams), x),
    argnums=(0,),
)


@primitive  # type: ignore[untyped-decorator]
def fake_quantize_learnable(
    x: Any,
    scale: Any,
    zero_point: Any,
    qmin: int,
    qmax: int,
    *,
    axis: int | None = None,
    grad_factor: float | None = None,
    eps: float = 2.0**-23,
) -> Any:
    """y = (q - z) * s, with gradients for x, scale and zero_point; s = max(scale, eps), z = clamp(rint(zero_point)).

        dL/dx          = g where x is within the range, 0 where it is clamped
        dL/dscale      = f * sum of g * (q - z - x / s within the range, q - z where clamped)
        dL/dzero_point = f * sum of (0 within the range, -s * g where clamped)

    Args:
        x: float array.
        scale: float, () or, with `axis`, (x.shape[axis],).
        zero_point: float, of the shape of scale or (); rounded and clamped to qmin..qmax before use.
        qmin, qmax: the integers, within -128..127 or 0..255.
        axis: of the channels; None: per tensor.
        grad_factor: f. Default: 1 / sqrt(x.size * qmax), as LSQ has it, with qmax at least 1.
        eps: scales below it, which a step of training may lead to, count as it.

    Returns:
        y of the shape of x: float16 for float16, float64 for float64, float32 for all else.

    Raises:
        TypeError, ValueError: NaN in x; shapes that do not fit; scale or zero_point not finite.

    Notes:
        Sums are in float64, in an order that the number of threads does not change. Esser et al. 2020 ("Learned Step
        Size Quantization"), equations 3 and section 2.2; torch's _fake_quantize_learnable_per_tensor_affine, which has
        f = 1 by default.

    Example:
        >>> import autograd, octavo as oc
        >>> import autograd.numpy as np
        >>> x = np.array([0.3, 1.0, 9.0])
        >>> f = lambda s: np.sum(oc.qat.fake_quantize_learnable(x, s, 0.0, -8, 7, grad_factor=1.0))
        >>> round(float(autograd.grad(f)(0.5)), 3)
        7.4
    """
    return fake_quant.forward(x, _learned(scale, zero_point, qmin, qmax, axis, eps))


def _learned(scale: Any, zero_point: Any, qmin: int, qmax: int, axis: int | None, eps: float) -> QParams:
    dtype = "uint8" if qmin >= 0 else "int8"
    return fake_quant.learned_qparams(scale, zero_point, qmin, qmax, axis, eps, dtype)


def _learnable_vjps(argnums: tuple[int, ...], y: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    x, scale, zero_point, qmin, qmax = args
    factor = options.get("grad_factor")
    if factor is None:
        factor = 1 / math.sqrt(max(np.size(x), 1) * max(qmax, 1))

    def gradients(g: Any) -> tuple[Any, ...]:
        qparams = _learned(scale, zero_point, qmin, qmax, options.get("axis"), options.get("eps", 2.0**-23))
        dx, d_scale, d_zero_point = fake_quant.learnable_backward(g, x, qparams)
        found = (dx, _like(factor * d_scale, scale), _like(factor * d_zero_point, zero_point))
        return tuple(found[i] for i in argnums)

    return first_order("fake_quantize_learnable", gradients, x, scale, zero_point)


def _like(gradient: NDArray[np.float64], value: Any) -> Any:
    """A gradient in the shape and type of what it is for."""
    if np.shape(value) != gradient.shape:  # one zero point for all channels
        gradient = np.sum(gradient, keepdims=True).reshape(np.shape(value))
    return gradient.astype(np.result_type(value))[()]


defvjp_argnums(fake_quantize_learnable, _learnable_vjps)
