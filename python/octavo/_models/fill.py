"""Names of what a model holds, as files use them, and putting stored things back where these names lead.

A name is the way from the model to the thing: attribute names, keys and indices joined by dots, "blocks.3.fc1" for
model.blocks[3].fc1 as for model["blocks"][3].fc1; the model itself is "". A thing that is held in several places goes
by its first name, in the order of `walk`; the others are aliases. Sets have no names: what they hold is known by where
else it is held.
"""

from __future__ import annotations

import ast
import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from octavo._models.containers import IMMUTABLE, LEAVES, attributes, entered_or_none, instance_dict, parts_of, rebuilt
from octavo._models.walk import label, put_together

__all__ = ["Filling", "Resolver", "fill", "holds", "survey"]

_CONTAINERS = (dict, list, tuple, set, frozenset)


class _Reference(NamedTuple):
    """One place of a model and what is there. The name is None behind a set."""

    name: str | None
    path: str
    value: Any
    first_name: str | None  # by which the value was found first
    again: bool  # whether it was found before


def _joined(name: str | None, suffix: str) -> str | None:
    if name is None or suffix == "{...}":
        return None
    key = suffix[1:] if suffix.startswith(".") else suffix[1:-1]
    if suffix.startswith(("['", '["')):
        key = ast.literal_eval(key)
    return f"{name}.{key}" if name else key


def _references(root: Any, stop: Callable[[str | None, Any], bool], *, none: bool) -> Iterator[_Reference]:
    """Every reference to every object, and with `none` to None; each object is entered once, named ways first."""
    seen: dict[int, tuple[str | None, Any]] = {}  # holding the objects keeps their ids from being given to others
    hollow: dict[int, bool] = {}
    named: list[tuple[str | None, str, Any]] = [("", "", root)]
    nameless: list[tuple[str | None, str, Any]] = []
    while named or nameless:
        name, path, value = (named or nameless).pop()
        if isinstance(value, LEAVES):
            if value is None:
                yield _Reference(name, path, None, name, False)
            continue
        again = id(value) in seen
        first, _ = seen.setdefault(id(value), (name, value))
        yield _Reference(name, path, value, first, again)
        # A tuple of Nones in the source code is one object wherever it stands, so each place of it counts.
        if (again and not (none and _is_hollow(value, hollow))) or stop(name, value):
            continue
        parts = list(parts_of(value, entered_or_none) if none else parts_of(value))
        for part in reversed(parts):
            place = _joined(name, part.suffix)
            inner = path + part.suffix if path else part.suffix.removeprefix(".")
            (nameless if place is None else named).append((place, inner, part.value))


def _is_hollow(value: Any, known: dict[int, bool]) -> bool:
    """Whether it is a tuple that holds None, itself or in its tuples."""
    if not isinstance(value, tuple):
        return False
    if id(value) not in known:
        known[id(value)] = any(item is None or _is_hollow(item, known) for item in value)
    return known[id(value)]


