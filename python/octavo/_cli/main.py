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
    quantize = commands.add_parser("quantize", help="convert a float checkpoint (safetensors) for octavo.load")
    quantize.add_argument("source", type=Path, metavar="IN.safetensors", help="float16, bfloat16, float32 or float64")
    quantize.add_argument("destination", type=Path, metavar="OUT.safetensors", help="another file")
    quantize.add_argument("--dtype", choices=["int8", "int4"], default="int8", help="of the weights (default: int8)")
    quantize.add_argument(
        "--group-size",
        type=_group_size,
        default=128,
        metavar="N",
        help="int4: inputs that share a scale, a multiple of 32, or 'row' (default: 128)",
    )
    quantize.add_argument("--asymmetric", action="store_true", help="int4: a zero point for each group")
    quantize.add_argument(
        "--scale-dtype", choices=["float32", "float16"], default="float32", help="int4: of the scales in the file"
    )
    quantize.add_argument(
        "--rounding",
        choices=["nearest", "search"],
        help="int4: scales from each group's range, or searched for the least squared error (default)",
    )
    _add_layout(quantize)
    quantize.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="PATTERN",
        help="matrices to quantize; may be repeated (default: '*.weight' except '*emb*')",
    )
    quantize.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="tensors to leave as they are, besides"
    )
    quantize.add_argument("--no-progress", action="store_true", help="show no progress bar")
    quantize.set_defaults(run=_quantize)

    inspect = commands.add_parser("inspect", help="list what a safetensors file holds, and what it takes")
    inspect.add_argument("file", type=Path, metavar="FILE")
    inspect.add_argument(
        "--against", type=Path, metavar="ORIGINAL.safetensors", help="the float checkpoint, to measure errors"
    )
    _add_layout(inspect)
    inspect.set_defaults(run=_inspect)
    return parser


def _add_layout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layout",
        choices=["out_in", "in_out"],
        default="out_in",
        help="of the float matrices: out_in as in y = x W^T (default), in_out as in y = x W",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _group_size(text: str) -> int | None:
    return None if text == "row" else _positive(text)


def _info(args: argparse.Namespace) -> int:
    runtime.show_config()
    return 0


def _demo(args: argparse.Namespace) -> int:
    from octavo._cli import demo

    if args.plot is not None and not args.plot.resolve().parent.is_dir():
        raise FileNotFoundError(f"--plot: folder {args.plot.resolve().parent} does not exist")
    result = demo.run(epochs=args.epochs, seed=args.seed)
    print(demo.table(result))
    if args.plot is not None:
        demo.plot(result, args.plot)
        print(f"plot written to {args.plot}")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from octavo._cli import bench

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
    command = [sys.executable, "-m", "octavo", "bench", "--threads", str(threads), "--rounds", str(args.rounds)]
    for option, values in (("--kernel", [args.kernel]), ("--shapes", args.shapes or [None]), ("--json", [args.json])):
        if values != [None]:
            command += [option, *map(str, values)]
    return command


def _quantize(args: argparse.Namespace) -> int:
    from octavo._files import conversion as convert_checkpoint

    result = convert_checkpoint.quantize_checkpoint(
        args.source,
        args.destination,
        dtype=args.dtype,
        group_size=args.group_size,
        symmetric=not args.asymmetric,
        scale_dtype=args.scale_dtype,
        rounding=args.rounding,
        layout=args.layout,
        include=args.include,
        exclude=args.exclude,
        progress=not args.no_progress,
    )
    print(convert_checkpoint.summary(result))
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from octavo._files import inspection as inspect_file

    print(inspect_file.report(args.file, against=args.against, layout=args.layout))
    return 0


if __name__ == "__main__":
    sys.exit(main())
