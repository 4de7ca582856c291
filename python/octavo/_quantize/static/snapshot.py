"""What the layers of a prepared model have seen, kept so that a failed step can be taken back."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from octavo._quantize.static.observed import Prepared

__all__ = ["Snapshot"]

_UNSET = object()
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: of classes that Python code defines


class Snapshot:
    """The state of prepared layers, with all that they watch, and of observers of any class.

    `nbytes` is what it keeps of observers that are not octavo's. An observer that cannot be copied is a TypeError.
    """

    def __init__(self, layers: Iterable[Prepared], observers: Iterable[Any] = ()) -> None:
        owners = [owner for layer in layers for owner in (layer, *layer.watched())]
        self._owners = [(owner, _shallow(vars(owner))) for owner in owners]
        found = [vars(owner)["observer"] for owner in owners if "observer" in vars(owner)]
        # What an observer holds of another, or of a layer, is that very object, not a copy.
        self._known = {id(thing): thing for thing in (*owners, *found, *observers)}
        unique = {id(observer): observer for observer in (*found, *observers)}.values()
        memo = dict(self._known)
        self._observers = [(observer, _copied(observer, memo)) for observer in unique if _is_octavos(observer)]
        start = len(memo)
        self._observers += [(observer, _copied(observer, memo)) for observer in unique if not _is_octavos(observer)]
        self.nbytes = sum(map(sys.getsizeof, islice(memo.values(), start, None)))

    def restore(self) -> None:
        """Takes back all that has been seen since then. It can be done again later."""
        for owner, state in self._owners:
            vars(owner).clear()
            vars(owner).update(_shallow(state))
        memo = dict(self._known)
        for observer, kept in self._observers:
            attributes, slots = copy.deepcopy(kept, memo)
            if attributes is not None:
                vars(observer).clear()
                vars(observer).update(attributes)
            for slot in _slots(observer):
                if slot in slots:
                    object.__setattr__(observer, slot, slots[slot])
                elif _read(observer, slot) is not _UNSET:
                    object.__delattr__(observer, slot)


State = tuple[dict[str, Any] | None, dict[str, Any]]  # what __dict__ holds, and what slots hold


def _shallow(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.copy() if isinstance(value, list) else value for name, value in state.items()}


def _is_octavos(observer: Any) -> bool:
    return type(observer).__module__.partition(".")[0] == "octavo"


def _read(observer: Any, name: str) -> Any:
    """What it holds itself, past a __getattr__ of its class."""
    try:
        return object.__getattribute__(observer, name)
    except AttributeError:
        return _UNSET


def _slots(observer: Any) -> Iterator[str]:
    for kind in type(observer).__mro__:
        names = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            private = name.startswith("__") and not name.endswith("__")
            if name not in ("__dict__", "__weakref__"):
                yield f"_{kind.__name__.lstrip('_')}{name}" if private else name


def _copied(observer: Any, memo: dict[int, Any]) -> State:
    remedy = "keep what it sees in attributes that can be copied"
    if native := [kind.__name__ for kind in type(observer).__mro__[:-1] if not kind.__flags__ & _HEAP_TYPE]:
        raise TypeError(f"what {type(observer).__name__} keeps as a {native[0]} cannot be taken back; {remedy}")
    slots = {slot: value for slot in _slots(observer) if (value := _read(observer, slot)) is not _UNSET}
    attributes = _read(observer, "__dict__")
    try:
        found: State = copy.deepcopy((None if attributes is _UNSET else attributes, slots), memo)
    except Exception as error:
        raise TypeError(
            f"what {type(observer).__name__} has seen cannot be taken back, as it cannot be copied "
            f"({type(error).__name__}: {error}); {remedy}"
        ) from error
    return found
