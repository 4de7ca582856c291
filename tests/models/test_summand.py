"""Results that tell what they are added to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from octavo._models.summand import Summand, as_summand

F = np.float32
Y = np.arange(12, dtype=F).reshape(3, 4)
X = np.full((3, 4), 100, F)
BIAS = np.arange(4, dtype=F)


def in_place(y: np.ndarray) -> np.ndarray:
    x = X.copy()
    x += y
    return x


def in_place_with_bias(y: np.ndarray) -> np.ndarray:
    y += BIAS
    return in_place(y)


SUMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "right": lambda y: X + y,
    "left": lambda y: y + X,
    "in place": in_place,
    "with a bias": lambda y: X + (y + BIAS),
    "with a bias in place": in_place_with_bias,
    "np.add with out": lambda y: np.add(y, X, out=np.empty_like(X)),
    "reshaped": lambda y: (X.reshape(1, 3, 4) + y.reshape(1, 3, 4)).reshape(3, 4),
}


@pytest.mark.parametrize("add", SUMS.values(), ids=SUMS)
def test_what_a_result_is_added_to_is_told(add: Callable[[np.ndarray], np.ndarray]) -> None:
    told: list[np.ndarray] = []
    y = add(as_summand(Y.copy(), told.append))
    assert len(told) == 1
    np.testing.assert_array_equal(told[0].reshape(3, 4), X)
    np.testing.assert_array_equal(y, add(Y.copy()))
    assert type(y) is np.ndarray


def squared_in_place(y: np.ndarray) -> np.ndarray:
    y *= y
    return X + y


OTHERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a function of it": lambda y: X + np.tanh(y),
    "changed in place": squared_in_place,
    "a part": lambda y: X[:, :2] + y[:, :2],
    "transposed": lambda y: X.T + y.T,
    "subtracted": lambda y: X - y,
    "itself": lambda y: y + y,
    "a bias alone": lambda y: y + BIAS,
    "a number": lambda y: y + 1,
    "a product": lambda y: y @ X.T,
    "joined": lambda y: np.concatenate([y, X]),
    "empty": lambda y: y[:0] + X[:0],
}


@pytest.mark.parametrize("use", OTHERS.values(), ids=OTHERS)
def test_nothing_is_told_of_other_uses(use: Callable[[np.ndarray], np.ndarray]) -> None:
    told: list[np.ndarray] = []
    y = use(as_summand(Y.copy(), told.append))
    assert not told
    np.testing.assert_array_equal(y, use(Y.copy()))


def test_only_the_first_sum_is_told() -> None:
    told: list[np.ndarray] = []
    y = as_summand(Y.copy(), told.append)
    _ = X + y, 2 * X + y
    assert len(told) == 1


def test_what_is_told_is_a_copy() -> None:
    told: list[np.ndarray] = []
    x = X.copy()
    x += as_summand(Y.copy(), told.append)
    np.testing.assert_array_equal(told[0], X)


def test_sums_of_two_results_tell_both() -> None:
    told: list[np.ndarray] = []
    y = as_summand(Y.copy(), told.append) + as_summand(X.copy(), told.append)
    np.testing.assert_array_equal(told[0], X)
    np.testing.assert_array_equal(told[1], Y)
    np.testing.assert_array_equal(y, X + Y)
    assert not any(isinstance(a, Summand) for a in told)
