"""GGML's blocks as grouped codes, and back: what is read keeps every bit, in another order.

    Q4_0 Q5_0 Q8_0    d (c - 8), d (c - 16), d c                 groups of 32, signed codes
    Q4_1 Q5_1         d c + m                                    groups of 32, unsigned codes, minima
    Q4_K Q5_K Q2_K    (D sc) c - (Dmin mn)                       groups of 32 or 16, two levels in 256, unsigned codes
    Q6_K Q3_K         (D sc) c                                   groups of 16, two levels in 256, signed codes
    IQ4_NL MXFP4      d table[c]                                 groups of 32, the table's values as 8-bit codes

Codes of up to four bits take four, those of five and six as many, and values of a table eight. The layouts are those of
ggml-quants.c; `gguf`, the package, is what tests compare with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._numerics.grouped import GroupedCodes

__all__ = ["DECODERS", "ENCODERS"]

Bytes = NDArray[np.uint8]  # (rows, blocks, bytes of a block)


def _halves(blocks: Bytes, at: int) -> NDArray[np.float16]:
    """(rows, blocks) float16 from two bytes of each block."""
    return np.ascontiguousarray(blocks[:, :, at : at + 2]).view("<f2")[:, :, 0].astype(np.float16, copy=False)


def _flat(parts: NDArray[Any]) -> NDArray[Any]:
    """(rows, everything else)."""
    return parts.reshape(len(parts), -1)


def _nibbles(packed: Bytes) -> NDArray[np.uint8]:
    """(.., n) bytes to (.., 2, n): low nibbles, then high ones."""
    both = np.empty((*packed.shape[:-1], 2, packed.shape[-1]), np.uint8)
    np.bitwise_and(packed, np.uint8(15), out=both[..., 0, :])
    np.right_shift(packed, np.uint8(4), out=both[..., 1, :])
    return both


def _crumbs(packed: Bytes, shifts: tuple[int, ...], mask: int) -> NDArray[np.uint8]:
    """(.., n) bytes to (.., len(shifts), n)."""
    parts = np.empty((*packed.shape[:-1], len(shifts), packed.shape[-1]), np.uint8)
    for i, shift in enumerate(shifts):
        np.bitwise_and(packed >> np.uint8(shift), np.uint8(mask), out=parts[..., i, :])
    return parts


def _signed(codes: NDArray[np.uint8], offset: int) -> NDArray[np.int8]:
    return (codes - np.uint8(offset)).view(np.int8)


def _fifth_bits(blocks: Bytes, at: int) -> NDArray[np.uint8]:
    """(rows, blocks, 2, 16): the bits of four bytes, worth 16."""
    bits = np.unpackbits(blocks[:, :, at : at + 4], axis=2, bitorder="little")
    return (bits << np.uint8(4)).reshape(*bits.shape[:2], 2, 16)


def _q4_0(b: Bytes) -> GroupedCodes:
    return GroupedCodes(_flat(_signed(_nibbles(b[:, :, 2:]), 8)), _halves(b, 0), 4, 32)


def _q4_1(b: Bytes) -> GroupedCodes:
    return GroupedCodes(_flat(_nibbles(b[:, :, 4:])), _halves(b, 0), 4, 32, minimum=_halves(b, 2))


def _q5_0(b: Bytes) -> GroupedCodes:
    return GroupedCodes(_flat(_signed(_nibbles(b[:, :, 6:]) | _fifth_bits(b, 2), 16)), _halves(b, 0), 5, 32)


def _q5_1(b: Bytes) -> GroupedCodes:
    codes = _nibbles(b[:, :, 8:]) | _fifth_bits(b, 4)
    return GroupedCodes(_flat(codes), _halves(b, 0), 5, 32, minimum=_halves(b, 2))


def _q8_0(b: Bytes) -> GroupedCodes:
    return GroupedCodes(_flat(b[:, :, 2:]).view(np.int8), _halves(b, 0), 8, 32)


def _scales_of_6_bits(b: Bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The scales and minima of eight groups, (rows, 8 blocks) each, from twelve bytes behind two floats."""
    d, m, both = b[:, :, 4:8], b[:, :, 8:12], b[:, :, 12:16]
    scale = np.concatenate([d & 63, (both & 15) | ((d >> 2) & 48)], axis=2)
    minimum = np.concatenate([m & 63, (both >> 4) | ((m >> 2) & 48)], axis=2)
    return _flat(scale), _flat(minimum)


def _q4_k(b: Bytes) -> GroupedCodes:
    scale, minimum = _scales_of_6_bits(b)
    codes = _nibbles(b[:, :, 16:].reshape(*b.shape[:2], 4, 32))
    return GroupedCodes(
        _flat(codes), _halves(b, 0), 4, 32, minimum=_halves(b, 2), group_scale=scale, group_minimum=minimum
    )


