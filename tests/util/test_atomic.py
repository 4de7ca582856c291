"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from octavo._util.atomic import replace_file, written_beside


def test_the_file_appears_at_the_end_with_the_permissions_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with written_beside(path) as new:
        new.path.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["x"]


def test_an_error_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with written_beside(path) as new:
            new.path.write_bytes(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_two_writers_of_one_path_each_write_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with written_beside(path) as one:
        one.path.write_bytes(b"one")
        with written_beside(path) as two:
            two.path.write_bytes(b"the other")
        assert path.read_bytes() == b"the other"
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["x"]


def test_replace_file_follows_links(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "link").symlink_to("x")
    replace_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "x").read_bytes() == b"new"


def test_places_where_no_file_can_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, error, words in (
        (tmp_path, IsADirectoryError, "is a folder; give the name of a file"),
        (tmp_path / "file" / "x", NotADirectoryError, "is not a folder"),
        (tmp_path / "none" / "x", FileNotFoundError, "does not exist; create it first"),
        (Path(os.devnull), FileExistsError, "is a device or a pipe"),
    ):
        with pytest.raises(error, match=words):
            replace_file(path, b"")
    assert os.listdir(tmp_path) == ["file"]
