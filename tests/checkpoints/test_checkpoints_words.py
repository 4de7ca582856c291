"""Words that hold outputs side by side, turned into rows: against NumPy, value by value."""

from __future__ import annotations

import numpy as np
import pytest

from octavo.checkpoints._packing import awq_nibbles, signed_nibbles, turned_words
from quantized_checkpoints import AWQ_ORDER

SIZES = [0, 1, 2, 15, 16, 17, 33]


def grid(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows + columns).integers(-(1 << 31), 1 << 31, (rows, columns)).astype(np.int32)


def awq_codes(words: np.ndarray) -> np.ndarray:
    """(inputs, outputs): nibble i of a word is column AWQ_ORDER[i] of eight."""
    codes = np.empty((*words.shape, 8), np.uint8)
    for i, column in enumerate(AWQ_ORDER):
        codes[..., column] = (words.view(np.uint32) >> np.uint32(4 * i)) & np.uint32(15)
    return codes.reshape(len(words), 8 * words.shape[1])


def rows_of(codes: np.ndarray) -> np.ndarray:
    """(inputs, outputs) to rows of nibbles, the first in the low one."""
    even = np.zeros((codes.shape[0] + codes.shape[0] % 2, codes.shape[1]), np.uint8)
    even[: len(codes)] = codes
    return (even[::2] | even[1::2] << 4).T


@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("rows", SIZES)
def test_turned_words_are_the_transpose(rows: int, columns: int) -> None:
    words = grid(rows, columns)
    found = turned_words(words)
    assert found.shape == (columns, 4 * rows)
    np.testing.assert_array_equal(found.view("<i4"), words.T)


@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("rows", [*SIZES, 8, 9, 127, 128, 129, 250, 257])
def test_awq_nibbles_are_rows_of_outputs(rows: int, columns: int) -> None:
    words = grid(rows, columns)
    np.testing.assert_array_equal(awq_nibbles(words), rows_of(awq_codes(words)))


@pytest.mark.parametrize("kind", ["part", "reversed", "misaligned", "read-only"])
def test_words_may_lie_anywhere(kind: str) -> None:
    words = grid(300, 40)
    if kind == "misaligned":
        raw = np.frombuffer(b"\0" + words.tobytes(), np.uint8)[1:]
        given = raw.view(np.int32).reshape(words.shape)
        assert not given.flags.aligned
    else:
        given = {"part": words[3:291, 5:38], "reversed": words[::-1], "read-only": words}[kind]
        given.flags.writeable = kind != "read-only"
    np.testing.assert_array_equal(turned_words(given).view("<i4"), given.T)
    np.testing.assert_array_equal(awq_nibbles(given), rows_of(awq_codes(np.ascontiguousarray(given))))


@pytest.mark.parametrize(
    "words", [np.zeros(4, np.int32), np.zeros((2, 2), np.int64), np.zeros((4, 4), np.int32)[:, ::2]]
)
def test_other_arrays_are_refused(words: np.ndarray) -> None:
    for turn in (turned_words, awq_nibbles):
        with pytest.raises(ValueError, match=r"words must be|rows of words"):
            turn(words)


def test_results_are_arrays_of_their_own() -> None:
    words = grid(1024, 128)  # large enough for memory that is used again
    first, expected = turned_words(words), words.T.copy()
    second = turned_words(~words)
    np.testing.assert_array_equal(first.view("<i4"), expected)
    np.testing.assert_array_equal(second.view("<i4"), ~expected)
    signed = signed_nibbles(first)
    assert not np.shares_memory(signed, first)
    np.testing.assert_array_equal((signed & 15).astype(np.int8) << 4 >> 4, (first & 15).astype(np.int8) - 8)
    np.testing.assert_array_equal(signed.view(np.int8) >> 4, (first >> 4).astype(np.int8) - 8)
