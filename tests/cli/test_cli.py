"""The command line: what it prints, and what it says of wrong input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from octavo._cli import demo
from octavo._cli import main as cli
from octavo._util.extras import install_command


def test_info_prints_kernels_and_threads(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("octavo", "CPU", "features", "scalar", "chosen", "threads"):
        assert word in text


@pytest.mark.slow
def test_demo_prints_the_table_and_draws_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the demo's data and training: pip install 'octavo[demo]'")
    picture = tmp_path / "demo.png"
    assert cli.main(["demo", "--epochs", "3", "--plot", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "float32" in text
    assert "int8" in text
    assert "kernel" in text
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_demo_result_is_accurate_and_small() -> None:
    pytest.importorskip("sklearn", reason="the demo's data and training: pip install 'octavo[demo]'")
    result = demo.run(epochs=4)
    plain, quantized = result.rows
    assert plain.accuracy > 0.9
    assert abs(plain.accuracy - quantized.accuracy) <= 0.005
    assert quantized.parameter_bytes < 0.27 * plain.parameter_bytes
    assert 0 < quantized.largest_difference < 1


def test_demo_refuses_a_folder_that_does_not_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["demo", "--plot", str(tmp_path / "nowhere" / "x.png")]) == 1
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["demo", "--epochs", "0"], ["demo", "--epochs", "x"]], ids=str)
def test_wrong_arguments_exit_with_usage(arguments, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 2
    assert "usage: octavo" in capsys.readouterr().err


def test_demo_names_the_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    assert cli.main(["demo"]) == 1
    assert (
        f"octavo demo: the demo needs scikit-learn, which octavo's extra 'demo' installs: {install_command('demo')}"
        in (capsys.readouterr().err)
    )


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "code"), [(["info"], 0), (["demo", "--plot", "/nowhere/x.png"], 1)], ids=str)
def test_the_package_runs_as_a_module(arguments: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-m", "octavo", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert ("kernel" in done.stdout) is (code == 0)
