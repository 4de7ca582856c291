"""octavo.int4: nibbles in bytes, and grouped weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import octavo as oc


@pytest.mark.slow
@given(st.integers(0, 9), st.integers(0, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_unpack_gives_back_what_was_packed(rows: int, n: int, signed: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q = rng.integers(-8, 8, (rows, n)).astype(np.int8) if signed else rng.integers(0, 16, (rows, n)).astype(np.uint8)
    packed = oc.pack_int4(q)
    assert packed.dtype == np.uint8
    assert packed.shape == (rows, (n + 1) // 2)
    back = oc.unpack_int4(packed, n, signed=signed)
    assert back.dtype == q.dtype
    np.testing.assert_array_equal(back, q)


def test_first_of_a_pair_lies_in_the_low_nibble_as_in_onnx() -> None:
    helper = pytest.importorskip("onnx.helper", reason="onnx is not installed")
    numpy_helper = pytest.importorskip("onnx.numpy_helper")
    q = np.array([[-8, -1, 0, 7, 3]], np.int8)
    tensor = helper.make_tensor("q", numpy_helper.onnx.TensorProto.INT4, (5,), q[0].tolist())
    stored = np.frombuffer(tensor.raw_data or np.array(tensor.int32_data, np.uint8).tobytes(), np.uint8)
    np.testing.assert_array_equal(oc.pack_int4(q)[0], stored)


def test_pack_takes_any_memory_order() -> None:
    q = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    np.testing.assert_array_equal(oc.unpack_int4(oc.pack_int4(q.T), 4), q.T)
    np.testing.assert_array_equal(oc.unpack_int4(oc.pack_int4(q[:, ::-2]), 2), q[:, ::-2])


@pytest.mark.parametrize(
    ("q", "error", "message"),
    [
        (np.zeros(3, np.int32), TypeError, "int8 or uint8 array, got dtype int32"),
        (np.array([8], np.int8), ValueError, r"-8\.\.7, got 8\.\.8"),
        (np.array([-9], np.int8), ValueError, r"got -9\.\.-9"),
        (np.array([16], np.uint8), ValueError, r"0\.\.15, got 16\.\.16"),
        (np.int8(1), ValueError, "at least one axis"),
    ],
)
def test_pack_refuses(q: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        oc.pack_int4(q)


@pytest.mark.parametrize(
    ("packed", "length", "error", "message"),
    [
        (np.zeros(2, np.int8), 4, TypeError, "uint8 array, got dtype int8"),
        (np.zeros(2, np.uint8), 5, ValueError, "3 bytes along its last axis to hold 5 integers"),
        (np.zeros(2, np.uint8), 2, ValueError, "1 bytes"),
        (np.zeros(0, np.uint8), -1, ValueError, "0 bytes"),
        (np.uint8(1), 1, ValueError, "shape"),
    ],
)
def test_unpack_refuses(packed: object, length: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        oc.unpack_int4(packed, length)


@pytest.mark.parametrize("group_size", [None, 1, 3, 32, 100])
@pytest.mark.parametrize("symmetric", [True, False])
def test_dequantize_is_the_definition_elementwise(group_size: int | None, symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    n, k = 5, 70
    groups = 1 if group_size is None else -(-k // group_size)
    q = rng.integers(-8, 8, (n, k)).astype(np.int8)
    scale = rng.standard_normal((n, groups), dtype=np.float32)
    zero_point = None if symmetric else rng.integers(-8, 8, (n, groups)).astype(np.int8)
    expected = np.empty((n, k), np.float32)
    for i in range(n):
        for j in range(k):
            g = 0 if group_size is None else j // group_size
            z = 0 if zero_point is None else int(zero_point[i, g])
            expected[i, j] = np.float32(int(q[i, j]) - z) * scale[i, g]
    weight = oc.GroupedWeight(q, scale, zero_point, group_size)
    np.testing.assert_array_equal(weight.dequantize(), expected)
    assert weight.nbytes == n * k // 2 + 4 * n * groups + (0 if symmetric else n * groups)


def test_float16_scales_take_two_bytes_and_must_be_float16_numbers() -> None:
    q = np.zeros((2, 64), np.int8)
    assert oc.GroupedWeight(q, np.full((2, 2), 0.5), None, 32, "float16").nbytes == 64 + 8
    with pytest.raises(ValueError, match=r"a float16 number, got 0\.1"):
        oc.GroupedWeight(q, np.full((2, 2), 0.1), None, 32, "float16")


@pytest.mark.parametrize("k", [0, 1, 63])
def test_small_and_empty_weights(k: int) -> None:
    weight = oc.GroupedWeight(np.ones((2, k), np.int8), np.full((2, -(-k // 32)), 2.0), None, 32)
    np.testing.assert_array_equal(weight.dequantize(), np.full((2, k), 2, np.float32))


Q = np.zeros((2, 64), np.int8)
S = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Q.astype(np.int32), S, None, 32), TypeError, "q must be an int8"),
        ((Q[0], S, None, 32), ValueError, "q must be 2-D"),
        ((Q + np.int8(9), S, None, 32), ValueError, r"q must hold -8\.\.7, got 9\.\.9"),
        ((Q, S, None, 64), ValueError, r"shape \(2, 1\)"),
        ((Q, S, None, 0), ValueError, "at least 1, got 0"),
        ((Q, S * 0, None, 32), ValueError, r"finite and not zero, got 0\.0 at \[0, 0\]"),
        ((Q, S * np.nan, None, 32), ValueError, "finite and not zero, got nan"),
        ((Q, S * np.inf, None, 32), ValueError, "finite and not zero, got inf"),
        ((Q, S.astype(complex), None, 32), TypeError, "real numbers"),
        ((Q, S, S, 32), TypeError, "zero_point must be an int8"),
        ((Q, S, np.zeros((2, 1), np.int8), 32), ValueError, r"zero_point must have shape \(2, 2\)"),
        ((Q, S, np.full((2, 2), 8, np.int8), 32), ValueError, r"zero_point must hold -8\.\.7"),
        ((Q, S, None, 32, "bfloat16"), ValueError, "scale_dtype must be one of"),
    ],
)
def test_grouped_weight_refuses(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        oc.GroupedWeight(*arguments)
