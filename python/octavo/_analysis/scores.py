"""What a metric says of a model's outputs, and what may be one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._util.floating import quiet
from octavo._util.foreign import refuse_masked

__all__ = ["Metric", "OutputError", "as_float64", "read_again", "score"]

Metric = Callable[[list[Any]], float]


def score(metric: Metric, outputs: list[Any], what: str) -> float:
    """metric(outputs) as a number.

    Raises:
        TypeError: it is not one number, an array for instance.
        ValueError: it is NaN or infinite.
    """
    value = metric(outputs)
    if isinstance(value, (bool, np.bool_)) or np.ndim(value) != 0 or not isinstance(value, (int, float, np.number)):
        shape = f" of shape {np.shape(value)}" if np.ndim(value) else ""
        raise TypeError(
            f"metric must give one number, higher where the outputs are better, got a {type(value).__name__}{shape} "
            f"for {what}; take its mean, for instance"
        )
    if not np.isfinite(value):
        raise ValueError(f"metric must give a finite number, got {value} for {what}")
    return float(value)


def read_again(batches: Iterable[Any], name: str) -> list[Any]:
    """The batches as a list.

    Raises:
        TypeError: they can be read only once, and would run out.
        ValueError: there are none.
    """
    if iter(batches) is batches:
        raise TypeError(
            f"{name} must be a list or the like, because it is run several times; a {type(batches).__name__} runs out: "
            f"pass list({name})"
        )
    found = list(batches)
    if not found:
        raise ValueError(f"{name} must hold at least one batch, got none")
    return found


def as_float64(y: Any, name: str = "the model's result") -> NDArray[np.float64]:
    """A result as one array.

    Raises:
        TypeError: it is several arrays, or not numbers: then only a metric can compare results.
    """
    refuse_masked(y, name)
    if isinstance(y, (list, tuple, dict)) or np.asarray(y).dtype.kind not in "fiub":
        raise TypeError(
            f"{name} must be one array of real numbers to be compared, got a {type(y).__name__}; pass metric="
        )
    return np.asarray(y, np.float64)


class OutputError:
    """How far results are from the float model's, over batches: the relative error, or the KL divergence.

    Args:
        kind: "sqnr": RMS(y' - y) / RMS(y). "kl": the mean of KL(softmax y || softmax y') along the last axis: what y
            gives no probability, as a masked token's -inf, counts nothing, and the divergence is infinite where y'
            gives none to what y does. A row without a softmax (NaN, infinity, or -inf alone) makes it NaN.

    Example:
        >>> error = OutputError("sqnr")
        >>> error.update(np.float32([3, 4]), np.float32([3, 4.5]))
        >>> error.value()
        0.1
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._wrong, self._right = 0.0, 0.0

    @quiet
    def update(self, expected: Any, found: Any) -> None:
        """Adds a batch's results y and y'."""
        y, z = as_float64(expected), as_float64(found)
        with np.errstate(all="ignore"):
            if self._kind == "kl":
                p, q = (_log_softmax(a) for a in (y, z))
                likely = np.exp(p)
                # 0 log 0 is 0; NaN is not equal to 0, and stays.
                self._wrong += float((likely * np.where(likely == 0, 0, p - q)).sum())
                self._right += p.size / p.shape[-1]
            else:
                self._wrong += float(np.square(z - y).sum())
                self._right += float(np.square(y).sum())

    def value(self) -> float:
        """Over all batches so far."""
        ratio = self._wrong / self._right if self._right > 0 else 0.0 if self._wrong == 0 else float("inf")
        return ratio if self._kind == "kl" else float(np.sqrt(ratio))


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.atleast_2d(x)
    x = x - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))
