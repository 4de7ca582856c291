"""Checkpoints in the naming of real model families, a few small layers each, and what each tensor is.

The names are those of the families' published safetensors files. A family is a list of parts: one function a kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from checkpoints import F, random

Kind = Literal["linear", "conv1d", "table", "array", "matrix", "convolution", "experts", "lstm"]


@dataclass(frozen=True)
class Part:
    """A layer, table or array: where it is in the model, what it is, its tensors' shapes by name."""

    name: str
    kind: Kind
    shapes: dict[str, tuple[int, ...]]

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        return {
            name: np.asarray(random(*shape, seed=seed + i) / F(8))
            for i, (name, shape) in enumerate(self.shapes.items())
        }


def linear(name: str, n: int, k: int, bias: bool = True) -> Part:
    return Part(name, "linear", {f"{name}.weight": (n, k)} | ({f"{name}.bias": (n,)} if bias else {}))


def conv1d(name: str, k: int, n: int) -> Part:
    """GPT-2's: y = x W + b."""
    return Part(name, "conv1d", {f"{name}.weight": (k, n), f"{name}.bias": (n,)})


def table(name: str, rows: int, d: int) -> Part:
    return Part(name, "table", {f"{name}.weight": (rows, d)})


def array(name: str, *shape: int) -> Part:
    return Part(name, "array", {name: shape})


def norm(name: str, d: int, bias: bool = True) -> list[Part]:
    return [array(f"{name}.weight", d)] + ([array(f"{name}.bias", d)] if bias else [])


def matrix(name: str, n: int, k: int) -> Part:
    return Part(name, "matrix", {name: (n, k)})


def convolution(name: str, n: int, k: int) -> Part:
    return Part(f"{name}.weight", "convolution", {f"{name}.weight": (n, k, 1, 1)})


def experts(name: str, count: int, n: int, k: int) -> Part:
    return Part(name, "experts", {name: (count, n, k)})


def lstm(name: str, k: int, h: int) -> Part:
    shapes: dict[str, tuple[int, ...]] = {}
    for end in ("", "_reverse"):
        shapes |= {f"{name}.weight_ih_l0{end}": (4 * h, k), f"{name}.weight_hh_l0{end}": (4 * h, h)}
        shapes |= {f"{name}.bias_ih_l0{end}": (4 * h,), f"{name}.bias_hh_l0{end}": (4 * h,)}
    return Part(name, "lstm", shapes)


D, V, P = 64, 320, 40  # width, vocabulary, positions


def _bert(prefix: str = "bert.") -> list[Part]:
    layer = f"{prefix}encoder.layer.0"
    return [
        table(f"{prefix}embeddings.word_embeddings", V, D), table(f"{prefix}embeddings.position_embeddings", P, D),
        table(f"{prefix}embeddings.token_type_embeddings", 2, D), *norm(f"{prefix}embeddings.LayerNorm", D),
        linear(f"{layer}.attention.self.query", D, D), linear(f"{layer}.attention.self.key", D, D),
        linear(f"{layer}.attention.self.value", D, D), linear(f"{layer}.attention.output.dense", D, D),
        *norm(f"{layer}.attention.output.LayerNorm", D), linear(f"{layer}.intermediate.dense", 4 * D, D),
        linear(f"{layer}.output.dense", D, 4 * D), linear(f"{prefix}pooler.dense", D, D),
    ]  # fmt: skip


def bert() -> list[Part]:
    return [
        *_bert(), linear("cls.predictions.transform.dense", D, D), *norm("cls.predictions.transform.LayerNorm", D),
        array("cls.predictions.bias", V), linear("cls.predictions.decoder", V, D),
    ]  # fmt: skip


def minilm() -> list[Part]:
    return _bert("")


def roberta() -> list[Part]:
    return [*_bert("roberta."), linear("lm_head.dense", D, D), *norm("lm_head.layer_norm", D), array("lm_head.bias", V)]


def distilbert() -> list[Part]:
    layer = "distilbert.transformer.layer.0"
    return [
        table("distilbert.embeddings.word_embeddings", V, D), table("distilbert.embeddings.position_embeddings", P, D),
        linear(f"{layer}.attention.q_lin", D, D), linear(f"{layer}.attention.out_lin", D, D),
        linear(f"{layer}.ffn.lin1", 4 * D, D), linear(f"{layer}.ffn.lin2", D, 4 * D), linear("pre_classifier", D, D),
        linear("classifier", 2, D), linear("vocab_projector", V, D),
    ]  # fmt: skip


