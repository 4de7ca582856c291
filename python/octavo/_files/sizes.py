"""What layers and tables take, in a file and in memory, by the type of their weights.

    float32 4, float16 2, int8 1 + 4/K, int4 in groups of g 1/2 + 4/g bytes a weight

Files hold integers, scales and biases. In memory octavo pads the weights of layers to whole panels and adds column
sums; that figure is read off a layer of that shape, not computed by a formula of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from octavo._files.linear_codecs import WeightFormat
from octavo._layers.embedding import QuantEmbedding
from octavo._layers.linear import QuantLinear
from octavo._numerics.int4 import GroupedWeight

__all__ = ["DTYPES", "Shape", "Size", "layer_size", "memory_sizes", "memory_table"]

DTYPES = ("float32", "float16", "int8", "int4")


class Shape(NamedTuple):
    """(out, in) of a linear layer, and whether it has a bias; or (rows, values) of a table that is looked up by row."""

    out_features: int
    in_features: int
    bias: bool = False
    table: bool = False

    @property
    def elems(self) -> int:
        """Numbers that it holds, its bias among them."""
        return self.out_features * self.in_features + (self.out_features if self.bias else 0)


class Size(NamedTuple):
    """Bytes in a file, and in memory once loaded."""

    file: int
    memory: int


@functools.lru_cache(maxsize=256)
def layer_size(shape: Shape, dtype: str) -> Size:
    """What one layer or table takes.

    Args:
        shape: of the layer.
        dtype: "float32", "float16", "int8", or "int4" (groups of 128, float32 scales).

    Returns:
        Bytes of its tensors in a file, and of the layer in memory. For the latter a layer of zeros is made, once for
        each shape.

    Raises:
        ValueError: dtype is none of these.

    Example:
        >>> from octavo._files.sizes import Shape, layer_size
        >>> layer_size(Shape(4096, 4096), "float32")
        Size(file=67108864, memory=67108864)
        >>> layer_size(Shape(4096, 4096), "int8").file
        16793600
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}")
    if dtype in ("float32", "float16"):
        return Size(*[np.dtype(dtype).itemsize * shape.elems] * 2)
    n, k = shape.out_features, shape.in_features
    weights = WeightFormat() if dtype == "int8" else WeightFormat("int4", 128)
    file = sum(tensor.nbytes for tensor in weights.tensors((n, k), bias=shape.bias).values())
    zeros = np.zeros(n, np.float32) if shape.bias else None
    layer: QuantLinear | QuantEmbedding
    if dtype == "int8":
        q, ones = np.zeros((n, k), np.int8), np.ones(n, np.float32)
        layer = QuantEmbedding._from_quantized(q, ones) if shape.table else QuantLinear.from_quantized(q, 1.0, zeros)
    else:
        grouped = GroupedWeight(np.zeros((n, k), np.int8), np.ones((n, -(-k // 128)), np.float32), group_size=128)
        layer = QuantEmbedding._from_grouped(grouped) if shape.table else QuantLinear.from_grouped(grouped, zeros)
    return Size(file, layer.nbytes)


def memory_sizes(
    layers: Mapping[Shape, int], rest_elems: int = 0, other_bytes: int = 0, dtypes: Sequence[str] = DTYPES
) -> dict[str, Size]:
    """What a model takes, by type of its layers' weights.

    Args:
        layers: how many layers and tables there are of each shape.
        rest_elems: floats outside of them (norms, positions): float32 with "float32", float16 with all others.
        other_bytes: of tensors that are not floats.
        dtypes: the types.

    Example:
        >>> from octavo._files.sizes import Shape, memory_sizes
        >>> memory_sizes({Shape(4096, 4096): 2}, rest_elems=10, dtypes=["float16"])
        {'float16': Size(file=67108884, memory=67108884)}
    """
    found = {}
    for dtype in dtypes:
        rest = rest_elems * (4 if dtype == "float32" else 2) + other_bytes
        sizes = [(layer_size(shape, dtype), count) for shape, count in layers.items()]
        file, memory = (rest + sum(size[i] * count for size, count in sizes) for i in (0, 1))
        found[dtype] = Size(file, memory)
    return found


def memory_table(
    layers: Mapping[Shape, int], rest_elems: int = 0, other_bytes: int = 0, dtypes: Sequence[str] = DTYPES
) -> str:
    """`memory_sizes` as a table: a line for each type, the share of the first one's file behind.

    Example:
        >>> from octavo._files.sizes import Shape, memory_table
        >>> print(memory_table({Shape(4096, 4096): 2}, dtypes=("float32", "float16")))
                         in the file         in memory
        float32        134,217,728 B     134,217,728 B   100.0 %
        float16         67,108,864 B      67,108,864 B    50.0 %
    """
    lines = [f"{'':12}{'in the file':>16}{'in memory':>18}"]
    sizes = memory_sizes(layers, rest_elems, other_bytes, dtypes)
    whole = next(iter(sizes.values())).file
    for dtype, (file, memory) in sizes.items():
        lines.append(f"{dtype:12}{file:>14,} B{memory:>16,} B{100 * file / max(whole, 1):>8.1f} %")
    return "\n".join(lines)
