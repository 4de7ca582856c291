"""octavo and the libraries that are installed, layer by layer: float32 in, float32 out, dynamic quantization included.

    pip install '.[bench]' torch onnxruntime onnx openvino numkong      (whichever are wanted)
    python -m bench.peers.compare_peers --threads 1
    python -m bench.peers.compare_peers --threads 1 2 --markdown docs/benchmarks.md --plot docs/benchmarks.png

About 15 minutes for the whole grid on one thread and 10 on two; `--shapes short` takes one. The machine should do
nothing else. All contenders of a shape are checked against float64, then called in turn in one process, five rounds
(three where a call takes over half a second): a figure is the median, its spread (slowest - fastest) / median. A limit
is the best that bench/limits/limits_x86.cpp measures right before, compiled with c++ (or --limits FILE of its --json):

    limit = max(operations / arithmetic limit, bytes of weights / read bandwidth for as many bytes)

A core with AMX can have two modes (bench/limits/core_mode.h). There a round is many samples, the core is probed before
and after each, for all contenders alike, and a figure is the median of those in the fast mode, or of all where fewer
than three were. The column `samples` says how many samples each figure of a row rests on.

Contenders that multiply integers alone are marked (ints): neither quantizing nor rescaling is in their time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.peers import core_mode, peer_plot, peer_report
from bench.shapes import parse_shapes

LIMITS = Path(__file__).parents[1] / "limits" / "limits_x86.cpp"


def measured_limits(threads: list[int], folder: Path) -> dict[str, Any]:
    """What limits_x86 measures here; nothing on another architecture."""
    program, out = folder / "limits_x86", folder / "limits.json"
    compiler = os.environ.get("CXX", "c++")
    build = [compiler, "-O2", "-std=c++20", "-pthread", "-o", str(program), str(LIMITS)]
    try:
        subprocess.run(build, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        print(f"limits_x86 does not build here, so no limits: {reason}", file=sys.stderr)
        return {"figures": []}
    subprocess.run([str(program), "--json", str(out), *map(str, threads)], check=True, stdout=subprocess.DEVNULL)
    limits: dict[str, Any] = json.loads(out.read_text())
    return limits


def run_at(threads: int, args: argparse.Namespace, folder: Path, probe: Path | None) -> dict[str, Any]:
    """One process for one number of threads: most libraries take it from the environment, once."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OCTAVO_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads))
    out = folder / f"run{threads}.json"
    command = [sys.executable, "-m", "bench.peers.peer_run", "--threads", str(threads), "--json", str(out)]
    command += ["--round-seconds", str(args.round_seconds), "--shapes", *args.shapes]
    if probe is not None:
        command += ["--core-mode", str(probe)]
    if args.only:
        command += ["--only", *args.only]
    subprocess.run(command, check=True, env=environment)
    run: dict[str, Any] = json.loads(out.read_text())
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="a run for each number (default: 1)")
    parser.add_argument("--shapes", nargs="+", default=["grid"], help="grid, bert, llama, short, or MxKxN ...")
    parser.add_argument("--only", nargs="+", help="contenders whose name holds one of these words")
    parser.add_argument("--round-seconds", type=float, default=0.02, help="of each contender a round (default: 0.02)")
    parser.add_argument("--limits", type=Path, help="JSON of limits_x86 that was measured before")
    parser.add_argument("--json", type=Path, help="write all figures")
    parser.add_argument("--from-json", type=Path, help="measure nothing: report on what --json wrote")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw octavo beside the best peer, and beside the limit"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="write the page of figures")
    parser.add_argument("--machine", help="what page and picture call the CPU, where its own name does not tell it")
    args = parser.parse_args()
    try:
        parse_shapes(args.shapes)
    except ValueError as error:
        parser.error(str(error))
    for path in (args.json, args.plot, args.markdown):
        if path is not None and not path.resolve().parent.is_dir():
            parser.error(f"folder {path.resolve().parent} does not exist")

    if args.from_json is not None:
        comparison = json.loads(args.from_json.read_text())
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            given = args.limits is not None
            limits = json.loads(args.limits.read_text()) if given else measured_limits(args.threads, folder)
            probe = core_mode.compiled(folder)
            comparison = {"limits": limits, "runs": [run_at(threads, args, folder, probe) for threads in args.threads]}
    if args.machine is not None:
        comparison["machine"] = args.machine
    if args.json is not None:
        args.json.write_text(json.dumps(comparison, indent=1))
    for run in comparison["runs"]:
        print(peer_report.table(run, comparison["limits"]))
    if args.plot is not None:
        peer_plot.plot(comparison, args.plot)
    if args.markdown is not None:
        args.markdown.write_text(peer_report.page(comparison, args.markdown, args.plot))
    return 0


if __name__ == "__main__":
    sys.exit(main())