def albert() -> list[Part]:
    group = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    return [
        table("albert.embeddings.word_embeddings", V, 32), linear("albert.encoder.embedding_hidden_mapping_in", D, 32),
        linear(f"{group}.attention.query", D, D), linear(f"{group}.ffn", 4 * D, D),
        linear(f"{group}.ffn_output", D, 4 * D), *norm(f"{group}.full_layer_layer_norm", D),
    ]  # fmt: skip


def electra() -> list[Part]:
    return [
        table("electra.embeddings.word_embeddings", V, 32), linear("electra.embeddings_project", D, 32),
        linear("electra.encoder.layer.0.attention.self.query", D, D), linear("discriminator_predictions.dense", D, D),
        linear("discriminator_predictions.dense_prediction", 1, D),
    ]  # fmt: skip


def mpnet() -> list[Part]:
    return [
        table("mpnet.embeddings.word_embeddings", V, D), table("mpnet.encoder.relative_attention_bias", 32, 4),
        linear("mpnet.encoder.layer.0.attention.attn.q", D, D), linear("mpnet.encoder.layer.0.attention.attn.o", D, D),
    ]  # fmt: skip


def gpt2() -> list[Part]:
    block = "transformer.h.0"
    return [
        table("transformer.wte", V, D), table("transformer.wpe", P, D), *norm(f"{block}.ln_1", D),
        array(f"{block}.attn.bias", 1, 1, P, P), conv1d(f"{block}.attn.c_attn", D, 3 * D),
        conv1d(f"{block}.attn.c_proj", D, D), *norm(f"{block}.ln_2", D), conv1d(f"{block}.mlp.c_fc", D, 4 * D),
        conv1d(f"{block}.mlp.c_proj", 4 * D, D), *norm("transformer.ln_f", D), linear("lm_head", V, D, bias=False),
    ]  # fmt: skip


def gptj() -> list[Part]:
    block = "transformer.h.0"
    return [
        table("transformer.wte", V, D), *norm(f"{block}.ln_1", D),
        *(linear(f"{block}.attn.{name}_proj", D, D, bias=False) for name in ("q", "k", "v", "out")),
        linear(f"{block}.mlp.fc_in", 4 * D, D), linear(f"{block}.mlp.fc_out", D, 4 * D), linear("lm_head", V, D),
    ]  # fmt: skip


def opt() -> list[Part]:
    layer = "model.decoder.layers.0"
    return [
        table("model.decoder.embed_tokens", V, 32), table("model.decoder.embed_positions", P + 2, D),
        linear("model.decoder.project_in", D, 32, bias=False), linear("model.decoder.project_out", 32, D, bias=False),
        *(linear(f"{layer}.self_attn.{name}_proj", D, D) for name in ("q", "k", "v", "out")),
        *norm(f"{layer}.self_attn_layer_norm", D), linear(f"{layer}.fc1", 4 * D, D), linear(f"{layer}.fc2", D, 4 * D),
        linear("lm_head", V, 32, bias=False),
    ]  # fmt: skip


def neox() -> list[Part]:
    layer = "gpt_neox.layers.0"
    return [
        table("gpt_neox.embed_in", V, D), *norm(f"{layer}.input_layernorm", D), array(f"{layer}.attention.masked_bias"),
        array(f"{layer}.attention.rotary_emb.inv_freq", 8), linear(f"{layer}.attention.query_key_value", 3 * D, D),
        linear(f"{layer}.attention.dense", D, D), linear(f"{layer}.mlp.dense_h_to_4h", 4 * D, D),
        linear(f"{layer}.mlp.dense_4h_to_h", D, 4 * D), linear("embed_out", V, D, bias=False),
    ]  # fmt: skip


def bloom() -> list[Part]:
    block = "transformer.h.0"
    return [
        table("transformer.word_embeddings", V, D), *norm("transformer.word_embeddings_layernorm", D),
        linear(f"{block}.self_attention.query_key_value", 3 * D, D), linear(f"{block}.self_attention.dense", D, D),
        linear(f"{block}.mlp.dense_h_to_4h", 4 * D, D), linear(f"{block}.mlp.dense_4h_to_h", D, 4 * D),
    ]  # fmt: skip


