"""Who runs the language model: octavo's example, the same in float32 under NumPy and PyTorch, and llama.cpp."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from llama import Llama
from llama_text import tokenizer_of as tokenizer_of

Array = NDArray[Any]

ACTIVATIONS: dict[str, dict[str, Any]] = {
    "octavo": {},
    "octavo, int16 rows": {"activation": "int16"},
    "octavo, groups of 64": {"activation_group": 64},
    "octavo, groups of 128": {"activation_group": 128},
    "octavo, int8 rows": {"activation_group": None},
    "octavo, asymmetric rows": {"activation": "asymmetric"},
}
NUMPY, LLAMA_CPP, TORCH = "NumPy float32", "llama.cpp", "torch float32"
DEFAULT = ["octavo", "octavo, int16 rows", LLAMA_CPP, TORCH, NUMPY]


class Contender(ABC):
    """One sequence, that begins with `start` and is continued by `extend` or `logits`."""

    weights: int  # bytes

    @abstractmethod
    def start(self, length: int) -> None:
        """Forgets the sequence; the next one has at most that many tokens."""

    def begin(self) -> None:  # noqa: B027 - most have nothing to do
        """Time counts from here on."""

    @abstractmethod
    def extend(self, tokens: Sequence[int]) -> Array:
        """The logits behind the last of these tokens."""

    @abstractmethod
    def logits(self, tokens: Sequence[int]) -> Array:
        """Those behind every one: (tokens, vocabulary)."""


class Octavo(Contender):
    def __init__(self, path: str, threads: int, **options: Any) -> None:
        self.model, self.clock = Llama(path, **options), Clock()
        arrays = [self.model.embedding, self.model.norm, *(w for layer in self.model.layers for w in layer.values())]
        self.weights = sum(a.nbytes for a in arrays)

    def start(self, length: int) -> None:
        self.cache = self.model.cache(length)

    def begin(self) -> None:
        self.clock.seconds = 0.0

    def extend(self, tokens: Sequence[int]) -> Array:
        return self.model([tokens], self.cache, last=True)

    def logits(self, tokens: Sequence[int]) -> Array:
        return self.model([tokens], self.cache)

    def split(self) -> Clock:
        """The clock of the products, which is set to 0 whenever time begins to count."""
        self.clock = Clock()
        for layer in self.model.layers:
            layer |= {name: Timed(w, self.clock) for name, w in layer.items() if w.ndim == 2}
        self.model.head = Timed(self.model.head, self.clock)
        return self.clock


class Clock:
    seconds = 0.0


class Timed:
    """A matrix that counts what x @ matrix takes."""

    __array_ufunc__ = None

    def __init__(self, matrix: Any, clock: Clock) -> None:
        self.matrix, self.clock = matrix, clock

    def __rmatmul__(self, x: Array) -> Array:
        start = time.perf_counter()
        y: Array = x @ self.matrix
        self.clock.seconds += time.perf_counter() - start
        return y


class LlamaCpp(Contender):
    """The library's own loop: tokens go in, logits stay where llama.cpp puts them, so Python costs it nothing."""

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self.api, self.path, self.threads = llama_cpp, path, threads
        self.weights = 0
        self._open(2048, every=False)

    def _open(self, length: int, *, every: bool) -> None:
        self.every = every
        self.model = self.api.Llama(
            self.path, n_ctx=length, n_batch=512, n_ubatch=512, n_threads=self.threads, n_threads_batch=self.threads,
            logits_all=every, verbose=False,
        )  # fmt: skip
        self.context = self.model.ctx

    def start(self, length: int) -> None:
        self.model.reset()
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def extend(self, tokens: Sequence[int]) -> Array:
        ids = (self.api.llama_token * len(tokens))(*tokens)
        if self.api.llama_decode(self.context, self.api.llama_batch_get_one(ids, len(tokens))):
            raise RuntimeError("llama_decode failed")
        found = self.api.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(found, shape=(1, self.model.n_vocab()))

    def logits(self, tokens: Sequence[int]) -> Array:
        if not self.every:
            self._open(2048, every=True)
        first = self.model.n_tokens
        self.model.eval(list(tokens))
        return np.array(self.model.scores[first : first + len(tokens)])


