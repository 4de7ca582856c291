"""One version, and what a release needs around it."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import octavo
from octavo import _core

ROOT = Path(__file__).parents[1]


def test_version_is_the_same_everywhere() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", octavo.__version__)
    assert _core.build_info()["version"] == octavo.__version__
    installed = [d.version for d in metadata.distributions(name="octavo")]
    assert set(installed) <= {octavo.__version__}


def test_version_is_written_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert "version" not in project["project"]
    source = project["tool"]["scikit-build"]["metadata"]["version"]["input"]
    assert re.findall(r'^__version__ = "(.+)"$', (ROOT / source).read_text(), re.M) == [octavo.__version__]
    for other in ("CMakeLists.txt", "docs/conf.py", "python/octavo/_core.pyi"):
        assert octavo.__version__ not in (ROOT / other).read_text()


def test_changelog_has_releases_by_date_and_the_version_first() -> None:
    titles = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    releases = titles[1:] if titles[0] == "Unreleased" else titles
    found = [re.fullmatch(r"(\S+) \((\d{4}-\d\d-\d\d)\)", title) for title in releases]
    assert all(found), releases
    dates = [match[2] for match in found if match]
    assert dates == sorted(dates, reverse=True)
    assert found[0] is not None
    assert found[0][1] == octavo.__version__
