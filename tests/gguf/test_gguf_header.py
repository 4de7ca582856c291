"""Headers that are right, and every kind of wrong one: named, and within bounds of time and memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import octavo as oc
from gguf_files import head, key, tensor, text, whole, write_blocks
from octavo.gguf._header import read_header

DATA = bytes(range(64))


def header_of(path: Path, raw: bytes) -> object:
    path.write_bytes(raw)
    with open(path, "rb") as file:
        return read_header(file)


def test_read_header_gives_metadata_of_every_type(tmp_path: Path) -> None:
    scalars = {0: ("<B", 200), 1: ("<b", -5), 2: ("<H", 60000), 3: ("<h", -3), 4: ("<I", 4000000000), 5: ("<i", -7),
               6: ("<f", 0.5), 7: ("<B", 1), 10: ("<Q", 1 << 60), 11: ("<q", -1), 12: ("<d", 0.1)}  # fmt: skip
    keys = [key(f"k{kind}", kind, struct.pack(code, value)) for kind, (code, value) in scalars.items()]
    keys += [
        key("text", 8, text("naïve")),
        key("list", 9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)),
        key("words", 9, struct.pack("<IQ", 8, 2) + text("a") + text("")),
        key("nested", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ2B", 7, 2, 0, 1)),
    ]
    found = header_of(tmp_path / "x.gguf", whole(keys, [tensor("t", (16,), 0, 0)], DATA))
    expected = {f"k{kind}": value for kind, (_, value) in scalars.items()}
    assert found.metadata == expected | {
        "text": "naïve",
        "list": [1, -2, 3],
        "words": ["a", ""],
        "nested": [[False, True]],
        "k7": True,
    }
    info = found.tensors["t"]
    assert (info.type.name, info.shape, info.nbytes, found.version) == ("F32", (16,), 64, 3)


@pytest.mark.parametrize("alignment", [1, 8, 64])
def test_read_header_keeps_to_the_alignment(tmp_path: Path, alignment: int) -> None:
    keys = [key("general.alignment", 4, struct.pack("<I", alignment))]
    raw = whole(keys, [tensor("t", (16,), 0, 0)], DATA, alignment=alignment)
    assert header_of(tmp_path / "x.gguf", raw).tensors["t"].offset == len(raw) - 64


T = tensor("t", (16,), 0, 0)
WRONG = {
    "empty": (b"", "the file ends within the header: 4 bytes are needed at byte 0, 0 are there"),
    "magic": (b"GGML" + bytes(40), "it begins with b'GGML'"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(40), "big-endian"),
    "version 1": (head([], [], version=1) + bytes(64), "GGUF version 1; versions 2 to 3 are read"),
    "version 4": (head([], [], version=4) + bytes(64), "GGUF version 4"),
    "2^60 keys": (head([], [], counts=(0, 1 << 60)), f"announces {1 << 60} keys"),
    "2^60 tensors": (head([], [], counts=(1 << 60, 0)), f"announces {1 << 60} tensors"),
    "key of 4 GB": (head([struct.pack("<Q", 1 << 32)], []) + bytes(64), "a metadata key is 4294967296 bytes long"),
    "text of 4 GB": (head([key("k", 8, struct.pack("<Q", 1 << 32))], []) + bytes(64), "file ends within metadata 'k'"),
    "list of 2^61": (head([key("k", 9, struct.pack("<IQ", 10, 1 << 61))], []) + bytes(64), f"announces {1 << 61} elem"),
    "texts of 2^61": (head([key("k", 9, struct.pack("<IQ", 8, 1 << 61))], []) + bytes(64), "announces"),
    "unknown value": (head([key("k", 13, b"")], []) + bytes(64), "metadata 'k' has the unknown type 13"),
    "unknown in list": (head([key("k", 9, struct.pack("<IQ", 13, 1))], []) + bytes(64), "unknown type 13"),
    "bool of 2": (head([key("k", 7, b"\2")], []) + bytes(64), "must be true or false .1 or 0., got 2"),
    "not UTF-8": (head([key("k", 8, text(b"\xff"))], []) + bytes(64), "metadata 'k' is not UTF-8"),
    "words not UTF-8": (head([key("k", 9, struct.pack("<IQ", 8, 1) + text(b"\xff"))], []) + bytes(64), "not UTF-8"),
    "key twice": (head([key("k", 0, b"\1")] * 2, []) + bytes(64), "metadata key 'k' stands there twice"),
    "deep lists": (head([key("k", 9, struct.pack("<IQ", 9, 1) * 1000)], []) + bytes(64), "more than 8 deep"),
    "alignment 3": (head([key("general.alignment", 4, struct.pack("<I", 3))], []), "power of two, got 3"),
    "alignment 0": (head([key("general.alignment", 4, struct.pack("<I", 0))], []), "power of two, got 0"),
    "alignment text": (head([key("general.alignment", 8, text("32"))], []), "power of two, got '32'"),
    "tensor twice": (whole([], [T, T], DATA), "tensor 't' stands there twice"),
    "no dimensions": (whole([], [tensor("t", (), 0, 0)], DATA), "tensor 't' has 0 dimensions"),
    "2^31 dimensions": (whole([], [text("t") + struct.pack("<I", 1 << 31)], DATA), f"has {1 << 31} dimensions"),
    "size of 0": (whole([], [tensor("t", (0, 1 << 60), 2, 0)], DATA), f"has shape .{1 << 60}, 0.; sizes must be at le"),
    "unknown type": (whole([], [tensor("t", (32,), 4, 0)], DATA), "tensor 't' has type 4, which this octavo does not"),
    "no whole blocks": (
        whole([], [tensor("t", (33,), 2, 0)], DATA),
        "rows of 33 elements; Q4_0 needs a multiple of 32",
    ),
    "offset": (whole([], [tensor("t", (4,), 0, 8)], DATA), "begins at byte 8 of the data, not at a multiple of 32"),
    "overlap": (whole([], [T, tensor("u", (4,), 0, 32)], DATA), "tensors 't' and 'u' overlap"),
    "cut off": (whole([], [T], DATA[:-1]), "ends at byte 128, and the file has 127; it is cut off, or still being"),
    "2^60 elements": (whole([], [tensor("t", (1 << 60,), 0, 0)], DATA), "it is cut off"),
    "sizes whose product wraps": (whole([], [tensor("t", (1 << 32, 1 << 32), 0, 0)], DATA), "it is cut off"),
    "offset of 2^63": (whole([], [tensor("t", (4,), 0, 1 << 63)], DATA), "it is cut off"),
}


@pytest.mark.parametrize("case", WRONG)
def test_load_names_what_is_wrong_with_a_header(tmp_path: Path, case: str) -> None:
    raw, words = WRONG[case]
    path = tmp_path / "wrong.gguf"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"cannot read .*wrong.gguf: .*{words}"):
        oc.gguf.load(path)


def test_load_of_every_beginning_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_blocks(path, {"a.b": ("F32", np.ones((2, 3), np.float32))}, {"words": ["one", "two"], "n": 5})
    raw = path.read_bytes()
    oc.gguf.load(path)
    for length in range(len(raw) - 1 - (-24 % 32)):  # the writer fills up the last tensor, too
        path.write_bytes(raw[:length])
        with pytest.raises(ValueError, match=r"x.gguf"):
            oc.gguf.load(path)


def test_hostile_counts_take_no_memory_and_no_time(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    tracemalloc.start()
    start = time.perf_counter()
    for raw, _ in WRONG.values():
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=r"x.gguf"):
            oc.gguf.load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    assert time.perf_counter() - start < 60  # a count that is believed would take hours
