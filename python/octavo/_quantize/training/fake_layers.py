"""What `prepare_qat` puts into a model: layers and stubs whose values pass through fake quantization.

Values are fake-quantized where integers will be taken, which is what the converted model does:

    a layer's input and weight     y = fq(x) fq(W)^T + b
    a QuantStub, a DeQuantStub     y = fq(x)

A result is not quantized where it is made: `convert` lets a layer hand on integers exactly where all that take them
quantize them in the same way. A layer takes a QuantStub's result as it is, because it is on a grid already. The session
remembers these arrays and makes them read-only, so that they stay on it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from octavo._layers.arrays.traced import KEPT, Source, Tracer, plain, source_of
from octavo._layers.stubs import DeQuantStub, QuantStub
from octavo._models import walk as tree
from octavo._models.paths import canonical, joined
from octavo._numerics.checks import check_inputs
from octavo._numerics.params import QParams
from octavo._quantize.batches import refuse_several
from octavo._quantize.qconfig import QConfig, QConfigLike, as_mapping
from octavo._quantize.spec import Layers, LayerSpec, as_choice
from octavo._quantize.static.observed import Prepared, PreparedLinear
from octavo._quantize.static.preparing import Selection, choose
from octavo._quantize.static.ranges import NOT_NEEDED, Ranges
from octavo._quantize.training.fake_quantizer import FakeQuantize
from octavo._util.arrays import is_traced
from octavo._util.errors import raise_named
from octavo._util.floating import quiet
from octavo._util.foreign import refuse_masked
from octavo._util.pickling import pickled

__all__ = ["FakeQuantized", "QATDeQuantStub", "QATLinear", "QATQuantStub", "Session", "prepare_qat"]

_Model = TypeVar("_Model")

INPUT, WEIGHT = "input_fake_quant", "weight_fake_quant"  # attributes, and parts of the names of parameters


def value_of(x: Any) -> Any:
    """The array inside a value that autograd is differentiating; any other value as it is."""
    while is_traced(x):
        x = x._value
    return x


@pickled
class Session(Tracer):
    """What the layers of one prepared model share: the parameters bound for a call, and which arrays are on a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.bound: Mapping[str, Any] = {}
        self.applying = False  # whether `apply` is at work, which then decides about training
        self._training = False
        self._on_grid: dict[int, tuple[weakref.ref[NDArray[Any]], FakeQuantize]] = {}

    @property
    def training(self) -> bool:
        """Whether observers run: in `apply` inside a gradient, and in `calibrate`."""
        return self._training if self.applying else self.bounded

    @contextlib.contextmanager
    def bind(self, params: Mapping[str, Any], *, training: bool) -> Iterator[None]:
        """Layers use these parameters meanwhile."""
        before = self.bound, self.applying, self._training
        self.bound, self.applying, self._training = params, True, training
        try:
            yield
        finally:
            self.bound, self.applying, self._training = before

    def put_on_grid(self, y: Any, quantizer: FakeQuantize) -> Any:
        """Remembers that y is on the grid of `quantizer`, and makes it read-only so that it stays there."""
        array, key = value_of(y), id(value_of(y))
        array.flags.writeable = False
        self._on_grid[key] = (weakref.ref(array, lambda _: self._on_grid.pop(key, None)), quantizer)
        return y

    def grid_of(self, x: Any) -> FakeQuantize | None:
        """The quantizer that x came from, unchanged."""
        array = value_of(x)
        found = self._on_grid.get(id(array))
        return found[1] if found is not None and found[0]() is array else None


@pickled
class Use(Source):
    """A `Source` that also knows how its integers are wanted: which quantizer takes them, and whether behind ReLU."""

    def __init__(self) -> None:
        super().__init__(None)
        self.takers: list[tuple[FakeQuantize, bool]] = []

    def add(self, quantizer: FakeQuantize, after_relu: bool) -> None:
        if not any(known is quantizer and relu == after_relu for known, relu in self.takers):
            self.takers.append((quantizer, after_relu))

    def merge(self, other: Self, twins: Mapping[int, Any]) -> None:
        super().merge(other, twins)
        for quantizer, after_relu in list(other.takers):
            self.add(twins[id(quantizer)], after_relu)

    def wanted(self) -> QParams | None:
        """The parameters that all takers quantize with; None where they differ, or floats are used too."""
        if self.float_use not in (None, KEPT) or not self.takers:
            return None
        found = {quantizer.calculate_qparams() for quantizer, _ in self.takers}
        return found.pop() if len(found) == 1 else None


