"""How fast are the functions of octavo.functional, beside NumPy's code for the same and PyTorch? One interleaved run.

    OPENBLAS_NUM_THREADS=1 python -m bench.layers.functional [--threads 1] [--shape 512 3072] [--json FILE]

Each answer is compared with float64 first. "NumPy" is what one would write, with temporaries; "NumPy, tanh" for gelu is
the approximation, because NumPy has no erf. PyTorch runs where it is installed. OCTAVO_ISA forces a kernel. The last
lines time one row of 576, as a language model does between its products. With one thread its processor time counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import octavo as oc
from octavo._util.timing import interleaved

Array = NDArray[Any]
Contenders = dict[str, Callable[[], Any]]
F = oc.functional


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    y: Array = e / e.sum(axis=-1, keepdims=True)
    return y


def silu(x: Array) -> Array:
    y: Array = x / (1 + np.exp(-x))
    return y


def gelu_tanh(x: Array) -> Array:
    y: Array = 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x * x * x)))
    return y


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    d = x - x.mean(axis=-1, keepdims=True)
    y: Array = d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + np.float32(1e-5)) * weight + bias
    return y


def rms_norm(x: Array, weight: Array) -> Array:
    y: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(1e-5)) * weight
    return y


def gelu(x: Array) -> Array:
    return x * np.frompyfunc(math.erfc, 1, 1)(-x / math.sqrt(2)).astype(np.float64) / 2


def cases(x: Array) -> dict[str, tuple[Contenders, Callable[[Array], Array]]]:
    """For each function its contenders, and the answer in float64."""
    rng = np.random.default_rng(1)
    up = rng.standard_normal(x.shape, np.float32)
    w, b = rng.standard_normal((2, x.shape[-1]), np.float32)
    found: dict[str, tuple[Contenders, Callable[[Array], Array]]] = {
        "softmax": ({"octavo": lambda: F.softmax(x), "NumPy": lambda: softmax(x)}, softmax),
        "gelu": ({"octavo": lambda: F.gelu(x), "NumPy, tanh": lambda: gelu_tanh(x)}, gelu),
        "gelu tanh": (
            {"octavo": lambda: F.gelu(x, approximate="tanh"), "NumPy": lambda: gelu_tanh(x)},
            gelu_tanh,
        ),
        "silu": ({"octavo": lambda: F.silu(x), "NumPy": lambda: silu(x)}, silu),
        "swiglu": (
            {"octavo": lambda: F.swiglu(x, up), "NumPy": lambda: silu(x) * up},
            lambda a: silu(a) * up,
        ),
        "layer_norm": (
            {"octavo": lambda: F.layer_norm(x, w, b, eps=1e-5), "NumPy": lambda: layer_norm(x, w, b)},
            lambda a: layer_norm(a, w, b),
        ),
        "rms_norm": (
            {"octavo": lambda: F.rms_norm(x, w, eps=1e-5), "NumPy": lambda: rms_norm(x, w)},
            lambda a: rms_norm(a, w),
        ),
        "exp": ({"octavo": lambda: F.exp(x), "NumPy": lambda: np.exp(x)}, np.exp),
        "tanh": ({"octavo": lambda: F.tanh(x), "NumPy": lambda: np.tanh(x)}, np.tanh),
        "sin": ({"octavo": lambda: F.sin(x), "NumPy": lambda: np.sin(x)}, np.sin),
    }
    if importlib.util.find_spec("torch"):
        import torch
        from torch.nn import functional as torch_functional

        t, tu, tw, tb = (torch.from_numpy(a) for a in (x, up, w, b))
        columns = (x.shape[-1],)
        peers: dict[str, Callable[[], Any]] = {
            "softmax": lambda: torch.softmax(t, -1),
            "gelu": lambda: torch_functional.gelu(t),
            "gelu tanh": lambda: torch_functional.gelu(t, approximate="tanh"),
            "silu": lambda: torch_functional.silu(t),
            "swiglu": lambda: torch_functional.silu(t) * tu,
            "layer_norm": lambda: torch_functional.layer_norm(t, columns, tw, tb, 1e-5),
            "rms_norm": lambda: torch_functional.rms_norm(t, columns, tw, 1e-5),
            "exp": lambda: torch.exp(t),
            "tanh": lambda: torch.tanh(t),
            "sin": lambda: torch.sin(t),
        }
        for name, peer in peers.items():
            found[name][0]["PyTorch"] = peer
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shape", type=int, nargs=2, default=[512, 3072])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--json", type=Path, help="write the medians, in seconds, to this file")
    args = parser.parse_args()
    oc.set_num_threads(args.threads)
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(args.threads)
        print(f"PyTorch {torch.__version__}")
    active = next(k.name for k in oc.kernels() if k.active)
    print(f"{oc.cpu_info().brand}, kernel {active}, {args.threads} threads, NumPy {np.__version__}\n")
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    medians: dict[str, dict[str, float]] = {}
    for shape, round_seconds in ((tuple(args.shape), 0.02), ((1, 576), 0.005)):
        x = 3 * np.random.default_rng(0).standard_normal(shape, np.float32)
        print(f"{'x'.join(map(str, shape)):>12} {'octavo':>12} {'spread':>7}   times as long (spread)")
        for name, (contenders, truth) in cases(x).items():
            expected = truth(x.astype(np.float64))
            for who, compute in contenders.items():
                tolerance = 2e-3 if who == "NumPy, tanh" else 3e-5
                np.testing.assert_allclose(np.asarray(compute()), expected, rtol=tolerance, atol=tolerance, err_msg=who)
            times = interleaved(contenders, rounds=args.rounds, round_seconds=round_seconds, clock=clock)
            ours = times["octavo"]
            others = ", ".join(
                f"{who} {t.median / ours.median:.2f} ({t.spread:.0%})" for who, t in times.items() if who != "octavo"
            )
            print(f"{name:>12} {ours.median * 1e6:9.2f} us {ours.spread:7.0%}   {others}", flush=True)
            medians[f"{name} {shape}"] = {who: t.median for who, t in times.items()}
        print()
    if args.json:
        args.json.write_text(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
