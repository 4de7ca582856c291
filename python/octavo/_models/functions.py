"""What replacing does not reach: functions, and weak references to objects outside the model."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any

from octavo._models.containers import IMMUTABLE, Part, captured, parts_of
from octavo._models.walk import places
from octavo._models.weak import is_weak, referent

__all__ = ["stale_references"]


def stale_references(root: Any, mapping: Mapping[int, Any], *, inplace: bool) -> list[tuple[str, str]]:
    """What in the tree will go on using an object of the mapping after it was replaced.

    Functions are neither copied nor changed. After `replace`, one that captured a mutable holder of the tree finds the
    replacement there; after `copy_with` it still finds the original. So does a weak reference that leads out of the
    tree to something that leads back into it.

    Args:
        root, mapping: as for `replace` and `copy_with`.
        inplace: which of the two.

    Returns:
        (path of the function, name of its variable), for closures, default arguments and attributes; (path, "") for a
        weak reference.

    Example:
        >>> from octavo._models.functions import stale_references
        >>> layer = object()
        >>> stale_references([layer, lambda x, f=layer: f(x)], {id(layer): None}, inplace=True)
        [('1', 'f')]
    """
    found = list(places(root, lambda place: id(place.value) in mapping, weak=True))
    own = {id(place.value) for place in found}
    updated = (
        {id(p.value) for p in found if not issubclass(type(p.value), IMMUTABLE)} - mapping.keys() if inplace else set()
    )

    def reaches(value: Any) -> bool:
        value = referent(value) if is_weak(value) else value
        reached = places(value, lambda p: id(p.value) in mapping or id(p.value) in updated, _parts_and_captured)
        return any(id(place.value) in mapping for place in reached)

    stale = []
    for place in found:
        if is_weak(place.value):
            target = referent(place.value)
            if id(target) not in own and reaches(target):
                stale.append((place.path, ""))
        elif isinstance(place.value, types.FunctionType) and place.first is place:
            stale += [(place.path, str(part.key)) for part in captured(place.value) if reaches(part.value)]
    return stale


def _parts_and_captured(value: Any) -> Iterator[Part]:
    for part in captured(value) if isinstance(value, types.FunctionType) else parts_of(value):
        yield part._replace(value=referent(part.value)) if is_weak(part.value) else part
