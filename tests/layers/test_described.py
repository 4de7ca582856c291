"""How layers show themselves: one line, and the same as a table in a notebook."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import octavo as oc

F = np.float32
W = np.random.default_rng(0).standard_normal((32, 64), dtype=F)
INT4: dict[str, Any] = {"dtype": "int4", "group_size": 32, "symmetric": False, "scale_dtype": "float16"}
SEEN = oc.QParams(0.5, 3, "uint8")

LAYERS: dict[str, Any] = {
    "QuantLinear(64 -> 32, int8, activation=symmetric)": oc.QuantLinear(W),
    "QuantLinear(64 -> 32, int4, group_size=32, symmetric=False, scale_dtype=float16, activation=symmetric, relu)":
        oc.QuantLinear(W, relu=True, **INT4),
    "StaticQuantLinear(64 -> 32, int8, input=quint8 scale=0.5 zero_point=3, output=float32)":
        oc.StaticQuantLinear(np.ones((32, 64), np.int8), 1.0, input=SEEN),
    "QuantMatrix(32 x 64, int8, activation=asymmetric, axis=1)": oc.QuantMatrix(W, activation="asymmetric"),
    "QuantEmbedding(32, 64, int4, group_size=32, symmetric=False)": oc.QuantEmbedding(W, **INT4),
    "QuantLSTM(3 -> 5, int8, activation=symmetric, bias, num_layers=2, bidirectional, batch_first)":
        oc.QuantLSTM.from_float(oc.nn.LSTM.init(3, 5, num_layers=2, bidirectional=True, batch_first=True)),
    "QuantGRU(3 -> 5, int8, activation=symmetric, bias)": oc.QuantGRU.from_float(oc.nn.GRU.init(3, 5)),
}  # fmt: skip


@pytest.mark.parametrize("text", LAYERS)
def test_layer_shows_itself_in_one_line(text: str) -> None:
    assert repr(LAYERS[text]) == text


@pytest.mark.parametrize("text", LAYERS)
def test_layer_shows_the_same_as_a_table_in_a_notebook(text: str) -> None:
    layer = LAYERS[text]
    html = layer._repr_html_()
    header, cells = (re.findall(rf"<{tag} [^>]*>(.*?)</{tag}>", html) for tag in ("th", "td"))
    shown = dict(zip(header, (cell.replace("&gt;", ">") for cell in cells), strict=True))
    assert shown["layer"] == type(layer).__name__
    assert shown["bytes"] == f"{layer.nbytes:,}"
    options = text[text.index("(") + 1 : -1].removeprefix(shown["shape"] + ", ").split(", ")
    assert options == [
        shown["type"],
        *(name if value == "yes" else f"{name}={value}" for name, value in list(shown.items())[3:-1]),
    ]
