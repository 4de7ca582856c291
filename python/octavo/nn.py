"""Small float layers, for models that have none of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Linear", "ReLU", "Sequential", "Sigmoid"]


class Linear:
    """y = x W^T + b.

    Args:
        weight: W (out_features, in_features), float; kept as given.
        bias: b (out_features,) or None.

    Raises:
        ValueError: weight is not 2-D, or bias does not fit it.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.nn.Linear(np.float32([[1, 2]]), np.float32([3]))(np.float32([[10, 20]]))
        array([[53.]], dtype=float32)
    """

    def __init__(self, weight: ArrayLike, bias: ArrayLike | None = None) -> None:
        self.weight = np.asarray(weight)
        self.bias = None if bias is None else np.asarray(bias)
        if self.weight.ndim != 2:
            raise ValueError(f"weight must be 2-D (out, in), got shape {self.weight.shape}")
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ValueError(f"bias must have shape ({self.weight.shape[0]},), got {self.bias.shape}")

    @classmethod
    def init(
        cls, in_features: int, out_features: int, *, bias: bool = True, rng: np.random.Generator | None = None
    ) -> Linear:
        """A float32 layer with weights and biases drawn from U(-1/sqrt(in), 1/sqrt(in)), as torch.nn.Linear's."""
        rng = np.random.default_rng() if rng is None else rng
        bound = 1 / np.sqrt(max(in_features, 1))
        weight = rng.uniform(-bound, bound, (out_features, in_features)).astype(np.float32)
        return cls(weight, rng.uniform(-bound, bound, out_features).astype(np.float32) if bias else None)

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        y: NDArray[Any] = x @ self.weight.T
        return y if self.bias is None else y + self.bias

    def __repr__(self) -> str:
        out_features, in_features = self.weight.shape
        return f"Linear({in_features} -> {out_features}{'' if self.bias is None else ', bias'})"


class ReLU:
    """y = max(x, 0); NaN stays NaN."""

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        y: NDArray[Any] = np.maximum(x, x.dtype.type(0))
        return y

    def __repr__(self) -> str:
        return "ReLU()"


class Sigmoid:
    """y = 1 / (1 + exp(-x)), without overflow: exp is taken of -|x|."""

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(under="ignore"):
            e = np.exp(-np.abs(x))
            y: NDArray[Any] = np.where(x < 0, e, 1) / (1 + e)
        return y.astype(x.dtype, copy=False) if x.dtype.kind == "f" else y

    def __repr__(self) -> str:
        return "Sigmoid()"


class Sequential:
    """y = layers[-1](... layers[0](x)).

    Example:
        >>> import numpy as np, octavo as oc
        >>> model = oc.nn.Sequential(oc.nn.Linear.init(4, 3), oc.nn.ReLU())
        >>> model
        Sequential(Linear(4 -> 3, bias), ReLU())
        >>> oc.quantize_dynamic(model, {oc.nn.Linear})
        Sequential(QuantLinear(4 -> 3, int8, activation=symmetric, bias), ReLU())
    """

    def __init__(self, *layers: Callable[[Any], Any]) -> None:
        self.layers = list(layers)

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def __iter__(self) -> Iterator[Callable[[Any], Any]]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Callable[[Any], Any]:
        return self.layers[index]

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"
