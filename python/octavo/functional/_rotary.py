"""rope_tables and rope: rotary position embedding."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from octavo import _core
from octavo._util.arrays import as_real_array, contiguous
from octavo._util.foreign import as_array
from octavo.functional._arrays import Array, check_flag, computed, number, operand, whole
from octavo.functional._elementwise import cos as cosine
from octavo.functional._elementwise import sin as sine

if TYPE_CHECKING:
    import decimal

__all__ = ["frequencies", "rope", "rope_tables"]

Floats = npt.NDArray[np.float32]

_LARGEST_POSITION = 1 << 24  # float32 holds all whole numbers up to it


def rope_tables(
    positions: int | npt.ArrayLike, dim: int, *, base: float = 10000.0, factors: npt.ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """cos and sin of angle[t, i] = positions[t] * base^(-2i / dim), i = 0 .. dim / 2 - 1.

    Args:
        positions: whole numbers from 0 to 2^24, of any shape (...); a number n stands for 0, 1, ..., n - 1.
        dim: how many dimensions of a head are turned: even, and the head's own size unless the model turns a part.
        base: GGUF's `rope.freq_base`, Hugging Face's `rope_theta`.
        factors: (dim / 2,) numbers that the powers are divided by: GGUF's `rope_freqs.weight`, or n in every place
            where positions are scaled by 1 / n.

    Returns:
        (cos, sin), float32 of shape (..., dim / 2) each. Compute them once for all positions that a model has, and
        take cos[positions], sin[positions].

    Raises:
        TypeError: positions or dim that are not whole numbers, or a base or factors that are not real.
        ValueError: dim is odd or not positive, base is not positive, positions out of range, factors of another shape
            or not positive.

    Notes:
        The power is the real number, rounded once to float32; it is divided by the factor, and the angle is the
        product with float32(position), each with one rounding. cos and sin are those of that angle.
        Source: Su et al. 2021, RoFormer, section 3.2.

    Example:
        >>> from octavo.functional import rope_tables
        >>> cos, sin = rope_tables(2048, 64)
        >>> cos.shape, cos[0, :2], sin[1, :2]
        ((2048, 32), array([1., 1.], dtype=float32), array([0.841471  , 0.68156135], dtype=float32))
    """
    if whole(dim, "dim") <= 0 or dim % 2 != 0:
        raise ValueError(f"dim must be even and positive, as dimensions are turned in pairs, got {dim}")
    if not 0 < number(base, "base") < np.inf:
        raise ValueError(f"base must be positive and finite, got {base!r}")
    if isinstance(positions, (int, np.integer)):
        if positions < 0:
            raise ValueError(f"positions must not be negative, got {positions}")
        if positions > _LARGEST_POSITION + 1:
            raise ValueError(
                f"positions must be at most {_LARGEST_POSITION + 1} where they are 0, 1, ..., got {positions}: the "
                f"last is then {_LARGEST_POSITION}, up to which float32 holds all whole numbers"
            )
    places = as_array(positions, "positions")
    if places.dtype.kind not in "iu":
        raise TypeError(f"positions must be whole numbers, got {type(positions).__name__} of dtype {places.dtype}")
    if isinstance(positions, (int, np.integer)):
        places = np.arange(int(positions))
    if places.size and not (places.min() >= 0 and places.max() <= _LARGEST_POSITION):
        raise ValueError(f"positions must lie in 0..{_LARGEST_POSITION}, got {places.min()}..{places.max()}")
    powers = np.asarray(frequencies(int(dim), float(base)), np.float32)
    if factors is not None:
        divisors = contiguous(as_real_array(factors, "factors"))
        if divisors.shape != powers.shape:
            raise ValueError(f"factors must have shape {powers.shape}, one for each pair, got {divisors.shape}")
        if not (np.isfinite(divisors) & (divisors > 0)).all():
            raise ValueError("factors must be positive and finite")
        with np.errstate(all="ignore"):
            powers = powers / divisors
    with np.errstate(all="ignore"):
        angles = places.astype(np.float32)[..., None] * powers
    return cosine(angles), sine(angles)


@functools.lru_cache(64)
def frequencies(dim: int, base: float) -> tuple[float, ...]:
    """base^(-2i / dim) for i in 0..dim/2 - 1, each a float32 number: the real power, correctly rounded.

    It is computed to 40 decimal digits by `decimal`, which gives the same on every machine.

    Example:
        >>> frequencies(4, 10000.0)
        (1.0, 0.009999999776482582)
    """
    import decimal  # here, for what never asks for a table

    with decimal.localcontext(decimal.Context(prec=40)):
        log_base = decimal.Decimal(base).ln()
        return tuple(_nearest_float32((-log_base * (2 * i) / dim).exp()) for i in range(dim // 2))


def _nearest_float32(x: decimal.Decimal) -> float:
    with np.errstate(all="ignore"):
        near = np.float32(float(x))  # rounded twice, so that it may be a neighbour
        candidates = (near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf)))
    return float(min(candidates, key=lambda c: abs(type(x)(float(c)) - x)))


def rope(x: npt.ArrayLike, cos: Floats, sin: Floats, *, interleaved: bool = True, out: Array | None = None) -> Array:
    """Turn pairs of dimensions by their position's angles: (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin).

    Args:
        x: (..., T, heads, dim) real numbers: queries, or keys.
        cos, sin: (..., T, n) float32 from `rope_tables`, with n <= dim / 2 and leading axes that broadcast to those
            of x. Dimensions from 2 n on are left as they are.
        interleaved: pairs are (0, 1), (2, 3), ..., as in GGUF files of `llama` and in the paper. False: (0, n),
            (1, n + 1), ..., as in Hugging Face's files of Llama, and in GGUF files of most other architectures.
        out: an array of the result's shape and dtype to write to; x itself, too.

    Returns:
        The shape of x; float16 and float64 for x of that type, else float32.

    Raises:
        TypeError: x, cos or sin is not real, interleaved no bool, or `out` has another dtype.
        ValueError: shapes that do not fit.

    Notes:
        Real float32 arithmetic: each product and each sum is rounded, so this is what NumPy gives for the equation.
        Source: Su et al. 2021, RoFormer, section 3.4.2.

    Example:
        >>> import numpy as np
        >>> from octavo.functional import rope, rope_tables
        >>> q = np.ones((3, 1, 4), np.float32)  # 3 positions, 1 head of 4
        >>> rope(q, *rope_tables(3, 4))[1, 0]
        array([-0.30116874,  1.3817732 ,  0.9899502 ,  1.0099498 ], dtype=float32)
    """
    check_flag(interleaved, "interleaved")
    y = _core.rope(x, cos, sin, interleaved, out)
    if y is not None:
        return y
    plain, dtype = operand(x, "x")
    c, s = _fitted(plain.shape, cos, sin)
    if c.shape[-1] == 0:
        return computed(plain.copy, plain.shape, dtype, out)
    return computed(lambda: _core.rope(plain, c, s, interleaved, None), plain.shape, dtype, out)


def _fitted(x: tuple[int, ...], cos: npt.ArrayLike, sin: npt.ArrayLike) -> list[Floats]:
    """The tables with a row for each row of x, where they broadcast to that."""
    tables = [contiguous(as_real_array(table, name)) for table, name in ((cos, "cos"), (sin, "sin"))]
    if tables[0].shape != tables[1].shape or tables[0].ndim < 2:
        raise ValueError(f"cos and sin must have one shape, (..., T, n), got {tables[0].shape} and {tables[1].shape}")
    n = tables[0].shape[-1]
    if len(x) < 3 or 2 * n > x[-1]:
        raise ValueError(f"x must have shape (..., T, heads, dim) with dim >= {2 * n}, twice cos's last axis, got {x}")
    rows = (*x[:-2], n)
    try:
        return [contiguous(np.broadcast_to(table, rows)) for table in tables]
    except ValueError:
        raise ValueError(
            f"cos and sin must have shape {rows[-2:]}, or {rows}, to fit x {x}, got {tables[0].shape}; "
            "take the rows of x's positions: cos[positions]"
        ) from None
