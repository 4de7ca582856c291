"""Errors raised again with what the place that raised them does not know: which layer, which argument, which file."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["raise_named", "with_notes"]


def with_notes(error: BaseException) -> str:
    """Its message and its notes, in one line."""
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


def raise_named(error: Exception, where: str, hint: str = "", *, hide: bool = False) -> NoReturn:
    """Raises the error with where it was: in the message of a plain TypeError or ValueError, in a note of others.

    Classes of users are kept, so that they can be caught.

    Args:
        error: what was raised. A class of octavo's own counts as its base.
        where: written before its message.
        hint: written after it.
        hide: leave the plain error's own traceback out.
    """
    kind = type(error)
    if kind.__module__.startswith("octavo."):
        kind = kind.__base__ or kind
    if kind in (TypeError, ValueError):
        raise kind(f"{where}: {error}{hint}") from (None if hide else error)
    if (note := f"octavo: {where}{hint}") not in getattr(error, "__notes__", ()):
        error.add_note(note)
    raise error