def _q5_k(b: Bytes) -> GroupedCodes:
    scale, minimum = _scales_of_6_bits(b)
    low = _nibbles(b[:, :, 48:].reshape(*b.shape[:2], 4, 32)).reshape(*b.shape[:2], 8, 32)
    high = _crumbs(b[:, :, 16:48], tuple(range(8)), 1) << np.uint8(4)
    return GroupedCodes(
        _flat(low | high), _halves(b, 0), 5, 32, minimum=_halves(b, 2), group_scale=scale, group_minimum=minimum
    )


def _q2_k(b: Bytes) -> GroupedCodes:
    levels = b[:, :, :16]
    codes = _crumbs(b[:, :, 16:80].reshape(*b.shape[:2], 2, 32), (0, 2, 4, 6), 3)
    return GroupedCodes(
        _flat(codes), _halves(b, 80), 4, 16, minimum=_halves(b, 82),
        group_scale=_flat(levels & np.uint8(15)), group_minimum=_flat(levels >> np.uint8(4)),
    )  # fmt: skip


def _q3_k(b: Bytes) -> GroupedCodes:
    shape = b.shape[:2]
    low_scales = _nibbles(b[:, :, 96:104]).reshape(*shape, 16)
    high_scales = _crumbs(b[:, :, 104:108], (0, 2, 4, 6), 3).reshape(*shape, 16)
    scale = _signed(low_scales | (high_scales << np.uint8(4)), 32)
    low = _crumbs(b[:, :, 32:96].reshape(*shape, 2, 32), (0, 2, 4, 6), 3).reshape(*shape, 8, 32)
    high = _crumbs(b[:, :, :32], tuple(range(8)), 1) << np.uint8(2)  # a set bit: nothing is taken off
    return GroupedCodes(_flat(_signed(low | high, 4)), _halves(b, 108), 4, 16, group_scale=_flat(scale))


def _q6_k(b: Bytes) -> GroupedCodes:
    shape = b.shape[:2]
    low = _nibbles(b[:, :, :128].reshape(*shape, 2, 64)).reshape(*shape, 8, 32)
    high = _crumbs(b[:, :, 128:192].reshape(*shape, 2, 32), (0, 2, 4, 6), 3).reshape(*shape, 8, 32)
    codes = _signed(low | (high << np.uint8(4)), 32)
    scale = np.ascontiguousarray(b[:, :, 192:208]).view(np.int8)
    return GroupedCodes(_flat(codes), _halves(b, 208), 6, 16, group_scale=_flat(scale))


_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
_E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


def _iq4_nl(b: Bytes) -> GroupedCodes:
    return GroupedCodes(_flat(_IQ4_NL[_nibbles(b[:, :, 2:])]), _halves(b, 0), 8, 32)


def _mxfp4(b: Bytes) -> GroupedCodes:
    exponent = b[:, :, 0].astype(np.uint32)
    small = np.uint32(0x00200000) << np.minimum(exponent, np.uint32(1))  # subnormal: half of 2^(e - 127)
    bits = np.where(exponent < 2, small, (exponent - np.uint32(1)) << np.uint32(23)).astype(np.uint32)
    return GroupedCodes(_flat(_E2M1_DOUBLED[_nibbles(b[:, :, 1:])]), bits.view(np.float32), 8, 32)


DECODERS: dict[str, Callable[[Bytes], GroupedCodes]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q2_K": _q2_k, "Q3_K": _q3_k,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_NL": _iq4_nl, "MXFP4": _mxfp4,
}  # fmt: skip


def _put_q8_0(w: GroupedCodes) -> Bytes:
    n, k = w.shape
    blocks = np.empty((n, k // 32, 34), np.uint8)
    blocks[:, :, :2] = w.scale.astype("<f2")[:, :, None].view(np.uint8)
    blocks[:, :, 2:] = w.codes.view(np.uint8).reshape(n, -1, 32)
    return blocks


def _put_q4_0(w: GroupedCodes) -> Bytes:
    n, k = w.shape
    blocks = np.empty((n, k // 32, 18), np.uint8)
    blocks[:, :, :2] = w.scale.astype("<f2")[:, :, None].view(np.uint8)
    raised = (w.codes.view(np.uint8) + np.uint8(8)).reshape(n, -1, 2, 16)
    blocks[:, :, 2:] = raised[:, :, 0] | (raised[:, :, 1] << np.uint8(4))
    return blocks


# Grouped codes that have the form of a type already, as its blocks.
ENCODERS: dict[str, Callable[[GroupedCodes], Bytes]] = {"Q8_0": _put_q8_0, "Q4_0": _put_q4_0}
