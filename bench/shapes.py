"""The layers that the benchmarks measure, and their contenders."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import octavo as oc

# M x K x N of x (M, K) times W (K, N): a tiny layer, BERT-base's layers, Llama-7B's.
SHAPES = [
    (1, 64, 32),
    (1, 768, 768),
    (1, 4096, 4096),
    (4, 768, 3072),
    (16, 768, 3072),
    (32, 768, 768),
    (128, 768, 3072),
    (512, 768, 3072),
    (512, 3072, 768),
    (512, 4096, 4096),
]

# K x N of the layers of BERT-base and of Llama-7B, and the batches of both.
BERT_LAYERS = [(768, 768), (768, 3072), (3072, 768)]
LLAMA_LAYERS = [(4096, 4096), (4096, 11008), (11008, 4096)]
ROWS = [1, 4, 16, 32, 64, 128, 512, 2048]
GRID = [(m, k, n) for k, n in BERT_LAYERS + LLAMA_LAYERS for m in ROWS]

SETS = {
    "short": SHAPES,
    "bert": [(m, k, n) for k, n in BERT_LAYERS for m in ROWS],
    "llama": [(m, k, n) for k, n in LLAMA_LAYERS for m in ROWS],
    "grid": [(1, 64, 32), *GRID],
}

HAS_INT4 = "group_size" in inspect.signature(oc.QuantLinear).parameters


def shape_name(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


def parse_shapes(words: list[str]) -> list[tuple[int, int, int]]:
    """Names of sets and shapes written MxKxN, in the order given, each shape once."""
    shapes: list[tuple[int, int, int]] = []
    for word in words:
        if word in SETS:
            shapes += SETS[word]
            continue
        sizes = word.split("x")
        if len(sizes) != 3 or not all(size.isdigit() and int(size) > 0 for size in sizes):
            raise ValueError(f"a shape is MxKxN or one of {', '.join(SETS)}, got {word!r}")
        m, k, n = map(int, sizes)
        shapes.append((m, k, n))
    return list(dict.fromkeys(shapes))


@dataclass(frozen=True)
class Case:
    """One layer with its input. The float layer holds W as (in, out), contiguous: NumPy's fastest order."""

    x: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def random(cls, m: int, k: int, n: int) -> Case:
        rng = np.random.default_rng(m * k + n)
        return cls(
            rng.standard_normal((m, k), dtype=np.float32),
            rng.standard_normal((n, k), dtype=np.float32) / np.float32(k**0.5),
            rng.standard_normal(n, dtype=np.float32),
        )

    @property
    def name(self) -> str:
        return f"{self.x.shape[0]}x{self.x.shape[1]}x{self.weight.shape[0]}"

    @property
    def operations(self) -> int:
        return 2 * self.x.size * self.weight.shape[0]

    def expected(self) -> NDArray[np.float64]:
        return self.x.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias

    def tolerance(self) -> float:
        """Both operands rounded to 8 bits: outputs of unit variance, errors of about 0.01."""
        return 0.1

    def contenders(self) -> dict[str, Callable[[], NDArray[np.float32]]]:
        return {name: make() for name, make in self.makers().items()}

    def makers(self) -> dict[str, Callable[[], Callable[[], NDArray[np.float32]]]]:
        """Name to a function that builds the layer and returns its call."""

        def numpy_float32() -> Callable[[], NDArray[np.float32]]:
            w_in_out = np.ascontiguousarray(self.weight.T)
            return lambda: self.x @ w_in_out + self.bias

        def layer(**options: str) -> Callable[[], NDArray[np.float32]]:
            quantized = oc.QuantLinear(self.weight, self.bias, **options)
            return lambda: quantized(self.x)

        return {
            "numpy-float32": numpy_float32,
            "octavo-int8": layer,
            "octavo-int8-asymmetric": lambda: layer(activation="asymmetric"),
        }
