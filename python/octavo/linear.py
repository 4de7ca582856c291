"""QuantLinear: a linear layer with int8 weights, in place of a float one."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from octavo import _core
from octavo.qparams import QParams, QType, QTypeLike, as_qtype, choose_qparams, qint8
from octavo.quantize import quantize

ActivationScheme = Literal["symmetric", "asymmetric"]

_T = TypeVar("_T", bound=np.generic)

_SCHEMES = ("symmetric", "asymmetric")
_STATE_VERSION = 1


class QuantLinear:
    """y = float32(sum_k q_x[k] q_w[n, k]) * (s_x * s_w[n]) + b[n]: int8 weights, activations quantized per row.

    Stands where a float layer y = x W^T + b stood. Weights are symmetric int8 with one scale per output channel,
    s_w[n] = max|W[n]| / 127. Each row of x gets a scale (and zero point) of its own when the layer is called, so row i
    of a batch gives the same bits as row i alone, on every CPU and with any number of threads. The layer is immutable;
    any number of threads may call it.

    Args:
        weight: (out_features, in_features), float16, float32 or float64; finite. Computed with in float32.
        bias: (out_features,) or None; finite.
        dtype: of the weights; "int8" in any spelling (``oc.qint8``, ``np.int8``).
        activation: how rows of x are quantized to int8. "symmetric": s_x = max|x| / 127, zero point 0.
            "asymmetric": s_x = (max(x, 0) - min(x, 0)) / 255 with a zero point; half the step for rows of one sign,
            such as a ReLU's output, at the cost of one more integer operation per output.
        relu: apply ReLU to the result, in the same pass: NaN stays NaN, y > 0 stays, all else is +0.
        call: name of a method that calls the layer, besides ``__call__`` and ``forward``.

    Raises:
        TypeError: weight or bias is not numeric, or dtype is no type.
        ValueError: weight is not 2-D, bias does not fit, either holds NaN or infinity, an option is unknown, or
            in_features exceeds what int32 sums hold exactly (131,071; 65,793 with asymmetric activations).

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
    """

    __slots__ = ("_activation", "_call_name", "_packed", "_relu")

    def __init__(
        self,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        dtype: QTypeLike = "int8",
        activation: ActivationScheme = "symmetric",
        relu: bool = False,
        call: str = "forward",
    ) -> None:
        _require_int8(dtype)
        w = np.asarray(weight)
        _check_weight_shape(w, activation)
        params = choose_qparams(w, qint8, axis=0, qmin=-127, qmax=127)
        q = quantize(w, params).astype(np.int8, copy=False)
        self._set(q, params.scale, _as_bias(bias, w.shape[0]), activation, relu, call)

    @classmethod
    def from_quantized(
        cls,
        weight: NDArray[np.int8],
        scale: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        activation: ActivationScheme = "symmetric",
        relu: bool = False,
        call: str = "forward",
    ) -> QuantLinear:
        """A layer from weights that are int8 already: W[n, k] = weight[n, k] * scale[n].

        Args:
            weight: int8 (out_features, in_features); every value is exact, -128 included.
            scale: (out_features,) float32, positive and finite, or one number for all.
            bias, activation, relu, call: as for ``QuantLinear``.

        Raises:
            TypeError: weight is not an int8 array.
            ValueError: shapes do not fit, or a scale is zero, negative, NaN or infinite.

        Example:
            >>> import numpy as np, octavo as oc
            >>> layer = oc.QuantLinear.from_quantized(np.array([[-128, 127]], np.int8), [0.5])
            >>> layer.weight
            array([[-64. ,  63.5]], dtype=float32)
        """
        q = np.asarray(weight)
        if q.dtype != np.int8:
            raise TypeError(f"weight must be an int8 array, got dtype {q.dtype}; QuantLinear(weight) quantizes floats")
        _check_weight_shape(q, activation)
        s = np.asarray(scale)
        if s.shape not in ((), q.shape[:1]):
            raise ValueError(f"scale must have shape ({q.shape[0]},) for weight {q.shape}, got {s.shape}")
        params = QParams(np.broadcast_to(s, q.shape[:1]), 0, qint8, axis=0)
        layer = cls.__new__(cls)
        layer._set(q, params.scale, _as_bias(bias, q.shape[0]), activation, relu, call)
        return layer

    @classmethod
    def from_float(
        cls,
        layer: Any,
        *,
        dtype: QTypeLike = "int8",
        activation: ActivationScheme = "symmetric",
        relu: bool = False,
    ) -> QuantLinear:
        """Quantizes a float layer that has ``weight`` (out, in) and, where it has one, ``bias`` (out,).

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
        return cls(layer.weight, getattr(layer, "bias", None), dtype=dtype, activation=activation, relu=relu)

    def _set(
        self,
        q: NDArray[np.int8],
        scale: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        activation: ActivationScheme,
        relu: bool,
        call: str,
    ) -> None:
        if not call.isidentifier():
            raise ValueError(f"call must be the name of a method, got {call!r}")
        self._packed = _core.PackedLinear(q, scale, bias, asymmetric=activation == "asymmetric", relu=bool(relu))
        self._activation: ActivationScheme = activation
        self._relu = bool(relu)
        self._call_name = call

    def __call__(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """y = x W^T + b with x quantized row by row.

        Args:
            x: (..., in_features). Any real dtype, memory order and alignment; computed with in float32.
            out: where to put the result: exactly its shape and dtype, writable, any strides. It may overlap x.

        Returns:
            (..., out_features); float16 and float64 input gives its own dtype back, all else float32. The memory of
            a large result (256 KiB or more) may come from a pool, see `set_result_pool`.

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
        a = _as_activations(x, self.in_features)
        native = a.dtype.newbyteorder("=")
        dtype = native if native.kind == "f" else np.dtype(np.float32)
        shape = (*a.shape[:-1], self.out_features)
        if out is not None:
            _check_out(out, shape, dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32: infinity, so the row becomes NaN
            rows = _as_rows(a)
            direct = out if out is not None and not np.may_share_memory(out, rows) else None
            target = _rows_in_place(direct, rows.shape[0], self.out_features) if direct is not None else None
            if target is not None:
                self._packed.forward(rows, target)
                return cast("NDArray[Any]", out)
            y = _empty_result(rows.shape[0], self.out_features, np.float32)
            self._packed.forward(rows, y)
            result = y.reshape(shape).astype(dtype, copy=False)
        if out is None:
            return result
        np.copyto(out, result)
        return out

    def __getattr__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "_call_name"):
            return self.__call__
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def in_features(self) -> int:
        return self._packed.in_features

    @property
    def out_features(self) -> int:
        return self._packed.out_features

    @property
    def dtype(self) -> QType:
        """Type of the weights."""
        return qint8

    @property
    def activation(self) -> ActivationScheme:
        """How rows of x are quantized: "symmetric" or "asymmetric"."""
        return self._activation

    @property
    def relu(self) -> bool:
        """Whether the result goes through ReLU."""
        return self._relu

    def int_repr(self) -> NDArray[np.int8]:
        """The integer weights q_w (out, in), unpacked: a new array."""
        return self._packed.int_repr()

    @property
    def scale(self) -> NDArray[np.float32]:
        """s_w (out,), read-only."""
        return _read_only(self._packed.scale())

    @property
    def zero_point(self) -> NDArray[np.int32]:
        """z_w (out,), all zero: the weights are symmetric. Read-only."""
        return _read_only(np.zeros(self.out_features, np.int32))

    @property
    def bias(self) -> NDArray[np.float32] | None:
        """b (out,), read-only, or None."""
        b = self._packed.bias()
        return None if b is None else _read_only(b)

    @property
    def weight(self) -> NDArray[np.float32]:
        """The weights as the layer sees them, q_w * s_w (out, in) float32: unpacked on demand, read-only."""
        return _read_only(self.int_repr() * self._packed.scale()[:, None])

    @property
    def nbytes(self) -> int:
        """Bytes the layer holds: packed weights with their padding, column sums, scales and bias."""
        return self._packed.nbytes

    def __repr__(self) -> str:
        options = f", activation={self._activation}"
        options += ", bias" if self._packed.bias() is not None else ""
        options += ", relu" if self._relu else ""
        return f"QuantLinear({self.in_features} -> {self.out_features}, int8{options})"

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantLinear:
        layer = type(self).__new__(type(self))
        for name in QuantLinear.__slots__:
            setattr(layer, name, getattr(self, name))  # immutable, so the packed weights are shared
        return layer

    def __reduce__(self) -> tuple[Any, tuple[dict[str, Any]]]:
        return _from_state, (
            {
                "version": _STATE_VERSION,
                "weight": self.int_repr(),
                "scale": self._packed.scale(),
                "bias": self._packed.bias(),
                "activation": self._activation,
                "relu": self._relu,
                "call": self._call_name,
            },
        )


def _from_state(state: dict[str, Any]) -> QuantLinear:
    """What a pickle calls. Canonical integers, packed anew for the machine that loads them."""
    state = dict(state)
    version = state.pop("version")
    if version != _STATE_VERSION:
        raise ValueError(f"this QuantLinear was pickled with format {version}, this octavo reads {_STATE_VERSION}")
    return QuantLinear.from_quantized(state.pop("weight"), state.pop("scale"), state.pop("bias"), **state)


def _read_only(a: NDArray[_T]) -> NDArray[_T]:
    a.flags.writeable = False
    return a


def _require_int8(dtype: QTypeLike) -> None:
    qtype = as_qtype(dtype)
    if qtype != qint8:
        raise ValueError(f"dtype must be int8, got {qtype.name}")


def _check_weight_shape(w: NDArray[Any], activation: str) -> None:
    if activation not in _SCHEMES:
        raise ValueError(f"activation must be one of {_SCHEMES}, got {activation!r}")
    if w.ndim != 2:
        raise ValueError(f"weight must be 2-D (out, in), got shape {w.shape}")
    bound = _core.max_exact_k(activation == "asymmetric", False)
    if w.shape[1] > bound:
        raise ValueError(
            f"weight has {w.shape[1]} input features; int32 sums are exact up to {bound} with "
            f"activation={activation!r}. Split the layer along its inputs and add the results"
        )


def _as_bias(bias: ArrayLike | None, n: int) -> NDArray[np.float32] | None:
    if bias is None:
        return None
    b = np.asarray(bias)
    if b.dtype.kind not in "fiub":
        raise TypeError(f"bias must be real numbers, got dtype {b.dtype}")
    if b.shape != (n,):
        raise ValueError(f"bias must have shape ({n},) to fit the weight, got {b.shape}")
    with np.errstate(over="ignore"):
        b32 = np.ascontiguousarray(b, dtype=np.float32)
    if not bool(np.isfinite(b32).all()):
        at = int(np.flatnonzero(~np.isfinite(b32))[0])
        raise ValueError(f"bias must be finite in float32, got {b[at]} at index {at}")
    return b32


def _as_activations(x: ArrayLike, in_features: int) -> NDArray[Any]:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("x must not be a masked array, whose mask would be lost; pass x.filled(value)")
    a = np.asarray(x)
    if a.dtype.kind not in "fiub":
        raise TypeError(f"x must be real numbers, got dtype {a.dtype}")
    if a.ndim == 0 or a.shape[-1] != in_features:
        raise ValueError(f"x must have shape (..., {in_features}) to fit the layer's inputs, got {a.shape}")
    return a


def _check_out(out: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy array, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, as the result has, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, as the result has, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")


def _empty_result(m: int, n: int, dtype: DTypeLike) -> NDArray[Any]:
    """Uninitialised (m, n); a large one from the pool of large results."""
    return _core.empty_result(m, n, np.dtype(dtype))


def _as_rows(a: NDArray[Any]) -> NDArray[np.float32]:
    """(m, in) float32 with contiguous, aligned rows: a itself or a view where it is so already, else a copy."""
    rows = a.reshape(int(np.prod(a.shape[:-1])), a.shape[-1]) if a.ndim != 2 else a
    if _rows_usable(rows):
        return rows
    return np.ascontiguousarray(rows, dtype=np.float32)


def _rows_in_place(out: NDArray[Any], m: int, n: int) -> NDArray[np.float32] | None:
    """out as (m, n) in the same memory, where the kernels can write to it; else None."""
    if out.ndim != 2:
        if not out.flags.c_contiguous:
            return None
        out = out.reshape(m, n)
    return out if _rows_usable(out) else None


def _rows_usable(a: NDArray[Any]) -> bool:
    item = 4
    return (
        a.dtype == np.float32
        and a.dtype.isnative
        and a.flags.aligned
        and (a.shape[1] <= 1 or a.strides[1] == item)
        and a.strides[0] % item == 0
    )
