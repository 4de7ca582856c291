"""What a model holds while it computes, and is no part of it."""

from __future__ import annotations

__all__ = ["Transient"]


class Transient:
    """The base of such classes: walks do not enter their objects, files do not hold them, copies of a model copy them.

    Example:
        >>> from octavo._util.transient import Transient
        >>> from octavo.functional import KVCache
        >>> issubclass(KVCache, Transient)
        True
    """

    __slots__ = ()
