"""Aligning a layer's weight with what quantized layers before it give: towards the float model's result.

In a model whose first layers are quantized, a layer is given q where the float model gives it x. The weight v that
brings its result nearest to the float layer's is a least-squares problem, damped towards the weight w as it is:

    v = argmin sum |q v^T - (x w^T + r)|^2 + d |v - w|^2
    v^T = w^T + (H + d)^-1 (D w^T + R)          H = sum q^T q      D = sum q^T (x - q)      R = sum q^T r

where d is a share of H's mean diagonal, and r is what else the result should make up for: where it is added to another
value, the error of that one. Only sums are kept. Source: least squares; Arai and Ichikawa, "Quantization Error
Propagation: Revisiting Layer-Wise Post-Training Quantization" (2025), and Li et al., "GPTAQ: Efficient Finetuning-Free
Quantization for Asymmetric Calibration" (ICML 2025), correct for the layers before in the same sense.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo._numerics.gptq import InputStatistics
from octavo._util.floating import quiet

__all__ = ["PairedStatistics"]

Doubles = npt.NDArray[np.float64]

_ROWS = 1024  # summed in float32, as those of InputStatistics are


class PairedStatistics:
    """Sums over what a layer is given in a quantized model, q, beside what the float model gives it, x.

    Args:
        in_features: K.
        out_features: N.

    Keeps 24 K^2 bytes, and 8 K N where there is something to make up for.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x, w = rng.standard_normal((256, 8)), rng.standard_normal((4, 8))
        >>> statistics = PairedStatistics(8, 4)
        >>> statistics.update(0.5 * x, x)  # all inputs are half as large as they should be
        >>> bool(np.allclose(statistics.aligned(w, damping=1e-9), 2 * w, atol=1e-5))
        True
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        self.given = InputStatistics(in_features)
        self._missing = InputStatistics(in_features)
        self._cross: Doubles = np.zeros((in_features, in_features))
        self._others: Doubles | None = None
        self._out_features = out_features

    @property
    def rows(self) -> int:
        return self.given.rows

    @quiet
    def update(self, given: npt.ArrayLike, exact: npt.ArrayLike, missing: npt.ArrayLike | None = None) -> None:
        """Adds rows.

        Args:
            given: q (..., K).
            exact: x, of the same shape.
            missing: r (..., N): what the result should have beside x w^T.

        Raises:
            TypeError: an array is not real.
            ValueError: shapes do not fit, or a value or a difference is NaN or infinite; nothing was added then.
        """
        k = self.given.in_features
        q, x = (np.asarray(a, np.float32).reshape(-1, k) for a in (given, exact))
        if q.shape != x.shape:
            raise ValueError(
                f"inputs of the quantized and the float model must have one shape, got {q.shape}, {x.shape}"
            )
        wrong = x - q
        r = None if missing is None else np.asarray(missing, np.float32).reshape(len(q), self._out_features)
        if not all(np.isfinite(part).all() for part in (q, wrong, r) if part is not None):
            raise ValueError(
                "inputs of the quantized and the float model, their differences and what is missing must be finite in "
                "float32, got NaN or infinity"
            )
        self.given.update(q)
        self._missing.update(wrong)
        for first in range(0, len(q), _ROWS):
            rows = slice(first, first + _ROWS)
            self._cross += q[rows].T @ wrong[rows]
            if r is not None:
                if self._others is None:
                    self._others = np.zeros((k, self._out_features))
                self._others += q[rows].T @ r[rows]

    @quiet
    def aligned(self, weight: npt.ArrayLike, *, damping: float = 0.01) -> npt.NDArray[np.float32]:
        """The weight v (N, K) that brings q v^T nearest to x w^T + r.

        Args:
            weight: w (N, K).
            damping: of v towards w, as a share of the mean of q^2.
        """
        w = np.asarray(weight, np.float64)
        h = self.given.hessian.copy()
        unit = float(h.diagonal().mean()) if len(h) else 0.0
        if not unit > 0:
            return w.astype(np.float32)
        h[np.diag_indices_from(h)] += damping * unit
        toward = self._cross @ w.T
        if self._others is not None:
            toward += self._others
        return np.ascontiguousarray(w + np.linalg.solve(h, toward).T, np.float32)

    @quiet
    def errors(self, weight: npt.ArrayLike, rounded: npt.ArrayLike) -> tuple[float, float]:
        """(sum |q v^T - x w^T|^2, sum |x w^T|^2) of the weight w and what it was rounded to, v."""
        w = np.asarray(weight, np.float64)
        e = np.asarray(rounded, np.float64) - w
        h, s, d = self.given.hessian, self._missing.hessian, self._cross
        wrong = np.sum((e @ h) * e) - 2 * np.sum((e @ d) * w) + np.sum((w @ s) * w)
        return float(wrong), float(np.sum((w @ (h + d + d.T + s)) * w))
