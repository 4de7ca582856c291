"""The last step of static quantization: layers that have seen their ranges become integer layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from octavo._layers.matrix import QuantMatrix
from octavo._layers.static import StaticQuantLinear, in_8_bits
from octavo._layers.stubs import Quantize
from octavo._models import walk as tree
from octavo._models.paths import find
from octavo._numerics.definition import quantize
from octavo._numerics.input_scale import scaled_weight
from octavo._numerics.params import QParams, qint8
from octavo._quantize.qconfig import QConfig
from octavo._quantize.static.observed import ObservedMatrix, Prepared, PreparedLinear, observed_layers
from octavo._quantize.static.ranges import Ranges, observed_qparams
from octavo._util.arrays import as_real_array
from octavo._util.errors import raise_named

__all__ = ["convert"]

_Model = TypeVar("_Model")


def convert(
    prepared: _Model,
    *,
    unobserved: Literal["error", "float"] = "error",
    qparams: Mapping[str, Mapping[str, QParams]] | None = None,
) -> _Model:
    """Makes integer layers of a calibrated or trained model's float layers, in a copy, and returns it.

    y = float32(sum_k (q_x[k] - z_x) q_w[n, k]) * (s_x * s_w[n]) + b[n], and q_y = quantize(y) in the same pass where
    calibration saw every use of y by a quantized layer or a DeQuantStub, directly or behind ReLU, reshape, transpose or
    slicing. Everywhere else the result is float32. ReLU goes into the layer where `calibrate` saw every use behind it.

    Args:
        prepared: what `prepare` returned, calibrated, or what `prepare_qat` returned, trained. It stays as it is, and
            can be calibrated or trained on and converted again.
        unobserved: what becomes of layers that no data reached: "error", or "float" to leave them.
        qparams: parameters found elsewhere, in place of the observers': {"fc1": {"input": ..., "weight": ...,
            "output": ...}}, each entry optional. "input" and "output" are per tensor; "weight" is per tensor or per
            output channel (axis=0), without zero point; "output" makes the result integers. A stub has an "input", an
            array "input" and "weight".

    Returns:
        The converted model: `StaticQuantLinear` in place of the layers, and `QuantMatrix` with a fixed input range in
        place of the arrays; safe to call from many threads.

    Raises:
        TypeError: a QConfig or qparams asks for what the kernels do not have; the layer is named.
        ValueError: layers that saw no data (all are named); weights with NaN or infinity; prepared is not prepared;
            qparams names something that is not prepared, or another entry than these three.

    Warns:
        UserWarning: a layer saw only zeros; its scale is 1.

    Notes:
        Weights are symmetric int8, per channel or per tensor as the QConfig's weight observer has it; those of four and
        fewer bits are held in int8. A prepared model that was only run by hand, never by `calibrate`, folds no ReLU,
        because what it returned is not known. A trained model's integers are those that training simulated; it hands
        them on from layer to layer if `calibrate` has seen, before or after training, how results are used.

    Example:
        >>> import numpy as np, octavo as oc
        >>> layer = oc.nn.Linear(np.eye(2, dtype=np.float32))
        >>> prepared = oc.prepare(layer, oc.default_qconfig, layers={oc.nn.Linear})
        >>> x = np.float32([[0, 2.55]])
        >>> oc.calibrate(prepared, [x])
        >>> oc.convert(prepared)(x).round(1)
        array([[0. , 2.5]], dtype=float32)
        >>> given = oc.QParams(0.5, 0, "uint8")
        >>> oc.convert(prepared, qparams={"": {"input": given}})(x).round(2)
        array([[0.  , 2.49]], dtype=float32)
    """
    if unobserved not in ("error", "float"):
        raise ValueError(f'unobserved must be "error" or "float", got {unobserved!r}')
    found = observed_layers(prepared)
    given = _given({} if qparams is None else qparams, dict(found))
    left = {path for path, layer in found if not layer.seen and "input" not in given.get(path, {})}
    if left and unobserved == "error":
        names = ", ".join(layer.name for path, layer in found if path in left)
        raise ValueError(
            f"these layers saw no calibration data: {names}. Run octavo.calibrate(prepared, batches) with "
            'inputs that reach them, or convert(prepared, unobserved="float") to leave them in float'
        )
    for _, layer in found:
        layer.tracer.finish()
    converted = {}
    for path, layer in found:
        stays = path in left or layer.is_float
        converted[id(layer)] = layer.original() if stays else _converted(layer, given.get(path, {}))
    model: _Model = tree.copy_with(prepared, converted)
    return model


def _given(
    qparams: Mapping[str, Mapping[str, QParams]], layers: Mapping[str, Prepared]
) -> dict[str, dict[str, QParams]]:
    """qparams by the one spelling of their paths, found to fit the layers."""
    if not (isinstance(qparams, Mapping) and all(isinstance(entries, Mapping) for entries in qparams.values())):
        raise TypeError(f'qparams must be a dict such as {{"fc1": {{"input": QParams(...)}}}}, got {qparams!r:.80}')
    given: dict[str, dict[str, QParams]] = {}
    for spelt, entries in qparams.items():
        path = find(spelt, layers)
        if path is None:
            known = ", ".join(map(repr, layers))
            raise ValueError(f"qparams names {spelt!r}, but the prepared layers are {known}")
        layer = layers[path]
        names: tuple[str, ...] = ("input",)
        if isinstance(layer, (PreparedLinear, ObservedMatrix)):
            names = ("input", "weight", "output") if isinstance(layer, PreparedLinear) else ("input", "weight")
        for name, value in entries.items():
            if name not in names:
                expected = " or ".join(map(repr, names))
                raise ValueError(f"qparams of {layer.name} must be for {expected}, got {name!r}")
            if not isinstance(value, QParams):
                raise TypeError(f"qparams of {layer.name}, {name}: must be a QParams, got {value!r}")
        given[path] = dict(entries)
    return given


def _converted(layer: Prepared, given: dict[str, QParams]) -> Any:
    ranges = layer.ranges(needed="input" not in given)
    ranges = dataclasses.replace(
        ranges,
        input=given.get("input", ranges.input),
        weight=given.get("weight", ranges.weight),
        output=given.get("output", ranges.output),
        folds_relu=ranges.folds_relu and "output" not in given,
    )
    if isinstance(layer, PreparedLinear):
        return _static_layer(layer, ranges)
    if isinstance(layer, ObservedMatrix):
        return _static_matrix(layer, ranges)
    return Quantize(in_8_bits(ranges.input), as_float=ranges.as_float, name=layer.name)


def _static_layer(layer: PreparedLinear, ranges: Ranges) -> StaticQuantLinear:
    name, call = f"layer {layer.name}", layer.spec.call
    assert layer.qconfig is not None
    weight, bias = layer.read_float()
    q, scale = _quantized_weight(scaled_weight(weight, layer.pre_quant_scale), layer.qconfig, ranges, name)
    try:
        return StaticQuantLinear(
            q,
            scale,
            bias,
            input=in_8_bits(ranges.input),
            output=None if ranges.output is None else in_8_bits(ranges.output),
            pre_quant_scale=layer.pre_quant_scale,
            relu=ranges.folds_relu or layer.spec.activation == "relu",
            folded=ranges.folds_relu,
            name=layer.name,
            call="forward" if call == "__call__" else call,
        )
    except (TypeError, ValueError) as error:
        raise_named(error, name)


def _static_matrix(matrix: ObservedMatrix, ranges: Ranges) -> QuantMatrix:
    name = f"array {matrix.name}"
    s = matrix.pre_quant_scale
    q, scale = _quantized_weight(scaled_weight(matrix.float_weight(), s), matrix.qconfig, ranges, name)
    try:
        layer = StaticQuantLinear(q, scale, input=in_8_bits(ranges.input), pre_quant_scale=s, name=matrix.name)
    except (TypeError, ValueError) as error:
        raise_named(error, name)
    return QuantMatrix._made(layer, matrix.axis)


def _quantized_weight(
    weight: NDArray[Any], qconfig: QConfig, ranges: Ranges, name: str
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(q_w, s_w) with the parameters that were given or trained, or those of the QConfig's weight observer."""
    with np.errstate(all="ignore"):
        w = as_real_array(weight, f"{name}: weight").astype(np.float32)
    if not np.isfinite(w).all():
        raise ValueError(f"{name}: weight must be finite in float32")
    if ranges.weight is not None:
        params = in_8_bits(ranges.weight)
    else:
        observer = qconfig.weight()
        observer(w)
        params = in_8_bits(observed_qparams(observer, f"{name}, its weight"))
    if params.qtype != qint8 or params.axis not in (None, 0) or params.group_size is not None:
        raise TypeError(
            f"{name}: weights must be qint8, per tensor or per output channel (ch_axis=0), got {params!r}; "
            "choose another weight observer in its QConfig"
        )
    if params.zero_point.any():
        raise TypeError(f"{name}: weights must be symmetric, without zero point; choose a symmetric qscheme")
    try:
        return quantize(w, params).astype(np.int8, copy=False), params.scale
    except ValueError as error:
        raise_named(error, f"{name}, its weight")
