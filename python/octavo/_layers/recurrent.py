"""QuantLSTM and QuantGRU: recurrent layers with integer weights, in place of float ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo import _core, nn
from octavo._layers.described import Described
from octavo._layers.linear import QuantLinear, Rounding, _linear_from_state
from octavo._layers.registry import stands_for
from octavo._layers.weights import ActivationScheme, Int4Weights, Int8Weights
from octavo._numerics.int4 import ScaleDtype
from octavo._numerics.params import QType, QTypeLike
from octavo._util.arrays import real_dtype
from octavo._util.errors import raise_named
from octavo._util.pickling import pickled
from octavo.nn._recurrent_base import Array, RecurrentLayer, read_weights

__all__ = ["QuantGRU", "QuantLSTM"]

_STATE_VERSION = 1

# Inputs' products at a time: what a core's second-level cache keeps until the steps read it, whatever the length of the
# sequence. Within one step they are never split.
_CHUNK_BYTES = 1 << 20


_SCHEMES = ("symmetric", "asymmetric")  # the compiled cells take plain int8 activations


def _plain(layer: QuantLinear) -> Any:
    """The compiled layer, of int8 or int4 weights."""
    return layer._packed


class _QuantRecurrent(Described, RecurrentLayer):
    """Two QuantLinears for each direction of each layer; a subclass says which compiled cell runs over them."""

    __slots__ = ("__weakref__", "_layers")

    def __init__(
        self,
        arrays: Mapping[str, ArrayLike],
        *,
        prefix: str = "",
        batch_first: bool = False,
        dtype: QTypeLike = "int8",
        group_size: int | None = None,
        symmetric: bool = True,
        scale_dtype: ScaleDtype = "float32",
        rounding: Rounding | None = None,
        activation: ActivationScheme = "symmetric",
    ) -> None:
        if activation not in _SCHEMES:
            raise ValueError(f"activation of a recurrent layer must be one of {_SCHEMES}, got {activation!r}")
        weights = read_weights(arrays, prefix, self.gates)
        options: dict[str, Any] = {"dtype": dtype, "group_size": group_size, "symmetric": symmetric}
        options |= {"scale_dtype": scale_dtype, "rounding": rounding, "activation": activation}
        shapes = {name: w.shape for name, w in weights.items()}
        layers = {}
        for name in [n.removeprefix("weight_") for n in weights if n.startswith("weight_")]:
            try:
                layers[name] = QuantLinear(weights[f"weight_{name}"], weights.get(f"bias_{name}"), **options)
            except (TypeError, ValueError) as error:
                raise_named(error, f"{prefix}weight_{name}, bias_{name}")
        self._set_sizes(shapes, batch_first)
        self._layers = layers

    @classmethod
    def from_float(cls, layer: Any, **options: Any) -> Self:
        """Quantizes a float layer of octavo.nn. Options are those of the constructor.

        Raises:
            TypeError: the layer is another one.
            ValueError: as for the constructor.

        Example:
            >>> import octavo as oc
            >>> oc.QuantLSTM.from_float(oc.nn.LSTM.init(3, 5))
            QuantLSTM(3 -> 5, int8, activation=symmetric, bias)
        """
        expected = {"QuantLSTM": nn.LSTM, "QuantGRU": nn.GRU}[cls.__name__]
        if not isinstance(layer, expected):
            raise TypeError(f"layer must be an octavo.nn.{expected.__name__}, got {type(layer).__name__}")
        return cls(layer.weights, batch_first=layer.batch_first, **options)

    def _dtypes(self, x: Array) -> tuple[np.dtype[Any], np.dtype[Any]]:
        return real_dtype(x), np.dtype(np.float32)

    def _run(self, direction: int, x: Array, states: list[Array], y: Array, reverse: bool) -> None:
        name = self._directions[direction]
        inputs, recurrent = self._layers[f"ih_{name}"], self._layers[f"hh_{name}"]
        steps, batch = x.shape[:2]
        width = self.gates * self.hidden_size
        chunk = max(1, _CHUNK_BYTES // max(4 * batch * width, 1))
        buffer = np.empty((min(chunk, steps), batch, width), np.float32)
        starts = range(0, steps, chunk)
        h = states[0]
        for start in reversed(starts) if reverse else starts:
            stop = min(start + chunk, steps)
            part = x[start:stop].astype(np.float32, copy=False)  # beyond float32: infinity, so the row becomes NaN
            products = inputs(part, out=buffer[: stop - start])
            self._steps(recurrent, products, states, y[start:stop], reverse)
            h[:] = y[start if reverse else stop - 1]

    def _steps(self, layer: QuantLinear, inputs: Array, states: list[Array], y: Array, reverse: bool) -> None:
        """Runs the compiled cell over the steps; all but h in the states is brought up to date."""
        raise NotImplementedError

    @property
    def dtype(self) -> QType:
        """Type of the weights: `qint8` or `qint4`."""
        return self._layers["hh_l0"].dtype

    @property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """By torch's names: the weights as the layer sees them, dequantized on demand, and the biases. Read-only."""
        found = {f"weight_{name}": layer.weight for name, layer in self._layers.items()}
        found |= {f"bias_{name}": layer.bias for name, layer in self._layers.items() if layer.bias is not None}
        return found

    @property
    def nbytes(self) -> int:
        """Bytes the layer holds: those of its QuantLinears."""
        return sum(layer.nbytes for layer in self._layers.values())

    def _described(self) -> tuple[str, str, dict[str, Any]]:
        options = self._layers["hh_l0"]._options() | {
            "num_layers": self.num_layers if self.num_layers > 1 else None,
            "bidirectional": self.bidirectional,
            "batch_first": self.batch_first,
        }
        return f"{self.input_size} -> {self.hidden_size}", self.dtype.name[1:], options

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        layer = type(self).__new__(type(self))
        layer._hold(self._layers, self.batch_first)  # immutable, so the packed weights are shared
        return layer

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    @classmethod
    def _from_layers(cls, layers: dict[str, QuantLinear], batch_first: bool) -> Self:
        """A layer of these QuantLinears, by names such as "ih_l0"; ValueError where they do not fit together, or do
        more than the products that the constructor makes.
        """
        for name, layer in layers.items():
            more = {
                f"epilogue {layer.epilogue}": layer.epilogue is not None,
                "a pre_quant_scale": layer.pre_quant_scale is not None,
                "a rotation": layer.rotation is not None,
                "grouped codes": not isinstance(layer._weights, Int8Weights | Int4Weights),
            }
            if any(more.values()):
                what = next(what for what, there in more.items() if there)
                raise ValueError(f"{name} must be a plain int8 or int4 product, and has {what}")
        zeros = {f"weight_{name}": (layer.out_features, layer.in_features) for name, layer in layers.items()}
        shapes = zeros | {f"bias_{n}": (layer.out_features,) for n, layer in layers.items() if layer.bias is not None}
        read_weights({name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}, "", cls.gates)
        made = cls.__new__(cls)
        made._hold(layers, batch_first)
        return made

    def _hold(self, layers: dict[str, QuantLinear], batch_first: bool) -> None:
        shapes = {f"weight_{name}": (layer.out_features, layer.in_features) for name, layer in layers.items()}
        self._set_sizes(shapes, batch_first)
        self._layers = layers

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__reduce_ex__(0)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol < 5 and all(layer._origin is None for layer in self._layers.values()):
            return _recurrent_from_state, (type(self).__name__, self._state())
        return _recurrent_of, (type(self).__name__, self._layers, self.batch_first)

    def _state(self) -> dict[str, Any]:
        """All that the layer is: the states of its QuantLinears by name."""
        layers = {name: layer._state() for name, layer in self._layers.items()}
        return {"version": _STATE_VERSION, "batch_first": self.batch_first, "layers": layers}


