"""QuantMatrix: products are QuantLinear's to the bit, all else is NumPy on its values, nothing is written."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import octavo as oc

F = np.float32
rng = np.random.default_rng(0)
W = rng.standard_normal((70, 50), dtype=F)
X = rng.standard_normal((6, 70), dtype=F)

MATRICES = {
    "int8 columns": {},
    "int8 rows": {"axis": 0},
    "int4 columns": {"dtype": "int4", "group_size": 32},
    "int4 rows": {"dtype": "int4", "group_size": 32, "axis": 0, "symmetric": False},
    "asymmetric": {"activation": "asymmetric"},
    "int4 float16": {"dtype": "int4", "group_size": None, "scale_dtype": "float16"},
}


@pytest.fixture(params=MATRICES)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MATRICES[request.param]


def layer_of(w: np.ndarray, options: dict[str, Any]) -> oc.QuantLinear:
    """x @ Q as a layer, for a matrix with one scale a column."""
    return oc.QuantLinear(w.T, **{k: v for k, v in options.items() if k != "axis"})


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


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


# Rows

INDICES: list[Any] = [
    0, -1, np.int64(3), [1, 1, -70], np.array([[2, 3], [69, 0]]), np.zeros((0,), int), slice(2, 9, 3),
    slice(None, None, -1), np.array([5, 6], np.uint8),
    # on the values
    (3, slice(None)), ([4, 2], slice(None)), (np.array([[1], [3]]), ...), (slice(5, 1, -2), ...), ([1, 2],),
    (slice(None), 2), (slice(None), [3, 0, 3]), (slice(None), np.array([[1, 2], [3, 4]])), (..., 3),
    (slice(None), slice(4, None, 2)), np.array(3), range(3),
    # on the values
    (3, 4), ..., (), None, (slice(None), None), (2, slice(None), None), True, [], (slice(None), ..., 1),
    np.arange(70) % 2 == 0, ([1, 2], [3, 4]),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_gives_what_the_values_give(index: Any, options: dict[str, Any]) -> None:
    for axis in (0, 1):
        q = oc.QuantMatrix(W, **options | {"axis": axis})
        same(q[index], np.asarray(q)[index])
    for ids in ([1, 5], np.array([[0], [2]])):
        same(np.take(q, ids, axis=0), np.asarray(q)[ids])


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_what_stands_for_a_view_cannot_be_written_to(index: Any) -> None:
    floats, q = W.copy(), oc.QuantMatrix(W)
    expected, rows = floats[index], q[index]
    if isinstance(expected, np.ndarray):
        assert rows.flags.writeable is (not np.shares_memory(expected, floats))


@pytest.mark.parametrize("index", [70, -71, [0, 70], np.array([[-71]])])
def test_row_out_of_range_is_an_index_error(index: Any) -> None:
    with pytest.raises(IndexError, match="out of bounds for axis 0 with size 70"):
        oc.QuantMatrix(W)[index]


@pytest.mark.parametrize("index", [(0, 0, 0), (slice(None), 1, slice(None)), (slice(None), 50), "a", 1.5])
def test_other_indices_fail_as_those_of_an_array(index: Any) -> None:
    with pytest.raises(IndexError):
        W[index]
    with pytest.raises(IndexError):
        oc.QuantMatrix(W)[index]


def test_column_out_of_range_is_an_index_error_of_its_axis() -> None:
    for index in ((slice(None), 50), (..., [0, -51])):
        with pytest.raises(IndexError, match="out of bounds for axis 1 with size 50"):
            oc.QuantMatrix(W)[index]


# Of a matrix of 70 x 50: what indices take only some rows or columns for.
SOME = [
    3, [1, 2], slice(3), ([1, 2], slice(None)), (slice(None), [1, 2]), (..., 3), (5, 3), (5, slice(20)),
    ([4, 60, 4], slice(10)), np.arange(70) % 9 == 0, (np.arange(70) % 9 == 0, 4), (None, 5), (5, None, [1, 2]),
    (slice(None), np.arange(50) < 3), ([0, 1], [2, 3]), np.arange(3500).reshape(70, 50) == 77, (..., -1, 2),
    (np.array([[0], [69]]), np.arange(50)), (slice(60, None, -1), slice(2)), (True, 3), np.uint8(9),
]  # fmt: skip


@pytest.mark.parametrize("index", SOME, ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_only_the_lines_that_an_index_needs_are_dequantized(
    index: Any, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q = oc.QuantMatrix(W, axis=axis)
    expected = np.asarray(q)[index]
    monkeypatch.setattr(oc.QuantMatrix, "dequantize", lambda self: pytest.fail("all of it was dequantized"))
    same(q[index], expected)


def test_take_and_item_dequantize_only_the_lines_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    q = oc.QuantMatrix(W)
    values = np.asarray(q)
    monkeypatch.setattr(oc.QuantMatrix, "dequantize", lambda self: pytest.fail("all of it was dequantized"))
    for axis in (0, 1, -1, -2):
        for ids in ([1, 2], 3, np.array([[4, -5]])):
            same(np.take(q, ids, axis=axis), np.take(values, ids, axis=axis))
            assert q.take(ids, axis).flags.writeable
    for place in ((3, 4), (-1, -2), (77,), (-1,)):
        assert q.item(*place) == values.item(*place)
    assert q.item((3, 4)) == values[3, 4]
    for place in ((70, 0), (3500,)):
        with pytest.raises(IndexError):
            values.item(*place)
        with pytest.raises(IndexError):
            q.item(*place)


@st.composite
def indices(draw: st.DrawFn) -> Any:
    """Whatever NumPy lets one write between brackets, for 7 x 5: also what does not fit."""
    entry = st.one_of(
        st.integers(-8, 8),
        st.slices(7),
        st.just(None),
        st.just(...),
        st.booleans(),
        st.lists(st.integers(-5, 4), max_size=4),
        st.lists(st.lists(st.integers(-5, 4), min_size=2, max_size=2), min_size=1, max_size=2).map(np.array),
        st.lists(st.booleans(), min_size=5, max_size=5),
        st.lists(st.booleans(), min_size=7, max_size=7).map(np.array),
        st.integers(-5, 4).map(np.array),
        st.integers(0, 4).map(np.uint8),
        st.integers(0, 2**35 - 1).map(lambda bits: np.array([bits >> i & 1 for i in range(35)], bool).reshape(7, 5)),
    )
    return draw(st.one_of(entry, st.lists(entry, max_size=4).map(tuple)))


@pytest.mark.slow
@given(indices(), st.sampled_from([*MATRICES, "embedding", "embedding int4"]))
def test_any_index_is_that_of_the_dequantized_array(index: Any, kind: str) -> None:
    w = W[:7, :5]
    embeddings: dict[str, Any] = {"embedding": {}, "embedding int4": {"dtype": "int4", "group_size": 2}}
    table = kind in embeddings
    q: Any = oc.QuantEmbedding(w, **embeddings[kind]) if table else oc.QuantMatrix(w, **MATRICES[kind])
    floats = np.array(q.weight if table else q)
    try:
        expected = floats[index]
    except IndexError:
        with pytest.raises(IndexError):
            q[index]
        return
    result = q[index]
    same(result, expected)
    if isinstance(expected, np.ndarray):
        assert result.flags.writeable is not np.may_share_memory(expected, floats)


LAYOUTS: list[Callable[[Any], Any]] = [
    lambda a: a.T, lambda a: a.transpose(), lambda a: a.transpose(None), lambda a: a.transpose(1, 0),
    lambda a: a.transpose((-1, -2)), lambda a: a.transpose([0, 1]), np.transpose, lambda a: np.transpose(a, (1, 0)),
    lambda a: np.transpose(a, np.array([1, 0])), lambda a: a.swapaxes(0, 1), lambda a: a.swapaxes(0, 0),
    lambda a: np.swapaxes(a, -1, -2), lambda a: np.swapaxes(a, axis1=0, axis2=1),
]  # fmt: skip


@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
def test_transposing_keeps_the_integers(layout: int) -> None:
    square = oc.QuantMatrix(W[:50])
    assert type(LAYOUTS[layout](square)) is oc.QuantMatrix
    np.testing.assert_array_equal(LAYOUTS[layout](square), LAYOUTS[layout](np.asarray(square)))


def test_transpose_is_kept_and_goes_with_its_matrix() -> None:
    q = oc.QuantMatrix(W)
    assert q.T is q.T
    assert q.T.T is q
    same(np.asarray(q.T), np.asarray(q).T.copy())
    transposed, gone = q.T, weakref.ref(q)
    del q
    assert gone() is None  # by its reference count: neither keeps the other in a cycle
    same(X @ transposed.T, oc.QuantLinear(W.T)(X))


@pytest.mark.parametrize(
    "layout", [lambda a: a.transpose(2, 1), lambda a: a.transpose(0), lambda a: a.transpose(0, 0),
               lambda a: a.transpose(1.0, 0), lambda a: a.swapaxes(0, 2), lambda a: np.transpose(a, (0, 1, 2))],
)  # fmt: skip
def test_axes_that_are_not_there_fail_as_those_of_an_array(layout: Callable[[Any], Any]) -> None:
    with pytest.raises((ValueError, TypeError)) as expected:
        layout(W)
    with pytest.raises(expected.type, match=str(expected.value).replace("(", r"\(")[:20]):
        layout(oc.QuantMatrix(W))


def test_it_cannot_be_subclassed() -> None:
    with pytest.raises(TypeError, match="cannot be subclassed"):
        type("Mine", (oc.QuantMatrix,), {})


def test_rows_are_each_within_half_a_step_with_scales_of_their_own() -> None:
    w = W * np.logspace(0, 5, 70, dtype=F)[:, None]
    q = oc.QuantMatrix(w, axis=0)
    step = np.abs(w).max(axis=1, keepdims=True) / 127
    assert (np.abs(q[np.arange(70)] - w) <= step * 0.5001).all()


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
