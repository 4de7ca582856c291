"""ONNX's integer operators on NumPy arrays, exactly as opset 21 defines them.

These follow the ONNX specification and its reference evaluator (onnx.reference), whose arithmetic differs from the rest
of the library: QuantizeLinear divides by the scale, and QLinearMatMul adds the zero point before it rounds.

All operators take int8 and uint8; QuantizeLinear and DequantizeLinear also take int16, uint16 and, held in int8 and
uint8 arrays, int4 and uint4 (or arrays of ml_dtypes' int4 and uint4, which onnx.numpy_helper returns). ONNX stores
four-bit tensors flattened, two integers a byte: `pack_int4(q.reshape(-1))` makes these bytes and
`unpack_int4(stored, q.size).reshape(q.shape)` reads them. bfloat16 and float8, which NumPy lacks, are not supported.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo import _core
from octavo._util.foreign import as_array

__all__ = ["dequantize_linear", "dynamic_quantize_linear", "matmul_integer", "qlinear_matmul", "quantize_linear"]

OutputDtype = Literal["int8", "uint8", "int16", "uint16", "int4", "uint4"]

# Storage and range of each integer type that QuantizeLinear can give.
_QUANTIZED: dict[str, tuple[type[np.generic], int, int]] = {
    "int8": (np.int8, -128, 127),
    "uint8": (np.uint8, 0, 255),
    "int16": (np.int16, -32768, 32767),
    "uint16": (np.uint16, 0, 65535),
    "int4": (np.int8, -8, 7),
    "uint4": (np.uint8, 0, 15),
}
# What holds four-bit integers, one an element.
_FOUR_BITS: dict[str, type[np.generic]] = {"int4": np.int8, "uint4": np.uint8}


def quantize_linear(
    x: ArrayLike,
    y_scale: ArrayLike,
    y_zero_point: ArrayLike | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: OutputDtype | None = None,
) -> NDArray[Any]:
    """y = saturate(rint(x / y_scale) + y_zero_point).

    Args:
        x: float32, float16 or int32, any shape.
        y_scale: the type of x, or float32. A scalar or one element: per tensor. 1-D of x.shape[axis]: per axis. With
            block_size B: x's shape with the length n of `axis` replaced by ceil(n / B), blocked.
        y_zero_point: the shape of y_scale; int8, uint8, int16, uint16 or ml_dtypes' int4 or uint4, which is also the
            type of y. Default: 0.
        axis: the axis of x along which scales differ; negative counts from the end.
        block_size: elements of `axis` that share a scale; 0: not blocked.
        output_dtype: the type of y without a zero point, "uint8" by default. "int4" and "uint4", whose values lie in
            int8 and uint8 arrays, go with a zero point of that storage type.

    Returns:
        y, of the shape of x.

    Raises:
        TypeError: x, y_scale or y_zero_point has a type that the operator does not take.
        ValueError: shapes that do not fit, output_dtype against y_zero_point, or NaN in the quotient.

    Notes:
        The division is done in NumPy's common type of x and y_scale, as in the reference evaluator; ties go to even.
        ONNX does not define NaN and infinity: here infinities saturate and NaN is an error.
        Source: ONNX QuantizeLinear-21.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.ops.quantize_linear(np.float32([0.5, 1.5, 300]), np.float32(1), np.uint8(10))
        array([ 10,  12, 255], dtype=uint8)
        >>> oc.pack_int4(oc.ops.quantize_linear(np.float32([0.5, -1, 9]), np.float32(0.5), output_dtype="int4"))
        array([225,   7], dtype=uint8)
    """
    values = _typed(x, "x", ("float32", "float16", "int32"))
    scale = _typed(y_scale, "y_scale", ("float32", "float16", "int32"))
    zero_point = None
    named: str | None = output_dtype
    if y_zero_point is not None:
        zero_point = _typed(y_zero_point, "y_zero_point", ("int8", "uint8", "int16", "uint16", "int4", "uint4"))
        kind = as_array(y_zero_point, "y_zero_point").dtype.name
        named = kind if named is None and kind in _FOUR_BITS else named
        _same_shape(zero_point, scale, "y_zero_point", "y_scale")
    storage, qmin, qmax = _output_type(zero_point, named)
    with np.errstate(all="ignore"):
        steps = np.divide(values, _spread(scale, values.shape, axis, block_size, "y_scale"))
    # float16 holds neither 65,535 nor every sum with a zero point; from here on all values are whole and small.
    steps = np.asarray(steps, dtype=np.float32 if steps.dtype == np.float16 else steps.dtype)
    np.rint(steps, out=steps)
    if np.isnan(steps).any():
        raise ValueError("x / y_scale must not be NaN, which no integer stands for; remove NaN from x and y_scale")
    if zero_point is None:
        return np.clip(steps, qmin, qmax, out=steps).astype(storage)
    z = _spread(zero_point.astype(steps.dtype), values.shape, axis, block_size, "y_zero_point")
    np.clip(steps, qmin - z, qmax - z, out=steps)
    np.add(steps, z, out=steps)
    return steps.astype(storage)


def dequantize_linear(
    x: ArrayLike,
    x_scale: ArrayLike,
    x_zero_point: ArrayLike | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
) -> NDArray[Any]:
    """y = (x - x_zero_point) * x_scale.

    Args:
        x: int8, uint8, int16, uint16 or (without a zero point other than 0) int32, any shape. int4 and uint4 values in
            int8 and uint8 arrays (`unpack_int4` gives them), or in those of ml_dtypes, are the same.
        x_scale: float32 or float16; shapes as in `quantize_linear`.
        x_zero_point: the type of x and the shape of x_scale. Default: 0.
        axis, block_size: as in `quantize_linear`.

    Returns:
        y in the type of x_scale, of the shape of x.

    Raises:
        TypeError: types that the operator does not take, or that differ between x and x_zero_point.
        ValueError: shapes that do not fit.

    Notes:
        x - x_zero_point is exact, the product rounds once in float32. Source: ONNX DequantizeLinear-21.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.ops.dequantize_linear(np.uint8([0, 10, 255]), np.float32(0.5), np.uint8(10))
        array([ -5. ,   0. , 122.5], dtype=float32)
    """
    q = _typed(x, "x", ("int8", "uint8", "int16", "uint16", "int32", "int4", "uint4"))
    scale = _typed(x_scale, "x_scale", ("float32", "float16"))
    y = q.astype(np.float32)
    if x_zero_point is not None:
        four_bits = tuple(name for name, storage in _FOUR_BITS.items() if storage == q.dtype)
        zero_point = _typed(x_zero_point, "x_zero_point", (q.dtype.name, *four_bits))
        _same_shape(zero_point, scale, "x_zero_point", "x_scale")
        if q.dtype == np.int32 and zero_point.any():
            raise ValueError("x_zero_point must be 0 for int32 x, as ONNX says; subtract it from x")
        y -= _spread(zero_point.astype(np.float32), q.shape, axis, block_size, "x_zero_point")
    with np.errstate(all="ignore"):
        y *= _spread(scale.astype(np.float32), q.shape, axis, block_size, "x_scale")
        return y.astype(scale.dtype, copy=False)


def dynamic_quantize_linear(x: ArrayLike) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """y_scale = (hi - lo) / 255, y_zero_point = rint(clip(-lo / y_scale, 0, 255)),
    y = clip(rint(x / y_scale) + y_zero_point, 0, 255), with lo = min(0, min x) and hi = max(0, max x).

    Args:
        x: float32, any shape, finite.

    Returns:
        (y, y_scale, y_zero_point): uint8 of x's shape, float32 (), uint8 ().

    Raises:
        TypeError: x is not float32.
        ValueError: NaN or infinity in x, or a range that float32 does not hold.

    Notes:
        Where hi == lo (x is empty or all zeros), the range counts as 1. Ties go to even. Where hi - lo is so small
        (below 1.79e-43) that the scale underflows to 0, y_zero_point is 255 and y is 255 for positive values, 0
        for all others, as onnx.reference and ONNX Runtime have it. Source: ONNX DynamicQuantizeLinear-11.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.ops.dynamic_quantize_linear(np.float32([-1, 0, 1.55]))
        (array([  0, 100, 255], dtype=uint8), array(0.01, dtype=float32), array(100, dtype=uint8))
    """
    values = _typed(x, "x", ("float32",))
    zero = np.float32(0)
    with np.errstate(all="ignore"):
        lo, hi = np.minimum(values.min(initial=0), zero), np.maximum(values.max(initial=0), zero)
        span = np.float32(1) if lo == hi else hi - lo
        if not np.isfinite(span):
            raise ValueError(f"x must be finite with a range that float32 holds, got values from {lo} to {hi}")
        scale = span / np.float32(255)
        quotient = -lo / scale
        zero_point = np.float32(255) if np.isnan(quotient) else np.rint(np.clip(quotient, zero, np.float32(255)))
        y = np.asarray(np.rint(values / scale))
    y += zero_point
    np.clip(y, 0, 255, out=y)
    if scale == 0:
        y[np.isnan(y)] = 0
    return y.astype(np.uint8), np.array(scale), np.array(zero_point.astype(np.uint8))


def matmul_integer(
    a: ArrayLike, b: ArrayLike, a_zero_point: ArrayLike | None = None, b_zero_point: ArrayLike | None = None
) -> NDArray[np.int32]:
    """y = (a - a_zero_point) @ (b - b_zero_point), int32.

    Args:
        a: int8 or uint8 (..., M, K); broadcast against b as numpy.matmul does, (K,) too.
        b: int8 or uint8 (..., K, N) or (K,).
        a_zero_point: the type of a; one element, or one for each row: (M,) or (..., M, 1). Default: 0.
        b_zero_point: the type of b; one element, or one for each column: (N,) or (..., 1, N). Default: 0.

    Returns:
        int32 (..., M, N). Every product is exact; for K above 33,025 a sum may leave int32 and then wraps modulo 2**32.

    Raises:
        TypeError: an operand that is not int8 or uint8, or a zero point of another type than its operand.
        ValueError: shapes that do not fit.

    Notes:
        Where b is 2-D there is one call of the kernels, whatever the batch of a; otherwise one for each matrix.
        Source: ONNX MatMulInteger-10.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.ops.matmul_integer(np.uint8([[0, 255]]), np.int8([[1], [-128]]), a_zero_point=np.uint8(128))
        array([[-16384]], dtype=int32)
    """
    lhs, rhs = _typed(a, "a", ("int8", "uint8")), _typed(b, "b", ("int8", "uint8"))
    if lhs.ndim == 0 or rhs.ndim == 0:
        raise ValueError(f"a and b must have at least one dimension, got shapes {lhs.shape} and {rhs.shape}")
    lhs_vector, rhs_vector = lhs.ndim == 1, rhs.ndim == 1
    lhs = lhs[None, :] if lhs_vector else lhs
    rhs = rhs[:, None] if rhs_vector else rhs
    if lhs.shape[-1] != rhs.shape[-2]:
        raise ValueError(f"the last dimension of a must equal the last but one of b, got {lhs.shape} and {rhs.shape}")
    lhs_zero = _zero_points(a_zero_point, lhs, "a_zero_point", axis=-2)
    rhs_zero = _zero_points(b_zero_point, rhs, "b_zero_point", axis=-1)
    y = _batched(lhs, rhs, lhs_zero, rhs_zero)
    if lhs_vector:
        y = y[..., 0, :]
    return y[..., 0] if rhs_vector else y


def qlinear_matmul(
    a: ArrayLike,
    a_scale: ArrayLike,
    a_zero_point: ArrayLike,
    b: ArrayLike,
    b_scale: ArrayLike,
    b_zero_point: ArrayLike,
    y_scale: ArrayLike,
    y_zero_point: ArrayLike,
) -> NDArray[Any]:
    """y = saturate(rint((a - za) @ (b - zb) * (a_scale * b_scale / y_scale) + y_zero_point)).

    Args:
        a, b, a_zero_point, b_zero_point: as in `matmul_integer`.
        a_scale, y_scale: float32 or float16; one element, or one for each row: (M,) or (..., M, 1).
        b_scale: one element, or one for each column: (N,) or (..., 1, N).
        y_zero_point: int8 or uint8, the type of y; one element, or one for each row.

    Returns:
        int8 or uint8 (..., M, N).

    Raises:
        TypeError, ValueError: as in `matmul_integer`; NaN in the rescaled product.

    Notes:
        The quotient of scales is rounded in their own type, the product with the int32 sums and the sum with the zero
        point in float64, as NumPy's promotion has it in the reference evaluator. Ties go to even. The sums wrap as in
        `matmul_integer`. Source: ONNX QLinearMatMul-21.

    Example:
        >>> import numpy as np, octavo as oc
        >>> f, u = np.float32, np.uint8
        >>> oc.ops.qlinear_matmul(u([[2, 3]]), f(0.5), u(0), u([[4], [5]]), f(0.5), u(0), f(1), u(100))
        array([[106]], dtype=uint8)
    """
    sums = matmul_integer(a, b, a_zero_point, b_zero_point)
    a_vector, b_vector = np.ndim(a) == 1, np.ndim(b) == 1

    def of_rows(p: NDArray[Any], name: str) -> NDArray[Any]:
        return _along(p, sums, name, axis=-2, absent=a_vector, alone=b_vector)

    floats = ("float32", "float16")
    sa = of_rows(_typed(a_scale, "a_scale", floats), "a_scale")
    sb = _along(_typed(b_scale, "b_scale", floats), sums, "b_scale", axis=-1, absent=b_vector, alone=a_vector)
    sy = of_rows(_typed(y_scale, "y_scale", floats), "y_scale")
    zero = _typed(y_zero_point, "y_zero_point", ("int8", "uint8"))
    zy = of_rows(zero, "y_zero_point")
    _, qmin, qmax = _QUANTIZED[zero.dtype.name]
    with np.errstate(all="ignore"):
        y = np.multiply(sums, sa * sb / sy, dtype=np.float64)
    y += zy
    np.rint(y, out=y)
    if np.isnan(y).any():
        raise ValueError("the rescaled product must not be NaN; make scales positive and finite")
    saturated: NDArray[Any] = np.clip(y, qmin, qmax, out=y).astype(zero.dtype)
    return saturated


def _typed(x: ArrayLike, name: str, dtypes: tuple[str, ...]) -> NDArray[Any]:
    """x as an array in native byte order, of one of the dtypes; four-bit ones as what holds them."""
    array = as_array(x, name)
    if array.dtype.name not in dtypes:
        raise TypeError(f"{name} must be {' or '.join(dtypes)}, got dtype {array.dtype}; convert it with astype")
    if array.dtype.name in _FOUR_BITS:
        return array.astype(_FOUR_BITS[array.dtype.name])
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _same_shape(zero_point: NDArray[Any], scale: NDArray[Any], zero_name: str, scale_name: str) -> None:
    if zero_point.shape != scale.shape and not zero_point.size == scale.size == 1:
        raise ValueError(f"{zero_name} must have the shape of {scale_name}, {scale.shape}, got {zero_point.shape}")


def _output_type(zero_point: NDArray[Any] | None, output_dtype: str | None) -> tuple[type[np.generic], int, int]:
    if output_dtype is not None and output_dtype not in _QUANTIZED:
        raise ValueError(f"output_dtype must be one of {', '.join(_QUANTIZED)}, got {output_dtype!r}")
    if zero_point is None:
        return _QUANTIZED[output_dtype or "uint8"]
    named = output_dtype or zero_point.dtype.name
    storage, qmin, qmax = _QUANTIZED[named]
    if zero_point.dtype != storage:
        raise ValueError(f"output_dtype {named} needs a y_zero_point of {np.dtype(storage)}, got {zero_point.dtype}")
    if zero_point.size and (zero_point.min() < qmin or zero_point.max() > qmax):
        raise ValueError(
            f"y_zero_point must lie in {qmin}..{qmax} for {named}, got {zero_point.min()}..{zero_point.max()}"
        )
    return storage, qmin, qmax


def _spread(p: NDArray[Any], shape: tuple[int, ...], axis: int, block_size: int, name: str) -> NDArray[Any]:
    """A parameter per tensor, per axis or per block, in a shape that broadcasts against x."""
    if block_size < 0:
        raise ValueError(f"block_size must be 0 or more, got {block_size}")
    if p.ndim == 0 or (p.size == 1 and not block_size):
        return p.reshape(())
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis must be one of the {len(shape)} of x, got {axis} for shape {shape}")
    axis %= len(shape)
    if not block_size:
        if p.shape != (shape[axis],):
            raise ValueError(f"{name} must be a scalar or have shape ({shape[axis]},) for axis {axis}, got {p.shape}")
        return p.reshape((-1,) + (1,) * (len(shape) - axis - 1))
    blocks = (*shape[:axis], -(-shape[axis] // block_size), *shape[axis + 1 :])
    if p.shape != blocks:
        raise ValueError(f"{name} must have shape {blocks} for block_size {block_size} on axis {axis}, got {p.shape}")
    within = (slice(None),) * axis + (slice(shape[axis]),)
    return np.repeat(p, block_size, axis=axis)[within]


def _zero_points(given: ArrayLike | None, operand: NDArray[Any], name: str, *, axis: int) -> NDArray[np.int32]:
    """Zero points as int32 (1,), or with one element for each row (axis -2) or column (axis -1) of every matrix."""
    if given is None:
        return np.zeros(1, np.int32)
    z = _typed(given, name, (operand.dtype.name,)).astype(np.int32)
    if z.size == 1:
        return z.reshape(1)
    count = operand.shape[axis]
    lines = (*operand.shape[:-2], count)
    if z.shape == (count,):
        return z if operand.ndim == 2 else np.broadcast_to(z, lines)
    kept = [*operand.shape]
    kept[-1 if axis == -2 else -2] = 1
    if z.shape == tuple(kept):
        return z.reshape(lines)
    raise ValueError(f"{name} must have one element, or shape ({count},) or {tuple(kept)}, got {z.shape}")


def _along(p: NDArray[Any], y: NDArray[Any], name: str, *, axis: int, absent: bool, alone: bool) -> NDArray[Any]:
    """A scale or zero point of the rows (axis -2) or columns (axis -1) of y, shaped to broadcast against y.

    absent: that operand was 1-D, so y has no such axis. alone: the other one was, so y has no other.
    """
    if p.size == 1:
        return p.reshape(())
    if not absent:
        count = y.shape[-1] if alone else y.shape[axis]
        if p.shape == (count,):
            return p[:, None] if axis == -2 and not alone else p
        if p.ndim >= 2 and p.shape[-2:] == ((count, 1) if axis == -2 else (1, count)):
            return p.reshape((*p.shape[:-2], count)) if alone else p
    raise ValueError(f"{name} must have one element or one a {'row' if axis == -2 else 'column'}, got shape {p.shape}")


def _batched(
    a: NDArray[Any], b: NDArray[Any], a_zero: NDArray[np.int32], b_zero: NDArray[np.int32]
) -> NDArray[np.int32]:
    """(..., M, K) by (..., K, N), broadcast; zero points (1,) or (..., M) and (..., N)."""
    m, n = a.shape[-2], b.shape[-1]
    if b.ndim == 2:
        rows = a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
        flat = np.ascontiguousarray(a_zero.reshape(-1))
        if flat.size == 0:
            flat = np.zeros(1, np.int32)
        return _core.matmul_integer(rows, b, flat, np.ascontiguousarray(b_zero)).reshape(*a.shape[:-1], n)
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError as error:
        raise ValueError(f"the batches of a and b must broadcast, got shapes {a.shape} and {b.shape}") from error
    a, b = np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))
    if a_zero.shape != (1,):
        a_zero = np.broadcast_to(a_zero, (*batch, m))
    if b_zero.shape != (1,):
        b_zero = np.broadcast_to(b_zero, (*batch, n))
    y = _core.empty_result(math.prod(batch) * m, n, np.dtype(np.int32)).reshape(*batch, m, n)
    for at in np.ndindex(batch):
        za = a_zero if a_zero.shape == (1,) else a_zero[at]
        zb = b_zero if b_zero.shape == (1,) else b_zero[at]
        y[at] = _core.matmul_integer(a[at], b[at], np.ascontiguousarray(za), np.ascontiguousarray(zb))
    return y
