"""What a model holds, by the names that files use; and putting stored things back where these names lead.

A name is a path spelled with dots alone, see `paths.py`. A thing that is held in several places is stored under its
first name, in the order of `walk`; its other names are aliases. Members of sets have no name of their own.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from octavo._models.containers import attributes, entered_or_none, parts_of
from octavo._models.paths import dotted
from octavo._models.walk import Place, label, places, store
from octavo._models.weak import is_weak

__all__ = ["Filling", "Fit", "Resolver", "fill", "held_by_name", "holds", "survey"]

_CONTAINERS = (dict, list, tuple, set, frozenset)


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
    found: dict[str, Place] = {}
    aliases: dict[str, Place] = {}
    for place in places(root, lambda place: stored(place.value)):
        name = place.name
        if place.first is not place:
            if name is not None:
                aliases.setdefault(name, place)
        elif stored(place.value):
            if name is None:
                raise ValueError(
                    f"{label(place.path)} is in a set, which gives it no name; hold it in a list or a dict too"
                )
            if name in found:
                raise _clash(name, found[name], place)
            found[name] = place
    names = sorted(found)
    kept = {}
    for alias, place in aliases.items():
        first = place.first.name or ""
        if alias in found and found[alias] is not found.get(first):
            raise _clash(alias, found[alias], place)
        # A holder within itself is a cycle of the model, and needs no name.
        cycle = first not in found and alias.startswith(f"{first}." if first else "")
        if alias != first and not cycle and holds(names, first):
            kept[alias] = first
    return {name: place.value for name, place in found.items()}, kept


def _clash(name: str, one: Place, other: Place) -> ValueError:
    return ValueError(f"{label(one.path)} and {label(other.path)} would both be stored as {name!r}; rename one of them")


def holds(names: Sequence[str], prefix: str) -> bool:
    """Whether one of the sorted names is, or lies within, the prefix."""
    at = bisect.bisect_left(names, prefix)
    within = bisect.bisect_left(names, f"{prefix}.")
    return (at < len(names) and names[at] == prefix) or (within < len(names) and names[within].startswith(f"{prefix}."))


class Resolver:
    """Finds the known name that a name stands for: the same one, or that to which an alias of a part of it leads.

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
    """What `fill` found: names the file lacks, names the model has no place for, what does not fit, and what was
    converted to fit, with the reason.
    """

    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    converted: dict[str, str] = field(default_factory=dict)


class Fit(NamedTuple):
    """What becomes of a stored thing in the place of what the model has.

    Attributes:
        new: what is put there.
        misfit: why nothing can be put there.
        lost: attributes of what gives way, arrays for which the stored thing has no values.
        converted: why it is a copy with other values.
    """

    new: Any
    misfit: str | None = None
    lost: tuple[str, ...] = ()
    converted: str | None = None


def held_by_name(root: Any, stored: Callable[[Any], bool]) -> dict[str, Any]:
    """All that has a name in a model: holders, what is to be stored, and None.

    Example:
        >>> from octavo._models.fill import held_by_name
        >>> held_by_name({"a": {"b": None}}, lambda value: False)
        {'': {'a': {'b': None}}, 'a': {'b': None}, 'a.b': None}
    """
    found = _places_or_none(root, lambda place: stored(place.value))
    return {place.name: place.value for place in found if place.name is not None}


def _places_or_none(root: Any, stop: Callable[[Place], bool], *, weak: bool = False) -> Iterator[Place]:
    """Places with None among them. Tuples that hold None count once for each place: Python makes them one object."""
    parts = partial(parts_of, entered=entered_or_none)
    hollow: dict[int, bool] = {}

    def is_hollow(value: Any) -> bool:
        if not isinstance(value, tuple):
            return False
        if id(value) not in hollow:
            within = places(value, lambda place: not isinstance(place.value, tuple), parts)
            hollow[id(value)] = any(place.value is None for place in within)
        return hollow[id(value)]

    return places(root, stop, parts, again=is_hollow, weak=weak)


