"""Lists what a checkpoint or an octavo file holds, what it takes in each type, and how far its integers are off."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from octavo._cli.arguments import add_layout, add_source, require_folder_of
from octavo._files.inspection import inspect_file
from octavo.checkpoints import _report as checkpoint_report
from octavo.gguf import _report as gguf_report

__all__ = ["add_arguments", "command"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser, "file", "FILE")
    parser.add_argument("--against", type=Path, metavar="ORIGINAL", help="the float checkpoint, to measure errors")
    add_layout(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures instead; - for stdout")


def command(arguments: argparse.Namespace) -> int:
    for kind, is_of_kind, text_of in (
        ("GGUF files", gguf_report.is_gguf, gguf_report.report),
        ("quantized checkpoints", checkpoint_report.is_quantized, checkpoint_report.report),
    ):
        if not is_of_kind(arguments.file):
            continue
        for name in ("against", "json"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name} is not for {kind}; octavo quantize --verify checks {arguments.file}")
        print(text_of(arguments.file))
        return 0
    to_stdout = arguments.json == Path("-")
    if not to_stdout:
        require_folder_of(arguments.json, "--json")
    report = inspect_file(arguments.file, against=arguments.against, layout=arguments.layout)
    if arguments.json is None:
        print(report)
        return 0
    text = json.dumps(report.as_json(), indent=1)
    if to_stdout:
        sys.stdout.write(f"{text}\n")
    else:
        arguments.json.write_text(text)
    return 0
