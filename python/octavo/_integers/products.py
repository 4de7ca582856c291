"""matmul and its relatives on arrays of integers and bool."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from octavo import _core
from octavo._integers.operands import Out, as_core_array, integer_array, matmul_shape, result_dtype, with_result
from octavo._integers.packed import PackedInteger

__all__ = ["dot", "inner", "matmul", "matrix_power", "tensordot", "vecdot"]


def matmul(a: ArrayLike, b: ArrayLike | PackedInteger, /, out: Out = None, *, dtype: DTypeLike | None = None) -> Any:
    """y[..., m, n] = sum over k of a[..., m, k] * b[..., k, n], as `numpy.matmul`, for integers and bool.

    Args:
        a: (..., M, K) or (K,): int8 to int64, uint8 to uint64 or bool, of any strides and byte order.
        b: (..., K, N) or (K,), broadcast against a; or a `PackedInteger`.
        out: where the result goes: an array of its shape that its type can be cast to ('same_kind'). It may overlap a
            and b.
        dtype: the type that sums are taken in, by default NumPy's promotion of both types. With a wider one,
            ``matmul(x, y, dtype=np.int32)`` of int8 is exact where int8 sums would wrap.

    Returns:
        (..., M, N), without the dimensions that a 1-D operand lacks; a scalar where both are 1-D.

    Raises:
        TypeError: floats, complex numbers or objects (use np.matmul), and so the list ``[]``, which NumPy reads as
            float64 (write ``np.array([], int)``); a masked array, whose mask would be lost; uint64 with a signed type
            without ``dtype``, for which NumPy has float64; a dtype or out that the types cannot be cast to.
        ValueError: shapes that do not fit, with NumPy's message; out of another shape, or read-only.

    Notes:
        Exactly NumPy's numbers, on every kernel: sums wrap modulo 2**bits, and those of bool are `or` of `and`. The
        result is a plain array where NumPy would keep a subclass, such as np.matrix. Of NumPy's other arguments
        (casting, order, axes) there are none.

        Speed depends on the values, not only on the types: an int64 matrix of small numbers is multiplied as int8.
        Arrays that are misaligned or in foreign byte order are copied first, and an `out` whose rows are not contiguous
        gets a copy; beside that a product takes about 16 MB, and 1 MB a thread, and one of bool a bit for each element
        of b.

    Example:
        >>> import numpy as np, octavo as oc
        >>> a = np.array([[100, 100]], dtype=np.int8)
        >>> oc.matmul(a, a.T), oc.matmul(a, a.T, dtype=np.int32)
        (array([[32]], dtype=int8), array([[20000]], dtype=int32))
    """
    if out is None and dtype is None:
        y = _core.try_integer_matmul(a, b)
        if y is not None:
            return y
    if isinstance(b, PackedInteger):
        return b._left_product(a, out, dtype)
    lhs, rhs = integer_array(a, "a"), integer_array(b, "b")
    result = result_dtype(lhs.dtype, rhs.dtype, dtype)
    shape = matmul_shape(lhs.shape, rhs.shape)
    return with_result(out, shape, result, (lhs, rhs), lambda y: _multiply(lhs, rhs, result, y))


def _multiply(lhs: NDArray[Any], rhs: NDArray[Any], result: np.dtype[Any], y: NDArray[Any]) -> None:
    """y = lhs @ rhs; y is of the result's shape and dtype, its rows contiguous."""
    y = y if rhs.ndim > 1 else y[..., None]
    y = y if lhs.ndim > 1 else y[..., None, :]
    lhs, rhs = as_core_array(np.atleast_2d(lhs), result), as_core_array(rhs if rhs.ndim > 1 else rhs[:, None], result)
    stack = y.shape[:-2]
    if rhs.ndim == 2 and stack and lhs.flags.c_contiguous and y.flags.c_contiguous:  # one matrix of all rows
        rows = math.prod(y.shape[:-1])
        lhs, y = lhs.reshape(rows, lhs.shape[-1]), y.reshape(rows, y.shape[-1])
    elif stack:
        lhs, rhs = np.broadcast_to(lhs, stack + lhs.shape[-2:]), np.broadcast_to(rhs, stack + rhs.shape[-2:])
    _core.integer_matmul(lhs, rhs, y)


