"""Calling a layer of a model and leaving all as it was; and a layer that tells what it is called with."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

from octavo._models.containers import attributes, instance_dict, slot_members, slots

__all__ = ["Watched", "restore", "snapshot"]


class Watched:
    """Stands in for a layer in a copy of its model: `before(x)`, the layer, then `after(what before gave, y)`.

    Args:
        layer: what is called; all other attributes are its own.
        method: name of the method that computes, besides ``__call__`` and ``forward``.
        before: given the layer's first argument (None without one), before the call, which may write to it.
        after: given what `before` returned and the layer's result.

    Example:
        >>> import octavo as oc
        >>> layer = Watched(oc.nn.ReLU(), "forward", before=print, after=lambda kept, y: None)
        >>> float(layer(-1.0))
        -1.0
        0.0
    """

    def __init__(
        self, layer: Any, method: str, before: Callable[[Any], Any], after: Callable[[Any, Any], None]
    ) -> None:
        self._layer, self._method, self._before, self._after = layer, method, before, after

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._called(self._layer, args, options)

    def _called(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        kept = self._before(args[0] if args else next(iter(options.values()), None))
        y = function(*args, **options)
        self._after(kept, y)
        return y

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_layer" not in self.__dict__:
            raise AttributeError(name)
        value = getattr(self._layer, name)
        if name in (self._method, "forward") and callable(value):
            return lambda *args, **options: self._called(value, args, options)
        return value


class _Snapshot(NamedTuple):
    own: dict[str, Any]
    slots: dict[str, Any]
    contents: list[tuple[Any, Any]]  # containers that the attributes refer to, and copies of them


_CONTAINERS = (dict, OrderedDict, defaultdict, list, deque, set)


def snapshot(value: Any) -> _Snapshot:
    """What the object's attributes and slots refer to, and what the lists, dicts and sets among them hold."""
    contents = [(held, copy.copy(held)) for held in attributes(value).values() if type(held) in _CONTAINERS]
    return _Snapshot(dict(instance_dict(value)), slots(value), contents)


def restore(value: Any, before: _Snapshot) -> None:
    """Makes all of that as it was. Numeric arrays changed in place stay changed."""
    own = instance_dict(value)
    own.clear()
    own.update(before.own)
    now = slots(value)
    for name, member in slot_members(value).items():
        if name in before.slots:
            member.__set__(value, before.slots[name])
        elif name in now:
            member.__delete__(value)
    for holder, held in before.contents:
        holder.clear()
        (holder.update if isinstance(holder, (dict, set)) else holder.extend)(held)
