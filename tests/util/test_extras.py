"""import_extra: what it says where a package is missing, from wherever octavo was installed."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest

from octavo._util.extras import import_extra, install_command


def installed_from(record: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    text = None if record is None else json.dumps(record)
    monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (None, "pip install 'octavo[cli]'"),
        ({"url": "file:///src/my%20octavo", "dir_info": {}}, "pip install '/src/my octavo[cli]'"),
        ({"url": "file:///src/octavo", "dir_info": {"editable": True}}, "pip install -e '/src/octavo[cli]'"),
        (
            {"url": "file:///tmp/octavo-0.1.0.tar.gz", "archive_info": {}},
            "pip install 'octavo[cli] @ file:///tmp/octavo-0.1.0.tar.gz'",
        ),
        (
            {"url": "https://example.org/octavo.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'octavo[cli] @ git+https://example.org/octavo.git@abc'",
        ),
    ],
    ids=["index", "checkout", "editable", "archive", "repository"],
)
def test_install_command_names_where_octavo_came_from(
    record: dict[str, Any] | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_from(record, monkeypatch)
    assert install_command("cli") == command


def test_install_command_where_octavo_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert install_command("qat") == "pip install 'octavo[qat]'"


@pytest.mark.parametrize(
    ("module", "package"), [("tqdm", "tqdm"), ("matplotlib.figure", "matplotlib"), ("sklearn.datasets", "scikit-learn")]
)
def test_import_extra_names_the_missing_package_and_its_extra(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    for name in [name for name in sys.modules if name.startswith(module.partition(".")[0] + ".")]:
        monkeypatch.delitem(sys.modules, name)
    installed_from(None, monkeypatch)
    with pytest.raises(ImportError) as caught:
        import_extra(module, purpose="this", extra="demo")
    assert str(caught.value) == (
        f"this needs {package}, which octavo's extra 'demo' installs: pip install 'octavo[demo]'"
    )


def test_import_extra_lets_errors_of_an_installed_package_through(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("import what_it_needs_in_turn")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'what_it_needs_in_turn'"):
        import_extra("broken_package", purpose="this", extra="cli")
