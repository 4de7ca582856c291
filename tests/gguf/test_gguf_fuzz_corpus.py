"""The corpus that fuzz_gguf.py found, replayed: see there."""

from __future__ import annotations

from pathlib import Path

import pytest

import fuzz_gguf

CORPUS = sorted((Path(__file__).parents[1] / "data/fuzz_gguf").iterdir())


def test_corpus_is_there_and_small() -> None:
    assert len(CORPUS) > 50
    assert sum(path.stat().st_size for path in CORPUS) < 200_000


@pytest.mark.slow
def test_corpus_gives_tensors_or_value_errors(tmp_path: Path) -> None:
    accepted = 0
    for path in CORPUS:
        try:
            accepted += fuzz_gguf.check(path.read_bytes(), tmp_path / "x.gguf")
        except Exception as error:
            error.add_note(f"input {path.name}")
            raise
    assert 0 < accepted < len(CORPUS)


def test_seeds_are_accepted(tmp_path: Path) -> None:
    for name, data in fuzz_gguf.seeds():
        assert fuzz_gguf.check(data, tmp_path / "x.gguf"), name
