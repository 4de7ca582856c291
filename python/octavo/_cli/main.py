"""The command `octavo`: the table of its commands. Each is a module with the same two functions."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from octavo import runtime
from octavo._util.errors import with_notes


class Command(NamedTuple):
    """One command. Its module has `add_arguments(parser)`, and `command(arguments)`, which returns the exit status."""

    name: str
    module: str
    help: str


COMMANDS = (
    Command("info", "information", "CPU features, kernels and which one is in use, threads"),
    Command("demo", "demo", "train a digits classifier, quantize it, compare float32 and int8"),
    Command("bench", "bench", "time int8 layers beside NumPy's float32, here; about ten seconds"),
    Command("quantize", "quantization", "convert a float checkpoint or a GGUF file for octavo.load"),
    Command("pack", "packing", "lay an octavo file out for processes that share its pages"),
    Command("inspect", "inspection", "list what a checkpoint or GGUF file holds, and what it takes in each type"),
    Command("advise", "advice", "time the layers of a checkpoint in float32, int8 and int4, here"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status. What the user can put right is one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `octavo inspect FILE | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ImportError, OSError, ValueError) as error:
        print(f"octavo {arguments.name}: {_message(error)}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="octavo", description="Low-bit linear algebra for NumPy.")
    parser.add_argument("--version", action="version", version=runtime.config_lines()[0])
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)
    for command in COMMANDS:
        module = importlib.import_module(f"octavo._cli.{command.module}")
        own = commands.add_parser(command.name, help=command.help, description=module.__doc__)
        module.add_arguments(own)
        own.set_defaults(command=module.command)
    return parser


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    return with_notes(error)


if __name__ == "__main__":
    sys.exit(main())
