"""Fake quantization of arrays and its gradients: the NumPy definition, and the compiled code that gives its bits.

    v = x * r,  r = fl(1 / scale)
    q = rint(v), kept within [lo, hi],  lo = qmin - zero_point,  hi = qmax - zero_point
    y = q * scale                                              octavo.fake_quantize

With inside = (lo <= rint(v) <= hi) and g = dL/dy:

    dL/dx          = inside ? g : 0                            straight through
    dL/dscale      = sum of g * (inside ? q - v : q)           learned step size
    dL/dzero_point = sum of (inside ? 0 : -scale * g)

with sums over the elements that share a scale. The derivative of rint is taken as 1 (Bengio, Leonard, Courville 2013).
The gradient for the scale is that of Esser et al. 2020 ("Learned Step Size Quantization"), the one for the zero point
that of Jain et al. 2020 and Bhalgat et al. 2020. These are the gradients of torch's fake_quantize_per_tensor_affine,
fake_quantize_per_channel_affine and _fake_quantize_learnable_*.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo._numerics.definition import fake_quantize
from octavo._numerics.params import Array, QParams, aligned, check_qparams, check_shape
from octavo._util.arrays import as_real_array, contiguous, real_dtype

__all__ = ["backward", "forward", "learnable_backward", "learned_qparams", "numpy_gradients"]

Floats = NDArray[np.float32]


def forward(x: Any, qparams: QParams) -> NDArray[np.floating[Any]]:
    """octavo.fake_quantize(x, qparams), the same bits, from compiled code unless the parameters have groups.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo._numerics.fake_quant import forward
        >>> forward(np.float32([-0.25, 0.3, 0.75, 900.0]), oc.QParams(0.5, 0, "int4"))
        array([0. , 0.5, 1. , 3.5], dtype=float32)
    """
    check_qparams(qparams)
    values = as_real_array(x, "x")
    check_shape(values.shape, qparams, "x")
    if qparams.group_size is None:
        with np.errstate(all="ignore"):
            y = _core.fake_quantize(contiguous(values), *_numbers(qparams, values.ndim))
        if y is not None:
            return y.astype(real_dtype(values), copy=False)
    return fake_quantize(values, qparams)  # which says where NaN is


def backward(g: Any, x: Any, qparams: QParams) -> NDArray[Any]:
    """dL/dx for g = dL/dy, of the shape and type of x.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo._numerics.fake_quant import backward
        >>> backward(np.ones(4, np.float32), np.float32([-900, -4, 3.5, 3.8]), oc.QParams(0.5, 0, "int4"))
        array([0., 1., 1., 0.], dtype=float32)
    """
    values, gradient = _pair(x, g, qparams)
    if qparams.group_size is not None:
        return numpy_gradients(gradient, values, qparams)[0].astype(real_dtype(values), copy=False)
    dx = _core.fake_quantize_backward(contiguous(values), contiguous(gradient), *_numbers(qparams, values.ndim))
    return dx.astype(real_dtype(values), copy=False)


def learnable_backward(
    g: Any, x: Any, qparams: QParams
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """(dL/dx, dL/dscale, dL/dzero_point) for g = dL/dy; the sums in float64, in the shape of the scale.

    They are added up in blocks whose bounds depend on the shape alone, so that threads do not change
    the bits.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo._numerics.fake_quant import learnable_backward
        >>> dx, d_scale, d_zero_point = learnable_backward(np.ones(2), np.float32([0.3, 9]), oc.QParams(0.5, 0, "int4"))
        >>> dx, round(float(d_scale), 2), float(d_zero_point)
        (array([1., 0.], dtype=float32), 7.4, -0.5)
    """
    values, gradient = _pair(x, g, qparams)
    if qparams.group_size is not None:
        dx, d_scale, d_zero_point = numpy_gradients(gradient, values, qparams)
    else:
        numbers = _numbers(qparams, values.ndim)
        dx, d_scale, d_zero_point = _core.fake_quantize_learnable_backward(
            contiguous(values), contiguous(gradient), *numbers
        )
    shape = qparams.scale.shape
    return dx.astype(real_dtype(values), copy=False), d_scale.reshape(shape), d_zero_point.reshape(shape)


def numpy_gradients(g: Any, x: Any, qparams: QParams) -> tuple[Floats, NDArray[np.float64], NDArray[np.float64]]:
    """The three gradients in NumPy: for groups, and to test the compiled code against.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo._numerics.fake_quant import numpy_gradients
        >>> numpy_gradients(np.float32([1, 1]), np.float32([1, 9]), oc.QParams([1, 1], 0, "int4", group_size=1))[0]
        array([1., 0.], dtype=float32)
    """
    values, gradient = (np.asarray(a).astype(np.float32) for a in (x, g))
    dx = np.empty(values.shape, np.float32)
    d_scale, d_zero_point = (np.zeros(qparams.scale.shape, np.float64) for _ in range(2))
    lowest = np.asarray(qparams.qmin - qparams.zero_point, np.float32)
    highest = np.asarray(qparams.qmax - qparams.zero_point, np.float32)
    with np.errstate(all="ignore"):
        reciprocal = np.asarray(np.float32(1) / qparams.scale)
        arrays, params = (values, gradient, dx), (reciprocal, lowest, highest, qparams.scale, d_scale, d_zero_point)
        for (xs, gs, out), (r, lo, hi, s, ds, dz) in aligned(arrays, params, qparams.axis, qparams.group_size):
            v = xs * r
            q = np.clip(np.rint(v), lo, hi)
            inside = np.rint(v) == q
            np.copyto(out, np.where(inside, gs, np.float32(0)))
            over = tuple(i for i, length in enumerate(ds.shape) if length == 1)
            steps = q - np.where(inside, v, np.float32(0))
            ds += np.sum(gs.astype(np.float64) * steps, axis=over, keepdims=True)
            outside = np.sum(np.where(inside, 0.0, gs), axis=over, keepdims=True, dtype=np.float64)
            dz -= s.astype(np.float64) * outside
    return dx, d_scale, d_zero_point


def learned_qparams(
    scale: Any, zero_point: Any, qmin: int, qmax: int, axis: int | None, eps: float, dtype: str
) -> QParams:
    """QParams(max(scale, eps), clamp(rint(zero_point), qmin, qmax)).

    Example:
        >>> from octavo._numerics.fake_quant import learned_qparams
        >>> learned_qparams(-0.5, 2.6, 0, 15, None, 0.25, "quint8")
        QParams(scale=0.25, zero_point=3, qtype=octavo.quint8, qmax=15)
    """
    step = np.asarray(scale, np.float32)
    whole = np.clip(np.rint(np.asarray(zero_point, np.float32)), qmin, qmax)
    if not (np.isfinite(step).all() and np.isfinite(whole).all()):
        raise ValueError("a learned scale and zero point must be finite: training has diverged")
    whole = np.broadcast_to(whole.astype(np.int32), step.shape)
    return QParams(np.maximum(step, np.float32(eps)), whole, dtype, qmin=qmin, qmax=qmax, axis=axis)


def _pair(x: Any, g: Any, qparams: QParams) -> tuple[Array, Array]:
    check_qparams(qparams)
    values, gradient = as_real_array(x, "x"), as_real_array(g, "g")
    check_shape(values.shape, qparams, "x")
    if gradient.shape != values.shape:
        raise ValueError(f"g must have the shape of x, {values.shape}, got {gradient.shape}")
    return values, gradient


def _numbers(qparams: QParams, ndim: int) -> tuple[Floats, NDArray[np.int32], int, int, int]:
    axis = -1 if qparams.axis is None else qparams.axis % ndim
    return qparams.scale.reshape(-1), qparams.zero_point.reshape(-1), qparams.qmin, qparams.qmax, axis
