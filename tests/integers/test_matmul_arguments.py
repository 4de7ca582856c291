"""What octavo.matmul takes and refuses: types, shapes, out, dtype, byte order."""

from __future__ import annotations

import re

import numpy as np
import pytest

import octavo as oc

A = np.arange(12).reshape(3, 4)
B = np.arange(20).reshape(4, 5)


@pytest.mark.parametrize("x", [np.ones((4, 4)), np.ones((4, 4), np.complex64), np.ones((4, 4), object),
                               np.ones((4, 4), "m8[s]"), np.array([["a"]])], ids=lambda x: x.dtype.name)  # fmt: skip
def test_matmul_of_other_types_is_refused_by_name(x: np.ndarray) -> None:
    for a, b in ((x, B), (A, x), (x, x)):
        with pytest.raises(TypeError, match=r"use np\.matmul"):
            oc.matmul(a, b)


def test_matmul_of_uint64_and_signed_names_dtype() -> None:
    a = np.array([[2**64 - 1]], np.uint64)
    with pytest.raises(TypeError, match=r"dtype=np\.int64"):
        oc.matmul(a, A[:1])
    assert oc.matmul(a, np.array([[3]]), dtype=np.int64)[0, 0] == -3


def test_matmul_of_masked_arrays_is_refused() -> None:
    with pytest.raises(TypeError, match="filled"):
        oc.matmul(np.ma.masked_array(A, A > 3), B)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((2, 3, 4), (3, 4, 5)), ((3,), (4,)), ((), (3,)), ((3, 3), ()),
                                    ((3, 4), (5,)), ((2, 3, 4), (3, 4))])  # fmt: skip
def test_matmul_shapes_that_do_not_fit_raise_numpys_error(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (np.ones(shape, np.int32) for shape in shapes)
    with pytest.raises(ValueError, match=r"matmul|broadcast") as theirs:
        np.matmul(a, b)
    with pytest.raises(ValueError, match=re.escape(str(theirs.value))):
        oc.matmul(a, b)


def test_matmul_dtype_is_cast_to_as_numpy_allows() -> None:
    assert oc.matmul(A, B, dtype=np.int8).dtype == np.int8
    for dtype in (np.uint64, np.bool_):
        with pytest.raises(TypeError):
            np.matmul(A, B, dtype=dtype)
        with pytest.raises(TypeError, match="same_kind"):
            oc.matmul(A, B, dtype=dtype)
    with pytest.raises(TypeError, match=r"np\.matmul"):
        oc.matmul(A, B, dtype=float)


def test_matmul_longlong_is_recognised() -> None:
    for name in ("longlong", "long", "intc", "ulonglong", "uintp"):
        a = A.astype(name)
        y, expected = oc.matmul(a, a.T), np.matmul(a, a.T)
        assert y.dtype == expected.dtype
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("dtype", [">i2", ">i4", ">u8", "<i4"])
def test_matmul_takes_any_byte_order(dtype: str) -> None:
    a = (A * 1000).astype(dtype)
    y, expected = oc.matmul(a, B.astype(dtype)), np.matmul(a, B.astype(dtype))
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)
    assert oc.matmul(a, B.astype(dtype), dtype=">i8").dtype == np.int64


def test_matmul_takes_native_byte_order_that_is_written_out() -> None:
    native = np.dtype(np.int32).newbyteorder().newbyteorder()  # as after x.byteswap().view(x.dtype.newbyteorder())
    assert native.isnative
    assert native.byteorder != "="
    a, b, out = A.astype(native), B.astype(native), np.zeros((3, 5), native)
    assert oc.matmul(a, b, out) is out
    for y in (out, oc.matmul(a, b), oc.matmul(a, b, dtype=native), a @ oc.PackedInteger(b), oc.tensordot(a, b, 1)):
        assert y.dtype == np.int32
        np.testing.assert_array_equal(y, A @ B)


def test_matmul_takes_misaligned_and_read_only_arrays() -> None:
    bytes_ = np.zeros(A.nbytes + 1, np.uint8)
    a = bytes_[1:].view(np.int64).reshape(A.shape)
    a[...] = A
    assert not a.flags.aligned
    b = B.copy()
    b.flags.writeable = False
    np.testing.assert_array_equal(oc.matmul(a, b), A @ B)


def test_matmul_takes_lists_and_scalars_of_vectors() -> None:
    y = oc.matmul([[1, 2]], [[3], [4]])
    np.testing.assert_array_equal(y, [[11]])
    assert oc.matmul([1, 2], [3, 4]) == 11


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, np.float64, np.complex128, ">i8"])
def test_matmul_out_is_cast_to_as_numpy_casts(dtype: object) -> None:
    a, b = A * 10**6, B * 10**6
    out, expected = np.ones((3, 5), dtype), np.ones((3, 5), dtype)
    assert oc.matmul(a, b, out) is out
    np.matmul(a, b, out=expected)
    np.testing.assert_array_equal(out, expected)


