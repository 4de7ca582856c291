"""What recurrent layers, float and quantized, share: torch's names and shapes, states, layers and directions.

    weight_ih_l{k} (gates * hidden, in)      in = input_size for k = 0, else directions * hidden
    weight_hh_l{k} (gates * hidden, hidden)
    bias_ih_l{k}, bias_hh_l{k} (gates * hidden,), all or none
    the same with _reverse behind, for the direction that runs from the last step to the first

Rows are gate by gate: i f g o in an LSTM, r z n in a GRU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo._util.floating import quiet
from octavo._util.foreign import as_array, as_real

__all__ = ["KINDS", "RecurrentLayer", "as_float", "direction_names", "read_weights"]

Array: TypeAlias = NDArray[Any]

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

_NAME = re.compile(r"(weight|bias)_(ih|hh)_l(\d+)(_reverse)?")


def direction_names(layers: int, bidirectional: bool) -> list[str]:
    """What follows weight_ih_ and its like, in the order of the states: l0, l0_reverse, l1, ...

    Example:
        >>> from octavo.nn._recurrent_base import direction_names
        >>> direction_names(2, bidirectional=True)
        ['l0', 'l0_reverse', 'l1', 'l1_reverse']
    """
    return [f"l{k}{suffix}" for k in range(layers) for suffix in (("", "_reverse") if bidirectional else ("",))]


def read_weights(arrays: Mapping[str, ArrayLike], prefix: str, gates: int) -> dict[str, Array]:
    """The arrays under a prefix by torch's names, in the order of `direction_names`, checked against each other.

    Args:
        arrays: by name, such as a state_dict; names that do not start with the prefix are left out.
        prefix: what the names start with, such as "encoder.rnn.".
        gates: 4 for an LSTM, 3 for a GRU.

    Returns:
        The arrays by name without the prefix; floats as they are, all else as float32.

    Raises:
        TypeError: arrays is not a mapping, or one is not real numbers.
        ValueError: a name is missing or unknown, a shape does not fit, or the LSTM has projections.

    Example:
        >>> import numpy as np
        >>> from octavo.nn._recurrent_base import read_weights
        >>> arrays = {"rnn.weight_ih_l0": np.ones((12, 2)), "rnn.weight_hh_l0": np.ones((12, 3))}
        >>> list(read_weights(arrays, "rnn.", 4))
        ['weight_ih_l0', 'weight_hh_l0']
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(f"arrays must be a mapping from names to arrays, got {type(arrays).__name__}")
    found = {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if isinstance(name, str) and name.startswith(prefix)
    }
    _check_names(found, prefix, arrays)
    numbers = {int(match[3]) for match in map(_NAME.fullmatch, found) if match}
    layers = len(numbers)
    if numbers != set(range(layers)):
        gap = next(n for n in range(layers) if n not in numbers)
        raise ValueError(
            f"arrays must hold {prefix}weight_ih_l{gap}: layers are numbered from 0 on without gaps, got "
            f"{sorted(numbers)[:5]}"
        )
    directions = direction_names(layers, any(name.endswith("_reverse") for name in found))
    has_bias = any(name.startswith("bias") for name in found)
    expected = [f"{kind}_{d}" for d in directions for kind in (KINDS if has_bias else KINDS[:2])]
    missing = [name for name in expected if name not in found]
    if missing:
        raise ValueError(f"arrays must hold {prefix}{missing[0]}, as other names call for it; missing: {missing[:5]}")
    weights = {name: as_float(prefix + name, found[name]) for name in expected}
    _check_shapes(weights, directions, gates, prefix)
    return weights


def _check_names(found: Mapping[str, Any], prefix: str, arrays: Mapping[str, Any]) -> None:
    if any(name.startswith("weight_hr_l") for name in found):
        raise ValueError(
            f"arrays hold {prefix}weight_hr_l0, the projection of an LSTM with proj_size, which is not supported; "
            "an LSTM without it and a Linear behind it come closest"
        )
    unknown = [name for name in found if not _NAME.fullmatch(name)]
    if "weight_ih_l0" in found and not unknown:
        return
    prefixes = sorted({n.removesuffix("weight_ih_l0") for n in arrays if n.endswith("weight_ih_l0")} - {prefix})
    remedy = f"; weight_ih_l0 is there with prefix={prefixes[0]!r}" if prefixes else ""
    problem = f"unknown names {unknown[:5]}" if unknown else "no weight_ih_l0"
    raise ValueError(
        f"arrays must hold weight_ih_l0 and its like, as torch names them, under prefix={prefix!r}; "
        f"got {problem}{remedy}"
    )


def _check_shapes(weights: Mapping[str, Array], directions: list[str], gates: int, prefix: str) -> None:
    first = weights["weight_hh_l0"]
    rows, hidden = first.shape if first.ndim == 2 else (0, 0)
    if rows != gates * hidden or hidden == 0:
        raise ValueError(
            f"{prefix}weight_hh_l0 must have shape ({gates} * hidden_size, hidden_size), got {first.shape}"
        )
    first = weights["weight_ih_l0"]
    if first.ndim != 2:
        raise ValueError(f"{prefix}weight_ih_l0 must have shape ({rows}, input_size), got {first.shape}")
    per_layer = 2 if "l0_reverse" in directions else 1
    for name, value in weights.items():
        kind, direction = name.rsplit("_l", 1)
        inputs = first.shape[1] if direction.startswith("0") else per_layer * hidden
        shape = {"weight_ih": (rows, inputs), "weight_hh": (rows, hidden)}.get(kind, (rows,))
        if value.shape != shape:
            raise ValueError(f"{prefix}{name} must have shape {shape} to fit the other weights, got {value.shape}")