@pickled
def _recurrent_from_state(kind: str, state: dict[str, Any]) -> _QuantRecurrent:
    """What a pickle calls."""
    if state["version"] != _STATE_VERSION:
        raise ValueError(f"this {kind} was pickled with format {state['version']}, this octavo reads {_STATE_VERSION}")
    cls: type[_QuantRecurrent] = QuantLSTM if kind == "QuantLSTM" else QuantGRU
    layer = cls.__new__(cls)
    layer._hold({name: _linear_from_state(s) for name, s in state["layers"].items()}, state["batch_first"])
    return layer


@pickled
def _recurrent_of(kind: str, layers: dict[str, QuantLinear], batch_first: bool) -> _QuantRecurrent:
    """What a pickle calls that holds the products by themselves."""
    return (QuantLSTM if kind == "QuantLSTM" else QuantGRU)._from_layers(layers, batch_first)


@stands_for(nn.LSTM)
class QuantLSTM(_QuantRecurrent):
    """c' = f c + i g and h' = o tanh(c') with i, f, o = sigmoid(a + b), g = tanh(a + b), each from its own rows of

        a = x W_ih^T + b_ih,    b = h W_hh^T + b_hh        both by `QuantLinear`

    Replaces a float LSTM, and is called as torch.nn.LSTM is. The inputs' products of many steps are one
    product; the steps run in compiled code. Every row of x and of h is quantized with a scale of its own and the gates
    are those of `octavo.functional`, so that row i of a batch gives the same bits as row i alone, and a
    sequence the same as its halves with the state handed on, on every CPU and with any number of threads. The layer is
    immutable; any number of threads may call it.

    Args:
        arrays: weights by torch's names, such as an exported state_dict: weight_ih_l0 (4 hidden, in) with rows i f g o,
            weight_hh_l0 (4 hidden, hidden), bias_ih_l0, bias_hh_l0; _l1 and so on for further layers, _reverse behind
            for the second direction. Sizes, number of layers and directions follow from them.
        prefix: what the names start with; others are left out.
        batch_first: whether x is (batch, steps, input_size); states never are.
        dtype, group_size, symmetric, scale_dtype, rounding, activation: of the products, as for `QuantLinear`.

    Raises:
        TypeError: arrays is not a mapping, or an array is not real numbers.
        ValueError: a name is missing or unknown, a shape does not fit, the LSTM has projections (proj_size), or as for
            `QuantLinear`.

    Computed in float32; float16 and float64 input gives its own dtype back. A NaN or infinity in a row of x or h makes
    that row NaN from there on. Dropout is for training and is left out.

    Example:
        >>> import numpy as np, octavo as oc
        >>> rng = np.random.default_rng(0)
        >>> lstm = oc.nn.LSTM.init(64, 32, rng=rng)
        >>> x = rng.standard_normal((10, 2, 64), dtype=np.float32)
        >>> y, (h, c) = oc.QuantLSTM.from_float(lstm)(x)
        >>> bool(np.abs(y - lstm(x)[0]).max() < 0.02)
        True
    """

    __slots__ = ()

    gates = 4
    states = 2

    def _steps(self, layer: QuantLinear, inputs: Array, states: list[Array], y: Array, reverse: bool) -> None:
        _core.lstm(_plain(layer), inputs, states[0], states[1], y, reverse)