def survey(root: Any, stored: Callable[[Any], bool]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a model holds of the things that are to be stored.

    Args:
        root: the model.
        stored: whether an object is one of them. These are not entered.

    Returns:
        (object by name, first name by alias): aliases of the objects, and of holders of some.

    Raises:
        ValueError: two things have the same name, or one is held by sets alone.

    Example:
        >>> from octavo._models.fill import survey
        >>> a, b = 1j, [2j]
        >>> survey({"x": {"y": [(), []]}, "z": []}, lambda value: type(value) is list and not value)
        ({'x.y.1': [], 'z': []}, {})
    """
    found: dict[str, Any] = {}
    paths: dict[str, str] = {}
    aliases: dict[str, tuple[str, str]] = {}
    for name, path, value, first, again in _references(root, lambda _, v: stored(v), none=False):
        if again:
            if name is not None and first is not None:
                aliases.setdefault(name, (first, path))
        elif stored(value) and name not in found:
            if name is None:
                raise ValueError(f"{label(path)} is in a set, which gives it no name; hold it in a list or a dict too")
            found[name], paths[name] = value, path
        elif stored(value) and name is not None and found[name] is not value:
            raise ValueError(
                f"{label(paths[name])} and {label(path)} would both be stored as {name!r}; rename one of them"
            )
    names = sorted(found)
    kept = {}
    for alias, (first, path) in aliases.items():
        if alias in found and found[alias] is not found.get(first):
            raise ValueError(
                f"{label(paths[alias])} and {label(path)} would both be stored as {alias!r}; rename one of them"
            )
        # A holder within itself is a cycle of the model, and needs no name.
        cycle = first not in found and alias.startswith(f"{first}." if first else "")
        if alias != first and not cycle and holds(names, first):
            kept[alias] = first
    return found, kept


def holds(names: Sequence[str], prefix: str) -> bool:
    """Whether one of the sorted names is, or lies within, the prefix."""
    at = bisect.bisect_left(names, prefix)
    within = bisect.bisect_left(names, f"{prefix}.")
    return (at < len(names) and names[at] == prefix) or (within < len(names) and names[within].startswith(f"{prefix}."))


class Resolver:
    """Finds the known name that a name stands for, by itself or through aliases of what it lies in.

    Example:
        >>> from octavo._models.fill import Resolver
        >>> Resolver({"a.fc": ...}, {"b": "a"}).find("b.fc")
        'a.fc'
    """

    def __init__(self, known: Mapping[str, Any], aliases: Mapping[str, str]) -> None:
        self._known, self._aliases = known, aliases
        self._lengths = sorted({len(alias) for alias in aliases}, reverse=True)

    def find(self, name: str) -> str | None:
        """The known name; None where there is none."""
        if name in self._known:
            return name
        for _ in range(name.count(".") + 1):  # an alias leads to a first name, so what follows gets shorter each time
            length = next(
                (n for n in self._lengths if name[n : n + 1] in (".", "") and name[:n] in self._aliases), None
            )
            if length is None:
                return None
            name = (self._aliases[name[:length]] + name[length:]).removeprefix(".")
            if name in self._known:
                return name
        return None


@dataclass
class Filling:
    """What `fill` found: names the file lacks, names the model has no place for, and what does not fit."""

    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)


class _Skeleton:
    """A model together with the stored things that belong into it."""

    def __init__(
        self, root: Any, items: Mapping[str, Any], aliases: Mapping[str, str], stored: Callable[[Any], bool]
    ) -> None:
        self.root, self.items, self.stored = root, items, stored
        references = list(_references(root, lambda _, v: stored(v), none=True))
        own_aliases = {r.name: r.first_name for r in references if r.again and r.name and r.first_name is not None}
        places = {r.name: r.value for r in references if r.name is not None}
        # A file may use another of a shared object's names than comes first here.
        own = Resolver(_without(places, own_aliases), own_aliases)
        self._own = {place: name for name in items if name not in places and (place := own.find(name)) is not None}
        self._files = Resolver(items, aliases)
        self.matched = {place: item for place in places if (item := self.lookup(place)) is not None}
        self.places = places
        self.by_id: dict[int, str] = {}
        claims: dict[int, set[str]] = {}
        for reference in references:
            item = None if reference.name is None else self.matched.get(reference.name)
            if item is not None and reference.value is not None:
                claims.setdefault(id(reference.value), set()).add(item)
        self.by_id = {key: min(names) for key, names in claims.items() if len(names) == 1}

    def lookup(self, place: str | None) -> str | None:
        """The name of the stored thing that belongs there."""
        if place is None:
            return None
        found = self._files.find(place)
        return self._own.get(place) if found is None else found

    def taken(self, place: str | None, value: Any) -> bool:
        return self.lookup(place) is not None or (value is not None and id(value) in self.by_id)

    def new(self, place: str | None, value: Any) -> Any:
        """What belongs there: a stored thing, a tuple that holds some, or what is there."""
        name = self.lookup(place)
        if name is None and value is not None:
            name = self.by_id.get(id(value))
        if name is not None:
            return self.items[name]
        return self._rebuilt(place, value) if isinstance(value, IMMUTABLE) else value

    def _rebuilt(self, place: str | None, value: Any) -> Any:
        parts = {part.suffix: part.value for part in parts_of(value, entered_or_none)}
        news = {suffix: self.new(_joined(place, suffix), held) for suffix, held in parts.items()}
        if all(news[suffix] is parts[suffix] for suffix in parts):
            return value
        if not isinstance(value, tuple):
            by_old = {id(parts[suffix]): news[suffix] for suffix in parts}
            return rebuilt(value, lambda held: by_old.get(id(held), held))
        fields = getattr(value, "_fields", None)
        suffixes = [f".{fields[i]}" if fields else f"[{i}]" for i in range(len(value))]
        built = tuple.__new__(
            type(value), [news.get(suffix, item) for suffix, item in zip(suffixes, value, strict=True)]
        )
        own = instance_dict(value)
        if own:
            vars(built).update({name: news.get(f".{name}", item) for name, item in own.items()})
        return built


def _without(places: dict[str, Any], aliases: dict[str, str]) -> dict[str, Any]:
    return {name: value for name, value in places.items() if name not in aliases}


def fill(
    root: Any,
    items: Mapping[str, Any],
    aliases: Mapping[str, str],
    stored: Callable[[Any], bool],
    *,
    strict: bool,
) -> tuple[Any, Filling]:
    """Puts stored things into a model, in place: all of them or, with an error, none.

    Args:
        root: the model. What is at a stored name gives way: a layer, an array, or None.
        items, aliases: what the file holds.
        stored: as for `survey`.
        strict: change nothing where a name is missing or extra.

    Returns:
        (the model - another object where it is a layer or a tuple itself -, what did not match). Where something
        does not fit, nothing was changed.

    Raises:
        ValueError: something cannot be stored at its place.

    Example:
        >>> import numpy as np
        >>> from octavo._models.fill import fill
        >>> fill({"a": None, "b": [None]}, {"b.0": np.zeros(1)}, {}, lambda v: isinstance(v, np.ndarray), strict=True)
        ({'a': None, 'b': [array([0.])]}, Filling(missing=[], extra=[], misfits=[]))
    """
    skeleton = _Skeleton(root, items, aliases, stored)
    used = set(skeleton.matched.values())
    result = Filling(_missing(skeleton), [name for name in items if name not in used])
    for place, name in skeleton.matched.items():
        if text := _misfit(skeleton.places[place], items[name]):
            result.misfits.append(f"{place or 'the model'}: {text}")
    if result.misfits or (strict and (result.missing or result.extra)):
        return root, result
    try:
        return _put_all(skeleton), result
    except RecursionError:
        raise ValueError("the model holds tuples nested too deeply to be built anew; use lists") from None


def _put_all(skeleton: _Skeleton) -> Any:
    changes = []
    for name, path, holder, _, again in _references(skeleton.root, skeleton.taken, none=True):
        if holder is None or again or isinstance(holder, IMMUTABLE):
            continue
        if skeleton.taken(name, holder) or skeleton.stored(holder):
            continue
        for part in parts_of(holder, entered_or_none):
            new = skeleton.new(_joined(name, part.suffix), part.value)
            if new is not part.value and part.put is not None:
                changes.append(((path + part.suffix).removeprefix("."), part.put, part.value, new))
    root = skeleton.new("", skeleton.root)
    put_together(changes, "store at")
    return root


def _missing(skeleton: _Skeleton) -> list[str]:
    """Places that should have been filled: arrays, layers of octavo, objects of a kind that is filled elsewhere."""
    served: set[type] = set()
    empty: dict[str, type] = {}
    missing = []
    filled_holders = set()
    for place in skeleton.matched:
        value = skeleton.places[place]
        served.add(type(value))
        filled_holders.add(place.rpartition(".")[0] if "." in place else "")
    for name, _, value, _, again in _references(skeleton.root, skeleton.taken, none=True):
        if name is None or again or value is None or skeleton.taken(name, value):
            continue
        if skeleton.stored(value):
            if isinstance(value, np.ndarray) or attributes(value):
                missing.append(name)
        elif name in filled_holders:
            served.add(type(value))
        elif not isinstance(value, _CONTAINERS) and any(held is None for held in attributes(value).values()):
            empty[name] = type(value)
    return sorted(missing + [name for name, cls in empty.items() if cls in served])


# What embeddings and recurrent layers are told apart by: their attributes.
_SIZES = (("num_embeddings", "embedding_dim"), ("input_size", "hidden_size", "num_layers", "bidirectional", "gates"))


def _other_sizes(old: Any, new: Any, needed: dict[str, Any]) -> str | None:
    stated = {name: getattr(old, name, None) for name in needed}
    if set(stated.values()) == {None}:
        held = [a for a in attributes(old).values() if isinstance(a, np.ndarray)]
        weight = getattr(old, "weight", None)
        if isinstance(weight, np.ndarray):  # an embedding of the user's own
            stated = dict(zip(needed, weight.shape, strict=False))
        elif not held:
            return None
    if stated == needed:
        return None
    shown = ", ".join(f"{name}={value}" for name, value in needed.items())
    return f"the model has a {type(old).__name__}, the file a {type(new).__name__} with {shown}"


def _misfit(old: Any, new: Any) -> str | None:
    """Why the new cannot take the place of the old; None where it can."""
    if old is None:
        return None
    if isinstance(old, _CONTAINERS):
        return f"the model has a {type(old).__name__}, the file a {type(new).__name__}"
    if isinstance(new, np.ndarray):
        if not isinstance(old, np.ndarray):
            return f"the model has a {type(old).__name__}, the file an array of shape {new.shape}"
        return None if old.shape == new.shape else f"the model has shape {old.shape}, the file {new.shape}"
    if hasattr(new, "shape") and hasattr(old, "shape") and old.shape != new.shape:
        return f"the model has shape {old.shape}, the file a {type(new).__name__} of shape {new.shape}"
    for names in _SIZES:
        needed = {name: getattr(new, name, None) for name in names}
        if None not in needed.values():
            return _other_sizes(old, new, needed)
    features = getattr(new, "out_features", None), getattr(new, "in_features", None)
    if None in features:
        return None
    stated = getattr(old, "out_features", None), getattr(old, "in_features", None)
    if any(type(has) is int and has != needs for has, needs in zip(stated, features, strict=True)):
        return f"the model has a layer {stated[1]} -> {stated[0]}, the file one {features[1]} -> {features[0]}"
    arrays = [old] if isinstance(old, np.ndarray) else attributes(old).values()
    shapes = [a.shape for a in arrays if isinstance(a, np.ndarray) and a.ndim == 2]
    if shapes and not {features, features[::-1]} & set(shapes):
        return f"the model has weights of shape {shapes[0]}, the file {features} (out, in)"
    return None