def t5() -> list[Part]:
    block, cross = "encoder.block.0.layer", "decoder.block.0.layer.1.EncDecAttention"
    return [
        table("shared", V, D), table(f"{block}.0.SelfAttention.relative_attention_bias", 32, 4),
        *(linear(f"{block}.0.SelfAttention.{name}", D, D, bias=False) for name in "qkvo"),
        array(f"{block}.0.layer_norm.weight", D), linear(f"{block}.1.DenseReluDense.wi_0", 4 * D, D, bias=False),
        linear(f"{block}.1.DenseReluDense.wi_1", 4 * D, D, bias=False),
        linear(f"{block}.1.DenseReluDense.wo", D, 4 * D, bias=False), linear(f"{cross}.q", D, D, bias=False),
        linear("lm_head", V, D, bias=False),
    ]  # fmt: skip


def _llama(layer: str, bias: bool = False) -> list[Part]:
    return [
        linear(f"{layer}.self_attn.q_proj", D, D, bias), linear(f"{layer}.self_attn.k_proj", D // 2, D, bias),
        linear(f"{layer}.self_attn.v_proj", D // 2, D, bias), linear(f"{layer}.self_attn.o_proj", D, D, bias=False),
        *norm(f"{layer}.input_layernorm", D, bias=False),
    ]  # fmt: skip


def llama() -> list[Part]:
    layer = "model.layers.0"
    return [
        table("model.embed_tokens", V, D), *_llama(layer),
        *(linear(f"{layer}.mlp.{name}_proj", 3 * D, D, bias=False) for name in ("gate", "up")),
        linear(f"{layer}.mlp.down_proj", D, 3 * D, bias=False), *norm("model.norm", D, bias=False),
        linear("lm_head", V, D, bias=False),
    ]  # fmt: skip


def llama_original() -> list[Part]:
    return [
        table("tok_embeddings", V, D), *(linear(f"layers.0.attention.w{name}", D, D, bias=False) for name in "qkvo"),
        linear("layers.0.feed_forward.w1", 3 * D, D, bias=False), *norm("norm", D, bias=False),
        linear("output", V, D, bias=False),
    ]  # fmt: skip


def qwen2() -> list[Part]:
    layer = "model.layers.0"
    down = linear(f"{layer}.mlp.down_proj", D, 3 * D, bias=False)
    return [table("model.embed_tokens", V, D), *_llama(layer, bias=True), down]


def phi() -> list[Part]:
    layer = "model.layers.0"
    return [
        table("model.embed_tokens", V, D), linear(f"{layer}.self_attn.dense", D, D),
        linear(f"{layer}.mlp.fc1", 4 * D, D), linear(f"{layer}.mlp.fc2", D, 4 * D),
        *norm("model.final_layernorm", D), linear("lm_head", V, D),
    ]  # fmt: skip


def mixtral() -> list[Part]:
    moe = "model.layers.0.block_sparse_moe"
    return [
        table("model.embed_tokens", V, D), *_llama("model.layers.0"), linear(f"{moe}.gate", 2, D, bias=False),
        *(linear(f"{moe}.experts.{e}.w{i}", *((D, 3 * D) if i == 2 else (3 * D, D)), bias=False)
          for e in (0, 1) for i in (1, 2, 3)),
        linear("lm_head", V, D, bias=False),
    ]  # fmt: skip


def stacked_experts() -> list[Part]:
    mlp = "model.layers.0.mlp"
    return [
        table("model.embed_tokens", V, D), *_llama("model.layers.0"), linear(f"{mlp}.gate", 3, D, bias=False),
        experts(f"{mlp}.experts.gate_up_proj", 3, 4 * D, D), experts(f"{mlp}.experts.down_proj", 3, D, 2 * D),
    ]  # fmt: skip


def whisper() -> list[Part]:
    attention = "model.encoder.layers.0.self_attn"
    return [
        array("model.encoder.conv1.weight", D, 80, 3), array("model.encoder.conv1.bias", D),
        table("model.encoder.embed_positions", P, D), linear(f"{attention}.k_proj", D, D, bias=False),
        *(linear(f"{attention}.{name}_proj", D, D) for name in ("q", "v", "out")),
        linear("model.encoder.layers.0.fc1", 4 * D, D), table("model.decoder.embed_tokens", V, D),
        table("model.decoder.embed_positions", P, D), linear("model.decoder.layers.0.encoder_attn.q_proj", D, D),
        linear("proj_out", V, D, bias=False),
    ]  # fmt: skip


def vit() -> list[Part]:
    layer = "vit.encoder.layer.0"
    return [
        array("vit.embeddings.cls_token", 1, 1, D), array("vit.embeddings.position_embeddings", 1, 17, D),
        array("vit.embeddings.patch_embeddings.projection.weight", D, 3, 4, 4),
        array("vit.embeddings.patch_embeddings.projection.bias", D),
        linear(f"{layer}.attention.attention.query", D, D), linear(f"{layer}.attention.output.dense", D, D),
        linear(f"{layer}.intermediate.dense", 4 * D, D), linear(f"{layer}.output.dense", D, 4 * D),
        *norm("vit.layernorm", D), linear("classifier", 10, D),
    ]  # fmt: skip


def clip() -> list[Part]:
    text, vision = "text_model.encoder.layers.0", "vision_model.encoder.layers.0"
    return [
        array("logit_scale"), table("text_model.embeddings.token_embedding", V, D),
        table("text_model.embeddings.position_embedding", P, D), linear(f"{text}.self_attn.q_proj", D, D),
        linear(f"{text}.mlp.fc1", 4 * D, D), array("vision_model.embeddings.class_embedding", D),
        array("vision_model.embeddings.patch_embedding.weight", D, 3, 4, 4),
        table("vision_model.embeddings.position_embedding", 17, D), linear(f"{vision}.mlp.fc2", D, 4 * D),
        *norm("vision_model.pre_layrnorm", D), linear("text_projection", 48, D, bias=False),
        linear("visual_projection", 48, D, bias=False),
    ]  # fmt: skip


def open_clip() -> list[Part]:
    block = "transformer.resblocks.0"
    return [
        array("positional_embedding", P, D), array("text_projection", D, 48), table("token_embedding", V, D),
        matrix(f"{block}.attn.in_proj_weight", 3 * D, D), array(f"{block}.attn.in_proj_bias", 3 * D),
        linear(f"{block}.attn.out_proj", D, D), linear(f"{block}.mlp.c_fc", 4 * D, D), *norm("ln_final", D),
        linear(f"{block}.mlp.c_proj", D, 4 * D), array("visual.class_embedding", D), array("visual.proj", D, 48),
    ]  # fmt: skip


def mamba() -> list[Part]:
    mixer = "backbone.layers.0.mixer"
    return [
        table("backbone.embeddings", V, D), array(f"{mixer}.A_log", 2 * D, 16), array(f"{mixer}.D", 2 * D),
        array(f"{mixer}.conv1d.weight", 2 * D, 1, 4), linear(f"{mixer}.in_proj", 4 * D, D, bias=False),
        linear(f"{mixer}.x_proj", 36, 2 * D, bias=False), linear(f"{mixer}.dt_proj", 2 * D, 4),
        linear(f"{mixer}.out_proj", D, 2 * D, bias=False), *norm("backbone.norm_f", D, bias=False),
    ]  # fmt: skip


def mobilenet() -> list[Part]:
    block = "features.1.conv"
    return [
        array("features.0.0.weight", 16, 3, 3, 3), convolution(f"{block}.0.0", 96, 16),
        array(f"{block}.0.1.running_mean", 96), array(f"{block}.1.0.weight", 96, 1, 3, 3),
        convolution(f"{block}.2", 24, 96), linear("classifier.1", 10, 24),
    ]  # fmt: skip


def tagger() -> list[Part]:
    return [table("embedding", V, D), lstm("lstm", D, 32), linear("hidden2tag", 9, D)]


FAMILIES: dict[str, Callable[[], Iterable[Part]]] = {
    family.__name__: family
    for family in (
        bert, minilm, roberta, distilbert, albert, electra, mpnet, gpt2, gptj, opt, neox, bloom, t5, llama,
        llama_original, qwen2, phi, mixtral, stacked_experts, whisper, vit, clip, open_clip, mamba, mobilenet, tagger,
    )
}  # fmt: skip
