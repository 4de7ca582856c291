"""Weak references in a model: bound to the copy, or to what takes the place of a layer; never left on the original."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._models.functions import stale_references
from octavo._models.walk import copy_with, replace, walk
from octavo._models.weak import referent
from trees import Layer, New, Plain


class Holder(Plain):
    """What can be referred to weakly, with a method."""

    def run(self) -> Any:
        return self.fc


class NamedRef(weakref.ref):
    """With an attribute of its own."""


def named_ref(target: Any) -> NamedRef:
    made = NamedRef(target)
    made.note = "n"
    return made


# kind -> (holds the target weakly, gives it back)
KINDS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "ref": (weakref.ref, lambda held: held()),
    "subclass of ref": (named_ref, lambda held: held() if held.note == "n" else None),
    "proxy": (weakref.proxy, referent),
    "method": (lambda target: weakref.WeakMethod(target.run), lambda held: held().__self__),
    "values": (lambda target: weakref.WeakValueDictionary(p=target), lambda held: held["p"]),
    "keys": (lambda target: weakref.WeakKeyDictionary({target: [1]}), lambda held: next(iter(held))),
    "set": (lambda target: weakref.WeakSet([target]), lambda held: next(iter(held))),
    "list": (lambda target: [weakref.ref(target)], lambda held: held[0]()),
    "tuple": (lambda target: (1, weakref.ref(target)), lambda held: held[1]()),
    "slot": (lambda target: Plain(deep={"a": weakref.ref(target)}), lambda held: held.deep["a"]()),
}
kinds = pytest.mark.parametrize(("hold", "back"), KINDS.values(), ids=KINDS.keys())


@pytest.mark.slow
@kinds
def test_copy_knows_its_own_parent(hold: Callable[[Any], Any], back: Callable[[Any], Any]) -> None:
    layer, new = Layer(), New()
    parent = Holder(fc=layer, child=Plain())
    parent.child.parent = hold(parent)
    copied = copy_with(parent, {id(layer): new})
    assert back(copied.child.parent) is copied
    assert back(parent.child.parent) is parent
    assert type(copied.child.parent) is type(parent.child.parent)
    del parent
    gc.collect()
    assert back(copied.child.parent).fc is new


@kinds
def test_replacement_is_what_is_referred_to(hold: Callable[[Any], Any], back: Callable[[Any], Any]) -> None:
    for change in (copy_with, replace):
        old, new = Holder(fc=1), Holder(fc=2)
        changed = change(Plain(first=hold(old), layer=old, second=hold(old)), {id(old): new})
        assert back(changed.first) is back(changed.second) is changed.layer is new


@kinds
def test_what_lies_outside_the_model_stays(hold: Callable[[Any], Any], back: Callable[[Any], Any]) -> None:
    outside, layer = Holder(), Layer()
    model = Plain(fc=layer, logger=hold(outside))
    assert stale_references(model, {id(layer): None}, inplace=False) == []
    assert back(copy_with(model, {id(layer): New()}).logger) is outside


@kinds
def test_way_out_of_the_model_and_back_is_found(hold: Callable[[Any], Any], back: Callable[[Any], Any]) -> None:
    layer = Layer()
    child = Plain(fc=layer)
    parent = Holder(child=child)
    child.parent = hold(parent)
    assert [name for _, name in stale_references(child, {id(layer): None}, inplace=False)] == [""]
    assert stale_references(child, {id(layer): None}, inplace=True) == []
    parent.fc = layer  # not through the child, which changes in place
    assert [name for _, name in stale_references(child, {id(layer): None}, inplace=True)] == [""]


def test_function_that_captured_a_weak_reference_is_found() -> None:
    layer = Layer()
    model = Holder(fc=layer)
    for held in (weakref.ref(model), weakref.proxy(model), [weakref.WeakMethod(model.run)]):
        model.hook = lambda held=held: held
        assert stale_references(model, {id(layer): None}, inplace=False) == [("hook", "held")]


def test_dead_references_are_nothing() -> None:
    gone, layer = Holder(), Layer()
    model = Plain(fc=layer, dead=[weakref.ref(gone), weakref.proxy(gone), weakref.WeakMethod(gone.run)])
    del gone
    copied = copy_with(model, {id(layer): New()})
    assert len(copied.dead) == 3
    assert [path for path, _ in walk(model)] == ["", "fc", "dead"]
    assert stale_references(model, {id(layer): None}, inplace=False) == []
    assert replace(model, {id(layer): New()}) is model


def test_layer_with_a_dead_proxy_is_quantized(tmp_path: Any) -> None:
    class Dense:
        def __init__(self) -> None:
            gone = Holder()
            self.weight, self.owner = np.eye(4, dtype=np.float32), weakref.proxy(gone)

        def __call__(self, x: Any) -> Any:
            return x @ self.weight.T

    quantized = oc.quantize_dynamic([Dense()], {Dense: oc.LayerSpec(bias=None)})
    oc.save(quantized, tmp_path / "x")
    assert type(oc.load(tmp_path / "x", [Dense()])[0]) is oc.QuantLinear


@pytest.mark.slow
def test_order_and_callbacks_are_kept() -> None:
    gone: list[str] = []
    parts = [Holder(name=str(i)) for i in range(5)]
    model = Plain(parts=parts, order=weakref.WeakKeyDictionary({part: part.name for part in parts}))
    model.ref = weakref.ref(parts[0], lambda ref: gone.append("ref"))
    model.method = weakref.WeakMethod(parts[0].run, lambda ref: gone.append("method"))
    copied = copy_with(model, {})
    assert [part.name for part in copied.order] == ["0", "1", "2", "3", "4"]
    replace(copied, {id(copied.parts[2]): Holder(name="new")})
    assert [part.name for part in copied.order] == ["0", "1", "new", "3", "4"]
    del copied.parts[0]
    gc.collect()
    assert sorted(gone) == ["method", "ref"]
    assert len(copied.order) == 4


def test_set_of_its_own_kind_is_not_copied_by_halves() -> None:
    own = type("Own", (weakref.WeakSet,), {})
    with pytest.raises(TypeError, match=r"cannot copy model\.known \(type .*Own\): .*define __deepcopy__"):
        copy_with(Plain(known=own()), {})
    own.__deepcopy__ = lambda self, memo: own(self)
    part = Holder()
    copied = copy_with(Plain(known=own([part]), part=part), {})
    assert list(copied.known) == [copied.part]


def test_replacement_that_takes_no_weak_reference_is_refused_by_name() -> None:
    old = Holder()
    model = Plain(layer=old, refs=[weakref.ref(old)])
    with pytest.raises(ValueError, match=r"cannot rebind the weak reference model\.refs\.0: cannot create weak"):
        replace(model, {id(old): 5})
    assert model.layer is model.refs[0]() is old


class Net:
    """Its layers know it weakly, and call one another through it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.first = Block(self, oc.nn.Linear.init(6, 6, rng=rng))
        self.second = oc.nn.Linear.init(6, 3, rng=rng)
        self.layers = weakref.WeakValueDictionary(second=self.second)
        self.known = weakref.WeakSet([self.second])

    def __call__(self, x: Any) -> Any:
        assert set(self.known) == {self.second}
        return self.first(x)


