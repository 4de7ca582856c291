"""Fake quantization by QParams: what `octavo.fake_quant` computes, for arguments of any real dtype, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import fake_quant
from octavo.qparams import Array, QParams, as_real_array
from octavo.quantize import _check_qparams, _check_shape, fake_quantize

__all__ = ["backward", "forward", "learnable_backward", "learned_qparams"]

Floats = NDArray[np.float32]


def forward(x: Any, qparams: QParams) -> NDArray[np.floating[Any]]:
    """octavo.fake_quantize(x, qparams), the same bits.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo.fake_quant_qparams import forward
        >>> forward(np.float32([-0.25, 0.3, 0.75, 900.0]), oc.QParams(0.5, 0, "int4"))
        array([0. , 0.5, 1. , 3.5], dtype=float32)
    """
    _check_qparams(qparams)
    values = as_real_array(x, "x")
    _check_shape(values.shape, qparams, "x")
    # A minimum keeps NaN, and needs no array of truth values. The definition says where NaN is, and knows groups.
    if qparams.group_size is not None or (values.dtype.kind == "f" and np.isnan(np.min(values, initial=0))):
        return fake_quantize(values, qparams)
    y = fake_quant.fake_quantize_forward(_float32(values), *_arguments(qparams))
    return y.astype(_result_dtype(values), copy=False)


def backward(g: Any, x: Any, qparams: QParams) -> NDArray[Any]:
    """dL/dx for g = dL/dy, of the shape and type of x.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo.fake_quant_qparams import backward
        >>> backward(np.ones(4, np.float32), np.float32([-900, -4, 3.5, 3.8]), oc.QParams(0.5, 0, "int4"))
        array([0., 1., 1., 0.], dtype=float32)
    """
    values, gradient = _pair(x, g, qparams)
    dx = fake_quant.fake_quantize_backward(_float32(gradient), _float32(values), *_arguments(qparams))
    return dx.astype(_result_dtype(values), copy=False)


def learnable_backward(g: Any, x: Any, qparams: QParams, grad_factor: float) -> tuple[NDArray[Any], Floats, Floats]:
    """(dL/dx, dL/dscale, dL/dzero_point) for g = dL/dy; the last two times grad_factor, in the shape of the scale.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo.fake_quant_qparams import learnable_backward
        >>> dx, ds, dz = learnable_backward(np.ones(2), np.float32([0.3, 9]), oc.QParams(0.5, 0, "int4"), 1.0)
        >>> dx, round(float(ds), 2), float(dz)
        (array([1., 0.], dtype=float32), 7.4, -0.5)
    """
    values, gradient = _pair(x, g, qparams)
    arguments = _arguments(qparams)
    dx, ds, dz = fake_quant.learnable_backward(_float32(gradient), _float32(values), *arguments, grad_factor)
    return dx.astype(_result_dtype(values), copy=False), ds, dz


def learned_qparams(
    scale: Any, zero_point: Any, qmin: int, qmax: int, axis: int | None, eps: float, dtype: str
) -> QParams:
    """QParams(max(scale, eps), clamp(rint(zero_point), qmin, qmax)).

    Raises:
        ValueError: scale or zero_point is not finite.

    Example:
        >>> from octavo.fake_quant_qparams import learned_qparams
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
    _check_qparams(qparams)
    values, gradient = as_real_array(x, "x"), as_real_array(g, "g")
    _check_shape(values.shape, qparams, "x")
    if qparams.group_size is not None:
        raise ValueError(
            "gradients are for parameters per tensor or per channel, got group_size="
            f"{qparams.group_size}; leave group_size away"
        )
    if gradient.shape != values.shape:
        raise ValueError(f"g must have the shape of x, {values.shape}, got {gradient.shape}")
    return values, gradient


def _float32(a: Array) -> Floats:
    with np.errstate(over="ignore"):
        return a.astype(np.float32, copy=False)


def _arguments(qparams: QParams) -> tuple[Floats, NDArray[np.int32], int, int, int | None]:
    return qparams.scale, qparams.zero_point, qparams.qmin, qparams.qmax, qparams.axis


def _result_dtype(values: Array) -> np.dtype[Any]:
    return values.dtype.newbyteorder("=") if values.dtype.kind == "f" else np.dtype(np.float32)
