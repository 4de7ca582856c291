"""What objects hold, and how to store something else there.

`parts_of` is the table of containers: objects with attributes or slots, dataclasses, lists, tuples, dicts. Mutable
holders take a replacement in place. Immutable ones (`IMMUTABLE`) are built anew by `rebuilt` and stored in their own
holders. Functions are opaque, because copy.deepcopy shares them. Keys of dicts are not looked at, nor are iterators and
classes. `walk.py` walks, copies and replaces by this table.
"""

from __future__ import annotations

import contextlib
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from octavo._util.transient import Transient

__all__ = [
    "IMMUTABLE", "LEAVES", "Part", "attributes", "captured", "entered_or_none", "instance_dict", "is_weak",
    "memory_of", "parts_of", "rebuilt", "slot_members", "slots",
]  # fmt: skip

_K = TypeVar("_K")

# Never entered, and dropped before anything is built for them: a vocabulary has a million.
LEAVES = (str, bytes, bytearray, int, float, complex, type(None), type, np.generic, np.dtype, Transient)
IMMUTABLE = (tuple, frozenset, types.MethodType)
WEAK = (weakref.ReferenceType, weakref.ProxyType, weakref.CallableProxyType)
_WITHOUT_ATTRIBUTES = frozenset({dict, list, tuple, set, frozenset, deque, np.ndarray})  # unlike what derives from them


class Part(NamedTuple):
    """One thing that an object holds.

    `key` names it in paths (None: a member of a set, which has no name). `at` is where the holder has it: put(holder,
    at, new) puts another there. Without `put` the holder is immutable, and `rebuilt` makes another.
    """

    key: str | int | None
    value: Any
    at: Any
    put: Callable[[Any, Any, Any], None] | None = None


def parts_of(value: Any, entered: Callable[[Any], Iterable[tuple[Any, Any]]] | None = None) -> Iterator[Part]:
    """The table of containers. A new kind goes here, and into `rebuilt` if it is immutable.

    `entered` picks from (key, item) pairs those that are wanted: by default all but leaves.

    Example:
        >>> from octavo._models.containers import parts_of
        >>> [(part.key, part.put is not None) for part in parts_of({"w": [1.0], "n": 3})]
        [('w', True)]
    """
    entered = entered or _entered
    match value:
        case types.FunctionType() | types.ModuleType():
            return
        case dict():
            for key, item in entered(value.items()):
                yield Part(_text(key), item, key, dict.__setitem__)
        case list():
            for i, item in entered(enumerate(value)):
                yield Part(i, item, i, list.__setitem__)
        case deque():
            for i, item in entered(enumerate(value)):
                yield Part(i, item, i, deque.__setitem__)
        case set():
            for _, item in entered(enumerate(value)):
                yield Part(None, item, item, _set_in_set)
        case tuple():
            names = getattr(value, "_fields", None)
            for i, item in entered(enumerate(value)):
                yield Part(names[i] if names else i, item, i)
        case frozenset():
            for i, item in entered(enumerate(value)):
                yield Part(None, item, i)
        case partial():
            yield Part("func", value.func, "func", _set_in_partial)
            yield Part("args", value.args, "args", _set_in_partial)
            yield Part("keywords", value.keywords, "keywords", _set_in_partial)
        case types.MethodType():
            yield Part("__self__", value.__self__, "__self__")
            yield Part("__func__", value.__func__, "__func__")
            return
        case np.ndarray() if value.dtype == object:
            for index, item in entered(np.ndenumerate(value)):
                yield Part(", ".join(map(str, index)), item, index, np.ndarray.__setitem__)
        case weakref.WeakValueDictionary() | weakref.WeakSet():
            yield from _parts_of_weak(value)
            return
        case weakref.WeakKeyDictionary():
            for key in list(vars(value)["data"]):
                yield Part(None, key, key, _set_weak_key)
            yield from _parts_of_weak(value)
            return
    if type(value) in _WITHOUT_ATTRIBUTES:
        return
    for name, item in entered(instance_dict(value).items()):
        yield Part(name, item, name, _set_in_dict)
    for name, item in entered(slots(value).items()):
        yield Part(name, item, name, _set_slot)


