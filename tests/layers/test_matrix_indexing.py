"""Indexing of a QuantMatrix: what NumPy gives for its values, with only the rows and columns asked for dequantized."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import octavo as oc
from matrices import MATRICES, F, W, X, same


@pytest.fixture(params=MATRICES)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MATRICES[request.param]


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
