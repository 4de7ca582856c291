"""The first two steps of static quantization: `prepare` puts observers around layers, `calibrate` shows them data."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._layers.arrays.traced import KEPT, Source, Tracer, plain, taken
from octavo._layers.registry import counterpart
from octavo._layers.static import in_8_bits, require_per_tensor_8_bit
from octavo._layers.stubs import QuantStub
from octavo._models import walk as tree
from octavo._numerics.params import QParams
from octavo._observers.base import Observer
from octavo._quantize.qconfig import QConfig, QConfigLike, QConfigMapping, as_mapping
from octavo._quantize.spec import (
    Layers,
    LayerSpec,
    as_specs,
    check_functions,
    check_layer,
    nothing_found,
    read_layer,
    refusal,
)
from octavo._util.pickling import pickled
from octavo._util.progress import with_bar

__all__ = [
    "ObservedLinear", "ObservedQuantStub", "Prepared", "PreparedLinear", "Ranges",
    "calibrate", "choose_layers", "prepare",
]  # fmt: skip


@pickled
class Range:
    """An observer of one array of a layer, and whether it has seen anything. `name` is how messages call the array."""

    def __init__(self, name: str, observer: Any) -> None:
        self.name = name
        self.observer = observer
        self.seen = False

    def observe(self, x: NDArray[Any]) -> None:
        if x.size:
            try:
                self.observer(x)
            except ValueError as error:  # beyond float32
                raise ValueError(f"{self.name}: {error}") from error
            self.seen = True

    def qparams(self) -> QParams:
        """The parameters found, checked to be what kernels take."""
        params = in_8_bits(observed_qparams(self.observer, self.name, stacklevel=6))
        require_per_tensor_8_bit(params, self.name)
        return params


def observed_qparams(observer: Any, name: str, *, stacklevel: int) -> QParams:
    """observer.calculate_qparams(), whose warnings (only zeros) and errors (beyond float32) get the name."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            params: QParams = observer.calculate_qparams()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    for warning in caught:
        warnings.warn(f"{name}: {warning.message}", warning.category, stacklevel=stacklevel)
    return params


