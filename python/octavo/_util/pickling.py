"""How pickles name things: by the package alone, so that modules can move."""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["as_of", "pickled"]

_Named = TypeVar("_Named", bound=Any)


def as_of(thing: Any, module: str) -> None:
    """Lets a class or function name `module` as its own, in pickles and in messages."""
    thing.__module__ = module


def pickled(thing: _Named) -> _Named:
    """A decorator for what pickles name and users do not: octavo.NAME finds it by the table in `octavo._pickles`."""
    as_of(thing, "octavo")
    return thing
