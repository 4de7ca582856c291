"""StaticQuantLinear: what `convert` makes of a layer. Its activations have fixed scales, known before the call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo._layers.arrays.quantized import QuantizedArray, kernel_numbers
from octavo._layers.epilogue import as_epilogue
from octavo._layers.images import weights_of_state
from octavo._layers.linear import QuantLinear, int8_weight
from octavo._layers.packing import empty_result, no_result
from octavo._layers.weights import Weights
from octavo._numerics.checks import as_activations, check_inputs
from octavo._numerics.input_transform import InputTransform
from octavo._numerics.params import QParams, qint4, qint8, quint4, quint8
from octavo._util.arrays import as_rows, check_out, real_dtype, rows_in_place
from octavo._util.errors import raise_named
from octavo._util.pickling import pickled

__all__ = ["StaticQuantLinear"]

# Of a pickle: canonical integers, the same with a pre_quant_scale, packed ones.
_STATE_VERSION, _SCALED_VERSION, _IMAGE_VERSION = 1, 2, 3
_ANY_OUTPUT = (1.0, 0, 0, 1)  # not looked at where the result is float32


class StaticQuantLinear(QuantLinear):
    """y = float32(sum_k (q_x[k] - z_x) q_w[n, k]) * (s_x * s_w[n]) + b[n], with s_x and z_x fixed beforehand.

    With `output` parameters the result is the integers quantize(y), a `QuantizedArray`, made in the same pass; else it
    is y, float32. Usually made by `convert`. Immutable; any number of threads may call it.

    Args:
        weight: int8 (out_features, in_features).
        scale: s_w (out_features,) float32, or one number for all.
        bias: (out_features,) or None.
        input: s_x and z_x, per tensor, int8 or uint8: how a float x is quantized.
        output: the parameters of the result, per tensor, int8 or uint8; None for a float32 result.
        relu: apply ReLU to y.
        pre_quant_scale: as for `QuantLinear`: the integers are those of W * s, and `input` is of x / s. Such a layer
            takes floats alone.
        folded: relu stands for a ReLU that the model's code applies to the result: the integers may then be used behind
            np.maximum(q, 0) alone, and every other use of them raises RuntimeError.
        name: the layer's place in the model, for messages.
        call: name of a method that calls the layer, besides ``__call__`` and ``forward``.

    Raises:
        TypeError: weight is not int8, or parameters are not per tensor in 8 bits.
        ValueError: shapes do not fit; in_features above 65,793; s_x * s_w overflows.

    Notes:
        A QuantizedArray brings its own s_x and z_x. Infinity saturates; NaN in x is a ValueError, as integers have
        none. The arithmetic is that of docs/design.md, "Numeric contract"; torch.ao calls this nnq.Linear.

    Example:
        >>> import numpy as np, octavo as oc
        >>> eight = oc.QParams(0.5, 0, "uint8")
        >>> layer = oc.StaticQuantLinear(np.array([[2, 1]], np.int8), 1.0, input=eight, output=eight)
        >>> layer(np.float32([[1, 3]]))
        QuantizedArray([[5.]], quint8, scale=0.5, zero_point=0)
    """

    __slots__ = ("_folded", "_input", "_input_numbers", "_name", "_output", "_output_numbers")

    _packed: Any  # a _core.PackedLinear: int8

    def __init__(
        self,
        weight: NDArray[np.int8],
        scale: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        input: QParams,
        output: QParams | None = None,
        relu: bool = False,
        pre_quant_scale: ArrayLike | None = None,
        folded: bool = False,
        name: str = "",
        call: str = "forward",
    ) -> None:
        q, s_w = int8_weight(weight, scale, "asymmetric", remedy="`convert` quantizes float layers")
        require_per_tensor_8_bit(input, "input")
        if output is not None:
            require_per_tensor_8_bit(output, "output")
        with np.errstate(all="ignore"):
            if not np.isfinite(input.scale * s_w).all():
                raise ValueError(f"input scale {input.scale} times the largest weight scale {s_w.max()} is infinite")
        epilogue = as_epilogue(None, relu)
        self._set(
            (q, s_w), bias, activation="asymmetric", inputs=InputTransform.of(pre_quant_scale, None, q.shape[1]),
            epilogue=epilogue, call=call,
        )  # fmt: skip
        self._fix(input, output, folded, name)

    def _fix(self, input: QParams, output: QParams | None, folded: bool, name: str) -> None:
        self._input, self._output, self._name = input, output, str(name)
        self._folded = self._label() if folded else None
        self._input_numbers = kernel_numbers(input)
        self._output_numbers = None if output is None else kernel_numbers(output)

    @classmethod
    def _of_int8(
        cls,
        weights: Weights,
        *,
        input: QParams,
        output: QParams | None,
        relu: bool,
        inputs: InputTransform,
        folded: bool,
        name: str,
        call: str,
    ) -> StaticQuantLinear:
        """A layer of packed int8 weights."""
        require_per_tensor_8_bit(input, "input")
        if output is not None:
            require_per_tensor_8_bit(output, "output")
        layer = cls.__new__(cls)
        layer._hold(weights, "asymmetric", as_epilogue(None, relu), call, inputs)
        layer._fix(input, output, folded, name)
        return layer

    def __call__(self, x: ArrayLike | QuantizedArray, out: NDArray[Any] | None = None) -> Any:
        """y = x W^T + b in integers.

        Args:
            x: (..., in_features), real numbers or a QuantizedArray (per tensor, int8 or uint8).
            out: for a layer with a float32 result: where to put it; exactly its shape and dtype.

        Returns:
            (..., out_features): a QuantizedArray with `output_qparams` where the layer has them. Otherwise floats:
            float16 and float64 input gives its own dtype back, all else float32.

        Raises:
            TypeError: x is of a kind the layer cannot take, or out does not fit.
            ValueError: x holds NaN, or its last dimension is not in_features. The layer is named.
        """
        rows, numbers, leading, dtype = self._rows(x)
        if self._output_numbers is None:
            return self._float_result(rows, numbers, (*leading, self.out_features), dtype, out)
        if out is not None:
            raise TypeError(f"{self._label()} gives integers, which out cannot hold; omit out=")
        q = empty_result(rows.shape[0], self.out_features, self._output.qtype.storage)  # type: ignore[union-attr]
        if not self._packed.forward_static(rows, *numbers, q, *self._output_numbers):
            self._refuse_nan(rows)
        if len(leading) != 1:
            q = q.reshape(*leading, self.out_features)
        return QuantizedArray._made(q, cast("QParams", self._output), self._output_numbers, self._folded)

    forward = __call__

    def _quick_call(self) -> Callable[[Any], None]:
        return no_result

    def _rows(self, x: Any) -> tuple[NDArray[Any], tuple[float, int, int, int], tuple[int, ...], np.dtype[Any]]:
        """x as (m, in) contiguous rows, float32 or integers; their parameters; leading shape; the result's dtype."""
        if type(x) is QuantizedArray:
            if self._inputs.scale is not None:
                raise TypeError(
                    f"{self._label()} has a pre_quant_scale, which divides floats, and got a QuantizedArray; "
                    "pass x.dequantize(), or fold the scale into what makes x"
                )
            try:
                require_per_tensor_8_bit(x.qparams, "x")
            except TypeError as error:
                raise TypeError(f"{self._label()}: {error}; or pass x.dequantize()") from None
            x._unfolded()
            q, k = x._q, self.in_features
            check_inputs(q.shape, (self.out_features, k), f"{self._label()}: ")
            if q.ndim != 2:
                q = q.reshape(math.prod(q.shape[:-1]), k)
            if k > 1 and q.strides[1] != 1:
                q = np.ascontiguousarray(q)
            return q, x.numbers(), x.shape[:-1], np.dtype(np.float32)
        try:
            a = as_activations(x, self.in_features, self.out_features)
        except (TypeError, ValueError) as error:
            raise_named(error, self._label(), hide=True)
        with np.errstate(all="ignore"):  # float64 beyond float32 is infinity, which saturates
            rows = as_rows(a)
        return rows, self._input_numbers, a.shape[:-1], real_dtype(a)

    def _float_result(
        self,
        rows: NDArray[Any],
        numbers: tuple[float, int, int, int],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        out: NDArray[Any] | None,
    ) -> NDArray[Any]:
        target = None
        if out is not None:
            check_out(out, shape, dtype)
            if not np.may_share_memory(out, rows):
                target = rows_in_place(out, rows.shape[0], self.out_features)
        y = empty_result(rows.shape[0], self.out_features, np.float32) if target is None else target
        if not self._packed.forward_static(rows, *numbers, y, *_ANY_OUTPUT):
            self._refuse_nan(rows)
        if target is not None:
            return cast("NDArray[Any]", out)
        with np.errstate(all="ignore"):
            result = y.reshape(shape).astype(dtype, copy=False)
        if out is None:
            return result
        np.copyto(out, result)
        return out

    def _refuse_nan(self, rows: NDArray[Any]) -> NoReturn:
        row, column = np.argwhere(np.isnan(rows))[0]
        raise ValueError(
            f"{self._label()}: x must not hold NaN, got it first at row {row}, column {column}; NaN has no integer: "
            "replace it, or correct where it comes from"
        )

    def _label(self) -> str:
        return f"layer {self._name}" if self._name else "the layer"

    @classmethod
    def from_quantized(cls, *args: Any, **options: Any) -> NoReturn:
        """Not for static layers, which need ranges: call ``StaticQuantLinear`` itself."""
        raise TypeError("a static layer needs the parameters of its input: StaticQuantLinear(weight, scale, input=...)")

    @classmethod
    def from_float(cls, *args: Any, **options: Any) -> NoReturn:
        """Not for static layers, which need ranges: use `prepare`, `calibrate` and `convert`."""
        raise TypeError("a static layer needs the range of its input: use prepare, calibrate and convert")

    @classmethod
    def from_grouped(cls, *args: Any, **options: Any) -> NoReturn:
        """Not for static layers, whose weights are int8."""
        raise TypeError("a static layer has int8 weights: QuantLinear.from_grouped makes a dynamic layer of int4 ones")

    @property
    def input_qparams(self) -> QParams:
        """How a float x is quantized."""
        return self._input

    @property
    def output_qparams(self) -> QParams | None:
        """The parameters of the integers that the layer gives; None where it gives float32."""
        return self._output

    def _options(self) -> dict[str, Any]:
        output = "float32" if self._output is None else _short(self._output)
        bias, relu = self._packed.bias() is not None, self.relu
        scaled = self._inputs.scale is not None
        return {
            "input": _short(self._input), "output": output, "pre_quant_scale": scaled, "bias": bias, "relu": relu,
        }  # fmt: skip

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantLinear:
        layer = super().__deepcopy__(memo)
        for name in StaticQuantLinear.__slots__:
            setattr(layer, name, getattr(self, name))  # immutable too
        return layer

    def _restorer(self) -> Callable[[dict[str, Any]], QuantLinear]:
        return _static_from_state

    def _state(self) -> dict[str, Any]:
        s = self._inputs.scale
        scaled: dict[str, Any] = {} if s is None else {"version": _SCALED_VERSION, "pre_quant_scale": s}
        return {
            "version": _STATE_VERSION,
            "weight": self.int_repr(),
            "scale": self._packed.scale(),
            "bias": self._packed.bias(),
            "relu": self.relu,
            "call": self._call_name,
            **self._fixed(),
            **scaled,
        }

    def _image_state(self) -> dict[str, Any]:
        return super()._image_state() | self._fixed() | {"version": _IMAGE_VERSION, "relu": self.relu}

    def _fixed(self) -> dict[str, Any]:
        return {"input": self._input, "output": self._output, "folded": self._folded is not None, "name": self._name}


