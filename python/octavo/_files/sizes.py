"""What a linear layer takes, in a file and in memory, by the type of its weights.

    float32 4, float16 2, int8 1 + 4/K, int4 in groups of g 1/2 + 4/g bytes a weight

Files hold integers, scales and biases. In memory octavo pads weights to whole panels and adds column sums; that figure
is asked of a layer of that shape, not computed by a formula of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from octavo._files.codecs import WeightFormat
from octavo._layers.linear import QuantLinear
from octavo._numerics.int4 import GroupedWeight

__all__ = ["Shape", "Size", "layer_size", "memory_table"]


class Shape(NamedTuple):
    """A linear layer's (out, in), and whether it has a bias."""

    out_features: int
    in_features: int
    bias: bool = False


class Size(NamedTuple):
    """Bytes in a file, and in memory once loaded."""

    file: int
    memory: int


@functools.lru_cache(maxsize=256)
def layer_size(shape: Shape, dtype: str) -> Size:
    """What one layer takes.

    Args:
        shape: of the layer.
        dtype: "float32", "float16", "int8", or "int4" (groups of 128, float32 scales).

    Returns:
        Bytes of its tensors in a file, and of the layer in memory. To find the latter a layer of zeros is made once a
        shape.

    Example:
        >>> from octavo._files.sizes import Shape, layer_size
        >>> layer_size(Shape(4096, 4096), "float32")
        Size(file=67108864, memory=67108864)
        >>> layer_size(Shape(4096, 4096), "int8").file
        16793600
    """
    n, k, bias = shape
    if dtype in ("float32", "float16"):
        count = n * k + (n if bias else 0)
        return Size(*[np.dtype(dtype).itemsize * count] * 2)
    if dtype == "int4":
        return _int4_size(shape, 128)
    if dtype != "int8":
        raise ValueError(f"dtype must be float32, float16, int8 or int4, got {dtype!r}")
    zeros = np.zeros(n, np.float32) if bias else None
    layer = QuantLinear.from_quantized(np.zeros((n, k), np.int8), 1.0, zeros)
    return Size(_file_bytes(WeightFormat(), shape), layer.nbytes)


def _int4_size(shape: Shape, group_size: int) -> Size:
    n, k, bias = shape
    scale = np.ones((n, -(-k // group_size)), np.float32)
    weight = GroupedWeight(np.zeros((n, k), np.int8), scale, group_size=group_size)
    layer = QuantLinear.from_grouped(weight, np.zeros(n, np.float32) if bias else None)
    return Size(_file_bytes(WeightFormat("int4", group_size), shape), layer.nbytes)


def _file_bytes(weights: WeightFormat, shape: Shape) -> int:
    tensors = weights.tensors((shape.out_features, shape.in_features), bias=shape.bias)
    return sum(tensor.nbytes for tensor in tensors.values())


DTYPES = ("float32", "float16", "int8", "int4")


def memory_table(layers: Mapping[Shape, int], rest_elems: int = 0, dtypes: Sequence[str] = DTYPES) -> str:
    """A table of what a model takes: one line a type, in a file and in memory.

    Args:
        layers: how many layers there are of each shape.
        rest_elems: elements of everything else (embeddings, norms), which stay float: float32 in the float32 line,
            float16 in all others.
        dtypes: the lines.

    Example:
        >>> from octavo._files.sizes import Shape, memory_table
        >>> print(memory_table({Shape(4096, 4096): 2}, dtypes=("float32", "float16")))
                         in the file         in memory
        float32        134,217,728 B     134,217,728 B   100.0 %
        float16         67,108,864 B      67,108,864 B    50.0 %
    """
    lines = [f"{'':12}{'in the file':>16}{'in memory':>18}"]
    whole = 0
    for dtype in dtypes:
        rest = rest_elems * (4 if dtype == "float32" else 2)
        sizes = [(layer_size(shape, dtype), count) for shape, count in layers.items()]
        file, memory = (rest + sum(size[i] * count for size, count in sizes) for i in (0, 1))
        whole = whole or file
        lines.append(f"{dtype:12}{file:>14,} B{memory:>16,} B{100 * file / max(whole, 1):>8.1f} %")
    return "\n".join(lines)
