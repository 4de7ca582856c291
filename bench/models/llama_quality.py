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


def qualities(reference: Contender, contenders: dict[str, Contender], tokens: Array) -> dict[str, Quality]:
    """Over one sequence, a piece at a time, so that no more than a piece's logits are held."""
    sums = {name: np.zeros(3) for name in contenders}  # of the loss, KL, and how often both agree
    for one in {reference, *contenders.values()}:
        one.start(len(tokens))
    for start in range(0, len(tokens), AT_ONCE):
        piece, known = tokens[start : start + AT_ONCE].tolist(), tokens[start + 1 : start + AT_ONCE + 1]
        p = log_softmax(reference.logits(piece))
        probabilities, likeliest = np.exp(p), p.argmax(1)
        for name, contender in contenders.items():
            q = p if contender is reference else log_softmax(contender.logits(piece))
            loss = -q[np.arange(len(known)), known].sum()
            sums[name] += (loss, (probabilities * (p - q)).sum(), (likeliest == q.argmax(1)).sum())
    n = len(tokens)
    return {
        name: Quality(float(np.exp(loss / (n - 1))), float(kl / n), float(same / n))
        for name, (loss, kl, same) in sums.items()
    }
