"""Rotation of a layer's inputs by Hadamard matrices, which mix those of a block: none is far larger than others then.

    x' = H x          H: one Hadamard matrix of B inputs for each block of B, in Sylvester's order, without its factor:
                      H = H^T, H H = B, its elements are 1 and -1
    W' = W H / B      so that x' W'^T = x W^T

x' is float32. From v = x, for h = 1, 2, 4, ... B / 2, each operation rounded once:

    v[i], v[i + h] = v[i] + v[i + h], v[i] - v[i + h]      for the i of each block in which the bit h is 0

W' is computed so in float64, times 1 / B (a power of two), and rounded to float32.

An outlier of one input becomes a share of all B, and groups of weights become alike, so four bits and one scale lose
less. Source: Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs" (NeurIPS 2024), whose rotations of
a layer's input at each call these are.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["as_rotation", "rotated", "rotated_products", "rotated_weight"]

SMALLEST, LARGEST = 16, 4096


def as_rotation(rotation: int | None, inputs: int, name: str = "rotation") -> int | None:
    """The size of the blocks, checked; None stays None.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is not a power of two from 16 to 4096, or the number of inputs is not a multiple of it.

    Example:
        >>> as_rotation(128, 384)
        128
    """
    if rotation is None:
        return None
    try:
        block = operator.index(rotation)
    except TypeError:
        raise TypeError(f"{name} must be an integer, the inputs of a block, or None, got {rotation!r}") from None
    if not SMALLEST <= block <= LARGEST or block & (block - 1):
        raise ValueError(f"{name} must be a power of two from {SMALLEST} to {LARGEST}, got {rotation!r}")
    if inputs % block:
        raise ValueError(f"{name} must divide the number of inputs, {inputs}, got {block}")
    return block


def rotated(x: npt.NDArray[Any], block: int) -> npt.NDArray[Any]:
    """H x of x (..., K), in its dtype: float32, as the kernels have it, or float64.

    Example:
        >>> import numpy as np
        >>> rotated(np.eye(2, 16, dtype=np.float32), 16)[1, :4]
        array([ 1., -1.,  1., -1.], dtype=float32)
    """
    v = np.array(x, order="C")
    with np.errstate(all="ignore"):
        h = 1
        while h < block:
            pairs = v.reshape(-1, 2, h)
            first, second = pairs[:, 0].copy(), pairs[:, 1]
            pairs[:, 0] += second
            np.subtract(first, second, out=second)
            h *= 2
    return v


def rotated_weight(weight: npt.NDArray[Any], block: int) -> npt.NDArray[np.float32]:
    """W' = W H / B of W (N, K).

    Example:
        >>> import numpy as np
        >>> rotated_weight(np.ones((1, 16), np.float32), 16)[0, :3]
        array([1., 0., 0.], dtype=float32)
    """
    with np.errstate(all="ignore"):
        return (rotated(np.asarray(weight, np.float64), block) / block).astype(np.float32)


def rotated_products(products: npt.NDArray[np.float64], block: int) -> npt.NDArray[np.float64]:
    """H P H of P = X^T X (K, K): what it is of rotated inputs."""
    return rotated(rotated(products, block).T, block).T