def _parts_of_weak(value: Any) -> Iterator[Part]:
    """Without the function of its own that forgets what is gone."""
    return (Part(name, item, name, _set_in_dict) for name, item in vars(value).items() if name != "_remove")


def _text(key: Any) -> str | int:
    if isinstance(key, (str, int)) and type(key) is not bool:
        return key
    plain = isinstance(key, LEAVES) or (type(key) is tuple and all(isinstance(part, LEAVES) for part in key))
    return repr(key) if plain else f"<{type(key).__name__}>"


def _set_in_set(holder: set[Any], old: Any, new: Any) -> None:
    hash(new)  # raises before anything has changed
    holder.discard(old)
    holder.add(new)


def _set_weak_key(holder: weakref.WeakKeyDictionary[Any, Any], old: Any, new: Any) -> None:
    data = vars(holder)["data"]
    items = [(new if key is old else key, item) for key, item in data.items()]  # in the order that there was
    data.clear()
    data.update(items)


def _set_in_dict(holder: Any, name: str, new: Any) -> None:
    """Stores it where it was found, past frozen dataclasses and a __setattr__ of the class's own."""
    instance_dict(holder)[name] = new


def _set_slot(holder: Any, name: str, new: Any) -> None:
    slot_members(holder)[name].__set__(holder, new)


def _set_in_partial(holder: partial[Any], name: str, new: Any) -> None:
    state = {"func": holder.func, "args": holder.args, "keywords": holder.keywords} | {name: new}
    vars(partial)["__setstate__"](holder, (*state.values(), vars(holder)))


def _entered(items: Iterable[tuple[_K, Any]]) -> Iterator[tuple[_K, Any]]:
    return ((key, item) for key, item in items if not issubclass(type(item), LEAVES))


def entered_or_none(items: Iterable[tuple[_K, Any]]) -> Iterator[tuple[_K, Any]]:
    """For `parts_of`: all but leaves, and None, which may stand for an array that is still to come."""
    return ((key, item) for key, item in items if item is None or not issubclass(type(item), LEAVES))


def instance_dict(value: Any) -> dict[str, Any]:
    """The object's own __dict__, past a __getattribute__ of its class; an empty dict if it has none."""
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
    """Attributes by name, from the instance's __dict__ and its slots, without weak references, which hold nothing."""
    held = instance_dict(value) | slots(value)
    return {name: item for name, item in held.items() if not is_weak(item)}


def is_weak(value: Any) -> bool:
    """Whether it is a weak reference. isinstance would ask a proxy, which answers for its referent or fails without."""
    return issubclass(type(value), WEAK)


def memory_of(array: NDArray[Any]) -> tuple[Any, ...]:
    """Equal for arrays that consist of the same elements in memory: one object, or several views of it.

    Example:
        >>> import numpy as np
        >>> from octavo._models.containers import memory_of
        >>> w = np.zeros((2, 3))
        >>> memory_of(w) == memory_of(w[:]), memory_of(w) == memory_of(w.copy())
        (True, False)
    """
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str


def captured(function: types.FunctionType) -> Iterator[Part]:
    """What a function reaches besides its arguments, by the name of the variable."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a variable that is not bound yet
            yield Part(name, cell.cell_contents, None)
    defaults = function.__defaults__ or ()
    last = function.__code__.co_argcount
    names = function.__code__.co_varnames[last - len(defaults) : last]
    for name, value in (*zip(names, defaults, strict=True), *(function.__kwdefaults__ or {}).items()):
        yield Part(name, value, None)
    for name, value in vars(function).items():
        yield Part(f".{name}", value, None)


def rebuilt(value: Any, changed: Mapping[Any, Any]) -> Any:
    """An immutable holder with changed[part.at] in place of those of its parts that cannot be put into it."""
    if isinstance(value, types.MethodType):
        owner = changed.get("__self__", value.__self__)
        if type(owner) is type(value.__self__):
            return types.MethodType(changed.get("__func__", value.__func__), owner)
        return getattr(owner, _method_name(value, owner))
    items = [changed.get(i, item) for i, item in enumerate(value)]
    kind = frozenset if isinstance(value, frozenset) else tuple
    built = kind.__new__(type(value), items)  # of a namedtuple or another subclass, without running its __new__
    instance_dict(built).update(instance_dict(value))
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
