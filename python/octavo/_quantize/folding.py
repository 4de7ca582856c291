"""Folding the scale of a layer's inputs into what makes them: a norm or a linear layer before it, in a float model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._models import walk as tree
from octavo._models.paths import find
from octavo._quantize.batches import Forward
from octavo._quantize.spec import LayerSpec
from octavo._quantize.targets import Target
from octavo._util.floating import quiet

__all__ = ["Folding", "fold_plan", "folded_model"]

# Other scales in the place of none change the model's result by rounding alone: by this much of the largest element.
# What another reader gets would be two to eight times as large or small.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Folding:
    """Layers that get one thing's outputs.

    Attributes:
        readers: the layers.
        places: paths of the thing: of an object, or of its arrays.
        arrays: its arrays, and the axis of each that runs along the outputs.
    """

    readers: tuple[Target, ...]
    places: tuple[str, ...]
    arrays: tuple[tuple[NDArray[Any], int], ...]


def fold_plan(model: Any, targets: Sequence[Target], fold: Mapping[str, str | Sequence[str]]) -> list[Folding]:
    """What `fold` asks for, each preceding thing once.

    Raises:
        ValueError: it names what is not there, or what does not have an element for each of the inputs.
    """
    by_path = {target.path: target for target in targets}
    held = dict(tree.walk(model)) if fold else {}
    readers: dict[tuple[str, ...], list[Target]] = {}
    arrays: dict[tuple[str, ...], tuple[tuple[NDArray[Any], int], ...]] = {}
    for spelt, names in fold.items():
        path = find(spelt, by_path)
        if path is None:
            raise ValueError(f"fold names {spelt!r}, but the layers are {', '.join(t.name for t in targets[:20])}")
        places = tuple(_place(name, held, spelt) for name in ([names] if isinstance(names, str) else names))
        inputs = by_path[path].weight().shape[1]
        arrays[places] = tuple(
            part for place in places for part in _outputs(held[place], by_path.get(place), inputs, place, path)
        )
        readers.setdefault(places, []).append(by_path[path])
    return [Folding(tuple(layers), places, arrays[places]) for places, layers in readers.items()]


def _place(name: str, held: Mapping[str, Any], spelt: str) -> str:
    path = find(name, held)
    if path is None:
        raise ValueError(f"fold of {spelt!r} names {name!r}, which is not in the model")
    return path


def _outputs(
    value: Any, target: Target | None, outputs: int, place: str, reader: str
) -> Iterator[tuple[NDArray[Any], int]]:
    """The arrays of a thing that are to be divided by a scale of its outputs, and their axis of outputs."""
    found: list[tuple[Any, int]]
    if isinstance(value, np.ndarray):
        found = [(value, 0 if value.ndim == 1 or (target is not None and target.axis == 0) else 1)]
    else:
        spec = LayerSpec() if target is None or target.spec is None else target.spec
        weight: Any = getattr(value, spec.weight, None)
        bias: Any = getattr(value, spec.bias or "", None)
        found = [(weight, 1 if spec.layout == "in_out" and np.ndim(weight) == 2 else 0)]
        found += [] if bias is None else [(bias, np.ndim(bias) - 1)]
    for array, axis in found:
        if not isinstance(array, np.ndarray) or array.ndim not in (1, 2) or array.shape[axis] != outputs:
            raise ValueError(
                f"fold: {tree.label(place)} has no output for each of the {outputs} inputs of {tree.label(reader)}; "
                f"it must be a linear layer, a norm with weight and bias, or arrays of {outputs} elements"
            )
        yield array, axis


@quiet
def folded_model(
    model: Any, plan: Sequence[Folding], scales: Mapping[str, NDArray[np.float32]], batch: Any, forward: Forward
) -> Any:
    """A copy of the model with each scale in the reader's weight, and divided out of what makes its inputs.

    Args:
        model: the float model, left as it is.
        plan: what is folded.
        scales: by the readers' paths.
        batch: an input; the model is run on it with other scales to see that no other code reads what is scaled.
        forward: how.

    Raises:
        ValueError: the result changes: what a scale would be folded into has another reader, and is named.
    """
    expected = np.asarray(forward(tree.copy_with(model, {}), batch), np.float64)
    for folding in plan:
        inputs = folding.readers[0].weight().shape[1]
        trial = np.exp2(1 + np.arange(inputs) % 3).astype(np.float32)  # powers of two: no rounding
        tried = _scaled(model, [folding], {reader.path: trial for reader in folding.readers})
        found = np.asarray(forward(tried, batch), np.float64)
        largest = float(np.abs(expected).max(initial=0))
        if found.shape != expected.shape or not np.abs(found - expected).max(initial=0) <= _TOLERANCE * largest:
            names = ", ".join(tree.label(reader.path) for reader in folding.readers)
            raise ValueError(
                f"fold: {', '.join(map(tree.label, folding.places))} has another reader than {names}, or something "
                "stands between them that a scale does not pass: the model's result changes. Leave it out of fold; the "
                "layer then takes the scale itself"
            )
    return _scaled(model, plan, scales)


def _scaled(model: Any, plan: Sequence[Folding], scales: Mapping[str, NDArray[np.float32]]) -> Any:
    changed: dict[int, NDArray[Any]] = {}

    def change(array: NDArray[Any], factors: NDArray[Any], axis: int) -> None:
        now = changed.get(id(array), array)
        changed[id(array)] = (now * (factors if axis == array.ndim - 1 else factors[:, None])).astype(array.dtype)

    for folding in plan:
        s = scales[folding.readers[0].path]
        for array, axis in folding.arrays:
            change(array, np.float32(1) / s, axis)
        for reader in folding.readers:
            if reader.spec is None:
                change(reader.original, s, 1 - (reader.axis or 0))
            else:
                change(getattr(reader.original, reader.spec.weight), s, 1 if reader.spec.layout == "out_in" else 0)
    return tree.copy_with(model, changed)
