"""Finding, copying and replacing objects inside any model.

A model is whatever the user has: objects with attributes or slots, dataclasses, lists, tuples, dicts. `_parts` says
what an object holds, and how to store something else there; all the rest follows from it. Mutable holders take a
replacement in place. Immutable ones (`_IMMUTABLE`) are built anew by `_rebuilt` and stored in their own holders.

Paths read as Python: "blocks[3].fc1", "heads['out']"; the model itself is "". Functions are opaque, because
copy.deepcopy shares them: `stale_references` finds those that would go on using what was replaced. Keys of dicts
are not searched, nor are weak references, iterators and classes.
"""

from __future__ import annotations

import contextlib
import copy
import graphlib
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

__all__ = ["attributes", "copy_with", "label", "replace", "restore", "snapshot", "stale_references", "walk"]

_K = TypeVar("_K")

# Never entered, and dropped before anything is built for them: a vocabulary has a million.
_LEAVES = (str, bytes, bytearray, int, float, complex, type(None), type, np.generic, np.dtype)
_IMMUTABLE = (tuple, frozenset, types.MethodType)


class _Part(NamedTuple):
    """One thing that an object holds. put(old, new) stores another in its place; None: the holder is rebuilt."""

    suffix: str
    value: Any
    put: Callable[[Any, Any], None] | None = None


def walk(root: Any, *, stop: Callable[[Any], bool] | None = None) -> Iterator[tuple[str, Any]]:
    """(path, object) for the root and everything that it reaches, each object once, holders before what they hold.

    Args:
        root: any object. Cycles and depth do not matter.
        stop: objects for which it is true are yielded, but not entered.

    Yields:
        The path from the root ("" for itself) and the object. Numbers, strings and classes are left out.

    Example:
        >>> from octavo.tree import walk
        >>> [path for path, value in walk({"a": [1, ()]})]
        ['', "['a']", "['a'][1]"]
    """
    return _walk(root, stop, _parts)


def _walk(
    root: Any, stop: Callable[[Any], bool] | None, parts_of: Callable[[Any], Iterable[_Part]]
) -> Iterator[tuple[str, Any]]:
    seen: dict[int, Any] = {}  # by id; holding the objects keeps their ids from being given to others
    stack = [("", root)]
    while stack:
        path, value = stack.pop()
        if id(value) in seen or isinstance(value, _LEAVES):
            continue
        seen[id(value)] = value
        yield path, value
        if stop is None or not stop(value):
            parts = [(_joined(path, part.suffix), part.value) for part in parts_of(value)]
            stack.extend(reversed(parts))


