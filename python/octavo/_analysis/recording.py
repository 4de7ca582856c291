"""RecordedMatrix: a matrix, float or quantized, that tells of its products while a model runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._layers.arrays.products import MatrixStandIn
from octavo._layers.matrix import QuantMatrix
from octavo._util.arrays import read_only

__all__ = ["HeldMatrix", "RecordedMatrix"]


class HeldMatrix(MatrixStandIn):
    """A stand-in that holds the matrix in whose place it is, and whose products are recorded.

    Args:
        matrix: the float array or the QuantMatrix.
    """

    __slots__ = ("_matrix",)

    _remedy = "its products are recorded; compute a new array (w + 1, not w += 1)"

    def __init__(self, matrix: NDArray[Any] | QuantMatrix) -> None:
        self._matrix = matrix

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self._matrix.shape
        return rows, columns

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._matrix.dtype

    def _values(self, use: str) -> NDArray[Any]:
        return read_only(np.array(self._matrix))

    def __getitem__(self, index: Any) -> Any:
        return self._matrix[index]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._matrix!r})"


class RecordedMatrix(HeldMatrix):
    """Stands where a matrix stood in a copy of its model; `after(x, y)` is called for each y = x @ matrix.

    Args:
        matrix: the float array or the QuantMatrix.
        after: given x and y as arrays. Products with the transpose, x @ matrix.T, are told of, too.

    Example:
        >>> import numpy as np
        >>> from octavo._analysis.recording import RecordedMatrix
        >>> np.float32([10, 20]) @ RecordedMatrix(np.float32([[1], [2]]), lambda x, y: print(x, y))
        [10. 20.] [50.]
        array([50.], dtype=float32)
    """

    __slots__ = ("_after",)

    def __init__(self, matrix: NDArray[Any] | QuantMatrix, after: Callable[[Any, Any], None]) -> None:
        super().__init__(matrix)
        self._after = after

    def _transposed(self) -> RecordedMatrix:
        return RecordedMatrix(self._matrix.T, self._after)

    def _times(self, a: NDArray[Any], out: NDArray[Any] | None) -> NDArray[Any]:
        y: NDArray[Any] = np.matmul(a, self._matrix)
        self._after(a, y)
        return y
