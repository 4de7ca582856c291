"""The command `octavo`."""

from __future__ import annotations

import argparse
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


if __name__ == "__main__":
    sys.exit(main())
