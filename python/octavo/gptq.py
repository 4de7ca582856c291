"""GPTQ: rounding a layer's weights so that its output, on its own inputs, changes least.

Source: Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (ICLR 2023), with the scales of a group searched when its first column is reached.

For one row w of the weight and H = X^T X, the columns are rounded one after the other; each column's rounding error is
undone, as far as the columns behind it can, by moving those:

    e = (w[k] - w'[k]) / U[k, k]         w[j] -= e U[k, j]   for j > k         U upper, U^T U = H^-1
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.int4 import GroupedWeight, ScaleDtype
from octavo.qparams import as_real_array
from octavo.rounding import as_weight, round_groups

__all__ = ["InputStatistics", "round_gptq"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# Columns whose errors are spread at once behind the block: a matrix product then does most of the work.
_BLOCK = 128
# Rows of inputs that enter the sums at a time.
_ROWS = 4096


class InputStatistics:
    """Sums over a layer's inputs that rounding needs: X^T X, (K, K), in memory that does not grow with the rows.

    Args:
        in_features: K. The matrix takes 8 K^2 bytes: 5 MB for K = 768, 134 MB for 4096, 970 MB for 11008.

    Example:
        >>> import numpy as np
        >>> statistics = InputStatistics(2)
        >>> statistics.update(np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> statistics.rows, statistics.importance
        (2, array([ 5., 10.]))
    """

    def __init__(self, in_features: int) -> None:
        self.hessian: Doubles = np.zeros((in_features, in_features))
        self.rows = 0

    def update(self, x: npt.ArrayLike) -> None:
        """Adds inputs x (..., K).

        Raises:
            TypeError: x is not real.
            ValueError: its last axis is not K, or it holds NaN or infinity; nothing was added then.
        """
        values, k = as_real_array(x, "inputs"), len(self.hessian)
        if values.ndim == 0 or values.shape[-1] != k:
            raise ValueError(f"inputs must have shape (..., {k}), got {values.shape}")
        values = values.reshape(-1, k)
        if not np.isfinite(values).all():
            raise ValueError("inputs must be finite, got NaN or infinity")
        for first in range(0, len(values), _ROWS):
            part = values[first : first + _ROWS].astype(np.float32, copy=False)
            self.hessian += part.T @ part
        self.rows += len(values)

    @property
    def importance(self) -> Doubles:
        """The mean of x[k]^2, (K,): `importance` of `octavo.rounding.round_search`."""
        return self.hessian.diagonal() / max(self.rows, 1)


def round_gptq(
    weight: npt.ArrayLike,
    inputs: npt.ArrayLike | InputStatistics,
    *,
    group_size: int | None = None,
    symmetric: bool = True,
    scale_dtype: ScaleDtype = "float32",
    damping: float = 0.01,
) -> GroupedWeight:
    """Four-bit weights that minimise the layer's output error sum (x w^T - x w'^T)^2 on its inputs, greedily.

    Args:
        weight, group_size, symmetric, scale_dtype: as for `octavo.rounding.round_nearest`.
        inputs: (..., K) of the layer, a few hundred rows or more; or their `InputStatistics`.
        damping: added to the diagonal of X^T X, as a share of its mean: more of it trusts the inputs less.

    Returns:
        A GroupedWeight, as from `round_search`.

    Raises:
        TypeError: weight or inputs are not real.
        ValueError: inputs do not fit or hold NaN or infinity, there are none, or damping is not positive.

    Inputs that are always zero leave their columns to the plain search. The order of columns is ascending; scales are
    searched with the columns' importance. In float32, with the inverse's factor from float64.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((512, 4)) @ rng.standard_normal((4, 64))  # correlated inputs
        >>> w = rng.standard_normal((32, 64), dtype=np.float32)
        >>> from octavo.rounding import round_search
        >>> def output_error(rounded):
        ...     return float(np.square(x @ (rounded.dequantize() - w).T).sum())
        >>> output_error(round_gptq(w, x, group_size=32)) < 0.5 * output_error(round_search(w, group_size=32))
        True
    """
    w = as_weight(weight)
    n, k = w.shape
    if isinstance(inputs, InputStatistics):
        statistics = inputs
    else:
        statistics = InputStatistics(k)
        statistics.update(inputs)
    if statistics.hessian.shape != (k, k):
        raise ValueError(f"inputs must have {k} features to fit weight {w.shape}, got {len(statistics.hessian)}")
    if statistics.rows == 0:
        raise ValueError("inputs must hold at least one row, got none")
    if not damping > 0:
        raise ValueError(f"damping must be positive, got {damping}")
    size = k if group_size is None else group_size
    shape = (n, 1 if group_size is None else -(-k // max(size, 1)))
    result = GroupedWeight(  # checks group_size and scale_dtype before anything is computed
        np.zeros((n, k), np.int8),
        np.ones(shape, np.float32),
        None if symmetric else np.zeros(shape, np.int8),
        group_size,
        scale_dtype,
    )
    factor = _inverse_factor(statistics.hessian, damping)
    importance = statistics.importance
    rest = np.array(w.T, order="C")  # (K, N): a column of the weight is one run of memory; a copy, which is written to
    for g, first in enumerate(range(0, k, size)):
        columns = slice(first, min(k, first + size))
        counts = importance[columns]
        weighed = (counts / counts.max(initial=0)).astype(np.float32)[None] if counts.max(initial=0) > 0 else None
        group = np.ascontiguousarray(rest[columns].T)[:, None]
        _, s, z = round_groups(group, weighed, symmetric=symmetric, scale_dtype=scale_dtype, search=True)
        zero = np.zeros(n, np.float32) if z is None else z[:, 0].astype(np.float32)
        _round_columns(rest, columns, factor, s[:, 0], zero, result.q)
        result.scale[:, g] = s[:, 0]
        if result.zero_point is not None and z is not None:
            result.zero_point[:, g] = z[:, 0]
    return GroupedWeight(result.q, result.scale, result.zero_point, group_size, scale_dtype)


def _inverse_factor(hessian: Doubles, damping: float) -> Floats:
    """U, upper, with U^T U = (H + damping)^-1."""
    h = hessian.copy()
    diagonal = np.einsum("kk->k", h)
    # Also what makes H invertible where inputs depend on each other or are always zero.
    diagonal += damping * ((float(diagonal.mean()) if len(h) else 0.0) or 1.0)
    # With P the reversal of the order, P H P = L L^T gives H = (P L P)(P L P)^T, P L P upper, and U its inverse.
    lower = np.linalg.cholesky(h[::-1, ::-1])
    return np.linalg.inv(lower[::-1, ::-1]).astype(np.float32)


def _round_columns(
    rest: Floats, columns: slice, factor: Floats, scale: Floats, zero: Floats, q: npt.NDArray[np.int8]
) -> None:
    """Rounds columns of one group into q; `rest` (K, N) takes the corrections, up to its last row."""
    for first in range(columns.start, columns.stop, _BLOCK):
        last = min(columns.stop, first + _BLOCK)
        block, u = rest[first:last], factor[first:last]
        errors = np.empty_like(block)
        for i in range(last - first):
            rounded = np.clip(np.rint(block[i] / scale) + zero, -8, 7)
            q[:, first + i] = rounded
            errors[i] = (block[i] - (rounded - zero) * scale) / u[i, first + i]
            block[i + 1 :] -= u[i, first + i + 1 : last, None] * errors[i]
        rest[last:] -= u[:, last:].T @ errors
