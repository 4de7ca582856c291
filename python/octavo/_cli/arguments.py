"""Arguments that several commands take, and options as messages name them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

__all__ = ["add_layout", "add_source", "group_size", "in_options", "positive", "require_folder_of"]

_PYTHON = re.compile(r'\b(dtype|group_size|scale_dtype|rounding|layout)=[\'"]?([\w.]+)[\'"]?')


def positive(text: str) -> int:
    """A number from 1 on."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text!r}")
    return value


def group_size(text: str) -> int | None:
    """A multiple of 32; None for "row"."""
    if text == "row":
        return None
    if not text.isdecimal() or not int(text) or int(text) % 32:
        raise argparse.ArgumentTypeError(f"must be a multiple of 32, or 'row' for one scale a row, got {text!r}")
    return int(text)


def add_source(parser: argparse.ArgumentParser, name: str, metavar: str) -> None:
    parser.add_argument(
        name,
        type=Path,
        metavar=metavar,
        help="a .safetensors file, an index of several, their folder, a .npz file, a GGUF file, or an ONNX model",
    )


def add_layout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layout",
        choices=["out_in", "in_out"],
        help="of float matrices, where no bias shows it: out_in as in y = x W^T (default), in_out as in y = x W",
    )


def require_folder_of(path: Path | None, option: str) -> None:
    """Raises FileNotFoundError where a file cannot be written because its folder does not exist."""
    if path is not None and not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"{option}: the folder {path.resolve().parent} does not exist; create it first")


def in_options(message: str) -> str:
    """A message about a Python function's arguments, about the options of the command instead.

    Example:
        >>> from octavo._cli.arguments import in_options
        >>> in_options('group_size=64 is for int4 weights; pass dtype="int4"')
        '--group-size 64 is for int4 weights; pass --dtype int4'
    """
    message = message.replace("symmetric=False", "--asymmetric")
    return _PYTHON.sub(lambda match: f"--{match[1].replace('_', '-')} {match[2]}", message)
