"""octavo.ops against onnx's reference evaluator and NumPy's int64 matmul, to the bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

import octavo as oc

onnx = pytest.importorskip("onnx", reason="onnx's reference evaluator is the oracle: pip install 'octavo[test]'")
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

F = np.float32
BYTES = [np.int8, np.uint8]
PAIRS = list(itertools.product(BYTES, BYTES))
PAIR_IDS = [f"{a.__name__}-{b.__name__}" for a, b in PAIRS]


def reference(op: str, *inputs: np.ndarray, **attributes) -> list[np.ndarray]:
    """The result of onnx.reference for one node of opset 21."""
    names = [f"i{n}" for n in range(len(inputs))]
    outputs = ["y", "s", "z"][: 3 if op == "DynamicQuantizeLinear" else 1]
    infos = [
        make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in zip(names, inputs, strict=True)
    ]
    node = make_node(op, names, outputs, **attributes)
    graph = make_graph(
        [node], "g", infos, [make_tensor_value_info(o, onnx.TensorProto.UNDEFINED, None) for o in outputs]
    )
    model = make_model(graph, opset_imports=[make_opsetid("", 21)])
    return ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))


def same(actual, expected) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)


def operand(rng: np.random.Generator, dtype, shape, fill: str = "random") -> np.ndarray:
    info = np.iinfo(dtype)
    if fill == "random":
        return rng.integers(info.min, info.max + 1, shape).astype(dtype)
    return np.full(shape, {"lowest": info.min, "highest": info.max}[fill], dtype)


def exact(a, b, za=0, zb=0) -> np.ndarray:
    """NumPy in int64, wrapped to int32."""
    wide = (a.astype(np.int64) - za) @ (b.astype(np.int64) - zb)
    return wide.astype(np.int32)


# matmul_integer


@pytest.mark.slow
@pytest.mark.parametrize(("a_type", "b_type"), PAIRS, ids=PAIR_IDS)
@pytest.mark.parametrize("fill", ["random", "lowest", "highest"])
def test_matmul_integer_equals_int64_on_every_kernel(kernel: str, a_type, b_type, fill: str) -> None:
    rng = np.random.default_rng(0)
    ms = [*range(6), *range(15, 18), *range(31, 34), *range(63, 66)]
    ks = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 2000]
    ns = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65]
    for i, (m, k) in enumerate(itertools.product(ms, ks)):
        n = ns[i % len(ns)]
        a, b = operand(rng, a_type, (m, k), fill), operand(rng, b_type, (k, n), fill)
        zeros = [(None, None), (operand(rng, a_type, ()), None), (None, operand(rng, b_type, n))]
        zeros += [(operand(rng, a_type, m), operand(rng, b_type, n))]
        za, zb = zeros[i % len(zeros)]
        if m == 0:
            za = None
        y = oc.ops.matmul_integer(a, b, za, zb)
        column = 0 if za is None else za.astype(np.int64).reshape(-1, 1)
        expected = exact(a, b, column, 0 if zb is None else zb.astype(np.int64))
        np.testing.assert_array_equal(y, expected, err_msg=f"{kernel} {m}x{k}x{n}, zero points {za} {zb}")


@pytest.mark.parametrize(("a_type", "b_type"), PAIRS, ids=PAIR_IDS)
def test_matmul_integer_with_zero_points_at_their_limits(kernel: str, a_type, b_type) -> None:
    for za, zb in itertools.product(
        (np.iinfo(a_type).min, np.iinfo(a_type).max), (np.iinfo(b_type).min, np.iinfo(b_type).max)
    ):
        for fill in ("lowest", "highest"):
            a = operand(np.random.default_rng(0), a_type, (7, 300), fill)
            b = operand(np.random.default_rng(0), b_type, (300, 18), fill)
            y = oc.ops.matmul_integer(a, b, a_type(za), b_type(zb))
            np.testing.assert_array_equal(y, exact(a, b, za, zb))


def test_matmul_integer_beyond_the_exact_bound_wraps(kernel: str) -> None:
    k = 40_000
    a, b = np.full((2, k), 255, np.uint8), np.full((k, 3), 255, np.uint8)
    expected = (255 * 255 * k + 2**31) % 2**32 - 2**31
    np.testing.assert_array_equal(oc.ops.matmul_integer(a, b), expected)


@pytest.mark.parametrize(
    ("a_shape", "b_shape", "za_shape", "zb_shape"),
    [
        ((5, 4, 7), (7, 3), (), ()),
        ((5, 4, 7), (7, 3), (4,), (3,)),
        ((5, 4, 7), (7, 3), (5, 4, 1), (1, 3)),
        ((5, 4, 7), (5, 7, 3), (5, 4, 1), (5, 1, 3)),
        ((2, 1, 4, 7), (5, 7, 3), (4,), (5, 1, 3)),
        ((4, 7), (2, 5, 7, 3), (4, 1), (3,)),
        ((7,), (7,), (), (1,)),
        ((7,), (7, 3), (1,), (3,)),
        ((4, 7), (7,), (4,), ()),
        ((0, 4, 7), (7, 3), (4,), ()),
        ((2, 4, 0), (0, 3), (), ()),
        ((3, 0, 7), (3, 7, 2), (), ()),
    ],
    ids=str,
)
def test_matmul_integer_broadcasts_as_numpy(a_shape, b_shape, za_shape, zb_shape) -> None:
    rng = np.random.default_rng(0)
    a, b = operand(rng, np.uint8, a_shape), operand(rng, np.int8, b_shape)
    za, zb = operand(rng, np.uint8, za_shape), operand(rng, np.int8, zb_shape)
    column = (
        za.astype(np.int64)[:, None] if za_shape == (a_shape[-2] if len(a_shape) > 1 else 0,) else za.astype(np.int64)
    )
    expected = exact(a, b, column, zb.astype(np.int64) if zb.size > 1 else int(zb.reshape(())))
    same(oc.ops.matmul_integer(a, b, za, zb), np.asarray(expected))


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(
    shapes=mutually_broadcastable_shapes(signature="(m,k),(k,n)->(m,n)", max_dims=2, max_side=6, min_side=0),
    types=st.sampled_from(PAIRS),
    seed=st.integers(0, 2**32 - 1),
)
def test_matmul_integer_equals_int64_for_any_shapes(shapes, types, seed) -> None:
    rng = np.random.default_rng(seed)
    a, b = (operand(rng, t, s) for t, s in zip(types, shapes.input_shapes, strict=True))
    same(oc.ops.matmul_integer(a, b), exact(a, b))


@pytest.mark.parametrize(
    "view",
    [np.asfortranarray, lambda a: np.repeat(a, 2, 1)[:, ::2], lambda a: a[::-1, ::-1]],
    ids=["F", "strided", "reversed"],
)
def test_matmul_integer_takes_any_strides(view) -> None:
    rng = np.random.default_rng(0)
    a, b = view(operand(rng, np.int8, (9, 20))), view(operand(rng, np.uint8, (20, 11)))
    a.flags.writeable = b.flags.writeable = False
    np.testing.assert_array_equal(oc.ops.matmul_integer(a, b), exact(a, b))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((np.ones((2, 3)), np.ones((3, 2), np.int8)), TypeError, "a must be int8 or uint8, got dtype float64"),
        ((np.ones((2, 3), np.int8), np.ones((3, 2), np.int16)), TypeError, "b must be int8 or uint8"),
        ((np.ones((2, 3), np.int8), np.ones((4, 2), np.int8)), ValueError, r"\(2, 3\) and \(4, 2\)"),
        ((np.int8(1), np.ones((1, 1), np.int8)), ValueError, "at least one dimension"),
        ((np.ones((2, 3), np.int8), np.ones((3, 2), np.int8), np.uint8(1)), TypeError, "a_zero_point must be int8"),
        ((np.ones((2, 3), np.int8), np.ones((3, 2), np.int8), np.ones(3, np.int8)), ValueError, r"got \(3,\)"),
        (
            (np.ones((2, 3), np.int8), np.ones((3, 2), np.int8), None, np.ones((2, 1), np.int8)),
            ValueError,
            "b_zero_point",
        ),
        ((np.ones((2, 2, 3), np.int8), np.ones((3, 3, 2), np.int8)), ValueError, "broadcast"),
    ],
)
def test_matmul_integer_refuses_what_does_not_fit(arguments, error, words: str) -> None:
    with pytest.raises(error, match=words):
        oc.ops.matmul_integer(*arguments)


# the other operators, against onnx.reference


@pytest.mark.slow
@pytest.mark.parametrize("x_type", [np.float32, np.float16, np.int32])
@pytest.mark.parametrize("z_type", [np.int8, np.uint8, np.int16, np.uint16])
def test_quantize_linear_equals_the_reference(x_type, z_type) -> None:
    rng = np.random.default_rng(0)
    info = np.iinfo(z_type)
    scale_type = np.float32 if x_type == np.int32 else x_type
    for shape, axis, block in [((), 1, 0), ((50,), 0, 0), ((6, 10, 4), 1, 0), ((6, 10, 4), -1, 0), ((6, 10, 4), 1, 4)]:
        x = (rng.standard_normal(shape) * 300).astype(x_type)
        if not shape:
            p_shape: tuple[int, ...] = ()
        elif block:
            p_shape = (*shape[:1], -(-shape[1] // block), *shape[2:])
        else:
            p_shape = (shape[axis],)
        scale = rng.uniform(0.5, 4, p_shape).astype(scale_type)
        zero = rng.integers(info.min, info.max + 1, p_shape).astype(z_type)
        options = {"axis": axis % max(len(shape), 2)} | ({"block_size": block} if block else {})
        expected = reference("QuantizeLinear", x, scale, zero, **options)[0]
        same(oc.ops.quantize_linear(x, scale, zero, axis=axis, block_size=block), expected)
        back = reference("DequantizeLinear", expected, scale, zero, **options)[0]
        same(oc.ops.dequantize_linear(expected, scale, zero, axis=axis, block_size=block), back)


def test_quantize_linear_rounds_ties_to_even_after_dividing() -> None:
    x = np.arange(-1000, 1000, dtype=F) / 8
    for scale in (F(0.25), F(0.1), F(3)):
        same(oc.ops.quantize_linear(x, scale, np.int8(3)), reference("QuantizeLinear", x, scale, np.int8(3))[0])


@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "uint16"])
def test_quantize_linear_with_output_dtype(name: str) -> None:
    x = np.linspace(-70000, 70000, 99, dtype=F)
    code = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name))
    expected = reference("QuantizeLinear", x, F(1), output_dtype=code)[0]
    same(oc.ops.quantize_linear(x, F(1), output_dtype=name), expected)


def test_quantize_linear_to_four_bits_stores_bytes() -> None:
    x = np.linspace(-20, 20, 41, dtype=F)
    same(oc.ops.quantize_linear(x, F(1), output_dtype="int4"), np.clip(np.rint(x), -8, 7).astype(np.int8))
    same(
        oc.ops.quantize_linear(x, F(1), np.uint8(5), output_dtype="uint4"),
        np.clip(np.rint(x) + 5, 0, 15).astype(np.uint8),
    )


def test_quantize_linear_saturates_infinity_and_refuses_nan() -> None:
    x = np.array([np.inf, -np.inf, 3.4e38], F)
    same(oc.ops.quantize_linear(x, F(0.5), np.int8(-3)), np.array([127, -128, 127], np.int8))
    with pytest.raises(ValueError, match="NaN"):
        oc.ops.quantize_linear(np.array([np.nan], F), F(1))


def test_dequantize_linear_of_int32_and_float16_scales() -> None:
    q = np.array([-(2**31), -5, 7, 2**31 - 1], np.int32)
    same(oc.ops.dequantize_linear(q, F(0.1)), reference("DequantizeLinear", q, F(0.1))[0])
    b = np.arange(-128, 128).astype(np.int8)
    scale, zero = np.float16(0.1), np.int8(5)
    same(oc.ops.dequantize_linear(b, scale, zero), reference("DequantizeLinear", b, scale, zero)[0])


@pytest.mark.parametrize(
    "x",
    [
        np.array([0, 2, -3, -2.5, 1.34, 0.5], F),
        np.array([-1.0, -2.1, -1.3, -2.5, -3.34, -4.0], F),
        np.array([[1, 2.1, 1.3], [2.5, 3.34, 4.0]], F),
        np.zeros((3, 3), F),
        np.random.default_rng(0).standard_normal((20, 30), dtype=F),
        np.array([3e38, 1e-45], F),
    ],
    ids=["both-signs", "negative", "positive", "zeros", "random", "extremes"],
)
def test_dynamic_quantize_linear_equals_the_reference(x) -> None:
    actual = oc.ops.dynamic_quantize_linear(x)
    with np.errstate(all="ignore"):
        expected = reference("DynamicQuantizeLinear", x)
    for a, b in zip(actual, expected, strict=True):
        same(a, np.asarray(b))


UNDERFLOWING = [
    [1e-44], [-1e-44], [-1e-44, 1e-44], [0, 1e-44], [0, -1e-44], [-0.0, 1e-44, 0], [1.4e-45, 1.78e-43], [1.79e-43],
    [-1e-43, 0, 1e-43], [1.78e-43, -1e-44], [-3e-43, 5e-43, 0], [1e-38, -1e-39], [1e-39, 1.17e-38],
]  # fmt: skip


@pytest.mark.parametrize("values", UNDERFLOWING, ids=str)
def test_dynamic_quantize_linear_of_an_underflowing_range_equals_the_reference(values: list[float]) -> None:
    x = F(values)
    actual = oc.ops.dynamic_quantize_linear(x)
    with np.errstate(all="ignore"):
        expected = reference("DynamicQuantizeLinear", x)
    for a, e in zip(actual, expected, strict=True):
        same(a, np.asarray(e))


SMALL_SCALES = [F(1e-45), F(1e-40), F(1e-38), np.float16(6e-8), np.float16(1e-6)]


@pytest.mark.parametrize("scale", SMALL_SCALES, ids=lambda s: f"{s.dtype}-{s}")
@pytest.mark.parametrize("zero", BYTES)
def test_quantize_and_dequantize_linear_with_subnormal_scales_equal_the_reference(scale, zero) -> None:
    with np.errstate(all="ignore"):
        x = (np.arange(-300, 300) * np.float64(scale) * 0.5).astype(scale.dtype)  # within what int32 holds
    z = zero(7)
    q = oc.ops.quantize_linear(x, scale, z)
    with np.errstate(all="ignore"):
        same(q, reference("QuantizeLinear", x, np.asarray(scale), np.asarray(z))[0])
        expected = reference("DequantizeLinear", q, np.asarray(scale), np.asarray(z))[0]
    same(oc.ops.dequantize_linear(q, scale, z), expected)


@pytest.mark.parametrize(
    ("sa", "sb", "sy"),
    [(1e-30, 1e-30, 1e-38), (1e-30, 1e-10, 1e-40), (1e-45, 1.0, 1e-45), (1e-45, 1e-45, 1.0), (1e-38, 0.5, 1e-39)],
)
def test_qlinear_matmul_with_underflowing_scales_equals_the_reference(sa: float, sb: float, sy: float) -> None:
    rng = np.random.default_rng(2)
    a, b = operand(rng, np.uint8, (3, 20)), operand(rng, np.int8, (20, 4))
    arguments = (a, np.array(F(sa)), np.uint8(3), b, np.array(F(sb)), np.int8(-2), np.array(F(sy)), np.uint8(9))
    y = oc.ops.qlinear_matmul(*arguments)
    with np.errstate(all="ignore"):
        same(y, reference("QLinearMatMul", *map(np.asarray, arguments))[0])


def test_operators_take_arrays_without_dimensions() -> None:
    same(oc.ops.quantize_linear(F(3), F(2)), np.array(2, np.uint8))
    same(oc.ops.dequantize_linear(np.uint8(3), F(2)), np.array(6, F))
    for actual, expected in zip(oc.ops.dynamic_quantize_linear(F(2.55)), (255, 0.01, 0), strict=True):
        same(actual, np.asarray(expected, actual.dtype))


def test_dynamic_quantize_linear_edges() -> None:
    y, scale, zero = oc.ops.dynamic_quantize_linear(np.zeros((0, 4), F))
    assert y.shape == (0, 4)
    assert (scale, zero) == (F(1) / F(255), 0)
    for bad in (np.array([np.nan], F), np.array([np.inf], F), np.array([3e38, -3e38], F)):
        with pytest.raises(ValueError, match="finite"):
            oc.ops.dynamic_quantize_linear(bad)
    with pytest.raises(TypeError, match="float32"):
        oc.ops.dynamic_quantize_linear(np.ones(3))


@pytest.mark.slow
@pytest.mark.parametrize(("a_type", "b_type"), PAIRS, ids=PAIR_IDS)
@pytest.mark.parametrize("y_type", BYTES)
def test_qlinear_matmul_equals_the_reference(a_type, b_type, y_type) -> None:
    rng = np.random.default_rng(0)
    for a_shape, b_shape in [((5, 30), (30, 7)), ((2, 5, 30), (30, 7)), ((2, 5, 30), (2, 30, 7)), ((30,), (30, 7))]:
        a, b = operand(rng, a_type, a_shape), operand(rng, b_type, b_shape)
        zeros = [operand(rng, t, ()) for t in (a_type, b_type, y_type)]
        scales = [F(v) for v in rng.uniform(0.001, 0.1, 3)]
        arguments = (
            a,
            np.array(scales[0]),
            zeros[0],
            b,
            np.array(scales[1]),
            zeros[1],
            np.array(scales[2] * F(300)),
            zeros[2],
        )
        same(oc.ops.qlinear_matmul(*arguments), reference("QLinearMatMul", *arguments)[0])


def test_qlinear_matmul_with_scales_per_row_and_column() -> None:
    rng = np.random.default_rng(1)
    a, b = operand(rng, np.uint8, (4, 20)), operand(rng, np.int8, (20, 6))
    sa, sb = rng.uniform(0.01, 0.1, 4).astype(F), rng.uniform(0.01, 0.1, 6).astype(F)
    za, zb = operand(rng, np.uint8, 4), operand(rng, np.int8, 6)
    y = oc.ops.qlinear_matmul(a, sa, za, b, sb, zb, F(2), np.int8(3))
    sums = exact(a, b, za.astype(int)[:, None], zb.astype(int))
    expected = np.clip(np.rint(sums * (sa[:, None] * sb / F(2)).astype(np.float64) + 3), -128, 127).astype(np.int8)
    same(y, expected)


def test_qlinear_matmul_adds_the_zero_point_before_rounding() -> None:
    """0.5 + 1 = 1.5 rounds to 2; rint(0.5) + 1 would be 1."""
    one = np.ones((1, 1), np.int8)
    y = oc.ops.qlinear_matmul(one, F(0.5), np.int8(0), one, F(1), np.int8(0), F(1), np.int8(1))
    assert y[0, 0] == 2


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: oc.ops.quantize_linear(np.ones(3), F(1)), TypeError, "x must be float32 or float16 or int32"),
        (lambda: oc.ops.quantize_linear(np.ones((2, 3), F), np.ones(2, F)), ValueError, r"shape \(3,\) for axis 1"),
        (lambda: oc.ops.quantize_linear(np.ones((2, 3), F), np.ones(3, F), axis=2), ValueError, "axis must be one of"),
        (lambda: oc.ops.quantize_linear(np.ones((2, 6), F), np.ones((2, 4), F), block_size=2), ValueError, r"\(2, 3\)"),
        (lambda: oc.ops.quantize_linear(np.ones(3, F), F(1), block_size=-1), ValueError, "block_size"),
        (lambda: oc.ops.quantize_linear(np.ones(3, F), F(1), np.int8(1), output_dtype="uint8"), ValueError, "uint8"),
        (lambda: oc.ops.quantize_linear(np.ones(3, F), F(1), output_dtype="int3"), ValueError, "int3"),
        (lambda: oc.ops.quantize_linear(np.ones(3, F), F(1), np.int8(9), output_dtype="int4"), ValueError, "-8..7"),
        (
            lambda: oc.ops.quantize_linear(np.ones((2, 3), F), np.ones(3, F), np.int8([0, 0])),
            ValueError,
            "y_zero_point",
        ),
        (lambda: oc.ops.dequantize_linear(np.ones(3, F), F(1)), TypeError, "x must be int8"),
        (
            lambda: oc.ops.dequantize_linear(np.ones(3, np.int8), F(1), np.uint8(0)),
            TypeError,
            "x_zero_point must be int8",
        ),
        (lambda: oc.ops.dequantize_linear(np.ones(3, np.int32), F(1), np.int32(2)), ValueError, "int32"),
    ],
)
def test_operators_refuse_what_does_not_fit(call, error, words: str) -> None:
    with pytest.raises(error, match=words):
        call()