class Torch(Contender):
    """The same model in torch's own functions, as one writes it there: float32, fused attention, keys in one tensor."""

    def __init__(self, path: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        model = Llama(path, float32=True)
        self.model = model
        self.layers = [{name: torch.from_numpy(np.ascontiguousarray(w.T)) for name, w in layer.items()}
                       for layer in model.layers]  # fmt: skip
        self.embedding = torch.from_numpy(model.embedding)
        self.norm = torch.from_numpy(model.norm)
        self.weights = sum(w.nbytes for layer in self.layers for w in layer.values()) + self.embedding.nbytes
        self.model.layers, self.model.embedding, self.model.head = [], None, None

    def start(self, length: int) -> None:
        shape = (2, len(self.layers), 1, self.model.kv_heads, length, self.model.size)
        self.keys, self.values = self.torch.empty(shape)
        self.past = 0

    def _rotated(self, x: Any, angles: Any) -> Any:
        turned = self.torch.view_as_complex(x.unflatten(-1, (-1, 2))) * angles[:, None]
        return self.torch.view_as_real(turned).flatten(-2).transpose(0, 1)[None]

    def _hidden(self, tokens: Sequence[int]) -> Any:
        f, model, n = self.torch.nn.functional, self.model, len(tokens)
        x = self.embedding[self.torch.tensor(list(tokens))]
        width, end = self.norm.shape, self.past + n
        cos, sin = (self.torch.from_numpy(np.ascontiguousarray(a[self.past : end])) for a in (model.cos, model.sin))
        angles = self.torch.complex(cos, sin)
        mask = None
        if n > 1 and self.past:
            mask = self.torch.ones(n, end, dtype=self.torch.bool).tril(self.past)
        for layer, keys, values in zip(self.layers, self.keys, self.values, strict=True):
            qkv = f.linear(f.rms_norm(x, width, layer["attn_norm"], model.eps), layer["qkv"]).view(n, -1, model.size)
            q, k, v = qkv.split([model.heads, model.kv_heads, model.kv_heads], dim=1)
            keys[:, :, self.past : end] = self._rotated(k, angles)
            values[:, :, self.past : end] = v.transpose(0, 1)
            mixed = f.scaled_dot_product_attention(
                self._rotated(q, angles), keys[:, :, :end], values[:, :, :end],
                attn_mask=mask, is_causal=n > 1 and mask is None, enable_gqa=True,
            )  # fmt: skip
            x = x + f.linear(mixed[0].transpose(0, 1).reshape(n, -1), layer["attn_output"])
            gate, up = f.linear(f.rms_norm(x, width, layer["ffn_norm"], model.eps), layer["gate_up"]).chunk(2, dim=1)
            x = x + f.linear(f.silu(gate) * up, layer["ffn_down"])
        self.past = end
        return f.rms_norm(x, width, self.norm, model.eps)

    def extend(self, tokens: Sequence[int]) -> Array:
        return self.torch.nn.functional.linear(self._hidden(tokens)[-1:], self.embedding).numpy()

    def logits(self, tokens: Sequence[int]) -> Array:
        return self.torch.nn.functional.linear(self._hidden(tokens), self.embedding).numpy()


LIBRARIES = {LLAMA_CPP: "llama_cpp", TORCH: "torch"}


def available(names: Sequence[str]) -> dict[str, Callable[[str, int], Contender]]:
    """Those whose library is here; of the others a line says that they are left out."""
    found: dict[str, Callable[[str, int], Contender]] = {}
    for name in names:
        if name in LIBRARIES and importlib.util.find_spec(LIBRARIES[name]) is None:
            print(f"{name} is left out: {LIBRARIES[name]} is not installed")
        else:
            found[name] = maker(name)
    return found


def import_library(name: str) -> None:
    """What the contender needs, without the model."""
    if name in LIBRARIES:
        importlib.import_module(LIBRARIES[name])


def maker(name: str) -> Callable[[str, int], Contender]:
    if name == LLAMA_CPP:
        return LlamaCpp
    if name == TORCH:
        return Torch
    options = {"float32": True} if name == NUMPY else ACTIVATIONS[name]
    return lambda path, threads: Octavo(path, threads, **options)
