"""What a layer's result is added to, found while a model runs: the other branch of a residual connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Summand", "as_summand"]

Array = NDArray[Any]

_NEAR = 1e-4  # how far rows that a bias was added to may differ, as a share of the largest value


class Summand(np.ndarray[Any, Any]):
    """An array that tells what it is added to, if that has its shape. Adding a bias keeps the kind.

    Made by `as_summand`. All other results are plain arrays.
    """

    _note: Callable[[Array], object] | None
    _original: Array

    def __array_finalize__(self, obj: Any) -> None:
        self._note = getattr(obj, "_note", None)
        self._original = getattr(obj, "_original", np.empty(0))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", ())
        plain = [_plain(a) for a in inputs]
        keeps = False
        if ufunc is np.add and method == "__call__" and not kwargs and inputs[0] is not inputs[1]:
            for mine, a in enumerate(inputs):
                other = plain[1 - mine]
                if isinstance(a, Summand) and np.shape(other) == a.shape:
                    a._tell(other)
                keeps |= isinstance(a, Summand) and np.ndim(other) < a.ndim
        if out:
            kwargs["out"] = tuple(_plain(a) for a in out)
        y = getattr(ufunc, method)(*plain, **kwargs)
        if out:
            return out[0] if len(out) == 1 else out
        return as_summand(y, self._note, self._original) if keeps and self._note is not None else y

    def _tell(self, other: Array) -> None:
        """Tells what it is added to, where it is still the layer's result or that with a bias."""
        before = self._original
        if self._note is None or self.size != before.size or not self.size or not self.flags.c_contiguous:
            return
        moved = _plain(self).reshape(before.shape) - before
        moved = moved.reshape(-1, before.shape[-1])
        if np.abs(moved - moved[0]).max() <= _NEAR * np.abs(before).max():
            note, self._note = self._note, None
            note(np.array(other))


def as_summand(y: Array, note: Callable[[Array], object], original: Array | None = None) -> Summand:
    """y as an array that hands what it is added to, a copy, to `note`, once.

    Args:
        y: a layer's result (..., N).
        note: given an array of y's shape.
        original: what y was before biases were added; by default a copy of y.

    Example:
        >>> import numpy as np
        >>> y = as_summand(np.ones((1, 2)), note=print)
        >>> x = np.full((1, 2), 5.0)
        >>> x += y + np.array([1.0, 2.0])
        [[5. 5.]]
        >>> x
        array([[7., 8.]])
    """
    found = np.asarray(y).view(Summand)
    found._note = note
    found._original = np.array(y) if original is None else original
    return found


def _plain(a: Any) -> Any:
    return a.view(np.ndarray) if isinstance(a, Summand) else a
