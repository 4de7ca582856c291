"""Warnings of layers that lose their accuracy: by what they give on data or, without data, by their weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._quantize.measure import ENOUGH_DB
from octavo._quantize.targets import Target
from octavo._util.caller import warn_caller

__all__ = ["LARGE_SPREAD", "spread_of_inputs", "warn_of_losses", "warn_of_spread"]

# Ranges of a weight's columns that differ by this much: the inputs then differ likewise, or some hardly matter. A row
# of inputs has one scale of 127 steps, so an input of a thousandth of the largest one is rounded to zero.
LARGE_SPREAD = 1e3
_NOTHING = 2.0**-40  # of the largest range: columns below it do nothing

_REMEDY = (
    "scale the features before training (sklearn.preprocessing.StandardScaler), smooth them "
    "(pre_quant_scale=octavo.find_smoothing(model, batches, ...).scales), or leave these in float: "
    "dtype={{'': 'int8', {path!r}: None}}"
)


def warn_of_losses(found: Iterable[tuple[Target, float]]) -> None:
    """One warning for all targets whose SQNR on data is below 20 dB.

    Args:
        found: each with its SQNR in dB.
    """
    poor = [(target, sqnr) for target, sqnr in found if not sqnr >= ENOUGH_DB]
    if poor:
        listed = ", ".join(f"{target.name} ({sqnr:.1f} dB)" for target, sqnr in poor[:10])
        warn_caller(
            f"quantization costs these more than a tenth of their result on x (SQNR below {ENOUGH_DB:.0f} dB): {listed}"
            f"{', ...' if len(poor) > 10 else ''}. Where some inputs are far larger than others, "
            f"{_REMEDY.format(path=poor[0][0].name)}"
        )


def warn_of_spread(targets: Iterable[Target]) -> None:
    """One warning for all linear layers and arrays whose inputs' weights differ in range by 1000 times or more."""
    spreads = [(target, spread_of_inputs(target.weight())) for target in targets if target.is_linear]
    wide = [(target, spread) for target, spread in spreads if spread >= LARGE_SPREAD]
    if wide:
        listed = ", ".join(f"{target.name} ({spread:.0e} times)" for target, spread in wide[:10])
        warn_caller(
            f"the weights of different inputs differ in range by {LARGE_SPREAD:.0f} times or more: {listed}"
            f"{', ...' if len(wide) > 10 else ''}. Where the inputs' values differ likewise, the small ones are "
            "lost; where some inputs hardly matter, nothing is. Pass real inputs (quantize_dynamic(..., x=inputs)) to "
            f"measure it. Then {_REMEDY.format(path=wide[0][0].name)}"
        )


def spread_of_inputs(weight: NDArray[Any]) -> float:
    """The largest ratio of ranges max |W[:, k]| of two inputs k of W (outputs, inputs); 1 where there are none.

    Example:
        >>> import numpy as np
        >>> from octavo._quantize.scales import spread_of_inputs
        >>> spread_of_inputs(np.array([[8.0, -0.5, 0.0], [1.0, 0.25, 0.0]]))
        16.0
    """
    if weight.size == 0:
        return 1.0
    ranges = np.maximum(weight.max(axis=0).astype(np.float64), -weight.min(axis=0).astype(np.float64))
    used = ranges[ranges > _NOTHING * ranges.max()]
    return float(used.max() / used.min()) if used.size else 1.0
