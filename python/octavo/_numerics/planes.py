"""Integers of 5 and 6 bits as files hold them: four bits as `pack_int4` packs them, and those above in a plane."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from octavo._numerics.int4 import pack_int4, unpack_int4

__all__ = ["high_bytes", "join_planes", "split_planes"]

Bytes = npt.NDArray[np.uint8]


def high_bytes(k: int, bits: int) -> int:
    """Bytes that the bits above four of k integers take: bits - 4 of each, in whole bytes.

    Example:
        >>> high_bytes(9, 5), high_bytes(9, 6)
        (2, 3)
    """
    return (k * (bits - 4) + 7) // 8


def split_planes(codes: npt.NDArray[Any], bits: int) -> tuple[Bytes, Bytes]:
    """(low, high) of integers (N, K) of two's complement.

    low: four bits each, the first in the low nibble of a byte; high: the bits above, the first in the lowest bits of a
    byte. Rows begin a byte and end with zeros.

    Args:
        codes: int8 or uint8, within `bits` bits.
        bits: 5 or 6.

    Returns:
        uint8 (N, ceil(K / 2)) and (N, high_bytes(K, bits)).

    Example:
        >>> import numpy as np
        >>> low, high = split_planes(np.array([[-1, 2, 16]], np.int8), 6)
        >>> low.tolist(), high.tolist()  # 11 1111, 00 0010, 01 0000
        ([[47, 0]], [[19]])
    """
    unsigned = codes.view(np.uint8)
    extra = bits - 4
    fields = 8 // extra  # of a byte
    n, k = codes.shape
    above = np.zeros((n, high_bytes(k, bits) * fields), np.uint8)
    above[:, :k] = (unsigned >> np.uint8(4)) & np.uint8((1 << extra) - 1)
    high = above[:, ::fields].copy()
    for i in range(1, fields):
        high |= above[:, i::fields] << np.uint8(i * extra)
    return pack_int4(unsigned & np.uint8(15)), high


def join_planes(low: Bytes, high: Bytes, k: int, bits: int, *, signed: bool) -> npt.NDArray[Any]:
    """The integers (N, k), int8 or uint8, that `split_planes` split.

    Example:
        >>> import numpy as np
        >>> codes = np.array([[-16, 15, -1, 0, 7]], np.int8)
        >>> np.array_equal(join_planes(*split_planes(codes, 5), 5, 5, signed=True), codes)
        True
    """
    extra = bits - 4
    fields = 8 // extra
    above = np.empty((len(high), high.shape[1] * fields), np.uint8)
    for i in range(fields):
        above[:, i::fields] = (high >> np.uint8(i * extra)) & np.uint8((1 << extra) - 1)
    codes: Bytes = unpack_int4(low, k, signed=False) | (above[:, :k] << np.uint8(4))
    if not signed:
        return codes
    half = np.uint8(1 << (bits - 1))
    raised: Bytes = (codes ^ half) - half
    return raised.view(np.int8)
