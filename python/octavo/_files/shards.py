"""A checkpoint in several files: which files belong to it, and that none of its tensors is missing.

    model.safetensors.index.json   {"metadata": {"total_size": ..}, "weight_map": {tensor: file}}
    model-00001-of-00002.safetensors, model-00002-of-00002.safetensors

One shard alone lacks tensors that the model needs, so it is refused wherever it can be told from a whole checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from octavo._files.header import HEADER_LIMIT, read_json
from octavo._files.safetensors import Reader
from octavo._util.atomic import replace_file

__all__ = ["index_name", "open_files", "shard_files", "write_index"]

INDEX_SUFFIX = ".safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


def shard_files(path: str | os.PathLike[str]) -> list[Path]:
    """The safetensors files that make up the checkpoint at `path`: a file, an index, or a folder.

    Raises:
        OSError: a file cannot be read, or a shard does not exist.
        ValueError: the file is one shard of several, the index is damaged, or it is not clear which files of the folder
            are meant. The message says what to name instead.
    """
    given = Path(path)
    if given.is_dir():
        return _of_folder(given)
    if given.name.endswith(".json"):
        return _of_index(given)
    _refuse_single_shard(given)
    return [given]


@contextlib.contextmanager
def open_files(path: str | os.PathLike[str]) -> Iterator[list[Reader]]:
    """Readers of all files of a checkpoint. Each tensor is in one of them, and all that an index lists are there.

    Raises:
        OSError, ValueError: as for `shard_files`; a file is not a safetensors file; two files hold one tensor, or a
            file lacks one that the index lists in it.
    """
    files = shard_files(path)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(Reader(file)) for file in files]
        where: dict[str, Path] = {}
        for reader in readers:
            for name in reader.tensors:
                if name in where:
                    raise ValueError(f"{reader.path} and {where[name]} both hold the tensor {name!r}")
                where[name] = reader.path
        index = _index_beside(Path(path), files)
        for name, file in ({} if index is None else _weight_map(index)).items():
            if where.get(name) != files[0].parent / file:
                raise ValueError(f"{index} says that {file} holds the tensor {name!r}, but it does not; copy it again")
        yield readers


def index_name(path: Path) -> str:
    """The name of the index of shards whose source is at `path`."""
    return path.name if path.name.endswith(INDEX_SUFFIX) else f"model{INDEX_SUFFIX}"


def write_index(path: Path, weight_map: Mapping[str, str], total_bytes: int) -> None:
    """Writes an index beside its place and puts it there when all of it is on the disk."""
    content = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    replace_file(path, json.dumps(content, ensure_ascii=False, indent=2).encode())


def _of_folder(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.glob("*.safetensors") if file.is_file())
    if (whole := folder / "model.safetensors") in files:
        return [whole]
    indices = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    if len(indices) == 1:
        return _of_index(indices[0])
    if indices:
        raise ValueError(f"{folder} holds several checkpoints; name one of {', '.join(i.name for i in indices)}")
    shards = [match for file in files if (match := _SHARD.fullmatch(file.name))]
    kinds = {(shard["stem"], int(shard["count"])) for shard in shards}
    if len(shards) == len(files) and kinds == {(shards[0]["stem"], len(files))} if shards else False:
        return files
    if len(files) == 1:
        _refuse_single_shard(files[0])
        return files
    if files:
        names = ", ".join(file.name for file in files[:4]) + (", ..." if len(files) > 4 else "")
        raise ValueError(f"{folder} is a folder with several safetensors files ({names}) and no index; name one")
    others = sorted(f.name for f in folder.iterdir() if f.suffix in (".npz", ".bin", ".pt", ".pth", ".gguf", ".ckpt"))
    found = f"; it has {', '.join(others[:4])}" if others else ""
    raise ValueError(f"{folder} is a folder without any safetensors file{found}; name the file of the checkpoint")


def _of_index(index: Path) -> list[Path]:
    files = [index.parent / name for name in sorted(set(_weight_map(index).values()))]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist, though {index} lists it; download that shard too")
    return files


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index, "an index", HEADER_LIMIT)
    found = content.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ValueError(
            f"{index} is JSON without a weight_map, so it is not the index of a checkpoint; name a safetensors file"
        )
    for name, file in found.items():
        if not isinstance(file, str) or os.path.basename(file) != file or file in ("", ".", ".."):
            raise ValueError(f"{index}: tensor {name!r} must have the name of a file beside the index, got {file!r}")
    return found


def _index_beside(given: Path, files: list[Path]) -> Path | None:
    """The index by which the files were found, where there is one."""
    if given.is_dir():
        indices = list(given.glob(f"*{INDEX_SUFFIX}"))
        return indices[0] if len(indices) == 1 and files != [given / "model.safetensors"] else None
    return given if given.name.endswith(".json") else None


def _refuse_single_shard(file: Path) -> None:
    folder = file.parent
    for index in sorted(folder.glob("*.index.json")):
        try:
            others = set(_weight_map(index).values())
        except (OSError, ValueError):
            continue  # a damaged index says nothing about this file
        if file.name in others and len(others) > 1:
            raise ValueError(
                f"{file} is one of the {len(others)} files of a checkpoint, and lacks the tensors of the others; name "
                f"the index {index}, or the folder {folder}"
            )
    shard = _SHARD.fullmatch(file.name)
    if shard and int(shard["count"]) > 1 and file.is_file():
        raise ValueError(
            f"{file} is file {int(shard['number'])} of {int(shard['count'])} by its name, and lacks the tensors of the "
            f"others; name the folder that holds them all, or rename the file if it is whole"
        )