@pickled
@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What `convert` makes of a layer: its parameters; weight None: what its observer finds; output None: float32."""

    input: QParams
    weight: QParams | None = None
    output: QParams | None = None
    folds_relu: bool = False
    as_float: bool = False  # of a stub: whether code uses its result as floats


NOT_NEEDED = QParams(1.0, 0)  # in place of an input's parameters that are given otherwise


class Prepared(ABC):
    """Base of what `prepare` and `prepare_qat` put in place of layers and stubs, for `calibrate` and `convert`."""

    is_float = False  # whether it is to become what it was before

    def __init__(self, path: str, tracer: Tracer) -> None:
        self.path = path
        self.name = tree.label(path)
        self.tracer = tracer

    @property
    @abstractmethod
    def seen(self) -> bool:
        """Whether there is a range for its input."""

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
        x = taken(x)
        values = finite_reals(x, f"layer {self.name}")
        weight, _ = self.read_float()
        if values.ndim == 0 or values.shape[-1] != weight.shape[1]:
            raise ValueError(f"layer {self.name}: x must have shape (..., {weight.shape[1]}), got {values.shape}")
        y = getattr(self.layer, self.spec.call)(x, *plain(args), **plain(options))
        result = finite_reals(y, f"layer {self.name}, its result")
        self.input.observe(values)
        self.output.observe(result)
        if args or options or type(y) is not np.ndarray or y.ndim == 0:
            self.source.mark("arguments besides x, or a result that is no array")
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
        values = finite_reals(x, f"QuantStub {self.name}")
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


def prepare(
    model: Any,
    qconfig: QConfigLike,
    *,
    layers: Layers,
    inplace: bool = False,
    check: bool = True,
) -> Any:
    """Puts observers around each float layer y = x W^T + b that qconfig names, and returns the model.

    Running the prepared model computes what the float model computes, and observes the ranges of the layers' inputs and
    results. Layers return stand-ins that any NumPy code may take for arrays; these tell `convert` which results are
    used by quantized layers alone.

    Args:
        model: any tree of objects, as for `quantize_dynamic`.
        qconfig: which observers: a QConfig for every layer, or a QConfigMapping or dict by name, pattern and type.
        layers: the user's own layer classes, or a dict from class to `LayerSpec`. Matched by exact type.
        inplace: change the model itself. Otherwise a copy.deepcopy is prepared and the model is left as it is.
        check: send one random row through each layer and compare with activation(x W^T + b); see `quantize_dynamic`.

    Returns:
        The prepared model, for `calibrate` and `convert`.

    Raises:
        TypeError: layers or qconfig is of another kind, or an attribute cannot be copied (its path is named).
        ValueError: no layer matches; qconfig names none of them, or something that is none; a layer computes something
            else than its spec says; a closure still reaches a float layer. The layer's path is named. The model is as
            it was.

    Notes:
        QuantStubs are observed too, with the QConfig that the mapping gives for their path and type. Where the model's
        code takes nothing but true arrays, run it by `calibrate`, which can do without stand-ins. The steps are those
        of torch.ao.quantization's eager mode.

    Example:
        >>> import numpy as np, octavo as oc
        >>> rng = np.random.default_rng(0)
        >>> model = oc.nn.Sequential(oc.nn.Linear.init(8, 4, rng=rng), oc.nn.ReLU(), oc.nn.Linear.init(4, 2, rng=rng))
        >>> prepared = oc.prepare(model, oc.default_qconfig, layers={oc.nn.Linear})
        >>> oc.calibrate(prepared, [rng.standard_normal((16, 8), dtype=np.float32)])
        >>> x = rng.standard_normal((2, 8), dtype=np.float32)
        >>> bool(np.abs(oc.convert(prepared)(x) - model(x)).max() < 0.05)
        True
    """
    specs = as_specs(layers)
    model, chosen = choose_layers(model, specs, as_mapping(qconfig), inplace=inplace, check=check)
    tracer = Tracer()
    observed: dict[int, Prepared] = {}
    for path, layer, config in chosen:
        if config is None:
            continue
        if type(layer) is QuantStub:
            observed[id(layer)] = ObservedQuantStub(path, config, tracer)
        else:
            observed[id(layer)] = ObservedLinear(layer, path, specs[type(layer)], config, tracer)
    return tree.replace(model, observed)


Chosen = list[tuple[str, Any, QConfig | None]]


def choose_layers(
    model: Any,
    specs: Mapping[type, LayerSpec],
    mapping: QConfigMapping,
    *,
    stubs: tuple[type, ...] = (QuantStub,),
    float_layers: bool = False,
    inplace: bool,
    check: bool,
) -> tuple[Any, Chosen]:
    """The model or its copy, and (path, layer or stub, its QConfig) of what is to be replaced in it.

    float_layers: also layers that the mapping leaves in float, with None.
    """
    if others := sorted(cls.__name__ for cls in specs if counterpart(cls) is not None):
        raise ValueError(
            f"prepare and prepare_qat are for linear layers alone, got {', '.join(others)} in layers; "
            "quantize_dynamic quantizes these"
        )
    chosen = _chosen(model, specs, mapping, stubs, float_layers)
    layers_alone = [(path, layer) for path, layer, _ in chosen if type(layer) in specs]
    for path, layer in layers_alone if check else []:
        spec = specs[type(layer)]
        try:
            read_layer(layer, spec)
            check_layer(layer, spec)
        except (TypeError, ValueError) as error:
            raise refusal(path, layer, spec, error, hint=True) from error
    targets = {id(layer): None for _, layer, _ in chosen}
    if check:
        check_functions(model, targets, inplace)
    if not inplace:
        model = tree.copy_with(model, {})
        chosen = _chosen(model, specs, mapping, stubs, float_layers)
        for path, layer, _ in chosen:
            if id(layer) in targets:
                raise ValueError(
                    f"layer {tree.label(path)} was not copied: a __deepcopy__ above it keeps the original. "
                    "Pass inplace=True, or copy the layer in that __deepcopy__"
                )
    return model, chosen


def _chosen(
    model: Any,
    specs: Mapping[type, LayerSpec],
    mapping: QConfigMapping,
    stubs: tuple[type, ...],
    float_layers: bool,
) -> Chosen:
    found = [(path, value) for path, value in tree.walk(model) if type(value) in specs or type(value) in stubs]
    matched = [path for path, value in found if type(value) in specs]
    if not matched:
        raise ValueError(nothing_found(model, specs))
    if unused := mapping.unused((path, type(value)) for path, value in found):
        raise ValueError(
            f"qconfig names {', '.join(map(repr, unused))}, but the layers are {', '.join(map(tree.label, matched))}: "
            "correct the name, or leave it out"
        )
    chosen = [(path, value, mapping.resolve(path, type(value))) for path, value in found]
    if all(config is None or type(value) in stubs for _, value, config in chosen):
        raise ValueError(
            f"qconfig names none of the layers {', '.join(map(tree.label, matched))}: "
            "give a default, or one of these names, a pattern or a type"
        )
    return [entry for entry in chosen if entry[2] is not None or (float_layers and type(entry[1]) in specs)]


def calibrate(
    prepared: Any,
    batches: Iterable[Any],
    *,
    forward: Callable[[Any, Any], Any] = lambda model, batch: model(batch),
    progress: bool = False,
) -> None:
    """Runs a prepared model over batches, so that it has seen its ranges and how each layer's result is used.

    Args:
        prepared: what `prepare` returned.
        batches: anything to iterate over; some hundred rows of real inputs are enough. Seen in constant memory.
        forward: how to run the model on a batch.
        progress: show a progress bar (needs tqdm).

    Raises:
        TypeError, ValueError: a batch of another width, or with NaN or infinity: the layer is named, and a note gives
            the batch. The model stays usable, with what it has seen until then.
        ValueError: there was no batch, or the model is not prepared.
        ImportError: progress without tqdm; the message names the extra.

    Notes:
        Beyond running the prepared model by hand, this knows when the model has returned, and so which arrays leave
        it: only then may ReLU be folded into the layer before it. If the model's code fails on a stand-in (it takes
        nothing but true arrays), the batch is run again with arrays, and results stay float32.

    Example:
        >>> import numpy as np, octavo as oc
        >>> prepared = oc.prepare(oc.nn.Linear.init(4, 2), oc.default_qconfig, layers={oc.nn.Linear})
        >>> oc.calibrate(prepared, [np.ones((1, 4), np.float32)], progress=False)
    """
    tracers = {id(layer.tracer): layer.tracer for _, layer in observed_layers(prepared)}.values()
    observers = [value for _, value in tree.walk(prepared) if isinstance(value, Observer)]
    count = 0
    for count, batch in enumerate(with_bar(batches, "calibrating", "batch") if progress else batches, start=1):
        try:
            _run(prepared, batch, forward, list(tracers), observers)
        except Exception as error:
            error.add_note(f"octavo.calibrate: this was batch {count - 1}")
            raise
    if count == 0:
        raise ValueError("batches must hold at least one batch, got none; a generator can be used only once")


def _run(
    prepared: Any,
    batch: Any,
    forward: Callable[[Any, Any], Any],
    tracers: list[Tracer],
    observers: list[Observer],
) -> None:
    before = [copy.deepcopy(vars(observer)) for observer in observers]
    try:
        _pass(prepared, batch, forward, tracers, stand_ins=True)
        return
    except Exception as error:
        first = error
    # Either the batch is at fault, and fails again, or the code cannot take stand-ins. Layers before the failure have
    # seen the batch, and must not count it twice.
    for observer, state in zip(observers, before, strict=True):
        vars(observer).clear()
        vars(observer).update(state)
    reached = sum(tracer.calls for tracer in tracers)
    _pass(prepared, batch, forward, tracers, stand_ins=False)
    if sum(tracer.calls for tracer in tracers) < reached:
        raise first  # the batch could be read only once, so that the second run says nothing


def _pass(
    prepared: Any, batch: Any, forward: Callable[[Any, Any], Any], tracers: list[Tracer], *, stand_ins: bool
) -> None:
    for tracer in tracers:
        tracer.begin(stand_ins=stand_ins)
    try:
        result = forward(prepared, batch)
        for tracer in tracers:
            tracer.finish()  # while the result is alive
        del result
    finally:
        for tracer in tracers:
            tracer.end()


def observed_layers(prepared: Any) -> list[tuple[str, Prepared]]:
    """(path, layer) of everything that observes."""
    found = [(path, value) for path, value in tree.walk(prepared) if isinstance(value, Prepared)]
    if not found:
        raise ValueError("the model has no layer that observes; pass what octavo.prepare returned")
    return found


def finite_reals(x: Any, name: str) -> NDArray[Any]:
    """x as an array, refused where it holds something that has no range."""
    values = np.asarray(x)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got dtype {values.dtype}")
    finite = np.isfinite(values)
    if not finite.all():
        at = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(f"{name} must be finite for calibration, got {values[at]} at {list(at)}; leave this batch out")
    return values
