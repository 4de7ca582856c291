"""What autograd differentiates in quantization-aware training: primitives with their gradients.

    fake_quantize             straight-through
    fake_quantize_learnable   with gradients for the scale and the zero point too
    linear                    y = x W^T + b
    relu, sigmoid             those of octavo.nn

Everything is float32, also where other code hands back a gradient in float64, as autograd's own maximum does. The
gradients themselves cannot be differentiated: a second derivative is an error.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from autograd.extend import defvjp, defvjp_argnums, primitive
except ImportError as error:
    raise ImportError("quantization-aware training needs autograd: pip install 'octavo[qat]'") from error

from octavo._numerics import fake_quant
from octavo._numerics.params import QParams

__all__ = ["fake_quantize", "fake_quantize_learnable", "linear", "relu", "sigmoid"]


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


defvjp(fake_quantize, lambda y, x, qparams: lambda g: fake_quant.backward(g, x, qparams), argnums=(0,))


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

    return gradients


def _like(gradient: NDArray[np.float64], value: Any) -> Any:
    """A gradient in the shape and type of what it is for."""
    if np.shape(value) != gradient.shape:  # one zero point for all channels
        gradient = np.sum(gradient, keepdims=True).reshape(np.shape(value))
    return gradient.astype(np.result_type(value))[()]


defvjp_argnums(fake_quantize_learnable, _learnable_vjps)


@primitive  # type: ignore[untyped-decorator]
def linear(x: Any, weight: Any, bias: Any, name: str = "linear") -> Any:
    """y = x W^T + b in float32.

    Args:
        x: float32 (..., in).
        weight: float32 (out, in).
        bias: float32 (out,) or None.
        name: of the layer, for messages.

    Returns:
        float32 (..., out).

    Raises:
        ValueError: in the backward pass: the gradient holds NaN or infinity. The layer is named.

    Example:
        >>> import numpy as np
        >>> from octavo._numerics.differentiable import linear
        >>> linear(np.float32([[10, 20]]), np.float32([[1, 2]]), np.float32([3]))
        array([[53.]], dtype=float32)
    """
    y = _rows(x) @ weight.T
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], weight.shape[0])


def _rows(a: Any) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = np.asarray(a, np.float32)
    return rows if rows.ndim == 2 else rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])


def _input_gradient(g: Any, weight: Any) -> NDArray[np.float32]:
    # By a transposed copy of W^T: the order of elements that OpenBLAS is faster with, by a fifth and more.
    dx: NDArray[np.float32] = _rows(g) @ np.ascontiguousarray(weight.T).T
    return dx


def _weight_gradient(y: Any, x: Any, weight: Any, bias: Any, name: str = "linear") -> Any:
    def gradient(g: Any) -> NDArray[np.float32]:
        # (x^T g)^T is g^T x, for which OpenBLAS needs 1.9 times as long at 30,000 rows.
        dw: NDArray[np.float32] = (_rows(x).T @ _rows(g)).T
        if not np.isfinite(dw).all():
            raise ValueError(
                f"{name}: the gradient must be finite, got {dw[~np.isfinite(dw)][0]} in that of its weight: the loss is"
                " NaN or infinite, or the step size is too large"
            )
        return dw

    return gradient


defvjp(
    linear,
    lambda y, x, weight, bias, name="": lambda g: _input_gradient(g, weight).reshape(x.shape),
    _weight_gradient,
    # As a product, whose sums are blocked: adding 30,000 rows one by one would lose digits.
    lambda y, x, weight, bias, name="": lambda g: np.ones(_rows(g).shape[0], np.float32) @ _rows(g),
)


@primitive  # type: ignore[untyped-decorator]
def relu(x: Any) -> Any:
    """max(x, 0), with the gradient 0 at 0, as torch has it.

    Example:
        >>> import numpy as np
        >>> from octavo._numerics.differentiable import relu
        >>> relu(np.float32([-1, 2]))
        array([0., 2.], dtype=float32)
    """
    return np.maximum(x, np.result_type(x).type(0))


defvjp(relu, lambda y, x: lambda g: np.multiply(g, y > 0, dtype=y.dtype, casting="same_kind"))


@primitive  # type: ignore[untyped-decorator]
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), in the type of x.

    Example:
        >>> import numpy as np
        >>> from octavo._numerics.differentiable import sigmoid
        >>> sigmoid(np.float32([0.0]))
        array([0.5], dtype=float32)
    """
    with np.errstate(all="ignore"):
        e = np.exp(-np.abs(x))
        return (np.where(x < 0, e, e.dtype.type(1)) / (1 + e)).astype(e.dtype, copy=False)


defvjp(sigmoid, lambda y, x: lambda g: np.multiply(g, y * (1 - y), dtype=y.dtype, casting="same_kind"))
