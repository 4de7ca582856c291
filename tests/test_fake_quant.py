"""Fake quantization in C++ against its definition in NumPy: bits of y and dL/dx, sums, threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo import fake_quant as fq

F = np.float32
SHAPES: dict[str, tuple[tuple[int, ...], int | None]] = {
    "per tensor": ((70, 1000), None),
    "several blocks": ((3, 70_000), None),
    "axis 0": ((30, 400), 0),
    "axis 0, long runs": ((2, 70_000), 0),
    "axis 1 of 3": ((7, 30, 40), 1),
    "last axis": ((500, 30), -1),
    "one element a channel": ((5000,), 0),
    "one channel": ((1, 5000), 0),
}
RANGES = {"int8": (-128, 127), "narrow": (-127, 127), "uint8": (0, 255), "int4": (-8, 7), "two bits": (-2, 1)}


def case(name: str, bits: str) -> tuple[Any, ...]:
    shape, axis = SHAPES[name]
    qmin, qmax = RANGES[bits]
    rng = np.random.default_rng(len(name))
    channels = () if axis is None else (shape[axis],)
    scale = rng.uniform(0.5, 2, channels).astype(F) * F(4 / (qmax - qmin))
    zero_point = rng.integers(qmin, qmax + 1, channels)
    x = rng.standard_normal(shape, dtype=F) * F(3)
    flat = x.reshape(-1)
    flat[:9] = [0, -0.0, np.inf, -np.inf, 3e38, -3e38, 1e-40, 0.5, -0.5]
    flat[9:40] = (np.arange(31) - 15) * 0.5 * (scale if axis is None else scale.flat[0])  # ties
    return x, scale, zero_point, qmin, qmax, axis


@pytest.fixture
def definition(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a function of fake_quant in NumPy."""

    def run(function: Any, *args: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(fq, "_COMPILED_ELEMS", np.inf)
            return function(*args, **options)

    return run


def same_bits(a: Any, b: Any) -> None:
    assert a.dtype == b.dtype == F
    assert a.shape == b.shape
    both = ~(np.isnan(a) & np.isnan(b))
    np.testing.assert_array_equal(a.view(np.uint32)[both], b.view(np.uint32)[both])


@pytest.mark.parametrize("bits", RANGES)
@pytest.mark.parametrize("name", SHAPES)
def test_compiled_forward_and_gradient_have_the_bits_of_the_definition(name: str, bits: str, definition: Any) -> None:
    x, *parameters = case(name, bits)
    x.flat[40] = np.nan
    grad = np.random.default_rng(1).standard_normal(x.shape, dtype=F)
    with np.errstate(invalid="ignore", over="ignore"):
        same_bits(fq.fake_quantize_forward(x, *parameters), definition(fq.fake_quantize_forward, x, *parameters))
        same_bits(
            fq.fake_quantize_backward(grad, x, *parameters),
            definition(fq.fake_quantize_backward, grad, x, *parameters),
        )


@pytest.mark.parametrize("name", ["per tensor", "axis 0", "last axis"])
def test_forward_is_fake_quantize(name: str) -> None:
    x, scale, zero_point, qmin, qmax, axis = case(name, "int4")
    x = np.where(np.isfinite(x), x, F(0))
    params = oc.QParams(scale, zero_point, "int4", axis=axis)
    same_bits(fq.fake_quantize_forward(x, scale, zero_point, qmin, qmax, axis), oc.fake_quantize(x, params))


@pytest.mark.parametrize("bits", RANGES)
@pytest.mark.parametrize("name", SHAPES)
def test_learned_gradients_are_the_sums_of_the_definition_for_any_threads(
    name: str, bits: str, definition: Any
) -> None:
    x, *parameters = case(name, bits)
    x = np.clip(x, -1e6, 1e6)
    grad = np.random.default_rng(2).standard_normal(x.shape, dtype=F)
    expected = definition(fq.learnable_backward, grad, x, *parameters, grad_factor=0.25)
    before = oc.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            oc.set_num_threads(threads)
            found.append(fq.learnable_backward(grad, x, *parameters, grad_factor=0.25))
    finally:
        oc.set_num_threads(before)
    for one in found:
        same_bits(one[0], expected[0])
        for a, b, first in zip(one[1:], expected[1:], found[0][1:], strict=True):
            np.testing.assert_array_equal(a, first)
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4 * max(1.0, float(np.abs(b).max())))


def test_any_memory_order_is_taken(definition: Any) -> None:
    rng = np.random.default_rng(3)
    wide = rng.standard_normal((120, 200), dtype=F)
    for x in (wide.T, wide[:, ::2], wide[::-1]):
        for axis in (None, 0, 1):
            scale = F(0.1) if axis is None else rng.uniform(0.05, 0.2, x.shape[axis]).astype(F)
            same_bits(
                fq.fake_quantize_forward(x, scale, 0, -8, 7, axis),
                definition(fq.fake_quantize_forward, x, scale, 0, -8, 7, axis),
            )


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0)])
def test_empty_arrays(shape: tuple[int, ...]) -> None:
    assert fq.fake_quantize_forward(np.zeros(shape, F), F(1), 0, -8, 7).shape == shape


def test_the_module_refuses_what_would_read_beyond_an_array() -> None:
    from octavo import _core

    x, one = np.zeros(6, F), np.ones(1, F)
    for outer, inner in ((1, 7), (2, 6), (-1, -6)):
        with pytest.raises(ValueError, match="outer"):
            _core.fake_quantize(x, one, one, -one, one, outer=outer, inner=inner)
    with pytest.raises(ValueError, match="one length"):
        _core.fake_quantize(x, one, np.ones(2, F), -one, one, outer=1, inner=6)
    with pytest.raises(ValueError, match="grad"):
        _core.fake_quantize_backward(x[:3], x, one, one, -one, one, outer=1, inner=6)
    with pytest.raises(ValueError, match="lo must be"):
        _core.fake_quantize(x, one, one, one, one, outer=1, inner=6)
