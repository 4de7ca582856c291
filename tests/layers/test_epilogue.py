"""Functions that results go through in the same call: the bits of octavo.functional behind the plain layer."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import octavo as oc
from grouped_weights import make_codes
from octavo._layers.epilogue import EPILOGUES, Epilogue
from reference import assert_same_bits

F = np.float32
FUNCTIONS = {
    "gelu": oc.functional.gelu,
    "gelu_tanh": lambda y: oc.functional.gelu(y, approximate="tanh"),
    "relu": lambda y: np.where(np.isnan(y) | (y > 0), y, F(0)),
    "sigmoid": oc.functional.sigmoid,
    "silu": oc.functional.silu,
    "tanh": oc.functional.tanh,
}


def layer_of(kind: str, epilogue: Epilogue | None, k: int = 64, n: int = 37) -> oc.QuantLinear:
    rng = np.random.default_rng(0)
    w, b = (rng.standard_normal(size).astype(F) for size in ((n, k), n))
    if kind == "grouped":
        codes = make_codes(n, k, "minimum")
        return oc.QuantLinear.from_grouped(codes, b, activation_group=32, epilogue=epilogue)
    options: dict[str, Any] = {"rounding": "nearest"} if kind == "int4" else {}
    return oc.QuantLinear(w, b, dtype=kind, epilogue=epilogue, **options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "int4", "grouped"])
@pytest.mark.parametrize("kernel", [kernel.name for kernel in oc.kernels() if kernel.supported])
def test_epilogue_gives_the_bits_of_the_function(kind: str, kernel: str) -> None:
    assert set(FUNCTIONS) == set(EPILOGUES) == set(get_args(Epilogue))
    x = np.random.default_rng(1).standard_normal((70, 64)).astype(F) * 3
    x[1], x[2, 5], x[3] = 0, np.nan, 1e20
    oc.use_kernel(kernel)
    try:
        for threads in (1, 2):
            oc.set_num_threads(threads)
            for name in EPILOGUES:
                plain, layer = layer_of(kind, None), layer_of(kind, name)
                for m in (0, 1, 3, 70):
                    assert_same_bits(layer(x[:m]), FUNCTIONS[name](plain(x[:m])), f"{layer}, {m} rows")
                out = np.zeros((70, 80), F)
                layer(x, out=out[:, :37])
                assert_same_bits(out[:, :37], FUNCTIONS[name](plain(x)))
                assert not out[:, 37:].any()
                wide = x.astype(np.float64)
                assert layer(wide).dtype == np.float64
                assert_same_bits(layer(wide).astype(F), FUNCTIONS[name](plain(wide)).astype(F))
    finally:
        oc.use_kernel(None)
        oc.set_num_threads(1)


def test_layer_without_inputs_gives_the_function_of_its_bias() -> None:
    b = np.array([-1, 0.5, 2], F)
    layer = oc.QuantLinear(np.zeros((3, 0), F), b, epilogue="silu")
    assert_same_bits(layer(np.zeros((2, 0), F)), oc.functional.silu(np.tile(b, (2, 1))))


@pytest.mark.parametrize("kind", ["int8", "int4", "grouped"])
def test_epilogue_is_kept_and_told(kind: str, tmp_path: Path) -> None:
    layer, x = layer_of(kind, "gelu_tanh"), np.ones((2, 64), F)
    assert repr(layer).endswith("bias, epilogue=gelu_tanh)")
    assert layer.epilogue == "gelu_tanh"
    assert not layer.relu
    oc.save({"fc": layer, "again": layer}, tmp_path / "a.safetensors")
    loaded = oc.load(tmp_path / "a.safetensors")["fc"]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded, *oc.split(layer, [20])):
        assert other.epilogue == "gelu_tanh"
    for same in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        loaded,
        oc.concatenate(oc.split(layer, [20])),
    ):
        assert_same_bits(same(x), layer(x))
    with pytest.raises(ValueError, match="parts must be of one form"):
        oc.concatenate([layer, layer_of(kind, "gelu")])
    with pytest.raises(ValueError, match="epilogue"):
        oc.load(tmp_path / "a.safetensors", {"fc": layer_of(kind, None), "again": layer})


def test_relu_is_an_epilogue_too(tmp_path: Path) -> None:
    relu = layer_of("int8", "relu")
    assert relu.relu
    assert relu.epilogue == "relu"
    assert repr(relu) == "QuantLinear(64 -> 37, int8, activation=symmetric, bias, relu)"
    assert layer_of("int8", None).epilogue is None
    oc.save({"fc": relu}, tmp_path / "relu.safetensors")
    assert b'"version":1' in (tmp_path / "relu.safetensors").read_bytes().replace(b" ", b"").replace(b"\\", b"")
    assert oc.load(tmp_path / "relu.safetensors")["fc"].relu


def test_contradictions_and_unknown_names_are_refused() -> None:
    w: Any = np.eye(4, dtype=F)
    with pytest.raises(ValueError, match="relu=True and epilogue='gelu' contradict"):
        oc.QuantLinear(w, relu=True, epilogue="gelu")
    unknown: Any = "swish"
    with pytest.raises(ValueError, match=r"epilogue must be .* or None, got 'swish'"):
        oc.QuantLinear(w, epilogue=unknown)
