"""Errors raised anew with what the place that raised them does not know: which layer, which argument, which file."""

from __future__ import annotations

__all__ = ["named"]


def named(error: Exception, where: str, hint: str = "") -> TypeError | ValueError:
    """A TypeError or a ValueError, whichever the error is, that says where it was.

    Classes derived from these are not kept: json.JSONDecodeError and UnicodeDecodeError take more than a message.

    Args:
        error: anything but a TypeError counts as a ValueError.
        where: written before its message.
        hint: written after it.

    Example:
        >>> from octavo._util.errors import named
        >>> named(UnicodeDecodeError("ascii", b"", 0, 1, "no text"), "layer fc")
        ValueError("layer fc: 'ascii' codec can't decode bytes in position 0-0: no text")
    """
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{where}: {error}{hint}")
