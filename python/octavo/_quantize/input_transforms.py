"""Scales and rotations of inputs, as users give them, for the layers and arrays that they are of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike

from octavo._models.paths import find
from octavo._numerics.input_transform import InputTransform
from octavo._numerics.rotation import as_rotation
from octavo._quantize.by_name import ByName
from octavo._quantize.targets import Target

__all__ = ["Rotations", "transforms_of_inputs"]

Rotations = int | Mapping[Any, int | None]  # of all linear layers and arrays, or by name, pattern and class


def transforms_of_inputs(
    scales: Mapping[str, ArrayLike] | None, rotations: Rotations | None, targets: list[Target]
) -> dict[int, InputTransform]:
    """What `pre_quant_scale` and `rotation` stand for: the transforms of inputs by the targets' ids.

    Raises:
        TypeError, ValueError: a name is none of the linear layers' and arrays', or a scale or rotation does not fit.
    """
    linear = {target.path: target for target in targets if target.is_linear}
    names = ", ".join(target.name for target in list(linear.values())[:20]) or "none"
    by_path: dict[str, ArrayLike] = {}
    for spelt, scale in (scales or {}).items():
        path = find(spelt, linear)
        if path is None:
            raise ValueError(f"pre_quant_scale names {spelt!r}, but the linear layers and arrays are {names}")
        by_path[path] = scale
    blocks = _blocks(rotations)
    if unused := blocks.unused((path, type(target.original)) for path, target in linear.items()):
        raise ValueError(f"rotation names {', '.join(map(repr, unused))}, but the linear layers and arrays are {names}")
    if blocks.values() and not linear:
        raise ValueError("rotation is for linear layers and arrays, and what is quantized is neither")
    found = {}
    for path, target in linear.items():
        block = blocks.resolve(path, type(target.original))
        if block is None and path not in by_path:
            continue
        inputs = target.weight().shape[1]
        if block is not None and inputs % block:
            raise ValueError(
                f"rotation must divide the number of inputs, and {target.name} has {inputs}, got {block}; give it "
                f"another, or None: rotation={{'': {block}, {path!r}: None}}"
            )
        found[id(target.original)] = InputTransform.of(by_path.get(path), block, inputs, target.name)
    return found


def _blocks(rotations: Rotations | None) -> ByName[int]:
    blocks = ByName[int]()
    if rotations is not None:
        given = rotations if isinstance(rotations, Mapping) else {"": rotations}
        blocks.put_all("rotation", given, lambda key, value: as_rotation(value, 0))
    return blocks
