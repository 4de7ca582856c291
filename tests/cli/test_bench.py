"""octavo bench: its table and figures, and what it says of wrong input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import octavo as oc
from octavo._cli import bench
from octavo._cli import main as cli


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch):
    """An environment in which the command runs in this process; kernel and threads as before afterwards."""
    threads = oc.get_num_threads()
    for name in bench.THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")
    with oc.use_kernel(None):
        yield
    oc.set_num_threads(threads)


@pytest.mark.slow
def test_bench_prints_a_row_for_each_shape(pinned, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "--threads", "1", "--kernel", "scalar", "--rounds", "2", "--shapes", "1x64x32", "3x5x7"]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert "scalar       chosen: forced" in text
    assert "threads   1" in text
    rows = [line.split() for line in text.splitlines() if line.rstrip().endswith("x")]
    assert [row[0] for row in rows] == ["1x64x32", "3x5x7"]
    for row in rows:
        numpy_us, octavo_us, ratio = float(row[1]), float(row[4]), float(row[-1].removesuffix("x"))
        assert ratio == pytest.approx(numpy_us / octavo_us, rel=0.5)


@pytest.mark.slow
def test_bench_writes_its_figures(pinned, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    assert cli.main(["bench", "--threads", "1", "--rounds", "2", "--shapes", "2x33x17", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["threads"] == 1
    assert figures["kernel"] in {k.name for k in oc.kernels()}
    (row,) = figures["rows"]
    assert row["shape"] == [2, 33, 17]
    assert len(row["octavo_seconds"]) == len(row["numpy_seconds"]) == 2
    assert 0 < row["largest_error"] < bench.LARGEST_ERROR


@pytest.mark.slow
def test_bench_holds_numpy_to_as_many_threads(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    threads, out = oc.get_num_threads(), tmp_path / "bench.json"
    try:
        command = ["bench", "--threads", "2", "--kernel", "scalar", "--rounds", "1", "--shapes", "1x2x3"]
        assert cli.main([*command, "--json", str(out)]) == 0
    finally:
        oc.use_kernel(None)
        oc.set_num_threads(threads)
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"
    figures = json.loads(out.read_text())
    assert figures["blas"] == dict.fromkeys(bench.THREAD_VARIABLES, "2")
    assert (figures["threads"], figures["kernel"]) == (2, "scalar")
    assert "1x2x3" in capfd.readouterr().out


@pytest.mark.slow
def test_bench_tells_a_wrong_answer(
    pinned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Off(oc.QuantLinear):
        def __call__(self, x, out=None):
            return super().__call__(x, out) + np.float32(1)

    monkeypatch.setattr(bench, "QuantLinear", Off)
    assert cli.main(["bench", "--threads", "1", "--rounds", "1", "--shapes", "1x64x32"]) == 1
    assert "wrong at 1x64x32: an error of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "1x2"], "a shape must be MxKxN"),
        (["--shapes", "1x0x3"], "a shape must be MxKxN"),
        (["--kernel", "avx9"], "no kernel is named 'avx9'"),
        (["--threads", "5000"], "from 1 to 4096"),
        (["--json", "nowhere/bench.json"], "does not exist"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_bench_refuses(pinned, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert cli.main(["bench", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_usual_shapes_are_measured() -> None:
    assert len(set(bench.SHAPES)) == len(bench.SHAPES) >= 5
    assert all(bench.parse_shape("x".join(map(str, shape))) == shape for shape in bench.SHAPES)