@stands_for(nn.GRU)
class QuantGRU(_QuantRecurrent):
    """h' = (1 - z) n + z h with r, z = sigmoid(a + b), n = tanh(a + r b), each from its own rows of

        a = x W_ih^T + b_ih,    b = h W_hh^T + b_hh        both by `QuantLinear`

    Replaces a float GRU, and is called as torch.nn.GRU is; the rest is as with `QuantLSTM`.

    Args:
        arrays: as for `QuantLSTM`, with three gates, rows r z n.
        prefix, batch_first, dtype, group_size, symmetric, scale_dtype, rounding, activation: as for `QuantLSTM`.

    Raises:
        TypeError, ValueError: as for `QuantLSTM`.

    Example:
        >>> import numpy as np, octavo as oc
        >>> gru = oc.QuantGRU.from_float(oc.nn.GRU.init(64, 32, bidirectional=True), dtype="int4", group_size=32)
        >>> y, h = gru(np.ones((10, 2, 64), np.float32))
        >>> y.shape, h.shape
        ((10, 2, 64), (2, 2, 32))
    """

    __slots__ = ()

    gates = 3
    states = 1

    def _steps(self, layer: QuantLinear, inputs: Array, states: list[Array], y: Array, reverse: bool) -> None:
        _core.gru(_plain(layer), inputs, states[0], y, reverse)
