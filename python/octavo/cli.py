"""The command `octavo`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from octavo import runtime


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. Errors that a user can mend are one line on stderr."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except (ImportError, OSError, ValueError) as error:
        print(f"octavo {args.command}: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="octavo", description="Low-bit linear algebra for NumPy.")
    commands = parser.add_subparsers(dest="command", required=True)

    info = commands.add_parser("info", help="CPU features, kernels and which one is in use, threads")
    info.set_defaults(run=_info)

    demo = commands.add_parser("demo", help="train a digits classifier, quantize it, compare float32 and int8")
    demo.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the table")
    demo.add_argument("--epochs", type=_positive, default=12, help="passes over the training data (default: 12)")
    demo.add_argument("--seed", type=int, default=0, help="of the data's split and the weights (default: 0)")
    demo.set_defaults(run=_demo)

    bench = commands.add_parser("bench", help="time int8 layers beside NumPy's float32, here; about ten seconds")
    bench.add_argument("--threads", type=_positive, help="of both (default: as many as octavo would use)")
    bench.add_argument("--kernel", help="force one by name, see octavo info (NumPy keeps its own)")
    bench.add_argument("--shapes", nargs="+", metavar="MxKxN", help="instead of the usual ones")
    bench.add_argument("--rounds", type=_positive, default=5, help="of which the median counts (default: 5)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write all figures")
    bench.set_defaults(run=_bench)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _info(args: argparse.Namespace) -> int:
    runtime.show_config()
    return 0


def _demo(args: argparse.Namespace) -> int:
    from octavo import demo

    if args.plot is not None and not args.plot.resolve().parent.is_dir():
        raise FileNotFoundError(f"--plot: folder {args.plot.resolve().parent} does not exist")
    result = demo.run(epochs=args.epochs, seed=args.seed)
    print(demo.table(result))
    if args.plot is not None:
        demo.plot(result, args.plot)
        print(f"plot written to {args.plot}")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from octavo import bench

    shapes = [bench.parse_shape(text) for text in args.shapes] if args.shapes else bench.SHAPES
    if args.json is not None and not args.json.resolve().parent.is_dir():
        raise FileNotFoundError(f"--json: folder {args.json.resolve().parent} does not exist")
    if args.kernel is not None:
        runtime.use_kernel(args.kernel)
    runtime.set_num_threads(args.threads or runtime.get_num_threads())
    environment = bench.environment_for(runtime.get_num_threads(), os.environ)
    if environment is not None:  # NumPy's library has its threads already: once more, in a process that sets them
        return subprocess.run(_command(args, runtime.get_num_threads()), env=environment, check=False).returncode
    print("\n".join(runtime.config_lines()))
    rows = bench.run(shapes, rounds=args.rounds)
    print(bench.table(rows))
    if args.json is not None:
        bench.write_json(rows, args.json)
    return 0 if all(row.is_right for row in rows) else 1


def _command(args: argparse.Namespace, threads: int) -> list[str]:
    command = [sys.executable, "-m", "octavo.cli", "bench", "--threads", str(threads), "--rounds", str(args.rounds)]
    for option, values in (("--kernel", [args.kernel]), ("--shapes", args.shapes or [None]), ("--json", [args.json])):
        if values != [None]:
            command += [option, *map(str, values)]
    return command


if __name__ == "__main__":
    sys.exit(main())
