"""Scales of inputs by path, as users and `find_smoothing` give them, for the layers and arrays that they are of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo._models.paths import find
from octavo._numerics.input_scale import as_input_scale
from octavo._quantize.targets import Target

__all__ = ["scales_of_inputs"]


def scales_of_inputs(given: Mapping[str, ArrayLike] | None, targets: list[Target]) -> dict[int, NDArray[np.float32]]:
    """What `pre_quant_scale` by path stands for: the scales by the targets' ids.

    Raises:
        TypeError, ValueError: a path is none of the linear layers' and arrays', or a scale does not fit.
    """
    linear = {target.path: target for target in targets if target.is_linear}
    found: dict[int, NDArray[np.float32]] = {}
    for spelt, scale in (given or {}).items():
        path = find(spelt, linear)
        if path is None:
            names = ", ".join(target.name for target in list(linear.values())[:20])
            raise ValueError(f"pre_quant_scale names {spelt!r}, but the linear layers and arrays are {names or 'none'}")
        s = as_input_scale(scale, linear[path].weight().shape[1], f"pre_quant_scale of {linear[path].name}")
        if s is not None:
            found[id(linear[path].original)] = s
    return found
