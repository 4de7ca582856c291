"""rope and rope_tables against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from octavo._numerics.functions import cos as defined_cos
from octavo._numerics.functions import sin as defined_sin
from octavo._numerics.rotary_definition import rope as defined
from octavo.functional import rope, rope_tables
from octavo.functional._rotary import frequencies


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(("dim", "pairs"), [(2, 1), (8, 4), (66, 33), (70, 20), (128, 64)])
def test_rope_is_its_definition(threads: int, dim: int, pairs: int, interleaved: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 67, 3, dim), np.float32)
    cos, sin = rope_tables(67, 2 * pairs)
    y = rope(x, cos, sin, interleaved=interleaved)
    assert (y == defined(x, cos, sin, interleaved=interleaved)).all()
    assert (y[..., 2 * pairs :] == x[..., 2 * pairs :]).all()
    assert (rope(x[1, 5:6], cos[5:6], sin[5:6], interleaved=interleaved) == y[1, 5:6]).all()
    each = np.broadcast_to(cos, (2, 67, pairs)), np.broadcast_to(sin, (2, 67, pairs))
    assert (rope(x, *each, interleaved=interleaved) == y).all()
    assert rope(x, cos, sin, interleaved=interleaved, out=x) is x
    assert (x == y).all()


def test_heads_of_a_wider_array_are_turned_in_place() -> None:
    joined = np.random.default_rng(1).standard_normal((5, 7, 8), np.float32)
    before, (cos, sin) = joined.copy(), rope_tables(5, 6)
    expected = rope(joined[:, 1:4].copy(), cos, sin)
    assert (rope(joined[:, 1:4], cos, sin) == expected).all()
    rope(joined[:, 1:4], cos, sin, out=joined[:, 1:4])
    assert (joined[:, 1:4] == expected).all()
    assert (np.delete(joined, [1, 2, 3], axis=1) == np.delete(before, [1, 2, 3], axis=1)).all()
    shifted = before.copy()
    assert (rope(shifted[:, 1:4], cos, sin, out=shifted[:, 2:5]) == expected).all()
    unchanged = rope(before, cos[:, :0], sin[:, :0])
    assert (unchanged == before).all()
    assert unchanged is not before


def test_tables_are_the_functions_of_the_rounded_angle() -> None:
    positions = np.array([[0, 1, 2], [77, 4095, 1 << 24]])
    cos, sin = rope_tables(positions, 64, base=1e5)
    power = np.array([np.float32(1e5 ** (-2 * i / 64)) for i in range(32)])
    assert np.abs(np.array(frequencies(64, 1e5), np.float32) / power - 1).max() < 2**-22
    angle = positions.astype(np.float32)[..., None] * np.array(frequencies(64, 1e5), np.float32)
    assert cos.shape == sin.shape == (2, 3, 32)
    assert (cos == defined_cos(angle)).all()
    assert (sin == defined_sin(angle)).all()
    assert np.abs(cos - np.cos(angle.astype(np.float64))).max() < 2**-23
    assert (rope_tables(5, 64, base=1e5)[0] == rope_tables(range(5), 64, base=1e5)[0]).all()
    half = rope_tables(10, 8, factors=np.full(4, 2.0))
    assert (half[1][::2] == rope_tables(5, 8)[1]).all()


def test_powers_are_correctly_rounded() -> None:
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workprec(200):
        for base in (10000.0, 500000.0, 1e6, 3.0):
            for i, power in enumerate(frequencies(128, base)):
                exact = mpmath.power(base, mpmath.mpf(-2 * i) / 128)
                near = np.float32(power)
                gaps = [abs(mpmath.mpf(float(np.nextafter(near, np.float32(to)))) - exact) for to in (0, 2)]
                assert abs(mpmath.mpf(power) - exact) <= min(gaps)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1, 4), ValueError, "positions must not be negative, got -1"),
        ((-(2**70), 4), ValueError, "positions must not be negative, got -11805916"),
        ((10**12, 64), ValueError, "positions must be at most 16777217 where they are 0, 1, .*, got 1000000000000:"),
        ((2**70, 64), ValueError, "positions must be at most 16777217 where .*, got 1180591620717411303424:"),
        ((np.uint64(2**63), 64), ValueError, "positions must be at most 16777217 where .*, got 9223372036854775808:"),
        (((1 << 24) + 2, 2), ValueError, "positions must be at most 16777217"),
        ((True, 4), TypeError, "positions must be whole numbers, got bool"),
        ((4, 3), ValueError, "dim must be even and positive"),
        ((4, 2.0), TypeError, "dim must be a whole number, got 2.0"),
        (([0.5], 4), TypeError, "positions must be whole numbers, got list of dtype float64"),
        (([-1], 4), ValueError, r"positions must lie in 0..16777216, got -1..-1"),
        ((4, 4, 0.0), ValueError, "base must be positive and finite"),
        ((4, 4, "10000"), TypeError, "base must be a number, got str"),
        ((4, 4, None), TypeError, "base must be a number, got NoneType"),
        ((4, 4, 1e4, [1.0]), ValueError, r"factors must have shape \(2,\)"),
        ((4, 4, 1e4, [1.0, 0.0]), ValueError, "factors must be positive"),
    ],
)
def test_tables_refuse(arguments: Any, error: type[Exception], message: str) -> None:
    names = ("positions", "dim", "base", "factors")
    positions, dim, *rest = arguments
    with pytest.raises(error, match=message):
        rope_tables(positions, dim, **dict(zip(names[2:], rest, strict=False)))


@pytest.mark.parametrize("base", [1e-300, 1e300])
def test_tables_do_not_depend_on_seterr(base: float) -> None:
    with np.errstate(all="raise"):
        found = rope_tables(4, 8, base=base)
    assert found[0].shape == (4, 4)


def test_rope_types_layouts_and_errors() -> None:
    x = np.random.default_rng(0).standard_normal((6, 2, 8), np.float32)
    cos, sin = rope_tables(6, 8)
    y = rope(x, cos, sin)
    assert (rope(np.asfortranarray(x), cos[::1], np.asfortranarray(sin)) == y).all()
    assert rope(x.astype(np.float64), cos, sin).dtype == np.float64
    assert rope(x.tolist(), cos, sin).shape == x.shape
    out = np.empty((2, 6, 8), np.float32).swapaxes(0, 1)
    assert rope(x, cos, sin, out=out) is out
    assert (out == y).all()
    assert rope(x[:0], cos[:0], sin[:0]).shape == (0, 2, 8)
    with pytest.raises(ValueError, match=r"take the rows of x's positions: cos\[positions\]"):
        rope(x, cos[:4], sin[:4])
    with pytest.raises(ValueError, match="cos and sin must have one shape"):
        rope(x, cos, sin[:4])
    with pytest.raises(TypeError, match="interleaved must be True or False, got str"):
        rope(x, cos, sin, interleaved="half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x must have shape .* with dim >= 8"):
        rope(x[..., :6], cos, sin)
    with pytest.raises(ValueError, match=r"out must have shape \(6, 2, 8\)"):
        rope(x, cos, sin, out=np.empty((6, 2, 4), np.float32))
