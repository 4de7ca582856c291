"""Writes what an octavo file holds with its weights packed for the kernels. octavo.load(OUT, mmap=True) then uses the
pages of the file, and all processes of a machine share one copy. Results are the same to the bit."""

from __future__ import annotations

import argparse
from pathlib import Path

from octavo._files.packed_layout import family_of
from octavo._files.repacking import repack

__all__ = ["add_arguments", "command"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, metavar="IN", help="a file of octavo.save or octavo quantize, an index, or a folder"
    )
    parser.add_argument("destination", type=Path, metavar="OUT", help="another .safetensors file, or IN itself")
    parser.add_argument(
        "--for",
        dest="layout",
        choices=["x86", "arm", "canonical"],
        default="packed",
        help="the architecture (default: this machine's), or 'canonical' to undo it",
    )


def command(arguments: argparse.Namespace) -> int:
    count = repack(arguments.source, arguments.destination, arguments.layout)
    family = family_of(arguments.layout)
    how = "as canonical integers" if family is None else f"matrices packed for {family}: {count}"
    print(f"{arguments.destination}: {how}, {arguments.destination.stat().st_size:,} bytes")
    return 0
