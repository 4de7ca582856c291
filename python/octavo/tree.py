"""Finding, copying and replacing objects inside any model.

A model is whatever the user has: objects with attributes or slots, dataclasses, lists, tuples, dicts. `_parts` says
what an object holds, and where; everything else here follows from it. Mutable holders take a replacement in place;
immutable ones (tuples, partials, bound methods) are built anew and put into their own holders.

Paths read as Python: "blocks[3].fc1", "heads['out']"; the model itself is "".
"""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["copy_with", "label", "replace", "restore", "stale_references", "state", "walk"]

_LEAVES = (str, bytes, bytearray, int, float, complex, type(None), type, types.ModuleType, np.generic, np.dtype)
_IMMUTABLE = (tuple, frozenset, functools.partial, types.MethodType)


@dataclass(frozen=True, slots=True)
class _Part:
    """One thing that an object holds. `put` stores another in its place; None where the holder must be rebuilt."""

    suffix: str
    value: Any
    put: Callable[[Any], None] | None = None


def walk(root: Any) -> Iterator[tuple[str, Any]]:
    """Yields (path, object) for the root and everything it reaches, each object once, holders before what they hold.

    Numbers, strings, classes and modules are passed over, and functions and numeric arrays are not entered.

    Example:
        >>> from octavo.tree import walk
        >>> [path for path, value in walk({"a": [[], ()]}) if isinstance(value, tuple)]
        ["['a'][1]"]
    """
    return _walk([("", root)], skip=frozenset(), enter_functions=False)


def _walk(
    start: Iterable[tuple[str, Any]], *, skip: frozenset[int], enter_functions: bool
) -> Iterator[tuple[str, Any]]:
    seen = set(skip)
    stack = list(start)[::-1]
    alive: list[Any] = []  # parts made on the fly (a partial's args) must keep their ids while `seen` knows them
    while stack:
        path, value = stack.pop()
        if id(value) in seen or isinstance(value, _LEAVES):
            continue
        seen.add(id(value))
        alive.append(value)
        yield path, value
        parts = _function_parts(value) if enter_functions and isinstance(value, types.FunctionType) else _parts(value)
        stack.extend((_joined(path, part.suffix), part.value) for part in reversed(parts))


def _joined(path: str, suffix: str) -> str:
    return suffix.removeprefix(".") if not path else path + suffix


def label(path: str) -> str:
    """How messages name what is at a path."""
    return repr(path) if path else "the model itself"


def _parts(value: Any) -> list[_Part]:
    """What `value` holds: the table of containers. A new kind goes here, and into `_rebuilt` if it is immutable."""
    parts: list[_Part] = []
    if isinstance(value, dict):
        parts = [_Part(f"[{k!r}]", v, functools.partial(dict.__setitem__, value, k)) for k, v in value.items()]
    elif isinstance(value, list):
        parts = [_Part(f"[{i}]", v, functools.partial(list.__setitem__, value, i)) for i, v in enumerate(value)]
    elif isinstance(value, deque):
        parts = [_Part(f"[{i}]", v, functools.partial(deque.__setitem__, value, i)) for i, v in enumerate(value)]
    elif isinstance(value, set):
        parts = [_Part("{...}", v, functools.partial(_put_into_set, value, v)) for v in value]
    elif isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        parts = [_Part(f".{names[i]}" if names else f"[{i}]", v) for i, v in enumerate(value)]
    elif isinstance(value, frozenset):
        parts = [_Part("{...}", v) for v in value]
    elif isinstance(value, functools.partial):
        parts = [_Part(".func", value.func), _Part(".args", value.args), _Part(".keywords", value.keywords)]
    elif isinstance(value, types.MethodType):
        return [_Part(".__self__", value.__self__)]
    elif isinstance(value, np.ndarray):
        if value.dtype == object:
            parts = [_Part(f"{list(i)}", v, functools.partial(value.__setitem__, i)) for i, v in np.ndenumerate(value)]
    elif isinstance(value, types.FunctionType):
        return []
    return parts + _attribute_parts(value)


def _attribute_parts(value: Any) -> list[_Part]:
    attributes = getattr(value, "__dict__", None)
    parts = []
    if isinstance(attributes, dict):
        # Stored where it was found: a frozen dataclass or a __setattr__ of the class's own is no obstacle.
        parts = [_Part(f".{k}", v, functools.partial(attributes.__setitem__, k)) for k, v in attributes.items()]
    held = _slots(value)
    members = [(name, member) for name, member in _slot_members(value) if name in held]
    parts += [_Part(f".{name}", held[name], functools.partial(member.__set__, value)) for name, member in members]
    return parts


def state(value: Any) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What an object's attributes and slots refer to, for `restore`."""
    attributes = getattr(value, "__dict__", None)
    return (dict(attributes) if isinstance(attributes, dict) else None), _slots(value)


def restore(value: Any, before: tuple[dict[str, Any] | None, dict[str, Any]]) -> None:
    """Makes attributes and slots refer to what they did; arrays that were changed in place stay changed."""
    attributes, slots = before
    if attributes is not None:
        value.__dict__.clear()
        value.__dict__.update(attributes)
    for name, member in _slot_members(value):
        if name in slots:
            member.__set__(value, slots[name])
        elif name in _slots(value):
            member.__delete__(value)


def _slot_members(value: Any) -> Iterator[tuple[str, Any]]:
    """(name, descriptor) of each slot, those of base classes and private (mangled) names included."""
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{cls.__name__.lstrip('_')}{slot}" if private else slot
            member = cls.__dict__.get(name)
            if isinstance(member, types.MemberDescriptorType):
                yield name, member


