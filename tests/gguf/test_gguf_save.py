"""Files that octavo writes, as the `gguf` package reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import octavo as oc
from gguf_files import random_blocks, write_blocks
from reference import assert_same_bits

F = np.float32


def read_by_the_package(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    return {
        t.name: (t.tensor_type.name, gguf.quants.dequantize(t.data, t.tensor_type))
        for t in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_save_writes_weights_as_they_are(tmp_path: Path, kind: str) -> None:
    raw = random_blocks(kind, 9, 3)
    write_blocks(tmp_path / "in.gguf", {"a.w": (kind, raw)})
    tensors, metadata = oc.gguf.load(tmp_path / "in.gguf")
    oc.gguf.save(tensors, tmp_path / "out.gguf", metadata=metadata)
    found = read_by_the_package(tmp_path / "out.gguf")
    assert found["a.w"][0] == kind
    assert_same_bits(found["a.w"][1], tensors["a"]["w"].dequantize())
    again = gguf.GGUFReader(tmp_path / "out.gguf").tensors[0].data
    np.testing.assert_array_equal(again.reshape(-1), raw.reshape(-1))


def test_save_writes_five_bits_as_eight(tmp_path: Path) -> None:
    write_blocks(tmp_path / "in.gguf", {"w": ("Q5_0", random_blocks("Q5_0", 9, 3))})
    q = oc.gguf.load(tmp_path / "in.gguf").tensors["w"]
    oc.gguf.save({"w": q}, tmp_path / "out.gguf")
    kind, values = read_by_the_package(tmp_path / "out.gguf")["w"]
    assert kind == "Q8_0"
    assert_same_bits(values, q.dequantize())


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16", "F32"])
def test_save_of_floats_is_what_load_and_the_package_read(tmp_path: Path, kind: str) -> None:
    w = np.random.default_rng(0).standard_normal((6, 64)).astype(F)
    oc.gguf.save({"w": w, "norm": w[0]}, tmp_path / "x.gguf", types={"w": kind})
    found, ours = read_by_the_package(tmp_path / "x.gguf"), oc.gguf.load(tmp_path / "x.gguf").tensors
    assert found["w"][0] == kind
    assert found["norm"][0] == "F32"
    values = ours["w"].dequantize() if kind.startswith("Q") else ours["w"].astype(F)
    assert_same_bits(found["w"][1].astype(F), values)
    assert np.abs(values - w).max() < {"Q8_0": 0.02, "Q4_0": 0.4, "F16": 0.002, "F32": 1e-9}[kind]
    np.testing.assert_array_equal(ours["norm"], w[0])


def test_save_writes_layers_with_their_bias_and_metadata(tmp_path: Path) -> None:
    layer = oc.QuantLinear.from_grouped(
        oc.GroupedCodes(np.ones((2, 32), np.int8), np.ones((2, 1), np.float16), 4, 32), np.array([1, 2])
    )
    metadata = {"general.architecture": "llama", "n": 3, "minus": -3, "x": 0.5, "yes": True, "words": ["a", "b"]}
    oc.gguf.save({"fc": layer}, tmp_path / "x.gguf", metadata=metadata)
    tensors, found = oc.gguf.load(tmp_path / "x.gguf")
    assert {name: found[name] for name in metadata} == metadata
    np.testing.assert_array_equal(tensors["fc"]["bias"], [1, 2])
    np.testing.assert_array_equal(tensors["fc"]["weight"].dequantize(), np.ones((2, 32)))


@pytest.mark.parametrize("pattern", ["fc", "fc.weight", "fc.bias", "*.weight", "table.weight", "w"])
def test_patterns_match_objects_and_the_tensors_that_they_are_written_as(tmp_path: Path, pattern: str) -> None:
    codes = oc.GroupedCodes(np.ones((2, 32), np.int8), np.ones((2, 1), np.float16), 4, 32)
    table = oc.QuantEmbedding(np.ones((2, 32), F), dtype="int4", group_size=32, scale_dtype="float16")
    model = {"fc": oc.QuantLinear.from_grouped(codes, np.ones(2)), "table": table, "w": np.ones((2, 32), F)}
    oc.gguf.save(model, tmp_path / "x.gguf", types={pattern: "Q8_0"})
    kind = "Q8_0" if pattern == "w" else "F16"
    found = {name: kind for name, (kind, _) in read_by_the_package(tmp_path / "x.gguf").items()}
    assert found == {"fc.weight": "Q4_0", "fc.bias": "F32", "table.weight": "Q4_0", "w": kind}
    with pytest.raises(ValueError, match=r"'table\.bias' matches nothing .* has fc\.weight, fc\.bias, tab"):
        oc.gguf.save(model, tmp_path / "x.gguf", types={"table.bias": "Q8_0"})


def test_save_writes_embeddings_as_tables(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((9, 96)).astype(F)
    table = oc.QuantEmbedding(rows, dtype="int4", group_size=32, scale_dtype="float16")
    oc.gguf.save({"token_embd": table, "blk": [{"norm": rows[0]}]}, tmp_path / "x.gguf")
    found = read_by_the_package(tmp_path / "x.gguf")
    assert {name: kind for name, (kind, _) in found.items()} == {"token_embd.weight": "Q4_0", "blk.0.norm": "F32"}
    np.testing.assert_array_equal(found["token_embd.weight"][1], table.weight)  # zeros' signs aside


def test_save_writes_what_is_shared_under_each_of_its_names(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((6, 64)).astype(F)
    block = {"norm": w[0]}
    oc.gguf.save({"tok": w, "out": w, "a": block, "b": block}, tmp_path / "x.gguf", types={"out": "Q8_0"})
    found = read_by_the_package(tmp_path / "x.gguf")
    assert {name: kind for name, (kind, _) in found.items()} == {
        "tok": "F16", "out": "Q8_0", "a.norm": "F32", "b.norm": "F32",
    }  # fmt: skip
    assert_same_bits(found["b.norm"][1], found["a.norm"][1])


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_save_lays_tensors_out_as_the_metadata_says(tmp_path: Path, alignment: int) -> None:
    arrays = {name: np.full(3, i, F) for i, name in enumerate("abc")}
    oc.gguf.save(arrays, tmp_path / "x.gguf", metadata={"general.alignment": alignment})
    tensors, metadata = oc.gguf.load(tmp_path / "x.gguf")
    assert metadata["general.alignment"] == alignment
    for name, (_, values) in read_by_the_package(tmp_path / "x.gguf").items():
        np.testing.assert_array_equal(values, arrays[name])
        np.testing.assert_array_equal(tensors[name], arrays[name])


@pytest.mark.parametrize(
    "value",
    [
        np.bool_(True), np.float32(0.5), np.int16(-3), np.str_("x"), 2**64 - 1, -(2**63), (1, 2), [np.int64(2**40), 0],
        [2**31], [-1, 2**31], [2**64 - 1], [0.5, np.inf], [True, False], ["a", np.str_("b")], [[1, 2], [3]],
    ],
)  # fmt: skip
def test_save_keeps_metadata_of_every_kind(tmp_path: Path, value: Any) -> None:
    oc.gguf.save({"w": np.ones(2)}, tmp_path / "x.gguf", metadata={"k": value})
    assert oc.gguf.load(tmp_path / "x.gguf").metadata["k"] == (list(value) if isinstance(value, tuple) else value)


def test_save_leaves_other_files_alone(tmp_path: Path) -> None:
    other = tmp_path / ".x.gguf.tmp"  # as another writer of the same file may have it
    other.write_bytes(b"as it was")
    oc.gguf.save({"w": np.ones((2, 32), F)}, tmp_path / "x.gguf")
    assert other.read_bytes() == b"as it was"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("model", "options", "error", "words"),
    [
        ({}, {}, ValueError, "nothing to write"),
        (
            {"w": np.ones((2, 33), F)},
            {"types": "Q8_0"},
            ValueError,
            "w: its rows have 33 elements; Q8_0 needs a multiple of 32",
        ),
        ({"w": np.ones((2, 32), F)}, {"types": "Q3_K"}, ValueError, "must be one of .*, got 'Q3_K'"),
        (
            {"a": np.ones((2, 32), F), "b": [np.ones(2, F)]},
            {"types": {"a": "F32", "w*": "Q8_0", "c": "F16"}},
            ValueError,
            r"types: 'w\*', 'c' matches nothing of the model; it has a, b\.0",
        ),
        ({"w": np.full((2, 32), np.nan, F)}, {}, ValueError, "w: it holds NaN"),
        ({"w": np.full((2, 32), 1e6, F)}, {}, ValueError, "w: a value is beyond float16"),
        ({"w": np.ones((2, 2), np.complex64)}, {}, TypeError, "w: GGUF has no type for an array of complex64"),
        ({"w": oc.QuantMatrix(np.eye(32), axis=0)}, {}, ValueError, "w: its weights must be of Q8_0's or Q4_0's form"),
        ({"w": oc.QuantMatrix(np.eye(32))}, {}, ValueError, "w: GGUF holds rows of outputs"),
        ({"w": np.ones(2)}, {"metadata": {"k": {}}}, TypeError, "metadata 'k' must be a number, text"),
        ({"w": np.ones(2)}, {"metadata": {"k": [1, 2.5]}}, TypeError, r"'k' must be .* one kind of them, .* \[1, 2"),
        ({"w": np.ones(2)}, {"metadata": {"k": [2**64]}}, TypeError, "whole numbers within 64 bits"),
        ({"w": np.ones(2)}, {"metadata": {"k": 1e300}}, TypeError, "others within float32, got 1e.300"),
        ({"w": np.ones(2)}, {"metadata": {"general.alignment": 48}}, ValueError, "alignment' must be a power of two"),
        ({"w": np.full((2, 32), 1e7, F)}, {"types": "Q8_0"}, ValueError, "w: a scale is beyond float16; choose F32"),
        ({"w": np.full((2, 32), 1e7, F)}, {"types": "Q4_0"}, ValueError, "w: a scale is beyond float16; choose F32"),
        ({"w": np.ones((1, 1, 1, 1, 1), F)}, {}, ValueError, "'w' has 5 dimensions; 1 to 4"),
        ({"w": np.ones((0, 32), F)}, {}, ValueError, r"'w' has shape \[0, 32\]; sizes must be at least 1"),
        ({"w" * 65536: np.ones(2, F)}, {}, ValueError, "name is 65536 bytes long; at most 65535"),
        ({"e": oc.QuantEmbedding(np.eye(32))}, {}, ValueError, "e: its rows must be of Q4_0's form .*, got QuantEmb"),
        (
            {"e": oc.QuantEmbedding(np.eye(32), dtype="int4", group_size=32)},
            {},
            ValueError,
            r"e: its rows must be of Q4_0's form",
        ),
        (
            {"rnn": [oc.QuantLSTM.from_float(oc.nn.LSTM.init(4, 4))]},
            {},
            TypeError,
            "rnn.0: it is a QuantLSTM, which GGUF has no place for",
        ),
    ],
)
def test_save_names_what_it_cannot_write(
    tmp_path: Path, model: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"as it was")
    with pytest.raises(error, match=words):
        oc.gguf.save(model, path, **options)
    assert path.read_bytes() == b"as it was"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("types", "named"), [("Q8", "types"), ({"w": "Q8"}, r"types\['w'\]")])
def test_save_names_the_type_as_it_was_given(tmp_path: Path, types: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} must be one of .*got 'Q8'"):
        oc.gguf.save({"w": np.eye(32, dtype=F)}, tmp_path / "x.gguf", types=types)
