"""Small integers in the words of 32 bits of other tools, taken out row by row.

    GPTQ, compressed-tensors    value i of a row at bits i * bits of a little-endian stream of words
    AWQ (GEMM form)             nibble i of a word holds column [0, 2, 4, 6, 1, 3, 5, 7][i] of eight

Rows of nibbles stay packed wherever that is enough: low nibble first is octavo's order too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _core

__all__ = [
    "AWQ_COLUMNS", "awq_nibbles", "awq_zeros", "signed_nibbles", "stream_values", "turned_words", "unpacked_nibbles",
    "words",
]  # fmt: skip

AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)

Bytes = NDArray[np.uint8]


def words(count: int, bits: int) -> int:
    """Words of 32 bits that hold so many values."""
    return -(-count * bits // 32)


def stream_values(packed: NDArray[Any], bits: int, count: int) -> Bytes:
    """(n, words) of 32 bits to (n, count) uint8.

    Example:
        >>> import numpy as np
        >>> from octavo.checkpoints._packing import stream_values
        >>> stream_values(np.array([[0x87654321]], np.uint32).view(np.int32), 4, 8)
        array([[1, 2, 3, 4, 5, 6, 7, 8]], dtype=uint8)
    """
    stream = np.ascontiguousarray(packed, packed.dtype.newbyteorder("<")).view(np.uint8)
    if bits == 8:
        return stream[:, :count]
    if bits == 4:
        return unpacked_nibbles(stream)[:, :count]
    if bits == 2:
        crumbs = np.empty((*stream.shape, 4), np.uint8)
        for i in range(4):
            np.bitwise_and(stream >> np.uint8(2 * i), np.uint8(3), out=crumbs[..., i])
        return crumbs.reshape(len(stream), -1)[:, :count]
    single = np.unpackbits(stream, axis=1, bitorder="little", count=count * bits)
    values = np.zeros((len(stream), count), np.uint8)
    for i in range(bits):
        values |= single[:, i::bits] << np.uint8(i)
    return values


def unpacked_nibbles(packed: Bytes) -> Bytes:
    """(n, bytes) to (n, 2 * bytes), low nibbles first."""
    values = np.empty((*packed.shape, 2), np.uint8)
    np.bitwise_and(packed, np.uint8(15), out=values[..., 0])
    np.right_shift(packed, np.uint8(4), out=values[..., 1])
    return values.reshape(len(packed), -1)


def awq_nibbles(packed: NDArray[Any]) -> Bytes:
    """(k, outputs / 8) words of AWQ to (outputs, k / 2) bytes: rows of nibbles, low ones first; k is even.

    Example:
        >>> import numpy as np
        >>> from octavo.checkpoints._packing import awq_nibbles
        >>> packed = np.array([[0x75316420], [0]], np.int32)
        >>> awq_nibbles(packed)[:, 0]
        array([0, 1, 2, 3, 4, 5, 6, 7], dtype=uint8)
    """
    return _core.turned_awq_words(packed)


def turned_words(packed: NDArray[Any]) -> Bytes:
    """(rows, outputs) words to (outputs, 4 * rows) bytes: the words of each output, one after the other."""
    return _core.turned_words(packed)


def signed_nibbles(packed: Bytes) -> Bytes:
    """Nibbles of 0..15 less 8, as two's complement: the top bit is the other way round."""
    rows, count = packed.shape
    found = _core.empty_result(rows, count, packed.dtype)  # memory of the piece before: fresh pages cost more
    np.bitwise_xor(packed, np.uint8(0x88), out=found)
    return found


def awq_zeros(packed: NDArray[Any]) -> Bytes:
    """(groups, outputs / 8) words of AWQ to (outputs, groups) zero points."""
    values = stream_values(packed, 4, 8 * packed.shape[1]).reshape(len(packed), -1, 8)
    ordered = np.empty_like(values)
    ordered[..., list(AWQ_COLUMNS)] = values
    return np.ascontiguousarray(ordered.reshape(len(packed), -1).T)
