"""QuantMatrix: products are QuantLinear's to the bit, all else is NumPy on its values, nothing is written."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import octavo as oc
from matrices import MATRICES, F, W, X, layer_of, rng, same


@pytest.fixture(params=MATRICES)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MATRICES[request.param]


# Products

PRODUCTS: dict[str, Callable[[Any, Any], Any]] = {
    "@": lambda x, q: x @ q,
    "matmul": np.matmul,
    "dot": np.dot,
    "tensordot": lambda x, q: np.tensordot(x, q, axes=1),
    "tensordot from the right": lambda x, q: np.tensordot(q.T, x.T, axes=1).T if x.ndim < 3 else x @ q,
    "einsum": lambda x, q: np.einsum("...i,io->...o", x, q),
    "einsum letters": lambda x, q: np.einsum("io, ri -> ro", q, x) if x.ndim == 2 else x @ q,
    "transposed": lambda x, q: np.swapaxes(q.T @ np.swapaxes(x, -1, -2), -1, -2) if x.ndim > 1 else q.T @ x,
    "inner": lambda x, q: np.inner(x, q.T) if x.ndim < 3 else x @ q,
}


@pytest.mark.slow
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("shape", [(70,), (1, 70), (6, 70), (0, 70), (2, 3, 70)])
@pytest.mark.parametrize("axis", [1, 0])
def test_products_along_the_fine_axis_are_the_layers_bits(
    product: str, shape: tuple[int, ...], axis: int, options: dict[str, Any]
) -> None:
    x = rng.standard_normal(shape, dtype=F)
    q = oc.QuantMatrix(W if axis == 1 else W.T, **options | {"axis": axis})
    expected = layer_of(W, options)(x)
    same(PRODUCTS[product](x, q if axis == 1 else q.T), expected)


@pytest.mark.parametrize("shape", [(50,), (4, 50), (2, 3, 50), (0, 50)])
def test_products_along_the_other_axis_are_right(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    q = oc.QuantMatrix(W, **options | {"axis": 1})
    x = rng.standard_normal(shape, dtype=F)
    np.testing.assert_allclose(x @ q.T, x @ np.asarray(q).T, rtol=1e-4, atol=1e-4)
    y = (q @ x) if x.ndim == 1 else q @ np.swapaxes(x, -1, -2)
    np.testing.assert_allclose(y, np.asarray(q) @ (x if x.ndim == 1 else np.swapaxes(x, -1, -2)), rtol=1e-4, atol=1e-4)


def test_other_axis_is_summed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    q = oc.QuantMatrix(W, axis=0)
    monkeypatch.setattr("octavo._layers.matrix._BLOCK_ELEMENTS", 128)
    np.testing.assert_allclose(X @ q, X @ np.asarray(q), rtol=1e-4, atol=1e-4)


def test_left_product_of_one_row_scales_is_the_layers_bits() -> None:
    q, y = oc.QuantMatrix(W, axis=0), rng.standard_normal((50, 4), dtype=F)
    layer = oc.QuantLinear(W)
    same(q @ y, np.swapaxes(layer(np.ascontiguousarray(y.T)), 0, 1))
    same(q @ y[:, 0], layer(np.ascontiguousarray(y[:, 0])))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, bool])
def test_dtype_follows_the_operand_as_in_the_layer(dtype: Any) -> None:
    x = (X * 3).astype(dtype)
    for axis in (0, 1):
        y = x @ oc.QuantMatrix(W, axis=axis)
        assert y.dtype == (dtype if np.dtype(dtype).kind == "f" else F)
    same(x @ oc.QuantMatrix(W), oc.QuantLinear(W.T)(x))
    np.testing.assert_allclose(
        (X + 1j) @ oc.QuantMatrix(W), (X + 1j) @ np.asarray(oc.QuantMatrix(W)), rtol=1e-4, atol=1e-3
    )


def test_out_is_filled_and_returned() -> None:
    q, out = oc.QuantMatrix(W), np.empty((6, 50), F)
    assert np.matmul(X, q, out=out) is out
    same(out, X @ q)
    other = np.empty((6, 70), F)
    y = rng.standard_normal((6, 50), dtype=F)
    assert np.matmul(y, q.T, out=other) is other
    same(other, y @ q.T)
    left = np.empty((50, 6), F)
    assert np.matmul(q.T, np.ascontiguousarray(X.T), out=left) is left
    same(left, q.T @ np.ascontiguousarray(X.T))
    wide = np.empty((6, 50))
    assert np.matmul(X, q, out=wide) is wide  # as NumPy has it: any dtype that the result can be cast to
    same(wide, (X @ q).astype(np.float64))


@pytest.mark.parametrize("axis", [0, 1])
def test_out_of_another_shape_or_kind_is_refused(axis: int) -> None:
    q, wrong = oc.QuantMatrix(W, axis=axis), np.zeros((6, 50), F)
    with pytest.raises(ValueError, match=r"out must have shape \(\.\.\., 1, 50\), as the result has, got \(6, 50\)"):
        np.matmul(X[:1], q, out=wrong)
    with pytest.raises(ValueError, match=r"out must have shape"):
        np.matmul(q.T, X.T, out=wrong)
    with pytest.raises(TypeError, match="Cannot cast"):
        np.matmul(X, q, out=np.zeros((6, 50), int))
    assert not wrong.any()


OUTS = {
    "more dimensions": ((6, 70), (2, 6, 50)),
    "one in front": ((6, 70), (1, 6, 50)),
    "a dimension of one is filled": ((1, 6, 70), (3, 6, 50)),
    "fewer dimensions": ((1, 6, 70), (6, 50)),
    "rows of a vector": ((70,), (4, 50)),
    "a vector": ((70,), (50,)),
}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", OUTS)
@pytest.mark.parametrize("dtype", [F, np.float64])
def test_matmul_broadcasts_its_result_to_out_as_numpy_does(name: str, axis: int, dtype: Any) -> None:
    x_shape, out_shape = OUTS[name]
    q, x, out = oc.QuantMatrix(W, axis=axis), rng.standard_normal(x_shape, dtype=F), np.empty(out_shape, dtype)
    expected = np.matmul(x, W, out=np.empty(out_shape, dtype))  # it is a shape that NumPy takes
    assert np.matmul(x, q, out=out) is out
    same(out, np.broadcast_to(x @ q, expected.shape).astype(dtype) if out.ndim >= x.ndim else (x @ q)[0].astype(dtype))
    if x.ndim > 1:
        turned = np.empty((*out_shape[:-2], 50, 6), dtype)
        assert np.matmul(q.T, np.swapaxes(x, -1, -2), out=turned) is turned
        same(np.swapaxes(turned, -1, -2), out)


def test_dot_into_another_array_than_its_result_is_refused() -> None:
    for out in (np.empty((6, 50)), np.empty((50, 6), F).T, np.empty((1, 6, 50), F)):
        with pytest.raises(ValueError, match="not acceptable"):
            np.dot(X, W, out=out)
        with pytest.raises(ValueError, match=r"C-contiguous array of shape \(6, 50\) and dtype float32"):
            np.dot(X, oc.QuantMatrix(W), out=out)
    out = np.empty((6, 50), F)
    assert np.dot(X, oc.QuantMatrix(W), out=out) is out
    same(out, X @ oc.QuantMatrix(W))


@pytest.mark.parametrize("axis", [0, 1])
def test_masked_operands_are_refused(axis: int) -> None:
    q = oc.QuantMatrix(W, axis=axis)
    for product in (lambda: np.ma.array(X) @ q, lambda: q.T @ np.ma.array(X.T), lambda: q @ np.ma.array(X[:, :50].T)):
        with pytest.raises(TypeError, match="whose mask would be lost"):
            product()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_masked_matrix_is_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match=r"w must not be a masked array.*w\.filled"):
        oc.QuantMatrix(np.ma.array(W), dtype=dtype)


@pytest.mark.parametrize("value", [1.0, 1e300, -1e300, np.inf, np.nan])
@pytest.mark.parametrize("shape", [(70,), (3, 70), (2, 3, 70)])
def test_float64_operands_are_rounded_to_float32_without_warnings(value: float, shape: tuple[int, ...]) -> None:
    x = rng.standard_normal(shape)
    x[..., 5] = value
    q = oc.QuantMatrix(W)
    with np.errstate(all="ignore"):
        expected = oc.QuantLinear(W.T)(x.astype(F)).astype(np.float64)
    same(x @ q, expected)
    same(x[..., ::-1][..., ::-1] @ q, expected)
    same(np.asarray(x, ">f8") @ q, expected)


def test_two_matrices_multiply() -> None:
    a, b = oc.QuantMatrix(rng.standard_normal((9, 70), dtype=F)), oc.QuantMatrix(W)
    same(a @ b, np.asarray(a) @ b)


@pytest.mark.parametrize(
    ("product", "message"),
    [
        (lambda q: X[:, :-1] @ q, r"x of shape \(\.\.\., 70\) for Q \(70, 50\), got \(6, 69\)"),
        (lambda q: X[:, :-1].astype(float) @ q, r"x of shape \(\.\.\., 70\) for Q \(70, 50\), got \(6, 69\)"),
        (lambda q: np.float64(2) @ q, r"got \(\)"),
        (lambda q: X @ q.T, r"x of shape \(\.\.\., 50\) for Q \(50, 70\), got \(6, 70\)"),
        (lambda q: q @ X, r"\(50,\) or \(\.\.\., 50, n\) for Q \(70, 50\), got \(6, 70\)"),
        (lambda q: np.float32(2) @ q, r"got \(\)"),
        (lambda q: q @ np.ones(3, F), r"got \(3,\)"),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_mismatched_shapes_are_named(product: Callable[[Any], Any], message: str, axis: int) -> None:
    with pytest.raises(ValueError, match=message):
        product(oc.QuantMatrix(W, axis=axis))


# Everything else


@st.composite
def operations(draw: st.DrawFn) -> Callable[[Any, Any], Any]:
    return draw(
        st.sampled_from(
            [
                lambda q, x: q + x, lambda q, x: x - q, lambda q, x: q * 2, lambda q, x: 1 / (q + 10),
                lambda q, x: -q, lambda q, x: abs(q), lambda q, x: q**2, lambda q, x: q > x, lambda q, x: np.exp(q),
                lambda q, x: q.sum(), lambda q, x: q.mean(axis=0), lambda q, x: q.max(axis=1),
                lambda q, x: np.concatenate([q, x]), lambda q, x: np.linalg.norm(q),
                lambda q, x: np.linalg.svd(q, compute_uv=False), lambda q, x: q.reshape(-1),
                lambda q, x: q.astype(np.float64), lambda q, x: np.where(q > 0, q, 0), lambda q, x: q.tolist(),
                lambda q, x: np.einsum("ij->i", q), lambda q, x: np.einsum("ij,ij->ij", q, x),
                lambda q, x: q.flatten(), lambda q, x: np.tensordot(q, x, axes=2),
                lambda q, x: np.tensordot(x, q, axes=([1], [1])),
                lambda q, x: np.tensordot(q, x[0][None, None], axes=0),
                lambda q, x: np.add.reduce(q, axis=1), lambda q, x: q.copy(), lambda q, x: np.dot(q, 3),
                lambda q, x: np.multiply.outer(q[0], x[0]), lambda q, x: np.pad(q, 1),
                lambda q, x: np.argsort(q, axis=1), lambda q, x: x in q, lambda q, x: np.allclose(q, x),
                lambda q, x: q == x, lambda q, x: np.shape(q), lambda q, x: np.size(q, 1), lambda q, x: np.ndim(q),
                lambda q, x: len(q), lambda q, x: list(q)[3], lambda q, x: np.vstack([x, q])[3],
                lambda q, x: q.T.copy(), lambda q, x: divmod(q, 2)[0], lambda q, x: np.transpose(q) + 0,
                lambda q, x: q.transpose(0, 1) + 0, lambda q, x: np.linalg.inv(q[:50] + np.eye(50)),
                lambda q, x: x.T.dot(q),  # a method that NumPy lets nobody take over
            ]
        )
    )  # fmt: skip


@pytest.mark.slow
@given(operations(), st.sampled_from(list(MATRICES)))
def test_anything_else_is_numpy_on_the_values(operation: Callable[[Any, Any], Any], name: str) -> None:
    q = oc.QuantMatrix(W, **MATRICES[name])
    expected, x = operation(np.asarray(q), W), operation(q, W)
    assert type(x) is type(expected)
    np.testing.assert_array_equal(x, expected)


def test_inverse_of_a_square_matrix_is_that_of_its_values() -> None:
    q = oc.QuantMatrix(W[:50])
    np.testing.assert_array_equal(np.linalg.inv(q), np.linalg.inv(np.asarray(q)))


def test_attributes_are_those_of_the_float_array(options: dict[str, Any]) -> None:
    q = oc.QuantMatrix(W, **options)
    assert (q.shape, q.ndim, q.size, q.dtype, len(q)) == (W.shape, 2, W.size, F, 70)
    assert q.T.shape == (50, 70)
    assert (q.mT.shape, type(q.mT)) == ((50, 70), oc.QuantMatrix)
    assert (q.T.axis, q.T.T.axis) == (1 - q.axis, q.axis)
    np.testing.assert_array_equal(np.asarray(q.T), np.asarray(q).T)
    assert np.asarray(q, np.float64).dtype == np.float64
    assert "70 x 50" in repr(q)
    assert f"axis={q.axis}" in repr(q)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        q.nonsense  # noqa: B018 - it is the access that is tested


@pytest.mark.parametrize(("dtype", "share"), [("int8", 0.26), ("int4", 0.15)])
def test_nbytes_is_that_of_the_integers(dtype: str, share: float) -> None:
    w = rng.standard_normal((512, 512), dtype=F)
    q = oc.QuantMatrix(w, dtype=dtype, group_size=None if dtype == "int8" else 128)
    assert 0.5 * share * w.nbytes < q.nbytes < share * w.nbytes
    assert q.T.nbytes == q.nbytes


# Nothing is written


def iadd(q: Any) -> None:
    q += 1


WRITES: dict[str, Callable[[Any], Any]] = {
    "q += 1": iadd,
    "q[0] = 1": lambda q: q.__setitem__(0, 1),
    "out=q": lambda q: np.add(W, W, out=q),
    "matmul out=q": lambda q: np.matmul(np.ones((70, 70), F), W, out=q),
    "add.at": lambda q: np.add.at(q, 0, 1),
    "copyto": lambda q: np.copyto(q, W),
    "fill": lambda q: q.fill(0),
    "sort": lambda q: q.sort(),
    "put": lambda q: np.put(q, [0], [1]),
    "nan_to_num": lambda q: np.nan_to_num(q, copy=False),
    "function out=q": lambda q: np.clip(W, 0, 1, out=q),
}


@pytest.mark.parametrize("write", WRITES)
def test_writing_is_refused_with_the_remedy(write: str) -> None:
    q = oc.QuantMatrix(W)
    before = np.asarray(q)
    with pytest.raises(TypeError, match=r"cannot be written to.*Q\.dequantize\(\)"):
        WRITES[write](q)
    np.testing.assert_array_equal(np.asarray(q), before)


def test_arrays_made_of_it_are_copies() -> None:
    q = oc.QuantMatrix(W)
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(q)[0, 0] = 1
    np.array(q)[0, 0] = 1
    q.dequantize()[0, 0] = 1
    with pytest.raises(ValueError, match="no float array to share"):
        q.__array__(copy=False)
    with pytest.raises(TypeError, match="no float memory"):
        q.ctypes  # noqa: B018 - it is the access that is tested


# Copies, pickles, wrong input


def test_copies_and_pickles_are_the_same_matrix(options: dict[str, Any]) -> None:
    q = oc.QuantMatrix(W, **options)
    for other in (copy.copy(q), copy.deepcopy(q), pickle.loads(pickle.dumps(q)), pickle.loads(pickle.dumps(q.T)).T):
        same(X @ other, X @ q)
        assert repr(other) == repr(q)
    assert len(pickle.dumps(q)) < 0.6 * W.nbytes


@pytest.mark.parametrize(
    ("w", "options", "error", "message"),
    [
        (np.ones((3, 4), int), {}, TypeError, "must hold floats, got dtype int64"),
        (np.ones((2, 3, 4)), {}, ValueError, r"2-D, got shape \(2, 3, 4\)"),
        (np.ones(4), {}, ValueError, r"2-D, got shape \(4,\)"),
        (np.full((2, 2), np.nan), {}, ValueError, "NaN"),
        (W, {"axis": 2}, ValueError, r"axis must be 1 .* or 0"),
        (W, {"dtype": "uint8"}, ValueError, "int8"),
        (W, {"group_size": 32}, ValueError, "group_size"),
        (W, {"dtype": "int4", "group_size": 7}, ValueError, "group_size"),
    ],
)
def test_quant_matrix_refuses(w: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        oc.QuantMatrix(w, **options)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (0, 4), (4, 0)])
@pytest.mark.parametrize("axis", [0, 1])
def test_thin_and_empty_matrices(shape: tuple[int, int], axis: int) -> None:
    w = rng.standard_normal(shape, dtype=F)
    q, x = oc.QuantMatrix(w, axis=axis), rng.standard_normal((3, shape[0]), dtype=F)
    np.testing.assert_allclose(x @ q, x @ w, atol=0.1)
    same(q[:], np.asarray(q))
    for values in (q.dequantize(), np.array(q), np.array(q.T), q.T.dequantize()):
        values[...] = 7  # copies, whatever the shape
    assert not np.array_equal(q, np.full(shape, 7)) or not q.size
    assert q.dequantize().flags.c_contiguous
