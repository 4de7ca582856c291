"""Grouped codes of every form, with the values that are hard on kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from octavo._numerics.grouped import GroupedCodes

FORMS = ("plain", "zero point", "minimum", "two levels", "two levels, minimum")


def make_codes(
    n: int,
    k: int,
    form: str = "plain",
    *,
    bits: int = 4,
    dtype: Any = np.uint8,
    group_size: int | None = 32,
    scale_dtype: Any = np.float16,
    seed: int = 0,
) -> GroupedCodes:
    """Codes over their whole range, one group at its limits; scales of both signs, one of them zero."""
    rng = np.random.default_rng(seed)
    low = -(1 << (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    high = low + (1 << bits)
    groups = 1 if group_size is None else k // group_size
    two_level = form.startswith("two levels")
    floats = (n, k // 256) if two_level else (n, groups)

    def some_floats() -> Any:
        values = (rng.standard_normal(floats) * 0.1).astype(scale_dtype)
        values.flat[:1] = 0
        return values

    codes = rng.integers(low, high, (n, k)).astype(dtype)
    codes[:, : group_size or k] = rng.choice([low, high - 1])
    levels = np.int8 if seed % 2 == 0 else np.uint8
    return GroupedCodes(
        codes,
        some_floats(),
        bits,
        group_size,
        zero_point=rng.integers(low, high, (n, groups)).astype(dtype) if form == "zero point" else None,
        minimum=some_floats() if form.endswith("minimum") else None,
        group_scale=rng.integers(0, 256, (n, groups)).astype(np.uint8).view(levels) if two_level else None,
        group_minimum=rng.integers(0, 256, (n, groups)).astype(np.uint8) if form == "two levels, minimum" else None,
    )
