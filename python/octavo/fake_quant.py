"""Fake quantization of float32 arrays and its gradients.

    v = x * r,  r = fl(1 / scale)
    lo = qmin - zero_point,  hi = qmax - zero_point
    q = clamp(rint(v), lo, hi)
    y = q * scale                                            the bits of octavo.fake_quantize

With inside = (lo <= rint(v) <= hi) and g = dL/dy, where the sums go over the elements that share a scale:

    dL/dx          = inside ? g : 0                          straight through
    dL/dscale      = f * sum of g * (inside ? q - v : q)     learned step size; f is grad_factor
    dL/dzero_point = f * sum of (inside ? 0 : -scale * g)

The derivative of rint is taken as 1 (Bengio, Leonard, Courville 2013); that for the scale is of Esser et al. 2020
("Learned Step Size Quantization"), that for the zero point of Bhalgat et al. 2020 ("LSQ+"). torch has the same in
fake_quantize_per_tensor_affine, fake_quantize_per_channel_affine and _fake_quantize_learnable_*.

Large arrays go through C++ (csrc/quantize/fake_quant.cpp), in one pass and on octavo's threads; the functions here
are its definition. y and dL/dx have the same bits, the sums are taken in float64 by both.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo import _core

__all__ = ["fake_quantize_backward", "fake_quantize_forward", "learnable_backward"]

Floats = NDArray[np.float32]

_BLOCK_ELEMS = 1 << 16  # one pass after the other over 256 KB stays within the L2 cache
# Elements from which C++ is called, whose parameters take some microseconds to prepare.
_COMPILED_ELEMS = 1 << 12
_LARGEST = 2.0**21  # of |qmin - zero_point| and |qmax - zero_point|, up to which C++ rounds by adding


def fake_quantize_forward(
    x: Floats, scale: Any, zero_point: Any, qmin: int, qmax: int, axis: int | None = None
) -> Floats:
    """y = clamp(rint(x * r), qmin - z, qmax - z) * scale, r = fl(1 / scale).

    Args:
        x: float32 of any shape.
        scale: float32 () or, with `axis`, (x.shape[axis],); > 0.
        zero_point: whole numbers of the same shape, or ().
        qmin, qmax: the integers.
        axis: along which parameters differ.

    Returns:
        A new float32 array of x.shape; NaN stays NaN.

    Example:
        >>> import numpy as np
        >>> from octavo.fake_quant import fake_quantize_forward
        >>> fake_quantize_forward(np.float32([-0.25, 0.3, 0.75, 900.0]), np.float32(0.5), 0, -8, 7)
        array([0. , 0.5, 1. , 3.5], dtype=float32)
    """
    compiled = _compiled((x,), scale, zero_point, qmin, qmax, axis)
    if compiled is not None:
        return _core.fake_quantize(*compiled.arguments, outer=compiled.outer, inner=compiled.inner)
    y = np.empty(x.shape, np.float32)
    for (xs, out), (s, r, lo, hi) in _blocks((x, y), scale, zero_point, qmin, qmax, axis):
        _steps(xs, r, lo, hi, out)
        np.add(out, np.float32(0), out=out)  # -0 becomes +0, as it does in an integer
        np.multiply(out, s, out=out)
    return y


def fake_quantize_backward(
    grad: Floats, x: Floats, scale: Any, zero_point: Any, qmin: int, qmax: int, axis: int | None = None
) -> Floats:
    """dL/dx for grad = dL/dy: grad where rint(x * r) is within the range, 0 where it is clamped.

    Args:
        grad: float32 of x.shape.
        x, scale, zero_point, qmin, qmax, axis: as for `fake_quantize_forward`.

    Returns:
        A new float32 array of x.shape.

    Example:
        >>> import numpy as np
        >>> from octavo.fake_quant import fake_quantize_backward
        >>> x = np.float32([-900, -4, 3.5, 3.8])
        >>> fake_quantize_backward(np.ones(4, np.float32), x, np.float32(0.5), 0, -8, 7)
        array([0., 1., 1., 0.], dtype=float32)
    """
    compiled = _compiled((grad, x), scale, zero_point, qmin, qmax, axis)
    if compiled is not None:
        return _core.fake_quantize_backward(*compiled.arguments, outer=compiled.outer, inner=compiled.inner)
    dx = np.empty(x.shape, np.float32)
    for (gs, xs, out), (_, r, lo, hi) in _blocks((grad, x, dx), scale, zero_point, qmin, qmax, axis):
        rounded = np.rint(xs * r)
        out[...] = np.where((rounded >= lo) & (rounded <= hi), gs, np.float32(0))
    return dx


def learnable_backward(
    grad: Floats,
    x: Floats,
    scale: Any,
    zero_point: Any,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    grad_factor: float = 1.0,
) -> tuple[Floats, Floats, Floats]:
    """(dL/dx, dL/dscale, dL/dzero_point) for grad = dL/dy; see the top of the file.

    Args:
        grad: float32 of x.shape.
        x, scale, zero_point, qmin, qmax, axis: as for `fake_quantize_forward`.
        grad_factor: f, applied to the gradients of scale and zero point.

    Returns:
        float32 arrays of x.shape, scale.shape and scale.shape; summed up in float64.

    Example:
        >>> import numpy as np
        >>> from octavo.fake_quant import learnable_backward
        >>> _, ds, dz = learnable_backward(np.ones(2, np.float32), np.float32([0.3, 9]), np.float32(0.5), 0, -8, 7)
        >>> round(float(ds), 2), float(dz)
        (7.4, -0.5)
    """
    s = np.asarray(scale, np.float32)
    compiled = _compiled((grad, x), scale, zero_point, qmin, qmax, axis)
    if compiled is not None:
        dx, sums, clamped = _core.learnable_backward(*compiled.arguments, outer=compiled.outer, inner=compiled.inner)
        return _learned(dx, s, sums.reshape(s.shape), clamped.reshape(s.shape), grad_factor)
    dx = np.empty(x.shape, np.float32)
    ds, outside = np.zeros(s.shape, np.float64), np.zeros(s.shape, np.float64)
    for (gs, xs, out), (_, r, lo, hi) in _blocks((grad, x, dx), scale, zero_point, qmin, qmax, axis):
        v = xs * r
        q = np.empty(v.shape, np.float32)
        _steps(xs, r, lo, hi, q)
        inside = np.rint(v) == q
        out[...] = np.where(inside, gs, np.float32(0))
        over = None if axis is None else tuple(i for i in range(xs.ndim) if i != axis % xs.ndim)
        ds += np.sum(gs * (q - np.where(inside, v, np.float32(0))), axis=over, dtype=np.float64)
        outside += np.sum(np.where(inside, np.float32(0), gs), axis=over, dtype=np.float64)
    return _learned(dx, s, ds, outside, grad_factor)


def _learned(
    dx: Floats, s: Floats, sums: NDArray[np.float64], clamped: NDArray[np.float64], factor: float
) -> tuple[Floats, Floats, Floats]:
    dz = -s.astype(np.float64) * clamped
    return dx, (factor * sums).astype(np.float32), (factor * dz).astype(np.float32)


class _Compiled(NamedTuple):
    """What the functions of `_core` take: arrays, then scale, r, lo, hi, each one value a channel."""

    arguments: Any
    outer: int
    inner: int


def _compiled(
    arrays: tuple[Floats, ...], scale: Any, zero_point: Any, qmin: int, qmax: int, axis: int | None
) -> _Compiled | None:
    """None where the array is small, or the parameters are none that C++ takes."""
    x = arrays[-1]
    plain = all(isinstance(a, np.ndarray) and a.dtype == np.float32 and a.shape == x.shape for a in arrays)
    if x.size < _COMPILED_ELEMS or not plain:
        return None
    s = np.asarray(scale, np.float32).reshape(-1)
    z = np.broadcast_to(np.asarray(zero_point, np.float32).reshape(-1), s.shape)
    lo, hi = np.float32(qmin) - z, np.float32(qmax) - z
    if not ((lo >= -_LARGEST) & (lo <= 0) & (hi >= 0) & (hi <= _LARGEST)).all():
        return None
    at = 0 if axis is None else axis % x.ndim
    outer = 1 if axis is None else math.prod(x.shape[:at])
    inner = x.size if axis is None else math.prod(x.shape[at + 1 :])
    if outer * s.size * inner != x.size:
        return None
    with np.errstate(over="ignore"):
        r = np.float32(1) / s
    return _Compiled((*map(np.ascontiguousarray, arrays), s, r, lo, hi), outer, inner)


def _steps(x: Floats, r: Any, lo: Any, hi: Any, out: Floats) -> None:
    """q - zero_point into out."""
    np.multiply(x, r, out=out)
    np.rint(out, out=out)
    np.clip(out, lo, hi, out=out)


def _blocks(arrays: tuple[Floats, ...], scale: Any, zero_point: Any, qmin: int, qmax: int, axis: int | None) -> Any:
    """Blocks of the arrays, with (scale, r, lo, hi) that broadcast against them; the last array may be written to."""
    s = np.asarray(scale, np.float32)
    z = np.broadcast_to(np.asarray(zero_point, np.float32), s.shape)
    ndim = arrays[0].ndim
    if axis is not None:
        other = tuple(i for i in range(ndim) if i != axis % ndim)
        s, z = np.expand_dims(s, other), np.expand_dims(z, other)
    with np.errstate(over="ignore", invalid="ignore"):
        parameters = (s, np.float32(1) / s, np.float32(qmin) - z, np.float32(qmax) - z)
        if axis is not None or not all(a.flags.c_contiguous for a in arrays):
            yield arrays, parameters
            return
        flat = [a.reshape(-1) for a in arrays]
        for start in range(0, flat[0].size, _BLOCK_ELEMS):
            yield tuple(a[start : start + _BLOCK_ELEMS] for a in flat), parameters
