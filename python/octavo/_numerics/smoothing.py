"""Scales of a layer's inputs that make them easier to quantize, or its weights: SmoothQuant's and AWQ's.

    SmoothQuant    s[k] = max|x[k]|^alpha / max|W[:, k]|^(1 - alpha)     moves outliers of the inputs into the weights
    AWQ            s[k] = mean|x[k]|^alpha                               makes weights of large inputs finer
    both           s / sqrt(max(s) min(s)); s = 1 where an input, or all its weights, are always zero

alpha is searched on a grid, for the least error of the layer's own output on rows of its inputs. With alpha = 0 AWQ's
are all 1: no scale.

Sources: Xiao, Lin, Seznec, Wu, Demouth and Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for
Large Language Models" (ICML 2023); Lin, Tang, Tang, Yang, Dang and Han, "AWQ: Activation-aware Weight Quantization for
LLM Compression and Acceleration" (MLSys 2024).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from octavo._numerics.checks import as_input_rows
from octavo._util.arrays import as_real_array, require_finite
from octavo._util.floating import quiet

__all__ = ["ALPHAS", "InputSample", "SmoothingMethod", "best_alpha", "smoothing_scale"]

SmoothingMethod = Literal["smoothquant", "awq"]
Floats = npt.NDArray[np.float32]

ALPHAS = tuple(i / 20 for i in range(21))

_ROWS = 1024  # looked at together
_SMALLEST, _LARGEST = np.float32(2.0**-60), np.float32(2.0**60)  # of a scale: products with it stay finite


class InputSample:
    """What smoothing needs of a layer's inputs, in memory that does not grow with their number.

    Args:
        in_features: K.
        rows: to keep as they are, at most: 4 K bytes each. They are spread evenly over all rows seen, whichever way
            these came in batches. Where there are more, half of that or more are kept.

    Raises:
        TypeError: a size is not a whole number.
        ValueError: it is negative.

    Example:
        >>> import numpy as np
        >>> sample = InputSample(2, rows=2)
        >>> sample.update(np.array([[1.0, -4.0], [3.0, 2.0]]))
        >>> sample.largest, sample.mean, sample.seen
        (array([3., 4.], dtype=float32), array([2., 3.]), 2)
    """

    def __init__(self, in_features: int, *, rows: int = 1024) -> None:
        self.in_features, self._room, self._step = operator.index(in_features), operator.index(rows), 1
        if self.in_features < 0 or self._room < 0:
            raise ValueError(f"sizes must be at least 0, got in_features={self.in_features}, rows={self._room}")
        self.seen = 0
        self.largest: Floats = np.zeros(self.in_features, np.float32)
        self._sums: npt.NDArray[np.float64] = np.zeros(self.in_features)
        self._kept: list[Floats] = []

    @quiet
    def update(self, x: npt.ArrayLike) -> None:
        """Adds inputs x (..., K). Refuses what `InputStatistics.update` refuses, and adds nothing of it."""
        with np.errstate(all="ignore"):
            rows = as_input_rows(x, self.in_features).astype(np.float32, copy=False)
        if not np.isfinite(rows).all():
            raise ValueError("inputs must be finite in float32, got NaN or infinity")
        for first in range(0, len(rows), _ROWS):
            size = np.abs(rows[first : first + _ROWS])
            np.maximum(self.largest, size.max(axis=0), out=self.largest)
            self._sums += size.sum(axis=0, dtype=np.float64)
        # Every step-th row from the first on; where there are too many, every other one of these.
        for place in range(-self.seen % self._step, len(rows), self._step) if self._room else ():
            self._keep(self.seen + place, rows[place])
        self.seen += len(rows)

    def _keep(self, number: int, row: Floats) -> None:
        if number % self._step == 0:
            self._kept.append(row.copy())
        if len(self._kept) > self._room:
            self._kept, self._step = self._kept[::2], 2 * self._step

    @property
    def rows(self) -> Floats:
        """Those kept: (rows, K)."""
        return np.array(self._kept, np.float32).reshape(len(self._kept), self.in_features)

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """The mean of |x[k]|, (K,)."""
        return self._sums / max(self.seen, 1)


@quiet
def smoothing_scale(
    weight: npt.ArrayLike, inputs: npt.ArrayLike | InputSample, alpha: float, method: SmoothingMethod = "smoothquant"
) -> Floats:
    """The scale of each input of a layer: `pre_quant_scale` of `octavo.QuantLinear`.

    Args:
        weight: W (N, K), finite.
        inputs: x (..., K), or their `InputSample`.
        alpha: 0 to 1: how much of the inputs' differences goes into the weights.
        method: "smoothquant": max|x[k]|^alpha / max|W[:, k]|^(1 - alpha); "awq": mean|x[k]|^alpha.

    Returns:
        s (K,) float32, divided by sqrt(max(s) min(s)); 1 where an input is always zero or all its weights are. Computed
        in float64, kept within 2**-60 .. 2**60.

    Raises:
        TypeError: weight or inputs are not real, or alpha is not a number.
        ValueError: the weight is not (N, K) or not finite in float32, inputs do not fit or hold NaN or infinity, there
            are none, alpha is not in 0 to 1, or the method is unknown.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.smoothing_scale(np.ones((3, 3)), np.array([[1.0, 100.0, 0.0]]), 0.5)
        array([0.31622776, 3.1622777 , 1.        ], dtype=float32)
    """
    w = as_real_array(weight, "weight")
    if w.ndim != 2:
        raise ValueError(f"weight must be 2-D (out, in), got shape {w.shape}")
    require_finite(w, "weight")
    if isinstance(inputs, InputSample):
        sample = inputs
    else:
        sample = InputSample(w.shape[1], rows=0)
        sample.update(inputs)
    if sample.in_features != w.shape[1]:
        raise ValueError(f"inputs must have {w.shape[1]} features to fit the weight, got {sample.in_features}")
    if sample.seen == 0:
        raise ValueError("inputs must hold at least one row, got none")
    if not isinstance(alpha, (int, float, np.integer, np.floating)):
        raise TypeError(f"alpha must be a number from 0 to 1, got {alpha!r}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}")
    if method not in ("smoothquant", "awq"):
        raise ValueError(f'method must be "smoothquant" or "awq", got {method!r}')
    return _scale(_reach(w), sample, float(alpha), method)


def _reach(weight: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """max|W[:, k]|; |-128| does not fit int8, whose absolute value would be -128 again."""
    low, high = (extreme(weight, axis=0, initial=0).astype(np.float64) for extreme in (np.min, np.max))
    reach: npt.NDArray[np.float64] = np.maximum(-low, high)
    return reach


def _scale(weight: npt.NDArray[np.float64], sample: InputSample, alpha: float, method: SmoothingMethod) -> Floats:
    """The scale, from max|W[:, k]|."""
    size = sample.largest.astype(np.float64) if method == "smoothquant" else sample.mean
    alive = (size > 0) & (weight > 0)
    s = np.ones(len(size))
    if not alive.any():
        return s.astype(np.float32)
    s[alive] = size[alive] ** alpha
    if method == "smoothquant":
        s[alive] /= weight[alive] ** (1 - alpha)
    s[alive] /= np.sqrt(s[alive].max()) * np.sqrt(s[alive].min())
    return np.clip(s.astype(np.float32), _SMALLEST, _LARGEST)


@quiet
def best_alpha(
    weights: Sequence[npt.NDArray[np.float32]],
    sample: InputSample,
    error: Callable[[Floats | None], float],
    method: SmoothingMethod,
    alphas: Sequence[float] = ALPHAS,
) -> tuple[float | None, Floats | None, float, float]:
    """(alpha, scale, error with it, error without): the alpha of least error; None, None where no scale is better.

    Args:
        weights: of all layers that take the scaled inputs, (N, K) each.
        sample: of these inputs.
        error: of the layers' output with a scale, and without one.
        method, alphas: which scales to try.

    Example:
        >>> import numpy as np
        >>> sample = InputSample(2)
        >>> sample.update(np.float32([[1, 8]]))
        >>> best_alpha([np.ones((1, 2), np.float32)], sample, lambda s: 0 if s is None else 1, "awq")
        (None, None, 0, 0)
    """
    plain = error(None)
    best: tuple[float | None, Floats | None, float] = None, None, plain
    largest = np.max([_reach(w) for w in weights], axis=0)
    for alpha in alphas:
        scale = _scale(largest, sample, alpha, method)
        if (scale == scale[:1]).all():
            continue
        found = error(scale)
        if found < best[2]:
            best = alpha, scale, found
    return *best, plain
