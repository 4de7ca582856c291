"""Integers of 5 and 6 bits, packed as files hold them."""

from __future__ import annotations

import numpy as np
import pytest

from octavo._numerics.int4 import pack_int4
from octavo._numerics.planes import high_bytes, join_planes, split_planes


@pytest.mark.parametrize("bits", [5, 6])
@pytest.mark.parametrize("signed", [True, False])
def test_planes_are_the_bits_in_their_order_and_join_again(bits: int, signed: bool) -> None:
    low = -(1 << (bits - 1)) if signed else 0
    for k in (0, 1, 2, 3, 4, 7, 8, 9, 64):
        rng = np.random.default_rng(k)
        codes = rng.integers(low, low + (1 << bits), (3, k)).astype(np.int8 if signed else np.uint8)
        nibbles, high = split_planes(codes, bits)
        unsigned = codes.astype(np.int64) % (1 << bits)
        np.testing.assert_array_equal(nibbles, pack_int4((unsigned & 15).astype(np.uint8)))
        # A stream of bits, the lowest of each integer first: its definition.
        stream = [value >> 4 >> bit & 1 for row in unsigned for value in row for bit in range(bits - 4)]
        expected = np.packbits(np.reshape(stream, (3, -1)).astype(np.uint8), axis=1, bitorder="little")
        assert high.shape == (3, high_bytes(k, bits))
        np.testing.assert_array_equal(high, expected.reshape(high.shape))
        joined = join_planes(nibbles, high, k, bits, signed=signed)
        assert joined.dtype == codes.dtype
        np.testing.assert_array_equal(joined, codes)
