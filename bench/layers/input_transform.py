"""What a scale of each input, and a rotation of blocks of 128, cost a layer, in one interleaved run.

    python -m bench.layers.input_transform [M K N ...]

Results are compared with the definition's first, to the bit.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import octavo as oc
from octavo._numerics.input_transform import InputTransform
from octavo._util.timing import interleaved

FORMS: dict[str, dict[str, Any]] = {
    "int8": {},
    "int8 asymmetric": {"activation": "asymmetric"},
    "int8, int16 activations": {"activation": "int16"},
    "int4 g64": {"dtype": "int4", "group_size": 64, "rounding": "nearest"},
    "int4 g64, int16 activations": {"dtype": "int4", "group_size": 64, "rounding": "nearest", "activation": "int16"},
}


def show(m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((m, k), dtype=np.float32), rng.standard_normal((n, k), dtype=np.float32)
    s = np.exp(rng.normal(size=k)).astype(np.float32)
    inputs = {"plain": InputTransform(), "scaled": InputTransform(s), "rotated": InputTransform(rotation=128)}
    for name, options in FORMS.items():
        layers = {way: oc.QuantLinear(w, **t.arguments(), **options) for way, t in inputs.items()}
        for way, t in inputs.items():
            if not np.array_equal(layers[way](x), oc.QuantLinear(t.weight(w), **options)(t.inputs(x))):
                raise SystemExit(f"{name}: other bits than the definition's")
        runs = {way: lambda layer=layer: layer(x) for way, layer in layers.items()}
        t = interleaved(runs, rounds=31, round_seconds=0.05)
        plain = t["plain"].median
        more = "  ".join(f"{way} {t[way].median / plain - 1:+.1%}" for way in ("scaled", "rotated"))
        spread = ", ".join(f"{t[way].spread:.0%}" for way in runs)
        print(f"{name:28} {m}x{k}x{n}  plain {1e3 * plain:8.3f} ms  {more}  spread {spread}", flush=True)


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [512, 768, 3072]
    oc.set_num_threads(1)
    print("\n".join(oc.runtime.config_lines()))
    for i in range(0, len(sizes), 3):
        show(*sizes[i : i + 3])


if __name__ == "__main__":
    main()
