"""What type checkers say of quantized models: they keep their model's type, and bare layers have that of their own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROGRAM = """
import numpy as np
import octavo as oc


class Model:
    fc: oc.nn.Linear


def types(model: Model, w: np.ndarray, linear: oc.nn.Linear, lstm: oc.nn.LSTM, table: oc.nn.Embedding) -> None:
    x = np.zeros((1, 4), np.float32)
    reveal_type(oc.quantize_dynamic(model, oc.nn.Linear, dtype={"": "int8", "head": None}, inplace=True))
    reveal_type(oc.quantize_dynamic({"w": w}, arrays=True, report=print))
    reveal_type(oc.quantize_dynamic(w))
    reveal_type(oc.quantize_dynamic(linear, {oc.nn.Linear: oc.LayerSpec(), "fc": None}))
    reveal_type(oc.quantize_dynamic(lstm, oc.nn.LSTM))
    reveal_type(oc.quantize_dynamic(table, [oc.nn.Embedding, "head"]))
    prepared = oc.prepare(model, oc.default_qconfig, layers=oc.nn.Linear)
    oc.calibrate(prepared, [x])
    reveal_type(oc.convert(prepared))
    reveal_type(oc.prepare_qat(model, oc.default_qat_qconfig, layers=oc.nn.Linear))
    reveal_type(oc.load("path"))
    reveal_type(oc.load("path", model, prefix="model.", rename={"old.*": "new.*"}, dtypes="file", check=False))


oc.quantize_dynamic({}, layers=3)
oc.quantize_dynamic({}, nonsense=3)
"""

REVEALED = [
    "program.Model",
    "dict[str, numpy.ndarray",
    "octavo._layers.matrix.QuantMatrix",
    "octavo._layers.linear.QuantLinear",
    "octavo._layers.recurrent.QuantLSTM",
    "octavo._layers.embedding.QuantEmbedding",
    "program.Model",
    "program.Model",
    "dict[str, Any]",
    "program.Model",
]


@pytest.mark.slow
def test_quantized_models_have_their_models_type(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api", reason="what type checkers say of users' code: pip install mypy")
    (tmp_path / "program.py").write_text(PROGRAM)
    output, errors, _ = api.run(
        ["--config-file=", "--strict", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "program.py")]
    )
    assert errors == ""
    revealed = re.findall(r'Revealed type is "(.*)"', output)
    assert len(revealed) == len(REVEALED), output
    for found, expected in zip(revealed, REVEALED, strict=True):
        assert found.replace("builtins.", "").startswith(expected)
    wrong = re.findall(r"program\.py:(\d+): error: .*\[(.*)\]", output)
    last = len(PROGRAM.splitlines())
    assert {(int(line), kind) for line, kind in wrong} == {(last - 1, "call-overload"), (last, "call-overload")}, output
