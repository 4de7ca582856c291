"""tree: copying with replacements, functions that are not reached, snapshots."""

from __future__ import annotations

import copy
import functools
import threading
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from octavo._models.containers import attributes
from octavo._models.functions import stale_references
from octavo._models.snapshot import restore, snapshot
from octavo._models.walk import copy_with, walk
from trees import Layer, New, OneSlot, Plain, Slotted, call, held, holders, linked_list, objects, shape, state

# copy_with


@holders
def test_copy_with_replaces_and_leaves_original(hold: Callable[[Any], Any], path: str) -> None:
    layer, new = Layer(), New()
    model = hold(layer)
    before = state(model)
    copied = copy_with(model, {id(layer): new})
    assert copied is not model
    assert held(copied, Layer) == 0
    assert [p for p, value in walk(copied) if value is new] == [path]
    assert shape(copied) == shape(model)
    assert state(model) == before


def test_copy_with_of_root_gives_replacement() -> None:
    layer, new = Layer(), New()
    assert copy_with(layer, {id(layer): new}) is new
    assert copy_with(layer.forward, {id(layer): new}).__self__ is new


def test_copy_with_keeps_sharing_and_cycles() -> None:
    layer, new = Layer(), New()
    model = Plain(a=layer, b=[layer], shared=[1])
    model.again, model.me = model.shared, model
    copied = copy_with(model, {id(layer): new})
    assert copied.a is copied.b[0] is new
    assert copied.again is copied.shared is not model.shared
    assert copied.me is copied


def test_copy_with_rebinds_methods_of_replaced_and_copied_objects() -> None:
    layer = Layer("a")
    model = Plain(fc=layer, act=layer.forward, other=Plain(name="x"))
    model.run = types.MethodType(lambda self: self.fc.forward(), model)
    copied = copy_with(model, {id(layer): New("a")})
    assert copied.act() == copied.run() == "new a"
    assert copied.act.__func__ is New.forward
    assert copied.run.__self__ is copied
    assert model.act() == "old a"


def test_copy_with_method_that_replacement_lacks() -> None:
    layer = Layer()
    with pytest.raises(ValueError, match=r"model\.act holds: it is the bound method 'describe'"):
        copy_with(Plain(act=layer.describe), {id(layer): New()})


def test_copy_with_shares_modules() -> None:
    layer = Layer()
    copied = copy_with(Plain(fc=layer, xp=np, nested=[(types,)]), {id(layer): New()})
    assert copied.xp is np
    assert copied.nested[0][0] is types


@pytest.mark.parametrize("hold", [lambda v: Plain(lock=v), lambda v: Slotted([v]), lambda v: {"a": (1, v)}])
def test_copy_with_names_what_cannot_be_copied(hold: Callable[[Any], Any]) -> None:
    lock, layer = threading.Lock(), Layer()
    model = Plain(before=np.ones(3), fc=layer, part=hold(lock), after=[1])
    model.part_again, model.me = model.part, model  # a cycle: everything in the model fails to copy
    model.after.append(model)
    where = next(path for path, value in walk(model) if value is lock)
    with pytest.raises(TypeError) as error:
        copy_with(model, {id(layer): New()})
    assert str(error.value).startswith(f"cannot copy model.{where} (type _thread.lock): cannot pickle")
    assert "define __deepcopy__" in str(error.value)
    assert "inplace=True" in str(error.value)


def test_copy_with_names_object_whose_deepcopy_raises() -> None:
    class Stubborn:
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            raise OSError("no")

    layer = Layer()
    with pytest.raises(TypeError, match=r"cannot copy model\.1 \(type .*Stubborn\): no; define __deepcopy__"):
        copy_with([layer, Stubborn()], {id(layer): New()})


def test_copy_with_that_runs_out_of_memory_is_a_memory_error() -> None:
    class Large:
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            raise MemoryError("no room")

    layer = Layer()
    with pytest.raises(MemoryError, match="no room"):
        copy_with([layer, Large()], {id(layer): New()})


