"""What a file cannot know of a model, taken from the model: how a stored thing is held, and how it is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from octavo._layers.matrix import QuantMatrix
from octavo._layers.recurrent import QuantGRU, QuantLSTM
from octavo._models.fill import Resolver, survey
from octavo.nn._recurrent_base import RecurrentLayer

__all__ = ["fitted"]


def fitted(items: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """The stored things in the form in which the model holds them.

    The matrices "w.0", "w.1", ... become a list "w" where the model has an array (count, rows, columns) there, so that
    w[e] gives one of them. Recurrent layers take `batch_first` from the layer that they replace: weights do not tell.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo._files.fitting import fitted
        >>> w = np.ones((2, 3, 4), np.float32)
        >>> matrices = {f"w.{e}": oc.QuantMatrix(w[e], axis=0) for e in range(2)}
        >>> [matrix.shape for matrix in fitted(matrices, {"w": w})["w"]]
        [(3, 4), (3, 4)]
    """
    stacks = _stacks(items)
    recurrent = {name: item for name, item in items.items() if isinstance(item, (QuantLSTM, QuantGRU))}
    if not stacks and not recurrent:
        return dict(items)
    try:
        held, aliases = survey(model, lambda value: isinstance(value, (np.ndarray, RecurrentLayer)))
    except ValueError:  # two things of one name, which filling the model will tell of
        return dict(items)
    places = Resolver(held, aliases)

    def there(name: str) -> Any:
        place = places.find(name)
        return None if place is None else held[place]

    found = dict(items)
    for name, layer in recurrent.items():
        old = there(name)
        if isinstance(old, RecurrentLayer) and old.batch_first != layer.batch_first:
            found[name] = type(layer)._from_layers(layer._layers, old.batch_first)
    for name, matrices in stacks.items():
        old = there(name)
        if isinstance(old, np.ndarray) and old.shape == (len(matrices), *matrices[0].shape):
            for e in range(len(matrices)):
                del found[f"{name}.{e}"]
            found[name] = matrices
    return found


def _stacks(items: Mapping[str, Any]) -> dict[str, list[QuantMatrix]]:
    """Matrices of one shape that are called "name.0", "name.1" and so on, by name."""
    groups: dict[str, dict[int, QuantMatrix]] = {}
    for name, item in items.items():
        stem, _, number = name.rpartition(".")
        if isinstance(item, QuantMatrix) and number.isdecimal():
            groups.setdefault(stem, {})[int(number)] = item
    return {
        stem: [group[e] for e in range(len(group))]
        for stem, group in groups.items()
        if group.keys() == set(range(len(group))) and len({matrix.shape for matrix in group.values()}) == 1
    }
