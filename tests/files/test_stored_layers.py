"""save and load of matrices, embeddings and recurrent layers; names without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import octavo as oc
from octavo._files.inspection import inspect_file


def other_layers() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    w = rng.standard_normal((64, 96), dtype=np.float32)
    four: dict[str, Any] = {"dtype": "int4", "group_size": 32}
    lstm = oc.nn.LSTM.init(64, 32, num_layers=2, bidirectional=True, rng=rng)
    return {
        "columns": oc.QuantMatrix(w), "rows": oc.QuantMatrix(w, axis=0, **four, symmetric=False),
        "table": oc.QuantEmbedding(w), "table4": oc.QuantEmbedding(w, **four, scale_dtype="float16"),
        "lstm": oc.quantize_dynamic(lstm, {oc.nn.LSTM}),
        "gru": oc.quantize_dynamic(oc.nn.GRU.init(64, 32, batch_first=True, rng=rng), {oc.nn.GRU}, **four),
    }  # fmt: skip


def test_matrices_embeddings_and_recurrent_layers_come_back_as_they_were(tmp_path: Path) -> None:
    model, x = other_layers(), np.random.default_rng(6).standard_normal((5, 3, 64), dtype=np.float32)
    oc.save(model, tmp_path / "m.safetensors")
    for again in (oc.load(tmp_path / "m.safetensors"), oc.load(tmp_path / "m.safetensors", dict.fromkeys(model))):
        assert {name: repr(value) for name, value in again.items()} == {n: repr(v) for n, v in model.items()}
        assert {n: v.nbytes for n, v in again.items()} == {n: v.nbytes for n, v in model.items()}
        np.testing.assert_array_equal(x @ again["columns"], x @ model["columns"])
        np.testing.assert_array_equal(again["rows"][3:9], model["rows"][3:9])
        for name in ("table", "table4"):
            np.testing.assert_array_equal(again[name]([5, 0]), model[name]([5, 0]))
        for name in ("lstm", "gru"):
            np.testing.assert_array_equal(again[name](x)[0], model[name](x)[0])


def test_inspect_lists_every_kind_with_its_bytes_and_errors(tmp_path: Path) -> None:
    model = other_layers()
    oc.save(model, tmp_path / "m.safetensors")
    found = {row.name: row for row in inspect_file(tmp_path / "m.safetensors").rows}
    assert {name: row.kind for name, row in found.items()} == {
        "columns": "QuantMatrix int8", "rows": "QuantMatrix int4", "table": "QuantEmbedding int8",
        "table4": "QuantEmbedding int4", "lstm": "QuantLSTM int8", "gru": "QuantGRU int4",
    }  # fmt: skip
    for name, row in found.items():
        assert row.memory_bytes == model[name].nbytes
        assert 0.1 < row.file_bytes / (4 * row.elems) < 0.35
    w = np.random.default_rng(5).standard_normal((64, 96), dtype=np.float32)
    save_file({"columns": w, "rows": w}, tmp_path / "w.safetensors")
    oc.save({name: model[name] for name in ("columns", "rows")}, tmp_path / "m.safetensors")
    text = str(inspect_file(tmp_path / "m.safetensors", against=tmp_path / "w.safetensors"))
    for name in ("columns", "rows"):
        error = np.linalg.norm(np.asarray(model[name]) - w) / np.linalg.norm(w)
        assert f"{100 * error:.3f} %" in next(line for line in text.splitlines() if line.startswith(name))


def test_holders_that_are_shared_are_found_by_every_name(tmp_path: Path) -> None:
    shared = {"x": np.ones(1), "fc": [oc.QuantLinear(np.eye(3, dtype=np.float32))]}
    oc.save({"a": shared, "b": shared}, tmp_path / "f")
    loaded = oc.load(tmp_path / "f")
    assert loaded.keys() == {"a.x", "b.x", "a.fc.0", "b.fc.0"}
    assert loaded["a.x"] is loaded["b.x"]
    assert loaded["a.fc.0"] is loaded["b.fc.0"]


def test_keys_that_are_tuples_stand_as_python_writes_them(tmp_path: Path) -> None:
    model = {(1, "a"): np.ones(1), (3, 4): np.zeros(2)}
    oc.save(model, tmp_path / "f")
    assert oc.load(tmp_path / "f").keys() == {"(1, 'a')", "(3, 4)"}
    filled = oc.load(tmp_path / "f", dict.fromkeys(model))
    for key, value in model.items():
        np.testing.assert_array_equal(filled[key], value)
