"""Weak references: what they refer to, and one of the same kind to something else.

They hold nothing, so what only they reach is no part of a model. But a child that knows its parent by one must know the
copy's parent in a copy, and a layer's replacement where the layer is replaced.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

from octavo._models.containers import captured, instance_dict, rebuilt

__all__ = ["WEAK", "is_weak", "rebound", "referent"]

WEAK = (weakref.ReferenceType, weakref.ProxyType, weakref.CallableProxyType)


def is_weak(value: Any) -> bool:
    """Whether it is one. isinstance would ask a proxy, which answers for its referent, or fails when that is gone."""
    return issubclass(type(value), WEAK)


def referent(value: Any) -> Any:
    """What a weak reference leads to: the owner where that is a method; None where it is gone.

    Example:
        >>> import weakref
        >>> from octavo._models.weak import referent
        >>> owner = {1, 2}
        >>> referent(weakref.ref(owner)) is referent(weakref.proxy(owner)) is owner
        True
    """
    if issubclass(type(value), weakref.ReferenceType):
        return weakref.ReferenceType.__call__(value)
    with contextlib.suppress(ReferenceError, AttributeError):
        return value.__sizeof__.__self__
    return None


def rebound(value: Any, new: Any) -> Any:
    """A weak reference of the same kind to `new`. A proxy's callback cannot be read, and is lost."""
    if not issubclass(type(value), weakref.ReferenceType):
        return weakref.proxy(new)
    if isinstance(value, weakref.WeakMethod):
        method = rebuilt(value(), {"__self__": new})
        own: Any = value.__callback__  # a closure over the callback that was given
        made: Any = type(value)(method, {part.key: part.value for part in captured(own)}.get("callback"))
    elif isinstance(value, weakref.KeyedRef):
        made = type(value)(new, value.__callback__, value.key)
    else:
        made = type(value)(new, value.__callback__)
    instance_dict(made).update(instance_dict(value))
    return made
