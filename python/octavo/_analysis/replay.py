"""Runs of a model with one layer quantized at a time, in which what comes before that layer is not computed again.

One run of the float model on a batch records the result of each layer's and array's product. A run with one of them
replaced then takes the results up to its first use from the record, because they cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._analysis.recording import HeldMatrix
from octavo._layers.matrix import QuantMatrix
from octavo._models import walk as tree
from octavo._quantize.batches import Forward
from octavo._quantize.targets import Target
from octavo._quantize.watching import running_copy

__all__ = ["Replay"]


class Replay:
    """The products of one batch in the order of calls.

    Args:
        model: the float model, which is left as it is.
        targets: its layers and arrays.
        forward: how to run it.
        batch: an input.

    Attributes:
        y: the float model's result.
    """

    def __init__(self, model: Any, targets: Sequence[Target], forward: Forward, batch: Any) -> None:
        self._model, self._targets, self._forward, self._batch = model, targets, forward, batch
        self._results: list[Any] = []
        self._first: dict[str, int] = {}
        self._limit, self._at, self._recording = 0, 0, True
        self.y = forward(tree.copy_with(model, self._stand_ins(targets)), batch)
        self._recording = False

    def reached(self, path: str) -> bool:
        """Whether the batch used it, in a product or otherwise."""
        return path in self._first

    def with_one(self, target: Target, new: Any) -> Any:
        """The model's result with `new` in the place of one layer or array."""
        if not self.reached(target.path):
            return self.y
        self._limit, self._at = self._first[target.path], 0
        others = [other for other in self._targets if other is not target]
        return self._forward(
            tree.copy_with(self._model, {**self._stand_ins(others), id(target.original): new}), self._batch
        )

    def _stand_ins(self, targets: Sequence[Target]) -> Mapping[int, Any]:
        return {
            id(t.original): _Layer(t, self) if t.spec is not None else _Matrix(t.original, t.path, self)
            for t in targets
        }

    def use(self, path: str) -> None:
        """Notes the first use of a layer or array."""
        if self._recording:
            self._first.setdefault(path, len(self._results))

    def product(self, path: str, compute: Callable[[], Any]) -> Any:
        """The result of a product: computed and kept, taken from the record, or computed."""
        self.use(path)
        if self._recording:
            y = compute()
            self._results.append(np.array(y) if isinstance(y, np.ndarray) else y)
            return y
        self._at += 1
        if self._at <= self._limit:
            kept = self._results[self._at - 1]
            return np.array(kept) if isinstance(kept, np.ndarray) else kept
        return compute()


class _Layer:
    """Stands in for a layer, of which it holds a copy: all but its call is the copy's own."""

    def __init__(self, target: Target, replay: Replay) -> None:
        assert target.spec is not None
        self._layer, self._method = running_copy(target), target.spec.call
        self._path, self._replay = target.path, replay

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._replay.product(self._path, lambda: self._layer(*args, **options))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_layer" not in self.__dict__:
            raise AttributeError(name)
        value = getattr(self._layer, name)
        if name in (self._method, "forward") and callable(value):
            return lambda *args, **options: self._replay.product(self._path, lambda: value(*args, **options))
        return value

    def __deepcopy__(self, memo: dict[int, Any]) -> _Layer:
        return self


class _Matrix(HeldMatrix):
    """Stands in for a float matrix."""

    __slots__ = ("_path", "_replay")

    def __init__(self, matrix: NDArray[Any] | QuantMatrix, path: str, replay: Replay) -> None:
        super().__init__(matrix)
        self._path, self._replay = path, replay

    def _values(self, use: str) -> NDArray[Any]:
        self._replay.use(self._path)
        return super()._values(use)

    def _transposed(self) -> _Matrix:
        return _Matrix(self._matrix.T, self._path, self._replay)

    def _times(self, a: NDArray[Any], out: NDArray[Any] | None) -> NDArray[Any]:
        y: NDArray[Any] = self._replay.product(self._path, lambda: np.matmul(a, self._matrix))
        return y

    def __getitem__(self, index: Any) -> Any:
        self._replay.use(self._path)
        return super().__getitem__(index)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Matrix:
        return self
