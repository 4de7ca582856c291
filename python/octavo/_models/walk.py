"""Finding, copying and replacing objects inside any model.

A model is whatever the user has: objects with attributes or slots, dataclasses, lists, tuples, dicts. What an object
holds, and how to store something else there, is in `containers.py`. On it stand one traversal, `places`, and one way to
change a model, `store`; all else here and in `fill.py` is made of these two.

Functions are opaque, because copy.deepcopy shares them; `functions.py` finds those that would go on using what was
replaced. Weak references hold nothing, so they are not entered; they are bound to the replacement, or to the copy.
"""

from __future__ import annotations

import copy
import graphlib
import types
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from octavo._models.containers import IMMUTABLE, LEAVES, Part, parts_of, rebuilt
from octavo._models.paths import dotted, joined, label
from octavo._models.weak import is_weak, rebound, referent

__all__ = ["Place", "copy_with", "label", "places", "references", "replace", "store", "walk"]


class Place:
    """Where a model holds something: as a part of the object at the place `holder`, which is None for the model itself.

    A shared object has several places; `first` is the one where the traversal met it first.
    """

    # No place refers to itself: what a model held is freed with the last place, not by the garbage collector.
    __slots__ = ("_earlier", "_path", "at", "holder", "key", "named", "put", "value")

    def __init__(self, part: Part, holder: Place | None) -> None:
        self.key, self.value, self.at, self.put = part
        self.holder = holder
        self._earlier: Place | None = None
        self.named: bool = holder is None or (holder.named and part[0] is not None)  # not behind a set
        self._path: str | None = "" if holder is None else None

    @property
    def first(self) -> Place:
        return self if self._earlier is None else self._earlier

    def met_before(self, earlier: Place) -> None:
        """Records the place where the traversal met this value first."""
        self._earlier = earlier

    def store(self, holder: Any, new: Any) -> None:
        """Puts another value into the holder, which may have been built anew."""
        assert self.put is not None
        self.put(holder, self.at, new)

    def take_back(self, holder: Any, new: Any) -> None:
        """Undoes `store`."""
        assert self.put is not None
        self.put(holder, new if self.key is None else self.at, self.value)

    @property
    def path(self) -> str:
        """The path as users spell it."""
        behind: list[Place] = []
        place: Place | None = self
        while place is not None and place._path is None:
            behind.append(place)
            place = place.holder
        path = "" if place is None else place._path or ""
        for place in reversed(behind):
            path = place._path = joined(path, place.key)
        return path

    @property
    def name(self) -> str | None:
        """The path as files spell it; None for what only sets hold."""
        return dotted(self.path) if self.named else None


def places(
    root: Any,
    stop: Callable[[Place], bool] | None = None,
    parts: Callable[[Any], Iterable[Part]] = parts_of,
    *,
    again: Callable[[Any], bool] | None = None,
    weak: bool = False,
) -> Iterator[Place]:
    """Every place that holds something: holders before what they hold, and the members of sets last.

    Args:
        root: any object. Cycles are fine, and so is any depth.
        stop: whether not to enter what is at a place.
        parts: gives the parts of an object. Numbers, strings and classes among them are left out; None is kept.
        again: whether to enter an object at each of its places, as if each were another object.
        weak: whether to come to weak references too. What they refer to is not entered: it is held elsewhere.

    Example:
        >>> from octavo._models.walk import places
        >>> shared = (1.5,)
        >>> [(place.path, place.first.path) for place in places({"a": shared, "b": shared})]
        [('', ''), ('a', 'a'), ('b', 'a')]
    """
    seen: dict[int, Place] = {}  # by the id of the value; the place keeps it alive, so no other gets the same id
    named, nameless = [Place(Part("", root, None), None)], list[Place]()
    while named or nameless:
        place = (named or nameless).pop()
        value = place.value
        if issubclass(type(value), LEAVES) or is_weak(value):
            if value is None or (weak and is_weak(value)):
                yield place
            continue
        earlier = seen.setdefault(id(value), place)
        if earlier is not place and not (again is not None and again(value)):
            place.met_before(earlier)
        yield place
        if place.first is place and not (stop is not None and stop(place)):
            for inner in [Place(part, place) for part in parts(value)][::-1]:
                (named if inner.named else nameless).append(inner)


