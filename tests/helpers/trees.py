"""Objects of every kind that hold a layer, for the tests of octavo._models."""

from __future__ import annotations

import functools
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from octavo._models.walk import walk


class Layer:
    """What is replaced in these tests. Copying one is an error: replaced layers never are."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def forward(self) -> str:
        return f"old {self.name}"

    alias = forward

    def describe(self) -> str:
        return "old"

    def __deepcopy__(self, memo: dict[int, Any]) -> Layer:
        raise AssertionError("a replaced layer was copied")


class New:
    """What takes its place."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def forward(self) -> str:
        return f"new {self.name}"

    def __deepcopy__(self, memo: dict[int, Any]) -> New:
        raise AssertionError("a replacement was copied")


class Plain:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


class Slotted:
    __slots__ = ("layer", "unset")

    def __init__(self, layer: Any) -> None:
        self.layer = layer


class SlottedChild(Slotted):
    __slots__ = ("__private", "other")

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.__private = layer
        self.other = [layer]

    def private(self) -> Any:
        return self.__private


class OneSlot:
    __slots__ = "layer"

    def __init__(self, layer: Any) -> None:
        self.layer = layer


@dataclass(frozen=True)
class Frozen:
    layer: Any


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    layer: Any


class Guarded:
    """Refuses plain attribute assignment."""

    def __init__(self, layer: Any) -> None:
        object.__setattr__(self, "layer", layer)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("read-only")


class Listed(list):
    pass


class Tagged(tuple):
    pass


Pair = namedtuple("Pair", ["first", "second"])


def tagged(layer: Any) -> Tagged:
    pair = Tagged((1, layer))
    pair.layer = layer
    return pair


def object_array(layer: Any) -> np.ndarray:
    a = np.empty((2, 2), object)
    a[0, 1] = layer
    return a


def listed(layer: Any) -> Listed:
    items = Listed([layer])
    items.extra = layer
    return items


def call(layer: Any) -> Any:
    return layer.forward()


# name -> (a holder of the layer, the paths of the layer in it)
HOLDERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "attribute": (lambda f: Plain(fc=f), "fc"),
    "slots": (Slotted, "layer"),
    "slots-inherited-and-private": (SlottedChild, "layer"),
    "slots-string": (OneSlot, "layer"),
    "frozen-dataclass": (Frozen, "layer"),
    "frozen-slots-dataclass": (FrozenSlots, "layer"),
    "guarded-setattr": (Guarded, "layer"),
    "list": (lambda f: [0, f], "1"),
    "list-subclass-with-attribute": (listed, "0"),
    "tuple": (lambda f: ("a", f), "1"),
    "tuple-subclass-with-attribute": (tagged, "1"),
    "namedtuple": (lambda f: Pair(1, f), "second"),
    "nested-tuples": (lambda f: (((f,), 1), [2]), "0.0.0"),
    "dict": (lambda f: {"out": f}, "out"),
    "dict-int-key": (lambda f: {3: f}, "3"),
    "dict-object-key": (lambda f: {Pair(1, 2): f}, "<Pair>"),
    "OrderedDict": (lambda f: OrderedDict(a=1, b=f), "b"),
    "defaultdict": (lambda f: defaultdict(list, a=f), "a"),
    "UserDict": (lambda f: UserDict(a=f), "data.a"),
    "deque": (lambda f: deque([1, f], maxlen=2), "1"),
    "set": (lambda f: {1, f}, "{}"),
    "frozenset": (lambda f: [frozenset([f])], "0.{}"),
    "object-array": (object_array, "[0, 1]"),
    "partial": (lambda f: functools.partial(call, f), "args.0"),
    "partial-keyword": (lambda f: functools.partial(call, layer=f), "keywords.layer"),
    "partial-func": (lambda f: functools.partial(f.forward), "func.__self__"),
    "bound-method": (lambda f: [f.forward], "0.__self__"),
    "deep-mix": (lambda f: Plain(blocks=[{"a": (Frozen(Pair(f, 0)),)}]), "blocks.0.a.0.layer.first"),
}
holders = pytest.mark.parametrize(("hold", "path"), HOLDERS.values(), ids=HOLDERS.keys())


def objects(root: Any) -> list[Any]:
    return [value for _, value in walk(root)]


def held(root: Any, cls: type) -> int:
    return sum(type(value) is cls for value in objects(root))


def shape(root: Any) -> list[tuple[str, str]]:
    """Paths and types, with the layer and its replacement taken for the same."""
    return [(path, type(value).__name__.replace("Layer", "New")) for path, value in walk(root)]


def linked_list(n: int) -> Plain:
    node = Plain(layer=Layer())
    for _ in range(n - 1):
        node = Plain(next=node)
    return node


def state(model: Any) -> list[tuple[str, int]]:
    """Which object is where; sorted, because a set may give its members in another order."""
    return sorted((path, id(value)) for path, value in walk(model))
