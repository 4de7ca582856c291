"""Which calls of np.einsum are a product of an array with a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_product"]

# What stands for one axis: a letter, or a number for each of those that "..." stands for.
_Axes = list[str | int]


def as_product(
    operands: tuple[Any, ...], options: dict[str, Any], is_matrix: Callable[[Any], bool]
) -> tuple[NDArray[Any], Any, bool, list[int]] | None:
    """(x, Q, transposed, order) where np.einsum(*operands) is (x @ Q or x @ Q.T).transpose(order); else None.

    That is every sum over one axis of an array and one of a matrix: "...k,kn->...n", "...k,nk->...n", with the operands
    in either order, the array's axes in any order, and with or without "->". `is_matrix` tells a matrix.

    Example:
        >>> import numpy as np, octavo as oc
        >>> x, Q = np.ones((2, 5, 3), np.float32), oc.QuantMatrix(np.ones((3, 4), np.float32))
        >>> is_matrix = lambda operand: type(operand) is oc.QuantMatrix
        >>> as_product(("bsi,io->bso", x, Q), {}, is_matrix)[2:]
        (False, [0, 1, 2])
        >>> as_product(("oi,...i->o...", Q.T, x), {}, is_matrix)[2:]
        (True, [2, 0, 1])
        >>> as_product(("bsi,bi->bs", x, Q), {}, is_matrix) is None
        True
    """
    if len(operands) != 3 or not isinstance(operands[0], str) or options.keys() - {"optimize"}:
        return None
    inputs, arrow, result = operands[0].replace(" ", "").partition("->")
    pairs = list(zip(inputs.split(","), operands[1:], strict=False))
    if len(pairs) != 2 or inputs.count(",") != 1:
        return None
    if not is_matrix(pairs[1][1]):
        pairs.reverse()
    (x_text, x), (q_text, q) = pairs
    if not is_matrix(q) or is_matrix(x) or len(q_text) != 2 or not q_text.isalpha():
        return None
    a = np.asanyarray(x)
    x_axes = _axes(x_text, a.ndim)
    result_axes = _axes(result if arrow else _implied(inputs), a.ndim)
    if x_axes is None or result_axes is None:
        return None
    transposed = q_text[0] not in x_axes
    summed, kept = (q_text[1], q_text[0]) if transposed else (q_text[0], q_text[1])
    rest: _Axes = [axis for axis in x_axes if axis != summed]
    given: _Axes = [*rest, kept]
    if kept in x_axes or len(rest) != len(x_axes) - 1 or len(x_axes) != a.ndim:
        return None
    if set(result_axes) != set(given) or len(result_axes) != len(given):  # or an axis twice: a diagonal
        return None
    if a.shape[x_axes.index(summed)] == 1 != np.shape(q)[1 if transposed else 0]:
        return None  # np.einsum stretches an axis of one element
    order = [given.index(axis) for axis in result_axes]
    return np.moveaxis(a, x_axes.index(summed), -1), q, transposed, order


def _axes(text: str, ndim: int) -> _Axes | None:
    """The axes of an operand of ndim axes, or of a result with one other letter; None for any other text."""
    before, dots, after = text.partition("...")
    if not (before + after).isascii() or not all(c.isalpha() for c in before + after):
        return None
    unnamed = ndim - len(before + after) if dots else 0
    return [*before, *range(unnamed), *after]


def _implied(inputs: str) -> str:
    """The result that np.einsum takes where there is no "->": "..." and each letter that stands once, sorted."""
    letters = sorted(c for c in set(inputs) - set(",.") if inputs.count(c) == 1)
    return ("..." if "..." in inputs else "") + "".join(letters)