def references(root: Any, stop: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """(path, value) of the root and of every place that holds something, so that shared objects come once a place.

    Args:
        root: any object.
        stop: told each holder; what it says yes to is not entered.

    Example:
        >>> from octavo.tree import references
        >>> shared = (1.5,)
        >>> [path for path, value in references([shared, shared], lambda value: False) if value is shared]
        ['[0]', '[1]']
    """
    yield "", root
    for path, holder in walk(root, stop=stop):
        if not stop(holder):
            yield from ((_joined(path, part.suffix), part.value) for part in _parts(holder))


def _joined(path: str, suffix: str) -> str:
    return path + suffix if path else suffix.removeprefix(".")


def label(path: str) -> str:
    """How messages name what is at a path: "model.blocks[3].fc1"."""
    return "model" + (path if path.startswith(("[", "{")) or not path else f".{path}")


# What objects hold


def _parts(value: Any, entered: Callable[[Any], Iterable[tuple[Any, Any]]] | None = None) -> Iterator[_Part]:
    """The table of containers. A new kind goes here, and into `_rebuilt` if it is immutable.

    `entered` picks from (key, item) pairs those that are wanted: by default all but leaves.
    """
    entered = entered or _entered
    match value:
        case types.FunctionType() | types.ModuleType():
            return
        case dict():
            for key, item in entered(value.items()):
                shown = repr(key) if isinstance(key, _LEAVES) else f"<{type(key).__name__}>"
                yield _Part(f"[{shown}]", item, partial(_put, dict.__setitem__, value, key))
        case list():
            for i, item in entered(enumerate(value)):
                yield _Part(f"[{i}]", item, partial(_put, list.__setitem__, value, i))
        case deque():
            for i, item in entered(enumerate(value)):
                yield _Part(f"[{i}]", item, partial(_put, deque.__setitem__, value, i))
        case set():
            for _, item in entered(enumerate(value)):
                yield _Part("{...}", item, partial(_put_into_set, value))
        case tuple():
            names = getattr(value, "_fields", None)
            for i, item in entered(enumerate(value)):
                yield _Part(f".{names[i]}" if names else f"[{i}]", item)
        case frozenset():
            for _, item in entered(enumerate(value)):
                yield _Part("{...}", item)
        case partial():
            yield _Part(".func", value.func, partial(_put, _set_in_partial, value, "func"))
            yield _Part(".args", value.args, partial(_put, _set_in_partial, value, "args"))
            yield _Part(".keywords", value.keywords)  # a dict, changed in place
        case types.MethodType():
            yield _Part(".__self__", value.__self__)
            yield _Part(".__func__", value.__func__)
            return
        case np.ndarray() if value.dtype == object:
            for index, item in entered(np.ndenumerate(value)):
                suffix = f"[{', '.join(map(str, index))}]"
                yield _Part(suffix, item, partial(_put, np.ndarray.__setitem__, value, index))
    own = _instance_dict(value)
    for name, item in entered(own.items()):
        # Stored where it was found: a frozen dataclass or a __setattr__ of the class's own is no obstacle.
        yield _Part(f".{name}", item, partial(_put, dict.__setitem__, own, name))
    for name, item in entered(_slots(value).items()):
        yield _Part(f".{name}", item, partial(_put, _set_slot, value, name))


def _put(setter: Callable[[Any, Any, Any], None], holder: Any, key: Any, old: Any, new: Any) -> None:
    setter(holder, key, new)


def _put_into_set(holder: set[Any], old: Any, new: Any) -> None:
    hash(new)  # raises before anything has changed
    holder.discard(old)
    holder.add(new)


def _set_slot(holder: Any, name: str, new: Any) -> None:
    _slot_members(holder)[name].__set__(holder, new)


def _set_in_partial(holder: partial[Any], name: str, new: Any) -> None:
    func, args = (new, holder.args) if name == "func" else (holder.func, new)
    holder.__setstate__((func, args, holder.keywords, vars(holder)))  # type: ignore[attr-defined]


def _entered(items: Iterable[tuple[_K, Any]]) -> Iterator[tuple[_K, Any]]:
    return ((key, item) for key, item in items if not isinstance(item, _LEAVES))


def _entered_or_none(items: Iterable[tuple[_K, Any]]) -> Iterator[tuple[_K, Any]]:
    """The same, and None, which may stand for an array that is still to come."""
    return ((key, item) for key, item in items if item is None or not isinstance(item, _LEAVES))


def _instance_dict(value: Any) -> dict[str, Any]:
    """The object's own __dict__, whatever its class does to attribute access; an empty dict if it has none."""
    with contextlib.suppress(AttributeError):
        own = object.__getattribute__(value, "__dict__")
        if isinstance(own, dict):
            return own
    return {}


def _slot_members(value: Any) -> dict[str, types.MemberDescriptorType]:
    """Slots by name (private names are mangled, as in the class's __dict__), those of base classes included."""
    return {
        name: member
        for cls in reversed(type(value).__mro__)
        if "__slots__" in vars(cls)
        for name, member in vars(cls).items()
        if isinstance(member, types.MemberDescriptorType)
    }


def _slots(value: Any) -> dict[str, Any]:
    """What each slot that is set refers to."""
    held = {}
    for name, member in _slot_members(value).items():
        with contextlib.suppress(AttributeError):
            held[name] = member.__get__(value, type(value))
    return held


def attributes(value: Any) -> dict[str, Any]:
    """Attributes by name, from the instance's __dict__ and its slots."""
    return _instance_dict(value) | _slots(value)


# Replacing in place


def _rebuilt(value: Any, new: Callable[[Any], Any]) -> Any:
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
    own = _instance_dict(value)
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


def _plan(root: Any, mapping: Mapping[int, Any]) -> dict[int, Any]:
    """`mapping`, together with the new immutable holders of what it replaces. Changes nothing."""
    holders = {id(v): (path, v) for path, v in _walk_outside(root, mapping) if isinstance(v, _IMMUTABLE)}
    graph = {key: [id(part.value) for part in _parts(v)] for key, (_, v) in holders.items()}
    plan = dict(mapping)
    for key in graphlib.TopologicalSorter(graph).static_order():  # what is held before its holders
        if key in holders and any(held in plan for held in graph[key]):
            path, value = holders[key]
            try:
                plan[key] = _rebuilt(value, lambda part: plan.get(id(part), part))
            except Exception as error:
                raise ValueError(f"cannot replace what {label(path)} holds: {error}") from error
    return plan


def _walk_outside(root: Any, mapping: Mapping[int, Any]) -> Iterator[tuple[str, Any]]:
    """The tree without what is to be replaced, and without what only that reaches."""
    return ((path, v) for path, v in walk(root, stop=lambda v: id(v) in mapping) if id(v) not in mapping)


def replace(root: Any, mapping: Mapping[int, Any]) -> Any:
    """Puts mapping[id(x)] wherever the tree holds x, in place, and returns the root: a new one if it is immutable.

    All or nothing: new immutable holders are built first, and if storing fails midway, all is put back.

    Args:
        root: any object; objects in the mapping are not entered.
        mapping: from the id of an object of the tree to its replacement.

    Returns:
        The root, its replacement, or the tuple or bound method that takes its place.

    Raises:
        ValueError: something cannot be replaced where it is held (a read-only array of objects, a bound method that
            the replacement does not have); its path is named.

    Example:
        >>> from octavo.tree import replace
        >>> old, new = object(), "new"
        >>> replace({"a": (1, old)}, {id(old): new})
        {'a': (1, 'new')}
    """
    plan = _plan(root, mapping)
    changes = [
        (_joined(path, part.suffix), part.put, part.value, plan[id(part.value)])
        for path, holder in _walk_outside(root, mapping)
        for part in _parts(holder)
        if part.put is not None and id(part.value) in plan
    ]
    done = 0
    try:
        for _, put, old, new in changes:
            put(old, new)
            done += 1
    except BaseException as error:
        for _, put, old, new in reversed(changes[:done]):
            put(new, old)
        if not isinstance(error, Exception):
            raise
        raise ValueError(f"cannot replace {label(changes[done][0])}: {error}; nothing was changed") from error
    return plan.get(id(root), root)


# Copying


def copy_with(root: Any, mapping: Mapping[int, Any]) -> Any:
    """copy.deepcopy(root) with mapping[id(x)] wherever the tree holds x; x itself is never copied.

    Modules, which copy.deepcopy refuses, are shared.

    Args:
        root: any object.
        mapping: from the id of an object of the tree to its replacement.

    Returns:
        The copy.

    Raises:
        TypeError: something cannot be copied; its path is named.
        ValueError: the tree is nested more deeply than copy.deepcopy can follow, or holds a bound method that the
            replacement does not have.

    Example:
        >>> from octavo.tree import copy_with
        >>> old, new = object(), "new"
        >>> copy_with({"a": (1, old)}, {id(old): new})
        {'a': (1, 'new')}
    """
    plan = _plan(root, mapping)
    memo = dict(mapping)
    for _, value in _walk_outside(root, mapping):
        # deepcopy would bind the old class's function to the replacement
        if isinstance(value, types.MethodType) and id(value.__self__) in mapping:
            memo[id(value)] = plan[id(value)]
        elif isinstance(value, types.ModuleType):
            memo[id(value)] = value
    try:
        return copy.deepcopy(root, dict(memo))
    except RecursionError as error:
        raise ValueError(
            "the model is nested too deeply for copy.deepcopy; pass inplace=True, which needs no copy, or raise the "
            "limit with sys.setrecursionlimit"
        ) from error
    except Exception as error:
        path, culprit, reason = _uncopyable(root, memo) or ("", root, error)
        raise TypeError(
            f"cannot copy {label(path)} (type {_type_name(culprit)}): {reason}; "
            "define __deepcopy__ in its class or the one that holds it, or pass inplace=True"
        ) from error


def _uncopyable(root: Any, memo: Mapping[int, Any]) -> tuple[str, Any, Exception] | None:
    """The object that copy.deepcopy fails on by itself, when all that it holds need not be copied."""
    for path, value in _walk_outside(root, memo):
        if type(value) is np.ndarray and value.dtype != object:
            continue
        try:
            copy.deepcopy(value, {id(part.value): part.value for part in _parts(value)})
        except Exception as error:
            return path, value, error
    return None


def _type_name(value: Any) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"


# What replacing does not reach


def stale_references(root: Any, mapping: Mapping[int, Any], *, inplace: bool) -> list[tuple[str, str]]:
    """Functions in the tree that will go on using an object of the mapping after it was replaced.

    Functions are neither copied nor changed. After `replace`, one that captured a mutable holder of the tree finds the
    replacement there; after `copy_with` it still finds the original.

    Args:
        root, mapping: as for `replace` and `copy_with`.
        inplace: which of the two.

    Returns:
        (path of the function, name of its variable), for closures, default arguments and attributes.

    Example:
        >>> from octavo.tree import stale_references
        >>> layer = object()
        >>> stale_references([layer, lambda x, f=layer: f(x)], {id(layer): None}, inplace=True)
        [('[1]', 'f')]
    """
    everything = list(_walk_outside(root, mapping))
    updated = {id(v) for _, v in everything if not isinstance(v, _IMMUTABLE)} if inplace else set()

    def reaches(captured: Any) -> bool:
        found = _walk(captured, lambda v: id(v) in mapping or id(v) in updated, _parts_and_captured)
        return any(id(v) in mapping for _, v in found)

    functions = [(path, value) for path, value in everything if isinstance(value, types.FunctionType)]
    return [(path, part.suffix) for path, function in functions for part in _captured(function) if reaches(part.value)]


def _captured(function: types.FunctionType) -> Iterator[_Part]:
    """What a function reaches without being told, by the name of the variable."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a variable that is not bound yet
            yield _Part(name, cell.cell_contents)
    defaults = function.__defaults__ or ()
    last = function.__code__.co_argcount
    names = function.__code__.co_varnames[last - len(defaults) : last]
    for name, value in (*zip(names, defaults, strict=True), *(function.__kwdefaults__ or {}).items()):
        yield _Part(name, value)
    for name, value in vars(function).items():
        yield _Part(f".{name}", value)


def _parts_and_captured(value: Any) -> Iterator[_Part]:
    return _captured(value) if isinstance(value, types.FunctionType) else _parts(value)


# Calling an object and leaving it as it was


class _Snapshot(NamedTuple):
    own: dict[str, Any]
    slots: dict[str, Any]
    contents: list[tuple[Any, Any]]  # containers that the attributes refer to, and copies of them


_CONTAINERS = (dict, OrderedDict, defaultdict, list, deque, set)


def snapshot(value: Any) -> _Snapshot:
    """What the object's attributes and slots refer to, and what the lists, dicts and sets among them hold."""
    contents = [(held, copy.copy(held)) for held in attributes(value).values() if type(held) in _CONTAINERS]
    return _Snapshot(dict(_instance_dict(value)), _slots(value), contents)


def restore(value: Any, before: _Snapshot) -> None:
    """Makes all of that as it was. Numeric arrays changed in place stay changed."""
    own = _instance_dict(value)
    own.clear()
    own.update(before.own)
    now = _slots(value)
    for name, member in _slot_members(value).items():
        if name in before.slots:
            member.__set__(value, before.slots[name])
        elif name in now:
            member.__delete__(value)
    for holder, held in before.contents:
        holder.clear()
        (holder.update if isinstance(holder, (dict, set)) else holder.extend)(held)
