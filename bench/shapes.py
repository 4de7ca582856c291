"""The layers that the benchmarks measure, and their contenders."""

from __future__ import annotations

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
        w_in_out, x, b = np.ascontiguousarray(self.weight.T), self.x, self.bias
        symmetric = oc.QuantLinear(self.weight, b)
        asymmetric = oc.QuantLinear(self.weight, b, activation="asymmetric")
        return {
            "numpy-float32": lambda: x @ w_in_out + b,
            "octavo-int8": lambda: symmetric(x),
            "octavo-int8-asymmetric": lambda: asymmetric(x),
        }
