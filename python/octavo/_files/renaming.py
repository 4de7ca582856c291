"""Names of a file as names of a model that calls things otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from octavo._models.paths import dotted

__all__ = ["every_alias", "renamed"]


def every_alias(items: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, str]:
    """From every other name of a stored thing to its first, where aliases may be those of what holds it.

    Example:
        >>> from octavo._files.renaming import every_alias
        >>> every_alias({"a.fc": ..., "b": ...}, {"c": "a", "d": "b"})
        {'c.fc': 'a.fc', 'd': 'b'}
    """
    return {
        alias + name.removeprefix(first): name
        for alias, first in aliases.items()
        for name in items
        if name == first or name.startswith(f"{first}.")
    }


def renamed(
    items: Mapping[str, Any], aliases: Mapping[str, str], rename: Mapping[str, str], prefix: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Both under the names that `load` makes of them.

    Raises:
        TypeError: a pattern, a name or the prefix is not text.
        ValueError: a pattern matches nothing, a name has more * than its pattern, or two things get one name.

    Example:
        >>> from octavo._files.renaming import renamed
        >>> renamed({"h.0.fc": 1, "wte": 2}, {"head": "wte"}, {"h.*": "blocks.*"}, "model.")
        ({'model.blocks.0.fc': 1, 'model.wte': 2}, {'model.head': 'model.wte'})
    """
    every = every_alias(items, aliases)
    new = dict(zip([*items, *every], _new_names([*items, *every], rename, prefix), strict=True))
    taken: dict[str, str] = {}
    for name in items:
        other = taken.setdefault(new[name], name)
        if other != name:
            raise ValueError(f"rename gives {other!r} and {name!r} one name, {new[name]!r}")
    found = {new[name]: item for name, item in items.items()}
    return found, {new[alias]: new[name] for alias, name in every.items() if new[alias] not in found}


def _new_names(names: list[str], rename: Mapping[str, str], prefix: str) -> list[str]:
    for text in (prefix, *rename, *rename.values()):
        if not isinstance(text, str):
            raise TypeError(f"prefix and rename must be text, such as {{'old.*': 'new.*'}}, got {text!r}")
    found = list(names)
    left = set(range(len(names)))
    for pattern, name in rename.items():
        if name.count("*") > pattern.count("*"):
            raise ValueError(f"rename[{pattern!r}] must have at most as many * as its pattern, got {name!r}")
        regex = "(.*)".join(map(re.escape, dotted(pattern).split("*")))
        matches = {i: match for i in left if (match := re.fullmatch(regex, names[i], re.DOTALL))}
        if not matches:
            known = ", ".join(names[:20])
            raise ValueError(f"rename: {pattern!r} matches no name of the file that is left; it has {known}")
        for i, match in matches.items():
            pieces, kept = dotted(name).split("*"), match.groups()
            found[i] = pieces[0] + "".join(a + b for a, b in zip(kept, pieces[1:], strict=False))
        left -= matches.keys()
    return [prefix + name if name else prefix.removesuffix(".") for name in found]
