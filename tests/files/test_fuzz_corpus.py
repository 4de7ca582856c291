"""The corpus that fuzz_load.py found, replayed: see there."""

from __future__ import annotations

from pathlib import Path

import pytest

import fuzz_load
from format_fixtures import DATA, MODELS, file

CORPUS = sorted((DATA / "fuzz_load").iterdir())


def test_corpus_is_there_and_small() -> None:
    assert len(CORPUS) > 50
    assert sum(path.stat().st_size for path in CORPUS) < 200_000


@pytest.mark.slow
def test_corpus_gives_models_or_value_errors(tmp_path: Path) -> None:
    accepted = 0
    for path in CORPUS:
        try:
            accepted += fuzz_load.check(path.read_bytes(), tmp_path / "x")
        except Exception as error:
            error.add_note(f"input {path.name}")
            raise
    assert 0 < accepted < len(CORPUS)


@pytest.mark.parametrize("name", MODELS)
def test_fuzzer_gets_past_the_checksums(name: str, tmp_path: Path) -> None:
    structured = fuzz_load.taken_apart(file(name).read_bytes())
    assert fuzz_load.check(structured, tmp_path / "x")