def dot(a: ArrayLike, b: ArrayLike, out: Out = None, *, dtype: DTypeLike | None = None) -> Any:
    """y[i..., j..., n] = sum over k of a[i..., k] * b[j..., k, n], as `numpy.dot`, for integers and bool.

    Args:
        a: (..., K), or a scalar.
        b: (..., K, N) or (K,), or a scalar.
        out, dtype: as for `octavo.matmul`.

    Returns:
        a.shape[:-1] + b.shape[:-2] + b.shape[-1:]; the elementwise product where one is a scalar.

    Raises:
        TypeError, ValueError: as for `octavo.matmul`.

    Example:
        >>> import numpy as np, octavo as oc
        >>> int(oc.dot(np.arange(3), np.arange(3)))
        5
    """
    lhs, rhs = integer_array(a, "a"), integer_array(b, "b")
    if lhs.ndim == 0 or rhs.ndim == 0:
        result = result_dtype(lhs.dtype, rhs.dtype, dtype)
        shape = lhs.shape or rhs.shape
        return with_result(out, shape, result, (lhs, rhs), lambda y: np.multiply(lhs, rhs, out=y, dtype=result))
    if rhs.ndim <= 2 and lhs.ndim <= 2:
        return matmul(lhs, rhs, out, dtype=dtype)
    axis = max(rhs.ndim - 2, 0)
    return _contract(lhs, rhs, ([lhs.ndim - 1], [axis]), out, dtype)


def inner(a: ArrayLike, b: ArrayLike, /, *, dtype: DTypeLike | None = None) -> Any:
    """y[i..., j...] = sum over k of a[i..., k] * b[j..., k], as `numpy.inner`, for integers and bool.

    Args:
        a: (..., K), or a scalar.
        b: (..., K), or a scalar.
        dtype: as for `octavo.matmul`.

    Returns:
        a.shape[:-1] + b.shape[:-1]; the elementwise product where one is a scalar.

    Raises:
        TypeError, ValueError: as for `octavo.matmul`.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.inner(np.array([[1, 2], [3, 4]]), np.array([10, 1]))
        array([12, 34])
    """
    lhs, rhs = integer_array(a, "a"), integer_array(b, "b")
    if lhs.ndim == 0 or rhs.ndim == 0:
        return dot(lhs, rhs, dtype=dtype)
    return _contract(lhs, rhs, ([lhs.ndim - 1], [rhs.ndim - 1]), None, dtype)


def vecdot(a: ArrayLike, b: ArrayLike, /, *, axis: int = -1, dtype: DTypeLike | None = None) -> Any:
    """y[...] = sum over k of a[..., k] * b[..., k], as `numpy.vecdot` of NumPy 2, for integers and bool.

    Args:
        a: (..., K).
        b: (..., K), broadcast against a.
        axis: which axis of both is k.
        dtype: as for `octavo.matmul`.

    Returns:
        The broadcast shape without the axis.

    Raises:
        TypeError: as for `octavo.matmul`.
        ValueError: shapes that lack the axis, differ in it, or are not broadcastable beside it.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.vecdot(np.array([[1, 2], [3, 4]]), np.array([10, 1]))
        array([12, 34])
    """
    lhs, rhs = integer_array(a, "a"), integer_array(b, "b")
    for x, name in ((lhs, "a"), (rhs, "b")):
        if not -x.ndim <= operator.index(axis) < x.ndim:
            raise ValueError(f"{name} must have an axis {axis}, got shape {x.shape}")
    if lhs.shape[axis] != rhs.shape[axis]:
        raise ValueError(f"a and b must be of equal length along axis {axis}, got shapes {lhs.shape} and {rhs.shape}")
    lhs, rhs = np.moveaxis(lhs, axis, -1), np.moveaxis(rhs, axis, -1)
    try:
        np.broadcast_shapes(lhs.shape, rhs.shape)
    except ValueError:
        raise ValueError(
            f"a and b must be broadcastable beside axis {axis}, got there shapes {lhs.shape[:-1]} and {rhs.shape[:-1]}"
        ) from None
    y = matmul(lhs[..., None, :], rhs[..., :, None], dtype=dtype)[..., 0, 0]
    return y if y.ndim else y[()]