class RecurrentLayer:
    """What LSTM and GRU, float and quantized, share: shapes, states, layers and directions.

    A subclass says how many gates and states it has, and runs one direction of one layer.

    Example:
        >>> from octavo.nn._recurrent import LSTM
        >>> from octavo.nn._recurrent_base import RecurrentLayer
        >>> issubclass(LSTM, RecurrentLayer)
        True
    """

    __slots__ = ("_directions", "batch_first", "bidirectional", "hidden_size", "input_size", "num_layers")

    gates: ClassVar[int]
    states: ClassVar[int]  # 2: h and c; 1: h
    _directions: list[str]
    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    batch_first: bool

    def _set_sizes(self, shapes: Mapping[str, tuple[int, ...]], batch_first: bool) -> None:
        """From the shapes of checked weights."""
        self.input_size = shapes["weight_ih_l0"][1]
        self.hidden_size = shapes["weight_hh_l0"][1]
        self.bidirectional = "weight_ih_l0_reverse" in shapes
        self.num_layers = sum(name.startswith("weight_hh") for name in shapes) // (2 if self.bidirectional else 1)
        self.batch_first = bool(batch_first)
        self._directions = direction_names(self.num_layers, self.bidirectional)

    def _dtypes(self, x: Array) -> tuple[np.dtype[Any], np.dtype[Any]]:
        """Those of the result, and of states and outputs on the way."""
        raise NotImplementedError

    def _run(self, direction: int, x: Array, states: list[Array], y: Array, reverse: bool) -> None:
        """One direction of one layer.

        Args:
            direction: its place in `direction_names`.
            x: (steps, batch, in), any strides.
            states: h, or h and c, each (batch, hidden): brought up to date.
            y: (steps, batch, hidden), rows contiguous: every step's h is put here.
            reverse: from the last step to the first.
        """
        raise NotImplementedError

    @quiet
    def __call__(self, x: ArrayLike, hx: Any = None) -> tuple[Array, Any]:
        """The outputs of the last layer at each step, and the state behind the last step.

        Args:
            x: (steps, batch, input_size); (batch, steps, input_size) with batch_first; (steps, input_size) unbatched.
            hx: h0 of a GRU, (h0, c0) of an LSTM, each (layers * directions, batch, hidden_size), without the
                batch's axis for an unbatched x; None: zeros.

        Returns:
            (y, hx): y (steps, batch, directions * hidden_size), its axes as x's, and a state shaped as above.

        Raises:
            TypeError: x or a state is not real numbers, or an LSTM's hx is not a pair.
            ValueError: a shape does not fit.
        """
        given = as_array(x, "x")
        a = as_real(x, "x")
        if a.ndim not in (2, 3) or a.shape[-1] != self.input_size:
            layout = "(batch, steps, " if self.batch_first else "(steps, batch, "
            size = f"{self.input_size})"
            raise ValueError(f"x must have shape {layout}{size}, or (steps, {size} unbatched, got {a.shape}")
        unbatched = a.ndim == 2
        batch_axis = 0 if self.batch_first and not unbatched else 1
        a = a[:, None] if unbatched else a
        dtype, work = self._dtypes(given)
        per_layer = 2 if self.bidirectional else 1
        after = self._initial(hx, a.shape[batch_axis], unbatched, work)
        for layer in range(self.num_layers):
            y = np.empty((*a.shape[:-1], per_layer * self.hidden_size), work)
            for i in range(per_layer):
                direction = layer * per_layer + i
                part = y[..., i * self.hidden_size : (i + 1) * self.hidden_size]
                steps = [v.swapaxes(0, 1) if batch_axis == 0 else v for v in (a, part)]
                self._run(direction, steps[0], [s[direction] for s in after], steps[1], reverse=i == 1)
            a = y
        a, *after = [v.astype(dtype, copy=False) for v in (a, *after)]
        if unbatched:
            a, after = a[:, 0], [s[:, 0] for s in after]
        return a, (tuple(after) if self.states == 2 else after[0])

    forward = __call__

    def _initial(self, hx: Any, batch: int, unbatched: bool, dtype: np.dtype[Any]) -> list[Array]:
        """New arrays, which the run brings up to date."""
        shape = (self.num_layers * (2 if self.bidirectional else 1), batch, self.hidden_size)
        if hx is None:
            return [np.zeros(shape, dtype) for _ in range(self.states)]
        if self.states == 2 and not (isinstance(hx, (tuple, list)) and len(hx) == 2):
            raise TypeError(f"hx must be a pair (h0, c0), got {type(hx).__name__}")
        parts = []
        for name, value in zip(("h0", "c0"), hx if self.states == 2 else (hx,), strict=False):
            given = as_real(value, name)
            expected = (shape[0], shape[2]) if unbatched else shape
            if given.shape != expected:
                raise ValueError(f"{name} must have shape {expected} to fit the layer and x, got {given.shape}")
            parts.append(np.array(given, dtype, order="C").reshape(shape))
        return parts

    def _options(self) -> str:
        options = f", num_layers={self.num_layers}" if self.num_layers > 1 else ""
        options += ", bidirectional" if self.bidirectional else ""
        return options + (", batch_first" if self.batch_first else "")


def as_float(name: str, values: ArrayLike) -> Array:
    """An array of floats: itself if it is one, else converted to float32.

    Raises:
        TypeError: it holds anything but real numbers.

    Example:
        >>> from octavo.nn._recurrent_base import as_float
        >>> as_float("weight", [1, 2])
        array([1., 2.], dtype=float32)
    """
    a = as_real(values, name)
    return a if a.dtype.kind == "f" else a.astype(np.float32)
