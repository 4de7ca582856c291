"""How near a contender is to the same weights in float32, on docstrings of the standard library."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.models.llama_contenders import Contender, tokenizer_of

Array = NDArray[Any]

MODULES = ["heapq", "textwrap", "statistics", "bisect", "difflib", "shutil", "functools", "json", "string", "random"]
AT_ONCE = 128


class Quality(NamedTuple):
    """Over all positions: exp(loss), KL(float32 || contender) in nats, how often both find one token likeliest."""

    perplexity: float
    kl: float
    top1: float


def docstrings(metadata: dict[str, Any], count: int) -> Array:
    """The first tokens of the docstrings of some modules and of what they define, in the order of the source."""
    texts = []
    for name in MODULES:
        module = importlib.import_module(name)
        own = [thing for thing in vars(module).values() if getattr(thing, "__module__", None) == name]
        texts += [text for thing in [module, *own] if (text := inspect.getdoc(thing))]
    ids = np.array(tokenizer_of(metadata).encode("\n\n".join(texts)).ids)
    if len(ids) < count:
        raise ValueError(f"the text has {len(ids)} tokens, {count} were asked for")
    return ids[:count]


def log_softmax(logits: Array) -> Array:
    """In float64, along the last axis."""
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def quality(reference: Contender, contender: Contender, tokens: Array) -> Quality:
    """Over one sequence, a piece at a time, so that no more than a piece's logits are held."""
    kl, loss, same = 0.0, 0.0, 0
    for one in (reference, contender):
        one.start(len(tokens))
    for start in range(0, len(tokens), AT_ONCE):
        piece = tokens[start : start + AT_ONCE].tolist()
        p, q = (log_softmax(one.logits(piece)) for one in (reference, contender))
        kl += float((np.exp(p) * (p - q)).sum())
        same += int((p.argmax(1) == q.argmax(1)).sum())
        known = tokens[start + 1 : start + AT_ONCE + 1]
        loss -= float(q[np.arange(len(known)), known].sum())
    return Quality(float(np.exp(loss / (len(tokens) - 1))), kl / len(tokens), same / len(tokens))
