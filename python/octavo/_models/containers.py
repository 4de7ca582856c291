"""What objects hold, and how to store something else there.

`parts_of` is the table of containers: objects with attributes or slots, dataclasses, lists, tuples, dicts. Mutable
holders take a replacement in place. Immutable ones (`IMMUTABLE`) are built anew by `rebuilt` and stored in their own
holders. Functions are opaque, because copy.deepcopy shares them. Keys of dicts are not looked at, nor are weak
references, iterators and classes. `walk.py` walks, copies and replaces by this table.
"""

from __future__ import annotations

import contextlib
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

__all__ = [
    "IMMUTABLE", "LEAVES", "Part", "attributes", "entered_or_none", "instance_dict", "parts_of", "rebuilt",
    "slot_members", "slots",
]  # fmt: skip

_K = TypeVar("_K")

# Never entered, and dropped before anything is built for them: a vocabulary has a million.
LEAVES = (str, bytes, bytearray, int, float, complex, type(None), type, np.generic, np.dtype)
IMMUTABLE = (tuple, frozenset, types.MethodType)


class Part(NamedTuple):
    """One thing that an object holds. put(old, new) stores another in its place; None: the holder is rebuilt."""

    suffix: str
    value: Any
    put: Callable[[Any, Any], None] | None = None


def parts_of(value: Any, entered: Callable[[Any], Iterable[tuple[Any, Any]]] | None = None) -> Iterator[Part]:
    """The table of containers. A new kind goes here, and into `rebuilt` if it is immutable.

    `entered` picks from (key, item) pairs those that are wanted: by default all but leaves.

    Example:
        >>> from octavo._models.containers import parts_of
        >>> [(part.suffix, part.put is not None) for part in parts_of({"w": [1.0], "n": 3})]
        [("['w']", True)]
    """
    entered = entered or _entered
    match value:
        case types.FunctionType() | types.ModuleType():
            return
        case dict():
            for key, item in entered(value.items()):
                yield Part(f"[{_shown(key)}]", item, partial(_put, dict.__setitem__, value, key))
        case list():
            for i, item in entered(enumerate(value)):
                yield Part(f"[{i}]", item, partial(_put, list.__setitem__, value, i))
        case deque():
            for i, item in entered(enumerate(value)):
                yield Part(f"[{i}]", item, partial(_put, deque.__setitem__, value, i))
        case set():
            for _, item in entered(enumerate(value)):
                yield Part("{...}", item, partial(_put_into_set, value))
        case tuple():
            names = getattr(value, "_fields", None)
            for i, item in entered(enumerate(value)):
                yield Part(f".{names[i]}" if names else f"[{i}]", item)
        case frozenset():
            for _, item in entered(enumerate(value)):
                yield Part("{...}", item)
        case partial():
            yield Part(".func", value.func, partial(_put, _set_in_partial, value, "func"))
            yield Part(".args", value.args, partial(_put, _set_in_partial, value, "args"))
            yield Part(".keywords", value.keywords)  # a dict, changed in place
        case types.MethodType():
            yield Part(".__self__", value.__self__)
            yield Part(".__func__", value.__func__)
            return
        case np.ndarray() if value.dtype == object:
            for index, item in entered(np.ndenumerate(value)):
                suffix = f"[{', '.join(map(str, index))}]"
                yield Part(suffix, item, partial(_put, np.ndarray.__setitem__, value, index))
    own = instance_dict(value)
    for name, item in entered(own.items()):
        # Stored where it was found: a frozen dataclass or a __setattr__ of the class's own is no obstacle.
        yield Part(f".{name}", item, partial(_put, dict.__setitem__, own, name))
    for name, item in entered(slots(value).items()):
        yield Part(f".{name}", item, partial(_put, _set_slot, value, name))


def _shown(key: Any) -> str:
    plain = isinstance(key, LEAVES) or (type(key) is tuple and all(isinstance(part, LEAVES) for part in key))
    return repr(key) if plain else f"<{type(key).__name__}>"


def _put(setter: Callable[[Any, Any, Any], None], holder: Any, key: Any, old: Any, new: Any) -> None:
    setter(holder, key, new)


def _put_into_set(holder: set[Any], old: Any, new: Any) -> None:
    hash(new)  # raises before anything has changed
    holder.discard(old)
    holder.add(new)


def _set_slot(holder: Any, name: str, new: Any) -> None:
    slot_members(holder)[name].__set__(holder, new)


def _set_in_partial(holder: partial[Any], name: str, new: Any) -> None:
    func, args = (new, holder.args) if name == "func" else (holder.func, new)
    holder.__setstate__((func, args, holder.keywords, vars(holder)))  # type: ignore[attr-defined]


def _entered(items: Iterable[tuple[_K, Any]]) -> Iterator[tuple[_K, Any]]:
    return ((key, item) for key, item in items if not isinstance(item, LEAVES))


def entered_or_none(items: Iterable[tuple[_K, Any]]) -> Iterator[tuple[_K, Any]]:
    """For `parts_of`: all but leaves, and None, which may stand for an array that is still to come."""
    return ((key, item) for key, item in items if item is None or not isinstance(item, LEAVES))


def instance_dict(value: Any) -> dict[str, Any]:
    """The object's own __dict__, whatever its class does to attribute access; an empty dict if it has none."""
    with contextlib.suppress(AttributeError):
        own = object.__getattribute__(value, "__dict__")
        if isinstance(own, dict):
            return own
    return {}


def slot_members(value: Any) -> dict[str, types.MemberDescriptorType]:
    """Slots by name (private names are mangled, as in the class's __dict__), those of base classes included."""
    return {
        name: member
        for cls in reversed(type(value).__mro__)
        if "__slots__" in vars(cls)
        for name, member in vars(cls).items()
        if isinstance(member, types.MemberDescriptorType)
    }


def slots(value: Any) -> dict[str, Any]:
    """What each slot that is set refers to."""
    held = {}
    for name, member in slot_members(value).items():
        with contextlib.suppress(AttributeError):
            held[name] = member.__get__(value, type(value))
    return held


def attributes(value: Any) -> dict[str, Any]:
    """Attributes by name, from the instance's __dict__ and its slots."""
    return instance_dict(value) | slots(value)


def rebuilt(value: Any, new: Callable[[Any], Any]) -> Any:
    """An immutable holder with new(part) in place of each part."""
    if isinstance(value, types.MethodType):
        owner = new(value.__self__)
        if type(owner) is type(value.__self__):
            return types.MethodType(new(value.__func__), owner)
        return getattr(owner, _method_name(value, owner))
    items = [new(item) for item in value]
    if isinstance(value, frozenset):
        return type(value)(items)
    built = tuple.__new__(type(value), items)  # of a namedtuple or another subclass, without running its __new__
    own = instance_dict(value)
    if own:
        vars(built).update({name: new(item) for name, item in own.items()})
    return built


def _method_name(method: types.MethodType, owner: Any) -> str:
    """The name by which `owner` has the method; a class may have one function under several names."""
    cls = type(method.__self__)
    names = [name for c in cls.__mro__ for name, member in vars(c).items() if member is method.__func__]
    names = names or [getattr(method.__func__, "__name__", repr(method.__func__))]
    for name in names:
        if hasattr(owner, name):
            return name
    raise ValueError(
        f"it is the bound method {names[0]!r} of a {cls.__name__}, and the {type(owner).__name__} that takes its place "
        "has no such method; store the layer, not its method"
    )
