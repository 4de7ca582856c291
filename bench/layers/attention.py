"""Attention beside NumPy and, where it is installed, PyTorch: a prompt at once and the next token from a cache.

    export OPENBLAS_NUM_THREADS=1 OCTAVO_NUM_THREADS=1 OMP_NUM_THREADS=1
    python -m bench.layers.attention

Heads are those of SmolLM2-135M: 9, and 3 of keys and values, of 64 dimensions. Microseconds, medians; GFLOP/s count the
products alone, of a prompt only those with positions that a query sees. PyTorch gets keys and values that are repeated
and transposed beforehand, and NumPy too. With one thread its processor time counts.
"""

import argparse
import importlib
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import octavo as oc
from octavo._util.timing import interleaved
from octavo.functional import KVCache, attention

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None

HEADS, KV_HEADS, DIM = 9, 3, 64
SHAPES = [(128, 128), (512, 512), (2048, 2048), (1, 100), (1, 500), (1, 2000)]


def by_numpy(q: Any, k: Any, v: Any) -> Any:
    """(heads, T, D) of arrays in that order."""
    scores = q @ k.swapaxes(-1, -2)
    scores *= DIM**-0.5
    t, s = scores.shape[-2:]
    scores[:, np.triu(np.ones((t, s), bool), s - t + 1)] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores @ v


def contenders(t: int, s: int) -> dict[str, Callable[[], Any]]:
    """Calls that all give (T, heads, D), of one random input."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((n, h, DIM), np.float32) for n, h in ((t, HEADS), (s, KV_HEADS), (s, KV_HEADS)))
    cache = KVCache(1, s, KV_HEADS, DIM)
    for part in (slice(0, s - t), slice(s - t, s)):  # the queries are those of the last step
        cache.extend(part.stop - part.start)
        cache[0].write(k[part], v[part])
    heads_first = [np.repeat(a, HEADS // a.shape[1], axis=1).swapaxes(0, 1).copy() for a in (q, k, v)]
    found: dict[str, Callable[[], Any]] = {
        "octavo": lambda: attention(q, cache[0], causal=True),
        "octavo, arrays": lambda: attention(q, k, v, causal=True),
        "numpy": lambda: by_numpy(*heads_first).swapaxes(0, 1),
    }
    if torch is not None:
        tensors = [torch.from_numpy(a)[None] for a in heads_first]
        product = torch.nn.functional.scaled_dot_product_attention
        found["torch"] = lambda: product(*tensors, is_causal=t == s)[0].transpose(0, 1).numpy()
    return found


def main() -> None:
    """Prints a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each contender in each round")
    args = parser.parse_args()
    if torch is not None:
        torch.set_num_threads(oc.get_num_threads())
    print("\n".join(oc.runtime.config_lines()))
    for t, s in SHAPES:
        calls = contenders(t, s)
        expected = calls["octavo"]()
        for name, call in calls.items():
            np.testing.assert_allclose(call(), expected, atol=1e-5, err_msg=name)
        clock = time.thread_time if oc.get_num_threads() == 1 else time.perf_counter
        timings = interleaved(calls, rounds=args.rounds, round_seconds=args.seconds, clock=clock)
        ours = timings["octavo"].median
        pairs = t * s - t * (t - 1) / 2
        line = f"{t:5} of {s:5}: {4 * pairs * HEADS * DIM / ours / 1e9:6.1f} GFLOP/s"
        for name, timing in timings.items():
            line += f"  {name} {1e6 * timing.median:.1f} us ({timing.median / ours:.2f}x)"
        print(line)


if __name__ == "__main__":
    main()
