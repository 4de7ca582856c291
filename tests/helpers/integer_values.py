"""Integers that products get wrong where they get something wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
TYPES = [*INTEGERS, np.bool_]

KINDS = ["full", "extremes", "least", "most", "small", "bytes", "words", "outliers", "zeros"]


def integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: type, kind: str) -> NDArray:
    """Values of one kind: the whole range, its ends, what fits a digit or two, a few large ones among small ones."""
    if dtype == np.bool_:
        share = {"most": 1.0, "zeros": 0.0, "small": 0.02, "outliers": 0.001}.get(kind, 0.5)
        return rng.random(shape) < share
    lo, hi = np.iinfo(dtype).min, np.iinfo(dtype).max

    def between(a: int, b: int) -> NDArray:
        return rng.integers(max(a, lo), min(b, hi), shape, dtype=dtype, endpoint=True)

    if kind == "full":
        return between(lo, hi)
    if kind == "extremes":
        return rng.choice(np.array([lo, hi], dtype), shape)
    if kind == "small":
        return between(-128, 127)
    if kind == "bytes":
        return between(0, 255)
    if kind == "words":
        return between(-32768, 32767)
    if kind == "outliers":
        values = between(-100, 100)
        values.reshape(-1)[:: max(1, values.size // 3)] = hi
        return values
    return np.full(shape, {"least": lo, "most": hi, "zeros": 0}[kind], dtype)


def numpy_matmul(a: NDArray, b: NDArray, dtype: type | None = None) -> NDArray:
    """NumPy's product, of uint64 with signed types too (`dtype` is then needed)."""
    if dtype is None:
        return np.matmul(a, b)
    return np.matmul(a.astype(dtype), b.astype(dtype))
