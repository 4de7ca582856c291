"""The last step of static quantization: layers that have seen their ranges become integer layers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo import tree
from octavo.prepare import Observed, ObservedLinear, ObservedQuantStub, float_layer, observed_layers, observed_qparams
from octavo.qarray import QuantizedArray
from octavo.qparams import QParams, as_real_array, qint8
from octavo.quantize import fake_quantize, quantize
from octavo.static_linear import StaticQuantLinear
from octavo.tracing import KEPT

__all__ = ["Quantize", "convert"]


class Quantize:
    """q = quantize(x), a QuantizedArray: what `convert` makes of a QuantStub.

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
            if x.qparams == self.qparams and not self.as_float:
                return x
            x = x.dequantize()
        try:
            if self.as_float:
                return fake_quantize(x, self.qparams)
            return QuantizedArray(quantize(x, self.qparams), self.qparams)
        except (TypeError, ValueError) as error:
            raise type(error)(f"QuantStub {self.name}: {error}") from None

    def __repr__(self) -> str:
        p = self.qparams
        return f"Quantize({p.qtype.name} scale={p.scale!s} zero_point={p.zero_point})"


def convert(prepared: Any, *, unobserved: Literal["error", "float"] = "error") -> Any:
    """Makes integer layers of a calibrated model's float layers, in a copy, and returns it.

    y = float32(sum_k (q_x[k] - z_x) q_w[n, k]) * (s_x * s_w[n]) + b[n], and q_y = quantize(y) in the same pass where
    calibration saw every use of y by a quantized layer or a DeQuantStub, directly or behind ReLU, reshape, transpose or
    slicing. Everywhere else the result is float32. ReLU goes into the layer where `calibrate` saw every use behind it.

    Args:
        prepared: what `prepare` returned, calibrated. It stays as it is, and can be calibrated on and converted again.
        unobserved: what becomes of layers that calibration never reached: "error", or "float" to leave them.

    Returns:
        The converted model: `StaticQuantLinear` in place of the layers, safe to call from many threads.

    Raises:
        TypeError: a QConfig asks for what the kernels do not have; the layer is named.
        ValueError: layers that saw no data (all are named); weights with NaN or infinity; prepared is not prepared.

    Warns:
        UserWarning: a layer saw only zeros; its scale is 1.

    Notes:
        Weights are symmetric int8, per channel or per tensor as the QConfig's weight observer has it. A prepared model
        that was only run by hand, never by `calibrate`, folds no ReLU, because what it returned is not known.

    Example:
        >>> import numpy as np, octavo as oc
        >>> layer = oc.nn.Linear(np.eye(2, dtype=np.float32))
        >>> prepared = oc.prepare(layer, oc.default_qconfig, layers={oc.nn.Linear})
        >>> x = np.float32([[0, 2.55]])
        >>> oc.calibrate(prepared, [x])
        >>> oc.convert(prepared)(x).round(1)
        array([[0. , 2.5]], dtype=float32)
    """
    if unobserved not in ("error", "float"):
        raise ValueError(f'unobserved must be "error" or "float", got {unobserved!r}')
    found = observed_layers(prepared)
    missing = [layer.name for _, layer in found if not layer.input.seen]
    if missing and unobserved == "error":
        raise ValueError(
            f"these layers saw no calibration data: {', '.join(missing)}. Run octavo.calibrate(prepared, batches) with "
            'inputs that reach them, or convert(prepared, unobserved="float") to leave them in float'
        )
    for _, layer in found:
        layer.tracer.finish()
    converted = {}
    for _, layer in found:  # no comprehension: the warning's stacklevel counts frames
        converted[id(layer)] = _converted(layer) if layer.input.seen else float_layer(layer)
    return tree.copy_with(prepared, converted)


def _converted(observed: Observed) -> Any:
    if isinstance(observed, ObservedQuantStub):
        as_float = observed.source.float_use not in (None, KEPT)
        return Quantize(observed.input.qparams(), as_float=as_float, name=observed.name)
    name, source = f"layer {observed.name}", observed.source
    weight, bias = observed.read()
    q, scale = _quantized_weight(weight, observed, name)
    output = None
    if source.gives_integers:
        output = (observed.relu_output if source.folds_relu else observed.output).qparams()
    call = observed.spec.call
    try:
        return StaticQuantLinear(
            q,
            scale,
            bias,
            input=observed.input.qparams(),
            output=output,
            relu=source.folds_relu or observed.spec.activation == "relu",
            folded=source.folds_relu,
            name=observed.name,
            call="forward" if call == "__call__" else call,
        )
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def _quantized_weight(
    weight: NDArray[Any], observed: ObservedLinear, name: str
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(q_w, s_w) with the parameters of the QConfig's weight observer."""
    w = as_real_array(weight, f"{name}: weight").astype(np.float32)
    if not np.isfinite(w).all():
        raise ValueError(f"{name}: weight must be finite in float32")
    observer = observed.qconfig.weight()
    observer(w)
    params = observed_qparams(observer, f"{name}, its weight", stacklevel=5)
    if params.qtype != qint8 or params.axis not in (None, 0) or params.group_size is not None:
        raise TypeError(
            f"{name}: weights must be qint8, per tensor or per output channel (ch_axis=0), got {params!r}; "
            "choose another weight observer in its QConfig"
        )
    if params.zero_point.any():
        raise TypeError(f"{name}: weights must be symmetric, without zero point; choose a symmetric qscheme")
    return quantize(w, params).astype(np.int8, copy=False), params.scale
