"""What the names of a checkpoint's tensors show: tables of rows, heads, recurrent layers, stacks of experts.

The names are those of torch modules and of the model families that people convert; the rules look at the last part of
a name ("wte" of "transformer.wte.weight"), because the parts before it say where a layer is, not what it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from octavo._files.header import HEADER_LIMIT, read_json

__all__ = [
    "bias_of", "is_head", "is_stack", "is_table", "is_token_table", "last_part", "recurrent_name", "stem_of",
    "vocabulary_sizes",
]  # fmt: skip

# GPT-2, T5 and MPNet; all others are called some form of "embedding".
_TABLES = {"wte", "wpe", "shared", "relative_attention_bias"}
_EMBEDDING = re.compile(r"(^|_)(embs?|embd|embeds?|embeddings?)(_|\d|$)")
# Linear layers beside embeddings: GPT-NeoX's embed_out, ELECTRA's embeddings_project, ALBERT's hidden mapping.
_NOT_A_TABLE = re.compile(r"out$|proj|mapping|linear|dense|mlp|norm")
# Tables by position or by kind of token, whose number of rows is not that of the vocabulary.
_NOT_TOKENS = re.compile(r"pos|type|segment|relative|wpe|class|time")
_HEADS = {
    "lm_head", "embed_out", "unembed", "head", "output", "decoder", "classifier", "score", "proj_out", "logits",
    "generator", "vocab_projector", "vocab_projection",
}  # fmt: skip
_STACKS = re.compile(r"expert|(^|[._])moe([._]|$)")
_RECURRENT = re.compile(r"(?P<prefix>(?:.*\.)?)(?P<name>(weight|bias)_(ih|hh)_l\d+(_reverse)?)")


def stem_of(tensor: str) -> str | None:
    """The name of the layer whose weight the tensor is; None for tensors that are not called weight.

    Example:
        >>> from octavo._files.naming import stem_of
        >>> stem_of("blocks.0.fc1.weight"), stem_of("weight"), stem_of("in_proj_weight")
        ('blocks.0.fc1', '', None)
    """
    if tensor == "weight":
        return ""
    return tensor.removesuffix(".weight") if tensor.endswith(".weight") else None


def bias_of(tensor: str) -> str:
    """The name that the bias of a weight would have: torch's, or the tensor's own with _bias behind.

    Example:
        >>> from octavo._files.naming import bias_of
        >>> bias_of("fc.weight"), bias_of("attn.in_proj_weight"), bias_of("cell.weight_ih"), bias_of("experts.w1")
        ('fc.bias', 'attn.in_proj_bias', 'cell.bias_ih', 'experts.w1_bias')
    """
    head, dot, last = tensor.rpartition(".")
    return head + dot + (last.replace("weight", "bias") if "weight" in last else f"{last}_bias")


def last_part(tensor: str) -> str:
    """The last part of a layer's name that is not a number: what the layer does, wherever it is.

    Example:
        >>> from octavo._files.naming import last_part
        >>> last_part("transformer.h.0.attn.c_proj.weight"), last_part("mlp.2.weight"), last_part("in_proj_weight")
        ('c_proj', 'mlp', 'in_proj_weight')
    """
    stem = stem_of(tensor)
    parts = [part for part in (tensor if stem is None else stem).split(".") if not part.isdecimal()]
    return parts[-1] if parts else ""


def is_table(tensor: str) -> bool:
    """Whether a matrix without a bias is a table of rows to look up, by its name.

    Example:
        >>> from octavo._files.naming import is_table
        >>> names = ["wte", "encoder.embed_tokens", "embeddings.word_embeddings", "embed_out", "patch_embed.proj"]
        >>> [is_table(f"{name}.weight") for name in names]
        [True, True, True, False, False]
    """
    last = last_part(tensor).lower()
    return last in _TABLES or (_EMBEDDING.search(last) is not None and _NOT_A_TABLE.search(last) is None)


def is_token_table(tensor: str) -> bool:
    """Whether a table has a row for each word of the vocabulary.

    Example:
        >>> from octavo._files.naming import is_token_table
        >>> is_token_table("wte.weight"), is_token_table("wpe.weight")
        (True, False)
    """
    return is_table(tensor) and _NOT_TOKENS.search(last_part(tensor).lower()) is None


def is_head(tensor: str) -> bool:
    """Whether a matrix of the vocabulary's size is a layer that gives a number for each word, by its name."""
    return last_part(tensor).lower() in _HEADS


def is_stack(tensor: str) -> bool:
    """Whether a 3-D tensor is a matrix for each expert, by its name.

    Example:
        >>> from octavo._files.naming import is_stack
        >>> is_stack("layers.0.mlp.experts.gate_up_proj"), is_stack("conv1.weight")
        (True, False)
    """
    return _STACKS.search(tensor) is not None and not tensor.endswith("bias")


def recurrent_name(tensor: str) -> tuple[str, str] | None:
    """(prefix, torch's name) of a recurrent layer's weight or bias.

    Example:
        >>> from octavo._files.naming import recurrent_name
        >>> recurrent_name("encoder.lstm.weight_ih_l0_reverse")
        ('encoder.lstm.', 'weight_ih_l0_reverse')
    """
    match = _RECURRENT.fullmatch(tensor)
    return (match["prefix"], match["name"]) if match else None


def vocabulary_sizes(folder: Path) -> set[int]:
    """The vocabulary sizes that the config.json in a folder states; none where it has no readable one."""
    try:
        config = read_json(folder / "config.json", "a config", HEADER_LIMIT, infinities=True)
    except (OSError, ValueError):
        return set()
    return set(_numbers_at(config, "vocab_size"))


def _numbers_at(config: Any, key: str, depth: int = 4) -> list[int]:
    if not isinstance(config, dict) or not depth:
        return []
    own = [config[key]] if type(config.get(key)) is int else []
    return own + [number for value in config.values() for number in _numbers_at(value, key, depth - 1)]
