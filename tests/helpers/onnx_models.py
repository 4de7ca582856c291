"""Small ONNX models, and the integers and scales in them. Import it where the package onnx is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F = np.float32
N, K = 24, 128


def model(path: Path, nodes: list[Any], constants: dict[str, Any], opset: int = 21) -> Path:
    """A model whose x has K columns, written to `path`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [a if isinstance(a, onnx.TensorProto) else numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def codes(low: int, high: int, dtype: Any, shape: tuple[int, ...] = (K, N), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def scales(*shape: int, dtype: Any = F) -> np.ndarray:
    return (np.random.default_rng(1).random(shape) * 0.1 + 0.01).astype(dtype)
