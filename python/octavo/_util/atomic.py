"""Files that appear whole or not at all: written beside their place, and renamed when all of it is on the disk."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Beside", "checked_destination", "replace_file", "require_folder", "require_other_file", "written_beside"]


class Beside(NamedTuple):
    """A new file, which is to take the place of another."""

    path: Path
    fd: int  # open for reading and writing


@contextlib.contextmanager
def written_beside(path: str | os.PathLike[str]) -> Iterator[Beside]:
    """An empty file in the folder of `path`, which takes its place at the end of the with block.

    It has a name that no other file has, so two writers of one path leave the whole file of one of them. Whatever fails
    - a full disk, an exception inside the with block - the file that was at `path` stays as it was, and nothing is left
    beside it. A symbolic link is followed, and a file that is replaced hands on its permissions. Where no file can be
    written, an OSError says why.
    """
    destination = checked_destination(path)
    beside = destination.with_name(f".octavo-{secrets.token_hex(8)}.tmp")
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        fd = os.open(beside, flags, 0o666)
    except OSError as error:  # which would name the temporary file
        why = f"cannot write into this folder: {error.strerror}"
        raise OSError(error.errno, why, str(destination.parent)) from None
    try:
        with contextlib.suppress(OSError):  # there is no file yet, or the file system has no modes
            os.chmod(beside, stat.S_IMODE(os.stat(destination).st_mode))
        try:
            yield Beside(beside, fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(beside, destination)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)  # gone already where all went well
    with contextlib.suppress(OSError):  # not every file system can
        _sync_folder(destination.parent)


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a small file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with written_beside(path) as new, open(new.fd, "wb", closefd=False) as file:
        file.write(content)


def checked_destination(path: str | os.PathLike[str]) -> Path:
    """The file that a path names, behind symbolic links.

    Raises:
        OSError: there can be no such file: its folder is missing, or something else is there.
    """
    destination = Path(os.path.realpath(path))
    if destination.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    require_folder(destination.parent)
    if destination.exists() and not destination.is_file():
        raise FileExistsError(f"{path} is a device or a pipe, and no file may take its place; give another name")
    return destination


def require_other_file(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> None:
    """Raises ValueError where a file would be overwritten by its own conversion."""
    if os.path.exists(destination) and os.path.samefile(source, destination):
        raise ValueError(f"source and destination must be different files, got {os.fspath(source)} for both")


def require_folder(folder: Path) -> None:
    """Raises FileNotFoundError or NotADirectoryError where files cannot be written because there is no such folder."""
    if not folder.is_dir():
        if folder.exists():
            raise NotADirectoryError(f"{folder} is not a folder, so no file can be written into it")
        raise FileNotFoundError(f"the folder {folder} does not exist; create it first")


def _sync_folder(path: Path) -> None:
    """Makes the new name of a file last: the folder is what holds it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