class FakeQuantized(Prepared):
    """Base of what `prepare_qat` puts in place of a layer or a stub."""

    tracer: Session

    label: str  # how messages name it

    def begin(self, kind: str) -> None:
        """The part of __init__ that layers and stubs share."""
        self.label = f"{kind} {self.name}"
        self.use = Use()
        self.fed_by: FakeQuantize | None = None  # the QuantStub's, where one feeds it

    @property
    def seen(self) -> bool:
        return self.fed_by is not None or any(q.seen for at, q in self.quantizers().items() if at == INPUT)

    def input_qparams(self, *, needed: bool) -> QParams:
        """Its own parameters, or those of the QuantStub that feeds it."""
        quantizer = self.quantizers()[INPUT]
        if not quantizer.seen and self.fed_by is not None:
            quantizer = self.fed_by
        return quantizer.qparams(f"{self.label}, its input") if needed else NOT_NEEDED

    def quantizers(self) -> dict[str, FakeQuantize]:
        """Its own, by the name of the attribute; the one of a QuantStub that feeds it is the stub's."""
        own = {name: vars(self).get(name) for name in (INPUT, WEIGHT)}
        return {name: value for name, value in own.items() if isinstance(value, FakeQuantize)}

    def watched(self) -> list[Any]:
        """Its source and its quantizers; a weight's too, which is the layer's own and is not merged."""
        return [*super().watched(), *self.quantizers().values()]

    def merge(self, other: Prepared, twins: Mapping[int, Any]) -> None:
        """Adds what the same layer of a copy has seen. Its weights are the same (`merge_calibration`)."""
        assert isinstance(other, FakeQuantized)
        self.use.merge(other.use, twins)
        if INPUT in (mine := self.quantizers()):
            mine[INPUT].merge(other.quantizers()[INPUT], f"{self.label}, its input")
        if other.fed_by is not None:
            self.fed_by = twins[id(other.fed_by)]

    def learned_name(self, at: str, kind: str) -> str:
        """What `parameters` calls the scale or zero point of the quantizer in the attribute `at`."""
        return joined(joined(canonical(self.path), at), kind)

    def quantized(self, x: Any, at: str, what: str) -> Any:
        """x through the quantizer in the attribute `at`."""
        quantizer: FakeQuantize = getattr(self, at)
        name = f"{self.label}{what}"
        if self.tracer.training:
            quantizer.observe(x, name)
        if not quantizer.fake_quant_enabled or not (quantizer.seen or x.size):  # no rows yet
            return x
        learned = {k: self.tracer.bound.get(self.learned_name(at, k)) for k in ("scale", "zero_point")}
        try:
            return quantizer.fake_quantize(x, name, **learned)
        except (TypeError, ValueError) as error:
            if str(error).startswith(name):
                raise
            raise_named(error, name)

    def taken(self, x: Any, quantizer: FakeQuantize | None) -> Any:
        """The array of a stand-in; notes whether integers of the quantizer or floats are wanted."""
        if (found := source_of(x)) is None:
            return x
        source, after_relu = found
        grid = self.tracer.grid_of(x._value)
        if quantizer is None or not isinstance(source, Use):
            return plain(x, "a float layer")
        source.add(grid or quantizer, after_relu)
        return x._value

    @quiet
    def checked(self, x: Any) -> Any:
        """x as float32, still differentiable."""
        if not is_traced(x):
            refuse_masked(x, f"{self.label}: x")
            refuse_several(x, f"{self.label}: x")
            x = np.asarray(x)
        kind = np.result_type(value_of(x)).kind
        if kind not in "fiub":
            raise TypeError(
                f"{self.label}: x must be real numbers, got dtype {value_of(x).dtype}; if code before it computes with "
                "NumPy functions that autograd does not know, use those of autograd.numpy"
            )
        return x if x.dtype == np.float32 else x.astype(np.float32)

    def given(self, y: Any) -> Any:
        """y, or in `calibrate` a stand-in for it."""
        return self.tracer.wrap(y, self.use) if self.tracer.bounded and type(y) is np.ndarray and y.ndim else y


