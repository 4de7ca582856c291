"""Float recurrent layers in plain NumPy, from weights in torch's layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from octavo.nn._recurrent_base import KINDS, Array, RecurrentLayer, direction_names, read_weights

__all__ = ["GRU", "LSTM"]


class _FloatRecurrent(RecurrentLayer):
    """Float weights by torch's names, in `weights`; a subclass adds the cell."""

    def __init__(self, arrays: Mapping[str, ArrayLike], *, prefix: str = "", batch_first: bool = False) -> None:
        weights = read_weights(arrays, prefix, self.gates)
        self._set_sizes({name: w.shape for name, w in weights.items()}, batch_first)
        self.weights = weights

    @classmethod
    def init(
        cls,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        rng: np.random.Generator | None = None,
    ) -> Self:
        """A float32 layer with weights and biases drawn from U(-1/sqrt(hidden), 1/sqrt(hidden)), as torch's are.

        Args:
            input_size: at least 0.
            hidden_size, num_layers: at least 1.
            bias, batch_first, bidirectional: as torch's.
            rng: where the numbers come from; None: a generator of its own, different each time.

        Raises:
            ValueError: a size is too small.

        Example:
            >>> import octavo as oc
            >>> oc.nn.LSTM.init(3, 5, bidirectional=True), oc.nn.GRU.init(3, 5, num_layers=2)
            (LSTM(3 -> 5, bidirectional), GRU(3 -> 5, num_layers=2))
        """
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        for name, value in sizes.items():
            if value < (0 if name == "input_size" else 1):
                raise ValueError(f"{name} must be at least {0 if name == 'input_size' else 1}, got {value}")
        rng = np.random.default_rng() if rng is None else rng
        bound, rows = 1 / np.sqrt(hidden_size), cls.gates * hidden_size
        arrays = {}
        for d in direction_names(num_layers, bidirectional):
            width = input_size if d.startswith("l0") else hidden_size * (2 if bidirectional else 1)
            shapes: list[tuple[int, ...]] = [(rows, width), (rows, hidden_size), (rows,), (rows,)]
            for kind, shape in list(zip(KINDS, shapes, strict=True))[: 4 if bias else 2]:
                arrays[f"{kind}_{d}"] = rng.uniform(-bound, bound, shape).astype(np.float32)
        return cls(arrays, batch_first=batch_first)

    def _dtypes(self, x: Array) -> tuple[np.dtype[Any], np.dtype[Any]]:
        dtype = np.result_type(x, *self.weights.values())
        return dtype, np.result_type(dtype, np.float32)

    def _run(self, direction: int, x: Array, states: list[Array], y: Array, reverse: bool) -> None:
        d = self._directions[direction]
        w_ih, w_hh = self.weights[f"weight_ih_{d}"], self.weights[f"weight_hh_{d}"]
        inputs = x @ w_ih.T + self.weights.get(f"bias_ih_{d}", w_ih.dtype.type(0))
        bias_hh = self.weights.get(f"bias_hh_{d}", w_hh.dtype.type(0))
        for t in range(len(x))[:: -1 if reverse else 1]:
            self._step(inputs[t], states[0] @ w_hh.T + bias_hh, states)
            y[t] = states[0]

    def _step(self, a: Array, b: Array, states: list[Array]) -> None:
        """Brings the states up to date, from the products of the input and of the state."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.input_size} -> {self.hidden_size}{self._options()})"


class LSTM(_FloatRecurrent):
    """c' = f c + i g and h' = o tanh(c') with i, f, o = sigmoid(a + b), g = tanh(a + b), each from its own rows of

        a = x W_ih^T + b_ih,    b = h W_hh^T + b_hh

    torch.nn.LSTM's arithmetic, in the common NumPy type of x and the weights. Dropout is for training and is left out;
    projections (proj_size) are not supported.

    Args:
        arrays: weights by torch's names (see `octavo.QuantLSTM`), such as an exported state_dict. Sizes, number of
            layers and directions follow from them. Float arrays are kept as they are, not copied.
        prefix: what the names start with; others are left out.
        batch_first: whether x is (batch, steps, input_size); states never are.

    Raises:
        TypeError: arrays is not a mapping, or an array is not real numbers.
        ValueError: a name is missing or unknown, or a shape does not fit.

    Example:
        >>> import numpy as np, octavo as oc
        >>> lstm = oc.nn.LSTM.init(3, 5, num_layers=2, batch_first=True)
        >>> y, (h, c) = lstm(np.ones((7, 4, 3), np.float32))
        >>> y.shape, h.shape, c.shape
        ((7, 4, 5), (2, 7, 5), (2, 7, 5))
    """

    gates = 4
    states = 2

    def _step(self, a: Array, b: Array, states: list[Array]) -> None:
        ai, af, ag, ao = np.split(a + b, 4, axis=-1)
        h, c = states
        c[:] = _sigmoid(af) * c + _sigmoid(ai) * np.tanh(ag)
        h[:] = _sigmoid(ao) * np.tanh(c)


class GRU(_FloatRecurrent):
    """h' = (1 - z) n + z h with r, z = sigmoid(a + b), n = tanh(a + r b), each from its own rows of

        a = x W_ih^T + b_ih,    b = h W_hh^T + b_hh

    torch.nn.GRU's arithmetic, in the common NumPy type of x and the weights. Dropout is for training and is left out.

    Args:
        arrays, prefix, batch_first: as for `LSTM`.

    Raises:
        TypeError, ValueError: as for `LSTM`.

    Example:
        >>> import numpy as np, octavo as oc
        >>> y, h = oc.nn.GRU.init(3, 5, bidirectional=True)(np.ones((7, 4, 3), np.float32))
        >>> y.shape, h.shape
        ((7, 4, 10), (2, 4, 5))
    """

    gates = 3
    states = 1

    def _step(self, a: Array, b: Array, states: list[Array]) -> None:
        ar, az, an = np.split(a, 3, axis=-1)
        br, bz, bn = np.split(b, 3, axis=-1)
        (h,) = states
        r, z = _sigmoid(ar + br), _sigmoid(az + bz)
        h[:] = (1 - z) * np.tanh(an + r * bn) + z * h


def _sigmoid(x: Array) -> Array:
    """Through tanh, which does not overflow."""
    y: Array = 0.5 * np.tanh(0.5 * x) + 0.5
    return y
