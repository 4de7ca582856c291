"""attention on every kernel, to the bit against its definition in NumPy."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import octavo as oc
from octavo._numerics.attention_definition import attention as defined
from octavo.functional import KVCache, attention

Floats = NDArray[np.float32]


def inputs(t: int, s: int, heads: int, kv_heads: int, dim: int, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    shapes = (t, heads, dim), (s, kv_heads, dim), (s, kv_heads, dim)
    q, k, v = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return q * np.float32(2), k, v


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, except that all NaN are equal."""
    a, b = np.asarray(a), np.asarray(b)
    return bool(a.shape == b.shape and (np.isnan(a) == np.isnan(b)).all() and (a == b)[~np.isnan(a)].all())


def scale_of(dim: int) -> float:
    return float(1 / np.sqrt(dim))


# T, S, H, Hkv, D: tails around tiles of 6 rows, panels of 16 positions and of 16 dimensions.
SHAPES = [
    (1, 1, 1, 1, 1),
    (1, 17, 3, 1, 16),
    (5, 5, 2, 2, 15),
    (7, 16, 4, 2, 17),
    (2, 33, 8, 1, 24),
    (31, 31, 3, 3, 8),
    (9, 40, 7, 1, 64),
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_is_its_definition_on_every_kernel(kernel: str, shape: tuple[int, ...], causal: bool) -> None:
    q, k, v = inputs(*shape)
    assert same(attention(q, k, v, causal=causal), defined(q, k, v, scale=scale_of(shape[4]), causal=causal))


def test_attention_beyond_one_block_of_positions_and_rows(threads: int) -> None:
    q, k, v = inputs(30, 300, 2, 1, 16)
    assert same(attention(q, k, v, causal=True), defined(q, k, v, scale=0.25, causal=True))
    q, k, v = inputs(600, 600, 9, 3, 16)
    y = attention(q, k, v, causal=True)
    for t in (0, 1, 299, 599):
        assert same(y[t : t + 1], attention(q[t : t + 1], k[: t + 1], v[: t + 1]))


MASKS: dict[str, Callable[[np.random.Generator], Any]] = {
    "padding": lambda _: np.arange(21) < 13,
    "none": lambda _: np.zeros((10, 21), bool),
    "all": lambda _: np.ones((4, 1, 21), bool),
    "of a head": lambda rng: rng.random((4, 1, 21)) < 0.5,
    "of a query": lambda rng: rng.random((10, 21)) < 0.3,
    "of both": lambda rng: rng.random((4, 10, 21)) < 0.5,
    "added": lambda rng: rng.standard_normal((4, 10, 21)).astype(np.float32),
    "added to a head": lambda rng: rng.standard_normal((4, 1, 21)),
    "added, with -inf": lambda rng: np.where(rng.random((10, 21)) < 0.5, -np.inf, rng.random(21)).astype(np.float32),
    "NaN and inf": lambda _: np.float32([np.nan] * 3 + [np.inf] + [0] * 17)[:, None].T.repeat(10, 0),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_masked_attention_is_its_definition(name: str, causal: bool) -> None:
    q, k, v = inputs(10, 21, 4, 2, 12)
    mask = np.asarray(MASKS[name](np.random.default_rng(3)))
    numbers = mask if mask.dtype == bool else mask.astype(np.float32)
    v[13:] = np.nan if name == "padding" else v[13:]  # skipped, and not multiplied by zero
    expected = defined(q, k, v, scale=scale_of(12), causal=causal, mask=numbers)
    assert same(attention(q, k, v, causal=causal, mask=mask), expected)
    assert name != "padding" or np.isfinite(expected).all()
    batch = attention(*(np.stack([a, a[::-1]]) for a in (q, k, v)), causal=causal, mask=mask)
    assert same(batch[0], expected)
    assert same(batch[1], attention(q[::-1], k[::-1], v[::-1], causal=causal, mask=mask))


@pytest.mark.parametrize("queries", [0, 3])
@pytest.mark.parametrize("keys", [0, 5])
@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("shape", ["batch", "one", "heads", "last"])
@pytest.mark.parametrize("dtype", [np.bool_, np.float32])
def test_masks_of_no_query_or_no_key(queries: int, keys: int, batch: int, shape: str, dtype: Any) -> None:
    q, k, v = (np.stack([a] * batch) if batch else a[None][:0] for a in inputs(queries, keys, 4, 2, 8))
    whole = (batch, 4, queries, keys)
    chosen = {"batch": whole, "one": (1, *whole[1:]), "heads": whole[1:], "last": whole[2:]}[shape]
    y = attention(q, k, v, mask=np.ones(chosen, dtype))
    assert y.shape == (batch, queries, 4, 8)
    plain = attention(q, k, v) if dtype is np.bool_ else attention(q, k, v, mask=np.ones((queries, keys), dtype))
    assert same(y, plain)


def test_query_that_sees_nothing_gives_zeros() -> None:
    q, k, v = inputs(2, 3, 1, 1, 4)
    assert not attention(q, k, v, mask=np.array([[False] * 3, [True] * 3]))[0].any()
    assert not attention(q, k[:0], v[:0]).any()
    assert attention(q[:0], k, v).shape == (0, 1, 4)


def test_rows_with_nan_or_infinite_products_are_nan_alone() -> None:
    q, k, v = inputs(4, 20, 1, 1, 8)
    q[1, 0, 3] = np.nan
    q[2, 0, 3] = np.inf
    y = attention(q, k, v, causal=True)
    assert same(y, defined(q, k, v, scale=scale_of(8), causal=True))
    assert np.isnan(y).all(axis=(1, 2)).tolist() == [False, True, True, False]


def test_batches_types_layouts_and_out() -> None:
    q, k, v = (np.stack([a, 2 * a]) for a in inputs(5, 9, 4, 2, 8))
    y = attention(q, k, v, causal=True)
    assert same(y, [attention(*(a[i] for a in (q, k, v)), causal=True) for i in range(2)])
    assert same(attention(*(np.asfortranarray(a) for a in (q, k, v)), causal=True), y)
    assert same(attention(q[None], k[None], v[None], causal=True)[0], y)
    half = attention(q.astype(np.float16), k, v)
    assert half.dtype == np.float16
    assert attention(q.astype(np.float64), k, v).dtype == np.float64
    out = np.empty((2, 4, 5, 8), np.float32).swapaxes(1, 2)
    assert attention(q, k, v, causal=True, out=out) is out
    assert same(out, y)
    assert same(attention(q, k, v, causal=True, scale=0), attention(np.zeros_like(q), k, v, causal=True))
    here = q.copy()
    assert same(attention(here, k, v, causal=True, out=here), y)
    here = k.copy()
    assert same(attention(k, here, v, causal=True, out=here), attention(k, k, v, causal=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": np.zeros((4, 8))}, r"q must have shape \(\.\.\., T, H, D\) with D >= 1, got \(4, 8\)"),
        ({"k": np.zeros((6, 2, 7))}, r"k must have shape \(\.\.\., S, Hkv, D\) to fit q \(5, 4, 8\), got \(6, 2, 7\)"),
        ({"v": np.zeros((7, 2, 8))}, r"v must have the shape of k, \(6, 2, 8\), got \(7, 2, 8\)"),
        ({"v": None}, "v must be given"),
        ({"k": np.zeros((6, 3, 8)), "v": np.zeros((6, 3, 8))}, "q's heads must be a multiple .* got 4 and 3"),
        ({"k": np.zeros((6, 0, 8)), "v": np.zeros((6, 0, 8))}, "q's heads must be a multiple .* got 4 and 0"),
        ({"k": np.zeros((3, 2, 8)), "v": np.zeros((3, 2, 8)), "causal": True}, "got 5 queries and 3 keys"),
        ({"mask": np.ones((6, 5), bool)}, r"mask must broadcast to .* = \(4, 5, 6\), got \(6, 5\)"),
        ({"out": np.empty((5, 4, 7), np.float32)}, r"out must have shape \(5, 4, 8\)"),
    ],
    ids=["q", "k", "v", "no v", "heads", "no heads", "causal", "mask", "out"],
)
def test_shapes_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = dict(zip("qkv", inputs(5, 6, 4, 2, 8), strict=True))
    with pytest.raises(ValueError, match=message):
        attention(**{**arguments, **change})


def test_types_that_do_not_fit() -> None:
    q, k, v = inputs(5, 6, 4, 2, 8)
    with pytest.raises(TypeError, match=r"mask must be bool, or floats .* got int64; use mask != 0"):
        attention(q, k, v, mask=np.ones((5, 6), np.int64))
    with pytest.raises(TypeError, match="q must hold real numbers"):
        attention(q + 1j, k, v)
    with pytest.raises(TypeError, match="out must have dtype float32"):
        attention(q, k, v, out=np.empty(q.shape))
    cache = KVCache(1, 6, 2, 8)
    cache.extend(6)
    cache[0].write(k, v)
    for bad, received in (("x", "str"), (1j, "complex"), (True, "bool"), (np.ones(2), "ndarray")):
        for other in ({"k": k, "v": v}, {"k": cache[0]}):
            with pytest.raises(TypeError, match=f"scale must be a number, got {received}"):
                attention(q, **other, scale=bad)  # type: ignore[arg-type]
    for unfit in (np.nan, np.inf, -1e39):
        with pytest.raises(ValueError, match="scale must be finite in float32, got"):
            attention(q, k, v, scale=unfit)
    for no_bool in ("no", None, np.ones(2, np.bool_)):
        with pytest.raises(TypeError, match="causal must be True or False, got"):
            attention(q, cache[0], causal=no_bool)  # type: ignore[arg-type]
    assert same(attention(q, k, v, scale=np.array(0.5), causal=np.True_), attention(q, k, v, scale=0.5, causal=True))  # type: ignore[arg-type]


# ---- caches


def filled(
    parts: list[tuple[Floats, Floats, Floats]], steps: list[list[int]], capacity: int = 48
) -> tuple[KVCache, list[list[Floats]]]:
    """A cache that got each sequence's positions in the steps given, and the results of all queries, by sequence."""
    _, kv_heads, dim = parts[0][1].shape
    cache = KVCache(2, capacity, kv_heads, dim, batch=len(parts))
    results: list[list[Floats]] = [[] for _ in parts]
    for counts in steps:
        before = cache.lengths
        positions = cache.extend(counts)
        assert positions.tolist() == [p for b, n in zip(before, counts, strict=True) for p in range(b, b + n)]
        q, k, v = (
            np.concatenate([part[i][b : b + n] for part, b, n in zip(parts, before, counts, strict=True)])
            for i in range(3)
        )
        cache[1].write(k, v)
        y = attention(q, cache[1], causal=True)
        for into, part in zip(results, np.split(y, np.cumsum(counts)[:-1]), strict=True):
            into.append(part)
    return cache, results


@pytest.mark.slow
@pytest.mark.parametrize("dim", [8, 20])
def test_prompt_at_once_token_by_token_and_in_a_batch_give_the_same_bits(kernel: str, threads: int, dim: int) -> None:
    lengths = [19, 1, 34]
    parts = [inputs(n, n, 6, 2, dim, seed=n) for n in lengths]
    expected = [attention(*part, causal=True) for part in parts]
    chunks = [[7, 1, 17], [12, 0, 1], [0, 0, 16]]
    tokens = [[int(i < n) for n in lengths] for i in range(max(lengths))]
    for steps in ([lengths], chunks, tokens):
        cache, results = filled(parts, steps)
        for i, (part, result) in enumerate(zip(parts, results, strict=True)):
            assert same(np.concatenate(result), expected[i])
            assert same(cache[1].keys(i), part[1])
            assert same(cache[1].values(i), part[2])
            alone, (one,) = filled([part], [[n] for n in (1, lengths[i] - 1)])
            assert same(np.concatenate(one), expected[i])
            assert same(attention(part[0], alone[1]), attention(*part))


def test_cache_of_even_batches_takes_a_batch_axis() -> None:
    q, k, v = (np.stack([a, -a]) for a in inputs(5, 5, 4, 2, 8))
    cache = KVCache(1, 16, 2, 8, batch=2)
    cache.extend(5)
    cache[0].write(k.astype(np.float64), v[:, ::1])
    assert same(attention(q, cache[0], causal=True), attention(q, k, v, causal=True))
    assert same(attention(q[:, :3], cache[0]), attention(q[:, :3], k, v))
    assert same(attention(q[:, 3:], cache[0], causal=True), attention(q[:, 3:], k, v, causal=True))
    out = np.empty_like(q)
    assert attention(q, cache[0], causal=True, out=out) is out
    assert attention(q.astype(np.float16), cache[0]).dtype == np.float16
    with pytest.raises(ValueError, match=r"got \[6, 6\] queries and \[5, 5\] positions"):
        attention(np.zeros((2, 6, 4, 8), np.float32), cache[0], causal=True)


def test_views_of_one_product_are_taken_as_they_are() -> None:
    joined = np.concatenate(inputs(6, 6, 4, 2, 8), axis=1)
    q, k, v = (joined[:, part] for part in (slice(0, 4), slice(4, 6), slice(6, 8)))
    expected = attention(q.copy(), k.copy(), v.copy(), causal=True)
    cache = KVCache(1, 16, 2, 8)
    cache.extend(6)
    cache[0].write(k, v)
    assert same(attention(q, cache[0], causal=True), expected)
    assert same(attention(q, k, v, causal=True), expected)
    wide = np.full((6, 9, 10), 7, np.float32)
    assert same(attention(q, cache[0], causal=True, out=wide[:, 2:6, 1:9]), expected)
    assert same(wide[:, 2:6, 1:9], expected)
    wide[:, 2:6, 1:9] = 7
    assert (wide == 7).all()
    reversed_heads = joined[:, 3::-1]
    assert same(attention(reversed_heads[:, ::-1], cache[0], causal=True), expected)
    tangled = joined.copy()
    y = attention(tangled[:, :4], cache[0], causal=True, out=tangled[:, 1:5])
    assert same(y, expected)


def test_cache_refuses_what_exceeds_it_and_stays_as_it_was() -> None:
    cache = KVCache(layers=2, capacity=4, kv_heads=1, head_dim=3, batch=2)
    assert (len(cache), cache.nbytes) == (2, 2 * 2 * (16 * 3 + 16 * 16) * 4)
    cache.extend([3, 1])
    with pytest.raises(ValueError, match="sequence 0 has 3 positions, and 2 more exceed the capacity of 4"):
        cache.extend([2, 1])
    with pytest.raises(ValueError, match=r"counts must have shape \(2,\)"):
        cache.extend([1, 1, 1])
    with pytest.raises(ValueError, match="counts must not be negative"):
        cache.extend([1, -1])
    with pytest.raises(TypeError, match="counts must be whole numbers"):
        cache.extend(1.0)  # type: ignore[arg-type]
    assert (cache.lengths.tolist(), cache.counts.tolist()) == ([3, 1], [3, 1])
    with pytest.raises(ValueError, match=r"k must have shape \(4, 1, 3\), a row for each position .* got \(3, 1, 3\)"):
        cache[0].write(np.zeros((3, 1, 3)), np.zeros((4, 1, 3)))
    with pytest.raises(ValueError, match="layer 0 lacks the positions of the last extend"):
        attention(np.zeros((4, 1, 3)), cache[0])
    with pytest.raises(ValueError, match="lengths must be at most those there are, got 4 for sequence 0 of 3"):
        cache.truncate(4)


def test_cache_truncates_reuses_and_recovers_from_an_interrupted_pass() -> None:
    q, k, v = inputs(9, 9, 2, 1, 8)
    cache = KVCache(2, 9, 1, 8)
    cache.extend(6)
    for layer in (cache[0], cache[1]):
        layer.write(k[:6], v[:6])
    before = cache.lengths
    cache.extend(3)
    cache[0].write(k[:3], v[:3])  # interrupted: layer 1 never gets its part
    cache.truncate(before)
    cache.extend(3)
    for i in range(2):
        cache[i].write(k[6:], v[6:])
        assert same(attention(q[6:], cache[i], causal=True), attention(q, k, v, causal=True)[6:])
    cache.truncate(2)
    cache.extend(1)
    with pytest.raises(ValueError, match="layer 0 lacks the positions"):
        attention(q[:1], cache[0], causal=True)
    cache.extend(1)
    with pytest.raises(ValueError, match=r"layer 0 lacks positions of an earlier extend\(\)"):
        cache[0].write(k[3:4], v[3:4])
    cache.truncate(0)
    assert cache.lengths.tolist() == [0]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_copies_of_a_cache_go_their_own_ways(copied: Callable[[KVCache], KVCache]) -> None:
    q, k, v = inputs(4, 4, 2, 1, 8)
    cache = KVCache(2, 9, 1, 8)
    cache.extend(3)
    cache[1].write(k[:3], v[:3])
    other = copied(cache)
    for one, sign in ((cache, 1), (other, -1)):
        one.extend(1)
        one[1].write(sign * k[3:], sign * v[3:])
    assert same(attention(q, cache[1], causal=True), attention(q, k, v, causal=True))
    assert same(attention(q[:3], other[1])[:1], attention(q[:1], *(np.append(a[:3], -a[3:], axis=0) for a in (k, v))))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies_of_a_cache_hold_what_was_written_of_its_capacity(copied: Callable[[Any], Any]) -> None:
    _, k, v = inputs(19, 19, 2, 1, 20)
    cache = KVCache(2, 10000, 1, 20, batch=2)
    cache.extend([17, 2])
    cache[0].write(k, v)
    cache[1].write(-k, -v)
    assert len(pickle.dumps(cache)) < cache.nbytes // 100
    other = copied(cache)
    cache.truncate(0)
    assert (repr(other), other.nbytes) == (repr(cache).replace("[0, 0]", "[17, 2]"), cache.nbytes)
    assert other.counts.tolist() == [17, 2]
    for i, sign in enumerate((1, -1)):
        assert same(np.concatenate([other[i].keys(0), other[i].keys(1)]), sign * k)
        assert same(np.concatenate([other[i].values(0), other[i].values(1)]), sign * v)
    assert not other._keys[0, 1, :, 1:].any()
    layer = copied(other[1])
    assert layer.cache[1] is layer
    assert same(layer.keys(), -k[:17])


@pytest.mark.parametrize(
    ("q", "arguments", "message"),
    [
        (np.zeros((3, 4, 7)), {}, r"q must have shape \(\.\.\., H, 8\)"),
        (np.zeros((3, 3, 8)), {}, "got 3 and 2"),
        (np.zeros((4, 4, 8)), {}, r"q must have shape \(3, H, D\), a row for each position .* \(2, T, H, D\)"),
        (np.zeros((3, 4, 8)), {"v": np.zeros(3)}, "v and mask must be omitted"),
    ],
    ids=["dimensions", "heads", "rows", "v"],
)
def test_queries_that_do_not_fit_a_cache(q: Any, arguments: dict[str, Any], message: str) -> None:
    cache = KVCache(1, 4, 2, 8, batch=2)
    cache.extend([2, 1])
    cache[0].write(np.zeros((3, 2, 8)), np.zeros((3, 2, 8)))
    with pytest.raises(ValueError, match=message):
        attention(q, cache[0], **arguments)


@pytest.mark.parametrize("name", ["layers", "capacity", "kv_heads", "head_dim", "batch"])
def test_cache_sizes_must_be_positive_whole_numbers(name: str) -> None:
    sizes: dict[str, Any] = {"layers": 1, "capacity": 1, "kv_heads": 1, "head_dim": 1, "batch": 1}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        KVCache(**{**sizes, name: 0})
    with pytest.raises(TypeError, match=f"{name} must be a whole number, got 1.5"):
        KVCache(**{**sizes, name: 1.5})


def test_every_kernel_of_this_machine_is_tested() -> None:
    assert [k.name for k in oc.kernels() if k.supported][-1] == "scalar"
