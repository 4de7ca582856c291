"""Regular expressions that a checkpoint brings along, matched only where that ends soon.

Python's `re` tries every way in which a pattern can match, so a file could hold one that takes years. With r repeats a
name of L characters can be divided in C(L + r, r) ways; alternatives multiply that by their number, optional parts by
two. Repeats of what holds a repeat or alternatives have no such bound. Real patterns, ".*self_attn.(q|k|v)_proj$", have
few. A million ways take `re` up to 30 ms.
"""

from __future__ import annotations

import functools
import math
import re

__all__ = ["Budget", "Pattern"]

_LONGEST = 1000  # characters of a pattern
_MOST_WAYS = 10**6  # of a pattern and a name
_MOST_IN_ALL = 10**10  # of all patterns and names of a config

_GROUP = re.compile(r"\((\?(P?<?[=!]|P?<\w+>|[:>]|[aiLmsux-]+[:)]|P=\w+\)|\(\w+\)|#[^)]*\)))?")
_VERBOSE = re.compile(r"\(\?[a-zA-Z]*x")
_CLASS = re.compile(r"\[\^?\]?(\\.|[^\]\\])*\]", re.DOTALL)
_REPEAT = re.compile(r"([*+]|\{\d*,?\d*\})[?+]?")


class Budget:
    """How many ways the patterns of one config may still try."""

    def __init__(self) -> None:
        self.left = _MOST_IN_ALL


class Pattern:
    """A regular expression of a file, matched from the beginning of a name; else a ValueError.

    Patterns of a config share a budget.
    """

    def __init__(self, text: str, budget: Budget) -> None:
        if len(text) > _LONGEST:
            raise ValueError(f"a pattern must have at most {_LONGEST} characters, got {len(text)}: {text[:40]!r}...")
        try:
            self._compiled = re.compile(text)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{text!r} is not a regular expression: {error}") from None
        self._text, self._budget = text, budget

    def matches(self, name: str) -> bool:
        """Whether it matches the name; a ValueError where that could take too long."""
        repeats, choices = _counted(self._text)
        ways = math.comb(len(name) + repeats, repeats) * choices
        if ways > _MOST_WAYS:
            raise ValueError(
                f"the pattern {self._text!r} has too many repeats or alternatives to be matched with {name[:80]!r} of "
                f"{len(name)} characters; name the layers in its place"
            )
        self._budget.left -= ways
        if self._budget.left < 0:
            raise ValueError(
                f"the patterns have too many repeats or alternatives to be matched with so many layers, such as "
                f"{self._text!r} with {name[:80]!r}; name the layers in their place"
            )
        return self._compiled.match(name) is not None


@functools.cache
def _counted(text: str) -> tuple[int, int]:
    """(repeats, ways to choose among alternatives and optional parts).

    Raises:
        ValueError: what is repeated holds a repeat or alternatives, or spaces do not count, so that this is not known.
    """
    repeats, choices, at = 0, 1, 0
    varied, branches = [False], [1]  # of each group that is open: whether it can match in several ways
    last = False  # whether that is so of what a repeat here would repeat
    while at < len(text):
        if found := _REPEAT.match(text, at):
            if last:
                raise ValueError(f"the pattern {text!r} repeats what holds a repeat or alternatives, which may not end")
            repeats, varied[-1], last = repeats + 1, True, False
        elif found := _GROUP.match(text, at):
            if _VERBOSE.match(found[0]):
                raise ValueError(f"the pattern {text!r} has the flag x, which is not read")
            if not found[0].endswith(")"):
                varied.append(False)
                branches.append(1)
            last &= found[0].startswith("(?#")  # a repeat behind a comment is of what is before it
        elif text[at] == ")" and len(varied) > 1:
            last = varied.pop()
            varied[-1] |= last
            choices *= branches.pop()
        elif text[at] == "|":
            branches[-1], varied[-1] = branches[-1] + 1, True
        elif text[at] == "?":
            choices, varied[-1] = 2 * choices, True
        else:
            found, last = _CLASS.match(text, at), False
        at = found.end() if found else at + (2 if text[at] == "\\" else 1)
    return repeats, choices * branches[0]
