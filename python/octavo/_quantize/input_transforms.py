"""Scales and rotations of inputs by path, as users and `find_smoothing` give them, for the layers that they are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import ArrayLike

from octavo._models.paths import find
from octavo._numerics.input_transform import InputTransform
from octavo._quantize.targets import Target

__all__ = ["Rotations", "transforms_of_inputs"]

Rotations = int | Mapping[str, int]  # of all linear layers and arrays, or by path


def transforms_of_inputs(
    scales: Mapping[str, ArrayLike] | None, rotations: Rotations | None, targets: list[Target]
) -> dict[int, InputTransform]:
    """What `pre_quant_scale` and `rotation` stand for: the transforms of inputs by the targets' ids.

    Raises:
        TypeError, ValueError: a path is none of the linear layers' and arrays', or a scale or rotation does not fit.
    """
    linear = {target.path: target for target in targets if target.is_linear}
    if rotations is not None and not isinstance(rotations, Mapping):
        rotations = dict.fromkeys(linear, rotations)
    given: dict[str, list[Any]] = {}
    for place, (name, values) in enumerate({"pre_quant_scale": scales, "rotation": rotations}.items()):
        for path, value in _by_path(name, values or {}, linear):
            given.setdefault(path, [None, None])[place] = value
    found = {}
    for path, (scale, rotation) in given.items():
        target = linear[path]
        transform = InputTransform.of(scale, rotation, target.weight().shape[1], target.name)
        if transform:
            found[id(target.original)] = transform
    return found


def _by_path(name: str, values: Mapping[str, Any], linear: Mapping[str, Target]) -> Iterator[tuple[str, Any]]:
    for spelt, value in values.items():
        path = find(spelt, linear)
        if path is None:
            names = ", ".join(target.name for target in list(linear.values())[:20])
            raise ValueError(f"{name} names {spelt!r}, but the linear layers and arrays are {names or 'none'}")
        yield path, value
