"""(out, in) or (in, out): told by biases, the vocabulary and layers of the same role; never guessed against them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import octavo as oc
from checkpoints import random
from octavo._files.choice import Choice
from octavo._files.conversion import quantize_checkpoint, summary
from octavo._files.layouts import Layout

D = 64


def gpt2(*, square_only: bool = False) -> dict[str, np.ndarray]:
    """Its Conv1D layers are y = x W + b; only c_proj of the attention is square."""
    floats = {"h.0.attn.c_proj.weight": random(D, D), "h.0.attn.c_proj.bias": random(D, seed=1)}
    if not square_only:
        floats |= {"h.0.attn.c_attn.weight": random(D, 3 * D, seed=2), "h.0.attn.c_attn.bias": random(3 * D, seed=3)}
        floats |= {"h.0.mlp.c_proj.weight": random(4 * D, D, seed=4), "h.0.mlp.c_proj.bias": random(D, seed=5)}
    return floats


@pytest.mark.parametrize("layout", [None, "out_in"])
def test_biases_that_fit_in_out_alone_stop_the_conversion(layout: Layout | None, tmp_path: Path) -> None:
    save_file(gpt2(), tmp_path / "in")
    with pytest.raises(
        ValueError,
        match=r"in: h\.0\.attn\.c_attn\.weight has shape \[64, 192\] and a bias of 192 values, so it is \(in, out\) as "
        r"in y = x W, and so is 1 other; pass --layout in_out, or leave it",
    ):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(layout=layout))
    assert not (tmp_path / "out").exists()


def test_square_matrix_follows_the_layers_of_its_role(tmp_path: Path) -> None:
    floats = gpt2() | {"score.weight": random(5, D), "score.bias": random(5)}
    save_file(floats, tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(layout="in_out"))
    found, x = oc.load(tmp_path / "out"), random(3, D)
    w, b = floats["h.0.attn.c_proj.weight"], floats["h.0.attn.c_proj.bias"]
    assert found["h.0.attn.c_proj"](x).tobytes() == oc.QuantLinear(w.T, b)(x).tobytes()
    assert np.abs(found["h.0.attn.c_proj"](x) - (x @ w + b)).max() < 0.5
    expected = oc.QuantLinear(floats["score.weight"], floats["score.bias"])
    assert found["score"](x).tobytes() == expected(x).tobytes()  # its bias says (out, in)
    assert "layout out_in, y = x W^T, for 1 matrix: shown by 1 bias or output head" in summary(result)
    assert "layout in_out, y = x W, for 3 matrices: shown by 2 biases or output heads" in summary(result)


@pytest.mark.parametrize("layout", [None, "in_out"])
def test_square_matrix_follows_a_role_that_is_out_in(layout: Layout | None, tmp_path: Path) -> None:
    floats = {"a.proj.weight": random(D, D), "a.proj.bias": random(D)}
    floats |= {"b.proj.weight": random(2 * D, D), "b.proj.bias": random(2 * D)}
    save_file(floats, tmp_path / "in")
    quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(layout=layout))
    x = random(3, D)
    expected = oc.QuantLinear(floats["a.proj.weight"], floats["a.proj.bias"])(x)
    assert oc.load(tmp_path / "out")["a.proj"](x).tobytes() == expected.tobytes()


def test_square_matrices_alone_are_out_in_and_it_is_said(tmp_path: Path) -> None:
    save_file(gpt2(square_only=True), tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert result.layout == (
        "layout out_in, y = x W^T, for 1 matrix: assumed, because no bias shows it; "
        "pass --layout in_out if it is y = x W"
    )
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(layout="in_out"))
    assert result.layout == "layout in_out, y = x W, for 1 matrix: as given by --layout"


def test_head_of_the_vocabulary_is_out_in_whatever_the_layout(tmp_path: Path) -> None:
    floats = gpt2() | {"wte.weight": random(300, D), "lm_head.weight": random(300, D, seed=9)}
    save_file(floats, tmp_path / "in")
    quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(layout="in_out"))
    head = oc.load(tmp_path / "out")["lm_head"]
    assert (head.in_features, head.out_features) == (D, 300)


def test_small_table_tells_nothing_of_a_matrix_of_its_shape(tmp_path: Path) -> None:
    save_file({"level_embed.weight": random(4, D), "up.weight": random(D, 4)}, tmp_path / "in")
    quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert oc.load(tmp_path / "out")["up"].out_features == D


def test_matrix_with_a_column_for_each_word_is_in_out(tmp_path: Path) -> None:
    save_file({"wte.weight": random(300, D), "to_words.weight": random(D, 300)}, tmp_path / "in")
    with pytest.raises(
        ValueError, match=r"to_words\.weight has shape \[64, 300\], and the vocabulary has 300 words, so"
    ):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    quantize_checkpoint(tmp_path / "in", tmp_path / "out", choice=Choice(layout="in_out"))
    assert oc.load(tmp_path / "out")["to_words"].out_features == 300


def test_files_of_both_layouts_are_told_so(tmp_path: Path) -> None:
    save_file(gpt2() | {"score.weight": random(5, D), "score.bias": random(5)}, tmp_path / "in")
    with pytest.raises(
        ValueError, match=r"pass --layout in_out \(1 matrix that must be \(out, in\) will stay so\), or"
    ):
        quantize_checkpoint(tmp_path / "in", tmp_path / "out")


def test_bias_that_fits_neither_layout_leaves_the_matrix_as_it_is(tmp_path: Path) -> None:
    save_file({"a.weight": random(8, 4), "a.bias": random(3), "b.weight": random(4, 4)}, tmp_path / "in")
    result = quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert dict(result.skipped)["a.weight"] == "its bias is F32 of shape [3], expected 8 floats"


# Tables of rows


@pytest.mark.parametrize(
    "name",
    [
        "wte", "transformer.wpe", "shared", "encoder.embed_tokens", "decoder.embed_positions", "tok_embeddings", "emb",
        "bert.embeddings.word_embeddings", "embeddings.token_type_embeddings", "gpt_neox.embed_in", "token_embedding",
        "block.0.SelfAttention.relative_attention_bias", "embed_tokens.3", "encoder.rel_embeddings", "pos_embed",
    ],
)  # fmt: skip
def test_table_of_rows_is_recognised_by_name(name: str, tmp_path: Path) -> None:
    save_file({f"{name}.weight": random(12, 32)}, tmp_path / "in")
    quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert type(oc.load(tmp_path / "out")[name]) is oc.QuantEmbedding


@pytest.mark.parametrize(
    ("name", "bias"),
    [
        ("lm_head", False), ("embed_out", False), ("embeddings_project", True), ("embedding_hidden_mapping_in", True),
        ("time_embed.0", True), ("patch_embed.proj", False), ("unembed", False), ("class_embed", True),
        ("score", False), ("embed_proj", False),
    ],
)  # fmt: skip
def test_layer_beside_embeddings_stays_a_layer(name: str, bias: bool, tmp_path: Path) -> None:
    floats = {f"{name}.weight": random(12, 32)} | ({f"{name}.bias": random(12)} if bias else {})
    save_file(floats, tmp_path / "in")
    quantize_checkpoint(tmp_path / "in", tmp_path / "out")
    assert type(oc.load(tmp_path / "out")[name]) is oc.QuantLinear


def test_matrix_of_the_vocabulary_that_no_name_tells_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 300}, "n_layer": 2}))
    floats = {"model.words.weight": random(300, 32), "lm_head.weight": random(300, 32)}
    source, out = tmp_path / "in", tmp_path / "out"
    save_file(floats, source)
    with pytest.raises(
        ValueError,
        match=r"in: model\.words\.weight has a row for each of the 300 words that config\.json states, .*"
        r"--embedding model\.words\.weight or --linear model\.words\.weight",
    ):
        quantize_checkpoint(source, out)
    for choice, expected in (
        (Choice(embedding=["*words*"]), oc.QuantEmbedding),
        (Choice(linear=["*words*"]), oc.QuantLinear),
    ):
        quantize_checkpoint(source, out, choice=choice)
        found = oc.load(out)
        assert type(found["model.words"]) is expected
        assert type(found["lm_head"]) is oc.QuantLinear
    save_file(floats | {"wte.weight": random(300, 32)}, source)  # which is the table, so that the other is a head
    quantize_checkpoint(source, out)
    assert type(oc.load(out)["model.words"]) is oc.QuantLinear


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"vocab_size": "300"}'])
def test_config_that_says_nothing_is_no_obstacle(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    save_file({"fc.weight": random(300, 32)}, tmp_path / "in")
    assert quantize_checkpoint(tmp_path / "in", tmp_path / "out").kinds == {"QuantLinear": 1}