def _slots(value: Any) -> dict[str, Any]:
    """What each slot that was ever set refers to."""
    held = {}
    for name, member in _slot_members(value):
        with contextlib.suppress(AttributeError):
            held[name] = member.__get__(value, type(value))
    return held


def _put_into_set(holder: set[Any], old: Any, new: Any) -> None:
    holder.discard(old)
    holder.add(new)


def _function_parts(function: types.FunctionType) -> list[_Part]:
    """What a function reaches without being told: the cells of its closure and its defaults."""
    parts = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            parts.append(_Part(f" variable {name!r}: ", cell.cell_contents))
        except ValueError:  # a variable that is not bound yet
            continue
    parts += [_Part(" default: ", v) for v in function.__defaults__ or ()]
    parts += [_Part(f" default {k!r}: ", v) for k, v in (function.__kwdefaults__ or {}).items()]
    return parts


def _rebuilt(value: Any, new: Callable[[Any], Any]) -> Any:
    """An immutable holder with new(part) for each part; itself where nothing changes."""
    if isinstance(value, types.MethodType):
        owner = new(value.__self__)
        return value if owner is value.__self__ else getattr(owner, value.__func__.__name__)
    if isinstance(value, functools.partial):
        func, args = new(value.func), new(value.args)
        keywords = {k: new(v) for k, v in value.keywords.items()}
        same = func is value.func and args is value.args and all(keywords[k] is v for k, v in value.keywords.items())
        return value if same else type(value)(func, *args, **keywords)
    parts = [new(part) for part in value]
    if all(a is b for a, b in zip(parts, value, strict=True)):
        return value
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def _replacer(mapping: Mapping[int, Any]) -> Callable[[Any], Any]:
    """A function from an object to what takes its place; objects that need no change come back as they are."""
    known: dict[int, tuple[Any, Any]] = {}  # id -> (object, kept alive; its replacement)

    def new(value: Any) -> Any:
        if id(value) in mapping:
            return mapping[id(value)]
        if not isinstance(value, _IMMUTABLE):
            return value
        if id(value) not in known:
            known[id(value)] = (value, _rebuilt(value, new))
        return known[id(value)][1]

    return new


def replace(root: Any, mapping: Mapping[int, Any]) -> Any:
    """Puts mapping[id(x)] wherever the tree holds x, in place, and returns the root (another one if it was replaced).

    All or nothing: the new holders are built first, and what was stored is put back if storing fails midway.

    Example:
        >>> from octavo.tree import replace
        >>> old, new = object(), "new"
        >>> replace({"a": (1, old)}, {id(old): new})
        {'a': (1, 'new')}
    """
    new = _replacer(mapping)
    changes = []
    for _, value in walk(root):
        if id(value) in mapping:
            continue
        for part in _parts(value):
            replacement = part.value if part.put is None else new(part.value)
            if replacement is not part.value:
                changes.append((part, replacement))
    replaced_root = new(root)
    done: list[_Part] = []
    try:
        for part, replacement in changes:
            assert part.put is not None
            part.put(replacement)
            done.append(part)
    except BaseException:
        for part in done:
            assert part.put is not None
            part.put(part.value)
        raise
    return replaced_root


def copy_with(root: Any, mapping: Mapping[int, Any]) -> Any:
    """copy.deepcopy(root) with mapping[id(x)] wherever the tree holds x; x itself is never copied.

    Raises:
        TypeError: something cannot be copied; the message gives its path.
        ValueError: the tree is nested more deeply than copy.deepcopy can follow.
    """
    new = _replacer(mapping)
    memo = dict(mapping)
    for _, value in walk(root):  # copying a bound method would bind the old class's function to the replacement
        if isinstance(value, types.MethodType) and id(value.__self__) in mapping:
            memo[id(value)] = new(value)
    try:
        return copy.deepcopy(root, dict(memo))
    except RecursionError as error:
        raise ValueError(
            "the model is nested too deeply for copy.deepcopy; pass inplace=True, or raise sys.setrecursionlimit"
        ) from error
    except Exception as error:
        path, culprit = _uncopyable(root, memo)
        raise TypeError(
            f"cannot copy {label(path)} (type {type(culprit).__name__}): {error}; "
            "give its class a __deepcopy__, or pass inplace=True"
        ) from error


def _uncopyable(root: Any, memo: dict[int, Any]) -> tuple[str, Any]:
    """The innermost object that copy.deepcopy fails on: the last of the walk, where parts come after holders."""
    for path, value in reversed(list(walk(root))):
        try:
            copy.deepcopy(value, dict(memo))
        except Exception:
            return path, value
    return "", root


def stale_references(root: Any, targets: frozenset[int], *, inplace: bool) -> list[str]:
    """Descriptions of functions in the tree whose closure or defaults will still reach a target after it was replaced.

    Functions are never copied or changed. In place, a function that captured a mutable holder of the tree sees the
    replacement there; in a copy it still sees the original.
    """
    everything = list(walk(root))
    updated = frozenset(id(v) for _, v in everything if not isinstance(v, _IMMUTABLE)) - targets
    found = []
    for path, value in everything:
        if isinstance(value, types.FunctionType):
            start = [(f"{label(path)}{part.suffix}", part.value) for part in _function_parts(value)]
            skip = (updated if inplace else frozenset()) - {
                id(v) for _, v in start if isinstance(v, types.FunctionType)
            }
            found += [where for where, hit in _walk(start, skip=skip, enter_functions=True) if id(hit) in targets]
    return found
