"""gates: the compiled cells against their definition, to the bit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import octavo as oc
from octavo import _core
from octavo._numerics import functions, gates

F = np.float32

# Every binade, both signs, the seams of the functions, and what is not finite.
POINTS = np.concatenate(
    [
        np.linspace(-90, 90, 200_001, dtype=F),
        np.logspace(-44, 38, 20_001, dtype=F),
        -np.logspace(-44, 38, 20_001, dtype=F),
        np.nextafter(F(0.6), [0, 1], dtype=F),
        np.nextafter(F(87), [0, 100], dtype=F),
        F([0.0, -0.0, 0.6, -0.6, 87, -87, np.inf, -np.inf, np.nan, np.finfo(F).max, np.finfo(F).tiny]),
    ]
)


def layer_of_bias(bias: np.ndarray, hidden: int) -> oc.QuantLinear:
    """Whatever the state, its product is the bias: the weights are zero."""
    return oc.QuantLinear(np.zeros((len(bias), hidden), F), bias)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [1, 2, 3, 4, 5, 7, 8, 15, 17, 64])
@pytest.mark.parametrize("rows", [1, 3])
def test_compiled_cells_are_the_definition_to_the_bit(kernel: str, hidden: int, rows: int) -> None:
    rng = np.random.default_rng(hidden)
    for gate_count in (4, 3):
        width = gate_count * hidden
        inputs = rng.choice(POINTS, (40, rows, width))
        bias = rng.standard_normal(width).astype(F)
        layer = layer_of_bias(bias, hidden)
        h, c = (rng.standard_normal((rows, hidden)).astype(F) for _ in range(2))
        for a in inputs:  # one step each, so that a NaN does not spread
            y = np.empty((1, rows, hidden), F)
            b = np.broadcast_to(bias, (rows, width))
            if gate_count == 4:
                after = c.copy()
                _core.lstm(layer._packed, a[None], h, after, y, False)
                expected, expected_c = gates.lstm_cell(a, b, c)
                np.testing.assert_array_equal(after, expected_c)
            else:
                _core.gru(layer._packed, a[None], h, y, False)
                expected = gates.gru_cell(a, b, h)
            np.testing.assert_array_equal(y[0], expected)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_compiled_cells_refuse_what_would_not_be_safe(name: str) -> None:
    gate_count = 4 if name == "lstm" else 3
    layer = layer_of_bias(np.zeros(gate_count * 2, F), 2)

    def call(**changed: np.ndarray) -> None:
        arrays = {"inputs": np.zeros((5, 3, gate_count * 2), F), "h0": np.zeros((3, 2), F)}
        arrays |= {"c": np.zeros((3, 2), F)} if name == "lstm" else {}
        arrays |= {"outputs": np.zeros((5, 3, 2), F)}
        getattr(_core, name)(layer._packed, *(arrays | changed).values(), False)

    call()
    read_only = np.zeros((5, 3, 2), F)
    read_only.flags.writeable = False
    for changed in (
        {"inputs": np.zeros((5, 3, 5), F)},
        {"inputs": np.zeros((3, gate_count * 2), F)},
        {"inputs": np.zeros((5, 3, gate_count * 4), F)[..., ::2]},
        {"h0": np.zeros((2, 2), F)},
        {"h0": np.zeros((2, 3), F).T},
        {"outputs": np.zeros((4, 3, 2), F)},
        {"outputs": np.zeros((5, 3, 4), F)[..., ::2]},
        {"outputs": read_only},
    ):
        with pytest.raises(ValueError, match=r"must be|fit|contiguous|not writeable"):
            call(**changed)
    with pytest.raises(TypeError):
        call(inputs=np.zeros((5, 3, gate_count * 2)))
    if name == "lstm":
        with pytest.raises(ValueError, match="state must be"):
            call(c=np.zeros((3, 3), F))


def native_inputs(count: int) -> np.ndarray:
    """Those of tests/native/test_recurrent.cpp."""
    states, state = np.empty(count, np.uint32), 1
    for i in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        states[i] = state
    return (states.view(np.int32) >> 8).astype(F) * F(2**-17)


def native_run(gate_count: int) -> np.ndarray:
    steps, rows, hidden = 20, 3, 37
    a = native_inputs(steps * rows * gate_count * hidden).reshape(steps, rows, -1) * F(2**-4)
    h, c = np.full((rows, hidden), 0.25, F), np.full((rows, hidden), -0.5, F)
    y = np.empty((steps, rows, hidden), F)
    for t in range(steps):
        b = np.tile(h, gate_count)
        if gate_count == 4:
            h, c = gates.lstm_cell(a[t], b, c)
        else:
            h = gates.gru_cell(a[t], b, h)
        y[t] = h
    return y


def fnv(values: np.ndarray) -> int:
    h = 0xCBF29CE484222325
    for byte in values.astype("<f4").tobytes():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


@pytest.mark.slow
def test_native_test_has_the_hashes_of_the_definition() -> None:
    source = Path(__file__).parents[1] / "native" / "test_recurrent.cpp"
    if not source.exists():
        pytest.skip("the native tests are not there")
    stated = dict(re.findall(r"k(\w+) = (0x[0-9a-f]+)u", source.read_text()))
    x = native_inputs(100_000)
    values = {"Sigmoid": functions.sigmoid(x), "Tanh": functions.tanh(x), "Lstm": native_run(4), "Gru": native_run(3)}
    assert stated == {name: f"{fnv(v):#x}" for name, v in values.items()}
