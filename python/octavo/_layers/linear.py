"""QuantLinear: a linear layer with int8 or int4 weights, in place of a float one."""

from __future__ import annotations

from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo._layers.epilogue import Epilogue, as_epilogue
from octavo._layers.held_weights import HeldWeights
from octavo._layers.images import OWN_FAMILY, image_options, weights_of_image, weights_of_state
from octavo._layers.packing import check_weight_shape, empty_result
from octavo._layers.weights import (
    ROTATED_VERSION,
    SCALED_VERSION,
    ActivationScheme,
    Weights,
    from_state,
    pack,
    shape_of,
)
from octavo._numerics.checks import as_activations, as_bias, check_group_size, is_int4
from octavo._numerics.definition import quantize_weight
from octavo._numerics.grouped import GroupedCodes
from octavo._numerics.input_transform import InputTransform
from octavo._numerics.int4 import GroupedWeight, ScaleDtype
from octavo._numerics.params import QParams, QTypeLike, qint8
from octavo._numerics.rounding import round_nearest, round_search
from octavo._util.arrays import as_rows, check_out, real_dtype, rows_in_place
from octavo._util.foreign import as_array, as_real
from octavo._util.pickling import pickled

__all__ = ["Layout", "QuantLinear", "Rounding"]

Rounding = Literal["nearest", "search"]
Layout = Literal["out_in", "in_out"]  # of a float matrix: x @ w.T or x @ w

# Of a pickle that holds packed weights, and of one whose inputs are rotated; weights.py has the others.
_IMAGE_VERSION, _ROTATED_IMAGE_VERSION = 5, 7

_BIAS_ELEMS = 16  # the last array of an image is a multiple of so many floats: csrc/gemm/layer.cpp

_ROUNDERS = {"nearest": round_nearest, "search": round_search}


