"""Warnings that point at the user's line, however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn_caller"]


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns as from the nearest caller outside the package.

    Example:
        >>> import warnings
        >>> from octavo._util.caller import warn_caller
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_caller("look")
        >>> str(caught[0].message)
        'look'
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "octavo":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
