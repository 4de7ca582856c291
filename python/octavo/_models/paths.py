"""How users name what is in a model: "blocks.3.fc1" for model.blocks[3].fc1, and for model["blocks"][3].fc1 too.

A path is a list of texts, the names of attributes, keys and indices that lead from the model to the thing. It has one
spelling: the texts joined by dots, and in brackets those that would not read back: "heads['a.b'].weight". The model
itself is "". Functions that are given a path take brackets everywhere: "blocks[3].fc1", "heads['out']". Names in files
are `dotted`: they spell "heads.a.b.weight", as other tools write them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable

__all__ = ["canonical", "dotted", "find", "is_within", "joined", "label", "matches", "steps"]

IN_A_SET = "{}"  # what stands in a path for a member of a set, which has no name

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_STEP = re.compile(rf"\[(?P<quoted>{_QUOTED})\]|\[(?P<index>[^\]]+)\]|(?P<plain>[^.\[]+)", re.DOTALL)
_INDICES = re.compile(r"\d+(, \d+)+")  # of an item of an array of objects


def joined(path: str, key: str | int | None) -> str:
    """The path of what the thing at `path` holds by that name or index; None stands for a member of a set.

    Example:
        >>> from octavo._models.paths import joined
        >>> joined("", "blocks"), joined("blocks", 3), joined("blocks", "fc.weight")
        ('blocks', 'blocks.3', "blocks['fc.weight']")
    """
    if key is None:
        key = IN_A_SET
    elif isinstance(key, str) and not key.isidentifier():
        if _INDICES.fullmatch(key):
            return f"{path}[{key}]"
        if not key or key == IN_A_SET or any(sign in key for sign in ".[]"):
            return f"{path}[{key!r}]"
    return f"{path}.{key}" if path else str(key)


def steps(path: str) -> list[str]:
    """The texts that a path consists of, in whichever spelling.

    Example:
        >>> from octavo._models.paths import steps
        >>> steps("blocks[3]['fc.weight']")
        ['blocks', '3', 'fc.weight']
    """
    found = _STEP.finditer(path)
    return [_unquoted(step["quoted"]) if step["quoted"] else step["index"] or step["plain"] for step in found]


def _unquoted(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (SyntaxError, ValueError):  # an escape that Python does not know
        return text[1:-1]


def canonical(path: str) -> str:
    """The one spelling of a path: "blocks[3].fc1" and "heads['out']" become "blocks.3.fc1" and "heads.out"."""
    if "[" not in path:
        return path
    found = ""
    for step in steps(path):
        found = joined(found, step)
    return found


def dotted(path: str) -> str:
    """The spelling of names in files: "['fc.weight']" is "fc.weight" there. Only an empty key keeps its brackets."""
    return ".".join(step or "['']" for step in steps(path)) if "[" in path else path


def label(path: str) -> str:
    """How messages name what is at a path: "model.blocks.3.fc1"."""
    return f"model{path}" if not path or path.startswith("[") else f"model.{path}"


def find(name: str, paths: Iterable[str]) -> str | None:
    """Which of the paths a name given by the user stands for: by its one spelling, or else by its dotted one.

    Example:
        >>> from octavo._models.paths import find
        >>> find("blocks[3].fc", ["blocks.3.fc"]), find("fc.weight", ["['fc.weight']"]), find("x", ["y"])
        ('blocks.3.fc', "['fc.weight']", None)
    """
    known = list(paths)
    exact = canonical(name)
    return exact if exact in known else next((path for path in known if dotted(path) == name), None)


def is_within(path: str, name: str) -> bool:
    """Whether `path`, in its one spelling, is the named object or something in it."""
    return any(
        have == known or have.startswith((f"{known}.", f"{known}["))
        for have in _spellings(path, dotted)
        for known in _spellings(name, canonical)
    )


def matches(path: str, pattern: str) -> bool:
    """Whether all of `path`, in its one spelling, is what the pattern describes: * and ? stand for anything."""
    globs = [re.escape(known).replace(r"\*", ".*").replace(r"\?", ".") for known in _spellings(pattern, canonical)]
    return any(re.fullmatch(glob, have, re.DOTALL) for have in _spellings(path, dotted) for glob in globs)


def _spellings(name: str, other: Callable[[str], str]) -> set[str]:
    """As given, and the other one: keys that hold dots or brackets may be named with or without quotes."""
    return {name, other(name)}
