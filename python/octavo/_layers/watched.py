"""WatchedMatrix: a float matrix that tells what it multiplies, for calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo._layers.arrays.products import MatrixStandIn
from octavo._layers.arrays.rows_first import rows_first
from octavo._util.arrays import read_only

__all__ = ["WatchedMatrix"]


class WatchedMatrix(MatrixStandIn):
    """Replaces a float matrix while a model runs; `before` is given x of each product x @ Q that it watches.

    Args:
        w: (outputs, inputs), as a layer has it.
        axis: that of the outputs, as for `QuantMatrix`: with 1 the matrix is w.T and x @ Q is watched, with 0 it is w,
            and x @ Q.T is.
        before: called with x (..., inputs) as an array.
        after: given what `before` returned and the product; what it returns takes its place.
        looked_up: given the indices of rows whenever some are looked up, Q[ids]; of all, where the values are used
            otherwise than in a product that is watched.

    Example:
        >>> import numpy as np
        >>> Q = WatchedMatrix(np.float32([[1, 2]]), 1, before=print)
        >>> np.float32([10, 20]) @ Q
        [10. 20.]
        array([50.], dtype=float32)
    """

    __slots__ = ("_after", "_axis", "_before", "_looked_up", "_w")

    _remedy = "calibration looks at its products; compute a new array (w + 1, not w += 1)"

    def __init__(
        self,
        w: NDArray[Any],
        axis: Literal[0, 1],
        before: Callable[[Any], Any],
        after: Callable[[Any, NDArray[Any]], NDArray[Any]] = lambda kept, y: y,
        looked_up: Callable[[NDArray[np.int64]], object] = lambda ids: None,
    ) -> None:
        self._w, self._axis, self._before, self._after, self._looked_up = w, axis, before, after, looked_up

    @property
    def shape(self) -> tuple[int, int]:
        n, k = self._w.shape
        return (k, n) if self._axis else (n, k)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._w.dtype

    def _values(self, use: str) -> NDArray[Any]:
        self._looked_up(np.arange(self.shape[0]))
        return read_only(np.array(self._w.T if self._axis else self._w, order="C"))

    def _transposed(self) -> WatchedMatrix:
        return WatchedMatrix(self._w, 0 if self._axis else 1, self._before, self._after, self._looked_up)

    def __getitem__(self, index: Any) -> Any:
        return rows_first(index, self.shape, self._rows)

    def _rows(self, ids: NDArray[np.int64] | None) -> NDArray[Any]:
        """Those rows, in a new array; None: all of them."""
        if ids is None:
            return np.array(self._values("[]"))
        self._looked_up(ids)
        return (self._w.T if self._axis else self._w)[ids]

    def _times(self, a: NDArray[Any], out: NDArray[Any] | None) -> NDArray[Any]:
        if not self._axis:
            y: NDArray[Any] = np.matmul(a, self._w)
            return y
        kept = self._before(a)
        return self._after(kept, np.matmul(a, self._w.T))

    def __repr__(self) -> str:
        return f"WatchedMatrix({self.shape[0]} x {self.shape[1]}, {self.dtype})"
