"""WatchedMatrix: lookups are the float array's, and counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from octavo._layers.watched import WatchedMatrix

IDS = np.array([[3, 1], [0, -1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("index", "rows"),
    [(IDS, 4), (IDS[0], 2), (2, 1), ((IDS, slice(1)), 4), ([0, 2], 2), (np.zeros(0, np.intp), 0), (slice(None), None)],
    ids=["batch", "ids", "one", "part", "list", "none", "all"],
)
def test_rows_are_those_of_the_array_and_counted(
    dtype: Any, axis: Any, transposed: bool, index: Any, rows: int | None
) -> None:
    w = np.random.default_rng(0).standard_normal((5, 4)).astype(dtype)
    looked_up: list[np.ndarray] = []
    matrix: Any = WatchedMatrix(w, axis, lambda x: None, looked_up=looked_up.append)
    array = w.T if axis else w
    if transposed:
        matrix, array = matrix.T, array.T
    found = matrix[index]
    np.testing.assert_array_equal(found, array[index])
    assert found.dtype == dtype
    assert sum(map(len, looked_up)) == (len(array) if rows is None else rows)
    looked_up.clear()
    np.testing.assert_array_equal(matrix + 1, array + 1)
    np.testing.assert_array_equal(np.concatenate(looked_up), np.arange(len(array)))
