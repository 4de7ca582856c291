"""Layers out of checkpoints of other tools beside the same layers as octavo quantizes them; one run, interleaved.

    OCTAVO_NUM_THREADS=1 python -m bench.layers.checkpoints [--shapes 1x4096x4096 128x4096x4096] [--kernel avx2]

For each form a float matrix is quantized by octavo and written as that tool has it (or saved by octavo, where it can),
and `octavo.checkpoints.load` makes the other layer. Both get the same x and must give the same result, or, where the
tool's scales are float16, nearly so. A ratio above 1 means that the converted layer is slower. The line of
act-order is the same layer with its inputs shuffled, as GPTQ's g_idx has it: what putting x in order costs.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import octavo as oc
from octavo._files.safetensors import Tensor, Writer
from octavo._util.timing import interleaved
from octavo.checkpoints._packing import words

F = np.float32
GROUP = 128


def packed(codes: Any, bits: int) -> Any:
    """(rows, count) codes of 4 or 8 bits as words of 32 bits, low bits first."""
    whole = np.zeros((len(codes), words(codes.shape[1], bits) * 32 // bits), np.uint8)
    whole[:, : codes.shape[1]] = codes
    return (whole if bits == 8 else whole[:, ::2] | whole[:, 1::2] << 4).view("<u4")


def folder_of(place: str, tensors: dict[str, Any], config: dict[str, Any]) -> Path:
    kinds = {"uint32": "I32", "int32": "I32", "float16": "F16"}
    forms = {f"fc.{name}": Tensor(kinds[a.dtype.name], a.shape) for name, a in tensors.items()}
    with Writer(Path(place) / "model.safetensors", forms) as writer:
        for name, a in tensors.items():
            writer.append(f"fc.{name}", np.ascontiguousarray(a))
    (Path(place) / "config.json").write_text(json.dumps({"quantization_config": config}))
    return Path(place)


def saved(place: str, layer: oc.QuantLinear) -> Path:
    oc.checkpoints.save({"fc": layer}, place)
    return Path(place)


def gptq(place: str, own: oc.QuantLinear, order: Any) -> Path:
    """The layer as GPTQ has it, input order[i] at place i."""
    w = own.grouped()
    codes = w.codes.view(np.uint8) if w.codes.dtype == np.uint8 else (w.codes + 8).view(np.uint8)
    zero = np.full(w.scale.shape, 8) if w.zero_point is None else w.zero_point.astype(np.int64)
    zero = zero + (8 if w.codes.dtype == np.int8 and w.zero_point is not None else 0)
    tensors = {
        "qweight": packed(codes[:, order], 4).T,
        "qzeros": packed(zero.T.astype(np.uint8), 4),
        "scales": w.scale.astype(np.float16).T,
        "g_idx": (order // GROUP).astype(np.int32),
    }
    config = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "checkpoint_format": "gptq_v2"}
    return folder_of(place, tensors, config)


def pairs(k: int, n: int) -> dict[str, tuple[oc.QuantLinear, oc.QuantLinear, Any]]:
    """Form: (octavo's own layer, the one out of a checkpoint, which of the first one's inputs it takes where)."""
    w = np.random.default_rng(0).standard_normal((n, k), dtype=F)
    straight, shuffled = np.arange(k), np.random.default_rng(1).permutation(k)
    found: dict[str, tuple[oc.QuantLinear, oc.QuantLinear, Any]] = {}

    def add(name: str, own: oc.QuantLinear, path: Path, order: Any = straight, **options: Any) -> None:
        found[name] = own, oc.checkpoints.load(path, **options)["fc"], order

    with tempfile.TemporaryDirectory() as place:
        int8 = oc.QuantLinear(w)
        add("int8 a channel (compressed-tensors)", int8, saved(place, int8))
        fixed = oc.QParams(4 / 127, 0, "int8")
        static = oc.StaticQuantLinear(int8.int_repr(), int8.scale, input=fixed)
        add("the same, static", static, saved(place, static))
        for symmetric, name in ((True, "int4 of 128"), (False, "int4 of 128, zero points")):
            options: dict[str, Any] = {
                "dtype": "int4", "group_size": GROUP, "symmetric": symmetric, "scale_dtype": "float16",
                "rounding": "nearest",
            }  # fmt: skip
            rows = oc.QuantLinear(w, **options)
            groups = oc.QuantLinear(w, **options, activation_group=GROUP)
            add(f"{name} (compressed-tensors), x in groups", groups, saved(place, rows))
            add(f"{name} (compressed-tensors), x in rows", rows, Path(place), activation_group=None)
            add(f"{name} (GPTQ), x in groups", groups, gptq(place, groups, straight))
        add("the same in act-order", groups, gptq(place, groups, shuffled), shuffled)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["1x4096x4096", "128x4096x4096"], metavar="MxKxN")
    parser.add_argument("--kernel", help="in the place of the best one")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each contender in each round")
    args = parser.parse_args()
    oc.use_kernel(args.kernel)
    print("\n".join(oc.runtime.config_lines()), "\n")
    columns = ("own us", "converted us", "ratio", "spread", "same bits")
    print(f"{'M x K x N':14}{'form':56}", *(f"{column:>12}" for column in columns))
    for shape in args.shapes:
        m, k, n = (int(size) for size in shape.split("x"))
        x = np.random.default_rng(2).standard_normal((m, k), dtype=F)
        for name, (own, converted, order) in pairs(k, n).items():
            shuffled = np.ascontiguousarray(x[:, order])
            expected = np.asarray(own(x))
            error = np.abs(np.asarray(converted(shuffled)) - expected).max()
            assert error <= 2e-3 * np.abs(expected).max(), (name, error)
            timings = interleaved(
                {"own": functools.partial(own, x), "converted": functools.partial(converted, shuffled)},
                rounds=args.rounds,
                round_seconds=args.seconds,
            )
            ratios = [b / a for a, b in zip(timings["own"].rounds, timings["converted"].rounds, strict=True)]
            values = (
                f"{1e6 * timings['own'].median:.1f}", f"{1e6 * timings['converted'].median:.1f}",
                f"{np.median(ratios):.3f}", f"{max(t.spread for t in timings.values()):.0%}",
                "yes" if error == 0 else f"{error:.1e}",
            )  # fmt: skip
            print(f"{shape:14}{name:56}", *(f"{value:>12}" for value in values), flush=True)


if __name__ == "__main__":
    main()
