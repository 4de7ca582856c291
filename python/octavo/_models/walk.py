"""Finding, copying and replacing objects inside any model.

A model is whatever the user has: objects with attributes or slots, dataclasses, lists, tuples, dicts. What an object
holds, and how to store something else there, is in `octavo.holders`; all the rest follows from it.

Paths read as Python: "blocks[3].fc1", "heads['out']"; the model itself is "". Functions are opaque, because
copy.deepcopy shares them: `stale_references` finds those that would go on using what was replaced.
"""

from __future__ import annotations

import contextlib
import copy
import graphlib
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from octavo._models.containers import (
    IMMUTABLE,
    LEAVES,
    Part,
    attributes,
    instance_dict,
    parts_of,
    rebuilt,
    slot_members,
    slots,
)

__all__ = [
    "copy_with", "label", "put_together", "references", "replace", "restore", "snapshot", "stale_references", "walk",
]  # fmt: skip


def walk(root: Any, *, stop: Callable[[Any], bool] | None = None) -> Iterator[tuple[str, Any]]:
    """(path, object) for the root and everything that it reaches, each object once, holders before what they hold.

    Args:
        root: any object. Cycles and depth do not matter.
        stop: objects for which it is true are yielded, but not entered.

    Yields:
        The path from the root ("" for itself) and the object. Numbers, strings and classes are left out.

    Example:
        >>> from octavo._models.walk import walk
        >>> [path for path, value in walk({"a": [1, ()]})]
        ['', "['a']", "['a'][1]"]
    """
    return _walk(root, stop, parts_of)


def _walk(
    root: Any, stop: Callable[[Any], bool] | None, held_by: Callable[[Any], Iterable[Part]]
) -> Iterator[tuple[str, Any]]:
    seen: dict[int, Any] = {}  # by id; holding the objects keeps their ids from being given to others
    stack = [("", root)]
    while stack:
        path, value = stack.pop()
        if id(value) in seen or isinstance(value, LEAVES):
            continue
        seen[id(value)] = value
        yield path, value
        if stop is None or not stop(value):
            parts = [(_joined(path, part.suffix), part.value) for part in held_by(value)]
            stack.extend(reversed(parts))


def references(root: Any, stop: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """(path, value) of the root and of every place that holds something, so that shared objects come once a place.

    Args:
        root: any object.
        stop: told each holder; what it says yes to is not entered.

    Example:
        >>> from octavo._models.walk import references
        >>> shared = (1.5,)
        >>> [path for path, value in references([shared, shared], lambda value: False) if value is shared]
        ['[0]', '[1]']
    """
    yield "", root
    for path, holder in walk(root, stop=stop):
        if not stop(holder):
            yield from ((_joined(path, part.suffix), part.value) for part in parts_of(holder))


def _joined(path: str, suffix: str) -> str:
    return path + suffix if path else suffix.removeprefix(".")


def label(path: str) -> str:
    """How messages name what is at a path: "model.blocks[3].fc1"."""
    return "model" + (path if path.startswith(("[", "{")) or not path else f".{path}")


# Replacing in place


def _plan(root: Any, mapping: Mapping[int, Any]) -> dict[int, Any]:
    """`mapping`, together with the new immutable holders of what it replaces. Changes nothing."""
    holders = {id(v): (path, v) for path, v in _walk_outside(root, mapping) if isinstance(v, IMMUTABLE)}
    graph = {key: [id(part.value) for part in parts_of(v)] for key, (_, v) in holders.items()}
    plan = dict(mapping)
    for key in graphlib.TopologicalSorter(graph).static_order():  # what is held before its holders
        if key in holders and any(held in plan for held in graph[key]):
            path, value = holders[key]
            try:
                plan[key] = rebuilt(value, lambda part: plan.get(id(part), part))
            except Exception as error:
                raise ValueError(f"cannot replace what {label(path)} holds: {error}") from error
    return plan


def _walk_outside(root: Any, mapping: Mapping[int, Any]) -> Iterator[tuple[str, Any]]:
    """The tree without what is to be replaced, and without what only that reaches."""
    return ((path, v) for path, v in walk(root, stop=lambda v: id(v) in mapping) if id(v) not in mapping)


def put_together(changes: Sequence[tuple[str, Callable[[Any, Any], None], Any, Any]], what: str) -> None:
    """Calls put(old, new) for each (path, put, old, new): all of them, or where one fails, none."""
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
        raise ValueError(f"cannot {what} {label(changes[done][0])}: {error}; nothing was changed") from error


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
        >>> from octavo._models.walk import replace
        >>> old, new = object(), "new"
        >>> replace({"a": (1, old)}, {id(old): new})
        {'a': (1, 'new')}
    """
    plan = _plan(root, mapping)
    changes = [
        (_joined(path, part.suffix), part.put, part.value, plan[id(part.value)])
        for path, holder in _walk_outside(root, mapping)
        for part in parts_of(holder)
        if part.put is not None and id(part.value) in plan
    ]
    put_together(changes, "replace")
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
        >>> from octavo._models.walk import copy_with
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
            copy.deepcopy(value, {id(part.value): part.value for part in parts_of(value)})
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
        >>> from octavo._models.walk import stale_references
        >>> layer = object()
        >>> stale_references([layer, lambda x, f=layer: f(x)], {id(layer): None}, inplace=True)
        [('[1]', 'f')]
    """
    everything = list(_walk_outside(root, mapping))
    updated = {id(v) for _, v in everything if not isinstance(v, IMMUTABLE)} if inplace else set()

    def reaches(captured: Any) -> bool:
        found = _walk(captured, lambda v: id(v) in mapping or id(v) in updated, _parts_and_captured)
        return any(id(v) in mapping for _, v in found)

    functions = [(path, value) for path, value in everything if isinstance(value, types.FunctionType)]
    return [(path, part.suffix) for path, function in functions for part in _captured(function) if reaches(part.value)]


def _captured(function: types.FunctionType) -> Iterator[Part]:
    """What a function reaches without being told, by the name of the variable."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a variable that is not bound yet
            yield Part(name, cell.cell_contents)
    defaults = function.__defaults__ or ()
    last = function.__code__.co_argcount
    names = function.__code__.co_varnames[last - len(defaults) : last]
    for name, value in (*zip(names, defaults, strict=True), *(function.__kwdefaults__ or {}).items()):
        yield Part(name, value)
    for name, value in vars(function).items():
        yield Part(f".{name}", value)


def _parts_and_captured(value: Any) -> Iterator[Part]:
    return _captured(value) if isinstance(value, types.FunctionType) else parts_of(value)


# Calling an object and leaving it as it was


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
