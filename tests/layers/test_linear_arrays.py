"""QuantLinear on arrays of every layout and dtype, into every kind of out=, and on wrong input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import octavo as oc
from reference import F, assert_same_bits, expected_of, hard_rows, random_layer

# arrays of every kind


def misaligned(a: np.ndarray) -> np.ndarray:
    buffer = np.zeros(a.nbytes + 1, np.uint8)
    b = np.frombuffer(buffer.data, a.dtype, a.size, offset=1).reshape(a.shape)
    np.copyto(b, a)
    return b


VIEWS = {
    "contiguous": lambda a: a,
    "fortran": np.asfortranarray,
    "row-strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "column-strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "reversed-rows": lambda a: a[::-1].copy()[::-1],
    "wider-rows": lambda a: np.pad(a, ((0, 0), (3, 5)))[:, 3:-5],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "misaligned": misaligned,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "subclass": lambda a: a.view(np.recarray),
    "list": lambda a: a.tolist(),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_call_takes_any_memory_layout(layer: oc.QuantLinear, view) -> None:
    x = view(hard_rows(7, 24)[2:3].repeat(7, axis=0) if view is VIEWS["broadcast"] else np.ones((7, 24), F) * 3)
    x_plain = np.array(x, dtype=F)
    assert_same_bits(np.asarray(layer(x), F), expected_of(layer, x_plain))


def test_call_leaves_read_only_input_as_it_was(layer: oc.QuantLinear) -> None:
    x = hard_rows(9, 24)
    before = x.copy()
    x.flags.writeable = False
    layer(x)
    assert_same_bits(x, before)


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (np.float16, np.float16),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.longdouble, np.longdouble),
        (np.int8, np.float32),
        (np.uint64, np.float32),
        (np.bool_, np.float32),
        (">f8", np.float64),
    ],
)
def test_call_gives_its_float_dtype_back(layer: oc.QuantLinear, dtype, result) -> None:
    x = np.random.default_rng(0).integers(0, 2, (5, 24)).astype(dtype)
    y = layer(x)
    assert y.dtype == result
    np.testing.assert_array_equal(y, expected_of(layer, x.astype(F)).astype(result))


def test_call_of_float64_beyond_float32_gives_nan_rows(layer: oc.QuantLinear) -> None:
    x = np.ones((2, 24))
    x[1, 3] = 1e300
    y = layer(x)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()


@pytest.mark.parametrize("shape", [(24,), (1, 24), (2, 3, 24), (2, 0, 24), (0, 24), (1, 1, 1, 24)], ids=str)
def test_call_keeps_leading_dimensions(layer: oc.QuantLinear, shape) -> None:
    x = np.random.default_rng(0).standard_normal(shape, dtype=F)
    for given_x in (x, x.astype(np.float64)):
        y = layer(given_x)
        assert y.shape == (*shape[:-1], 10)
        np.testing.assert_array_equal(y.reshape(-1, 10), expected_of(layer, x.reshape(-1, 24)))


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.parametrize("m", [0, 4])
def test_call_with_zero_size_dimensions(kernel: str, m: int, k: int, n: int) -> None:
    for relu in (False, True):
        bias = np.array([-1.5, 2], F)[:n]
        layer = oc.QuantLinear(np.ones((n, k), F), bias, relu=relu)
        y = layer(np.ones((m, k), F))
        assert y.shape == (m, n)
        if k == 0:
            np.testing.assert_array_equal(y, np.broadcast_to(np.maximum(bias, 0) if relu else bias, (m, n)))


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(
    m=st.integers(0, 40),
    k=st.integers(0, 80),
    n=st.integers(0, 40),
    asymmetric=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["C", "F", "strided", "float64"]),
)
def test_call_equals_the_definition_for_any_shape(m, k, n, asymmetric, seed, kind) -> None:
    layer = random_layer(k, n, seed, activation="asymmetric" if asymmetric else "symmetric")
    x = hard_rows(m, k, seed) if k else np.zeros((m, 0), F)
    views = {"C": x, "F": np.asfortranarray(x), "strided": np.repeat(x, 2, 1)[:, ::2], "float64": x.astype(float)}
    assert_same_bits(layer(views[kind]).astype(F), expected_of(layer, x))


# out=


OUTS = {
    "contiguous": lambda shape: np.empty(shape, F),
    "fortran": lambda shape: np.empty(shape, F, order="F"),
    "row-strided": lambda shape: np.empty((2 * shape[0], *shape[1:]), F)[::2],
    "column-strided": lambda shape: np.empty((*shape[:-1], 2 * shape[-1]), F)[..., ::2],
    "reversed": lambda shape: np.empty(shape, F)[::-1],
    "column-slice": lambda shape: np.empty((*shape[:-1], shape[-1] + 7), F)[..., 3:-4],
    "misaligned": lambda shape: misaligned(np.empty(shape, F)),
}


@pytest.mark.parametrize("shape", [(6, 24), (24,), (2, 3, 24)], ids=str)
@pytest.mark.parametrize("make", OUTS.values(), ids=OUTS)
def test_out_of_any_strides_is_filled_and_returned(layer: oc.QuantLinear, make, shape) -> None:
    x = np.random.default_rng(0).standard_normal(shape, dtype=F)
    out = make((*shape[:-1], 10))
    assert layer(x, out=out) is out
    assert_same_bits(np.array(out), layer(x))


def test_out_leaves_its_surroundings(layer: oc.QuantLinear) -> None:
    base = np.full((20, 30), 7, F)
    layer(hard_rows(9, 24), out=base[3:12, 5:15])
    base[3:12, 5:15] = 7
    np.testing.assert_array_equal(base, 7)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_out_has_the_dtype_of_the_result(layer: oc.QuantLinear, dtype) -> None:
    x = np.ones((3, 24), dtype)
    out = np.empty((3, 10), dtype)
    layer(x, out=out)
    np.testing.assert_array_equal(out, layer(x))


def test_out_may_overlap_x() -> None:
    square = random_layer(24, 24)
    x = hard_rows(30, 24)
    expected = square(x)
    assert_same_bits(square(x, out=x), expected)
    base = np.zeros((31, 24), F)
    base[:30] = hard_rows(30, 24)
    assert_same_bits(square(base[:30], out=base[1:]), expected)


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (np.empty((3, 11), F), ValueError, r"shape \(3, 10\).*got \(3, 11\)"),
        (np.empty((30,), F), ValueError, r"shape \(3, 10\).*got \(30,\)"),
        (np.empty((3, 10)), TypeError, "dtype float32.*got float64"),
        (np.empty((3, 10), ">f4"), TypeError, "dtype float32.*got >f4"),
        ([[0.0] * 10] * 3, TypeError, "numpy array, got list"),
        (np.broadcast_to(F(0), (3, 10)), ValueError, "read-only"),
        (np.ma.masked_array(np.zeros((3, 10), F), True), TypeError, "out must not be a masked array"),
    ],
    ids=["wide", "flat", "float64", "big-endian", "list", "read-only", "masked"],
)
def test_out_that_does_not_fit_is_refused(layer: oc.QuantLinear, out, error, words: str) -> None:
    with pytest.raises(error, match=words):
        layer(np.ones((3, 24), F), out=out)


# wrong input


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.ones((3, 23), F), ValueError, r"\(\.\.\., 24\).*got \(3, 23\)"),
        (np.ones((24, 3), F), ValueError, r"\(\.\.\., 24\).*got \(24, 3\)"),
        (np.float32(1), ValueError, r"got \(\)"),
        (np.ones((3, 24), complex), TypeError, "complex128"),
        (np.ones((3, 24), object), TypeError, "object"),
        (np.full((3, 24), "1"), TypeError, "<U1"),
        (np.full((3, 24), "2020", "datetime64[Y]"), TypeError, "datetime64"),
        (np.ma.masked_array(np.ones((3, 24), F)), TypeError, "masked"),
        (None, TypeError, "object"),
    ],
    ids=["narrow", "transposed", "scalar", "complex", "object", "strings", "dates", "masked", "none"],
)
def test_call_refuses_x_that_does_not_fit(layer: oc.QuantLinear, x, error, words: str) -> None:
    with pytest.raises(error, match=words):
        layer(x)


@pytest.mark.parametrize(
    ("weight", "options", "error", "words"),
    [
        (np.ones(4), {}, ValueError, r"2-D \(out, in\), got shape \(4,\)"),
        (np.ones((3, 4, 5)), {}, ValueError, r"got shape \(3, 4, 5\)"),
        (np.ones((3, 4), complex), {}, TypeError, "complex"),
        (np.ones((3, 4), object), {}, TypeError, "object"),
        ([["a"]], {}, TypeError, "<U1"),
        (np.ma.ones((3, 4)), {}, TypeError, r"weight must not be a masked array.*weight\.filled"),
        (np.ones((3, 4)), {"bias": np.ma.ones(3)}, TypeError, "bias must not be a masked array"),
        ([[1.0, np.nan]], {}, ValueError, "NaN"),
        ([[np.inf, 1.0]], {}, ValueError, "inf"),
        (np.array([[1e300]]), {}, ValueError, "float32"),
        (np.ones((3, 4)), {"bias": np.ones(4)}, ValueError, r"shape \(3,\).*got \(4,\)"),
        (np.ones((3, 4)), {"bias": np.ones((3, 1))}, ValueError, r"got \(3, 1\)"),
        (np.ones((3, 4)), {"bias": [1, 2, np.nan]}, ValueError, r"finite.*bias\[2\]"),
        (np.ones((3, 4)), {"bias": np.array([1, 2, 1j])}, TypeError, "complex"),
        (np.ones((3, 4)), {"dtype": "int7"}, ValueError, "int7"),
        (np.ones((3, 4)), {"dtype": "uint8"}, ValueError, 'must be "int8" or "int4", got quint8'),
        (np.ones((3, 4)), {"activation": "tanh"}, ValueError, "symmetric"),
        (np.ones((3, 4)), {"call": "not a name"}, ValueError, "method"),
        (np.zeros((1, 131_072), F), {}, ValueError, "131071"),
        (np.zeros((1, 65_794), F), {"activation": "asymmetric"}, ValueError, "65793"),
    ],
)
def test_init_refuses_what_it_cannot_take(weight, options, error, words: str) -> None:
    with pytest.raises(error, match=words):
        oc.QuantLinear(weight, **options)


@pytest.mark.parametrize(("k", "activation"), [(131_071, "symmetric"), (65_793, "asymmetric")])
def test_call_at_the_exact_bound(kernel: str, k: int, activation: str) -> None:
    layer = oc.QuantLinear.from_quantized(np.full((1, k), -128, np.int8), 1.0, activation=activation)
    x = np.full((1, k), -5, F)
    x[0, 0] = 5 if activation == "symmetric" else 0
    assert_same_bits(layer(x), expected_of(layer, x))


def test_from_quantized_refuses_bad_scales_and_types() -> None:
    q = np.ones((2, 3), np.int8)
    for scale in ([1, 0], [1, -1], [1, np.nan], [np.inf, 1], [1, 2, 3], np.ones((2, 1))):
        with pytest.raises(ValueError, match="scale must"):
            oc.QuantLinear.from_quantized(q, scale)
    with pytest.raises(TypeError, match="int8 array, got dtype float64"):
        oc.QuantLinear.from_quantized(np.ones((2, 3)), 1.0)


def test_from_quantized_raises_tiny_scales() -> None:
    layer = oc.QuantLinear.from_quantized(np.ones((1, 1), np.int8), 1e-40)
    assert layer.scale[0] == np.finfo(F).tiny


@pytest.mark.parametrize("dtype", ["int8", "qint8", oc.qint8, np.int8, np.dtype("int8")], ids=repr)
def test_init_takes_every_spelling_of_int8(dtype) -> None:
    assert oc.QuantLinear(np.eye(2, dtype=F), dtype=dtype).dtype is oc.qint8


def test_from_float_reads_weight_and_bias() -> None:
    source = oc.nn.Linear(np.eye(3, dtype=F), np.arange(3, dtype=F))
    layer = oc.QuantLinear.from_float(source, activation="asymmetric")
    np.testing.assert_array_equal(layer.bias, source.bias)
    assert layer.activation == "asymmetric"
    with pytest.raises(TypeError, match="int without"):
        oc.QuantLinear.from_float(3)


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(
    weight_shape=st.lists(st.integers(0, 4), max_size=3).map(tuple),
    bias_shape=st.none() | st.lists(st.integers(0, 4), max_size=2).map(tuple),
    x_shape=st.lists(st.integers(0, 4), max_size=3).map(tuple),
    dtypes=st.tuples(*[st.sampled_from(["f4", "f8", ">f4", "i2", "?", "c8", "O", "U1"])] * 3),
    poison=st.sampled_from([0.0, np.nan, np.inf, 1e300]),
)
def test_any_arrays_give_a_result_or_a_clear_error(weight_shape, bias_shape, x_shape, dtypes, poison) -> None:
    def array(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        a = np.ones(shape, dtype)
        if a.size and a.dtype.kind == "f":
            with np.errstate(over="ignore"):
                a.flat[0] = poison
        return a

    weight, x = array(weight_shape, dtypes[0]), array(x_shape, dtypes[2])
    bias = None if bias_shape is None else array(bias_shape, dtypes[1])
    y = None
    message = ""
    try:
        y = oc.QuantLinear(weight, bias)(x)
    except (TypeError, ValueError) as error:
        message = str(error)
    if y is None:
        assert message.split()[0] in {"weight", "bias", "x"}
    else:
        assert y.shape == (*x_shape[:-1], weight_shape[0])
        assert y.dtype.kind == "f"


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("make", [oc.QuantLinear, oc.QuantEmbedding, oc.QuantMatrix], ids=lambda make: make.__name__)
def test_weights_that_are_not_finite_are_named(make: type, value: float) -> None:
    weight = np.ones((4, 6), F)
    weight[2, 3] = value
    name = "w" if make is oc.QuantMatrix else "weight"
    message = rf"{name} must be finite, got 1 of 24 values NaN or infinite, the first \({value}\) at {name}\[2, 3\]"
    with pytest.raises(ValueError, match=message):
        make(weight)
