"""Calling an object of a model and leaving the object as it was."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from typing import Any, NamedTuple

from octavo._models.containers import attributes, instance_dict, slot_members, slots

__all__ = ["restore", "snapshot"]


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
