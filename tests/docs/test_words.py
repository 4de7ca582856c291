"""Turns of phrase that a reader would have to decode, and which are therefore not used."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import octavo

TOP = Path(__file__).parents[2]
PACKAGE = Path(octavo.__file__).parent
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


def is_there(name: str) -> bool:
    """Whether the package has it: an attribute, or a module by its file. Old names that pickles have do not count."""
    thing: Any = octavo
    place = PACKAGE
    for part in name.split(".")[1:]:
        place = place / part
        if place.is_dir() or place.with_suffix(".py").exists():
            importlib.import_module(".".join(("octavo", *place.relative_to(PACKAGE).parts)))
        if not hasattr(thing, part):
            return False
        thing = getattr(thing, part)
    return True


@pytest.mark.slow
def test_names_in_backticks_are_there() -> None:
    assert not is_there("octavo.rounding")
    allowed = {"octavo.NAME", "octavo.crc32"}  # any name; a key of a file's metadata
    found = {
        f"{path.relative_to(TOP)}:{number}: {name}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for name in re.findall(r"`(octavo(?:\.[A-Za-z_]\w*)+)", line)
        if name not in allowed and not is_there(name)
    }
    assert not found, sorted(found)


def test_public_modules_are_those_that_are_named_as_such() -> None:
    page = (TOP / "docs" / "compatibility.md").read_text()
    names = page.partition("## Names")[2].partition("\n\n")[2].partition("\n\n")[0]
    modules = {p.stem for p in PACKAGE.iterdir() if not p.name.startswith("_") and (p.is_dir() or p.suffix == ".py")}
    assert modules == set(re.findall(r"`octavo\.([a-z]+)`", names))
