"""The ranges that layers of a prepared model have seen, and the parameters that follow from them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._layers.static import in_8_bits, require_per_tensor_8_bit
from octavo._numerics.params import QParams
from octavo._quantize.batches import refuse_several
from octavo._util.caller import warn_caller
from octavo._util.errors import raise_named
from octavo._util.foreign import as_array
from octavo._util.pickling import pickled

__all__ = ["NOT_NEEDED", "Range", "Ranges", "finite_reals", "merge_observer", "observed_qparams"]


@pickled
class Range:
    """An observer of one array of a layer, and whether it has seen anything. `name` is how messages call the array."""

    def __init__(self, name: str, observer: Any) -> None:
        self.name = name
        self.observer = observer
        self.seen = False

    def observe(self, x: NDArray[Any]) -> None:
        if x.size:
            try:
                self.observer(x)
            except Exception as error:  # such as beyond float32
                raise_named(error, self.name)
            self.seen = True

    def merge(self, other: Range, twins: Mapping[int, Any]) -> None:
        """Adds what another has seen of the same array in a copy of the model."""
        merge_observer(self.observer, other.observer, self.name)
        self.seen |= other.seen

    def qparams(self) -> QParams:
        """The parameters found, checked to be what kernels take."""
        params = in_8_bits(observed_qparams(self.observer, self.name))
        require_per_tensor_8_bit(params, self.name)
        return params


def merge_observer(mine: Any, other: Any, name: str) -> None:
    """mine.merge(other), whose errors get the name.

    Raises:
        TypeError: it has no merge.
    """
    if not hasattr(mine, "merge"):
        raise TypeError(f"{name}: {type(mine).__name__} has no merge(other), so it cannot be merged")
    try:
        mine.merge(other)
    except Exception as error:
        raise_named(error, name)


def observed_qparams(observer: Any, name: str) -> QParams:
    """observer.calculate_qparams(), whose warnings (only zeros) and errors (beyond float32) get the name."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            params: QParams = observer.calculate_qparams()
        except Exception as error:
            raise_named(error, name)
    for warning in caught:
        warn_caller(f"{name}: {warning.message}", warning.category)
    return params


@pickled
@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What `convert` makes of a layer.

    Attributes:
        input: the parameters of its input.
        weight: those of its weight; None: what the QConfig's observer finds.
        output: those of its result; None: the result is float32.
        folds_relu: whether the ReLU behind it goes into it.
        as_float: of a stub: whether code uses its result as floats.
    """

    input: QParams
    weight: QParams | None = None
    output: QParams | None = None
    folds_relu: bool = False
    as_float: bool = False


NOT_NEEDED = QParams(1.0, 0)  # in place of an input's parameters that are given otherwise


def finite_reals(x: Any, name: str) -> NDArray[Any]:
    """x as an array, refused where it holds something that has no range."""
    refuse_several(x, name)
    values = as_array(x, name)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got dtype {values.dtype}")
    finite = np.isfinite(values)
    if not finite.all():
        at = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(f"{name} must be finite for calibration, got {values[at]} at {list(at)}; leave this batch out")
    return values
