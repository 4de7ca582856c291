"""A choice for each part of a model, by name, pattern and type: what `layers=`, `dtype=` and `qconfig=` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from octavo._models.paths import canonical, is_within, matches

__all__ = ["ByName"]

_T = TypeVar("_T")


class ByName(Generic[_T]):
    """What a part of a model gets: the first that is found by

        name > pattern > type > default

    None in place of a choice excludes the part, as does finding nothing. A name is a path ("blocks.3.fc1", or
    "blocks[3].fc1"); it also stands for everything inside, and the longest of several counts. In a pattern, * stands
    for any characters (dots and brackets too) and ? for one. A pattern must match the whole path, and the first of
    several counts. Types are matched exactly, without subclasses. The default has the name "".

    Example:
        >>> from octavo._quantize.by_name import ByName
        >>> choices = ByName[str]()
        >>> for key, value in {"": "int8", "blocks.*.down": "int4", "head": None}.items():
        ...     choices.put(key, value)
        >>> [choices.resolve(path, object) for path in ("blocks.0.up", "blocks.0.down", "head")]
        ['int8', 'int4', None]
    """

    def __init__(self) -> None:
        self._default: _T | None = None
        self._types: dict[type, _T | None] = {}
        self._patterns: dict[str, _T | None] = {}
        self._names: dict[str, _T | None] = {}

    def put(self, key: str | type, value: _T | None) -> None:
        """Sets the choice of a name, a pattern, a type, or of "", the default."""
        if isinstance(key, type):
            self._types[key] = value
        elif not key:
            self._default = value
        else:
            entries = self._patterns if "*" in key or "?" in key else self._names
            # One entry whatever the spelling; the first one's place is kept.
            spelt = next((known for known in entries if canonical(known) == canonical(key)), key)
            entries[spelt] = value

    def put_all(self, argument: str, entries: Mapping[Any, Any], check: Callable[[str | type, Any], _T | None]) -> None:
        """Sets what a dict says.

        Args:
            argument: what messages call the dict.
            entries: from names, patterns, types or "" to what `check` takes.
            check: given a key and its value, returns the choice or raises.

        Raises:
            TypeError: a key is neither a string nor a class.
        """
        for key, value in entries.items():
            if not isinstance(key, (str, type)):
                raise TypeError(
                    f"keys of {argument} must be names, patterns, layer classes or '' (the default), got {key!r}"
                )
            self.put(key, check(key, value))

    def resolve(self, path: str, kind: type) -> _T | None:
        """The choice for the part of type `kind` at `path`; None excludes it."""
        named, value = self.named(path)
        return value if named else self._types.get(kind, self._default)

    def named(self, path: str) -> tuple[bool, _T | None]:
        """Whether a name or a pattern stands for `path`, and its choice."""
        path = canonical(path)
        names = [name for name in self._names if is_within(path, name)]
        if names:
            return True, self._names[max(names, key=lambda name: len(canonical(name)))]
        for pattern, value in self._patterns.items():
            if matches(path, pattern):
                return True, value
        return False, None

    @property
    def default(self) -> _T | None:
        """The choice of what no entry stands for."""
        return self._default

    @property
    def types(self) -> dict[type, _T | None]:
        """The choices by type."""
        return dict(self._types)

    def values(self) -> list[_T]:
        """All choices but None."""
        return [value for value in self._entries().values() if value is not None]

    def unused(self, layers: Iterable[tuple[str, type]]) -> list[str]:
        """The names, patterns and types that match none of the layers: usually misspelt ones.

        Args:
            layers: (path, type) of each layer of the model.

        Returns:
            The entries as they were given; types by their names. The default is never among them.

        Example:
            >>> import octavo as oc
            >>> mapping = oc.as_mapping({"fc1": None, "fc3": None, "*.out": None})
            >>> mapping.unused([("fc1", oc.nn.Linear), ("fc2", oc.nn.Linear)])
            ['fc3', '*.out']
        """
        found = [(canonical(path), kind) for path, kind in layers]
        types = {kind for _, kind in found}
        names = [name for name in self._names if not any(is_within(path, name) for path, _ in found)]
        patterns = [glob for glob in self._patterns if not any(matches(path, glob) for path, _ in found)]
        return names + patterns + [kind.__name__ for kind in self._types if kind not in types]

    def _entries(self) -> dict[str | type, _T | None]:
        entries: dict[str | type, _T | None] = {"": self._default}
        entries.update(self._names)
        entries.update(self._patterns)
        entries |= dict(self._types.items())
        return entries

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ByName):
            return NotImplemented
        patterns = list(self._patterns.items()) == list(other._patterns.items())  # their order counts
        return type(self) is type(other) and self._entries() == other._entries() and patterns

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        entries = (f"{k.__name__ if isinstance(k, type) else repr(k)}: {v}" for k, v in self._entries().items())
        return f"{type(self).__name__}({{{', '.join(entries)}}})"