def test_matmul_out_wider_than_the_result_holds_wrapped_sums() -> None:
    a = np.full((2, 2), 100, np.int8)
    out = np.zeros((2, 2), np.int64)
    oc.matmul(a, a, out=out)
    np.testing.assert_array_equal(out, np.matmul(a, a).astype(np.int64))


def test_matmul_out_of_strides_and_longer_stacks() -> None:
    for make in (
        lambda: np.zeros((3, 10), int)[:, ::2],
        lambda: np.zeros((6, 5), int)[::2],
        lambda: np.zeros((5, 3), int).T,
        lambda: np.zeros((3, 9), int)[:, 2:7],
        lambda: np.zeros((2, 3, 5), int),
        lambda: np.zeros((3, 5), int)[::-1],
        lambda: np.zeros((3, 5), int)[:, ::-1],
    ):
        out, expected = make(), make()
        assert oc.matmul(A, B, out=out) is out
        np.matmul(A, B, out=expected)
        np.testing.assert_array_equal(out, expected)
    assert oc.matmul(A, B, out=(out,)) is out


def test_matmul_out_keeps_what_lies_between_its_rows() -> None:
    whole = np.full((3, 9), -7)
    oc.matmul(A, B, out=whole[:, 2:7])
    np.testing.assert_array_equal(whole[:, 2:7], A @ B)
    assert (whole[:, [0, 1, 7, 8]] == -7).all()


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int64], ids=lambda t: t.__name__)
def test_matmul_out_that_overlaps_the_operands(dtype: type) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, (4, 4)).astype(dtype)
    expected = a @ a
    oc.matmul(a, a, out=a)
    np.testing.assert_array_equal(a, expected)
    # The result of a row lies where the next row of a is.
    memory = rng.integers(0, 2, (2001, 40)).astype(dtype)
    b = rng.integers(0, 2, (40, 40)).astype(dtype)
    expected = memory[:-1] @ b
    oc.matmul(memory[:-1], b, out=memory[1:])
    np.testing.assert_array_equal(memory[1:], expected)


def test_matmul_out_that_does_not_fit_is_refused_untouched() -> None:
    for out, error, message in [
        (np.ones((3, 4), int), ValueError, r"shape \(3, 5\)"),
        (np.ones((5,), int), ValueError, "shape"),
        (np.ones((3, 5), np.uint64), TypeError, "cannot hold"),
        (np.ones((3, 5), bool), TypeError, "cannot hold"),
        ([[0] * 5] * 3, TypeError, "numpy array"),
    ]:
        before = np.copy(out)
        with pytest.raises(error, match=message):
            oc.matmul(A, B, out=out)
        np.testing.assert_array_equal(out, before)
    locked = np.ones((3, 5), int)
    locked.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        oc.matmul(A, B, out=locked)


def test_matmul_result_is_an_ordinary_array() -> None:
    y = oc.matmul(np.ones((300, 300), int), np.ones((300, 300), int))
    assert type(y) is np.ndarray
    assert y.flags.carray


def test_matmul_out_may_be_a_tuple_of_none() -> None:
    np.testing.assert_array_equal(oc.matmul(A, B, out=(None,)), A @ B)
    np.testing.assert_array_equal(oc.matmul(A, oc.PackedInteger(B), out=(None,)), A @ B)


def test_products_refuse_a_masked_out_untouched() -> None:
    out = np.ma.masked_array(np.ones((3, 5), int), np.eye(3, 5) > 0)
    for product in (oc.matmul, oc.dot):
        for given in (out, (out,)):
            with pytest.raises(TypeError, match="out must not be a masked array"):
                product(A, B, out=given)
    with pytest.raises(TypeError, match="out must not be a masked array"):
        oc.dot(np.ones((3, 5), int), 2, out=out)
    with pytest.raises(TypeError, match="out must not be a masked array"):
        oc.matmul(A, oc.PackedInteger(B), out=out)
    assert (out.data == 1).all()


def test_matmul_reads_subclasses_as_plain_arrays() -> None:
    class Named(np.ndarray):
        pass

    for a in (A.view(Named), A.view(np.matrix)):
        y = oc.matmul(a, B)
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, A @ B)


def test_matmul_of_what_numpy_cannot_read_names_the_argument() -> None:
    class Unreadable:
        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            raise RuntimeError("on another device")

    with pytest.raises(TypeError, match=r"b must be an array, got .*Unreadable.*on another device"):
        oc.matmul(A, Unreadable())
    with pytest.raises(ValueError, match="a must be an array, got a ragged list"):
        oc.matmul([[1, 2], [3]], B)
    with pytest.raises(TypeError, match="float64"):
        oc.matmul([], [])
    assert oc.matmul(np.array([], int), np.array([], int)) == 0