def walk(root: Any, *, stop: Callable[[Any], bool] | None = None) -> Iterator[tuple[str, Any]]:
    """(path, object) for the root and everything that it reaches, each object once, holders before what they hold.

    Args:
        root: any object. Cycles are fine, and so is any depth.
        stop: whether not to enter an object; it is yielded all the same.

    Yields:
        The path from the root ("" for itself) and the object. Numbers, strings and classes are left out.

    Example:
        >>> from octavo._models.walk import walk
        >>> [path for path, value in walk({"a": [1, ()]})]
        ['', 'a', 'a.1']
    """
    halt = None if stop is None else lambda place: stop(place.value)
    return ((p.path, p.value) for p in places(root, halt) if p.first is p and p.value is not None)


def references(root: Any, stop: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """(path, value) for the root and every place that holds something: a shared object comes once for each place.

    Args:
        root: any object.
        stop: whether not to enter a value.

    Example:
        >>> from octavo._models.walk import references
        >>> shared = (1.5,)
        >>> [path for path, value in references([shared, shared], lambda value: False) if value is shared]
        ['0', '1']
    """
    return ((place.path, place.value) for place in places(root, lambda place: stop(place.value)))


# Changing a model


def store(found: Iterable[Place], new: Callable[[Place], Any], moved: Mapping[int, Any] | None = None) -> Any:
    """Stores new(place) at each of the places, in place: at all of them or, with an error, at none.

    Args:
        found: what `places` gives.
        new: what belongs at a place; place.value where nothing changes. Tuples and other immutable holders of what
            changes are built anew.
        moved: new referents of the weak references among the places, by the ids of the old ones. Default: the objects
            that take their places.

    Returns:
        The root: another object if it is immutable, or changed itself.

    Raises:
        ValueError: something cannot be stored where it is held (a read-only array of objects, a bound method that the
            new object does not have, a weak reference to an object that allows none); its path is named.
    """
    direct: dict[Place, Any] = {}  # by place
    built: dict[Place, Any] = {}  # new immutable holders, by the place where the old one was entered
    within: defaultdict[Place, list[Place]] = defaultdict(list)  # places in immutable holders
    to_put: list[tuple[Place, Place]] = []  # places in mutable ones, and these
    weak: list[Place] = []
    root: Place | None = None
    for place in found:
        root = root or place
        if is_weak(place.value):
            weak.append(place)
        elif (value := new(place)) is not place.value:
            direct[place] = value
        elif not isinstance(value, IMMUTABLE):
            continue
        if place.holder is not None and place.put is None:
            within[place.holder].append(place)
        elif place.holder is not None:
            to_put.append((place, place.holder))
    if weak:
        direct |= _rebound(weak, {id(p.value): value for p, value in direct.items()} if moved is None else moved)

    def now(place: Place) -> Any:
        return direct[place] if place in direct else built.get(place.first, place.value)

    graph = {holder: [place.first for place in held] for holder, held in within.items()}
    for holder in graphlib.TopologicalSorter(graph).static_order():  # what is held before its holders
        changed = {p.at: now(p) for p in within.get(holder, ()) if now(p) is not p.value}
        if changed:
            built[holder] = _rebuilt(holder, changed)
    _put_all([(p, built.get(holder, holder.value), now(p)) for p, holder in to_put if now(p) is not p.value])
    return None if root is None else now(root)


def _rebound(weak: list[Place], moved: Mapping[int, Any]) -> dict[Place, Any]:
    found = {}
    for place in weak:
        target = referent(place.value)
        new = None if target is None else moved.get(id(target))
        if new is not None and new is not target:
            try:
                found[place] = rebound(place.value, new)
            except Exception as error:
                raise ValueError(f"cannot rebind the weak reference {label(place.path)}: {error}") from error
    return found


def _rebuilt(place: Place, changed: dict[Any, Any]) -> Any:
    try:
        return rebuilt(place.value, changed)
    except Exception as error:
        raise ValueError(f"cannot replace what {label(place.path)} holds: {error}") from error


def _put_all(changes: list[tuple[Place, Any, Any]]) -> None:
    """Puts each (place, holder, new value), or where one fails, none."""
    done = 0
    try:
        for place, holder, new in changes:
            place.store(holder, new)
            done += 1
    except BaseException as error:
        for place, holder, new in reversed(changes[:done]):
            place.take_back(holder, new)
        if not isinstance(error, Exception):
            raise
        raise ValueError(f"cannot replace {label(changes[done][0].path)}: {error}; nothing was changed") from error


def replace(root: Any, mapping: Mapping[int, Any]) -> Any:
    """Puts mapping[id(x)] wherever the tree holds x, in place, and returns the root: a new one if it is immutable.

    All or nothing: new immutable holders are built first, and if storing fails midway, all is put back.

    Args:
        root: any object; objects in the mapping are not entered.
        mapping: from the id of an object of the tree to its replacement.

    Returns:
        The root, its replacement, or the tuple or bound method that takes its place.

    Raises:
        ValueError: as `store` does.

    Example:
        >>> from octavo._models.walk import replace
        >>> old, new = object(), "new"
        >>> replace({"a": (1, old)}, {id(old): new})
        {'a': (1, 'new')}
    """
    return store(_outside(root, mapping), lambda place: mapping.get(id(place.value), place.value))


def _outside(root: Any, mapping: Mapping[int, Any]) -> Iterator[Place]:
    """The places of a tree, without those that only what is to be replaced reaches."""
    return places(root, lambda place: id(place.value) in mapping, weak=True)


def _objects_outside(root: Any, mapping: Mapping[int, Any]) -> Iterator[Place]:
    """Where each object is first, without what is to be replaced and what only that reaches."""
    found = _outside(root, mapping)
    return (p for p in found if p.first is p and id(p.value) not in mapping)


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
    memo = dict(mapping)
    weak = False
    for place in _objects_outside(root, mapping):
        value = place.value
        if is_weak(value):
            weak, memo[id(value)] = True, value
        elif isinstance(value, weakref.WeakSet) and not hasattr(value, "__deepcopy__"):
            if type(value) is not weakref.WeakSet:
                raise TypeError(
                    f"cannot copy {label(place.path)} (type {_type_name(value)}): copy.deepcopy gives a class derived "
                    "from WeakSet the members of the original; define __deepcopy__ in it, or pass inplace=True"
                )
            memo[id(value)] = weakref.WeakSet(value)
        elif isinstance(value, types.ModuleType):
            memo[id(value)] = value
        elif isinstance(value, types.MethodType) and id(value.__self__) in mapping:
            # deepcopy would bind the old class's function to the replacement
            memo[id(value)] = _rebuilt(place, {"__self__": mapping[id(value.__self__)]})
    made = dict(memo)
    try:
        copied = copy.deepcopy(root, made)
    except RecursionError as error:
        raise ValueError(
            "the model is nested too deeply for copy.deepcopy; pass inplace=True, which needs no copy, or raise the "
            "limit with sys.setrecursionlimit"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        path, kind, reason = _uncopyable(root, memo) or ("", _type_name(root), str(error))
        raise TypeError(
            f"cannot copy {label(path)} (type {kind}): {reason}; "
            "define __deepcopy__ in its class or the one that holds it, or pass inplace=True"
        ) from error
    return store(places(copied, weak=True), lambda place: place.value, made) if weak else copied


def _uncopyable(root: Any, memo: Mapping[int, Any]) -> tuple[str, str, str] | None:
    """The path and type of what copy.deepcopy fails on by itself, its parts being left alone, and why."""
    for place in _objects_outside(root, memo):
        value = place.value
        if is_weak(value) or (type(value) is np.ndarray and value.dtype != object):
            continue
        try:
            copy.deepcopy(value, {id(part.value): part.value for part in parts_of(value)})
        except Exception as error:
            return place.path, _type_name(value), str(error)
    return None


def _type_name(value: Any) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"
