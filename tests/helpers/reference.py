"""NumPy definitions that the layers are held against, to the bit, and layers and inputs to hold against them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import octavo as oc
from octavo._numerics.int4 import GroupedWeight

F = np.float32
SMALLEST_RANGE = F(2.0**-100)

# Options of layers of every kind of weights and activations.
FORMS: dict[str, dict[str, Any]] = {
    "int8": {},
    "int8 asymmetric": {"activation": "asymmetric"},
    "int8 int16": {"activation": "int16"},
    "int4": {"dtype": "int4", "group_size": 32, "rounding": "nearest"},
    "int4 asymmetric": {"dtype": "int4", "group_size": 64, "rounding": "nearest", "activation": "asymmetric"},
    "int4 int16": {"dtype": "int4", "group_size": 32, "rounding": "nearest", "activation": "int16"},
    "int4 groups": {"dtype": "int4", "group_size": 32, "rounding": "nearest", "activation_group": 64},
}


def quantize_row(row: NDArray[np.float32], activation: str) -> tuple[NDArray[np.int64], int, np.float32]:
    """(q, zero_point, scale) of one row of activations; scale is NaN where the row has no finite range."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        lo, hi = np.minimum(row.min(initial=0), F(0)), np.maximum(row.max(initial=0), F(0))
        reach = hi - lo if activation == "asymmetric" else np.maximum(hi, -lo)
    zero_point = -128 if activation == "asymmetric" else 0
    if not np.isfinite(reach) or not np.isfinite(row).all():
        return np.zeros(row.shape, np.int64), 0, F(np.nan)
    if reach < SMALLEST_RANGE:
        return np.full(row.shape, zero_point, np.int64), zero_point, F(1)
    steps = F(255) if activation == "asymmetric" else F(127)
    with np.errstate(all="ignore"):
        scale, inverse = reach / steps, steps / reach
        if activation == "asymmetric":
            zero_point = int(np.clip(F(-128) - np.rint(lo / scale), -128, 127))
        q = np.clip(np.rint(row * inverse), -128 - zero_point, 127 - zero_point).astype(np.int64) + zero_point
    return q, zero_point, scale


def linear(
    x: NDArray[np.float32],
    q_w: NDArray[np.int8],
    s_w: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    *,
    activation: str = "symmetric",
    relu: bool = False,
) -> NDArray[np.float32]:
    """y of QuantLinear for x (m, k), weights (n, k)."""
    y = np.empty((x.shape[0], q_w.shape[0]), F)
    for m, row in enumerate(x):
        q, zero_point, scale = quantize_row(row, activation)
        acc = (q - zero_point) @ q_w.T.astype(np.int64)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            value = acc.astype(F) * (scale * s_w)
            if bias is not None:
                value = value + bias
        if relu:
            value = np.where(np.isnan(value), value, np.where(value > 0, value, F(0)))
        y[m] = value
    return y


def linear_int4(
    x: NDArray[np.float32],
    q_w: NDArray[np.int8],
    s_w: NDArray[np.float32],
    z_w: NDArray[np.int32],
    group_size: int | None,
    bias: NDArray[np.float32] | None = None,
    *,
    activation: str = "symmetric",
    relu: bool = False,
) -> NDArray[np.float32]:
    """y of QuantLinear with int4 weights (n, k), scales and zero points (n, groups)."""
    k = q_w.shape[1]
    y = np.empty((x.shape[0], q_w.shape[0]), F)
    for m, row in enumerate(x):
        q, zero_point, scale = quantize_row(row, activation)
        value = np.zeros(q_w.shape[0], F)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for g, start in enumerate(range(0, k, group_size or k)):
                group = slice(start, min(k, start + (group_size or k)))
                w = q_w[:, group].astype(np.int64) - z_w[:, g, None]
                value = value + (w @ (q[group] - zero_point)).astype(F) * s_w[:, g]
            value = value * scale
            if bias is not None:
                value = value + bias
        if relu:
            value = np.where(np.isnan(value), value, np.where(value > 0, value, F(0)))
        y[m] = value
    return y


def assert_same_bits(actual: NDArray[np.float32], expected: NDArray[np.float32], message: str = "") -> None:
    """Equal to the bit, zeros' signs included; any NaN equals any NaN."""
    assert actual.dtype == expected.dtype == np.float32, message
    assert actual.shape == expected.shape, message
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan, err_msg=message)
    bits = [np.where(nan, 0, np.ascontiguousarray(a).view(np.int32)) for a in (actual, expected)]
    np.testing.assert_array_equal(*bits, err_msg=message)


def random_layer(k: int, n: int, seed: int = 0, **options) -> oc.QuantLinear:
    rng = np.random.default_rng(seed)
    q = rng.integers(-128, 128, (n, k)).astype(np.int8)  # -128 included
    scale = rng.uniform(1e-3, 1, n).astype(F)
    return oc.QuantLinear.from_quantized(q, scale, rng.standard_normal(n, dtype=F), **options)


def random_int4_layer(
    k: int,
    n: int,
    group_size: int | None,
    seed: int = 0,
    *,
    symmetric: bool = True,
    scale_dtype: str = "float32",
    bias: bool = True,
    **options,
) -> oc.QuantLinear:
    """Integers and zero points of all values, scales of both signs and, as float16, subnormal ones too."""
    rng = np.random.default_rng(seed)
    groups = -(-k // group_size) if group_size else 1
    q = rng.integers(-8, 8, (n, k)).astype(np.int8)
    scale = (rng.uniform(1e-3, 1, (n, groups)) * rng.choice([-1, 1], (n, groups))).astype(F)
    if scale_dtype == "float16":
        scale[:, 0] = 2.0**-23
        scale = scale.astype(np.float16).astype(F)
    zero_point = None if symmetric else rng.integers(-8, 8, (n, groups)).astype(np.int8)
    weight = GroupedWeight(q, scale, zero_point, group_size, scale_dtype)
    return oc.QuantLinear.from_grouped(weight, rng.standard_normal(n, dtype=F) if bias else None, **options)


def expected_of(layer: oc.QuantLinear, x: np.ndarray) -> np.ndarray:
    options = {"activation": layer.activation, "relu": layer.relu}
    if layer.dtype is oc.qint4:
        grouping = layer.scale, layer.zero_point, layer.group_size
        return linear_int4(x, layer.int_repr(), *grouping, layer.bias, **options)
    return linear(x, layer.int_repr(), layer.scale, layer.bias, **options)


def hard_rows(m: int, k: int, seed: int = 0) -> np.ndarray:
    """Random rows, some special: NaN, infinity, zeros, subnormals, overflowing ranges, halves, one sign."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, k), dtype=F) * 3
    special = [
        lambda row: row.__setitem__(-1, np.nan),
        lambda row: row.__setitem__(0, -np.inf),
        lambda row: row.fill(0),
        lambda row: row.fill(-0.0),
        lambda row: row.fill(2.0**-101),
        lambda row: row.fill(2.0**-100),
        lambda row: row.fill(1e-45),
        lambda row: row.__setitem__(slice(0, 2), [3e38, -3e38][: min(2, k)]),
        lambda row: np.copyto(row, np.resize(np.array([127, 0.5, 1.5, 2.5, -0.5, -3.5], F), k)),
        lambda row: np.abs(row, out=row),
        lambda row: np.negative(np.abs(row), out=row),
    ]
    for i, change in enumerate(special):
        if 2 * i + 1 < m:
            change(x[2 * i + 1])
    return x
