"""Linear layers, activations, embeddings and their sequence: float layers that autograd can differentiate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo._numerics.checks import check_inputs
from octavo._util.arrays import is_traced
from octavo._util.floating import quiet
from octavo._util.foreign import as_array, is_real, not_real
from octavo.nn._recurrent_base import as_float

__all__ = ["Embedding", "Linear", "ReLU", "Sequential", "Sigmoid"]


class Linear:
    """y = x W^T + b.

    Args:
        weight: W (out_features, in_features). Float arrays are kept as they are, not copied; all else becomes float32.
        bias: b (out_features,), likewise, or None.

    Raises:
        TypeError: weight or bias is not real numbers.
        ValueError: weight is not 2-D, or bias does not fit it.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.nn.Linear(np.float32([[1, 2]]), np.float32([3]))(np.float32([[10, 20]]))
        array([[53.]], dtype=float32)
    """

    def __init__(self, weight: ArrayLike, bias: ArrayLike | None = None) -> None:
        self.weight = as_float("weight", weight)
        self.bias = None if bias is None else as_float("bias", bias)
        if self.weight.ndim != 2:
            raise ValueError(f"weight must be 2-D (out, in), got shape {self.weight.shape}")
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            expected = self.weight.shape[:1]
            raise ValueError(f"bias must have shape {expected} to fit the weight, got {self.bias.shape}")

    @classmethod
    def init(
        cls, in_features: int, out_features: int, *, bias: bool = True, rng: np.random.Generator | None = None
    ) -> Linear:
        """A float32 layer with weights and biases drawn from U(-1/sqrt(in), 1/sqrt(in)), as torch.nn.Linear's.

        Args:
            in_features, out_features: at least 0.
            bias: whether the layer has one.
            rng: where the numbers come from; None: a generator of its own, different each time.

        Raises:
            ValueError: a size is negative.

        Example:
            >>> import numpy as np, octavo as oc
            >>> oc.nn.Linear.init(4, 3, rng=np.random.default_rng(0))
            Linear(4 -> 3, bias)
        """
        if in_features < 0 or out_features < 0:
            raise ValueError(f"sizes must be at least 0, got in_features={in_features}, out_features={out_features}")
        rng = np.random.default_rng() if rng is None else rng
        bound = 1 / np.sqrt(max(in_features, 1))
        weight = rng.uniform(-bound, bound, (out_features, in_features)).astype(np.float32)
        return cls(weight, rng.uniform(-bound, bound, out_features).astype(np.float32) if bias else None)

    @quiet
    def __call__(self, x: ArrayLike) -> NDArray[Any]:
        """x (..., in_features) -> y (..., out_features), in NumPy's common type of x, W and b."""
        a: Any = x if is_traced(x) else _as_numbers(x)
        check_inputs(a.shape, self.weight.shape)
        y: NDArray[Any] = a @ self.weight.T
        return y if self.bias is None else y + self.bias

    def __repr__(self) -> str:
        out_features, in_features = self.weight.shape
        return f"Linear({in_features} -> {out_features}{'' if self.bias is None else ', bias'})"


class ReLU:
    """y = max(x, 0); NaN stays NaN.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.nn.ReLU()([-1.0, np.nan, 2.0])
        array([ 0., nan,  2.])
    """

    @quiet
    def __call__(self, x: ArrayLike) -> NDArray[Any]:
        if is_traced(x):
            from octavo.nn import _gradients

            traced: NDArray[Any] = _gradients.relu(x)
            return traced
        y: NDArray[Any] = np.maximum(x, 0)
        return y

    def __repr__(self) -> str:
        return "ReLU()"


class Sigmoid:
    """y = 1 / (1 + exp(-x)), computed as exp(-|x|)/(1 + exp(-|x|)) for x < 0, so that nothing overflows.

    Floats give their own type, integers and bool float32.

    Example:
        >>> import octavo as oc
        >>> oc.nn.Sigmoid()([-1e4, 0.0, 1e4])
        array([0. , 0.5, 1. ])
    """

    @quiet
    def __call__(self, x: ArrayLike) -> NDArray[Any]:
        if is_traced(x):
            from octavo.nn import _gradients

            traced: NDArray[Any] = _gradients.sigmoid(x)
            return traced
        a = as_float("x", x)
        e = np.exp(-np.abs(a))
        y: NDArray[Any] = np.where(a < 0, e, 1) / (1 + e)
        return y.astype(e.dtype, copy=False)

    def __repr__(self) -> str:
        return "Sigmoid()"


