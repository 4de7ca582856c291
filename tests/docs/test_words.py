"""Turns of phrase that a reader would have to decode, and which are therefore not used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
FOLDERS = ("python", "csrc", "docs", "bench", "examples", "tests")

pytestmark = pytest.mark.skipif(not (TOP / "docs").exists(), reason="the sources lie beside tests/ in a checkout alone")

PHRASES = {
    "not a, not: is no": r"(?<!\b[Tt]here )\b(?:is|are|was|were) no "
    r"(?!(?:longer|more|less|greater|smaller|larger|slower|faster)\b)[a-z]+",
    "select them by, not: which ones is": r"\b[Ww]hich ones is\b",
    "omit, not: leave away": r"\bleaves? (?:it |them )?away\b",
    "with one call, not: by one call": r"\bby one call\b",
    "nothing mends its own": r"\bmends? its\b",
    "never include one another, not: each other never": r"\beach other never\b",
    "say what happens, not: is answered yes": r"\bis answered (?:yes|no)\b",
}


def texts() -> list[Path]:
    endings = {".py", ".pyi", ".cpp", ".h", ".inc", ".md"}
    inside = [path for folder in FOLDERS for path in (TOP / folder).rglob("*") if path.suffix in endings]
    return [path for path in [*TOP.glob("*.md"), *inside] if path != Path(__file__)]


@pytest.mark.slow
@pytest.mark.parametrize("instead", PHRASES)
def test_phrase_is_not_used(instead: str) -> None:
    pattern = re.compile(PHRASES[instead])
    found = [
        f"{path.relative_to(TOP)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"{instead}\n" + "\n".join(found)
