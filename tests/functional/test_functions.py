"""octavo.functional against its NumPy definitions, to the bit, on every kernel; and against the true values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import float_environment
import octavo as oc
from octavo._numerics import functions as definitions

F = oc.functional
Array = NDArray[np.float32]


def gelu_tanh(x: Any, *, out: Any = None) -> Any:
    return F.gelu(x, approximate="tanh", out=out)


ELEMENTWISE: dict[str, tuple[Callable[..., Any], Callable[[Array], Array]]] = {
    name: (getattr(F, name), getattr(definitions, name))
    for name in ("exp", "log", "erf", "tanh", "sigmoid", "sin", "cos", "silu", "gelu")
} | {"gelu_tanh": (gelu_tanh, definitions.gelu_tanh)}
ROWWISE: dict[str, tuple[Callable[..., Any], Callable[[Array], Array]]] = {
    "softmax": (F.softmax, definitions.softmax),
    "log_softmax": (F.log_softmax, definitions.log_softmax),
    "rms_norm": (lambda x, **o: F.rms_norm(x, eps=1e-6, **o), lambda x: definitions.rms_norm(x, None, 1e-6)),
    "layer_norm": (
        lambda x, **o: F.layer_norm(x, eps=1e-5, **o),
        lambda x: definitions.layer_norm(x, None, None, 1e-5),
    ),
}
every_elementwise = pytest.mark.parametrize("name", ELEMENTWISE)
every_rowwise = pytest.mark.parametrize("name", ROWWISE)
every_function = pytest.mark.parametrize("name", [*ELEMENTWISE, *ROWWISE])


def function(name: str) -> Callable[..., Any]:
    return (ELEMENTWISE | ROWWISE)[name][0]


def assert_same_bits(y: Array, expected: Array) -> None:
    """Equal to the bit, except that any NaN is like any other."""
    assert (y.dtype, y.shape) == (expected.dtype, expected.shape)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(y), nan)
    unsigned = f"u{y.dtype.itemsize}"
    np.testing.assert_array_equal(y[~nan].view(unsigned), expected[~nan].view(unsigned))


def all_exponents() -> Array:
    """Some numbers of each exponent and sign, and those that are special or at a boundary."""
    rng = np.random.default_rng(0)
    bits = np.arange(512, dtype=np.uint32)[:, None] << 23 | rng.integers(0, 1 << 23, (512, 9), dtype=np.uint32)
    edges = [0.0, 88.72283, 88.72284, 103.97, 103.98, 2.0**17, 0.92, 0.6, 15, 125, 2.0**-13, 2.0**-126, np.inf, np.nan]
    ends = np.array(edges, np.float32)
    near = np.concatenate([ends, np.nextafter(ends, np.float32(0)), np.linspace(-16, 16, 901, dtype=np.float32)])
    return np.concatenate([bits.ravel().view(np.float32), near, -near])


def rows(m: int, n: int, scale: float = 4.0) -> Array:
    return (np.random.default_rng(n).standard_normal((m, n)) * scale).astype(np.float32)


@pytest.mark.underflows
@every_elementwise
def test_elements_of_every_exponent_equal_the_definition(kernel: str, name: str) -> None:
    compute, definition = ELEMENTWISE[name]
    x = all_exponents()
    assert_same_bits(compute(x), definition(x))


@every_rowwise
@pytest.mark.parametrize("n", [1, 2, 7, 8, 15, 16, 17, 31, 33, 48, 100, 577])
def test_rows_equal_the_definition(kernel: str, name: str, n: int) -> None:
    compute, definition = ROWWISE[name]
    x = rows(5, n)
    assert_same_bits(compute(x), definition(x))


@pytest.mark.parametrize("n", [1, 15, 16, 17, 577])
def test_norms_with_parameters_equal_the_definition(kernel: str, n: int) -> None:
    x, (weight, bias) = rows(3, n), rows(2, n)
    assert_same_bits(F.rms_norm(x, weight, eps=1e-6), definitions.rms_norm(x, weight, 1e-6))
    for w, b in ((weight, bias), (weight, None), (None, bias)):
        assert_same_bits(F.layer_norm(x, w, b, eps=1e-12), definitions.layer_norm(x, w, b, 1e-12))


@pytest.mark.underflows
def test_swiglu_is_silu_times_up(kernel: str) -> None:
    for n in (*range(35), 1536):
        gate, up = rows(2, n) * 8
        y = F.swiglu(gate, up)
        assert_same_bits(y, F.silu(gate) * up)
        assert_same_bits(y, definitions.swiglu(gate, up))


@pytest.mark.underflows
def test_swiglu_of_the_halves_of_a_product(kernel: str, threads: int) -> None:
    for m, n in ((1, 1), (3, 17), (70, 600)):
        both = rows(m, 2 * n) * 8
        expected = F.silu(both[:, :n]) * both[:, n:]
        assert_same_bits(F.swiglu(both[:, :n], both[:, n:]), expected)
        assert_same_bits(F.swiglu(both[:, :n], both[:, n:].copy()), expected)
        assert_same_bits(F.swiglu(both[::-1, :n], both[::-1, n:]), expected[::-1])
        repeated = np.broadcast_to(both[:1, :n], (m, n))
        assert_same_bits(F.swiglu(repeated, both[:, n:]), F.silu(repeated) * both[:, n:])
        assert_same_bits(F.swiglu(both[:, ::2], both[:, 1::2]), F.silu(both[:, ::2]) * both[:, 1::2])


@every_rowwise
def test_special_rows_equal_the_definition(kernel: str, name: str) -> None:
    compute, definition = ROWWISE[name]
    x = rows(9, 21)
    x[0, 20], x[1, 0], x[2, 3], x[3] = np.nan, np.inf, -np.inf, -np.inf
    x[4], x[5], x[6] = 0, 3e38, 1e-42
    x[7, ::2], x[8] = -3e38, -0.0
    assert_same_bits(compute(x), definition(x))


def test_softmax_of_rows_without_a_largest_element_is_nan(kernel: str) -> None:
    x = np.float32([[-np.inf, -np.inf], [np.nan, 0], [np.inf, 0], [-np.inf, 0]])
    for y in (F.softmax(x), F.log_softmax(x)):
        assert np.isnan(y[:3]).all()
    assert_same_bits(F.softmax(x[3]), np.float32([0, 1]))


@every_function
def test_row_of_a_batch_equals_the_row_alone_for_any_number_of_threads(threads: int, name: str) -> None:
    x = rows(70, 577)
    y = function(name)(x)
    for i in (0, 1, 28, 29, 69):
        assert_same_bits(y[i], function(name)(x[i]))


@every_function
def test_strided_input_and_out(name: str) -> None:
    x = rows(6, 40)
    expected = function(name)(np.ascontiguousarray(x[::2, 1::3]))
    assert_same_bits(function(name)(x[::2, 1::3]), expected)
    assert_same_bits(function(name)(np.asfortranarray(x[::2, 1::3])), expected)
    wide = np.full((3, 26), -1, np.float32)
    out = wide[:, ::2]
    assert function(name)(x[::2, 1::3], out=out) is out
    assert_same_bits(out, expected)
    assert (wide[:, 1::2] == -1).all()


@every_function
def test_out_may_be_x_or_overlap_it(name: str) -> None:
    x = rows(4, 33)
    expected = function(name)(x)
    in_place = x.copy()
    assert function(name)(in_place, out=in_place) is in_place
    assert_same_bits(in_place, expected)
    memory = np.concatenate([x.ravel(), np.zeros(5, np.float32)])
    function(name)(memory[:132].reshape(4, 33), out=memory[5:].reshape(4, 33))
    assert_same_bits(memory[5:].reshape(4, 33), expected)


def test_out_that_is_a_parameter_is_read_first() -> None:
    x, (weight, bias) = rows(1, 20)[0], rows(2, 20)
    expected, gated = F.layer_norm(x, weight, bias, eps=1e-5), F.swiglu(x, bias)
    assert_same_bits(F.layer_norm(x, weight, bias, eps=1e-5, out=weight), expected)
    assert_same_bits(F.swiglu(x, bias, out=bias), gated)
    memory = np.concatenate([x, np.zeros(1, np.float32)])
    assert_same_bits(F.swiglu(weight, memory[:20], out=memory[1:]), F.swiglu(weight, x))


@pytest.mark.underflows
@every_function
def test_float16_and_float64_give_their_own_dtype(name: str) -> None:
    x = rows(2, 19)
    for dtype in (np.float16, np.float64, ">f4", ">f8"):
        a = x.astype(dtype)
        native = np.dtype(dtype).newbyteorder("=")
        assert_same_bits(function(name)(a), function(name)(a.astype(np.float32)).astype(native))
    integers = np.arange(6).reshape(2, 3)
    assert_same_bits(function(name)(integers), function(name)(integers.astype(np.float32)))
    assert function(name)(integers.tolist()).dtype == np.float32


@every_function
def test_empty_and_small_dimensions(name: str) -> None:
    for shape in ((0,), (0, 3), (3, 0), (2, 0, 3)):
        assert function(name)(np.zeros(shape, np.float32)).shape == shape
    x = rows(6, 5)
    assert_same_bits(function(name)(x.reshape(2, 3, 1, 5)), function(name)(x).reshape(2, 3, 1, 5))


@every_elementwise
def test_scalars_give_arrays_without_axes(name: str) -> None:
    y = function(name)(0.5)
    assert (y.shape, y.dtype) == ((), np.float64)
    assert_same_bits(function(name)(np.float32(0.5)), function(name)(np.float32([0.5])).reshape(()))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, 1, -2, -3, np.int64(2)])
def test_axis(name: str, axis: int) -> None:
    x = rows(6, 20).reshape(6, 4, 5)
    y = function(name)(x, axis=axis)
    assert_same_bits(y, np.moveaxis(function(name)(np.moveaxis(x, axis, -1)), -1, axis))
    assert y.flags.c_contiguous
    out = np.empty_like(x)
    assert_same_bits(function(name)(x, axis=axis, out=out), y)


@pytest.mark.underflows
@pytest.mark.skipif(not float_environment.CAN_FLUSH, reason=float_environment.WHY_NOT)
@every_function
def test_subnormals_do_not_depend_on_the_callers_float_environment(kernel: str, name: str) -> None:
    x = np.concatenate([rows(2, 40) * np.float32(1e-40), np.linspace(-104, -80, 80, dtype=np.float32).reshape(2, 40)])
    expected = function(name)(x)
    with float_environment.flush_to_zero():
        y = function(name)(x)
    assert_same_bits(y, expected)


def test_large_results_come_from_the_pool() -> None:
    oc.clear_result_pool()
    y = F.exp(np.zeros(1 << 20, np.float32))
    assert not y.flags.owndata
    del y
    assert oc.result_pool().blocks == 1


def test_cross_entropy_is_minus_log_softmax_of_the_target(kernel: str) -> None:
    x, targets = rows(7, 50), np.array([0, 49, 3, 3, 17, 30, 2])
    losses = F.cross_entropy(x, targets, reduction="none")
    assert_same_bits(losses, -F.log_softmax(x)[np.arange(7), targets])
    assert F.cross_entropy(x, targets, reduction="sum") == math.fsum(losses.tolist())
    assert F.cross_entropy(x, targets) == math.fsum(losses.tolist()) / 7
    targets[[1, 4]] = -100
    kept = [0, 2, 3, 5, 6]
    assert F.cross_entropy(x, targets) == F.cross_entropy(x[kept], targets[kept])
    assert F.cross_entropy(x, targets, reduction="none")[[1, 4]].tolist() == [0, 0]
    assert math.isnan(F.cross_entropy(x, np.full(7, -100)))
    assert F.cross_entropy(x[0], 3) == F.cross_entropy(x[:1], [3])
    assert math.isnan(F.cross_entropy(x * np.float32(np.inf), targets))


TRUTH: dict[str, tuple[Callable[[float], float], float]] = {
    "exp": (math.exp, 1.0),
    "log": (lambda v: math.log(abs(v)), 0.9),
    "erf": (math.erf, 1.0),
    "tanh": (math.tanh, 1.3),
    "sin": (math.sin, 1.6),
    "cos": (math.cos, 1.6),
    "sigmoid": (lambda v: math.exp(v) / (1 + math.exp(v)), 2.2),
    "silu": (lambda v: v * math.exp(v) / (1 + math.exp(v)), 3.0),
    "gelu": (lambda v: v * math.erfc(-v / math.sqrt(2)) / 2, 6.0),
}


@pytest.mark.underflows
@pytest.mark.parametrize("name", TRUTH)
def test_error_is_within_the_documented_bound(name: str) -> None:
    exact, bound = TRUTH[name]
    x = all_exponents()
    x = x[np.abs(x) < 80]
    x = np.abs(x[x != 0]) if name == "log" else x
    truth = np.array([exact(v) for v in x.tolist()])
    y = function(name)(x).astype(np.float64)
    with np.errstate(under="ignore"):
        spacing = np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)
    assert (np.abs(y - truth) / spacing).max() <= bound


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.exp("a"), TypeError, "x must hold real numbers"),
        (lambda: F.silu([1j]), TypeError, "x must hold real numbers"),
        (lambda: F.exp(np.ma.masked_array([1.0])), TypeError, "masked"),
        (lambda: F.exp(rows(2, 3), out=np.empty((2, 3))), TypeError, "out must have dtype float32"),
        (lambda: F.exp(rows(2, 3), out=np.empty((3, 2), np.float32)), ValueError, r"out must have shape \(2, 3\)"),
        (lambda: F.exp(rows(2, 3), out=[0]), TypeError, "out must be a numpy array"),
        (lambda: F.exp(rows(2, 3), out=np.broadcast_to(np.float32(0), (2, 3))), ValueError, "read-only"),
        (lambda: F.gelu(rows(2, 3), approximate="erf"), ValueError, 'approximate must be "none" or "tanh"'),
        (lambda: F.swiglu(rows(2, 3), rows(3, 2)), ValueError, r"same shape, got \(2, 3\) and \(3, 2\)"),
        (lambda: F.swiglu(rows(2, 3), rows(2, 3).astype("e")), TypeError, "float32 and float16"),
        (lambda: F.softmax(rows(2, 3), axis=2), ValueError, "axis must be an axis of x, which has 2, got 2"),
        (lambda: F.softmax(rows(2, 3), axis=None), TypeError, "axis must be an integer, got NoneType"),
        (lambda: F.softmax(1.0), ValueError, "axis must be an axis of x, which has 0"),
        (lambda: F.rms_norm(1.0, eps=0), ValueError, "at least one axis"),
        (lambda: F.rms_norm(rows(2, 3), eps=-1.0), ValueError, "eps must be finite and not negative, got -1.0"),
        (lambda: F.rms_norm(rows(2, 3), eps=float("nan")), ValueError, "eps must be finite"),
        (lambda: F.rms_norm(rows(2, 3), eps="x"), TypeError, "eps must be a number, got str"),
        (lambda: F.rms_norm(rows(2, 3), rows(1, 2)[0], eps=0.0), ValueError, r"weight must have shape \(3,\)"),
        (lambda: F.layer_norm(rows(2, 3), None, rows(1, 3), eps=0.0), ValueError, r"bias must have shape \(3,\)"),
        (lambda: F.cross_entropy(rows(2, 3), [0, 3]), ValueError, "targets must be from 0 to 2, got 3"),
        (lambda: F.cross_entropy(rows(2, 3), [0, -1]), ValueError, "targets must be from 0 to 2, got -1"),
        (lambda: F.cross_entropy(rows(2, 3), [0]), ValueError, r"targets must have shape \(2,\)"),
        (lambda: F.cross_entropy(rows(2, 3), [0.0, 1.0]), TypeError, "targets must hold integers, got float64"),
        (lambda: F.cross_entropy(rows(2, 0), [0, 1]), ValueError, "at least one class"),
        (lambda: F.cross_entropy(rows(2, 3), [0, 1], reduction="avg"), ValueError, "reduction must be"),
    ],
)
def test_wrong_argument_is_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
