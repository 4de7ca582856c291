"""Float layers that autograd differentiates in float32: y = x W^T + b, ReLU and the sigmoid. Imported at first use.

autograd's own functions are right too, but hand back gradients in float64 where they meet a Python number, as its
maximum does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from autograd.extend import defvjp, primitive
from numpy.typing import NDArray

from octavo._numerics.differentiable import first_order

__all__ = ["linear", "relu", "sigmoid"]


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
        >>> from octavo.nn._gradients import linear
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


def _weight_gradient(g: Any, x: Any, name: str) -> NDArray[np.float32]:
    # (x^T g)^T is g^T x, for which OpenBLAS needs 1.9 times as long at 30,000 rows.
    dw: NDArray[np.float32] = (_rows(x).T @ _rows(g)).T
    if not np.isfinite(dw).all():
        raise ValueError(
            f"{name}: the gradient must be finite, got {dw[~np.isfinite(dw)][0]} in that of its weight: the loss is"
            " NaN or infinite, or the step size is too large"
        )
    return dw


def _bias_gradient(g: Any) -> NDArray[np.float32]:
    # As a product, whose sums are blocked: adding 30,000 rows one by one would lose digits.
    db: NDArray[np.float32] = np.ones(_rows(g).shape[0], np.float32) @ _rows(g)
    return db


defvjp(
    linear,
    lambda y, x, weight, bias, name="linear": first_order(
        name, lambda g: _input_gradient(g, weight).reshape(x.shape), x, weight
    ),
    lambda y, x, weight, bias, name="linear": first_order(name, lambda g: _weight_gradient(g, x, name), x, weight),
    lambda y, x, weight, bias, name="linear": first_order(name, _bias_gradient, x, weight),
)


@primitive  # type: ignore[untyped-decorator]
def relu(x: Any) -> Any:
    """max(x, 0), with the gradient 0 at 0, as torch has it.

    Example:
        >>> import numpy as np
        >>> from octavo.nn._gradients import relu
        >>> relu(np.float32([-1, 2]))
        array([0., 2.], dtype=float32)
    """
    return np.maximum(x, np.result_type(x).type(0))


defvjp(
    relu,
    lambda y, x: first_order("relu", lambda g: np.multiply(g, y > 0, dtype=y.dtype, casting="same_kind"), y),
)


@primitive  # type: ignore[untyped-decorator]
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), in the type of x.

    Example:
        >>> import numpy as np
        >>> from octavo.nn._gradients import sigmoid
        >>> sigmoid(np.float32([0.0]))
        array([0.5], dtype=float32)
    """
    with np.errstate(all="ignore"):
        e = np.exp(-np.abs(x))
        return (np.where(x < 0, e, e.dtype.type(1)) / (1 + e)).astype(e.dtype, copy=False)


defvjp(
    sigmoid,
    lambda y, x: first_order("sigmoid", lambda g: np.multiply(g, y * (1 - y), dtype=y.dtype, casting="same_kind"), y),
)
