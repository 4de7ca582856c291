"""Building what takes the place of float layers and arrays."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._layers.hollow import fill
from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._models import walk as tree
from octavo._models.containers import attributes, memory_of
from octavo._models.estimators import allow_training
from octavo._numerics.gptq_int8 import Int8Weight
from octavo._numerics.input_transform import InputTransform
from octavo._numerics.int4 import GroupedWeight
from octavo._numerics.params import QType, qint4
from octavo._quantize.options import WeightOptions
from octavo._quantize.spec import read_layer
from octavo._quantize.targets import Target

__all__ = ["Builder"]

_OF_INPUTS = ("activation", "activation_group", "pre_quant_scale", "rotation")


class Builder:
    """Builds the replacements of targets. Layers that hold the same arrays share their integers.

    Args:
        targets: all of them.
        types: of their weights, by their ids.
        options: of their weights.
        rounded: weights that calibration has rounded already, by the ids of their targets.
        transforms: of the inputs of targets that have them, by their ids.
        check: whether each layer must compute what its spec says.
    """

    def __init__(
        self,
        targets: list[Target],
        types: Mapping[int, QType],
        options: WeightOptions,
        rounded: Mapping[int, GroupedWeight | Int8Weight],
        transforms: Mapping[int, InputTransform],
        *,
        check: bool,
    ) -> None:
        self._arguments = {id(t.original): options.arguments(types[id(t.original)]) for t in targets}
        for held, transform in transforms.items():
            self._arguments[held] |= transform.arguments()
        self._rounded = rounded
        self._check = check
        # Taken before any float array is freed, whose address another could get.
        self._keys = {id(t.original): self._key(t) for t in targets}
        self._made: dict[Any, Any] = {}

    def _key(self, target: Target) -> tuple[Any, ...] | None:
        """Equal for layers that become the same; None for one that becomes its own."""
        arguments = self._arguments[id(target.original)]
        own = id(target.original) in self._rounded or arguments.get("pre_quant_scale") is not None
        arrays = _held_arrays(target) if target.is_linear and not own else None
        return None if arrays is None else (type(target.original), target.spec, arrays, tuple(arguments.items()))

    def key(self, target: Target) -> object:
        """Equal for targets whose replacements share their integers."""
        key = self._keys[id(target.original)]
        return id(target.original) if key is None else key

    def build(self, target: Target) -> Any:
        """What takes the place of a target, which is checked.

        Raises:
            TypeError, ValueError: it cannot be quantized, or does something other than its spec says.
        """
        new = self._shared(target)
        if self._check:
            target.check()
        return new

    def trial(self, target: Target, *, exact: bool) -> Any:
        """As `build`, for what `fill` builds once more: nothing of it is kept here.

        Args:
            target: of the targets.
            exact: whether its values matter; if not, four-bit weights are rounded to nearest, which takes no search.
        """
        arguments = self._arguments[id(target.original)]
        nearest = {} if exact or arguments["dtype"] != qint4 else {"rounding": "nearest"}
        new = self._built(target, arguments | nearest)
        if self._check:
            target.check()
        return new

    def replace(self, model: Any, put: Callable[[], Any], targets: list[Target], hollow: Mapping[int, Any]) -> Any:
        """Puts hollow replacements into the model, then builds one after the other, and frees its float weights.

        If one fails, the float layers of those that are still hollow are put back, and estimators of which nothing is
        quantized may be trained again.

        Args:
            model: to change.
            put: puts the hollow ones into it, and returns it.
            targets: emptied on the way.
            hollow: by the ids of the targets.

        Returns:
            What `put` returns.
        """
        count = len(targets)
        targets.reverse()
        try:
            quantized = put()
            while targets:
                target = targets[-1]
                fill(hollow[id(target.original)], self._shared(target))
                del target
                targets.pop()
        except BaseException as error:
            tree.replace(model, {id(hollow[id(t.original)]): t.original for t in targets})
            done = {id(value) for _, value in tree.walk(model) if isinstance(value, (QuantLinear, QuantMatrix))}
            allow_training(model, {id(t.original) for t in targets}, done)
            error.add_note(
                f"{count - len(targets)} of {count} layers and arrays have been quantized in place; the others are in "
                "float as before"
            )
            raise
        return quantized

    def _shared(self, target: Target) -> Any:
        key = self._keys[id(target.original)]
        if key is None:
            return self._built(target, self._arguments[id(target.original)])
        if key not in self._made:
            self._made[key] = self._built(target, self._arguments[id(target.original)])
        return copy.deepcopy(self._made[key])  # another layer with the same integers, which never change

    def _built(self, target: Target, arguments: dict[str, Any]) -> Any:
        try:
            if target.counterpart is not None:  # octavo's own class, by exact type: what it computes is known
                own_class = target.counterpart is QuantLinear
                known = {name: value for name, value in arguments.items() if own_class or name != "activation_group"}
                return target.counterpart.from_float(target.original, **known)
            rounded = self._rounded.get(id(target.original))
            inputs = {name: arguments[name] for name in _OF_INPUTS if name in arguments}
            if target.spec is None:
                if rounded is not None:
                    return QuantMatrix._made(_of_rounded(rounded, None, **inputs), target.axis or 0)
                return QuantMatrix(target.original, axis=target.axis or 0, **arguments)
            spec = target.spec
            weight, bias = read_layer(target.original, spec)
            own: dict[str, Any] = {
                "relu": spec.activation == "relu", "call": "forward" if spec.call == "__call__" else spec.call,
            }  # fmt: skip
            if rounded is not None:
                return _of_rounded(rounded, bias, **inputs, **own)
            return QuantLinear(weight, bias, **own, **arguments)
        except (TypeError, ValueError) as error:
            target.refuse(error, hint=self._check)


def _of_rounded(weight: GroupedWeight | Int8Weight, bias: NDArray[Any] | None, **options: Any) -> QuantLinear:
    if isinstance(weight, Int8Weight):
        return QuantLinear.from_quantized(*weight, bias, **options)
    return QuantLinear.from_grouped(weight, bias, **options)


def _held_arrays(target: Target) -> tuple[Any, ...] | None:
    """What tells the weight and bias of a layer from all others while it lives.

    None where they are not arrays that the layer holds itself: what a property or a list gives may be made anew at each
    call, and an address in memory says nothing of it.
    """
    if target.spec is None:
        return None
    held = attributes(target.original)
    found: list[tuple[Any, ...] | None] = []
    for name in (target.spec.weight, target.spec.bias or ""):
        array = getattr(target.original, name, None)
        if array is not None and (array is not held.get(name) or type(array) not in (np.ndarray, np.memmap)):
            return None
        found.append(None if array is None else memory_of(array))
    return tuple(found)
