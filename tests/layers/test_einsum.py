"""np.einsum with a QuantMatrix: what is one product multiplies integers, all else is of the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc

F = np.float32
rng = np.random.default_rng(0)
W = rng.standard_normal((50, 50), dtype=F)
X = rng.standard_normal((50, 50), dtype=F)

SUMS = [
    "ik,kn->in", "ik,nk->in", "ki,kn->in", "ik,kn->ni", "kn,ik->in", "nk,ki->ni", "ik,kn", "kn,ik", "...k,kn->...n",
    "k...,kn->n...", "...k,nk", "bik,kn->bin", "bki,kn->nib", "ibk,nk->bni", "i...k,kn->n...i", "k,kn->n", "k,nk",
    "K,Kn", " ik , kn -> in ",
]  # fmt: skip
OTHER_SUMS = [
    "ik,ik->ik",
    "ik,kn->i",
    "ik,kn->",
    "ik,kn->ikn",
    "kk,kn->kn",
    "kk,kn->n",
    "kk,kn",
    "ik,ik->i",
    "ij,kn->ijkn",
]
WRONG = ["ik,kn->im", "ik,kn->inn", "ikl,kn->in", "ik;kn->in", "ik,kn,kn->in", "i1,1n->in", ""]


def same(a: Any, b: Any) -> None:
    assert (type(a), a.dtype) == (type(b), b.dtype)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("text", SUMS)
@pytest.mark.parametrize("axis", [0, 1])
def test_einsum_of_one_sum_is_the_product(text: str, axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On integers that quantize to themselves, so that products are exact."""
    shapes = {"i": (3,), "b": (2,), "k": (70,), "n": (50,), "*": (4, 5)}
    parts = [part.strip().lower().replace("...", "*") for part in text.partition("->")[0].split(",")]
    arrays: list[Any] = []
    for part in parts:
        a = rng.integers(-127, 128, [size for c in part for size in shapes[c]]).astype(F)
        np.moveaxis(a, a.shape.index(70), -1)[..., 0] = 127
        if "n" in part:
            np.moveaxis(a, a.shape.index(50), -1)[..., 0] = 127
        arrays.append(a)
    expected = np.einsum(text, *arrays)
    at = next(i for i, part in enumerate(parts) if "n" in part)
    arrays[at] = oc.QuantMatrix(arrays[at], axis=axis)
    monkeypatch.setattr(oc.QuantMatrix, "dequantize", lambda self: pytest.fail("all of it was dequantized"))
    same(np.einsum(text, *arrays), expected)
    same(np.einsum(text, *arrays, optimize=True), expected)


def test_einsum_is_the_layers_bits() -> None:
    same(np.einsum("ki,kn->ni", X, oc.QuantMatrix(W)), oc.QuantLinear(W.T)(np.ascontiguousarray(X.T)).T)
    same(np.einsum("ij,jk", X.tolist(), oc.QuantMatrix(W)), oc.QuantLinear(W.T)(X.astype(float)))


@pytest.mark.slow
@pytest.mark.parametrize("text", OTHER_SUMS)
def test_other_sums_are_of_the_values(text: str) -> None:
    q = oc.QuantMatrix(W)
    same(np.einsum(text, X, q), np.einsum(text, X, np.asarray(q)))


def test_other_forms_are_of_the_values() -> None:
    q, out = oc.QuantMatrix(W), np.empty((50, 50), F)
    v = np.asarray(q)
    same(np.einsum(X, [0, 1], q, [1, 2], [0, 2]), np.einsum(X, [0, 1], v, [1, 2], [0, 2]))
    assert np.einsum("ij,jk->ik", X, q, out=out) is out
    same(out, np.einsum("ij,jk->ik", X, v))
    same(np.einsum("ij,jk->ik", q, q), np.einsum("ij,jk->ik", v, v))
    same(np.einsum("ij,jk,k->i", X, q, X[0]), np.einsum("ij,jk,k->i", X, v, X[0]))
    same(np.einsum("ij->ji", q), v.T)


@pytest.mark.parametrize("text", WRONG)
def test_einsum_refuses_what_numpy_refuses(text: str) -> None:
    for matrix in (W, oc.QuantMatrix(W)):
        with pytest.raises(ValueError):  # noqa: PT011 - the messages are NumPy's
            np.einsum(text, X, matrix)


@pytest.mark.parametrize("text", ["iik,kn->in", "iik,kn->n", "kik,kn->in", "ki...k,kn->i...n", "...iik,kn->...in"])
def test_diagonals_are_of_the_values(text: str) -> None:
    q, x = oc.QuantMatrix(W), rng.standard_normal((50, 50, 50), dtype=F)
    same(np.einsum(text, x, q), np.einsum(text, x, np.asarray(q)))


@pytest.mark.parametrize("shape", [(50,), (2, 3, 50)])
def test_operands_of_other_dimensions_fail_as_those_of_an_array(shape: tuple[int, ...]) -> None:
    for matrix in (W, oc.QuantMatrix(W)):
        with pytest.raises(ValueError, match="einstein sum"):
            np.einsum("ik,kn->in", np.ones(shape, F), matrix)


def test_mismatched_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"for Q \(50, 50\), got \(50, 49\)"):
        np.einsum("ik,kn->in", X[:, :-1], oc.QuantMatrix(W))


@pytest.mark.parametrize("text", ["ik,kn->in", "ik,kn", "...k,kn->...n", "ik,nk->in"])
def test_axes_of_one_element_are_stretched_as_numpy_does(text: str) -> None:
    q = oc.QuantMatrix(W)
    same(np.einsum(text, X[:, :1], q), np.einsum(text, X[:, :1], np.asarray(q)))