class QuantLinear(HeldWeights):
    """y = float32(sum_k q_x[k] q_w[n, k]) * (s_x * s_w[n]) + b[n]: integer weights, activations quantized per row.

    Replaces a float layer y = x W^T + b. Each row of x gets a scale (and zero point) of its own when the layer is
    called, so row i of a batch gives the same bits as row i by itself, on every CPU and with any number of threads. The
    layer is immutable; any number of threads may call it.

    int8 weights are symmetric with one scale per output channel, s_w[n] = max|W[n]| / 127. int4 weights take half the
    memory and have a scale for each group of consecutive inputs, f_g = float32(sum over the group) * s_w[n, g]:
    y = (((0 + f_0) + f_1) + ...) * s_x + b[n].

    Args:
        weight: (out_features, in_features), float16, float32 or float64; finite. Computed with in float32.
        bias: (out_features,) or None; finite.
        dtype: of the weights: "int8" or "int4", in any spelling (``oc.qint8``, ``np.int8``).
        group_size: int4 only: inputs that share a scale, a multiple of 32; None: all of a row. Smaller groups are more
            accurate, larger ones smaller and faster. in_features need not be a multiple of it: the last group is
            shorter, and in memory it is filled up with zeros to a multiple of 64 inputs.
        symmetric: int4 only: False gives each group a zero point of its own, for weights that are not centred.
        scale_dtype: int4 only: "float16" halves the scales' memory (at group_size=32, from a fifth of the layer to a
            ninth) and rounds each scale to 11 bits. That changes a weight by at most 2**-11 of itself, a hundredth of
            what rounding it to int4 may cost.
        rounding: how int4 weights are chosen: "search" (the default) tries scales for the least squared error,
            "nearest" takes the scale that the group's range gives. int8 weights are always rounded to nearest.
        activation: how rows of x are quantized to int8. "symmetric": s_x = max|x| / 127, zero point 0.
            "asymmetric": s_x = (max(x, 0) - min(x, 0)) / 255 with a zero point; half the step for rows of one sign,
            such as a ReLU's output, at the cost of one more integer operation per output (and group). "int16":
            s_x = max|x| / 32639, 256 times as fine, for twice the multiplications. This adds little if reading the
            weights takes most of the time, as for single rows of large layers. docs/gguf.md compares them.
        activation_group: with "symmetric": inputs of a row that share a scale, 32, 64, 128 or 256, a multiple of the
            weights' group_size; None: one scale a row. `from_grouped` lists what else these two options require of the
            weights.
        pre_quant_scale: s (in_features,), positive. x is divided by s in the pass that quantizes it, and the weight is
            multiplied by s before it is quantized. This takes outliers out of the inputs (SmoothQuant, AWQ). The layer
            quantizes x' = x * c[k] and W' = W * s[k], with c = fl(1 / s). `octavo.find_smoothing` finds s for each
            layer of a model. In NVIDIA ModelOpt's checkpoints the same name means c, the factor of x: pass 1 / c.
        rotation: the block size, a power of two from 16 to 4096 that divides in_features. Each block of x (divided by
            pre_quant_scale, if there is one) is multiplied by a Hadamard matrix with signs while it is quantized, and
            the weight's blocks are multiplied by the inverse before they are quantized. This spreads outliers over the
            block, so four bits lose less accuracy. None: no rotation.
        relu: apply ReLU to the result, in the same pass: NaN stays NaN, y > 0 stays, all else is +0.
        epilogue: a function applied to the result in the same call: "relu" (the same as relu=True), "gelu" (with erf),
            "gelu_tanh", "silu", "sigmoid" or "tanh". It gives the same bits as the function of `octavo.functional`
            applied to the plain layer's result; the conversion to float16 or float64 comes after it.
        call: name of a method that calls the layer, besides ``__call__`` and ``forward``.

    Raises:
        TypeError: weight or bias is not numeric, or dtype does not name a type.
        ValueError: weight is not 2-D, bias does not fit, either holds NaN or infinity, an option is unknown or not for
            this dtype, or a row (int4: a group) has more inputs than int32 sums can hold exactly. For int8 that is
            131,071 (65,793 with asymmetric activations); for int4 it is 2,097,151, or as few as 561,433 if both sides
            have zero points.

    Rounding is half to even everywhere, each float32 operation rounds once, and nothing saturates. A row of x that
    holds NaN or infinity gives a row of NaN. A row whose range is below 2**-100 counts as zeros. The arithmetic is
    that of docs/design.md, "Numeric contract".

    Example:
        >>> import numpy as np, octavo as oc
        >>> rng = np.random.default_rng(0)
        >>> W, b = rng.standard_normal((3, 256), dtype=np.float32), np.ones(3, np.float32)
        >>> layer = oc.QuantLinear(W, b)
        >>> x = rng.standard_normal((2, 256), dtype=np.float32)
        >>> bool(np.abs(layer(x) - (x @ W.T + b)).max() < 0.5)
        True
        >>> layer
        QuantLinear(256 -> 3, int8, activation=symmetric, bias)
        >>> oc.QuantLinear(W, b, dtype="int4", group_size=64)
        QuantLinear(256 -> 3, int4, group_size=64, activation=symmetric, bias)
    """

    __slots__ = ()

    def __init__(
        self,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        dtype: QTypeLike = "int8",
        group_size: int | None = None,
        symmetric: bool = True,
        scale_dtype: ScaleDtype = "float32",
        rounding: Rounding | None = None,
        activation: ActivationScheme = "symmetric",
        activation_group: int | None = None,
        pre_quant_scale: ArrayLike | None = None,
        rotation: int | None = None,
        relu: bool = False,
        epilogue: Epilogue | None = None,
        call: str = "forward",
    ) -> None:
        w = as_real(weight, "weight")
        own: dict[str, Any] = {
            "activation": activation, "activation_group": activation_group,
            "epilogue": as_epilogue(epilogue, relu), "call": call,
        }  # fmt: skip
        if is_int4(dtype, group_size=group_size, symmetric=symmetric, scale_dtype=scale_dtype, rounding=rounding):
            check_group_size(group_size)
            check_weight_shape(w, activation, int4=True, group_size=group_size, symmetric=symmetric)
            inputs = InputTransform.of(pre_quant_scale, rotation, w.shape[1])
            grouped = _ROUNDERS[rounding or "search"](
                inputs.weight(w), group_size=group_size, symmetric=symmetric, scale_dtype=scale_dtype
            )
            self._set(grouped, bias, inputs=inputs, **own)
            return
        check_weight_shape(w, activation)
        inputs = InputTransform.of(pre_quant_scale, rotation, w.shape[1])
        self._set(quantize_weight(inputs.weight(w)), bias, inputs=inputs, **own)

    @classmethod
    def from_quantized(
        cls,
        weight: NDArray[np.int8],
        scale: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        activation: ActivationScheme = "symmetric",
        activation_group: int | None = None,
        pre_quant_scale: ArrayLike | None = None,
        rotation: int | None = None,
        relu: bool = False,
        epilogue: Epilogue | None = None,
        call: str = "forward",
    ) -> QuantLinear:
        """A layer from weights that are int8 already: W[n, k] = weight[n, k] * scale[n].

        Args:
            weight: int8 (out_features, in_features); every value is exact, -128 included.
            scale: (out_features,) float32, positive and finite, or one number for all.
            bias, activation, activation_group, relu, epilogue, call: as for ``QuantLinear``.
            pre_quant_scale, rotation: likewise; the integers are those of W * s, and rotated, already.

        Raises:
            TypeError: weight is not an int8 array.
            ValueError: shapes do not fit, or a scale is zero, negative, NaN or infinite.

        Example:
            >>> import numpy as np, octavo as oc
            >>> layer = oc.QuantLinear.from_quantized(np.array([[-128, 127]], np.int8), [0.5])
            >>> layer.weight
            array([[-64. ,  63.5]], dtype=float32)
        """
        layer = cls.__new__(cls)
        q, s_w = int8_weight(weight, scale, activation, remedy="QuantLinear(weight) quantizes floats")
        layer._set(
            (q, s_w), bias, activation=activation, activation_group=activation_group,
            inputs=InputTransform.of(pre_quant_scale, rotation, q.shape[1]),
            epilogue=as_epilogue(epilogue, relu), call=call,
        )  # fmt: skip
        return layer

    @classmethod
    def from_grouped(
        cls,
        weight: GroupedWeight | GroupedCodes,
        bias: ArrayLike | None = None,
        *,
        activation: ActivationScheme = "symmetric",
        activation_group: int | None = None,
        pre_quant_scale: ArrayLike | None = None,
        rotation: int | None = None,
        relu: bool = False,
        epilogue: Epilogue | None = None,
        call: str = "forward",
    ) -> QuantLinear:
        """A layer from weights that are integers in groups already.

        Args:
            weight: a `GroupedWeight`, as `octavo.round_gptq` and its like give it, or `GroupedCodes`, as files hold
                weights: codes of 4, 5, 6 or 8 bits in groups with scales, minima, zero points or two levels of scales.
            bias, activation, activation_group, relu, epilogue, call: as for ``QuantLinear``.
            pre_quant_scale, rotation: likewise; the integers are those of W * s, and rotated, already.

        Raises:
            TypeError: weight is neither of the two.
            ValueError: the bias does not fit, or the combination is not defined: a GroupedWeight whose group_size is
                not a multiple of 32; activation="int16" or an activation_group beside groups of another size than 16,
                32, 64, 128, 256 or the row; an activation_group that is not a multiple of the weights' groups, or of
                another size than 256 beside two levels of scales.

        Example:
            >>> import numpy as np, octavo as oc
            >>> grouped = oc.round_nearest(np.eye(64, dtype=np.float32), group_size=32)
            >>> oc.QuantLinear.from_grouped(grouped)
            QuantLinear(64 -> 64, int4, group_size=32, activation=symmetric)
            >>> oc.QuantLinear.from_grouped(grouped, activation_group=64)
            QuantLinear(64 -> 64, int4, group_size=32, activation_group=64, activation=symmetric)
        """
        if isinstance(weight, GroupedWeight):
            check_group_size(weight.group_size)
            symmetric = weight.zero_point is None
            check_weight_shape(weight.q, activation, int4=True, group_size=weight.group_size, symmetric=symmetric)
        elif not isinstance(weight, GroupedCodes):
            raise TypeError(
                f"weight must be a GroupedWeight or GroupedCodes, got {type(weight).__name__}; "
                'QuantLinear(weight, dtype="int4") quantizes floats'
            )
        layer = cls.__new__(cls)
        layer._set(
            weight, bias, activation=activation, activation_group=activation_group,
            inputs=InputTransform.of(pre_quant_scale, rotation, shape_of(weight)[1]),
            epilogue=as_epilogue(epilogue, relu), call=call,
        )  # fmt: skip
        return layer

    @classmethod
    def from_float(
        cls,
        layer: Any,
        *,
        dtype: QTypeLike = "int8",
        activation: ActivationScheme = "symmetric",
        relu: bool = False,
        **options: Any,
    ) -> QuantLinear:
        """Quantizes a float layer that has ``weight`` (out, in) and, where it has one, ``bias`` (out,).

        Options are those of ``QuantLinear``.

        Raises:
            TypeError: the layer has no ``weight``.
            ValueError: as for ``QuantLinear``.

        Example:
            >>> import numpy as np, octavo as oc
            >>> oc.QuantLinear.from_float(oc.nn.Linear(np.eye(4, dtype=np.float32)))
            QuantLinear(4 -> 4, int8, activation=symmetric)
        """
        if not hasattr(layer, "weight"):
            raise TypeError(
                f"layer must have a weight (out, in), got {type(layer).__name__} without one; "
                "pass its arrays to QuantLinear(weight, bias)"
            )
        bias = getattr(layer, "bias", None)
        return cls(layer.weight, bias, dtype=dtype, activation=activation, relu=relu, **options)

    def _set(
        self,
        weight: tuple[NDArray[np.int8], NDArray[np.float32]] | GroupedWeight | GroupedCodes,
        bias: ArrayLike | None,
        *,
        activation: ActivationScheme,
        activation_group: int | None = None,
        inputs: InputTransform,
        epilogue: Epilogue | None = None,
        call: str,
    ) -> None:
        weights = pack(
            weight,
            as_bias(bias, shape_of(weight)[0]),
            activation=activation,
            activation_group=activation_group,
            inputs=inputs,
            epilogue=epilogue,
        )
        self._hold(weights, activation, epilogue, call, inputs)

    def _hold(
        self,
        weights: Weights,
        activation: ActivationScheme,
        epilogue: Epilogue | None,
        call: str,
        inputs: InputTransform,
    ) -> None:
        if not call.isidentifier():
            raise ValueError(f"call must be the name of a method, got {call!r}")
        self._weights = weights
        self._packed = weights.packed
        self._inputs = inputs
        self._activation: ActivationScheme = activation
        self._epilogue = epilogue
        self._call_name = call
        self._origin = None

    @classmethod
    def _of_weights(
        cls,
        weights: Weights,
        activation: ActivationScheme,
        epilogue: Epilogue | None,
        call: str,
        inputs: InputTransform,
    ) -> QuantLinear:
        layer = cls.__new__(cls)
        layer._hold(weights, activation, epilogue, call, inputs)
        return layer

    def __call__(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """y = x W^T + b with x quantized row by row.

        Args:
            x: (..., in_features). Any real dtype, memory order and alignment; computed with in float32.
            out: where to put the result: exactly its shape and dtype, writable, any strides. It may overlap x.

        Returns:
            (..., out_features); float16 and float64 input gives its own dtype back, all else float32. A large result
            (256 KiB or more) may live in memory of a pool, see `set_result_pool`.

        Raises:
            TypeError: x is complex, an object, a string or masked, or out has another dtype.
            ValueError: the last dimension of x is not in_features, or out has another shape or is read-only.
        """
        if out is None:
            y = self._packed.try_call(x)
            if y is not None:
                return y
        return self._call_any(x, out)

    forward = __call__

    def _call_any(self, x: ArrayLike, out: NDArray[Any] | None) -> NDArray[Any]:
        if out is None and type(x) is np.ndarray and x.dtype.char == "d":  # what NumPy code has where it says nothing
            with np.errstate(all="ignore"):
                y = self._packed.try_call(x.astype(np.float32, order="C"))
            if y is not None:
                return y.astype(np.float64)
        a = as_activations(x, self.in_features, self.out_features)
        dtype = real_dtype(a)
        shape = (*a.shape[:-1], self.out_features)
        if out is not None:
            check_out(out, shape, dtype)
        with np.errstate(all="ignore"):  # beyond float32: infinity, so the row becomes NaN
            rows = as_rows(a)
            direct = out if out is not None and not np.may_share_memory(out, rows) else None
            target = rows_in_place(direct, rows.shape[0], self.out_features) if direct is not None else None
            if target is not None:
                self._packed.forward(rows, target)
                return cast("NDArray[Any]", out)
            y = empty_result(rows.shape[0], self.out_features, np.float32)
            self._packed.forward(rows, y)
            result = y.reshape(shape).astype(dtype, copy=False)
        if out is None:
            return result
        np.copyto(out, result)
        return out

    def _quick_call(self) -> Callable[[Any], NDArray[np.float32] | None]:
        """The shortest way to a result, for aligned, contiguous float32 x; gives None for any other."""
        return self._packed.try_call

    def __getattr__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "_call_name"):
            return self.__call__
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _without_bias(self) -> tuple[QuantLinear, NDArray[np.float32] | None]:
        """(a layer of the same weights alone, the bias or None): both lie in this layer's memory, nothing is copied.

        The layer is a plain one without an epilogue of its own, and does not refer to a file.
        """
        options = image_options(self._weights)
        image, n = self._packed.image(OWN_FAMILY), self.out_features
        bias_bytes = -(-n // _BIAS_ELEMS) * _BIAS_ELEMS * 4 if options["bias"] else 0
        split = image.size - bias_bytes
        weights = weights_of_image(
            image[:split],
            OWN_FAMILY,
            options | {"bias": False},
            activation=self._activation,
            activation_group=self.activation_group,
            inputs=self._inputs,
            epilogue=None,
            borrow=True,
        )
        layer = QuantLinear._of_weights(weights, self._activation, None, self._call_name, self._inputs)
        return layer, image[split:].view(np.float32)[:n] if options["bias"] else None

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantLinear:
        layer = type(self).__new__(type(self))
        for name in HeldWeights.__slots__[1:]:
            setattr(layer, name, getattr(self, name))  # immutable, so the packed weights are shared
        return layer

    def __copy__(self) -> QuantLinear:
        return self.__deepcopy__({})

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__reduce_ex__(0)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if type(self).__module__.partition(".")[0] != "octavo":
            raise TypeError(
                f"a {type(self).__name__} would be restored as a plain layer of octavo's; hold a QuantLinear in an "
                "object of your own, or define __reduce_ex__ in your class"
            )
        referred = None if self._origin is None else self._origin.reduced()
        if referred is not None:
            return referred
        return self._restorer(), (self._state() if protocol < 5 else self._image_state(),)

    def _restorer(self) -> Callable[[dict[str, Any]], QuantLinear]:
        return _linear_from_state

    def _image_state(self) -> dict[str, Any]:
        """All that the layer is: its packed weights as they are, in a buffer, and plain values."""
        rotated: dict[str, Any] = {} if self.rotation is None else {"rotation": self.rotation}
        return {
            "version": _ROTATED_IMAGE_VERSION if rotated else _IMAGE_VERSION,
            "image": PickleBuffer(self._packed.image(OWN_FAMILY).data),
            "family": OWN_FAMILY,
            "options": image_options(self._weights),
            "activation": self._activation,
            "activation_group": self.activation_group,
            "pre_quant_scale": self._inputs.scale,
            "epilogue": self._epilogue,
            "call": self._call_name,
            **rotated,
        }

    def _state(self) -> dict[str, Any]:
        """All that the layer is, in arrays and plain values: canonical integers, four-bit ones two a byte."""
        s, rotation = self._inputs.scale, self._inputs.rotation
        inputs: dict[str, Any] = {} if s is None else {"version": SCALED_VERSION, "pre_quant_scale": s}
        inputs |= {} if rotation is None else {"version": ROTATED_VERSION, "rotation": rotation}
        state = self._weights.state() | {
            "bias": self._packed.bias(),
            "activation": self._activation,
            "relu": self.relu,
            "call": self._call_name,
            **inputs,
        }
        return state if self._epilogue is None or self.relu else state | {"epilogue": self._epilogue}


@pickled
def _linear_from_state(state: dict[str, Any]) -> QuantLinear:
    """What a pickle calls: canonical integers, packed anew for the machine that loads them; or packed ones."""
    state = dict(state)
    if state["version"] in (_IMAGE_VERSION, _ROTATED_IMAGE_VERSION):
        inputs = InputTransform(state["pre_quant_scale"], state.get("rotation"))
        activation, epilogue, call = (state[name] for name in ("activation", "epilogue", "call"))
        return QuantLinear._of_weights(weights_of_state(state, inputs), activation, epilogue, call, inputs)
    weight, bias = from_state(state), state.pop("bias")
    if isinstance(weight, tuple):
        q, scale = weight
        return QuantLinear.from_quantized(q, scale, bias, **state)
    return QuantLinear.from_grouped(weight, bias, **state)


def int8_weight(
    weight: NDArray[np.int8], scale: ArrayLike, activation: ActivationScheme, *, remedy: str
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 weights and their scales, one an output, both checked."""
    q = as_array(weight, "weight")
    if q.dtype != np.int8:
        raise TypeError(f"weight must be an int8 array, got dtype {q.dtype}; {remedy}")
    check_weight_shape(q, activation)
    s = as_array(scale, "scale")
    if s.shape not in ((), q.shape[:1]):
        raise ValueError(f"scale must have shape ({q.shape[0]},) for weight {q.shape}, got {s.shape}")
    return q, QParams(np.broadcast_to(s, q.shape[:1]), 0, qint8, axis=0).scale
