"""QuantLinear: bits against the NumPy definition, the object itself, copies, threads."""

from __future__ import annotations

import copy
import ctypes
import itertools
import mmap
import pickle
import platform
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import octavo as oc
from float_environment import CAN_FLUSH, WHY_NOT, flush_to_zero
from reference import F, assert_same_bits, expected_of, hard_rows, random_layer

BATCHES = [0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65]
SIZES = [(1, 1), (2, 17), (3, 5), (4, 16), (5, 15), (15, 31), (16, 8), (17, 9), (64, 32), (65, 33), (300, 10)]


# the definition, to the bit


@pytest.mark.slow
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("activation", ["symmetric", "asymmetric"])
def test_call_equals_the_definition(kernel: str, activation: str, relu: bool) -> None:
    for k, n in SIZES:
        layer = random_layer(k, n, seed=k, activation=activation, relu=relu)
        for m in BATCHES:
            x = hard_rows(m, k, seed=m)
            assert_same_bits(layer(x), expected_of(layer, x), f"{kernel} {m}x{k}x{n}")


@pytest.mark.slow
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


@pytest.mark.parametrize("activation", ["symmetric", "asymmetric"])
def test_call_counts_rows_below_the_smallest_range_as_zeros(kernel: str, activation: str) -> None:
    layer = oc.QuantLinear.from_quantized(np.full((3, 20), 100, np.int8), 1.0, activation=activation)
    below, at = np.full((1, 20), np.nextafter(F(2.0**-100), F(0)), F), np.full((1, 20), 2.0**-100, F)
    assert_same_bits(layer(below), np.zeros((1, 3), F))
    assert_same_bits(layer(at), expected_of(layer, at))
    assert (layer(at) > 0).all()


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


@pytest.mark.skipif(not CAN_FLUSH, reason=WHY_NOT)
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
def test_layer_without_inputs_keeps_a_subnormal_bias_under_flush_to_zero(relu: bool) -> None:
    layer = oc.QuantLinear(np.zeros((1, 0), F), F([1e-39]), relu=relu)
    with flush_to_zero():
        y = layer(np.zeros((1, 0), F))
    np.testing.assert_array_equal(y.view(np.int32), F([[1e-39]]).view(np.int32))


def test_init_quantizes_weights_as_the_definition() -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((50, 70), dtype=F)
    w[3] = 0
    w[4] = 1e-38
    w[5, 0] = 3e38
    layer = oc.QuantLinear(w)
    amax = np.abs(w).max(axis=1)
    with np.errstate(all="ignore"):
        scale = np.where(amax < 2.0**-100, F(1), amax / F(127))
    assert_same_bits(layer.scale, scale)
    q = np.clip(np.rint(w * (F(1) / scale)[:, None]), -127, 127).astype(np.int8)
    np.testing.assert_array_equal(layer.int_repr(), q)
    assert_same_bits(layer.weight, q.astype(F) * scale[:, None])
    assert np.all(np.abs(layer.weight - w) <= scale[:, None] * F(0.5000001))


@pytest.mark.slow
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


def test_pickle_of_an_earlier_version_loads() -> None:
    layer = pickle.loads((Path(__file__).parents[1] / "data" / "quant_linear_v1.pickle").read_bytes())
    np.testing.assert_array_equal(layer.int_repr(), np.arange(-128, 128, 8).reshape(4, 8))
    assert repr(layer) == "QuantLinear(8 -> 4, int8, activation=asymmetric, bias, relu)"
    x = hard_rows(5, 8)
    assert_same_bits(layer.apply(x), expected_of(layer, x))


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


def test_packed_layers_that_were_never_made_are_refused() -> None:
    packed = oc.QuantLinear(np.ones((2, 4), np.float32))._packed
    x = np.ones((1, 4), np.float32)
    empty = type(packed).__new__(type(packed))
    with pytest.raises(TypeError, match="__init__"):
        empty.try_call(x)
    with pytest.raises(TypeError, match="PackedLinear"):
        type(packed).try_call(oc.QuantLinear(np.ones((2, 4), np.float32), dtype="int4")._packed, x)  # type: ignore[arg-type]


def test_eight_bit_weights_have_scales_of_one_type() -> None:
    weights = oc.QuantLinear(np.eye(3))._weights
    with pytest.raises(TypeError):
        type(weights)(weights.packed, "float16")
    assert weights.scale_dtype == "float32"


@pytest.mark.parametrize(
    "product",
    [
        lambda w, x: oc.QuantLinear(w)(x),
        lambda w, x: oc.StaticQuantLinear(w.astype(np.int8), np.ones(3, F), input=oc.QParams(0.5, 0, "int8"))(x),
        lambda w, x: x @ oc.QuantMatrix(w.T),
        lambda w, x: oc.nn.Linear(w)(x),
    ],
    ids=["QuantLinear", "StaticQuantLinear", "QuantMatrix", "nn.Linear"],
)
def test_a_transposed_weight_is_told(product) -> None:
    w, x = np.ones((3, 5), F), np.ones((2, 3), F)
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 5\).*got \(2, 3\).*transposed"):
        product(w, x)
    with pytest.raises(ValueError, match=r"got \(2, 4\)$"):
        product(w, np.ones((2, 4), F))
