"""The safetensors reader and writer: the safetensors package is the truth."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from octavo._files.safetensors import Reader, Tensor, Writer, dtype_code

DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32")


def arrays() -> dict[str, np.ndarray]:
    found = {name: (np.arange(-3, 4) % 3).astype(name) for name in DTYPES}
    return found | {"f64": np.linspace(0, 1, 6).reshape(2, 3), "scalar": np.array(7), "none": np.zeros((0, 3), "f4")}


def write(path: Path, held: dict[str, np.ndarray], **metadata: str) -> None:
    tensors = {name: Tensor(str(dtype_code(a.dtype)), a.shape) for name, a in held.items()}
    with Writer(path, tensors, lambda crc32: metadata) as writer:
        for name, a in held.items():
            writer.append(name, a)


def raw_file(path: Path, header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def test_writer_is_read_by_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path, arrays(), octavo="yes")
    for name, a in load_file(path).items():
        assert a.dtype == arrays()[name].dtype
        np.testing.assert_array_equal(a, arrays()[name])
    with safe_open(path, "np") as file:
        assert file.metadata() == {"octavo": "yes"}
        assert set(file.keys()) == arrays().keys()


def test_reader_reads_safetensors_own_files(tmp_path: Path) -> None:
    save_file(arrays(), tmp_path / "x", metadata={"format": "np"})
    with Reader(tmp_path / "x") as reader:
        assert reader.metadata == {"format": "np"}
        for name, a in arrays().items():
            assert reader.array(name).dtype == a.dtype
            np.testing.assert_array_equal(reader.array(name), a)
            reader.release(name)
            assert reader.data(name).tobytes() == a.tobytes()


def test_arrays_outlive_the_reader(tmp_path: Path) -> None:
    """An exception's traceback may hold them: looking at it must not crash."""
    write(tmp_path / "x", arrays())
    with Reader(tmp_path / "x") as reader:
        views = {name: (reader.raw(name), reader.data(name)) for name in arrays()}
    for name, a in arrays().items():
        np.testing.assert_array_equal(views[name][0], a)
        assert views[name][1].tobytes() == a.tobytes()
        assert not views[name][0].flags.writeable or a.size == 0


def test_reader_closes_the_file(tmp_path: Path) -> None:
    write(tmp_path / "x", arrays())
    with Reader(tmp_path / "x") as reader:
        reader.array("f64")
    with pytest.raises(ValueError, match="released"):
        reader.data("f64")


def test_tensors_are_aligned_to_their_items(tmp_path: Path) -> None:
    write(
        tmp_path / "x", {"a": np.zeros(3, "i1"), "b": np.zeros(3, "f8"), "c": np.zeros(1, "f2"), "d": np.zeros(5, "f4")}
    )
    with Reader(tmp_path / "x") as reader:
        assert all(reader.raw(name).flags.aligned for name in "abcd")


@pytest.mark.parametrize("order", ["C", "F", "strided", "big-endian"])
def test_writer_takes_any_memory_layout(order: str, tmp_path: Path) -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    given = {"C": a, "F": np.asfortranarray(a), "strided": np.repeat(a, 2, 1)[:, ::2], "big-endian": a.astype(">f4")}
    write(tmp_path / "x", {"a": given[order]})
    np.testing.assert_array_equal(load_file(tmp_path / "x")["a"], a)


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    entry = {"a": {"dtype": "BF16", "shape": [256, 256], "data_offsets": [0, 1 << 17]}}
    with Reader(raw_file(tmp_path / "x", entry, bits.tobytes())) as reader:
        found = reader.array("a")
    assert found.dtype == np.float32
    assert found.shape == (256, 256)
    exact = np.zeros((1 << 16, 2), np.uint16)
    exact[:, 1] = bits
    assert found.tobytes() == exact.tobytes()