@pickled
def _static_from_state(state: dict[str, Any]) -> StaticQuantLinear:
    """What a pickle calls: canonical integers, packed anew for the machine that loads them; or packed ones."""
    state = dict(state)
    version = state.pop("version")
    if version == _IMAGE_VERSION:
        names = ("input", "output", "relu", "folded", "name", "call")
        inputs, rest = InputTransform(state["pre_quant_scale"]), {name: state[name] for name in names}
        return StaticQuantLinear._of_int8(weights_of_state(state, inputs), inputs=inputs, **rest)
    if version not in (_STATE_VERSION, _SCALED_VERSION):
        raise ValueError(
            f"this StaticQuantLinear was pickled with format {version}, this octavo reads 1 to {_IMAGE_VERSION}; "
            "use a newer octavo"
        )
    return StaticQuantLinear(state.pop("weight"), state.pop("scale"), state.pop("bias"), **state)


def require_per_tensor_8_bit(qparams: QParams, name: str) -> None:
    """Raises TypeError for parameters that the kernels do not take for activations."""
    if qparams.axis is not None or qparams.qtype not in (qint8, quint8):
        shape = "per tensor" if qparams.axis is None else f"along axis {qparams.axis}"
        raise TypeError(f"{name} must have int8 or uint8 parameters per tensor, got {qparams.qtype.name} {shape}")


def in_8_bits(qparams: QParams) -> QParams:
    """The same integers in the 8-bit type that holds them.

    Example:
        >>> import octavo as oc
        >>> from octavo._layers.static import in_8_bits
        >>> in_8_bits(oc.QParams(0.5, 0, "uint4"))
        QParams(scale=0.5, zero_point=0, qtype=octavo.quint8, qmax=15)
    """
    if qparams.qtype not in (qint4, quint4):
        return qparams
    kind = qint8 if qparams.qtype == qint4 else quint8
    scale, zero_point = qparams
    return QParams(
        scale, zero_point, kind, qmin=qparams.qmin, qmax=qparams.qmax, axis=qparams.axis, group_size=qparams.group_size
    )


def _short(qparams: QParams) -> str:
    return f"{qparams.qtype.name} scale={qparams.scale!s} zero_point={qparams.zero_point}"
