"""bench/peers/peer_report.py on figures made up here: who counts as the best peer, the limit, who is named as wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from bench import shapes
from bench.peers import core_mode, peer_plot, peer_report


def contender(kind: str, bits: int, **marks: Any) -> dict[str, Any]:
    fixed = {"integers_only": False, "is_octavo": False, "saturation": {"expected": 768, "got": 768, "wrong": False}}
    return {"kind": kind, "weight_bits": bits} | fixed | marks


def took(seconds: float, *, wrong: bool = False) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "spread": 0.1,
        "samples": 5,
        "mode": "any",
        "error": 0.5 if wrong else 0.01,
        "wrong": wrong,
    }


RUN: dict[str, Any] = {
    "threads": 1,
    "kernel": "k",
    "cpu": "c",
    "seconds": 60,
    "versions": {"octavo": "0"},
    "contenders": {
        "octavo int8": contender("int8", 8, is_octavo=True),
        "numpy float32": contender("float32", 32),
        "slow int8": contender("int8", 8),
        "fast int4": contender("int4", 4),
        "fast (ints)": contender("int8", 8, integers_only=True),
        "hasty int8": contender("int8", 8, saturation={"expected": 768, "got": 384.0, "wrong": True}),
    },
    "shapes": {
        "1x1000x1000": {
            "octavo int8": took(2e-5),
            "numpy float32": took(9e-5),
            "slow int8": took(3e-5),
            "fast int4": took(1e-5),
            "fast (ints)": took(1e-5),
            "hasty int8": took(1e-6, wrong=True),
        },
        "100x1000x1000": {
            "octavo int8": took(1e-3),
            "numpy float32": took(9e-4),
            "slow int8": {"failed": "MemoryError: no"},
        },
    },
}
LIMITS = {
    "figures": [
        {"group": "arithmetic", "name": "VPDPBUSD 512", "threads": 1, "bytes": 0, "unit": "TOPS", "high": 0.5},
        {"group": "arithmetic", "name": "VPDPBUSD 512", "threads": 2, "bytes": 0, "unit": "TOPS", "high": 1.0},
        {"group": "read", "name": "read 1 MB", "threads": 1, "bytes": 1 << 20, "unit": "GB/s", "high": 100},
        {"group": "read", "name": "read 1 GB", "threads": 1, "bytes": 1 << 30, "unit": "GB/s", "high": 10},
    ]
}


def test_best_peer_is_right_and_takes_floats() -> None:
    assert peer_report.best_peer(RUN, "1x1000x1000") == "slow int8"
    assert peer_report.best_peer(RUN, "100x1000x1000") == "numpy float32"
    alone = copy.deepcopy(RUN)
    alone["shapes"]["1x1000x1000"] = {"octavo int8": took(1.0)}
    assert peer_report.best_peer(alone, "1x1000x1000") is None


def test_limit_is_the_larger_of_arithmetic_and_reading() -> None:
    int8, int4 = RUN["contenders"]["octavo int8"], RUN["contenders"]["fast int4"]
    assert peer_report.least_seconds(LIMITS, "1x1000x1000", int8, 1) == pytest.approx(1e6 / 100e9)
    assert peer_report.least_seconds(LIMITS, "1x1000x1000", int4, 1) == pytest.approx(5e5 / 100e9)
    assert peer_report.least_seconds(LIMITS, "100x1000x1000", int8, 1) == pytest.approx(2e8 / 0.5e12)
    assert peer_report.least_seconds(LIMITS, "1x30000x30000", int8, 1) == pytest.approx(9e8 / 10e9)
    assert peer_report.least_seconds(LIMITS, "1x1000x1000", contender("bf16", 16), 1) is None
    assert peer_report.least_seconds({"figures": []}, "1x1000x1000", int8, 1) is None


def test_table_gives_ratio_and_share() -> None:
    first, second = peer_report.rows(RUN, LIMITS)
    assert first[-3:] == ["50 %", "1.50x slow int8", "5"]
    assert second[-3:] == ["40 %", "0.90x numpy float32", "5"]
    assert first[column_of("hasty int8")] == "0.001!"
    assert second[column_of("slow int8")] == "failed"
    assert second[column_of("fast int4")] == "-"


def test_samples_are_told_apart_by_the_mode_of_the_core() -> None:
    assert [core_mode.mode_of(*sides) for sides in ((False, False), (True, True), (False, True), (True, False))] == [
        "fast",
        "slow",
        "mixed",
        "mixed",
    ]
    samples = [(1.0, "fast"), (1.2, "fast"), (5.0, "slow"), (3.0, "mixed"), (1.1, "fast")]
    figures = core_mode.figures_of(samples)
    assert [figures[name] for name in ("seconds", "spread", "samples", "slow_seconds")] == pytest.approx(
        [1.1, 0.2 / 1.1, 3, 5.0]
    )
    assert (figures["mode"], figures["slow_samples"]) == ("fast", 1)
    few = core_mode.figures_of(samples[1:4])
    assert (few["seconds"], few["samples"], few["mode"]) == (3.0, 3, "any")
    run = {"shapes": {"1x1x1": {"a": figures, "b": figures | {"samples": 9}, "c": {"failed": "no"}}}}
    assert peer_report.samples_of(run, "1x1x1") == "3-9 fast"
    run["shapes"]["1x1x1"]["b"] = few
    assert peer_report.samples_of(run, "1x1x1") == "3, not all fast"


def test_core_mode_is_left_out_where_there_are_no_tiles(tmp_path: Path) -> None:
    built = core_mode.compiled(tmp_path)
    assert built is None or core_mode.load(built)() in (False, True)


def column_of(name: str) -> int:
    return 1 + list(RUN["contenders"]).index(name)


def test_page_and_table_name_who_is_wrong(tmp_path: Path) -> None:
    page = peer_report.page({"runs": [RUN], "limits": LIMITS}, tmp_path / "x.md", tmp_path / "x.png")
    for text in (page, peer_report.table(RUN, LIMITS)):
        assert "hasty int8 is wrong on data all ones, K = 768: 384" in text
        assert "hasty int8 is wrong (!) at 1x1000x1000: relative error up to 0.5" in text
        assert "slow int8 failed, last at 100x1000x1000: MemoryError: no" in text
    assert "| 1000 x 1000 | 1 MB | 100 GB/s | 2.5 |" in page
    assert "](x.png)" in page


@pytest.mark.slow
def test_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots: pip install 'octavo[cli]'")
    peer_plot.plot({"runs": [RUN], "limits": LIMITS}, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_shapes_are_read_and_refused() -> None:
    assert shapes.parse_shapes(["1x2x3", "short", "1x2x3"]) == [(1, 2, 3), *shapes.SHAPES]
    assert len(shapes.parse_shapes(["grid"])) == 49
    for wrong in ("1x2", "0x1x2", "axbxc", "all"):
        with pytest.raises(ValueError, match="a shape is MxKxN or one of short, bert, llama, grid"):
            shapes.parse_shapes([wrong])
