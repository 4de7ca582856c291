"""What a scale of each input costs a layer, in one interleaved run: python -m bench.layers.pre_quant_scale [M K N]"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import octavo as oc
from octavo._util.timing import interleaved

FORMS: dict[str, dict[str, Any]] = {
    "int8": {},
    "int8 asymmetric": {"activation": "asymmetric"},
    "int8, int16 activations": {"activation": "int16"},
    "int4 g64": {"dtype": "int4", "group_size": 64, "rounding": "nearest"},
}


def main() -> None:
    m, k, n = map(int, sys.argv[1:4]) if len(sys.argv) > 3 else (512, 768, 3072)
    oc.set_num_threads(1)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((m, k), dtype=np.float32), rng.standard_normal((n, k), dtype=np.float32)
    s = np.exp(rng.normal(size=k)).astype(np.float32)
    print("\n".join(oc.runtime.config_lines()))
    for name, options in FORMS.items():
        plain, scaled = oc.QuantLinear(w, **options), oc.QuantLinear(w, pre_quant_scale=s, **options)
        if not np.array_equal(scaled(x), oc.QuantLinear(w * s, **options)(x * (np.float32(1) / s))):
            raise SystemExit(f"{name}: other bits than the definition's")
        runs = {"plain": lambda layer=plain: layer(x), "scaled": lambda layer=scaled: layer(x)}
        t = interleaved(runs, rounds=31, round_seconds=0.05)
        ratio = t["scaled"].median / t["plain"].median
        print(
            f"{name:24} {m}x{k}x{n}  plain {1e3 * t['plain'].median:8.3f} ms  scaled {1e3 * t['scaled'].median:8.3f} ms"
            f"  {ratio - 1:+.1%}  spread {t['plain'].spread:.0%}, {t['scaled'].spread:.0%}"
        )


if __name__ == "__main__":
    main()
