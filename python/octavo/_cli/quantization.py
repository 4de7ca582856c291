"""Converts a float checkpoint into one whose weights are int8 or int4, for octavo.load; a block of rows at a time. The
weights of a GGUF file, an ONNX model or a quantized checkpoint of another tool keep their integers."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from octavo._cli.arguments import add_layout, add_source, group_size, in_options
from octavo._files.choice import Choice
from octavo._files.conversion import quantize_checkpoint, summary
from octavo._files.rows import GROUP_SIZE
from octavo._util.errors import with_notes
from octavo.checkpoints import _convert as checkpoint_conversion
from octavo.checkpoints._config import is_quantized
from octavo.gguf import _convert as gguf_conversion
from octavo.gguf._report import is_gguf

__all__ = ["add_arguments", "command"]

_UNSET = object()

# (option, what it does to the tensors that match its patterns)
_PATTERNS = (
    ("include", "quantize these; by default weights, by their names"),
    ("exclude", "leave these as they are"),
    ("drop", "leave these out of the output"),
    ("embedding", "these are tables of rows, whatever their names"),
    ("linear", "these are not tables of rows, whatever their names"),
    ("stacked", "these hold a matrix for each index of their first axis, as for experts"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser, "source", "IN")
    parser.add_argument("destination", type=Path, metavar="OUT", help="another .safetensors file, or a folder")
    parser.add_argument("--dtype", choices=["int8", "int4"], default="int8", help="of the weights (default: int8)")
    parser.add_argument(
        "--group-size",
        type=group_size,
        default=_UNSET,
        metavar="N",
        help=f"int4: inputs that share a scale, a multiple of 32, or 'row' (default: {GROUP_SIZE})",
    )
    parser.add_argument("--asymmetric", action="store_true", help="int4: a zero point for each group")
    parser.add_argument(
        "--scale-dtype", choices=["float32", "float16"], default="float32", help="int4: of the scales in the file"
    )
    parser.add_argument(
        "--rounding",
        choices=["nearest", "search"],
        help="int4: scales from each group's range, or searched for the least squared error (default)",
    )
    parser.add_argument(
        "--rest", choices=["same", "float16"], default="same", help="the type of floats that are not quantized"
    )
    add_layout(parser)
    for option, what in _PATTERNS:
        parser.add_argument(
            f"--{option}", action="append", default=[], metavar="PATTERN", help=f"{what}; may be repeated"
        )
    parser.add_argument(
        "--arrays",
        action="store_true",
        help="make a QuantMatrix of each matrix, under its own name, for models that are dicts of arrays",
    )
    parser.add_argument("--batch-first", action="store_true", help="of recurrent layers: x is (batch, steps, inputs)")
    own = parser.add_argument_group(
        "GGUF files and quantized checkpoints of other tools",
        "Their integers are kept. These options and --no-progress are all that they take.",
    )
    own.add_argument(
        "--activation",
        choices=["symmetric", "asymmetric", "int16"],
        help="how what is multiplied with the weights is quantized (default: the checkpoint's way, else symmetric)",
    )
    own.add_argument(
        "--activation-group",
        type=group_size,
        default=_UNSET,
        metavar="N",
        help="inputs of it that share a scale, 32, 64, 128, 256 or 'row' (default: the function's that loads them)",
    )
    own.add_argument(
        "--verify",
        action="store_true",
        help="compare every weight with the gguf package's, or with the tool's formula in float32, to the bit",
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


_OF_INTEGERS = ("activation", "activation_group", "verify")


def _require_defaults(arguments: argparse.Namespace, *, of_integers: bool, message: str) -> None:
    """Raises ValueError where an option was given that is of what has integers already (GGUF files, quantized
    checkpoints), or one that is not.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for name, value in vars(arguments).items():
        own, of_all = name in _OF_INTEGERS, name in ("source", "destination", "no_progress", "name", "command")
        if not of_all and own == of_integers and value != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} {message}")


def _convert(arguments: argparse.Namespace) -> int:
    """What is quantized already, and keeps its integers."""
    message = f"is for float checkpoints; {arguments.source} is quantized already"
    _require_defaults(arguments, of_integers=False, message=message)
    options: Any = {
        "activation_group": "auto" if arguments.activation_group is _UNSET else arguments.activation_group,
        "verify": arguments.verify,
        "progress": not arguments.no_progress,
    }
    source, destination = arguments.source, arguments.destination
    if is_gguf(source):
        activation: Any = arguments.activation or "symmetric"
        text = gguf_conversion.summary(gguf_conversion.convert(source, destination, activation=activation, **options))
    else:
        activation = arguments.activation
        text = checkpoint_conversion.summary(
            checkpoint_conversion.convert(source, destination, activation=activation, **options)
        )
    print(text)
    return 0


def command(arguments: argparse.Namespace) -> int:
    os.stat(arguments.source)  # exists
    if is_gguf(arguments.source) or is_quantized(arguments.source):
        return _convert(arguments)
    message = f"is for GGUF files and quantized checkpoints, and {arguments.source} is none"
    _require_defaults(arguments, of_integers=True, message=message)
    patterns = {option: tuple(getattr(arguments, option)) for option, _ in _PATTERNS}
    if arguments.group_size is not _UNSET and arguments.dtype == "int8":
        raise ValueError("--group-size is for int4 weights; add --dtype int4, or omit it")
    try:
        result = quantize_checkpoint(
            arguments.source,
            arguments.destination,
            dtype=arguments.dtype,
            group_size=GROUP_SIZE if arguments.group_size is _UNSET else arguments.group_size,
            symmetric=not arguments.asymmetric,
            scale_dtype=arguments.scale_dtype,
            rounding=arguments.rounding,
            rest=arguments.rest,
            choice=Choice(
                layout=arguments.layout, arrays=arguments.arrays, batch_first=arguments.batch_first, **patterns
            ),
            progress=not arguments.no_progress,
        )
    except ValueError as error:
        raise ValueError(in_options(with_notes(error))) from error
    print(summary(result))
    return 0
