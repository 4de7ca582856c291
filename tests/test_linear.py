"""QuantLinear: bits against the NumPy definition, arrays of every kind, copies, wrong input."""

from __future__ import annotations

import copy
import ctypes
import itertools
import mmap
import pickle
import platform
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import octavo as oc
from reference import assert_same_bits, linear

F = np.float32
BATCHES = [0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65]
SIZES = [(1, 1), (2, 17), (3, 5), (4, 16), (5, 15), (15, 31), (16, 8), (17, 9), (64, 32), (65, 33), (300, 10)]


def random_layer(k: int, n: int, seed: int = 0, **options) -> oc.QuantLinear:
    rng = np.random.default_rng(seed)
    q = rng.integers(-128, 128, (n, k)).astype(np.int8)  # -128 included
    scale = rng.uniform(1e-3, 1, n).astype(F)
    return oc.QuantLinear.from_quantized(q, scale, rng.standard_normal(n, dtype=F), **options)


def expected_of(layer: oc.QuantLinear, x: np.ndarray) -> np.ndarray:
    options = {"activation": layer.activation, "relu": layer.relu}
    return linear(x, layer.int_repr(), layer.scale, layer.bias, **options)


def hard_rows(m: int, k: int, seed: int = 0) -> np.ndarray:
    """Random rows, some special: NaN, infinity, zeros, subnormals, overflowing ranges, halves, one sign."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, k), dtype=F) * 3
    special = [
        lambda row: row.__setitem__(-1, np.nan),
        lambda row: row.__setitem__(0, -np.inf),
        lambda row: row.fill(0),
        lambda row: row.fill(-0.0),
        lambda row: row.fill(2.0**-101),
        lambda row: row.fill(2.0**-100),
        lambda row: row.fill(1e-45),
        lambda row: row.__setitem__(slice(0, 2), [3e38, -3e38][: min(2, k)]),
        lambda row: np.copyto(row, np.resize(np.array([127, 0.5, 1.5, 2.5, -0.5, -3.5], F), k)),
        lambda row: np.abs(row, out=row),
        lambda row: np.negative(np.abs(row), out=row),
    ]
    for i, change in enumerate(special):
        if 2 * i + 1 < m:
            change(x[2 * i + 1])
    return x


# the definition, to the bit


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("activation", ["symmetric", "asymmetric"])
def test_call_equals_the_definition(kernel: str, activation: str, relu: bool) -> None:
    for k, n in SIZES:
        layer = random_layer(k, n, seed=k, activation=activation, relu=relu)
        for m in BATCHES:
            x = hard_rows(m, k, seed=m)
            assert_same_bits(layer(x), expected_of(layer, x), f"{kernel} {m}x{k}x{n}")


def test_call_gives_the_same_bits_with_any_number_of_threads(kernel: str, threads: int) -> None:
    for m, k, n in [(2, 1100, 1000), (150, 130, 190), (700, 64, 80)]:
        layer = random_layer(k, n, activation="asymmetric")
        x = hard_rows(m, k)
        assert_same_bits(layer(x), expected_of(layer, x), f"{threads} threads, {kernel} {m}x{k}x{n}")


def test_call_of_a_batch_equals_its_rows_alone(kernel: str) -> None:
    layer = random_layer(77, 45, activation="asymmetric")
    x = hard_rows(40, 77)
    batch = layer(x)
    for i in range(len(x)):
        assert_same_bits(layer(x[i : i + 1]), batch[i : i + 1], f"row {i}")


def test_call_with_extreme_integers_is_exact(kernel: str) -> None:
    """All-(-128) and all-127 weights against rows quantized to +-127: the sums that saturate elsewhere."""
    k = 768
    for value in (-128, -127, 127):
        layer = oc.QuantLinear.from_quantized(np.full((20, k), value, np.int8), 1.0)
        for sign in (1, -1):
            y = layer(np.full((3, k), sign * 127, F))
            np.testing.assert_array_equal(y, F(sign * 127 * value * k))


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux",
    reason="sets MXCSR with x86 machine code; the native tests cover other architectures",
)
def test_call_ignores_flush_to_zero_of_the_caller(kernel: str) -> None:
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x0f\xae\x17\xc3" + b"\x0f\xae\x1f\xc3")  # ldmxcsr [rdi]; ret      stmxcsr [rdi]; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    function = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))
    load, store = function(address), function(address + 4)
    layer = oc.QuantLinear.from_quantized(np.arange(-60, 60, dtype=np.int8).reshape(2, 60), F(2.0**-40))
    x = np.random.default_rng(0).standard_normal((20, 60), dtype=F) * F(2.0**-98)  # results are subnormal
    expected = expected_of(layer, x)
    assert 0 < np.abs(expected).max() < np.finfo(F).tiny
    before, after = ctypes.c_uint32(0x1F80 | 0x8040), ctypes.c_uint32()
    load(before)
    try:
        y = layer(x)
    finally:
        store(after)
        load(ctypes.c_uint32(0x1F80))
    assert_same_bits(y, expected)
    assert after.value & 0xFFC0 == before.value & 0xFFC0


def test_init_quantizes_weights_as_the_definition() -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((50, 70), dtype=F)
    w[3] = 0
    w[4] = 1e-38
    w[5, 0] = 3e38
    layer = oc.QuantLinear(w)
    amax = np.abs(w).max(axis=1)
    scale = np.where(amax < 2.0**-100, F(1), amax / F(127))
    assert_same_bits(layer.scale, scale)
    q = np.clip(np.rint(w * (F(1) / scale)[:, None]), -127, 127).astype(np.int8)
    np.testing.assert_array_equal(layer.int_repr(), q)
    assert_same_bits(layer.weight, q.astype(F) * scale[:, None])
    assert np.all(np.abs(layer.weight - w) <= scale[:, None] * F(0.5000001))


@pytest.mark.parametrize("activation", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("rows", [2, 256])
@pytest.mark.parametrize("seed", range(8))
def test_four_layer_model_stays_close_to_float(seed: int, rows: int, activation: str) -> None:
    """768-512-314-128-64, ReLU between, sigmoid at the end: at most 0.0006 off on 2 rows and 0.0009 on 256, in 27 %
    of the bytes (PyTorch's dynamic int8: 0.00061 on 2 rows of its own example).

    The largest error varies with the draw: over 80 draws 1 in 80 symmetric ones passed 0.0006 on 2 rows and 2 in 80
    passed 0.0009 on 256 (the largest were 0.00062 and 0.00095); no asymmetric one came beyond 0.00064."""

    class Dense:
        def __init__(self, weight, bias):
            self.weight, self.bias = weight, bias

        def __call__(self, x):
            return x @ self.weight.T + self.bias

    class Model:
        def __init__(self, rng):
            sizes = [768, 512, 314, 128, 64]
            self.layers = []
            for fan_in, fan_out in itertools.pairwise(sizes):
                bound = 1 / np.sqrt(fan_in)
                weight = rng.uniform(-bound, bound, (fan_out, fan_in)).astype(F)
                self.layers.append(Dense(weight, rng.uniform(-bound, bound, fan_out).astype(F)))

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = np.maximum(layer(x), 0)
            return 1 / (1 + np.exp(-self.layers[-1](x)))

    rng = np.random.default_rng(seed)
    inputs = {m: rng.standard_normal((m, 768), dtype=F) for m in (2, 256)}
    x, model = inputs[rows], Model(rng)
    quantized = oc.quantize_dynamic(model, {Dense}, activation=activation)
    assert np.abs(quantized(x) - model(x)).max() <= (0.0006 if rows == 2 else 0.0009)
    float_bytes = sum(layer.weight.nbytes + layer.bias.nbytes for layer in model.layers)
    assert sum(layer.nbytes for layer in quantized.layers) <= 0.27 * float_bytes


# arrays of every kind


@pytest.fixture
def layer() -> oc.QuantLinear:
    return random_layer(24, 10)


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
    ],
    ids=["wide", "flat", "float64", "big-endian", "list", "read-only"],
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
        ([[1.0, np.nan]], {}, ValueError, "NaN"),
        ([[np.inf, 1.0]], {}, ValueError, "inf"),
        (np.array([[1e300]]), {}, ValueError, "float32"),
        (np.ones((3, 4)), {"bias": np.ones(4)}, ValueError, r"shape \(3,\).*got \(4,\)"),
        (np.ones((3, 4)), {"bias": np.ones((3, 1))}, ValueError, r"got \(3, 1\)"),
        (np.ones((3, 4)), {"bias": [1, 2, np.nan]}, ValueError, "finite.*index 2"),
        (np.ones((3, 4)), {"bias": np.array([1, 2, 1j])}, TypeError, "complex"),
        (np.ones((3, 4)), {"dtype": "int7"}, ValueError, "int7"),
        (np.ones((3, 4)), {"dtype": "uint8"}, ValueError, "must be int8, got quint8"),
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


# the object


def test_attributes_describe_the_layer(layer: oc.QuantLinear) -> None:
    assert (layer.in_features, layer.out_features) == (24, 10)
    assert layer.weight.dtype == F
    assert layer.int_repr().dtype == np.int8
    assert layer.scale.shape == layer.zero_point.shape == layer.bias.shape == (10,)
    assert not layer.zero_point.any()
    assert layer.nbytes >= 240 + 10 * 8
    for array in (layer.weight, layer.scale, layer.zero_point, layer.bias):
        assert not array.flags.writeable
    assert repr(layer) == "QuantLinear(24 -> 10, int8, activation=symmetric, bias)"
    assert repr(oc.QuantLinear(np.eye(2), relu=True)) == "QuantLinear(2 -> 2, int8, activation=symmetric, relu)"
    with pytest.raises(AttributeError, match="no attribute 'weights'"):
        _ = layer.weights
    with pytest.raises(AttributeError):
        layer.weight = np.eye(2)


def test_layer_does_not_see_later_changes_of_its_arrays() -> None:
    w, b = np.eye(3, dtype=F), np.ones(3, F)
    layer = oc.QuantLinear(w, b)
    before = layer(np.ones((2, 3), F))
    w[:], b[:] = 9, 9
    assert_same_bits(layer(np.ones((2, 3), F)), before)


CLONES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda a: pickle.loads(pickle.dumps(a))}


@pytest.mark.parametrize("clone", CLONES.values(), ids=CLONES)
def test_clone_gives_the_same_bits(clone) -> None:
    layer = random_layer(50, 20, activation="asymmetric", relu=True, call="apply")
    twin = clone(layer)
    x = hard_rows(20, 50)
    assert_same_bits(twin(x), layer(x))
    assert_same_bits(twin.apply(x), layer(x))
    assert repr(twin) == repr(layer)
    assert twin.nbytes == layer.nbytes


def test_pickle_holds_canonical_integers_once() -> None:
    layer = oc.QuantLinear(np.random.default_rng(0).standard_normal((64, 256)))
    assert len(pickle.dumps(layer)) < 64 * 256 + 2000


def test_call_name_is_answered() -> None:
    layer = oc.QuantLinear(np.eye(2, dtype=F), call="run_layer")
    x = np.ones((1, 2), F)
    assert_same_bits(layer.run_layer(x), layer(x))
    assert_same_bits(layer.forward(x), layer(x))


def test_call_from_many_threads_at_once() -> None:
    layer = random_layer(256, 200, activation="asymmetric")
    inputs = [hard_rows(m, 256, seed=m) for m in (1, 3, 40, 130)]
    expected = [layer(x) for x in inputs]
    failures: list[str] = []

    def call() -> None:
        for _ in range(20):
            for x, y in zip(inputs, expected, strict=True):
                try:
                    assert_same_bits(layer(x), y)
                except AssertionError as error:
                    failures.append(str(error))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    # A layer must not pass NumPy's floating-point warnings on.
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        yield
