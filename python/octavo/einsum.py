"""Which calls of np.einsum are a product of an array with a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["as_product"]


def as_product(operands: tuple[Any, ...], options: dict[str, Any], matrix: type) -> tuple[Any, Any, bool] | None:
    """(x, Q, transposed) where np.einsum(*operands) is x @ Q or x @ Q.T with Q of the class `matrix`; else None.

    That is "...k,kn->...n" or "...k,nk->...n", with any letters, with or without the dots and with the operands in
    either order.

    Example:
        >>> import numpy as np, octavo as oc
        >>> x, Q = np.ones((2, 5, 3), np.float32), oc.QuantMatrix(np.ones((3, 4), np.float32))
        >>> as_product(("bsi,io->bso", x, Q), {}, oc.QuantMatrix)[2]
        False
        >>> as_product(("oi,...i->...o", Q.T, x), {}, oc.QuantMatrix)[2]
        True
        >>> as_product(("bsi,io->bos", x, Q), {}, oc.QuantMatrix) is None
        True
    """
    if len(operands) != 3 or not isinstance(operands[0], str) or options.keys() - {"optimize"}:
        return None
    text = operands[0].replace(" ", "")
    inputs, arrow, result = text.partition("->")
    parts = inputs.split(",")
    if not arrow or len(parts) != 2:
        return None
    pairs = list(zip(parts, operands[1:], strict=True))
    if type(pairs[1][1]) is not matrix:
        pairs.reverse()
    (x_axes, x), (q_axes, q) = pairs
    if type(q) is not matrix or type(x) is matrix or not isinstance(x, np.ndarray):
        return None
    letters = x_axes.replace("...", "")
    if len(q_axes) != 2 or "." in letters + q_axes or len(set(letters)) != len(letters) or not letters:
        return None
    if "..." in x_axes and not x_axes.startswith("..."):
        return None
    summed = x_axes[-1]
    if q_axes.count(summed) != 1:
        return None
    transposed = q_axes[1] == summed
    kept = q_axes[0] if transposed else q_axes[1]
    if kept in letters or result != x_axes[:-1] + kept or ("..." not in x_axes and x.ndim != len(letters)):
        return None
    return x, q, transposed
