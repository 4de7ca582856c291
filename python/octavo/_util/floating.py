"""Floating-point errors: octavo's own arithmetic does not depend on what the caller has told NumPy to do about them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np

__all__ = ["quiet"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def quiet(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """A decorator for functions whose arithmetic may overflow or underflow as it should: NumPy says nothing about it.

    Not for functions that call code of the user, which keeps the user's own np.seterr. (np.errstate itself, used as a
    decorator, keeps one state for all threads in NumPy 1.26.)

    Example:
        >>> import numpy as np
        >>> from octavo._util.floating import quiet
        >>> half = quiet(lambda x: x / np.float32(2))
        >>> with np.errstate(all="raise"):
        ...     print(half(np.float32(1e-45)))
        0.0
    """

    @functools.wraps(function)
    def wrapped(*args: _P.args, **options: _P.kwargs) -> _T:
        with np.errstate(all="ignore"):
            return function(*args, **options)

    return wrapped
