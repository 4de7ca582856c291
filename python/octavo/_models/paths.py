"""How users name what is in a model: "blocks[3].fc1" or "blocks.3.fc1", where * and ? stand for anything."""

from __future__ import annotations

import re

__all__ = ["canonical", "is_within", "matches"]


def canonical(path: str) -> str:
    """The spelling with dots: "blocks[3].fc1" and "heads['out']" become "blocks.3.fc1" and "heads.out"."""
    return re.sub(r"\[(['\"]?)(.*?)\1\]", r".\2", path).removeprefix(".")


def is_within(path: str, name: str) -> bool:
    """Whether `path`, in canonical spelling, is the named object or something in it."""
    return any(path == known or path.startswith(known + ".") for known in _spellings(name))


def matches(path: str, pattern: str) -> bool:
    """Whether all of `path`, in canonical spelling, is what the pattern describes."""
    globs = (re.escape(known).replace(r"\*", ".*").replace(r"\?", ".") for known in _spellings(pattern))
    return any(re.fullmatch(glob, path, re.DOTALL) for glob in globs)


def _spellings(name: str) -> set[str]:
    """As given too: a dict's key may hold brackets of its own, which canonical paths keep."""
    return {canonical(name), name}
