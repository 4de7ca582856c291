"""tree: what a walk reaches, and replacing in place, all or nothing."""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from octavo._models.walk import places, replace, walk
from trees import (
    Layer,
    New,
    Pair,
    Plain,
    Slotted,
    SlottedChild,
    Tagged,
    call,
    held,
    holders,
    linked_list,
    object_array,
    objects,
    shape,
    state,
    tagged,
)

# walk


@holders
def test_walk_reaches_layer_with_readable_path(hold: Callable[[Any], Any], path: str) -> None:
    layer = Layer()
    assert [p for p, value in walk(hold(layer)) if value is layer] == [path]


def test_walk_yields_holders_first_in_order() -> None:
    model = Plain(a=[Layer(), Layer()], b={"c": Layer()})
    assert [path for path, _ in walk(model)] == ["", "a", "a.0", "a.1", "b", "b.c"]


def test_walk_visits_shared_objects_once() -> None:
    layer = Layer()
    assert held([layer, (layer, layer), {"a": layer}], Layer) == 1


def test_walk_follows_cycles_once() -> None:
    model = Plain(layer=Layer())
    model.me = model
    model.layer.owner = [model]
    assert [path for path, _ in walk(model)] == ["", "layer", "layer.owner"]


def test_walk_leaves_out_numbers_strings_and_classes() -> None:
    model = Plain(a=1, b="x", c=2.5, d=None, e=Layer, f=np.float32(1), g=np.dtype("f4"), h=b"", i=True, j=1j)
    assert objects(model) == [model]


def test_walk_does_not_enter_functions_modules_and_numeric_arrays() -> None:
    def function() -> None: ...

    function.layer = Layer()
    model = Plain(f=function, m=types, a=np.ones((2, 2)))
    assert [path for path, _ in walk(model)] == ["", "f", "m", "a"]


def test_walk_stops_where_told() -> None:
    inner, outer = Layer("inner"), Layer("outer")
    outer.inner = inner
    model = [outer, Plain(a=1)]
    assert inner not in [value for _, value in walk(model, stop=lambda v: v is outer)]
    assert outer in [value for _, value in walk(model, stop=lambda v: v is outer)]


def test_walk_of_linked_list_of_5000_nodes() -> None:
    assert held(linked_list(5000), Layer) == 1


def test_walk_of_object_with_hostile_attribute_access() -> None:
    class Hostile:
        def __init__(self, layer: Layer) -> None:
            self.layer = layer

        def __getattribute__(self, name: str) -> Any:
            if name != "__class__":  # isinstance asks for it
                raise RuntimeError(name)
            return Hostile

    assert held([Hostile(Layer())], Layer) == 1


def test_walk_of_number_is_empty() -> None:
    assert objects(3) == []


# places


def test_places_comes_to_every_reference_and_names_the_first() -> None:
    layer = Layer()
    found = [(p.path, p.first.path) for p in places(Plain(a=layer, b=[layer])) if p.value is layer]
    assert found == [("a", "a"), ("b.0", "a")]


def test_places_comes_to_sets_last_and_gives_their_members_no_name() -> None:
    layer, alone = Layer(), Layer()
    found = list(places(Plain(all={layer, alone}, fc=layer)))
    assert [p.name for p in found if p.value is layer] == ["fc", None]
    assert [(p.path, p.name) for p in found if p.value is alone] == [("all.{}", None)]


def test_places_that_are_entered_again() -> None:
    pair = (Layer(),)
    found = [p.path for p in places([pair, pair], again=lambda value: value is pair) if p.first is p]
    assert found == ["", "0", "0.0", "1"]  # the layer is one object, the pair two


# replace


@holders
def test_replace_in_place(hold: Callable[[Any], Any], path: str) -> None:
    layer, new = Layer(), New()
    model = hold(layer)
    before = shape(model)
    root = replace(model, {id(layer): new})
    assert held(root, Layer) == 0
    assert [p for p, value in walk(root) if value is new] == [path]
    assert shape(root) == before
    assert root is model or isinstance(model, tuple)


def test_replace_slots_private_and_inherited() -> None:
    layer, new = Layer(), New()
    model = SlottedChild(layer)
    replace(model, {id(layer): new})
    assert model.layer is model.private() is model.other[0] is new
    assert not hasattr(model, "unset")


def test_replace_keeps_tuple_attributes() -> None:
    layer, new = Layer(), New()
    root = replace(tagged(layer), {id(layer): new})
    assert type(root) is Tagged
    assert root == (1, new)
    assert root.layer is new


