"""What of a model is to be quantized: its layers and its arrays, as one list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from octavo._layers.linear import Layout
from octavo._layers.registry import counterpart
from octavo._models import walk as tree
from octavo._models.paths import is_within
from octavo._quantize.checking import check_layer, refuse
from octavo._quantize.select import Arrays, Chosen, chosen_arrays, no_array
from octavo._quantize.spec import LayerChoice, LayerSpec, read_layer
from octavo._quantize.static.observed import Prepared
from octavo._util.errors import raise_named

__all__ = ["Target", "find_targets"]


@dataclass(frozen=True)
class Target:
    """A float layer (it has a spec) or array (it has the axis of its outputs) of a model."""

    path: str
    original: Any
    spec: LayerSpec | None = None
    axis: Literal[0, 1] | None = None

    @property
    def name(self) -> str:
        """Its path as reports show it."""
        return self.path or "(model)"

    @property
    def counterpart(self) -> Any:
        """The quantized class of a layer of octavo's own that is more than y = x W^T + b; None for all others."""
        return None if self.spec is None else counterpart(type(self.original))

    @property
    def is_linear(self) -> bool:
        """Whether it is a layer y = x W^T + b or an array, rather than another kind of layer or a stub."""
        return (self.spec is not None or self.axis is not None) and self.counterpart is None

    def weight(self) -> NDArray[Any]:
        """W (outputs, inputs) of a linear layer or an array.

        Raises:
            TypeError, ValueError: the layer's arrays are not as its spec says; the layer is named.
        """
        if self.spec is None:
            array: NDArray[Any] = self.original
            return array.T if self.axis == 1 else array
        try:
            return read_layer(self.original, self.spec)[0]
        except (TypeError, ValueError) as error:
            self.refuse(error, hint=False)

    def refuse(self, error: Exception, *, hint: bool, prefix: str = "") -> NoReturn:
        """Raises the error with its name and, for a layer with `hint`, which other spec fits."""
        where = prefix + tree.label(self.path)
        if self.spec is not None:
            refuse(where, self.original, self.spec, error, hint=hint)
        raise_named(error, where)

    def check(self) -> None:
        """Raises ValueError unless a linear layer computes what its spec says; the layer is named."""
        if self.spec is None or not self.is_linear:
            return
        try:
            check_layer(self.original, self.spec)
        except (TypeError, ValueError) as error:
            self.refuse(error, hint=True)


def find_targets(
    model: Any,
    layers: LayerChoice | None,
    arrays: Arrays | None,
    *,
    layout: Layout = "in_out",
    min_size: int | None = None,
    check_shape: Callable[[str, NDArray[Any]], None] = lambda path, w: None,
) -> Chosen[Target]:
    """The layers that `layers` names, and the arrays that `arrays` names; every large 2-D array if neither is given.

    Args:
        model, arrays, layout, min_size: as for `quantize_dynamic`.
        layers: what its argument of that name stands for.
        check_shape: as for `chosen_arrays`.

    Raises:
        TypeError, ValueError: an argument is of another kind, nothing matches, or the model is already prepared.
    """
    found = [] if layers is None else layers.find(model)
    targets = [Target(path, layer, spec=spec) for path, layer, spec in found]
    if arrays is None and layers is not None:
        return Chosen(_unprepared(model, targets), {})
    inside = {id(layer) for _, layer, _ in found}
    chosen = chosen_arrays(
        model, True if arrays is None else arrays, layout, min_size, lambda value: id(value) in inside, check_shape
    )
    targets += [Target(item.path, item.array, axis=item.axis) for item in chosen.items]
    if not targets:
        raise ValueError(no_array(model, _places(model, chosen.why)))
    return Chosen(_unprepared(model, targets), chosen.why)


def _unprepared(model: Any, targets: list[Target]) -> list[Target]:
    """The targets, refused where one is inside a prepared layer."""
    for path, value in tree.walk(model):
        if isinstance(value, Prepared) and any(not path or is_within(target.path, path) for target in targets):
            raise ValueError(
                f"{tree.label(path)} is already prepared: convert the model first, or pass the float model"
            )
    return targets


def _places(model: Any, why: dict[int, str]) -> dict[str, str]:
    """The reason by the path of the array."""
    arrays = ((path, value) for path, value in tree.walk(model) if isinstance(value, np.ndarray))
    return {path or "(model)": why[id(value)] for path, value in arrays if id(value) in why}
