"""GPTQ: rounding a layer's weights to four bits so that its output, on its own inputs, changes least.

Source: Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (ICLR 2023); the scales of groups are searched as in `octavo.round_search`.

For one row w of the weight and H = X^T X, the columns, numbered in the order chosen, are rounded one after the other.
The columns behind each one are then moved, so that they undo its rounding error as far as they can:

    e = (w[k] - w'[k]) / U[k, k]         w[j] -= e U[k, j]   for j > k         U upper, U^T U = H^-1

The output's squared error is then the sum of all e^2, so that 1 / U[k, k]^2 is what an error of column k costs. What
`refinement.py` does afterwards lowers it further.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from octavo._numerics.checks import as_input_rows
from octavo._numerics.input_scale import input_factors
from octavo._numerics.int4 import GroupedWeight, ScaleDtype
from octavo._numerics.refinement import refine_groups
from octavo._numerics.rotation import as_rotation, rotated_products
from octavo._numerics.rounding import as_weight, power_of_two, round_groups, round_search, zero_weight
from octavo._util.floating import quiet

__all__ = ["InputStatistics", "as_statistics", "checked_block", "inverse_factor", "round_columns", "round_gptq"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

# Rows of inputs that enter the sums at a time, and columns of X^T X that are computed at a time.
_ROWS = 1024
_COLUMNS = 1024
# Up to here a triangle is inverted by NumPy; larger ones by halves, in matrix products.
_TRIANGLE = 256
# Weights beyond it are scaled down on the way: their corrections might leave float32.
_LARGE = np.float32(2.0**64)


class InputStatistics:
    """Sums over a layer's inputs that rounding needs, in memory that does not grow with the number of rows.

    Args:
        in_features: K.
        products: whether to keep `hessian`, which `round_gptq` needs: 8 K^2 bytes, 5 MB for K = 768, 134 MB for 4096,
            970 MB for 11008. Without it 8 K bytes are kept, enough for `importance`.

    Rows are summed in float32, up to 1024 at a time, and these sums are added in float64.

    Example:
        >>> import numpy as np
        >>> statistics = InputStatistics(2)
        >>> statistics.update(np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> statistics.rows, statistics.importance
        (2, array([ 5., 10.]))
        >>> statistics.hessian
        array([[10., 14.],
               [14., 20.]])
    """

    def __init__(self, in_features: int, *, products: bool = True) -> None:
        self.in_features = operator.index(in_features)
        self.rows = 0
        self._squares: Doubles = np.zeros(self.in_features)
        self._products: Doubles | None = np.zeros((self.in_features, self.in_features)) if products else None
        self._pending: list[Floats] = []

    @quiet
    def update(self, x: npt.ArrayLike) -> None:
        """Adds inputs x (..., K).

        Raises:
            TypeError: x is not real.
            ValueError: its last axis is not K, or it holds NaN or infinity in float32; nothing was added then.
        """
        rows = as_input_rows(x, self.in_features)
        parts = [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]
        with np.errstate(all="ignore"):
            if not all(np.isfinite(part.astype(np.float32, copy=False)).all() for part in parts):
                raise ValueError("inputs must be finite in float32, got NaN or infinity")
        for part in parts:
            self._squares += np.square(part, dtype=np.float64).sum(axis=0)
            if self._products is not None:
                # Few rows at a time would cost a pass over all of X^T X each.
                if sum(map(len, self._pending)) + len(part) > _ROWS:
                    self._flush(self._products)
                self._pending.append(part.astype(np.float32))  # a copy: the caller may write to x before the flush
        self.rows += len(rows)

    @quiet
    def merge(self, other: InputStatistics) -> InputStatistics:
        """Adds what other statistics of the same inputs have seen, so that collecting can be split over processes.

        The sums are those of one process up to the rounding of float32 sums of up to 1024 rows, of which each process
        begins its own.

        Args:
            other: not changed.

        Returns:
            These statistics, so that functools.reduce can fold many.

        Raises:
            TypeError: `other` is of another class.
            ValueError: it has other in_features, or holds X^T X where these do not, or the other way round.

        Example:
            >>> import numpy as np
            >>> a, b = InputStatistics(2), InputStatistics(2)
            >>> a.update(np.array([[1.0, 2.0]]))
            >>> b.update(np.array([[3.0, 4.0]]))
            >>> a.merge(b).importance
            array([ 5., 10.])
        """
        if not isinstance(other, InputStatistics):
            raise TypeError(f"only InputStatistics can be merged into these, got {type(other).__name__}")
        kinds = [(s.in_features, s._products is not None) for s in (self, other)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"statistics must have the same (in_features, products) to be merged, got {kinds}")
        self._squares += other._squares
        if self._products is not None and other._products is not None:
            self._products += np.triu(other._products)  # the lower triangle follows
            for part in list(other._pending):  # `other` may be these
                if sum(map(len, self._pending)) + len(part) > _ROWS:
                    self._flush(self._products)
                self._pending.append(part)
        self.rows += other.rows
        return self

    def _flush(self, products: Doubles) -> None:
        """Adds what is pending to the upper triangle."""
        x = np.concatenate([np.zeros((0, self.in_features), np.float32), *self._pending])
        self._pending = []
        unit = power_of_two(np.abs(x).max(initial=0))
        x /= unit
        for first in range(0, self.in_features, _COLUMNS):
            columns = slice(first, min(first + _COLUMNS, self.in_features))
            block = (x[:, : columns.stop].T @ x[:, columns]).astype(np.float64)
            block *= np.float64(unit) ** 2
            products[: columns.stop, columns] += block

    @property
    @quiet
    def hessian(self) -> Doubles:
        """X^T X, (K, K), read-only; the next `update` changes it.

        Raises:
            ValueError: the statistics were made with products=False.
        """
        if self._products is None:
            raise ValueError("these statistics hold no X^T X; make them with InputStatistics(in_features)")
        self._flush(self._products)
        for first in range(0, self.in_features, _COLUMNS):
            columns = slice(first, first + _COLUMNS)
            self._products[columns, :first] = self._products[:first, columns].T
            square = self._products[columns, columns]
            square[:] = np.triu(square) + np.triu(square, 1).T  # what a product rounds differently on either side
        view = self._products.view()
        view.flags.writeable = False
        return view

    @property
    @quiet
    def importance(self) -> Doubles:
        """The mean of x[k]^2, (K,): `importance` of `octavo.round_search`."""
        return self._squares / max(self.rows, 1)

    @quiet
    def scaled(self, scale: npt.NDArray[np.float32]) -> InputStatistics:
        """Those of the inputs x * fl(1 / scale), which a layer with that `pre_quant_scale` quantizes."""
        c = input_factors(scale).astype(np.float64)
        other = InputStatistics(self.in_features, products=False)
        other.rows, other._squares = self.rows, self._squares * c * c
        if self._products is not None:
            other._products = self.hessian * c[:, None] * c
        return other

    @quiet
    def rotated(self, block: int | None) -> InputStatistics:
        """Those of the rotated inputs, which a layer with that `rotation` quantizes.

        Raises:
            TypeError, ValueError: the block is none of so many inputs.
            ValueError: the statistics were made with products=False.
        """
        size = as_rotation(block, self.in_features)
        if size is None:
            return self
        other = InputStatistics(self.in_features)
        other.rows, other._products = self.rows, rotated_products(self.hessian, size)
        other._squares = np.maximum(other._products.diagonal(), 0)  # sums that cancel may end below
        return other


@quiet
def round_gptq(
    weight: npt.ArrayLike,
    inputs: npt.ArrayLike | InputStatistics,
    *,
    group_size: int | None = None,
    symmetric: bool = True,
    scale_dtype: ScaleDtype = "float32",
    damping: float = 0.01,
    block_size: int = 128,
    activation_order: bool = True,
    refinements: int = 3,
) -> GroupedWeight:
    """Minimises the layer's output error sum (x w^T - x w'^T)^2 on its inputs, greedily.

    Args:
        weight, group_size, symmetric, scale_dtype: as for `octavo.round_nearest`.
        inputs: (..., K) of the layer, a few hundred rows or more; or their `InputStatistics`.
        damping: added to the diagonal of X^T X, as a share of its mean: more of it trusts the inputs less.
        block_size: columns whose errors are spread at once behind the block, as a matrix product. A matter of speed:
            the result is the same up to float32 rounding.
        activation_order: round columns with large inputs first, while there are others to make up for their errors,
            with scales searched beforehand. False: round them as they come, and search each group's scales when it is
            reached. Large inputs first is better where inputs differ in size, as those of trained models do: the output
            error of all-MiniLM-L6-v2's layers was a tenth lower, and a quarter lower for log-normal magnitudes. Where
            all have one size it may be worse: by a tenth, if neighbours are correlated.
        refinements: how often to go over all columns again, once GPTQ is done with them: each group's scale, then each
            integer, is set to its best value while all others stay fixed. Three rounds take about as long as the
            rest and lowered the output error of a matrix of all-MiniLM-L6-v2 by 3 to 5 %, more where inputs are more
            correlated. 0: GPTQ as published.

    Returns:
        A GroupedWeight, as from `round_search`.

    Raises:
        TypeError: weight or inputs are not real, damping is not a number, or refinements is not an integer.
        ValueError: inputs do not fit or hold NaN or infinity, there are none, damping is not positive or too small for
            inputs that depend on each other, block_size is below 1, or refinements is negative.

    Notes:
        Columns whose inputs are always zero are rounded to nearest. Computed in float32, with U from float64. Takes
        about 32 K^2 bytes while it runs (X^T X included) and 4 N K for the weights that are still to be rounded, or
        24 N K while they are refined.

    Example:
        >>> import numpy as np, octavo as oc
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((512, 4)) @ rng.standard_normal((4, 64))  # correlated inputs
        >>> w = rng.standard_normal((32, 64), dtype=np.float32)
        >>> def output_error(rounded):
        ...     return float(np.square(x @ (rounded.dequantize() - w).T).sum())
        >>> output_error(round_gptq(w, x, group_size=32)) < 0.5 * output_error(oc.round_search(w, group_size=32))
        True
    """
    w = as_weight(weight)
    n, k = w.shape
    statistics = as_statistics(inputs, k)
    block = checked_block(damping, block_size)
    rounds = operator.index(refinements)
    if rounds < 0:
        raise ValueError(f"refinements must be 0 or more, got {rounds}")
    result = zero_weight(n, k, group_size, symmetric, scale_dtype)
    size = max(k, 1) if group_size is None else operator.index(group_size)
    q, scale = result.q, result.scale
    zero = np.zeros(scale.shape, np.int8) if result.zero_point is None else result.zero_point
    hessian = statistics.hessian
    order = np.argsort(-hessian.diagonal(), kind="stable") if activation_order else np.arange(k)
    factor = inverse_factor(hessian, order, damping)
    cost = 1 / np.square(factor.diagonal(), dtype=np.float64)
    large = np.abs(w).max(axis=1, initial=0, keepdims=True)
    unit = np.where(large > _LARGE, power_of_two(large / _LARGE), np.float32(1))
    w = (w / unit).astype(np.float32, copy=False)
    rest = w.T[order]  # (K, N), in the order of rounding: a column of the weight is one run of memory
    if activation_order:
        costs = np.empty(k)
        costs[order] = cost
        found = round_search(w, group_size=group_size, symmetric=symmetric, scale_dtype=scale_dtype, importance=costs)
        scale[:] = found.scale
        if found.zero_point is not None:
            zero[:] = found.zero_point
    for first, last in _spans(k, k if activation_order else size, block):
        if not activation_order and first % size == 0:
            within, g = slice(first, min(first + size, k)), first // size
            weighed = (cost[within] / cost[within].max()).astype(np.float32)[None]
            group = np.ascontiguousarray(rest[within].T)[:, None]
            _, s, z = round_groups(group, weighed, symmetric=symmetric, scale_dtype=scale_dtype, search=True)
            scale[:, g] = s[:, 0]
            if z is not None:
                zero[:, g] = z[:, 0]
        at = order[first:last]
        groups = at // size
        q[:, at] = round_columns(rest, first, factor[first:last], scale[:, groups].T, zero[:, groups].T, (-8, 7)).T
    if rounds and hessian.any():
        damped = hessian.copy()
        _damp(damped, damping)
        columns, scales = q.T.astype(np.float32), np.ascontiguousarray(scale.T)
        refine_groups(
            np.ascontiguousarray(w.T), damped.astype(np.float32), columns, scales,
            np.ascontiguousarray(zero.T, np.float32), size, scale_dtype, rounds,
        )  # fmt: skip
        q[:], scale[:] = columns.T, scales.T
    return GroupedWeight(q, scale * unit, result.zero_point, group_size, scale_dtype)


def checked_block(damping: float, block_size: int) -> int:
    """The block size, where it and the damping are usable."""
    if not isinstance(damping, (int, float, np.integer, np.floating)):
        raise TypeError(f"damping must be a number, got {damping!r}")
    if not (damping > 0 and np.isfinite(damping)):
        raise ValueError(f"damping must be positive and finite, got {damping}")
    block = operator.index(block_size)
    if block < 1:
        raise ValueError(f"block_size must be at least 1, got {block}")
    return block


def as_statistics(inputs: npt.ArrayLike | InputStatistics, k: int) -> InputStatistics:
    """Statistics of at least one row of k inputs."""
    if isinstance(inputs, InputStatistics):
        statistics = inputs
    else:
        statistics = InputStatistics(k)
        statistics.update(inputs)
    if statistics.in_features != k:
        raise ValueError(f"inputs must have {k} features to fit the weight, got {statistics.in_features}")
    if statistics.rows == 0:
        raise ValueError("inputs must hold at least one row, got none")
    return statistics


def _spans(k: int, size: int, block: int) -> Iterator[tuple[int, int]]:
    """(first, last) of blocks of columns, none of which reaches over the border of a group."""
    for start in range(0, k, max(size, 1)):
        stop = min(k, start + size)
        for first in range(start, stop, block):
            yield first, min(stop, first + block)


def round_columns(
    rest: Floats,
    first: int,
    factor: Floats,
    scale: Floats,
    zero: npt.NDArray[np.int8],
    limits: tuple[int, int],
) -> Floats:
    """The integers (B, N) of the B columns from `first` on; `rest` (K, N) takes the corrections, up to its last row.

    factor (B, K): their rows of U; scale, zero (B, N): their parameters; limits: of the integers.
    """
    last = first + len(factor)
    block, z = rest[first:last], zero.astype(np.float32)
    q, errors = np.empty_like(block), np.empty_like(block)
    for i in range(last - first):
        q[i] = np.clip(np.rint(block[i] / scale[i]) + z[i], *limits)
        errors[i] = (block[i] - (q[i] - z[i]) * scale[i]) / factor[i, first + i]
        block[i + 1 :] -= factor[i, first + i + 1 : last, None] * errors[i]
    rest[last:] -= factor[:, last:].T @ errors
    return q


def inverse_factor(hessian: Doubles, order: Integers, damping: float) -> Floats:
    """U, upper, with U^T U = (H + damping)^-1 for the columns of H in `order`, H's mean diagonal taken as 1."""
    backwards = order[::-1]
    h: Doubles = hessian[np.ix_(backwards, backwards)]
    _damp(h, damping)
    # With P the reversal of the order, P H P = L L^T gives H = (P L P)(P L P)^T, P L P upper, and U its inverse.
    try:
        lower = np.asarray(np.linalg.cholesky(h), np.float64)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"damping must be larger for these inputs, whose X^T X is not positive definite with {damping}; "
            "0.01 is usual"
        ) from error
    del h
    _invert_lower(lower)
    return lower[::-1, ::-1].astype(np.float32)


def _damp(h: Doubles, damping: float) -> None:
    """h is divided by its mean diagonal, and damping added to its diagonal."""
    h /= (float(h.diagonal().mean()) if len(h) else 0.0) or 1.0
    # Also what makes H invertible where inputs depend on each other or are always zero.
    h[np.diag_indices_from(h)] += damping


def _invert_lower(a: Doubles) -> None:
    """a := a^-1 for a lower triangular one: [[A, 0], [C, D]]^-1 = [[A^-1, 0], [-D^-1 C A^-1, D^-1]]."""
    if len(a) <= _TRIANGLE:
        a[:] = np.tril(np.linalg.inv(a))
        return
    half = len(a) // 2
    _invert_lower(a[:half, :half])
    _invert_lower(a[half:, half:])
    a[half:, :half] = -(a[half:, half:] @ (a[half:, :half] @ a[:half, :half]))
