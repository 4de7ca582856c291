"""Shows CPU features, kernels and which one is in use, and threads."""

from __future__ import annotations

import argparse

from octavo import runtime

__all__ = ["add_arguments", "command"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def command(arguments: argparse.Namespace) -> int:
    runtime.show_config()
    return 0
