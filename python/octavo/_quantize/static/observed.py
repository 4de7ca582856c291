"""What stands in a prepared model where layers, QuantStubs and arrays stood: it computes as they do, and observes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from octavo._layers.arrays.products import MatrixStandIn
from octavo._layers.arrays.traced import KEPT, Source, Tracer, plain, taken
from octavo._layers.stubs import QuantStub
from octavo._models import walk as tree
from octavo._numerics.checks import check_inputs
from octavo._numerics.input_scale import scaled_inputs
from octavo._quantize.qconfig import QConfig
from octavo._quantize.spec import LayerSpec, read_layer
from octavo._quantize.static.ranges import NOT_NEEDED, Range, Ranges, finite_reals
from octavo._util.arrays import read_only
from octavo._util.pickling import pickled

__all__ = [
    "ObservedLinear", "ObservedMatrix", "ObservedQuantStub", "Prepared", "PreparedLinear", "observed_layers",
]  # fmt: skip


class Prepared(ABC):
    """Base of what `prepare` and `prepare_qat` put in place of layers and stubs, for `calibrate` and `convert`."""

    is_float = False  # whether it is to become what it was before
    pre_quant_scale: NDArray[np.float32] | None = None  # of the inputs; the range observed is that of x / scale

    def __init__(self, path: str, tracer: Tracer) -> None:
        self.path = path
        self.name = tree.label(path)
        self.tracer = tracer

    @property
    @abstractmethod
    def seen(self) -> bool:
        """Whether there is a range for its input."""

    def watched(self) -> list[Any]:
        """What has seen something of it: its ranges and its source, in the order of their names."""
        found = vars(self)
        return [found[name] for name in sorted(found) if isinstance(found[name], Range | Source)]

    def merge(self, other: Prepared, twins: Mapping[int, Any]) -> None:
        """Adds what the same layer of a copy of the model has seen.

        Args:
            other: that layer.
            twins: this model's part for each that a layer of the copy watches, by the copy's id.
        """
        for mine, theirs in zip(self.watched(), other.watched(), strict=True):
            mine.merge(theirs, twins)

    @abstractmethod
    def original(self) -> Any:
        """A copy of what was there before."""

    @abstractmethod
    def ranges(self, *, needed: bool) -> Ranges:
        """What was found; needed: whether that of the input is."""


class PreparedLinear(Prepared):
    """A float layer y = x W^T + b, prepared."""

    def __init__(self, layer: Any, path: str, spec: LayerSpec, qconfig: QConfig | None, tracer: Tracer) -> None:
        super().__init__(path, tracer)
        self.layer = layer
        self.spec = spec
        self.qconfig = qconfig

    def original(self) -> Any:
        return copy.deepcopy(self.layer)

    def read_float(self) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """(W as (out, in), b) of the float layer as they are now."""
        return read_layer(self.layer, self.spec)

    def __getattr__(self, name: str) -> Any:
        if name == "forward" or (name != "spec" and name == self.spec.call):
            return self.__call__
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def weight(self) -> NDArray[Any]:
        """W (out, in) of the float layer."""
        return self.read_float()[0]

    @property
    def bias(self) -> NDArray[Any] | None:
        """b (out,) of the float layer, or None."""
        return self.read_float()[1]


@pickled
class ObservedLinear(PreparedLinear):
    """A float layer that observes its input and result, and how its result is used. Made by `prepare`."""

    def __init__(self, layer: Any, path: str, spec: LayerSpec, qconfig: QConfig, tracer: Tracer) -> None:
        super().__init__(layer, path, spec, qconfig, tracer)
        self.input = Range(f"layer {self.name}, its input", qconfig.activation())
        self.output, self.relu_output = (
            Range(f"layer {self.name}, its result", qconfig.activation()) for _ in range(2)
        )
        self.source = Source(self.relu_output.observe)

    def __call__(self, x: Any, *args: Any, **options: Any) -> Any:
        """The float layer's result, or a stand-in for it. Extra arguments are the float layer's own."""
        self.tracer.calls += 1
        scale = self.pre_quant_scale
        x = taken(x) if scale is None else plain(x, "a layer with a pre_quant_scale, which takes floats")
        values = finite_reals(x, f"layer {self.name}, its input")
        weight, _ = self.read_float()
        check_inputs(values.shape, weight.shape, f"layer {self.name}: ")
        y = getattr(self.layer, self.spec.call)(x, *plain(args), **plain(options))
        result = finite_reals(y, f"layer {self.name}, its result")
        self.input.observe(values if scale is None else scaled_inputs(values, scale))
        self.output.observe(result)
        if args or options or type(y) is not np.ndarray or y.ndim == 0:
            self.source.mark("arguments besides x, or a result other than an array")
            return y
        return self.tracer.wrap(y, self.source)

    @property
    def seen(self) -> bool:
        return self.input.seen

    def ranges(self, *, needed: bool) -> Ranges:
        source, output = self.source, None
        if source.gives_integers:
            output = (self.relu_output if source.folds_relu else self.output).qparams()
        found = self.input.qparams() if needed else NOT_NEEDED
        return Ranges(input=found, output=output, folds_relu=source.folds_relu)

    def __repr__(self) -> str:
        return f"Observed({self.layer!r})"


@pickled
class ObservedQuantStub(Prepared):
    """A QuantStub that observes what comes, and how it is used. Made by `prepare`."""

    def __init__(self, path: str, qconfig: QConfig, tracer: Tracer) -> None:
        super().__init__(path, tracer)
        self.input = Range(f"QuantStub {self.name}", qconfig.activation())
        self.source = Source(None)

    def __call__(self, x: Any) -> Any:
        self.tracer.calls += 1
        x = plain(x, "QuantStub")
        values = finite_reals(x, f"QuantStub {self.name}, its input")
        self.input.observe(values)
        return self.tracer.wrap(x, self.source) if type(x) is np.ndarray and x.ndim > 0 else x

    @property
    def seen(self) -> bool:
        return self.input.seen

    def original(self) -> Any:
        return QuantStub()

    def ranges(self, *, needed: bool) -> Ranges:
        found = self.input.qparams() if needed else NOT_NEEDED
        return Ranges(input=found, as_float=self.source.float_use not in (None, KEPT))

    def __repr__(self) -> str:
        return "Observed(QuantStub())"


@pickled
class ObservedMatrix(MatrixStandIn, Prepared):
    """A float matrix that observes what it multiplies, and is an array to everything else. Made by `prepare`.

    Args:
        array: the matrix.
        axis: of its outputs, as for `QuantMatrix`: with 1, x in x @ Q is observed; with 0, x in x @ Q.T.
    """

    _remedy = "calibration looks at its products; compute a new array (w + 1, not w += 1)"

    def __init__(self, array: NDArray[Any], path: str, axis: Literal[0, 1], qconfig: QConfig, tracer: Tracer) -> None:
        super().__init__(path, tracer)
        self.array = array
        self.axis = axis
        self.qconfig = qconfig
        self.input = Range(f"array {self.name}, what it multiplies", qconfig.activation())

    def float_weight(self) -> NDArray[Any]:
        """W (outputs, inputs) as it is now."""
        return self.array.T if self.axis == 1 else self.array

    @property
    def seen(self) -> bool:
        return self.input.seen

    def original(self) -> Any:
        return self.array.copy()

    def ranges(self, *, needed: bool) -> Ranges:
        return Ranges(input=self.input.qparams() if needed else NOT_NEEDED)

    # As an array

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.array.shape
        return rows, columns

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def _values(self, use: str) -> NDArray[Any]:
        return read_only(self.array.view())

    def _transposed(self) -> Self:
        """The same matrix with its axes exchanged; what it multiplies is seen by both."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        other.array, other.axis = self.array.T, 0 if self.axis == 1 else 1
        return other

    def _times(self, a: NDArray[Any], out: NDArray[Any] | None) -> NDArray[Any]:
        if self.axis == 1:
            self.tracer.calls += 1
            values = finite_reals(a, f"array {self.name}, what it multiplies")
            self.input.observe(values if self.pre_quant_scale is None else scaled_inputs(values, self.pre_quant_scale))
        y: NDArray[Any] = np.matmul(a, self.array)
        return y

    def __repr__(self) -> str:
        return f"Observed(array of shape {self.array.shape})"


def observed_layers(prepared: Any) -> list[tuple[str, Prepared]]:
    """(path, layer) of everything that observes."""
    found = [(path, value) for path, value in tree.walk(prepared) if isinstance(value, Prepared)]
    if not found:
        raise ValueError("the model has no layer that observes; pass what octavo.prepare returned")
    return found
