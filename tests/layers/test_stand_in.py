"""Every operator, ufunc and kind of writing, on a QuantMatrix: as on its values, or refused."""

from __future__ import annotations

import operator
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import octavo as oc

F = np.float32
rng = np.random.default_rng(0)
W = rng.standard_normal((6, 5), dtype=F)
Q = oc.QuantMatrix(W)
V = np.asarray(Q)

BINARY = {
    name: getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lt", "le", "eq", "ne", "gt", "ge")
} | {"divmod": divmod}
UNARY = {name: getattr(operator, name) for name in ("neg", "pos", "abs")}
IN_PLACE = (
    "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "ilshift", "irshift", "iand", "ixor",
    "ior",
)  # fmt: skip
UFUNCS = sorted(name for name, value in vars(np).items() if type(value) is np.ufunc and value.signature is None)


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    for x, y in zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]:
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def answer(function: Any, *args: Any) -> Any:
    """What a call gives, or the kind of its error."""
    try:
        return function(*args)
    except Exception as error:
        return type(error)


def same_answer(function: Any, actual: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    a, b = answer(function, *actual), answer(function, *expected)
    if isinstance(b, type):
        assert a is b
    else:
        same(a, b)


@st.composite
def others(draw: st.DrawFn) -> Any:
    """Numbers and arrays, of shapes that fit and that do not."""
    shape = draw(st.sampled_from([(6, 5), (5,), (1, 5), (6, 1), (), (1,), (2, 6, 5), (0, 6, 5), (4,), (5, 6)]))
    dtype = draw(st.sampled_from(["f2", "f4", "f8", "i4", "u1", "?", "c8"]))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 9, shape).astype(dtype)
    return draw(st.sampled_from([values, 2, 0.5, 1 + 2j, None, Q])) if draw(st.booleans()) else values


@pytest.mark.slow
@pytest.mark.parametrize("name", BINARY)
@given(other=others())
def test_operator_is_that_of_the_values(name: str, other: Any) -> None:
    plain = V if other is Q else other
    with np.errstate(all="ignore"):
        same_answer(BINARY[name], (Q, other), (V, plain))
        same_answer(BINARY[name], (other, Q), (plain, V))


@pytest.mark.parametrize("name", UNARY)
def test_unary_operator_is_that_of_the_values(name: str) -> None:
    same(UNARY[name](Q), UNARY[name](V))


@pytest.mark.parametrize("name", UFUNCS)
def test_ufunc_is_that_of_the_values(name: str) -> None:
    ufunc = getattr(np, name)
    with np.errstate(all="ignore"):
        same_answer(ufunc, (Q,) * ufunc.nin, (V,) * ufunc.nin)
        if ufunc.nin == 2:
            same_answer(ufunc, (W, Q), (W, V))
            same_answer(ufunc.reduce, (Q,), (V,))
            same_answer(ufunc.outer, (Q, [1.0]), (V, [1.0]))


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_operator_is_refused(name: str) -> None:
    with pytest.raises(
        TypeError, match=r"a QuantMatrix cannot be written to: .*Q \+ 1, not Q \+= 1.*Q\.dequantize\(\)"
    ):
        getattr(operator, name)(Q, 2)
    x = np.array(V)
    same(answer(getattr(operator, name), x, Q) if name == "iadd" else np.add(x, Q), V + V)  # into another array


@pytest.mark.parametrize("name", UFUNCS)
def test_ufunc_into_it_is_refused(name: str) -> None:
    ufunc = getattr(np, name)
    with pytest.raises(TypeError, match="a QuantMatrix cannot be written to"):
        ufunc(*[W] * ufunc.nin, out=(Q, *[None] * (ufunc.nout - 1)))


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "coo_array"])
def test_operators_give_way_to_sparse_matrices_as_an_array_does(kind: str) -> None:
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")
    s = getattr(sparse, kind)(np.where(W > 0, W, 0))
    for product in (operator.matmul, operator.mul, operator.add, operator.sub):
        right = s.T if product is operator.matmul else s
        a, b = answer(product, Q, right), answer(product, V, right)
        assert type(a) is type(b)
        if not isinstance(b, type):
            a, b = (x.toarray() if sparse.issparse(x) else np.asarray(x) for x in (a, b))
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(s.T @ Q, s.T @ V)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_star_with_np_matrix_is_its_product() -> None:
    m = np.matrix(W)
    np.testing.assert_array_equal(m.T * Q, m.T * V)
    np.testing.assert_array_equal(Q * m.T, V * m.T)


def test_an_operand_that_declines_ufuncs_gets_its_turn() -> None:
    class Declines:
        __array_ufunc__ = None

        def __rmatmul__(self, other: Any) -> Any:
            return other

        def __matmul__(self, other: Any) -> Any:
            return other

    np.testing.assert_array_equal(Q @ Declines(), V)
    assert Declines() @ Q is Q


def test_it_is_unhashable_and_weakly_referable_as_an_array_is() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Q)
    assert weakref.ref(Q)() is Q
    one = oc.QuantMatrix(np.full((1, 1), 2, F))
    assert (int(one), float(one), complex(one), bool(one)) == (2, 2.0, 2 + 0j, True)
