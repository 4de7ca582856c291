"""Checksums are zlib's, whichever package computes them."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import octavo as oc
from octavo._files import checksum, safetensors


def test_zlib_is_used_without_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    assert checksum.fastest.__wrapped__() is zlib.crc32


@pytest.mark.parametrize("size", [0, 1, 15, 16, 63, 64, 65, 255, 4096, 1 << 20, (1 << 20) + 7])
def test_isal_gives_the_sums_of_zlib(size: int) -> None:
    isal = pytest.importorskip("isal.isal_zlib", reason="isal is not installed; .ci/run has it beside torch")
    assert checksum.fastest.__wrapped__() is isal.crc32
    data = np.random.default_rng(size).integers(0, 256, size + 3, np.uint8)
    for start in (0, 1, 0xFFFFFFFF, 0x12345678):
        for offset in (0, 3):
            view = data[offset : offset + size].data
            assert isal.crc32(view, start) == zlib.crc32(view, start)


def test_files_of_either_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = oc.QuantLinear(np.random.default_rng(0).standard_normal((600, 700)))  # more than a chunk
    files = []
    for name in ("a", "b"):
        oc.save({"fc": layer}, tmp_path / name)
        assert list(oc.load(tmp_path / name)) == ["fc"]
        files.append((tmp_path / name).read_bytes())
        monkeypatch.setattr(safetensors, "crc32", zlib.crc32)
    assert files[0] == files[1]
