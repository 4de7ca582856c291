"""Weak references: what they refer to, and how to make one of the same kind to something else.

A weak reference holds nothing, so an object that only weak references reach does not belong to the model. But where a
child refers to its parent weakly, the copied child must refer to the copied parent, and where a layer is replaced, its
weak references must lead to the replacement.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

from octavo._models.containers import captured, instance_dict, is_weak, rebuilt

__all__ = ["is_weak", "rebound", "referent"]


def referent(value: Any) -> Any:
    """What a weak reference leads to, the owner of a method for a WeakMethod; None once it is gone.

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
    """A weak reference of the same kind to `new`, with the same callback; except that a proxy's cannot be read."""
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
