"""dot, inner, vecdot, tensordot and matrix_power of integers against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

import octavo as oc
from integer_values import TYPES, integers

SHAPES = [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((2, 5, 3), (3, 4)), ((2, 3), (5, 3, 4)),
          ((2, 6, 3), (5, 3, 4)), ((), (3,)), ((2, 3), ()), ((), ()), ((0, 3), (3, 2)), ((2, 0), (0, 3)),
          ((2, 2, 0), (3, 0, 2))]  # fmt: skip


def same(y: object, expected: np.ndarray) -> None:
    assert (type(y), y.dtype, y.shape) == (type(expected), expected.dtype, expected.shape)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: t.__name__)
def test_dot_equals_numpy(dtype: type, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    a, b = (np.asarray(integers(rng, shape or (1,), dtype, "full")).reshape(shape) for shape in shapes)
    same(oc.dot(a, b), np.dot(a, b))
    if a.ndim and b.ndim:
        out = np.zeros(np.dot(a, b).shape, dtype)
        assert oc.dot(a, b, out) is out
        np.testing.assert_array_equal(out, np.dot(a, b))


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((2, 3), (4, 3)), ((2, 5, 3), (4, 3)), ((3,), (5, 4, 3)),
                                    ((), (2, 3)), ((2, 0), (3, 0))], ids=str)  # fmt: skip
def test_inner_equals_numpy(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-(2**62), 2**62, shape) for shape in shapes)
    same(oc.inner(a, b), np.inner(a, b))


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((2, 3), (3,)), ((2, 1, 3), (4, 3)), ((5, 0), (5, 0))], ids=str)
def test_vecdot_equals_numpy(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.integers(-(2**62), 2**62, shape) for shape in shapes)
    same(oc.vecdot(a, b), (a * b).sum(-1))


def test_vecdot_takes_another_axis() -> None:
    a = np.arange(24).reshape(2, 3, 4)
    same(oc.vecdot(a, a, axis=1), (a * a).sum(1))
    same(oc.vecdot(a.astype(np.int8), a.astype(np.int8), axis=0, dtype=np.int32), (a * a).sum(0).astype(np.int32))


@pytest.mark.parametrize("axes", [0, 1, 2, (1, 0), ([1, 2], [0, 1]), ([-1, 1], [1, 0]), ([2], [-2])], ids=str)
def test_tensordot_equals_numpy(axes: object) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(-(2**62), 2**62, (2, 4, 4)), rng.integers(-(2**62), 2**62, (4, 4, 3))
    same(oc.tensordot(a, b, axes), np.tensordot(a, b, axes))


@pytest.mark.parametrize("axes", [3, ([0, 1, 2], [2, 1, 0])], ids=str)
def test_tensordot_over_all_axes_is_an_array_without_dimensions(axes: object) -> None:
    a = np.arange(27, dtype=np.int32).reshape(3, 3, 3)
    same(oc.tensordot(a, a, axes), np.tensordot(a, a, axes))


@pytest.mark.parametrize(
    "axes",
    [
        np.array(2),
        np.int8(1),
        np.array([1, 0]),
        np.array([[1, 2], [0, 1]]),
        (np.array([1, 2]), [0, 1]),
    ],
    ids=repr,
)
def test_tensordot_takes_axes_in_arrays(axes: object) -> None:
    a, b = np.arange(32).reshape(2, 4, 4), np.arange(48).reshape(4, 4, 3)
    same(oc.tensordot(a, b, axes), np.tensordot(a, b, axes))


@pytest.mark.parametrize(
    ("shapes", "axis", "message"),
    [(((), (3,)), -1, r"a must have an axis -1, got shape \(\)"),
     (((2, 3), (3,)), 0, r"of equal length along axis 0, got shapes \(2, 3\) and \(3,\)"),
     (((2, 3), (3,)), 1, r"b must have an axis 1, got shape \(3,\)"),
     (((2, 3), (4, 3)), -1, r"broadcastable beside axis -1, got there shapes \(2,\) and \(4,\)")],
    ids=str,
)  # fmt: skip
def test_vecdot_shapes_that_do_not_fit_are_refused(
    shapes: tuple[tuple[int, ...], ...], axis: int, message: str
) -> None:
    a, b = (np.ones(shape, int) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        oc.vecdot(a, b, axis=axis)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (4, "0 to 3"),
        ([[0, 0], [0, 1]], "differ"),
        (([0], [2]), "equal lengths"),
        ((5, 0), "-3..2"),
        (([0], [1], [2]), "axes of a and axes of b"),
        (np.array([5, 0]), "-3..2"),
    ],
    ids=str,
)
def test_tensordot_axes_that_do_not_fit_are_refused(axes: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oc.tensordot(np.ones((2, 4, 4), int), np.ones((4, 4, 3), int), axes)


def test_operands_of_other_kinds_are_refused_by_name() -> None:
    packed = oc.PackedInteger(np.ones((3, 3), int))
    for product in (oc.dot, oc.inner, oc.vecdot, oc.tensordot):
        with pytest.raises(TypeError, match=r"b must be .* integers or bool, got PackedInteger of dtype object"):
            product(np.ones((3, 3), int), packed)
    with pytest.raises(TypeError, match="a must be an array of integers or bool, got list of dtype float64"):
        oc.dot([], np.ones(0, int))


def test_products_of_floats_are_refused_by_name() -> None:
    for product in (oc.dot, oc.inner, oc.vecdot, oc.tensordot):
        with pytest.raises(TypeError, match=r"np\.matmul"):
            product(np.ones((3, 3)), np.ones((3, 3), int))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 8, 13, 100])
@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint32, np.bool_], ids=lambda t: t.__name__)
def test_matrix_power_equals_numpy(dtype: type, n: int) -> None:
    rng = np.random.default_rng(4)
    for shape in [(3, 3), (2, 4, 4), (0, 0)]:
        a = integers(rng, shape, dtype, "full")
        before = a.copy()
        y = oc.matrix_power(a, n)
        same(y, np.linalg.matrix_power(a, n))
        np.testing.assert_array_equal(a, before)
        assert not np.may_share_memory(y, a)


def test_matrix_power_counts_beyond_float64() -> None:
    fibonacci = [0, 1]
    while len(fibonacci) <= 90:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    step = np.array([[1, 1], [1, 0]], np.int8)
    assert oc.matrix_power(step, 90, dtype=np.int64)[0, 1] == fibonacci[90]


def test_matrix_power_refuses_what_is_no_power() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        oc.matrix_power(np.ones((2, 3), int), 2)
    with pytest.raises(ValueError, match="got -1"):
        oc.matrix_power(np.ones((2, 2), int), -1)
    with pytest.raises(TypeError):
        oc.matrix_power(np.ones((2, 2), int), 1.5)
    with pytest.raises(TypeError, match=r"use np\.linalg\.matrix_power"):
        oc.matrix_power(np.ones((2, 2)), 2)
