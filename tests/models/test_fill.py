"""Names of what a model holds."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

import numpy as np
import pytest

from models import Model, Pair
from octavo._models.fill import Filling, Resolver, fill, holds, survey


class Thing:
    """What is looked for."""


def is_thing(value: Any) -> bool:
    return type(value) is Thing


def names_of(root: Any) -> list[str]:
    return list(survey(root, is_thing)[0])


PLACES = {
    "attribute": (lambda t: Model(a=t), "a"),
    "dict": (lambda t: {"a b": {3: t}}, "a b.3"),
    "key with quotes": (lambda t: {"it's": t}, "it's"),
    "other keys": (lambda t: {None: [{1.5: t}]}, "None.0.1.5"),
    "object array": (lambda t: np.array([[None, t]], object), "0, 1"),
    "namedtuple": (lambda t: Pair([t], 1), "fc.0"),
    "deque": (lambda t: deque([1, t]), "1"),
    "partial": (lambda t: partial(print, t, key=2), "args.0"),
    "the model itself": (lambda t: t, ""),
}


@pytest.mark.parametrize("kind", PLACES)
def test_name_of_a_place(kind: str) -> None:
    make, name = PLACES[kind]
    assert names_of(make(Thing())) == [name]


@pytest.mark.parametrize("kind", [kind for kind in PLACES if kind != "the model itself"])
def test_fill_finds_the_place_of_that_name(kind: str) -> None:
    make, name = PLACES[kind]
    new = Thing()
    root, result = fill(make(Thing()), {name: new}, {}, is_thing, strict=True)
    assert result == Filling()
    assert survey(root, is_thing)[0] == {name: new}


def test_first_name_is_that_of_walk_and_the_others_are_aliases() -> None:
    t = Thing()
    found, aliases = survey({"b": [t], "a": t, "c": Model(t=t)}, is_thing)
    assert found == {"b.0": t}
    assert aliases == {"a": "b.0", "c.t": "b.0"}


def test_holders_without_things_have_no_aliases() -> None:
    empty = Model()
    assert survey([empty, empty, Thing()], is_thing)[1] == {}


def test_holders_of_things_have_aliases_and_cycles_have_none() -> None:
    block = Model(t=Thing())
    block.itself = block
    assert survey([block, block], is_thing)[1] == {"1": "0"}


@pytest.mark.parametrize(
    ("name", "found"),
    [("a", "a"), ("b", "a"), ("c.b", "d.e"), ("c.c", None), ("cc", None), ("", None), ("x.y", None), ("h.k", "a")],
)
def test_resolver(name: str, found: str | None) -> None:
    aliases = {"b": "a", "c": "f", "f.b": "d.e", "x": "x.x", "h": ""}
    assert Resolver({"a": 1, "d.e": 2, "k": 3}, aliases | {"k": "a"}).find(name) == ("k" if name == "h.k" else found)


def test_resolver_ends_where_aliases_go_round() -> None:
    assert Resolver({}, {"a": "b", "b": "a", "c": "c.c.c"}).find("a.x.c.c.c") is None
    assert Resolver({}, {"c": "c.c.c"}).find("c.c.c.c") is None


def test_holds() -> None:
    names = ["a", "b.c", "b-d"]
    assert [holds(sorted(names), prefix) for prefix in ("a", "b", "b.c", "c", "b.")] == [True, True, True, False, False]


def test_names_that_two_things_would_share_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\['a\.b'\] and model\.a\.b would both be stored as 'a\.b'"):
        survey({"a.b": Thing(), "a": {"b": Thing()}}, is_thing)
