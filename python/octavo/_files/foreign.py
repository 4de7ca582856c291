"""What a file is that was given in place of a safetensors file, and what to do with it. Told by its first bytes."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["description", "is_npz"]

_TO_SAFETENSORS = (
    "save its tensors as safetensors: safetensors.torch.save_file(torch.load(path, weights_only=True), "
    '"model.safetensors")'
)
_PICKLE = (
    "a pickle, as torch.save and joblib write, and loading one runs the code in it; if it is a PyTorch checkpoint that "
    f"you trust, {_TO_SAFETENSORS}"
)
_TORCH_ZIP = f"a PyTorch checkpoint (a zip archive with a pickle); {_TO_SAFETENSORS}"
_NPZ = "a NumPy archive (.npz); `octavo quantize` and `octavo inspect` read it, and so does np.load"
_HTML = "a web page, most likely an error page that was saved in place of the file; download it again"

# (first bytes, what the file is and what to do)
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer in place of the file; fetch the file with git lfs pull"),
    (b"GGUF", "a GGUF file, as llama.cpp reads; octavo.gguf.load(path) reads it, as does `octavo quantize`"),
    (b"\x93NUMPY", "a single NumPy array (.npy); give it a name: np.savez('model.npz', weight=np.load(path))"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, h5py); read its arrays with h5py and save them with np.savez"),
    (b"\x1f\x8b", "gzip-compressed; unpack it first"),
    (b"BZh", "bzip2-compressed; unpack it first"),
    (b"\xfd7zXZ\x00", "xz-compressed; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed; unpack it first"),
    (b"<!DOCTYPE", _HTML),
    (b"<!doctype", _HTML),
    (b"<html", _HTML),
)  # fmt: skip
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_FIRST_BYTES = 64


def description(path: str | os.PathLike[str]) -> str | None:
    """What a regular file is, and the remedy, to follow "PATH is not a safetensors file: it is "; None if unknown."""
    with open(path, "rb") as file:
        first = file.read(_FIRST_BYTES)
    if not first:
        return "it is empty; download or write it again"
    found = next((text for magic, text in _MAGIC if first.startswith(magic)), None)
    if found is None and first.startswith(_ZIP):
        found = _archive(path)
    if found is None and first[:2] in _PICKLES and first[2:3] not in (b"", b"\0"):
        found = _PICKLE
    if found is None and first[4:8] == b"TFL3":
        found = "a TensorFlow Lite model; convert the float checkpoint it came from"
    if found is None and first.lstrip()[:1] in (b"{", b"[") and b"\0" not in first:
        found = _json(Path(path))
    if found is None and _is_text(first):
        found = f"text that begins with {first.decode(errors='ignore')[:20]!r}; name the safetensors file"
    return None if found is None else f"it is {found}"


def _is_text(first: bytes) -> bool:
    """Whether bytes are UTF-8 without control characters; the last character may be cut off."""
    text = first.decode(errors="ignore")
    return len(first) - len(text.encode()) < 4 and all(c.isprintable() or c in "\t\r\n" for c in text)


def is_npz(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a NumPy archive, whatever its name."""
    with open(path, "rb") as file:
        return file.read(4) in _ZIP and _archive(path) == _NPZ


def _archive(path: str | os.PathLike[str]) -> str:
    import zipfile  # costs a tenth of what importing octavo does

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "a damaged zip archive, perhaps cut short; copy or download it again"
    if any(name.endswith(".pkl") for name in names):
        return _TORCH_ZIP
    if all(name.endswith(".npy") for name in names):
        return _NPZ
    return "a zip archive; unpack it first"


def _json(path: Path) -> str:
    if path.name.endswith(".index.json"):
        return "the index of a checkpoint in several files; `octavo quantize` and `octavo.load` take it or its folder"
    return "JSON text; name the safetensors file beside it"