class Block:
    def __init__(self, net: Net, fc: Any) -> None:
        self.net, self.fc = weakref.ref(net), fc

    def __call__(self, x: Any) -> Any:
        return self.net().layers["second"](self.fc(x))


@pytest.mark.slow
def test_quantized_copy_does_not_need_the_original() -> None:
    x = np.random.default_rng(1).standard_normal((5, 6), dtype=np.float32)
    for dtype in ("int8", "int4"):
        net = Net(np.random.default_rng(0))
        expected = net(x)
        quantized = oc.quantize_dynamic(net, {oc.nn.Linear}, dtype)
        inplace = oc.quantize_dynamic(copy_with(net, {}), {oc.nn.Linear}, dtype, inplace=True)
        del net
        gc.collect()
        assert type(quantized.layers["second"]) is oc.QuantLinear
        np.testing.assert_array_equal(quantized(x), inplace(x))
        assert 0 < np.abs(quantized(x) - expected).max() < 1


@pytest.mark.slow
def test_static_quantization_sees_what_is_called_through_weak_references() -> None:
    x = np.random.default_rng(1).standard_normal((50, 6), dtype=np.float32)
    net = Net(np.random.default_rng(0))
    expected = net(x)
    prepared = oc.prepare(net, oc.default_qconfig, layers={oc.nn.Linear})
    del net
    gc.collect()
    oc.calibrate(prepared, [x])
    converted = oc.convert(prepared)
    del prepared
    gc.collect()
    assert type(converted.layers["second"]) is type(converted.second) is oc.StaticQuantLinear
    assert 0 < np.abs(converted(x) - expected).max() < 0.2


def test_file_fills_what_is_referred_to_weakly(tmp_path: Any) -> None:
    x = np.random.default_rng(1).standard_normal((5, 6), dtype=np.float32)
    net = Net(np.random.default_rng(0))
    quantized = oc.quantize_dynamic(net, {oc.nn.Linear})
    oc.save(quantized, tmp_path / "x")
    filled = oc.load(tmp_path / "x", Net(np.random.default_rng(7)))
    np.testing.assert_array_equal(filled(x), quantized(x))


def test_model_that_is_known_from_outside_is_refused_by_name() -> None:
    net = Net(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"weak reference model\.net leads out of the model .* or pass check=False"):
        oc.quantize_dynamic(net.first, {oc.nn.Linear})
