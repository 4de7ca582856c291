"""How fast and how exact a quantized layer or matrix is beside the float one it stands for: measured here and now."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._models.snapshot import restore, snapshot
from octavo._quantize.spec import LayerSpec
from octavo._util.timing import interleaved

__all__ = ["ENOUGH_DB", "Measured", "measured", "random_rows", "relative_error", "signal_to_noise"]

# Below it a layer's rounding shows in what a model gives: 20 dB is an error of a tenth of the result.
ENOUGH_DB = 20.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of a call, the fastest of interleaved rounds; and the signal to quantization noise ratio, in dB."""

    float_seconds: float
    quantized_seconds: float
    sqnr_db: float

    @property
    def speedup(self) -> float:
        """How many times as fast as the float one the quantized one is."""
        return self.float_seconds / self.quantized_seconds


def random_rows(quantized: QuantLinear | QuantMatrix, rows: int) -> NDArray[np.float32]:
    """Standard normal inputs (rows, inputs)."""
    width = quantized._layer.in_features if isinstance(quantized, QuantMatrix) else quantized.in_features
    return np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32)


def measured(
    original: Any,
    quantized: QuantLinear | QuantMatrix,
    spec: LayerSpec | None,
    x: NDArray[Any],
) -> Measured:
    """Runs both on x. What a float layer keeps in itself on the way (a cached input) is put back as it was.

    Args:
        original: the float layer, called as its spec says, or the array.
        quantized: what stands for it.
        spec: of the layer; None for an array.
        x: (rows, inputs).

    Example:
        >>> import numpy as np, octavo as oc
        >>> w = np.random.default_rng(0).standard_normal((512, 256), dtype=np.float32)
        >>> Q = oc.QuantMatrix(w)
        >>> measured(w, Q, None, random_rows(Q, 8)).sqnr_db > 30
        True
    """
    before = None if spec is None else snapshot(original)
    try:
        with _settings(quantized):
            run, run_quantized = _runs(original, quantized, spec, x)
            sqnr = _decibels(run, run_quantized)
            times = interleaved({"float": run, "quantized": run_quantized}, rounds=8, round_seconds=0.0025)
            return Measured(min(times["float"].rounds), min(times["quantized"].rounds), sqnr)
    finally:
        if before is not None:
            restore(original, before)


def signal_to_noise(
    original: Any, quantized: QuantLinear | QuantMatrix, spec: LayerSpec | None, x: NDArray[Any]
) -> float:
    """SQNR, 10 log10(sum y^2 / sum (y' - y)^2) in dB, of the quantized one's result y' for x; arguments as above."""
    before = None if spec is None else snapshot(original)
    try:
        with _settings(quantized):
            return _decibels(*_runs(original, quantized, spec, x))
    finally:
        if before is not None:
            restore(original, before)


def relative_error(wrong: float, right: float) -> float:
    """RMS of errors over RMS of what is right, from their sums of squares; 0 where neither is there.

    Example:
        >>> relative_error(1.0, 4.0), relative_error(0.0, 0.0), relative_error(1.0, 0.0)
        (0.5, 0.0, inf)
    """
    if right > 0:
        return float(np.sqrt(max(wrong, 0.0) / right))
    return 0.0 if wrong <= 0 else float("inf")


def _settings(quantized: QuantLinear | QuantMatrix) -> AbstractContextManager[None]:
    """The product of an array is octavo's own; a layer is the user's code, which keeps its np.seterr."""
    return np.errstate(all="ignore") if isinstance(quantized, QuantMatrix) else nullcontext()


def _decibels(run: Callable[[], Any], run_quantized: Callable[[], Any]) -> float:
    results = run(), run_quantized()
    with np.errstate(all="ignore"):
        exact, rough = (np.asarray(y, np.float64) for y in results)
        signal, noise = float(np.sum(exact * exact)), float(np.sum((rough - exact) ** 2))
        # NaN where a result is not finite, and minus infinity where it ought to be zero
        return float(10 * np.log10(np.float64(signal) / noise)) if noise != 0 else float("inf")


def _runs(
    original: Any, quantized: QuantLinear | QuantMatrix, spec: LayerSpec | None, x: NDArray[Any]
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    if isinstance(quantized, QuantMatrix):
        w, q = (original, quantized) if quantized.axis == 1 else (original.T, quantized.T)
        x = x.astype(w.dtype, copy=False)
        return lambda: x @ w, lambda: x @ q
    call = getattr(original, "__call__" if spec is None else spec.call)
    return lambda: call(x), lambda: quantized(x)
