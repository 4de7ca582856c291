"""load(path, model): what does not fit its place is refused; what is loaded does not need the file any more."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc

F = np.float32
rng = np.random.default_rng(0)
W = rng.standard_normal((64, 48), dtype=F)
LSTM, GRU, EMBEDDING = oc.nn.LSTM.init(8, 8, rng=rng), oc.nn.GRU.init(8, 8, rng=rng), oc.nn.Embedding(W)

STORED: dict[str, Any] = {
    "matrix": oc.QuantMatrix(W),
    "embedding": oc.QuantEmbedding(W),
    "lstm": oc.quantize_dynamic(LSTM, {oc.nn.LSTM}),
    "linear": oc.QuantLinear(W),
}
FITTING: list[tuple[str, Any]] = [
    ("matrix", np.zeros((64, 48), F)), ("matrix", None), ("embedding", EMBEDDING), ("embedding", STORED["embedding"]),
    ("lstm", LSTM), ("lstm", STORED["lstm"]), ("lstm", None), ("linear", oc.nn.Linear(W)),
]  # fmt: skip
MISFITS: list[tuple[str, Any]] = [
    ("matrix", np.zeros((3, 3), F)), ("matrix", oc.QuantMatrix(W.T)), ("embedding", oc.nn.Embedding.init(3, 3)),
    ("lstm", oc.nn.LSTM.init(5, 6)), ("lstm", GRU), ("lstm", oc.nn.Linear.init(8, 8)),
    ("lstm", oc.nn.LSTM.init(8, 8, bidirectional=True)), ("linear", oc.nn.Linear.init(3, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "old"), FITTING, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_what_fits_takes_its_place(kind: str, old: Any, tmp_path: Path) -> None:
    oc.save({"x": STORED[kind]}, tmp_path / "m.safetensors")
    assert type(oc.load(tmp_path / "m.safetensors", {"x": old})["x"]) is type(STORED[kind])


@pytest.mark.parametrize(("kind", "old"), MISFITS, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_what_does_not_fit_is_refused_and_changes_nothing(kind: str, old: Any, tmp_path: Path) -> None:
    oc.save({"x": STORED[kind]}, tmp_path / "m.safetensors")
    model = {"x": old}
    with pytest.raises(ValueError, match="they do not fit: x: the model has"):
        oc.load(tmp_path / "m.safetensors", model)
    assert model["x"] is old


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
@pytest.mark.parametrize("options", [{}, {"dtype": "int4", "group_size": 32, "symmetric": False}], ids=str)
def test_layers_do_not_keep_the_file_mapped(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    kinds: dict[str, Any] = {"table": oc.QuantEmbedding, "w": oc.QuantMatrix, "fc": oc.QuantLinear}
    model = {name: kind(W, **options) for name, kind in kinds.items()}
    oc.save(model, path)
    again = oc.load(path)
    assert str(path) not in Path("/proc/self/maps").read_text()
    os.truncate(path, 0)
    np.testing.assert_array_equal(again["table"]([63]), model["table"]([63]))


def test_layers_numbered_with_gaps_are_refused_at_once() -> None:
    arrays = {name: np.ones((8, 2), F) for name in ("weight_ih_l0", "weight_hh_l0", "weight_ih_l99999999")}
    with pytest.raises(ValueError, match=r"from 0 on without gaps, got \[0, 99999999\]"):
        oc.QuantLSTM(arrays)


def test_unsigned_indices_do_not_wrap() -> None:
    with pytest.raises(IndexError, match="18446744073709551615 is out of bounds"):
        oc.QuantMatrix(W)[np.uint64(2**64 - 1)]