def test_pieces_in_any_order_give_the_file_of_one_piece(tmp_path: Path) -> None:
    a, b = np.arange(10, dtype=np.int16), np.arange(8, dtype=np.float32)
    write(tmp_path / "whole", {"a": a, "b": b})
    with Writer(tmp_path / "pieces", {"b": Tensor("F32", (8,)), "a": Tensor("I16", (10,))}) as writer:
        for i in range(0, 8, 4):
            writer.append("b", b[i : i + 4])
            writer.append("a", a[i + i // 4 : i + i // 4 + 5].tobytes())
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("count", [7, 9])
def test_writer_refuses_a_wrong_number_of_bytes(count: int, tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=f"tensor 'a' has 8 bytes, got {count}"),
        Writer(tmp_path / "x", {"a": Tensor("U8", (8,))}) as w,
    ):
        w.append("a", bytes(count))
    assert os.listdir(tmp_path) == []


# What was there survives


def test_exception_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), Writer(path, {"a": Tensor("U8", (1,))}):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write(path, {"a": np.zeros(100_000, np.uint8)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_disk_that_fails_at_the_end_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, {"a": np.zeros(4)})
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_whoever_reads_the_old_file_goes_on_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path, {"a": np.zeros(4)})
    with Reader(path) as reader:
        write(path, {"a": np.ones(4)})
        assert reader.array("a").tolist() == [0, 0, 0, 0]
    assert load_file(path)["a"].tolist() == [1, 1, 1, 1]


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: pwrite(fd, view[:7], offset))
    write(tmp_path / "x", {"a": np.arange(100)})
    np.testing.assert_array_equal(load_file(tmp_path / "x")["a"], np.arange(100))


def test_new_file_has_the_mode_of_the_old_and_links_are_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    write(link, {"a": np.zeros(4)})
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert list(load_file(target)) == ["a"]


