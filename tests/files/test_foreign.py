"""Files of other formats in place of a safetensors file: the message says what each is, and what to do."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import octavo as oc
from checkpoints import F, random, write_raw
from octavo._files.checkpoint import Archive, Checkpoint
from octavo._files.conversion import quantize_checkpoint
from octavo._files.safetensors import Reader


def torch_zip() -> bytes:
    """The outside of what torch.save writes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", b"\0" * 16)
    return buffer.getvalue()


def archive_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x")
    return buffer.getvalue()


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 548105171\n"
# name of the file: its bytes, and what is said of it
FILES: dict[str, tuple[bytes, str]] = {
    "pytorch_model.bin": (
        torch_zip(),
        r"a PyTorch checkpoint \(a zip archive with a pickle\); save its tensors as saf",
    ),
    "old.pt": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a pickle, as torch.save and joblib write, .*weights_only"),
    "model.joblib": (pickle.dumps({"a": [1.5]}, protocol=4), "a pickle, as torch.save and joblib write"),
    "model.gguf": (
        b"GGUF\x03\0\0\0" + b"\0" * 32,
        r"a GGUF file, as llama\.cpp reads; octavo\.gguf\.load\(path\) reads it",
    ),
    "model.safetensors": (LFS, "a Git LFS pointer in place of the file; fetch the file with git lfs pull"),
    "w.npy": (saved(lambda f: np.save(f, np.ones(3))), r"a single NumPy array \(\.npy\)"),
    "model.h5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 32, r"an HDF5 file \(Keras, h5py\)"),
    "model.tflite": (b"\x1c\0\0\0TFL3" + b"\0" * 32, "a TensorFlow Lite model"),
    "model.safetensors.gz": (gzip.compress(b"x" * 100), "gzip-compressed; unpack it first"),
    "page.safetensors": (b"<!DOCTYPE html><html><title>404</title>", "a web page, .*download it again"),
    "other.zip": (archive_of("readme.txt"), "a zip archive; unpack it first"),
    "cut.zip": (torch_zip()[:60], "a damaged zip archive"),
    "config.json.txt": (b'{"model_type": "gpt2"}', "JSON text; name the safetensors file beside it"),
    "empty.safetensors": (b"", "is empty; download or write it again"),
    "notes.txt": (
        "Füße of the model\n".encode() * 9,
        "not a usable safetensors file: it is text that begins with 'Füße of",
    ),
    "noise": (
        bytes(range(1, 200)),
        r"it is of another format: its first 8 bytes, b'\\x01.*are not the length of a header",
    ),
    "cut.bin": (
        b"\x50\0\0\0\0\0\0\0{",
        "it is cut short, .*by its first 8 bytes its header has 80 bytes, but only 1 fo",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_file_of_another_format_is_named_for_what_it_is(name: str, tmp_path: Path) -> None:
    content, message = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    for read in (Reader, oc.load, Checkpoint, lambda p: quantize_checkpoint(p, tmp_path / "out")):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_numpy_archive_is_named_by_load(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    with pytest.raises(ValueError, match=r"x\.npz .*a NumPy archive \(\.npz\); `octavo quantize` and .* read it"):
        oc.load(tmp_path / "x.npz")


def test_damaged_numpy_archive_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones(100_000, F))
    whole = bytearray((tmp_path / "x.npz").read_bytes())
    whole[300_000] ^= 1  # a byte of the array, which the archive's own checksum finds
    (tmp_path / "x.npz").write_bytes(whole)
    with Checkpoint(tmp_path / "x.npz") as found, pytest.raises(ValueError, match=r"x\.npz: array 'a' is damaged"):
        found.raw("a")


def test_objects_in_a_numpy_archive_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([{"a": 1}], object), w=random(4, 4))
    with Checkpoint(tmp_path / "x.npz") as found:
        assert list(found.tensors) == ["w"]
        assert found.foreign["a"].dtype == "object"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "is a folder without any safetensors file; name the file"),
        (["model.gguf", "pytorch_model.bin"], r"without any safetensors file; it has model\.gguf, pytorch_model\.bin;"),
        (
            ["a.safetensors", "b.safetensors"],
            r"several safetensors files \(a\.safetensors, b\.safetensors\) and no ind",
        ),
        (["a.safetensors.index.json", "b.safetensors.index.json"], "holds several checkpoints; name one of a.safe"),
    ],
    ids=["empty", "other formats", "several", "two indices"],
)
def test_folder_that_is_not_one_checkpoint_says_what_it_holds(files: list[str], message: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    for read in (oc.load, Checkpoint):
        with pytest.raises(ValueError, match=message):
            read(tmp_path)


def test_compressed_archive_with_a_wrong_byte_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.random.default_rng(0).standard_normal(10_000))
    whole = bytearray((tmp_path / "x.npz").read_bytes())
    for at in range(300, len(whole) - 200, 997):
        whole[at] ^= 255
        (tmp_path / "x.npz").write_bytes(whole)
        with pytest.raises(ValueError, match=r"x\.npz"):
            Archive(tmp_path / "x.npz").raw("a")
        whole[at] ^= 255


# What the safetensors package accepts


def test_header_that_the_package_accepts_is_accepted(tmp_path: Path) -> None:
    w = random(2, 4)
    entry = {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}
    for i, header in enumerate(({"__metadata__": None, "w": entry}, {"w": entry | {"note": [1], "scale": None}})):
        path = tmp_path / f"{i}.safetensors"
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + w.tobytes())
        with safe_open(path, "np") as file:
            assert (file.get_tensor("w") == w).all()
        with Reader(path) as reader:
            assert reader.metadata == {}
            assert (reader.array("w") == w).all()


@pytest.mark.parametrize("dtype", ["F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "F4"])
def test_type_that_the_package_accepts_is_accepted(dtype: str, tmp_path: Path) -> None:
    count = 8 if dtype == "F4" else 4
    write_raw(tmp_path / "x", {"w": (dtype, np.zeros(4, np.uint8))})
    text = (tmp_path / "x").read_bytes().replace(b'"shape": [4]', f'"shape": [{count}]'.encode())
    (tmp_path / "x").write_bytes(text)
    with safe_open(tmp_path / "x", "np") as file:
        assert list(file.keys()) == ["w"]
    with Reader(tmp_path / "x") as reader:
        assert reader.tensors["w"].dtype == dtype
        assert not reader.tensors["w"].is_readable


# Where a file cannot be written


def test_output_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    save_file({"fc.weight": random(4, 4)}, tmp_path / "in")
    with pytest.raises(FileNotFoundError, match=rf"the folder {tmp_path / 'nowhere'} does not exist; create it first"):
        quantize_checkpoint(tmp_path / "in", tmp_path / "nowhere" / "out.safetensors")
    with pytest.raises(NotADirectoryError, match=rf"{tmp_path / 'in'} is not a folder"):
        quantize_checkpoint(tmp_path / "in", tmp_path / "in" / "out.safetensors")


def test_folder_that_cannot_be_written_is_named_not_the_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *rest: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("octavo._files.safetensors.os.open", refuse)
    with pytest.raises(PermissionError, match="cannot write into this folder: Permission denied") as caught:
        oc.save({"a": np.ones(1)}, tmp_path / "x")
    assert caught.value.filename == str(tmp_path)