def tensordot(
    a: ArrayLike, b: ArrayLike, axes: SupportsIndex | Iterable[Any] = 2, *, dtype: DTypeLike | None = None
) -> Any:
    """Sums over pairs of axes, as `numpy.tensordot`, for integers and bool.

    Args:
        a, b: arrays.
        axes: a number n for the last n axes of a and the first n of b; or two axes, or two sequences of them; any of
            these may be an array.
        dtype: as for `octavo.matmul`.

    Returns:
        The axes of a that are not summed over, then those of b.

    Raises:
        TypeError, ValueError: as for `octavo.matmul`; axes of different lengths.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.tensordot(np.ones((2, 3, 4), int), np.ones((3, 4), int))
        array([12, 12])
    """
    lhs, rhs = integer_array(a, "a"), integer_array(b, "b")
    given = _listed(axes)
    if given is not None:
        if len(given) != 2:
            raise ValueError(f"axes must be a number, or axes of a and axes of b, got {axes}")
        pairs = (_axes_of(given[0], lhs.ndim), _axes_of(given[1], rhs.ndim))
    else:
        count = operator.index(cast(SupportsIndex, axes))
        if not 0 <= count <= min(lhs.ndim, rhs.ndim):
            raise ValueError(
                f"axes must be from 0 to {min(lhs.ndim, rhs.ndim)} for shapes {lhs.shape} and {rhs.shape}, got {count}"
            )
        pairs = (list(range(lhs.ndim - count, lhs.ndim)), list(range(count)))
    return np.asarray(_contract(lhs, rhs, pairs, None, dtype))  # never a scalar, as NumPy's


def _listed(x: Any) -> list[Any] | None:
    """What x holds; None for a number, be it an array without dimensions."""
    try:
        return list(x)
    except TypeError:
        return None


def _axes_of(axes: Any, ndim: int) -> list[int]:
    """Axes from 0 to ndim - 1, each once."""
    listed = _listed(axes)
    given = [operator.index(x) for x in ([axes] if listed is None else listed)]
    if any(not -ndim <= x < ndim for x in given):
        raise ValueError(f"axes must lie in {-ndim}..{ndim - 1} for an array of {ndim} dimensions, got {given}")
    found = [x % ndim for x in given]
    if len(set(found)) != len(found):
        raise ValueError(f"axes must differ, got {given}")
    return found


def _contract(
    lhs: NDArray[Any], rhs: NDArray[Any], axes: tuple[list[int], list[int]], out: Out, dtype: DTypeLike | None
) -> Any:
    """Sums over pairs of axes, by one product of matrices."""
    lengths = [lhs.shape[x] for x in axes[0]]
    if lengths != [rhs.shape[x] for x in axes[1]]:
        raise ValueError(
            f"summed axes must be of equal lengths, got axes {axes[0]} of shape {lhs.shape} "
            f"and {axes[1]} of shape {rhs.shape}"
        )
    k = math.prod(lengths)
    lhs_kept = [x for x in range(lhs.ndim) if x not in axes[0]]
    rhs_kept = [x for x in range(rhs.ndim) if x not in axes[1]]
    rows, cols = [lhs.shape[x] for x in lhs_kept], [rhs.shape[x] for x in rhs_kept]
    m, n = math.prod(rows), math.prod(cols)
    left = lhs.transpose(lhs_kept + axes[0]).reshape(m, k)
    right = rhs.transpose(axes[1] + rhs_kept).reshape(k, n)
    result = result_dtype(lhs.dtype, rhs.dtype, dtype)
    return with_result(
        out,
        (*rows, *cols),
        result,
        (lhs, rhs),
        lambda y: _multiply(left, right, result, y.reshape(m, n)),
        contiguous=True,
    )


def matrix_power(a: ArrayLike, n: SupportsIndex, *, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """a @ a @ ... @ a, n times, as `numpy.linalg.matrix_power`, for integers and bool.

    Args:
        a: (..., M, M).
        n: 0 or more; 0 gives the identity.
        dtype: as for `octavo.matmul`.

    Returns:
        (..., M, M).

    Raises:
        TypeError: a is not of integers or bool, or n is not an integer.
        ValueError: a is not square, or n is negative (inverses are not integers: use np.linalg.matrix_power).

    Example:
        >>> import numpy as np, octavo as oc
        >>> int(oc.matrix_power(np.array([[1, 1], [1, 0]]), 90)[0, 1])  # Fibonacci's 90th, beyond 2**53
        2880067194370816120
    """
    base = integer_array(a, "a", "np.linalg.matrix_power")
    power = operator.index(n)
    if base.ndim < 2 or base.shape[-1] != base.shape[-2]:
        raise ValueError(f"a must have square matrices in its last two dimensions, got shape {base.shape}")
    if power < 0:
        raise ValueError(f"n must be 0 or more, got {power}; np.linalg.matrix_power inverts")
    result = result_dtype(base.dtype, base.dtype, dtype)
    base = base.astype(result)
    if power == 0:
        return np.broadcast_to(np.eye(base.shape[-1], dtype=result), base.shape).copy()
    product: NDArray[Any] | None = None
    while True:
        if power & 1:
            product = base if product is None else matmul(product, base)
        power >>= 1
        if power == 0 and product is not None:
            return product
        base = matmul(base, base)
