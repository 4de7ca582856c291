"""The options of `quantize_dynamic`, grouped: how weights become integers, calibration, measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo._layers.packing import check_weight_shape
from octavo._layers.weights import ActivationScheme
from octavo._numerics.int4 import ScaleDtype
from octavo._numerics.params import QType, QTypeLike, as_weight_qtype, qint4, qint8
from octavo._quantize.batches import Forward, check_batches
from octavo._quantize.by_name import ByName

__all__ = ["Calibration", "Dtypes", "Measuring", "WeightOptions", "as_dtypes"]

Dtypes = QTypeLike | Mapping[Any, QTypeLike | None]
AnyRounding = Literal["nearest", "search", "gptq"]


def as_dtypes(dtype: Dtypes) -> ByName[QType]:
    """What the argument `dtype` stands for.

    Raises:
        TypeError, ValueError: a type that weights cannot have; a mapping that quantizes nothing.
    """
    choices = ByName[QType]()
    choices.put_all("dtype", dtype if isinstance(dtype, Mapping) else {"": dtype}, _as_weight_type)
    if not choices.values():
        raise ValueError(
            "dtype must give a type to quantize to, such as {'': 'int8', 'head': None}; it leaves all in float"
        )
    return choices


def _as_weight_type(key: str | type, dtype: Any) -> QType | None:
    if dtype is None and key != "":
        return None
    if dtype is None:
        raise TypeError('dtype must be "int8" or "int4", got None; omit the default to leave other layers in float')
    return as_weight_qtype(dtype)


@dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """How weights become integers; the fields are arguments of `quantize_dynamic`."""

    dtypes: ByName[QType]
    group_size: int | None = None
    symmetric: bool = True
    scale_dtype: ScaleDtype = "float32"
    rounding: AnyRounding | None = None
    activation: ActivationScheme = "symmetric"
    activation_group: int | None = None

    def type_of(self, path: str, kind: type) -> QType | None:
        """The type of the weights at a path; None leaves them in float."""
        return self.dtypes.resolve(path, kind)

    @property
    def four_bit_types(self) -> bool:
        """Whether some weights are to have four bits."""
        return qint4 in self.dtypes.values()

    @property
    def calibrated_type(self) -> QType:
        """Of the weights that calibration rounds: those of four bits if there are any."""
        return qint4 if self.four_bit_types else qint8

    @property
    def groups(self) -> dict[str, Any]:
        """The options of groups of four-bit weights."""
        return {"group_size": self.group_size, "symmetric": self.symmetric, "scale_dtype": self.scale_dtype}

    def arguments(self, qtype: QType) -> dict[str, Any]:
        """Arguments of `QuantLinear` for weights of that type.

        Options of four-bit weights are kept from eight-bit ones only where there are both; else they are refused.
        """
        if qtype == qint8 and self.four_bit_types:
            return {"dtype": qtype, "activation": self.activation}
        if qtype == qint8 and self.rounding == "gptq":
            return replace(self, rounding=None).arguments(qtype)  # of what has no inputs to calibrate by
        rounding = "search" if self.rounding == "gptq" else self.rounding  # of what has no inputs to calibrate by
        found = self.groups | {"dtype": qtype, "rounding": rounding, "activation": self.activation}
        return found | ({} if self.activation_group is None else {"activation_group": self.activation_group})

    def check_shape(self, path: str, w: NDArray[Any]) -> None:
        """Raises ValueError where an array (outputs, inputs) at that path has a shape that no layer can have."""
        four_bits = self.type_of(path, np.ndarray) == qint4
        size, symmetric = (self.group_size, self.symmetric) if four_bits else (None, True)
        check_weight_shape(w, self.activation, int4=four_bits, group_size=size, symmetric=symmetric)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Batches that rounding of weights looks at, and how to run the model on them."""

    batches: Iterable[Any]
    rounding: Literal["search", "gptq"]
    forward: Forward
    sequential: bool = False
    progress: bool = False
    report: Callable[[Any], object] | None = None

    @classmethod
    def of(
        cls,
        options: WeightOptions,
        batches: Iterable[Any] | None,
        forward: Forward,
        progress: bool,
        report: Callable[[Any], object] | None,
        sequential: bool,
    ) -> Calibration | None:
        """The calibration that is asked for, if any; an error where options and batches do not go together."""
        rounding = options.rounding
        if sequential and rounding != "gptq":
            raise ValueError(f'sequential=True is for rounding="gptq", got {rounding!r}')
        if batches is None:
            if rounding == "gptq":
                raise ValueError('rounding="gptq" needs calibration=batches, which the layers\' inputs are taken from')
            if report is not None:
                raise ValueError("rounding_report needs calibration=batches, which the errors are measured on")
            return None
        if not options.four_bit_types and rounding != "gptq":
            raise ValueError(
                'calibration is for dtype="int4", got qint8; int8 weights need it for rounding="gptq" alone'
            )
        if rounding not in (None, "search", "gptq"):
            raise ValueError(f'rounding must be "search" or "gptq" with calibration, got {rounding!r}')
        return cls(
            batches=check_batches(batches, "calibration"),
            rounding="gptq" if rounding == "gptq" else "search",
            forward=forward,
            sequential=sequential,
            progress=progress,
            report=report,
        )


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Whether the speed beside the float layers is measured, and with how many rows: if there is a least one."""

    min_speedup: float | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.min_speedup is not None and not self.min_speedup >= 0:
            raise ValueError(f"min_speedup must be a factor such as 1.0, got {self.min_speedup!r}")
        if self.min_speedup is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, a number of rows, got {self.batch_size!r}")
