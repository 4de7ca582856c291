"""The definition, in NumPy, of quantize, dequantize and fake_quantize.

    r = fl(1 / scale)
    q = int(clamp(rint(x * r), qmin - zero_point, qmax - zero_point)) + zero_point
    x' = (q - zero_point) * scale

All of it is float32 with one rounding per operation, ties to even. The compiled kernels give the same bits and are
tested against this file. Values are clamped before they are converted to integers, because CPUs differ in what an
overflowing conversion gives.

Integers stay in float32 until they are stored: sums and differences of two of them are below 2**10 and so exact, and
one working copy of the data is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo._numerics.params import Array, QParams, aligned, check_qparams, check_shape, choose_qparams, qint8
from octavo._util.arrays import as_real_array, first_place, large_zeros, real_dtype, require_finite, row_blocks
from octavo._util.foreign import as_array

__all__ = ["dequantize", "fake_quantize", "quantize", "quantize_weight"]


def quantize(x: npt.ArrayLike, qparams: QParams) -> Array:
    """Round to integers: q = int(clamp(rint(x * r), qmin - z, qmax - z)) + z.

    Here r = fl(1 / scale) and z = zero_point.

    Args:
        x: float16, float32, float64, integer or bool, of any memory layout, without NaN. Any shape for per-tensor
            parameters; otherwise one that fits the shape of the scale.
        qparams: see `choose_qparams`.

    Returns:
        A new C-contiguous array of x.shape in the storage dtype, int8 or uint8, with values in [qmin, qmax].

    Raises:
        TypeError: `x` holds something other than real numbers, or `qparams` is not a QParams.
        ValueError: NaN in `x`; a shape that does not fit the parameters.

    Notes:
        `x` is converted to float32, and ties go to even. Values outside the range saturate, including infinity and
        float64 values that float32 does not hold. torch multiplies by r as well; ONNX's QuantizeLinear divides by the
        scale, which sends a few values near a tie to the other side (see `octavo.ops`).

    Example:
        >>> import octavo as oc
        >>> oc.quantize([-0.25, 0.25, 0.75, 1.0, 900.0], oc.QParams(0.5, 10, "uint8"))
        array([ 10,  10,  12,  12, 255], dtype=uint8)
    """
    values, steps = _clamped_steps(x, qparams)
    q = np.empty(values.shape, qparams.qtype.storage)
    for (out, step), (zero_point,) in _views((q, steps), (qparams.zero_point,), qparams):
        np.add(step, zero_point, out=out, dtype=np.float32, casting="unsafe")
    return q


def dequantize(q: npt.ArrayLike, qparams: QParams) -> npt.NDArray[np.float32]:
    """Return the reals that integers stand for: x' = (q - zero_point) * scale.

    Args:
        q: integers of any dtype whose values fit the storage dtype, int8 or uint8. Any shape for per-tensor
            parameters; otherwise one that fits the shape of the scale.
        qparams: the parameters that `q` was quantized with.

    Returns:
        A new C-contiguous float32 array of q.shape.

    Raises:
        TypeError: `q` does not hold integers, or `qparams` is not a QParams.
        ValueError: a value outside the storage dtype; a shape that does not fit the parameters.

    Notes:
        q - zero_point is exact, and the product rounds once; a product beyond float32 is infinite. Values outside
        [qmin, qmax] are dequantized like any other, as ONNX's DequantizeLinear and torch.dequantize do.

    Example:
        >>> import octavo as oc
        >>> oc.dequantize([0, 10, 12, 255], oc.QParams(0.5, 10, "uint8"))
        array([ -5. ,   0. ,   1. , 122.5], dtype=float32)
    """
    check_qparams(qparams)
    integers = _stored_integers(q, qparams)
    check_shape(integers.shape, qparams, "q")
    x = np.empty(integers.shape, np.float32)
    with np.errstate(all="ignore"):
        for (out, block), (scale, zero_point) in _views((x, integers), tuple(qparams), qparams):
            np.subtract(block, zero_point, out=out, dtype=np.float32, casting="same_kind")
            np.multiply(out, scale, out=out)
    return x


def fake_quantize(x: npt.ArrayLike, qparams: QParams) -> npt.NDArray[np.floating[Any]]:
    """Round to the values that integers can stand for: x' = dequantize(quantize(x)), the same bits.

    Args:
        x: as for `quantize`.
        qparams: see `choose_qparams`.

    Returns:
        A new C-contiguous array of x.shape: float16 for float16, float64 for float64, float32 for all else.

    Raises:
        TypeError: `x` holds something other than real numbers, or `qparams` is not a QParams.
        ValueError: NaN in `x`; a shape that does not fit the parameters.

    Notes:
        Computed in float32 without storing integers; rounding and saturation are those of `quantize`. Zero, and
        whatever rounds to it, comes back as +0. Values that float16 does not hold come back as infinity.

    Example:
        >>> import octavo as oc
        >>> oc.fake_quantize([-0.25, 0.3, 0.75, 900.0], oc.QParams(0.5, 0, "int4"))
        array([0. , 0.5, 1. , 3.5])
    """
    values, steps = _clamped_steps(x, qparams)
    with np.errstate(all="ignore"):
        np.add(steps, np.float32(0), out=steps)  # -0 becomes +0, as it does in an integer
        for (step,), (scale,) in _views((steps,), (qparams.scale,), qparams):
            np.multiply(step, scale, out=step)
        return steps.astype(real_dtype(values), copy=False)


def _clamped_steps(x: npt.ArrayLike, qparams: QParams) -> tuple[Array, npt.NDArray[np.float32]]:
    """`x` as an array, and q - zero_point for it as float32."""
    check_qparams(qparams)
    values = as_real_array(x, "x")
    check_shape(values.shape, qparams, "x")
    steps = np.empty(values.shape, np.float32)
    lowest = np.asarray(qparams.qmin - qparams.zero_point, np.float32)
    highest = np.asarray(qparams.qmax - qparams.zero_point, np.float32)
    with np.errstate(all="ignore"):
        reciprocal = np.asarray(np.float32(1) / qparams.scale)
        for (block, out), (r, low, high) in _views((values, steps), (reciprocal, lowest, highest), qparams):
            np.multiply(block, r, out=out, dtype=np.float32, casting="same_kind")
            np.rint(out, out=out)
            np.clip(out, low, high, out=out)
        # A minimum keeps NaN, and needs no array of truth values.
        has_nan = np.isnan(np.min(steps, initial=0))
    if has_nan:
        bad = np.isnan(values)
        raise ValueError(
            f"x must not hold NaN, got {np.count_nonzero(bad)} of {values.size} values, the first at"
            f" {first_place(bad, 'x')}; no integer stands for NaN: replace it, or correct its source"
        )
    return values, steps


def _stored_integers(q: npt.ArrayLike, qparams: QParams) -> Array:
    integers, storage = as_array(q, "q"), qparams.qtype.storage
    if integers.dtype.kind not in "iu":
        raise TypeError(f"q must hold integers, got {type(q).__name__} of dtype {integers.dtype}; quantize it first")
    if not np.can_cast(integers.dtype, storage):
        limits = np.iinfo(storage)
        bad = (integers < limits.min) | (integers > limits.max)
        if bad.any():
            raise ValueError(
                f"q must fit {storage.name}, the storage of {qparams.qtype.name}, got {integers[bad][0]} at"
                f" {first_place(bad, 'q')}; check that these are the parameters q was quantized with"
            )
    return integers


def quantize_weight(weight: Array) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """What layers hold: q = rint(w / scale[n]) in -127..127, scale[n] = max|w[n]| / 127 of each output n.

    Args:
        weight: (N, K), real.

    Returns:
        (q, scale) of shapes (N, K) and (N,).

    Raises:
        TypeError: the weight is not real.
        ValueError: it holds NaN or infinity.

    Example:
        >>> quantize_weight(np.array([[1.0, -127.0], [0.5, 0.0]]))
        (array([[   1, -127],
               [ 127,    0]], dtype=int8), array([1.        , 0.00393701], dtype=float32))
    """
    weight = as_real_array(weight, "weight")
    require_finite(weight, "weight")
    q, scale = large_zeros(weight.shape, np.int8), np.empty(weight.shape[:1], np.float32)
    for rows in row_blocks(weight.shape):
        params = choose_qparams(weight[rows], qint8, axis=0, qmin=-127, qmax=127)
        q[rows], scale[rows] = quantize(weight[rows], params), params.scale
    return q, scale


def _views(
    arrays: tuple[Array, ...], params: tuple[Array, ...], qparams: QParams
) -> Iterator[tuple[tuple[Array, ...], tuple[Array, ...]]]:
    return aligned(arrays, params, qparams.axis, qparams.group_size)
