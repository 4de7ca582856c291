"""Rotation of a layer's inputs by Hadamard matrices, which mix those of a block: none is far larger than others then.

    x' = H D x        D: signs, those of the Rudin-Shapiro sequence: D[i] = -1 where i, from 0 in each block, has an odd
                      number of pairs of neighbouring ones in binary
                      H: one Hadamard matrix of B inputs for each block of B, in Sylvester's order, without its factor:
                      H = H^T, H H = B, its elements are 1 and -1
    W' = W D H / B    so that x' W'^T = x W^T

x' is float32. From v = D x, for h = 1, 2, 4, ... B / 2, each operation rounded once:

    v[i], v[i + h] = v[i] + v[i + h], v[i] - v[i + h]      for the i of each block in which the bit h is 0

W' is computed so in float64, times 1 / B (a power of two), and rounded to float32.

An outlier of one input becomes a share of all B, and groups of weights become alike, so four bits and one scale lose
less. The signs are for what all inputs have in common, such as the mean of a ReLU's output: without them its sum would
be one element of x', far larger than the others; with them it is spread over the block, and evenly, which is what that
sequence is known for. Source: Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs" (NeurIPS 2024),
whose rotations of a layer's input at each call these are, but for random signs.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo._util.arrays import row_blocks

__all__ = ["as_rotation", "hadamard", "rotated", "rotated_products", "rotated_weight", "rotation_signs", "unrotated"]

_SMALLEST, _LARGEST = 16, 4096
_TILE_ELEMENTS = 1 << 15  # at a time: they stay in the cache


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
    if not _SMALLEST <= block <= _LARGEST or block & (block - 1):
        raise ValueError(f"{name} must be a power of two from {_SMALLEST} to {_LARGEST}, got {rotation!r}")
    if inputs % block:
        raise ValueError(f"{name} must divide the number of inputs, {inputs}, got {block}")
    return block


def rotation_signs(inputs: int, block: int) -> npt.NDArray[np.float32]:
    """D of so many inputs, (K,).

    Example:
        >>> rotation_signs(16, 16)[:8]
        array([ 1.,  1.,  1., -1.,  1.,  1., -1.,  1.], dtype=float32)
    """
    pairs = [(i & i >> 1).bit_count() for i in range(block)]
    return np.tile(np.where(np.array(pairs) % 2 == 1, np.float32(-1), np.float32(1)), inputs // block)


def hadamard(x: npt.NDArray[Any], block: int) -> npt.NDArray[Any]:
    """H x of x (..., K): a new array, in its dtype: float32, as the kernels have it, or float64.

    Example:
        >>> import numpy as np
        >>> hadamard(np.eye(2, 16, dtype=np.float32), 16)[1, :4]
        array([ 1., -1.,  1., -1.], dtype=float32)
    """
    v = np.array(x, order="C")
    runs = v.reshape(-1, block)
    step = max(1, _TILE_ELEMENTS // block)
    with np.errstate(all="ignore"):
        for first in range(0, len(runs), step):
            part = runs[first : first + step]
            tile = np.ascontiguousarray(part.T)  # elements h apart are then far apart, and rows side by side
            h = 1
            while h < block:
                pairs = tile.reshape(-1, 2, h * len(part))
                difference = pairs[:, 0] - pairs[:, 1]
                pairs[:, 0] += pairs[:, 1]
                pairs[:, 1] = difference
                h *= 2
            part[:] = tile.T
    return v


def rotated(x: npt.NDArray[Any], block: int) -> npt.NDArray[Any]:
    """H D x of x (..., K), in its dtype."""
    return hadamard(x * rotation_signs(x.shape[-1], block).astype(x.dtype), block)


def unrotated(weight: npt.NDArray[Any], block: int) -> npt.NDArray[Any]:
    """W = W' H D of W' (..., K), in its dtype."""
    found = hadamard(weight, block)
    found *= rotation_signs(found.shape[-1], block)
    return found


def rotated_weight(weight: npt.NDArray[Any], block: int) -> npt.NDArray[np.float32]:
    """W' = W D H / B of W (N, K).

    Example:
        >>> import numpy as np
        >>> rotated_weight(np.ones((1, 16), np.float32), 16)[0, :4]
        array([ 0.25,  0.25,  0.25, -0.25], dtype=float32)
    """
    found = np.empty(weight.shape, np.float32)
    with np.errstate(all="ignore"):
        for rows in row_blocks(weight.shape):
            found[rows] = rotated(np.asarray(weight[rows], np.float64), block) / block
    return found


def rotated_products(products: npt.NDArray[np.float64], block: int) -> npt.NDArray[np.float64]:
    """H D P D H of P = X^T X (K, K): what it is of rotated inputs."""
    return rotated(rotated(products, block).T, block).T
