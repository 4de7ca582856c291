"""Where a model laid out as torch's goes from floats to integers and back."""

from __future__ import annotations

from typing import Any

from octavo._layers.arrays.quantized import QuantizedArray
from octavo._layers.arrays.traced import taken
from octavo._numerics.definition import fake_quantize, quantize
from octavo._numerics.params import QParams
from octavo._util.errors import raise_named

__all__ = ["DeQuantStub", "QuantStub", "Quantize"]


class QuantStub:
    """x, as it is; the converted model quantizes here, x' = quantize(x), with parameters that calibration found.

    Not needed for octavo, whose layers quantize a float input on their way. It is here for models laid out as torch's,
    and to have one array quantized once for several layers.

    Example:
        >>> import octavo as oc
        >>> oc.QuantStub()(2.5)
        2.5
    """

    def __call__(self, x: Any) -> Any:
        return x

    def __repr__(self) -> str:
        return "QuantStub()"


class DeQuantStub:
    """x, as it is; in the converted model a QuantizedArray becomes the float32 array x' = (q - z) * s here.

    Not needed for octavo: what computes with floats sees floats. It is here for models laid out as torch's.

    Example:
        >>> import octavo as oc
        >>> oc.DeQuantStub()(oc.QuantizedArray(oc.quantize([1.0, 2.0], oc.QParams(0.5, 0)), oc.QParams(0.5, 0)))
        array([1., 2.], dtype=float32)
    """

    def __call__(self, x: Any) -> Any:
        return x.dequantize() if type(x) is QuantizedArray else taken(x)

    def __repr__(self) -> str:
        return "DeQuantStub()"


class Quantize:
    """q = quantize(x), a QuantizedArray: what `convert` makes of a QuantStub, and of a trained DeQuantStub (as_float).

    Args:
        qparams: per tensor, int8 or uint8.
        as_float: give the float32 array that the integers stand for; for results that code uses as floats.
        name: its place in the model, for messages.

    Example:
        >>> import octavo as oc
        >>> oc.Quantize(oc.QParams(0.5, 10, "uint8"))([1.0, 2.0]).int_repr()
        array([12, 14], dtype=uint8)
    """

    def __init__(self, qparams: QParams, *, as_float: bool = False, name: str = "") -> None:
        self.qparams = qparams
        self.as_float = as_float
        self.name = name

    def __call__(self, x: Any) -> Any:
        if type(x) is QuantizedArray:
            if x.qparams == self.qparams:
                return x.dequantize() if self.as_float else x
            x = x.dequantize()
        try:
            if self.as_float:
                return fake_quantize(x, self.qparams)
            return QuantizedArray(quantize(x, self.qparams), self.qparams)
        except (TypeError, ValueError) as error:
            raise_named(error, f"QuantStub {self.name}", hide=True)

    def __repr__(self) -> str:
        p = self.qparams
        return f"Quantize({p.qtype.name} scale={p.scale!s} zero_point={p.zero_point})"