class _Matches:
    """Which stored thing belongs where in a model."""

    def __init__(
        self,
        root: Any,
        items: Mapping[str, Any],
        aliases: Mapping[str, str],
        stored: Callable[[Any], bool],
        fit: Callable[[Any, Any], Fit],
    ) -> None:
        self._items, self._stored, self._fit = items, stored, fit
        found = list(_places_or_none(root, lambda place: stored(place.value)))
        self.places = {place.name: place.value for place in found if place.name is not None}
        own_aliases = {
            place.name: place.first.name
            for place in found
            if place.first is not place and place.name and place.first.name is not None
        }
        # The file may know a shared object by a name that is not the first one here.
        own = Resolver({name: v for name, v in self.places.items() if name not in own_aliases}, own_aliases)
        self._own = {lies: name for name in items if name not in self.places and (lies := own.find(name)) is not None}
        self._files = Resolver(items, aliases)
        self.matched = {name: item for name in self.places if (item := self._lookup(name)) is not None}
        claims: dict[int, set[str]] = {}
        for place in found:
            if place.name in self.matched and place.value is not None:
                claims.setdefault(id(place.value), set()).add(self.matched[place.name])
        # What gives way does so wherever the model holds it: in a set, as the owner of a method.
        self._by_id = {key: min(names) for key, names in claims.items() if len(names) == 1}
        self._fits: dict[tuple[str, int], Fit] = {}
        self.found = list(_places_or_none(root, lambda p: self.item(p) is not None or stored(p.value), weak=True))

    def _lookup(self, name: str) -> str | None:
        found = self._files.find(name)
        return self._own.get(name) if found is None else found

    def item(self, place: Place) -> str | None:
        """The name of the stored thing that belongs there."""
        if is_weak(place.value):
            return None
        if place.name in self.matched:
            return self.matched[place.name]
        return None if place.value is None else self._by_id.get(id(place.value))

    def fit(self, place: Place) -> Fit:
        """What becomes of the stored thing there: one answer for each object that gives way."""
        name = self.item(place)
        if name is None:
            return Fit(place.value)
        key = name, id(place.value)
        if key not in self._fits:
            self._fits[key] = self._fit(place.value, self._items[name])
        return self._fits[key]

    def missing(self) -> list[str]:
        """Places that should have been filled: arrays, layers of octavo, objects of a kind that is filled elsewhere."""
        served = {type(self.places[name]) for name in self.matched}
        filled_holders = {name.rpartition(".")[0] for name in self.matched}
        empty: dict[str, type] = {}
        missing = []
        for place in self.found:
            name, value = place.name, place.value
            if name is None or place.first is not place or value is None or is_weak(value):
                continue
            if self.item(place) is not None:
                continue
            if self._stored(value):
                if isinstance(value, np.ndarray) or attributes(value):
                    missing.append(name)
            elif name in filled_holders:
                served.add(type(value))
            elif not isinstance(value, _CONTAINERS) and any(held is None for held in attributes(value).values()):
                empty[name] = type(value)
        return sorted(missing + [name for name, cls in empty.items() if cls in served])


def fill(
    root: Any,
    items: Mapping[str, Any],
    aliases: Mapping[str, str],
    stored: Callable[[Any], bool],
    *,
    strict: bool,
    fit: Callable[[Any, Any], Fit] = lambda old, new: Fit(new),
) -> tuple[Any, Filling]:
    """Puts stored things into a model, in place: all of them or, with an error, none.

    Args:
        root: the model. What is at a stored name gives way: a layer, an array, or None.
        items, aliases: what the file holds.
        stored: as for `survey`.
        strict: change nothing where a name is missing or extra.
        fit: what becomes of a stored thing (the second argument) in the place of what the model has (the first).

    Returns:
        (the model - another object where it is a layer or a tuple itself -, what did not match). Where something
        does not fit, nothing was changed.

    Raises:
        ValueError: something cannot be stored at its place.

    Example:
        >>> import numpy as np
        >>> from octavo._models.fill import fill
        >>> fill({"a": None, "b": [None]}, {"b.0": np.zeros(1)}, {}, lambda v: isinstance(v, np.ndarray), strict=True)
        ({'a': None, 'b': [array([0.])]}, Filling(missing=[], extra=[], misfits=[], converted={}))
    """
    if isinstance(root, dict) and "" in root and "" in items:
        items = {dotted("['']") if name == "" else name: item for name, item in items.items()}  # 0.1.0 called it that
    matches = _Matches(root, items, aliases, stored, fit)
    result = Filling(matches.missing())
    taken = [place for place in matches.found if matches.item(place) is not None]
    used = {matches.item(place) for place in taken}  # without things whose place lies inside what gives way
    result.extra = [name for name in items if name not in used]
    for place in {id(matches.fit(place)): place for place in reversed(taken)}.values():
        name, fitted = place.name or "", matches.fit(place)
        if fitted.misfit:
            result.misfits.append(f"{name or 'the model'}: {fitted.misfit}")
        if fitted.converted:
            result.converted[name] = fitted.converted
        result.missing += [f"{name}.{lost}" if name else lost for lost in fitted.lost]
    result.misfits.sort()
    result.missing.sort()
    if result.misfits or (strict and (result.missing or result.extra)):
        return root, result
    return store(matches.found, lambda place: matches.fit(place).new), result