@pickled
class QATLinear(FakeQuantized, PreparedLinear):
    """y = fq(x) fq(W)^T + b; without a QConfig y = x W^T + b. Made by `prepare_qat`."""

    def __init__(self, layer: Any, path: str, spec: LayerSpec, qconfig: QConfig | None, session: Session) -> None:
        super().__init__(layer, path, spec, qconfig, session)
        self.begin("layer")
        self.is_float = qconfig is None
        if qconfig is not None:
            self.input_fake_quant = as_fake_quantize(qconfig.activation())
            self.weight_fake_quant = as_fake_quantize(qconfig.weight())
            self.observe_weight()  # from the first step on there is a range, and one to start learning from

    @quiet
    def __call__(self, x: Any, *args: Any, **options: Any) -> Any:
        """float32 (..., out) for x (..., in). The layer's own code does not run: autograd could not follow it."""
        if args or options:
            raise TypeError(f"{self.label}: takes one argument in training, got {1 + len(args) + len(options)}")
        self.tracer.calls += 1
        own = self.input_fake_quant if self.qconfig is not None else None
        x = self.checked(self.taken(x, own))
        weight, bias = self.read()
        check_inputs(x.shape, weight.shape, f"{self.label}: ")
        if own is not None:
            self.fed_by = self.tracer.grid_of(x)
            if self.fed_by is None:
                x = self.quantized(x, INPUT, ", its input")
            weight = self.quantized(weight, WEIGHT, ", its weight")
        if any(map(is_traced, (x, weight, bias))):
            from octavo.nn import _gradients

            y = _gradients.linear(x, weight, bias, self.label)
            return _gradients.relu(y) if self.spec.activation == "relu" else y
        y = x @ weight.T
        y = y if bias is None else y + bias
        return self.given(np.maximum(y, np.float32(0)) if self.spec.activation == "relu" else y)

    def read(self) -> tuple[Any, Any]:
        """(W as (out, in), b) in float32: those bound by `apply`, or the layer's own."""
        bound, (weight_name, bias_name) = self.tracer.bound, self.names()
        weight, bias = self.read_float()
        if weight_name in bound:
            weight = bound[weight_name] if self.spec.layout == "out_in" else bound[weight_name].T
        if bias is not None and bias_name in bound:
            bias = bound[bias_name].reshape(-1)
        return _float32(weight), None if bias is None else _float32(bias)

    def names(self) -> tuple[str, str]:
        """What `parameters` calls W and b."""
        path = canonical(self.path)  # pickles of 0.1.0 hold it as "layers[0]"
        return joined(path, self.spec.weight), joined(path, self.spec.bias or "bias")

    def observe_weight(self) -> None:
        """Shows the weight's observer the weight as it is now."""
        if self.qconfig is not None:
            self.weight_fake_quant.observe(_float32(self.read_float()[0]), f"{self.label}, its weight")

    @property
    def seen(self) -> bool:
        return self.is_float or super().seen

    def ranges(self, *, needed: bool) -> Ranges:
        output = self.use.wanted() if self.use.float_use is None else None
        folds = output is not None and self.use.bounded and all(after_relu for _, after_relu in self.use.takers)
        weight = self.weight_fake_quant.qparams(f"{self.label}, its weight")
        return Ranges(input=self.input_qparams(needed=needed), weight=weight, output=output, folds_relu=folds)

    def __repr__(self) -> str:
        return f"{'FakeQuantized' if self.qconfig is not None else 'Float'}({self.layer!r})"


@pickled
class QATQuantStub(FakeQuantized):
    """y = fq(x), which the layers that take it know to be quantized. Made by `prepare_qat`."""

    def __init__(self, path: str, qconfig: QConfig, session: Session) -> None:
        super().__init__(path, session)
        self.begin("QuantStub")
        self.input_fake_quant = as_fake_quantize(qconfig.activation())

    def __call__(self, x: Any) -> Any:
        self.tracer.calls += 1
        x = plain(x, "QuantStub")
        if self.tracer.grid_of(x) is self.input_fake_quant:
            return x
        y = self.quantized(self.checked(x), INPUT, "")
        if not self.input_fake_quant.fake_quant_enabled:
            return y
        return self.given(self.tracer.put_on_grid(y, self.input_fake_quant))

    def original(self) -> Any:
        return QuantStub()

    def ranges(self, *, needed: bool) -> Ranges:
        own = self.input_qparams(needed=needed)
        alone = self.use.float_use in (None, KEPT) and not self.use.takers
        return Ranges(input=own, as_float=not alone and self.use.wanted() != own)

    def __repr__(self) -> str:
        return "FakeQuantized(QuantStub())"


