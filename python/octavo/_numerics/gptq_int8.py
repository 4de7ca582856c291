"""GPTQ for weights of eight bits: one scale an output, as `QuantLinear` holds them.

The algorithm is that of `gptq.py`, in the order of the largest inputs first. The scales are those of rounding to the
nearest, max|w| / 127.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from octavo._numerics.definition import quantize_weight
from octavo._numerics.gptq import InputStatistics, as_statistics, checked_block, inverse_factor, round_columns
from octavo._numerics.rounding import as_weight
from octavo._util.floating import quiet

__all__ = ["Int8Weight", "round_gptq_int8"]


class Int8Weight(NamedTuple):
    """Weights in eight bits: W[n, k] = q[n, k] * scale[n].

    Attributes:
        q: int8 (N, K), from -127 to 127.
        scale: float32 (N,).

    `QuantLinear.from_quantized(*weight)` makes a layer of it.
    """

    q: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]

    def dequantize(self) -> npt.NDArray[np.float32]:
        """q * scale, float32 (N, K)."""
        return self.q * self.scale[:, None]


@quiet
def round_gptq_int8(
    weight: npt.ArrayLike,
    inputs: npt.ArrayLike | InputStatistics,
    *,
    damping: float = 0.01,
    block_size: int = 128,
) -> Int8Weight:
    """Minimises the layer's output error sum (x w^T - x w'^T)^2 on its inputs, greedily, with integers of eight bits.

        scale[n] = max|w[n]| / 127
        q[k] = clamp(rint(w[k] / scale), -127, 127)      e = (w[k] - q[k] scale) / U[k, k]
        w[j] -= e U[k, j]   for the j that are still to come      U upper, U^T U = (X^T X + damping)^-1

    Columns with large inputs come first.

    Args:
        weight: (N, K), as for `round_gptq`.
        inputs: (..., K) of the layer, a few hundred rows or more; or their `InputStatistics`.
        damping: added to the diagonal of X^T X, as a share of its mean: more of it trusts the inputs less.
        block_size: columns whose errors are spread at once behind the block; a matter of speed.

    Returns:
        An `Int8Weight` (q, scale).

    Raises:
        TypeError: weight or inputs are not real, or damping is not a number.
        ValueError: inputs do not fit or hold NaN or infinity, there are none, damping is not positive or too small for
            inputs that depend on each other, or block_size is below 1.

    Notes:
        Columns whose inputs are always zero are rounded to nearest. Computed in float32, with U from float64. Takes
        about 32 K^2 bytes while it runs (X^T X included) and 8 N K for the weights.
        Source: Frantar et al., "GPTQ" (ICLR 2023).

    Example:
        >>> import numpy as np, octavo as oc
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((512, 4)) @ rng.standard_normal((4, 64))  # correlated inputs
        >>> w = rng.standard_normal((32, 64), dtype=np.float32)
        >>> def output_error(layer):
        ...     return float(np.square(x @ (layer.weight - w).T).sum())
        >>> gptq = oc.QuantLinear.from_quantized(*oc.round_gptq_int8(w, x))
        >>> output_error(gptq) < 0.5 * output_error(oc.QuantLinear(w))
        True
    """
    w = as_weight(weight)
    n, k = w.shape
    statistics = as_statistics(inputs, k)
    block = checked_block(damping, block_size)
    q, scale = quantize_weight(w)
    hessian = statistics.hessian
    order = np.argsort(-hessian.diagonal(), kind="stable")
    factor = inverse_factor(hessian, order, damping)
    rest = np.ascontiguousarray((w / scale[:, None]).T[order])  # in steps, so that no correction leaves float32
    one, zero = np.ones((block, n), np.float32), np.zeros((block, n), np.int8)
    for first in range(0, k, block):
        last = min(k, first + block)
        rows = slice(last - first)
        q[:, order[first:last]] = round_columns(rest, first, factor[first:last], one[rows], zero[rows], (-127, 127)).T
    return Int8Weight(q, scale)