@pytest.mark.slow
def test_copy_with_of_too_deep_tree() -> None:
    model = linked_list(5000)
    layer = objects(model)[-1]
    with pytest.raises(ValueError, match=r"nested too deeply for copy\.deepcopy; pass inplace=True"):
        copy_with(model, {id(layer): New()})


def test_copy_with_does_not_copy_what_only_a_layer_holds() -> None:
    layer = Layer()
    layer.lock = threading.Lock()
    assert isinstance(copy_with([layer], {id(layer): New()})[0], New)


# stale_references


def closure_over(value: Any) -> Callable[[], Any]:
    return lambda: value


def stale(model: Any, layer: Any) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(after copying, after replacing in place)."""
    mapping = {id(layer): New()}
    return stale_references(model, mapping, inplace=False), stale_references(model, mapping, inplace=True)


@pytest.mark.parametrize(
    ("function", "variable"),
    [
        (closure_over, "value"),
        (lambda f: closure_over([f]), "value"),
        (lambda f: closure_over((1, f.forward)), "value"),
        (lambda f: closure_over(closure_over(f)), "value"),
        (lambda f: closure_over(functools.partial(call, f)), "value"),
        (lambda f: lambda x, y=1, layer=f: x, "layer"),
        (lambda f: lambda x, *, layer=f: x, "layer"),
        (lambda f: functools.wraps(closure_over(f))(lambda: None), ".__wrapped__"),
    ],
    ids=["cell", "list", "method", "closure", "partial", "default", "keyword-default", "wrapped"],
)
def test_stale_references_in_function(function: Callable[[Any], Any], variable: str) -> None:
    layer = Layer()
    expected = [("acts.a", variable)]
    assert stale(Plain(fc=layer, acts={"a": function(layer)}), layer) == (expected, expected)


def test_stale_references_behind_partial_and_method() -> None:
    layer = Layer()
    owner = Plain()
    model = [functools.partial(closure_over(layer)), types.MethodType(closure_over(layer), owner)]
    expected = [("0.func", "value"), ("1.__func__", "value")]
    assert stale(model, layer) == (expected, expected)


def test_stale_references_to_model_matter_only_in_copies() -> None:
    model = Plain(fc=Layer())
    model.act = lambda: model.fc.forward()
    assert stale(model, model.fc) == ([("act", "model")], [])


def test_stale_references_to_old_tuple_matter_in_place() -> None:
    layer = Layer()
    layers = (layer,)
    model = Plain(layers=layers, act=closure_over(layers))
    assert stale(model, layer) == ([("act", "value")], [("act", "value")])


def test_stale_references_of_harmless_functions() -> None:
    def recursive() -> Any:
        return recursive, unbound

    layer = Layer()
    layer.act = closure_over(layer)  # goes with the layer
    model = Plain(fc=layer, f=closure_over([1, Plain(a=2)]), g=call, h=np.tanh, i=recursive, j=len)
    assert stale(model, layer) == ([], [])
    unbound = None


# snapshot and restore


class Caching:
    __slots__ = ("__dict__", "last", "seen")

    def __init__(self) -> None:
        self.seen = None
        self.weight = np.ones(2)
        self.cache = {"a": 1}
        self.inputs = [1]
        self.recent = deque([1], maxlen=1)
        self.ids = {1}

    def call(self) -> None:
        self.last = self.seen = self.weight = self.x = 5
        self.cache["x"] = self.cache["a"] = 5
        self.inputs.append(5)
        self.recent.append(5)
        self.ids.add(5)


def test_restore_undoes_what_a_call_stored() -> None:
    layer = Caching()
    before, shown = attributes(layer), repr(attributes(layer))
    taken = snapshot(layer)
    layer.call()
    assert repr(attributes(layer)) != shown
    restore(layer, taken)
    assert repr(attributes(layer)) == shown
    assert all(attributes(layer)[name] is value for name, value in before.items())
    assert not hasattr(layer, "last")


def test_attributes_include_slots() -> None:
    assert attributes(OneSlot(3)) == {"layer": 3}
    assert attributes(copy.copy) == {}