@pickled
class QATDeQuantStub(FakeQuantized):
    """y = fq(x), or x where a QuantStub gave it. Made by `prepare_qat`."""

    def __init__(self, path: str, qconfig: QConfig, session: Session) -> None:
        super().__init__(path, session)
        self.begin("DeQuantStub")
        self.input_fake_quant = as_fake_quantize(qconfig.activation())

    def __call__(self, x: Any) -> Any:
        self.tracer.calls += 1
        x = self.taken(x, self.input_fake_quant)
        self.fed_by = self.tracer.grid_of(x)
        return x if self.fed_by is not None else self.quantized(self.checked(x), INPUT, "")

    def original(self) -> Any:
        return DeQuantStub()

    def ranges(self, *, needed: bool) -> Ranges:
        return Ranges(input=self.input_qparams(needed=needed), as_float=True)

    def __repr__(self) -> str:
        return "FakeQuantized(DeQuantStub())"


def as_fake_quantize(made: Any) -> FakeQuantize:
    """What a QConfig's factory made, as a FakeQuantize: a plain observer gets one around it."""
    return made if isinstance(made, FakeQuantize) else FakeQuantize(lambda: made)


@quiet
def _float32(a: Any) -> Any:
    if is_traced(a):
        return a if a.dtype == np.float32 else a.astype(np.float32)
    return np.asarray(a, np.float32)


def prepare_qat(
    model: _Model,
    qconfig: QConfigLike,
    *,
    layers: Layers,
    inplace: bool = False,
    check: bool = True,
) -> _Model:
    """Lets each float layer y = x W^T + b that qconfig names compute y = fq(x) fq(W)^T + b, and returns the model.

    fq is fake quantization, x' = dequantize(quantize(x)), with a straight-through gradient. Train the model with
    `octavo.qat.parameters` and `octavo.qat.apply`, then `octavo.convert` it.

    Args:
        model: any tree of objects, as for `quantize_dynamic`. Code between the layers is differentiated by autograd:
            NumPy's ufuncs and operators may stay, other functions come from autograd.numpy.
        qconfig: a QConfig for every layer, or a QConfigMapping or dict by name, pattern and type. Its factories make
            `FakeQuantize`s, or observers, which get one each.
        layers: your own layer classes, or a dict from class to `LayerSpec`; names, patterns and None as for
            `quantize_dynamic`.
        inplace: change the model itself. Otherwise a copy.deepcopy is prepared.
        check: compare each layer with activation(x W^T + b) on a random row first; see `quantize_dynamic`.

    Returns:
        The prepared model. Layers of these classes that qconfig leaves in float are trained too.

    Raises:
        ImportError: autograd is not installed; the message names the extra.
        TypeError, ValueError: as for `prepare`. The model is as it was.

    Notes:
        QuantStubs and DeQuantStubs quantize too; give each place its own. A layer's code does not run in training, only
        its equation in float32. Observers see raw values, in training and in `calibrate` only.

    Example:
        >>> import autograd, octavo as oc
        >>> import autograd.numpy as np
        >>> model = oc.prepare_qat(oc.nn.Linear.init(4, 2), oc.default_qat_qconfig, layers={oc.nn.Linear})
        >>> params = oc.qat.parameters(model)
        >>> x = np.ones((3, 4), np.float32)
        >>> gradient = autograd.grad(lambda params: np.mean(oc.qat.apply(model, params, x) ** 2))(params)
        >>> {name: g.shape for name, g in gradient.items()}
        {'weight': (2, 4), 'bias': (2,)}
    """
    from octavo._numerics import differentiable  # noqa: F401 - says which extra is missing, before anything is done

    selection = Selection(as_choice(layers), as_mapping(qconfig), stubs=(QuantStub, DeQuantStub), float_layers=True)
    model, chosen = choose(model, selection, inplace=inplace, check=check)
    session = Session()
    replacements: dict[int, FakeQuantized] = {}
    for choice in chosen:
        value, path, config = choice.target.original, choice.target.path, choice.qconfig
        if choice.target.spec is not None:
            replacements[id(value)] = QATLinear(value, path, choice.target.spec, config, session)
        elif config is not None:
            stub = QATQuantStub if type(value) is QuantStub else QATDeQuantStub
            replacements[id(value)] = stub(path, config, session)
    trained: _Model = tree.replace(model, replacements)
    return trained


def fake_quantized(model: Any) -> list[tuple[str, FakeQuantized]]:
    """(path, layer) of everything that `prepare_qat` put in."""
    found = [(path, value) for path, value in walk_untraced(model) if isinstance(value, FakeQuantized)]
    if not found:
        raise ValueError("the model has no fake-quantized layer; pass what octavo.prepare_qat returned")
    return found


def walk_untraced(model: Any) -> Iterator[tuple[str, Any]]:
    """tree.walk that does not enter autograd's values, whose graph is large."""
    return tree.walk(model, stop=is_traced)
