"""The recorded digests of examples/llama.py, and the ways to compute one that must not matter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from llama import RECORDED, Llama, digest

DIGESTS: dict[str, str] = json.loads((Path(__file__).parents[1] / "data" / "llama_digests.json").read_text())


def hashed(logits: Sequence[np.ndarray]) -> str:
    return hashlib.sha256(np.concatenate(logits).astype("<f4").tobytes()).hexdigest()


def one_by_one(model: Llama) -> str:
    """Each sequence alone."""
    return hashed([model([tokens], model.cache(len(tokens))) for tokens in RECORDED])


def token_by_token(model: Llama) -> str:
    """One token of every sequence at a time, until each has ended."""
    cache = model.cache(max(map(len, RECORDED)), len(RECORDED))
    rows: list[list[np.ndarray]] = [[] for _ in RECORDED]
    for at in range(cache.capacity):
        batch = [tokens[at : at + 1] for tokens in RECORDED]
        logits = iter(model(batch, cache))
        for own, tokens in zip(rows, batch, strict=True):
            own += [next(logits)[None] for _ in tokens]
    return hashed([np.concatenate(own) for own in rows])


def in_pieces(model: Llama) -> str:
    """Three tokens, then two, then the rest, of one sequence after the other."""
    logits = []
    for tokens in RECORDED:
        cache = model.cache(len(tokens))
        logits += [model([piece], cache) for piece in (tokens[:3], tokens[3:5], tokens[5:]) if piece]
    return hashed(logits)


WAYS: list[Callable[[Llama], str]] = [digest, one_by_one, token_by_token, in_pieces]
