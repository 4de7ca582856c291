"""argmax, top_k and sample against stable sorts and the definition of drawing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from octavo.functional import argmax, sample, softmax, top_k


@pytest.mark.parametrize("k", [1, 2, 7, 199, 200])
def test_top_k_is_a_stable_sort(k: int) -> None:
    x = np.round(np.random.default_rng(k).standard_normal((3, 2, 200)), 1).astype(np.float32)  # with many ties
    x[0, 0, :5] = [-np.inf, np.inf, -0.0, 0.0, np.inf]
    expected = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    values, indices = top_k(x, k)
    assert (indices == expected).all()
    assert (values == np.take_along_axis(x, expected, axis=-1)).all()
    assert (argmax(x) == expected[..., 0]).all()


def drawn(row: Any, u: float, heat: float, k: int | None, p: float | None) -> int:
    """The definition, with whole sorts."""
    z = (row - row.max()) / np.float32(heat)
    order = np.argsort(-z, kind="stable")
    kept = np.sort(order[:k])
    weights = softmax(z[kept])
    if p is not None:
        at = np.argsort(-z[kept], kind="stable")
        sums = np.cumsum(weights[at], dtype=np.float64)
        many = int(np.argmax(sums >= p)) + 1 if (sums >= p).any() else len(at)
        kept, weights = kept[at[:many]], weights[at[:many]]
    sums = np.cumsum(weights, dtype=np.float64)
    return int(kept[np.argmax(sums > u * sums[-1])])


@pytest.mark.parametrize("p", [None, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("k", [None, 1, 40, 5000])
def test_sample_is_its_definition(k: int | None, p: float | None) -> None:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((12, 1500), np.float32) * np.float32(3)
    got = sample(rows, temperature=0.8, top_k=k, top_p=p, generator=np.random.Philox(9))
    numbers = np.random.Philox(9)
    expected = [drawn(row, (numbers.random_raw() >> 11) * 2.0**-53, 0.8, k, p) for row in rows]
    assert got.tolist() == expected
    each = [np.random.Philox(i) for i in range(12)]
    together = sample(rows, top_k=k, top_p=p, generator=each)
    alone = [sample(row, top_k=k, top_p=p, generator=np.random.Philox(i)) for i, row in enumerate(rows)]
    assert together.tolist() == [int(i) for i in alone]


def test_sample_gives_recorded_indices() -> None:
    logits = np.sin(np.arange(300, dtype=np.float64) * 1.7).astype(np.float32) * np.float32(4)
    generators = (np.random.Philox(1), np.random.Generator(np.random.PCG64(1)), np.random.SFC64(1))
    got = [[int(sample(logits, top_p=0.9, generator=g)) for _ in range(6)] for g in generators]
    assert got == RECORDED
    assert sample(logits, temperature=0) == argmax(logits)
    assert sample(logits * np.float32(1e37), temperature=1e-30, generator=generators[0]) == argmax(logits)


RECORDED = [[134, 182, 12, 263, 1, 108], [197, 152, 60, 152, 108, 160], [31, 278, 156, 223, 175, 56]]


def test_sample_draws_with_its_probabilities() -> None:
    generator = np.random.Philox(3)
    logits = np.log(np.float32([[0.5, 0.25, 0.25, 0]]).repeat(4000, 0), where=[True, True, True, False], out=None)
    logits[:, 3] = -np.inf
    counts = np.bincount(sample(logits, generator=generator), minlength=4)
    assert counts[3] == 0
    assert np.abs(counts[:3] / 4000 - [0.5, 0.25, 0.25]).max() < 0.03


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"temperature": -1}, ValueError, "temperature must be finite and at least 0"),
        ({"temperature": "warm"}, TypeError, "temperature must be a number, got str"),
        ({"temperature": [1.0, 2.0]}, TypeError, "temperature must be a number, got list"),
        ({"top_p": "x"}, TypeError, "top_p must be a number, got str"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1"),
        ({"top_k": 2.5}, TypeError, "top_k must be a whole number, got 2.5"),
        ({"top_p": 1.5}, ValueError, r"top_p must lie in \(0, 1\]"),
        ({"generator": None}, ValueError, "generator must be given"),
        ({"generator": [np.random.Philox(0)] * 2}, ValueError, "each of the 1 rows of logits, got 2"),
        ({"generator": np.random.MT19937(0)}, TypeError, "generator must be one of .* got MT19937"),
        ({"generator": 7}, TypeError, "got int"),
        ({"logits": [np.nan, 1.0]}, ValueError, r"logits must not hold NaN, got it first at logits\[0, 0\]"),
        ({"logits": [-np.inf]}, ValueError, "largest value that is finite, got -inf"),
        ({"logits": []}, ValueError, r"logits must have shape \(\.\.\., n\)"),
    ],
)
def test_sample_refuses(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"logits": [1.0, 2.0], "generator": np.random.Philox(0)}
    with pytest.raises(error, match=message):
        sample(**{**given, **arguments})


def test_top_k_and_argmax_refuse() -> None:
    with pytest.raises(ValueError, match="k must be from 1 to 2"):
        top_k([1.0, 2.0], 3)
    with pytest.raises(TypeError, match="k must be a whole number"):
        top_k([1.0, 2.0], 1.0)  # type: ignore[arg-type]
    for call in (lambda x: top_k(x, 1), argmax):
        with pytest.raises(ValueError, match=r"x must not hold NaN, got it first at x\[1, 1\]"):
            call([[1.0, 2.0], [0.0, np.nan]])