class Sequential:
    """y = layers[-1](... layers[0](x)).

    Args:
        layers: callables of one argument.

    Raises:
        TypeError: one is not callable.

    Example:
        >>> import numpy as np, octavo as oc
        >>> model = oc.nn.Sequential(oc.nn.Linear.init(4, 3), oc.nn.ReLU())
        >>> model
        Sequential(Linear(4 -> 3, bias), ReLU())
        >>> oc.quantize_dynamic(model, {oc.nn.Linear})
        Sequential(QuantLinear(4 -> 3, int8, activation=symmetric, bias), ReLU())
    """

    def __init__(self, *layers: Callable[[Any], Any]) -> None:
        for i, layer in enumerate(layers):
            if not callable(layer):
                raise TypeError(f"layers must be callable, got {type(layer).__name__} at position {i}")
        self.layers = list(layers)

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def __iter__(self) -> Iterator[Callable[[Any], Any]]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> Callable[[Any], Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Callable[[Any], Any] | Sequential:
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"


class Embedding:
    """y = weight[ids].

    Args:
        weight: (num_embeddings, embedding_dim). Float arrays are kept as they are, not copied; all else becomes
            float32.

    Raises:
        TypeError: weight is not real numbers.
        ValueError: weight is not 2-D.

    Example:
        >>> import numpy as np, octavo as oc
        >>> oc.nn.Embedding(np.float32([[1, 2], [3, 4]]))([1, 0, 1])
        array([[3., 4.],
               [1., 2.],
               [3., 4.]], dtype=float32)
    """

    def __init__(self, weight: ArrayLike) -> None:
        self.weight = as_float("weight", weight)
        if self.weight.ndim != 2:
            raise ValueError(f"weight must be 2-D (num_embeddings, embedding_dim), got shape {self.weight.shape}")

    @classmethod
    def init(cls, num_embeddings: int, embedding_dim: int, *, rng: np.random.Generator | None = None) -> Embedding:
        """A float32 layer with weights drawn from N(0, 1), as torch.nn.Embedding's.

        Args:
            num_embeddings, embedding_dim: at least 0.
            rng: where the numbers come from; None: a generator of its own, different each time.

        Raises:
            ValueError: a size is negative.

        Example:
            >>> import octavo as oc
            >>> oc.nn.Embedding.init(10, 3)
            Embedding(10, 3)
        """
        if num_embeddings < 0 or embedding_dim < 0:
            raise ValueError(
                f"sizes must be at least 0, got num_embeddings={num_embeddings}, embedding_dim={embedding_dim}"
            )
        rng = np.random.default_rng() if rng is None else rng
        return cls(rng.standard_normal((num_embeddings, embedding_dim), dtype=np.float32))

    def __call__(self, ids: ArrayLike) -> NDArray[Any]:
        """ids (...), integers from 0 to num_embeddings - 1 -> (..., embedding_dim), a copy."""
        y: NDArray[Any] = self.weight[as_ids(ids, self.weight.shape[0])]
        return y

    def __repr__(self) -> str:
        return f"Embedding({self.weight.shape[0]}, {self.weight.shape[1]})"


def _as_numbers(x: ArrayLike) -> NDArray[Any]:
    """x as an array of any of NumPy's numbers."""
    a = as_array(x, "x")
    if a.dtype.kind not in "fiubc" and not is_real(a.dtype):
        raise TypeError(not_real(x, a.dtype, "x"))
    return a


def as_ids(ids: ArrayLike, count: int) -> NDArray[np.integer[Any]]:
    """ids as an integer array, each from 0 to count - 1.

    Raises:
        TypeError: ids are not integers.
        IndexError: one is negative or at least count; it and its place are named.

    Example:
        >>> from octavo.nn._layers import as_ids
        >>> as_ids([2, 0], 3)
        array([2, 0])
    """
    a = as_array(ids, "ids")
    if a.size == 0:
        return a.astype(np.intp)
    if a.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, got dtype {a.dtype}; use ids.astype(int)")
    if int(a.min()) < 0 or int(a.max()) >= count:
        at = tuple(int(i) for i in np.argwhere((a < 0) | (a >= count))[0])
        raise IndexError(f"ids must be from 0 to {count - 1}, got {a[at]} at index {at}")
    return a
