"""Tensors of every type that is read: the package's weights to the bit, and products by the definition."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import octavo as oc
from gguf_files import dequantized, random_blocks, tensor, whole, write_blocks
from octavo._numerics.grouped_definition import grouped_linear
from octavo.gguf._blocks import DECODERS
from octavo.gguf._convert import convert
from octavo.gguf._types import BY_ID, BY_NAME
from reference import assert_same_bits

F = np.float32


def rows(m: int, k: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((m, k)).astype(F)


def test_types_are_those_of_the_package() -> None:
    for kind in BY_ID.values():
        known = gguf.GGMLQuantizationType(kind.number)
        assert (known.name, gguf.GGML_QUANT_SIZES[known]) == (kind.name, (kind.block, kind.nbytes))
    assert set(DECODERS) <= set(BY_NAME)


@pytest.mark.parametrize("name", DECODERS)
def test_load_keeps_every_bit_of_the_weights(tmp_path: Path, name: str) -> None:
    raw = random_blocks(name, 19, 512 // BY_NAME[name].block)
    write_blocks(tmp_path / "x.gguf", {"w": (name, raw)})
    expected = dequantized(name, raw)
    for activation in ("symmetric", "asymmetric", "int16"):
        q = oc.gguf.load(tmp_path / "x.gguf", activation=activation).tensors["w"]
        assert_same_bits(q.dequantize(), expected, name)
        assert_same_bits(q[[3, 0]], expected[[3, 0]])
        x, layer = rows(5, 512), q._layer
        definition = grouped_linear(x, layer.grouped(), activation=activation, activation_group=layer.activation_group)
        assert_same_bits(x @ q.T, definition)
        small = expected[np.abs(expected).max(1) < 1e30]  # MXFP4 reaches the end of float32
        close = x.astype(np.float64) @ small.T.astype(np.float64)
        found = (x @ q.T)[:, np.abs(expected).max(1) < 1e30]
        assert np.abs(found - close).max() < 0.02 * np.abs(close).max()


def test_load_chooses_groups_of_activations_that_the_weights_take(tmp_path: Path) -> None:
    blocks = {name: (name, random_blocks(name, 2, 512 // BY_NAME[name].block)) for name in ("Q4_0", "Q4_K", "Q6_K")}
    write_blocks(tmp_path / "x.gguf", blocks)
    found = oc.gguf.load(tmp_path / "x.gguf").tensors
    assert [found[name]._layer.activation_group for name in blocks] == [32, 256, 256]
    found = oc.gguf.load(tmp_path / "x.gguf", activation_group=None).tensors
    assert [found[name]._layer.activation_group for name in blocks] == [None, None, None]
    with pytest.raises(ValueError, match=r"x.gguf: tensor 'Q4_K': .*groups of 256 or a scale a row"):
        oc.gguf.load(tmp_path / "x.gguf", activation_group=64)


def test_load_gives_plain_arrays(tmp_path: Path) -> None:
    arrays: dict[str, tuple[str, Any]] = {
        "f32": ("F32", rows(2, 3)), "f16": ("F16", rows(2, 3).astype(np.float16)),
        "f64": ("F64", rows(2, 3).astype(float)),
        "i8": ("I8", np.array([[-1, 2]], np.int8)), "i64": ("I64", np.array([1 << 40])),
    }  # fmt: skip
    write_blocks(tmp_path / "x.gguf", arrays)
    found = oc.gguf.load(tmp_path / "x.gguf").tensors
    for name, (_, expected) in arrays.items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


def test_load_widens_bfloat16(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC000, 0x0001, 0x7F7F], "<u2")
    (tmp_path / "x.gguf").write_bytes(whole([], [tensor("b", (4,), 30, 0)], bits.tobytes()))
    found = oc.gguf.load(tmp_path / "x.gguf").tensors["b"]
    assert_same_bits(found, (bits.astype(np.uint32) << 16).view(F))


def test_load_nests_by_name_and_gives_metadata(tmp_path: Path) -> None:
    one = ("F32", np.ones(3, F))
    write_blocks(
        tmp_path / "x.gguf", {"blk.0.a.weight": one, "blk.0.b": one, "out": one}, {"words": ["a", "b"], "n": 7}
    )
    tensors, metadata = oc.gguf.load(tmp_path / "x.gguf")
    assert tensors.keys() == {"blk", "out"}
    assert tensors["blk"]["0"].keys() == {"a", "b"}
    assert metadata["words"] == ["a", "b"]
    assert metadata["n"] == 7
    assert metadata["general.architecture"] == "test"


@pytest.mark.parametrize("names", [("a", "a.b"), ("a.b", "a")])
def test_load_refuses_names_within_names(tmp_path: Path, names: tuple[str, str]) -> None:
    write_blocks(tmp_path / "x.gguf", {name: ("F32", np.ones(3, F)) for name in names})
    with pytest.raises(ValueError, match=r"x.gguf: tensor '.*name of another tensor|another tensor's name"):
        oc.gguf.load(tmp_path / "x.gguf")


def test_load_gives_experts_as_lists(tmp_path: Path) -> None:
    raw = random_blocks("Q4_0", 12, 2)
    (tmp_path / "x.gguf").write_bytes(whole([], [tensor("e", (64, 2, 3, 2), 2, 0)], raw.tobytes()))
    found = oc.gguf.load(tmp_path / "x.gguf").tensors["e"]
    assert len(found) == 2
    assert len(found[0]) == 3
    assert found[1][2].shape == (2, 64)
    assert_same_bits(found[1][2].dequantize(), dequantized("Q4_0", raw)[10:])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_load_names_tensors_with_scales_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    raw = random_blocks("Q8_0", 3, 2)
    raw[1, 1, :2] = np.float16([bad]).view(np.uint8)
    write_blocks(tmp_path / "x.gguf", {"good": ("Q8_0", random_blocks("Q8_0", 1, 1)), "bad": ("Q8_0", raw)})
    with pytest.raises(ValueError, match=rf"x.gguf: tensor 'bad': scale must be finite, got {bad} at \[1, 1\]"):
        oc.gguf.load(tmp_path / "x.gguf")


def test_places_in_large_tensors_are_counted_from_a_row_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = random_blocks("Q8_0", 50, 1)
    raw[43, 0, :2] = np.float16([np.inf]).view(np.uint8)
    path = tmp_path / "x.gguf"
    write_blocks(path, {"bad": ("Q8_0", raw)})
    monkeypatch.setattr("octavo.gguf._load._PIECE_BYTES", 20 * 34)
    for read in (oc.gguf.load, lambda path: convert(path, tmp_path / "out")):
        with pytest.raises(ValueError, match=r"tensor 'bad': .* got inf at \[3, 0\] .*, counted from row 40"):
            read(path)


def test_load_takes_groups_of_zeros(tmp_path: Path) -> None:
    raw = random_blocks("Q4_1", 2, 2)
    raw[0, 0, :4] = 0
    write_blocks(tmp_path / "x.gguf", {"w": ("Q4_1", raw)})
    q = oc.gguf.load(tmp_path / "x.gguf").tensors["w"]
    assert (q[0, :32] == 0).all()


def test_load_refuses_types_that_it_does_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(whole([], [tensor("w", (256, 1), 16, 0)], bytes(66)))
    with pytest.raises(ValueError, match=r"tensor 'w': type IQ2_XXS is not read; these are: F32, F16, .*Q6_K"):
        oc.gguf.load(tmp_path / "x.gguf")


def test_load_refuses_quantized_vectors(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(whole([], [tensor("w", (32,), 2, 0)], bytes(18)))
    with pytest.raises(ValueError, match="tensor 'w': it has one dimension and type Q4_0"):
        oc.gguf.load(tmp_path / "x.gguf")


def test_load_of_many_pieces_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = random_blocks("Q5_1", 50, 3)
    write_blocks(tmp_path / "x.gguf", {"w": ("Q5_1", raw)})
    monkeypatch.setattr("octavo.gguf._load._PIECE_BYTES", 1000)
    assert_same_bits(oc.gguf.load(tmp_path / "x.gguf").tensors["w"].dequantize(), dequantized("Q5_1", raw))


def test_load_refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "pipe is not a regular file"), (tmp_path, "is a folder; name a file")):
        with pytest.raises(ValueError, match=message):
            oc.gguf.load(path)
