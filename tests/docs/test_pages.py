"""README and docs: their Python runs and prints what they show, the reference is complete, links lead somewhere."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import octavo as oc
from octavo import _files

TOP = Path(__file__).parents[2]
README, DOCS = TOP / "README.md", TOP / "docs"

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="README.md and docs/ lie beside tests/ in a checkout alone")

PAGES = [README, *sorted(DOCS.rglob("*.md"))] if DOCS.exists() else []


def page_name(path: Path) -> str:
    return str(path.relative_to(TOP))


class Block(NamedTuple):
    """A ```python block of a page, and what the ```text block right behind it shows as its output, if there is one."""

    code: str
    shown: str | None


BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n*```text\n(.*?)^```)?", flags=re.DOTALL | re.MULTILINE)


def blocks_of(text: str) -> list[Block]:
    return [Block(match[1], match[2]) for match in BLOCK.finditer(text)]


def python_blocks(path: Path) -> list[str]:
    return [block.code for block in blocks_of(path.read_text())]


def outline(output: str) -> str:
    """An output without what differs from run to run: numbers, units of time, the advice that follows from them.

    Digits within a name (int8, layers.0, 64x64) are part of it. Any white space counts as one space, so lines may be
    broken.
    """
    output = re.sub(r"(\dx .*) (int8|float)$", r"\1 #", output, flags=re.MULTILINE)  # the last column of `advise`
    output = re.sub(r"(?<![\w.])-?\d+(,\d{3})*(\.\d+)?(e[-+]?\d+)?(?=\W|x\b|$)", "#", output)
    return " ".join(re.sub(r"# (ns|us|ms|s)\b", "#", output).split())


def needs_torch(block: str) -> bool:
    return re.search(r"^(import|from) torch\b", block, flags=re.MULTILINE) is not None


def run(blocks: list[Block], path: Path) -> list[str]:
    """What each block prints; fails where the page shows something else."""
    namespace: dict[str, object] = {"__name__": "page"}
    printed = []
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(block.code, str(path), "exec"), namespace)
        printed.append(output.getvalue())
        if block.shown is not None:
            assert outline(printed[-1]) == outline(block.shown), f"{path.name} shows another output of\n{block.code}"
    return printed


WITH_CODE = [path for path in PAGES if python_blocks(path)]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=page_name)
def test_python_of_the_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in blocks_of(page.read_text()) if not needs_torch(block.code)]
    printed = run(blocks, page)
    if page.parent == DOCS / "tutorials":
        for block, output in zip(blocks, printed, strict=True):
            assert not output or block.shown is not None, f"show the output in a ```text block:\n{block.code}\n{output}"


def test_outline_hides_numbers_alone() -> None:
    assert outline("layers.0   (4, 64)  1  24.0 us  1.74x  41.9  int8\n") == "layers.0 (#, #) # # #x # #"
    assert outline("scale=0.5, zero_point=-3,\n  1e-05, 64x64, 73,720 0.002%") == outline(
        "scale=12, zero_point=0, 3.0, 64x64, 5 41%"
    )
    assert outline("error 1") != outline("mistake 1")
    assert outline("int8 1") != outline("int4 1")


def test_run_compares_what_a_page_shows() -> None:
    page = "```python\nprint('a', 1)\n```\n\n```text\n{}\n```\n"
    assert run(blocks_of(page.format("a   2")), Path("page.md")) == ["a 1\n"]
    with pytest.raises(AssertionError, match="shows another output"):
        run(blocks_of(page.format("b 1")), Path("page.md"))


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
    blocks = [block for block in blocks_of(page.read_text()) if needs_torch(block.code)]
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
        "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest -n auto",
    ]


def test_first_result_of_the_readme_stands_in_its_first_40_lines() -> None:
    first = "\n".join(README.read_text().splitlines()[:40])
    assert re.search(r"^```python\n.*?^```", first, flags=re.DOTALL | re.MULTILINE)


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    documented = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (?:octavo\.)?(\w+)$", text, flags=re.MULTILINE))
    assert set(oc.__all__) <= documented


def test_map_of_the_files_room_lists_its_modules() -> None:
    package = Path(_files.__file__).parent
    listed = re.findall(r"^ *(?:\S+(?: \S+)*  +)?([a-z_]+)  +\S", _files.__doc__ or "", flags=re.MULTILINE)
    assert sorted(listed) == sorted({path.stem for path in package.glob("*.py")} - {"__init__"})


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists() or (page.parent / f"{target}.md").exists(), target