def test_replace_keeps_partial_identity_and_attributes() -> None:
    layer, new = Layer("a"), New("a")
    partial = functools.partial(call, layer)
    partial.note = layer
    assert replace(partial, {id(layer): new}) is partial
    assert partial() == "new a"
    assert partial.note is new


def test_replace_puts_shared_layer_and_shared_tuple_everywhere() -> None:
    layer, new = Layer(), New()
    pair = (layer, [layer])
    model = Plain(a=pair, b={"c": pair}, d=layer)
    replace(model, {id(layer): new})
    assert model.a is model.b["c"]
    assert model.a[0] is model.a[1][0] is model.d is new


def test_replace_of_root_gives_replacement() -> None:
    layer, new = Layer(), New()
    assert replace(layer, {id(layer): new}) is new


def test_replace_with_empty_mapping_changes_nothing() -> None:
    model = (Layer(), [1])
    assert replace(model, {}) is model


def test_replace_in_tuple_that_holds_itself() -> None:
    layer, new = Layer(), New()
    pair = tagged(layer)
    pair.me = pair
    root = replace(pair, {id(layer): new})
    assert root[1] is root.layer is new
    assert root.me is root


def test_replace_in_cycle() -> None:
    layer, new = Layer(), New()
    model = Plain(layers=(layer,))
    model.me = {"me": (model, layer)}
    replace(model, {id(layer): new})
    assert model.layers == (new,)
    assert model.me["me"] == (model, new)


@pytest.mark.slow
def test_replace_in_deep_tree() -> None:
    model, nested = linked_list(5000), (Layer(),)
    layer = objects(model)[-1]
    replace(model, {id(layer): New()})
    assert held(model, Layer) == 0
    layer = nested[0]
    for _ in range(5000):
        nested = (nested, 1)
    assert held(replace(nested, {id(layer): New()}), Layer) == 0


def test_replace_does_not_enter_what_is_replaced() -> None:
    inner, outer = Layer(), Layer()
    outer.layers = [inner]
    model = [outer]
    replace(model, {id(outer): New(), id(inner): New()})
    assert outer.layers == [inner]


def test_replace_rebinds_methods() -> None:
    layer = Layer("a")
    model = Plain(fc=layer, act=layer.forward, both=(layer.forward, layer.forward))
    replace(model, {id(layer): New("a")})
    assert model.act() == model.both[0]() == "new a"
    assert model.act.__self__ is model.fc


def test_replace_rebinds_method_under_another_name_of_it() -> None:
    class Named(Layer):
        run = Layer.forward

    class NewNamed:
        def alias(self) -> str:
            return "new"

    layer = Named()
    model = Plain(act=layer.run)  # its __name__ is "forward", which the replacement does not have
    replace(model, {id(layer): NewNamed()})
    assert model.act() == "new"


def test_replace_with_method_that_replacement_lacks_changes_nothing() -> None:
    layer, first = Layer(), Layer()
    model = Plain(first=first, act=layer.describe)
    with pytest.raises(ValueError, match=r"what model\.act holds: it is the bound method 'describe' of a Layer.* New "):
        replace(model, {id(first): New(), id(layer): New()})
    assert model.first is first
    assert model.act == layer.describe


def test_replace_of_method_owner_rebuilt() -> None:
    class Pipeline(Pair):
        def run(self) -> str:
            return self.second.forward()

    layer = Layer("a")
    model = [Pipeline(1, layer).run]
    replace(model, {id(layer): New("a")})
    assert model[0]() == "new a"


@pytest.mark.parametrize("last", ["read-only array", "unhashable in set"])
def test_replace_undoes_all_when_storing_fails(last: str) -> None:
    first, second, third = Layer("1"), Layer("2"), Layer("3")
    partial, members = functools.partial(call, first), {first, 5}
    model = Plain(a=first, b=[second], c=(1, second), d=Slotted(first), e={"k": second}, f=partial, g=members)
    model.h = deque([first])
    if last == "read-only array":
        model.z, new = object_array(third), New()
        model.z.flags.writeable = False
    else:
        model.z, new = {third}, []
    before = state(model)
    with pytest.raises(ValueError, match=r"cannot replace model\.z.*: .*; nothing was changed"):
        replace(model, {id(first): New(), id(second): New(), id(third): new})
    assert state(model) == before


def test_replace_undoes_all_on_keyboard_interrupt() -> None:
    class Interrupting(New):
        def __hash__(self) -> int:
            raise KeyboardInterrupt

    first, second = Layer(), Layer()
    model = [first, {second}]
    with pytest.raises(KeyboardInterrupt):
        replace(model, {id(first): New(), id(second): Interrupting()})
    assert model == [first, {second}]