def test_new_file_obeys_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "x", {"a": np.zeros(4)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("where", ["folder", "nowhere/x"])
def test_writer_refuses_paths_that_are_no_place_for_a_file(where: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"folder|No such file"):
        write(tmp_path / where, {"a": np.zeros(4)})


# Damage

F4 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": F4 | changes}


BAD_HEADERS = {
    "no object": (b"[]", "must start with"),
    "space first": (b" {}", "must start with"),
    "no JSON": (b"{", "JSON"),
    "not UTF-8": (b'{"\xff": 1}', "JSON"),
    "nested deeply": (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested"),
    "a name twice": (b'{"a": 1, "a": 1}', "'a' twice"),
    "NaN": (b'{"a": NaN}', "NaN"),
    "half a surrogate pair": (b'{"\\ud800": 1}', "JSON"),
    "a number of 5000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "JSON"),
    "metadata no text": ({"__metadata__": {"a": 1}}, "text to text"),
    "metadata a list": ({"__metadata__": []}, "text to text"),
    "no entry": ({"a": 1}, "data_offsets, got 1"),
    "a key too few": ({"a": {"dtype": "F32", "shape": []}}, "data_offsets, got"),
    "unknown dtype": (entry(dtype="F31"), "unknown dtype 'F31'"),
    "dtype a list": (entry(dtype=["F32"]), "unknown dtype"),
    "negative size": (entry(shape=[-2]), "shape"),
    "size a float": (entry(shape=[2.0]), "shape"),
    "size true": (entry(shape=[True, 2]), "shape"),
    "shape a number": (entry(shape=2), "shape"),
    "33 axes": (entry(shape=[1] * 32 + [2]), "at most 32"),
    "product wraps to 2": (entry(shape=[2**32 + 1, 2**32 - 1, 2]), "no machine"),
    "empty and absurd": (entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0]), "no machine"),
    "a size beyond 64 bits": (entry(shape=[2**64]), "shape"),
    "shape too large": (entry(shape=[3]), "12 bytes"),
    "shape too small": (entry(shape=[1]), "4 bytes"),
    "offsets backwards": (entry(data_offsets=[8, 0]), "offsets"),
    "three offsets": (entry(data_offsets=[0, 4, 8]), "data_offsets"),
    "gap at the start": (entry(data_offsets=[1, 9]), "starts at byte 1"),
    "half a byte": ({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, "1.5 bytes"),
    "overlap": ({"a": F4, "b": F4}, "starts at byte 0"),
    "less data than tensors": (entry(shape=[4], data_offsets=[0, 16]), "truncated"),
    "more data than tensors": (entry(shape=[1], data_offsets=[0, 4]), "hold"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_reader_refuses_a_bad_header(case: str, tmp_path: Path) -> None:
    header, message = BAD_HEADERS[case]
    path = raw_file(tmp_path / "x", header, bytes(8))
    with pytest.raises(ValueError, match=message) as caught:
        Reader(path)
    assert str(path) in str(caught.value)


# Where octavo refuses what the package takes.
STRICTER = {"a name twice", "33 axes", "empty and absurd", "half a surrogate pair", "metadata a list"}


@pytest.mark.parametrize("case", [case for case in BAD_HEADERS if case not in STRICTER])
def test_bad_headers_are_refused_by_safetensors_too(case: str, tmp_path: Path) -> None:
    path = raw_file(tmp_path / "x", BAD_HEADERS[case][0], bytes(8))
    with pytest.raises((SafetensorError, ValueError)), safe_open(path, "np") as file:
        [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118  no dict


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 50, 200, -1])
def test_reader_refuses_a_truncated_file(length: int, tmp_path: Path) -> None:
    write(tmp_path / "x", arrays())
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "y").write_bytes(whole[:length])
    with pytest.raises(ValueError, match="not a usable safetensors file"):
        Reader(tmp_path / "y")


@pytest.mark.parametrize("length", [3, 100_000_000])
def test_reader_refuses_a_header_longer_than_the_file(length: int, tmp_path: Path) -> None:
    path = raw_file(tmp_path / "x", b"{}", length=length)
    with pytest.raises(ValueError, match=f"by its first 8 bytes its header has {length} bytes, but only 2 follow"):
        Reader(path)


@pytest.mark.parametrize("length", [100_000_001, 2**63, 2**64 - 1])
def test_reader_refuses_a_length_beyond_the_limit_of_the_format(length: int, tmp_path: Path) -> None:
    path = raw_file(tmp_path / "x", b"{}", length=length)
    with pytest.raises(
        ValueError, match=r"it is of another format: its first 8 bytes, .* are not the length of a header"
    ):
        Reader(path)


def test_reader_refuses_a_header_beyond_the_limit_of_the_format(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "x", b"{}", length=100_000_001)
    os.truncate(path, 100_000_100)  # a hole: it takes no room
    with pytest.raises(
        ValueError, match=r"it is of another format: its first 8 bytes, .* are not the length of a header"
    ):
        Reader(path)


def test_reader_refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "is not a regular file"), (tmp_path, "is a folder; name a")):
        with pytest.raises(ValueError, match=message):
            Reader(path)
    with pytest.raises(FileNotFoundError):
        Reader(tmp_path / "nowhere")


def test_reader_names_a_type_that_numpy_lacks(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "x", {"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"\1\2")
    with Reader(path) as reader:
        assert reader.data("a").tobytes() == b"\1\2"
        with pytest.raises(ValueError, match="NumPy has no F8_E4M3, the type of tensor 'a'"):
            reader.array("a")


def test_reader_refuses_bools_that_are_neither(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "x", {"a": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\1\2")
    with Reader(path) as reader, pytest.raises(ValueError, match="other than 0 and 1"):
        reader.array("a")


def test_writer_refuses_the_reserved_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="__metadata__"):
        Writer(tmp_path / "x", {"__metadata__": Tensor("U8", (1,))})


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room for a file")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EOPNOTSUPP], ids=["full", "cannot"])
def test_room_is_reserved_where_the_file_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"as it was")
    asked = []

    def refuse(fd: int, offset: int, size: int) -> None:
        asked.append(size)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    writer = Writer(path, {"a": Tensor("U8", (5000,))})
    if number == errno.ENOSPC:
        with pytest.raises(OSError, match=re.escape(str(path))), writer:
            pytest.fail("there is no room")
        assert path.read_bytes() == b"as it was"
    else:
        with writer:
            writer.append("a", bytes(5000))
        assert asked == [path.stat().st_size]
    assert os.listdir(tmp_path) == [path.name]
