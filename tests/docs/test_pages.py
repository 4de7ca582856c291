"""README and docs: their Python runs, every public name is in the reference, links lead somewhere."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import octavo as oc

TOP = Path(__file__).parents[2]
README, DOCS = TOP / "README.md", TOP / "docs"

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="README.md and docs/ lie beside tests/ in a checkout alone")

PAGES = [README, *sorted(DOCS.rglob("*.md"))] if DOCS.exists() else []


def page_name(path: Path) -> str:
    return str(path.relative_to(TOP))


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def needs_torch(block: str) -> bool:
    return re.search(r"^(import|from) torch\b", block, flags=re.MULTILINE) is not None


def run(blocks: list[str], path: Path) -> None:
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(path), "exec"), namespace)


WITH_CODE = [path for path in PAGES if python_blocks(path)]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=page_name)
def test_python_of_the_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    run([block for block in python_blocks(page) if not needs_torch(block)], page)


@pytest.mark.parametrize("page", [page for page in PAGES if "```pycon" in page.read_text()], ids=page_name)
def test_sessions_of_the_page_print_what_they_show(page: Path) -> None:
    result = doctest.testfile(str(page), module_relative=False)
    assert result.failed == 0
    assert result.attempted >= page.read_text().count("```pycon")


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::UserWarning", "default::FutureWarning")
def test_pytorch_programs_of_the_migration_page_run() -> None:
    pytest.importorskip("torch", reason="the programs beside octavo's: pip install torch to run them")
    page = DOCS / "torch_ao.md"
    blocks = [block for block in python_blocks(page) if needs_torch(block)]
    assert len(blocks) == 3
    run(blocks, page)


@pytest.mark.slow
def test_python_of_the_pages_passes_a_type_checker(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api", reason="what type checkers say of users' code: pip install mypy")
    for i, page in enumerate(WITH_CODE):
        blocks = [block for block in python_blocks(page) if not needs_torch(block)]
        # What an earlier block defines anew is another program's.
        (tmp_path / f"page{i}_{page.stem}.py").write_text("\n\n".join(blocks))
    options = [
        "--config-file=",
        "--check-untyped-defs",
        "--allow-redefinition",
        "--ignore-missing-imports",
        "--cache-dir",
        str(tmp_path / "cache"),
    ]
    output, errors, status = api.run([*options, *map(str, sorted(tmp_path.glob("page*.py")))])
    assert (status, errors) == (0, ""), output


def test_set_up_commands_are_two() -> None:
    commands = [line for line in README.read_text().splitlines() if line.startswith("python3 -m venv")]
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install '.[demo]' && .venv/bin/octavo demo",
        "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest",
    ]


def test_first_result_of_the_readme_stands_in_its_first_40_lines() -> None:
    first = "\n".join(README.read_text().splitlines()[:40])
    assert re.search(r"^```python\n.*?^```", first, flags=re.DOTALL | re.MULTILINE)


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    documented = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (?:octavo\.)?(\w+)$", text, flags=re.MULTILINE))
    assert set(oc.__all__) <= documented


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists() or (page.parent / f"{target}.md").exists(), target
