"""What a model holds only while it computes."""

from __future__ import annotations

__all__ = ["Transient"]


class Transient:
    """The base of classes whose objects do not belong to a model that holds them: walks pass them by, and so do files.

    Example:
        >>> from octavo._util.transient import Transient
        >>> from octavo.functional import KVCache
        >>> issubclass(KVCache, Transient)
        True
    """

    __slots__ = ()
