"""QuantLinear with int4 weights: bits against the NumPy definition, options, copies, pickles, wrong input."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import octavo as oc
from octavo._numerics.int4 import GroupedWeight, pack_int4
from octavo._numerics.rounding import round_nearest
from reference import F, assert_same_bits, expected_of, hard_rows, random_int4_layer

BATCHES = [0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65]
SIZES = [(1, 1), (31, 17), (32, 5), (33, 16), (63, 15), (64, 31), (65, 8), (127, 9), (128, 33), (129, 32), (300, 10)]
GROUPS = [32, 64, 96, 128, None]


def grouped(q: np.ndarray, scale: object = 1.0, *, zero_point: object = None, group_size: int | None = None):
    groups = -(-q.shape[1] // group_size) if group_size else 1
    zeros = None if zero_point is None else np.full((q.shape[0], groups), zero_point, np.int8)
    return GroupedWeight(q, np.full((q.shape[0], groups), scale, F), zeros, group_size, "float32")


# the definition, to the bit


@pytest.mark.slow
@pytest.mark.parametrize("group_size", GROUPS, ids=lambda g: f"g{g}")
@pytest.mark.parametrize("symmetric", [True, False], ids=["weights", "weights-with-zero-points"])
@pytest.mark.parametrize("activation", ["symmetric", "asymmetric"])
def test_call_equals_the_definition(kernel: str, activation: str, symmetric: bool, group_size: int | None) -> None:
    options = {"activation": activation, "symmetric": symmetric}
    for i, (k, n) in enumerate(SIZES):
        float16, relu, bias = "float16" if i % 2 else "float32", i % 3 == 0, i % 4 != 0
        layer = random_int4_layer(k, n, group_size, k, scale_dtype=float16, relu=relu, bias=bias, **options)
        x = hard_rows(65, k, seed=i)
        expected = expected_of(layer, x)
        for m in BATCHES:  # row i alone is row i of any batch
            assert_same_bits(layer(x[:m]), expected[:m], f"{kernel} {m}x{k}x{n}")
        for m in range(0, 65, 7):
            assert_same_bits(layer(x[m : m + 1]), expected[m : m + 1], f"{kernel} row {m}, {k}x{n}")


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False], ids=["weights", "weights-with-zero-points"])
@pytest.mark.parametrize("k", [1000, 2177, 2500])
@pytest.mark.parametrize("group_size", [512, 1024, 2176, None], ids=lambda g: f"g{g}")
def test_call_with_long_groups_equals_the_definition(kernel: str, group_size: int | None, k: int, symmetric) -> None:
    layer = random_int4_layer(k, 18, group_size, k, symmetric=symmetric, activation="asymmetric")
    x = hard_rows(60, k)
    expected = expected_of(layer, x)
    for m in (1, 4, 17, 60):
        assert_same_bits(layer(x[:m]), expected[:m], f"{kernel} {m} rows")


@pytest.mark.slow
def test_call_gives_the_same_bits_with_any_number_of_threads(kernel: str, threads: int) -> None:
    for m, k, n in [(1, 2100, 1000), (3, 1100, 700), (150, 130, 190), (400, 64, 80)]:
        layer = random_int4_layer(k, n, 64, symmetric=False, activation="asymmetric")
        x = hard_rows(m, k)
        assert_same_bits(layer(x), expected_of(layer, x), f"{threads} threads, {kernel} {m}x{k}x{n}")


@pytest.mark.slow
@pytest.mark.parametrize("zero_point", [None, -8, 7])
@pytest.mark.parametrize("group_size", [32, 128, None])
def test_call_with_extreme_integers_is_exact(kernel: str, group_size: int | None, zero_point: int | None) -> None:
    """Rows at the limits of int8 against weights at the limits of int4: the sums that saturate elsewhere."""
    k = 768
    for value, activation in itertools.product((-8, 7), ("symmetric", "asymmetric")):
        weight = grouped(np.full((20, k), value, np.int8), zero_point=zero_point, group_size=group_size)
        layer = oc.QuantLinear.from_grouped(weight, activation=activation)
        x = np.full((40, k), 127, F)
        x[1::2] = -127
        x[2:, 0] = -128  # all of -128 to 127 in one row, where it is asymmetric
        assert_same_bits(layer(x), expected_of(layer, x))
        np.testing.assert_array_equal(layer(x[:1]), F(127 * (value - (zero_point or 0)) * k))


def test_groups_are_added_in_order_in_float32(kernel: str) -> None:
    scale = F([[1e8, 1, -1e8, 1]])
    weight = GroupedWeight(np.ones((1, 128), np.int8), scale, None, 32, "float32")
    layer = oc.QuantLinear.from_grouped(weight)
    x = np.ones((50, 128), F)
    sums = F(32 * 127)
    expected = (((sums * F(1e8) + sums) + sums * F(-1e8)) + sums) * F(F(1) / F(127))
    for m in (1, 5, 50):
        assert_same_bits(layer(x[:m]), np.full((m, 1), expected, F))


@pytest.mark.slow
@settings(deadline=None, max_examples=120)
@given(
    m=st.integers(0, 40),
    k=st.integers(1, 200),
    n=st.integers(0, 40),
    group_size=st.sampled_from(GROUPS),
    flags=st.tuples(*[st.booleans()] * 3),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["C", "F", "strided", "float64", "out"]),
)
def test_call_equals_the_definition_for_any_shape(m, k, n, group_size, flags, seed, kind) -> None:
    symmetric, float16, asymmetric = flags
    options = {"scale_dtype": "float16" if float16 else "float32", "symmetric": symmetric}
    activation = "asymmetric" if asymmetric else "symmetric"
    layer = random_int4_layer(k, n, group_size, seed, activation=activation, **options)
    x = hard_rows(m, k, seed)
    views = {"F": np.asfortranarray(x), "strided": np.repeat(x, 2, 1)[:, ::2], "float64": x.astype(float)}
    out = np.empty((2 * m, n + 3), F)[::2, 1:-2] if kind == "out" else None
    assert_same_bits(np.array(layer(views.get(kind, x), out=out)).astype(F), expected_of(layer, x))


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.parametrize("m", [0, 4])
def test_call_with_zero_size_dimensions(kernel: str, m: int, k: int, n: int) -> None:
    for relu in (False, True):
        bias = np.array([-1.5, 2], F)[:n]
        layer = oc.QuantLinear(np.ones((n, k), F), bias, dtype="int4", group_size=32, relu=relu)
        y = layer(np.ones((m, k), F))
        assert y.shape == (m, n)
        if k == 0:
            np.testing.assert_array_equal(y, np.broadcast_to(np.maximum(bias, 0) if relu else bias, (m, n)))


# the object


@pytest.mark.parametrize("rounding", [None, "nearest", "search"])
@pytest.mark.parametrize("scale_dtype", ["float32", "float16"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, None])
def test_init_rounds_the_weights(group_size, symmetric: bool, scale_dtype, rounding) -> None:
    w = np.random.default_rng(0).standard_normal((20, 100), dtype=F) + F(0 if symmetric else 0.5)
    options = {"group_size": group_size, "symmetric": symmetric, "scale_dtype": scale_dtype}
    layer = oc.QuantLinear(w, dtype="int4", rounding=rounding, **options)
    assert (layer.dtype, layer.group_size, layer.symmetric, layer.scale_dtype) == (oc.qint4, *options.values())
    rms = float(np.sqrt(np.mean((layer.weight - w) ** 2)))
    assert rms <= float(np.sqrt(np.mean((round_nearest(w, **options).dequantize() - w) ** 2))) * 1.0001
    assert rms < 0.17
    assert np.any(layer.zero_point) != symmetric
    if scale_dtype == "float16":
        np.testing.assert_array_equal(layer.scale, layer.scale.astype(np.float16))


def test_attributes_describe_the_layer() -> None:
    layer = random_int4_layer(100, 10, 32, symmetric=False)
    assert (layer.in_features, layer.out_features, layer.dtype) == (100, 10, oc.qint4)
    assert layer.int_repr().shape == (10, 100)
    assert layer.int_repr().dtype == np.int8
    assert layer.scale.shape == layer.zero_point.shape == (10, 4)
    assert (layer.scale.dtype, layer.zero_point.dtype) == (F, np.int32)
    for array in (layer.weight, layer.scale, layer.zero_point, layer.bias):
        assert not array.flags.writeable
    spread = np.repeat(layer.scale, 32, 1)[:, :100], np.repeat(layer.zero_point, 32, 1)[:, :100]
    assert_same_bits(layer.weight, (layer.int_repr() - spread[1]).astype(F) * spread[0])
    text = "QuantLinear(100 -> 10, int4, group_size=32, symmetric=False, activation=symmetric, bias)"
    assert repr(layer) == text
    half = random_int4_layer(64, 2, None, scale_dtype="float16", bias=False, relu=True)
    assert repr(half) == "QuantLinear(64 -> 2, int4, scale_dtype=float16, activation=symmetric, relu)"


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"group_size": 128}, 4 + 32 / 128),
        ({"group_size": 32}, 4 + 32 / 32),
        ({"group_size": 32, "scale_dtype": "float16"}, 4 + 16 / 32),
        ({"group_size": 32, "symmetric": False}, 4 + 40 / 32),
        ({"group_size": 32, "activation": "asymmetric"}, 4 + 48 / 32),
    ],
    ids=str,
)
def test_nbytes_is_what_the_options_take(options, bits: float) -> None:
    layer = oc.QuantLinear(np.ones((256, 1024), F), dtype="int4", rounding="nearest", **options)
    assert 256 * 1024 * bits / 8 <= layer.nbytes <= 256 * 1024 * bits / 8 + 2048


CLONES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda a: pickle.loads(pickle.dumps(a))}


@pytest.mark.parametrize("clone", CLONES.values(), ids=CLONES)
@pytest.mark.parametrize("symmetric", [True, False], ids=["weights", "weights-with-zero-points"])
@pytest.mark.parametrize("scale_dtype", ["float32", "float16"])
@pytest.mark.parametrize("k", [63, 64])
def test_clone_gives_the_same_bits(clone, symmetric: bool, scale_dtype: str, k: int) -> None:
    options = {"activation": "asymmetric", "relu": True, "call": "apply"}
    layer = random_int4_layer(k, 20, 32, symmetric=symmetric, scale_dtype=scale_dtype, **options)
    twin = clone(layer)
    x = hard_rows(20, k)
    assert_same_bits(twin.apply(x), layer(x))
    assert repr(twin) == repr(layer)
    assert twin.nbytes == layer.nbytes


def test_pickle_holds_two_weights_a_byte() -> None:
    layer = oc.QuantLinear(np.random.default_rng(0).standard_normal((64, 256)), dtype="int4", group_size=64)
    assert len(pickle.dumps(layer)) < 64 * 128 + 64 * 4 * 4 + 2000
    np.testing.assert_array_equal(layer._state()["weight"], pack_int4(layer.int_repr()))


def test_pickle_of_format_2_loads() -> None:
    eight, four = pickle.loads((Path(__file__).parents[1] / "data" / "quant_linear_v2.pickle").read_bytes())
    assert repr(eight) == "QuantLinear(8 -> 4, int8, activation=symmetric)"
    np.testing.assert_array_equal(eight.int_repr(), np.arange(-128, 128, 8).reshape(4, 8))
    np.testing.assert_array_equal(eight.scale, F([0.5, 1, 2, 4]))
    options = "group_size=32, symmetric=False, scale_dtype=float16, activation=asymmetric, bias, relu"
    assert repr(four) == f"QuantLinear(70 -> 5, int4, {options})"
    np.testing.assert_array_equal(four.int_repr(), (np.arange(350) * 7 % 16 - 8).reshape(5, 70))
    np.testing.assert_array_equal(four.scale, (np.arange(15).reshape(5, 3) - 7.5) / 16)
    np.testing.assert_array_equal(four.zero_point, (np.arange(15) % 16 - 8).reshape(5, 3))
    x = hard_rows(5, 70)
    assert_same_bits(four.apply(x), expected_of(four, x))


def test_pickle_of_a_later_version_is_refused() -> None:
    function, (state,) = random_int4_layer(32, 2, 32).__reduce__()
    with pytest.raises(ValueError, match="format 8, this octavo reads 1 to 7"):
        function(state | {"version": 8})


# wrong input


@pytest.mark.parametrize(
    ("weight", "options", "error", "words"),
    [
        (np.ones((3, 64)), {"group_size": 48}, ValueError, "multiple of 32.*got 48"),
        (np.ones((3, 64)), {"group_size": 0}, ValueError, "multiple of 32.*got 0"),
        (np.ones((3, 64)), {"group_size": -32}, ValueError, "got -32"),
        (np.ones((3, 64)), {"group_size": 32.0}, TypeError, "group_size must be a whole number"),
        (np.ones((3, 64)), {"group_size": True}, TypeError, "group_size must be a whole number"),
        (np.ones((3, 64)), {"scale_dtype": "float64"}, ValueError, '"float32" or "float16", got .float64'),
        (np.ones((3, 64)), {"rounding": "up"}, ValueError, "rounding must be one of.*got 'up'"),
        (np.ones((3, 64)), {"dtype": "uint4"}, ValueError, '"int8" or "int4", got quint4'),
        (np.ones(4), {}, ValueError, r"2-D \(out, in\), got shape \(4,\)"),
        (np.ones((3, 4), complex), {}, TypeError, "complex"),
        (np.array([[1.0, np.nan]]), {}, ValueError, "NaN|finite"),
        (np.ones((3, 4)), {"bias": np.ones(4)}, ValueError, r"shape \(3,\).*got \(4,\)"),
        (np.ones((3, 4)), {"activation": "tanh"}, ValueError, "symmetric"),
        (np.ones((3, 4)), {"call": "not a name"}, ValueError, "method"),
    ],
)
def test_init_refuses_what_it_cannot_take(weight, options, error, words: str) -> None:
    with pytest.raises(error, match=words):
        oc.QuantLinear(weight, **{"dtype": "int4"} | options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group_size": 32}, "group_size=32 is for int4"),
        ({"symmetric": False}, "symmetric=False is for int4"),
        ({"scale_dtype": "float16"}, "scale_dtype=float16 is for int4"),
        ({"rounding": "search"}, "rounding=search is for int4"),
    ],
    ids=str,
)
def test_init_of_int8_refuses_options_of_int4(options, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        oc.QuantLinear(np.ones((3, 64)), **options)
    assert oc.QuantLinear(np.ones((3, 64)), rounding="nearest").group_size is None


def test_from_grouped_refuses_what_the_kernels_do_not_take() -> None:
    with pytest.raises(TypeError, match="GroupedWeight or GroupedCodes, got ndarray"):
        oc.QuantLinear.from_grouped(np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"multiple of 32.*got 16"):
        oc.QuantLinear.from_grouped(grouped(np.ones((3, 64), np.int8), group_size=16))
    with pytest.raises(ValueError, match=r"bias must have shape \(3,\)"):
        oc.QuantLinear.from_grouped(grouped(np.ones((3, 64), np.int8)), np.ones(2))


BOUNDS = {(False, False): 2_097_151, (True, False): 1_052_688, (False, True): 1_118_481, (True, True): 561_433}


@pytest.mark.slow
@pytest.mark.parametrize(("wide", "bound"), BOUNDS.items(), ids=str)
def test_in_features_of_a_group_are_bounded(kernel: str, wide: tuple[bool, bool], bound: int) -> None:
    activation, zero_point = "asymmetric" if wide[0] else "symmetric", 7 if wide[1] else None
    layer = oc.QuantLinear.from_grouped(
        grouped(np.full((1, bound), -8, np.int8), zero_point=zero_point), activation=activation
    )
    x = np.full((1, bound), -5, F)
    x[0, 0] = 5 if activation == "symmetric" else 0
    assert_same_bits(layer(x), expected_of(layer, x))
    long = np.zeros((1, bound + 1), np.int8)
    with pytest.raises(ValueError, match=f"up to {bound} with activation={activation!r}. Choose smaller groups"):
        oc.QuantLinear.from_grouped(grouped(long, zero_point=zero_point), activation=activation)
    oc.QuantLinear.from_grouped(grouped(long, zero_point=zero_point, group_size=1024), activation=activation)
