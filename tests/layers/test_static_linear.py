"""StaticQuantLinear: bits against the NumPy definition, integers in and out, wrong input."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import numpy as np
import pytest

import octavo as oc
from float_environment import CAN_FLUSH, WHY_NOT, flush_to_zero
from reference import assert_same_bits

F = np.float32
SIZES = [(1, 1, 1), (2, 3, 5), (5, 16, 15), (17, 15, 31), (33, 65, 33), (64, 300, 17), (65, 64, 64)]
UINT8, INT8 = oc.QParams(0.03, 117, "uint8"), oc.QParams(0.05, -9, "int8", qmin=-127)
WIDE = oc.QParams(40.0, 100, "uint8")
OUTPUTS = [
    None,
    WIDE,
    oc.QParams(35.0, 0, "int8"),
    oc.QParams(3.0, 0, "uint8"),
    oc.QParams(9.0, -128, "int8", qmax=100),
]


def reference_forward_static(
    q_x: np.ndarray, x: oc.QParams, q_w: np.ndarray, s_w: np.ndarray, b: np.ndarray | None, relu: bool
) -> np.ndarray:
    """y of integers q_x with parameters x: the definition of docs/design.md, one operation after the other."""
    acc = (q_x.astype(np.int64) - int(x.zero_point)) @ q_w.T.astype(np.int64)
    y = acc.astype(F) * (F(x.scale) * s_w)
    y = y if b is None else y + b
    return np.where(y > 0, y, F(0)) if relu else y


def static_layer(k: int, n: int, *, bias: bool = True, **options: Any) -> oc.StaticQuantLinear:
    rng = np.random.default_rng(k * n)
    weight = rng.integers(-128, 128, (n, k)).astype(np.int8)
    scale = rng.uniform(0.1, 1, n).astype(F)
    b = rng.standard_normal(n).astype(F) if bias else None
    return oc.StaticQuantLinear(weight, scale, b, **options)


def activations(m: int, k: int) -> np.ndarray:
    """Within and beyond the range of the parameters above, with ties, infinities and zeros of both signs."""
    x = np.random.default_rng(m + k).uniform(-5, 6, (m, k)).astype(F)
    special = F([np.inf, -np.inf, 0.0, -0.0, 0.015, 0.045, 1e30, -1e-45])[: x.size]
    x.flat[: special.size] = special
    return x


@pytest.mark.slow
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("given", [UINT8, INT8], ids=["uint8", "int8"])
def test_result_equals_the_definition(kernel: str, given: oc.QParams, relu: bool) -> None:
    for (m, k, n), output in zip(SIZES * len(OUTPUTS), [o for o in OUTPUTS for _ in SIZES], strict=True):
        layer = static_layer(k, n, input=given, output=output, relu=relu, bias=m != 5)
        x = activations(m, k)
        q = oc.quantize(x, given)
        y = reference_forward_static(q, given, layer.int_repr(), layer.scale, layer.bias, relu)
        for argument in (x, oc.QuantizedArray(q, given)):
            result = layer(argument)
            if output is None:
                assert_same_bits(result, y, f"{kernel} {m}x{k}x{n}")
            else:
                assert type(result) is oc.QuantizedArray
                assert result.qparams == output
                np.testing.assert_array_equal(result.int_repr(), oc.quantize(y, output), f"{kernel} {m}x{k}x{n}")


def test_integers_equal_quantize_of_the_float_result(kernel: str, threads: int) -> None:
    for m, k, n in [(1, 700, 900), (300, 130, 190)]:
        options = {"input": UINT8, "relu": True}
        x = activations(m, k)
        y = static_layer(k, n, **options)(x)
        np.testing.assert_array_equal(static_layer(k, n, output=WIDE, **options)(x).int_repr(), oc.quantize(y, WIDE))


def test_quantized_input_brings_its_own_parameters() -> None:
    layer = static_layer(16, 8, input=UINT8)
    q = oc.QuantizedArray(np.arange(32, dtype=np.int8).reshape(2, 16), oc.QParams(2.0, 5, "int8"))
    expected = reference_forward_static(q.int_repr(), q.qparams, layer.int_repr(), layer.scale, layer.bias, False)
    assert_same_bits(layer(q), expected)


@pytest.mark.parametrize("output", [None, WIDE], ids=["float", "integers"])
def test_arrays_of_any_kind_give_the_same_result(output: oc.QParams | None) -> None:
    layer = static_layer(6, 5, input=UINT8, output=output)
    x = np.random.default_rng(0).uniform(-3, 4, (2, 3, 6)).astype(F)
    truth = np.asarray(layer(x.reshape(6, 6))).reshape(2, 3, 5)
    q = oc.QuantizedArray(oc.quantize(x, UINT8), UINT8)
    strided = np.zeros((2, 3, 12), F)[:, :, ::2]
    strided[...] = x
    for same in (x, q, strided, np.asfortranarray(x), x.astype(">f4"), x.tolist(), q.T.copy().T, q[:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(np.asarray(layer(same)), truth)
    assert np.asarray(layer(x[0, 0])).shape == (5,)
    assert np.asarray(layer(q[0, 0])).shape == (5,)
    assert np.asarray(layer(x[:0])).shape == (0, 3, 5)
    assert np.asarray(layer(q[:0])).shape == (0, 3, 5)


def test_dtype_of_a_float_result_follows_the_input() -> None:
    layer = static_layer(6, 5, input=UINT8)
    x = np.ones((2, 6))
    for dtype, expected in [(np.float16, np.float16), (np.float64, np.float64), (np.int32, F), (bool, F), (F, F)]:
        assert layer(x.astype(dtype)).dtype == expected


def test_out_takes_a_float_result() -> None:
    layer = static_layer(6, 6, input=UINT8)
    x = np.random.default_rng(0).uniform(-3, 4, (3, 6)).astype(F)
    truth = layer(x)
    for out in (np.empty((3, 6), F), np.empty((6, 3), F).T, x):  # in place, too
        assert layer(x, out=out) is out
        np.testing.assert_array_equal(out, truth)
    memory = np.random.default_rng(1).uniform(-3, 4, (700, 6)).astype(F)
    truth = layer(memory[:-1])
    np.testing.assert_array_equal(layer(memory[:-1], out=memory[1:]), truth)
    with pytest.raises(ValueError, match=r"out must have shape \(3, 6\)"):
        layer(x, out=np.empty((2, 6), F))
    with pytest.raises(TypeError, match="out must have dtype float32"):
        layer(x, out=np.empty((3, 6)))
    with pytest.raises(TypeError, match="layer 'fc' gives integers, which out cannot hold"):
        static_layer(6, 6, input=UINT8, output=WIDE, name="'fc'")(x, out=np.empty((3, 6), F))


@pytest.mark.parametrize("output", [None, WIDE], ids=["float", "integers"])
def test_nan_is_an_error_that_names_the_layer(kernel: str, output: oc.QParams | None) -> None:
    layer = static_layer(70, 40, input=UINT8, output=output, name="'blocks[1].fc'")
    x = np.zeros((100, 70), F)
    before = np.asarray(layer(x))
    x[37, 69] = np.nan
    with pytest.raises(
        ValueError, match=r"layer 'blocks\[1\].fc': x must not hold NaN, got it first at row 37, column 69"
    ):
        layer(x)
    np.testing.assert_array_equal(np.asarray(layer(np.zeros((100, 70), F))), before)


def test_wrong_input_names_the_layer_and_the_remedy() -> None:
    layer = static_layer(6, 5, input=UINT8, name="'fc'")
    with pytest.raises(ValueError, match=r"layer 'fc': x must have shape \(..., 6\) .* got \(2, 7\)"):
        layer(np.ones((2, 7), F))
    with pytest.raises(
        ValueError, match=r"layer 'fc': x must have shape \(..., 6\) to fit the layer's inputs, got \(2, 7\)"
    ):
        layer(oc.QuantizedArray(np.ones((2, 7), np.uint8), UINT8))
    with pytest.raises(TypeError, match=r"layer 'fc': x must hold real numbers .* of dtype complex"):
        layer(np.ones((2, 6), complex))
    by_channel = oc.QuantizedArray(np.ones((2, 6), np.int8), oc.QParams(np.ones(6), 0, axis=1))
    with pytest.raises(TypeError, match=r"layer 'fc': x must have int8 or uint8 .* qint8 along axis 1; .*dequantize"):
        layer(by_channel)
    four_bits = oc.QuantizedArray(np.ones((2, 6), np.int8), oc.QParams(1.0, 0, "int4"))
    with pytest.raises(TypeError, match=r"layer 'fc': .* got qint4 per tensor; or pass x.dequantize\(\)"):
        layer(four_bits)
    assert layer(four_bits.dequantize()).shape == (2, 5)


def test_wrong_parameters_are_refused() -> None:
    weight = np.ones((2, 3), np.int8)
    with pytest.raises(TypeError, match="input must have int8 or uint8 parameters per tensor, got qint4"):
        oc.StaticQuantLinear(weight, 1.0, input=oc.QParams(1.0, 0, "int4"))
    with pytest.raises(TypeError, match="output must have int8 or uint8 parameters per tensor, got qint8 along axis 0"):
        oc.StaticQuantLinear(weight, 1.0, input=UINT8, output=oc.QParams([1.0], 0, axis=0))
    with pytest.raises(TypeError, match="weight must be an int8 array, got dtype float32"):
        oc.StaticQuantLinear(weight.astype(F), 1.0, input=UINT8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scale must have shape \(2,\)"):
        oc.StaticQuantLinear(weight, [1.0, 1.0, 1.0], input=UINT8)
    with pytest.raises(ValueError, match="is infinite"):
        oc.StaticQuantLinear(weight, 1e30, input=oc.QParams(1e30, 0))
    with pytest.raises(ValueError, match="exact up to 65793"):
        oc.StaticQuantLinear(np.ones((1, 65794), np.int8), 1.0, input=UINT8)
    for alternative in (oc.StaticQuantLinear.from_quantized, oc.StaticQuantLinear.from_float):
        with pytest.raises(TypeError, match="static layer needs"):
            alternative(weight, 1.0)


def test_longest_exact_sum_is_exact() -> None:
    k = 65793
    layer = oc.StaticQuantLinear(np.full((1, k), -128, np.int8), 1.0, input=oc.QParams(1.0, 0, "uint8"))
    x = oc.QuantizedArray(np.full((1, k), 255, np.uint8), oc.QParams(1.0, 0, "uint8"))
    assert layer(x)[0, 0] == F(-128 * 255 * k)


def test_copies_and_pickles_give_the_same_bits() -> None:
    layer = static_layer(20, 10, input=UINT8, output=WIDE, relu=True, folded=True, name="'a'", call="apply")
    x = activations(4, 20)
    expected = layer(x)
    for other in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(other) == repr(layer)
        result = other.apply(x)
        np.testing.assert_array_equal(result.int_repr(), expected.int_repr())
        with pytest.raises(RuntimeError, match="layer 'a' was converted with the ReLU behind it"):
            result.dequantize()
        np.testing.assert_array_equal(np.maximum(result, 0).int_repr(), expected.int_repr())


def test_folded_result_is_refused_by_everything_but_relu() -> None:
    layer = static_layer(20, 20, input=UINT8, output=WIDE, relu=True, folded=True, name="'a'")
    h = layer(activations(4, 20))
    uses = [lambda: h + 1, lambda: np.asarray(h), lambda: layer(h), lambda: layer(h[:2]), lambda: h.reshape(-1).sum()]
    for use in uses:
        with pytest.raises(RuntimeError, match="Calibrate with batches that take this way"):
            use()
    assert "quint8" in repr(h)
    assert h.shape == np.shape(h) == (4, 20)
    assert_same_bits(np.maximum(h, 0).dequantize(), np.maximum(h[:], 0).dequantize())


def test_repr_shows_scale_and_zero_point() -> None:
    layer = static_layer(20, 10, input=UINT8, output=INT8, relu=True)
    assert repr(layer) == (
        "StaticQuantLinear(20 -> 10, int8, input=quint8 scale=0.03 zero_point=117, "
        "output=qint8 scale=0.05 zero_point=-9, bias, relu)"
    )
    assert layer.input_qparams == UINT8
    assert layer.output_qparams == INT8
    assert layer.int_repr().dtype == np.int8


@pytest.mark.skipif(not CAN_FLUSH, reason=WHY_NOT)
def test_flush_to_zero_of_the_caller_changes_no_bit() -> None:
    huge = oc.QParams(3e38, 0)  # 1 / scale is subnormal
    for output in (None, huge):
        layer = oc.StaticQuantLinear(np.full((1, 1), 8, np.int8), F([0.125]), None, input=huge, output=output)
        with flush_to_zero():
            found = layer(F([[3e38]]))
        y = found if output is None else found.dequantize()
        np.testing.assert_array_equal(y, F([[3e38]]))


def test_calls_from_many_threads_give_the_same_bits() -> None:
    layer = static_layer(64, 64, input=UINT8, output=WIDE)
    inputs = [activations(m, 64) for m in range(1, 33)]
    expected = [layer(x).int_repr() for x in inputs]
    wrong = []

    def work() -> None:
        for _ in range(10):
            wrong.extend(i for i, x in enumerate(inputs) if not np.array_equal(layer(x).int_repr(), expected[i]))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
