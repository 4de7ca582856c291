"""How much memory a process may use, by its control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo._util.memory import memory_bytes

GB = 1 << 30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo._util.memory._machine", lambda: iter([64 * GB]))


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"memory.max": f"{2 * GB}\n"}, 2 * GB),
        ("0::/\n", {"memory.max": "max\n"}, 64 * GB),
        ("0::/a/b\n", {"a/b/memory.max": f"{3 * GB}", "a/memory.max": f"{4 * GB}"}, 3 * GB),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": f"{4 * GB}", "c/memory.max": "1"}, 4 * GB),
        ("0::/kubepods/pod1/of-the-host\n", {"memory.max": f"{GB}"}, GB),
        ("9:pids:/a\n4:memory:/a\n1:name=systemd:/a\n", {"memory/a/memory.limit_in_bytes": f"{GB}"}, GB),
        ("4:cpu,memory:/a\n", {"memory/memory.limit_in_bytes": f"{GB}"}, GB),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 64 * GB),
        ("4:pids:/\n", {"memory/memory.limit_in_bytes": "1"}, 64 * GB),
        ("nonsense\n\n0::\n", {"memory.max": "no number"}, 64 * GB),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, groups: str, files: dict[str, str], expected: int) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        file = tmp_path / "mount" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert memory_bytes(str(tmp_path / "groups"), str(tmp_path / "mount")) == expected


def test_without_control_groups_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_bytes(str(tmp_path / "none"), str(tmp_path)) == 64 * GB
    monkeypatch.setattr("octavo._util.memory._machine", lambda: iter(()))
    assert memory_bytes(str(tmp_path / "none"), str(tmp_path)) is None
