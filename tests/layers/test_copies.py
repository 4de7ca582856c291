"""What copies of layers share, and that what layers show of themselves cannot be changed through it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import octavo as oc

F = np.float32
W = np.random.default_rng(0).standard_normal((8, 64), dtype=F)


def static() -> oc.StaticQuantLinear:
    return oc.StaticQuantLinear(np.ones((4, 8), np.int8), 1.0, input=oc.QParams(0.5, 3, "uint8"))


KINDS: dict[str, Callable[[], Any]] = {
    "int8": lambda: oc.QuantLinear(W),
    "int4": lambda: oc.QuantLinear(W, dtype="int4", group_size=32),
    "static": static,
    "permuted": lambda: oc.PermutedQuantLinear(oc.QuantLinear(W), np.arange(64)[::-1]),
    "matrix": lambda: oc.QuantMatrix(W),
    "embedding": lambda: oc.QuantEmbedding(W),
    "lstm": lambda: oc.QuantLSTM.from_float(oc.nn.LSTM.init(8, 4)),
    "gru": lambda: oc.QuantGRU.from_float(oc.nn.GRU.init(8, 4)),
}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_share_the_weights(kind: str, copied: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    layer = KINDS[kind]()
    # What unpacks and packs anew goes through a pickle's state.
    monkeypatch.setattr(type(layer), "__reduce_ex__", lambda self, protocol: pytest.fail("the weights were unpacked"))
    other = copied(layer)
    assert type(other) is type(layer)
    assert repr(other) == repr(layer)


SHOWN: dict[str, Callable[[], np.ndarray]] = {
    "pre_quant_scale": lambda: oc.QuantLinear(W, pre_quant_scale=np.full(64, 2)).pre_quant_scale,
    "permutation": lambda: KINDS["permuted"]().permutation,
    "scale of parameters": lambda: oc.QParams([1, 2], 0, axis=0).scale,
    "zero point of parameters": lambda: oc.QParams(1, 3).zero_point,
    "integers of an array": lambda: oc.QuantizedArray(np.ones((2, 3), np.int8), oc.QParams(1, 0)).int_repr(),
}


@pytest.mark.parametrize("what", SHOWN)
def test_what_is_shown_cannot_be_made_writable(what: str) -> None:
    for shown in (SHOWN[what](), SHOWN[what]().view()):
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
            shown.flags.writeable = True


def test_the_weight_of_a_permuted_layer_alone_is_permuted_too() -> None:
    layer = oc.PermutedQuantLinear(oc.QuantLinear(W, np.arange(8)), np.random.default_rng(0).permutation(64))
    alone, bias = layer._without_bias()
    assert bias is not None
    np.testing.assert_array_equal(alone.weight, layer.weight)
    np.testing.assert_array_equal(bias, layer.bias)
    assert alone.bias is None
