"""The first step of static quantization: `prepare` puts observers around layers and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import ArrayLike

from octavo._layers.arrays.traced import Tracer
from octavo._layers.linear import Layout
from octavo._layers.stubs import QuantStub
from octavo._models import walk as tree
from octavo._models.estimators import refuse_training, training_state
from octavo._quantize.checking import check_functions
from octavo._quantize.input_transforms import transforms_of_inputs
from octavo._quantize.qconfig import QConfig, QConfigLike, QConfigMapping, as_mapping
from octavo._quantize.scales import warn_of_spread
from octavo._quantize.select import Arrays, unwrapped
from octavo._quantize.spec import LayerChoice, Layers, as_choice
from octavo._quantize.static.observed import ObservedLinear, ObservedMatrix, ObservedQuantStub, Prepared
from octavo._quantize.targets import Target, find_targets

__all__ = ["Choice", "Selection", "choose", "prepare"]

_Model = TypeVar("_Model")


def prepare(
    model: _Model,
    qconfig: QConfigLike,
    *,
    layers: Layers | None = None,
    arrays: Arrays | None = None,
    layout: Layout = "in_out",
    pre_quant_scale: Mapping[str, ArrayLike] | None = None,
    inplace: bool = False,
    check: bool = True,
) -> _Model:
    """Puts observers around each float layer y = x W^T + b and each array that qconfig names, and returns the model.

    Running the prepared model computes what the float model computes, and observes the ranges of the layers' inputs and
    results. Layers return stand-ins that any NumPy code may take for arrays; these tell `convert` which results are
    used by quantized layers alone.

    Args:
        model: any tree of objects, as for `quantize_dynamic`.
        qconfig: which observers: a QConfig for every layer, or a QConfigMapping or dict by name, pattern and type.
        layers: your own layer classes, or a dict from class to `LayerSpec`; names, patterns and None as for
            `quantize_dynamic`.
        arrays, layout: arrays that the model's code multiplies by, as for `quantize_dynamic`. Without layers and
            without arrays, every large 2-D float array is observed; of fitted scikit-learn estimators the matrices that
            they multiply by.
        pre_quant_scale: scales of inputs by path, as for `quantize_dynamic`. Such a layer takes floats, from the layer
            before it too, and its observer sees x / scale.
        inplace: change the model itself. Otherwise a copy.deepcopy is prepared and the model is left as it is.
        check: send one random row through each layer and compare with activation(x W^T + b); see `quantize_dynamic`.

    Returns:
        The prepared model, for `calibrate` and `convert`.

    Raises:
        TypeError: layers or qconfig is of another kind, or an attribute cannot be copied (its path is named).
        ValueError: no layer or array matches; qconfig names none of them, or something else; a layer computes something
            other than its spec says; a closure still reaches a float layer. The layer's path is named. The model is as
            it was.

    Warns:
        UserWarning: the weights of a layer's inputs differ in range by 1000 times or more; see `quantize_dynamic`.

    Notes:
        QuantStubs are observed too, with the QConfig that the mapping gives for their path and type. Where the model's
        code takes nothing but true arrays, run it with `calibrate`, which can do without stand-ins. The steps are those
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
    selection = Selection(None if layers is None else as_choice(layers), as_mapping(qconfig), arrays, layout)
    model, chosen = choose(model, selection, inplace=inplace, check=check)
    transforms = transforms_of_inputs(pre_quant_scale, None, [c.target for c in chosen if c.qconfig is not None])
    warn_of_spread(choice.target for choice in chosen if choice.target.is_linear)
    tracer = Tracer()
    observed = {id(c.target.original): _observed(c.target, c.qconfig, tracer) for c in chosen if c.qconfig is not None}
    for original, transform in transforms.items():
        observed[original].pre_quant_scale = transform.scale
    dropped = {id(held): None for _, _, held in training_state(model, observed.keys())}
    prepared: _Model = tree.replace(model, observed | dropped)
    refuse_training(prepared, {id(value) for value in observed.values()})
    return prepared


def _observed(target: Target, qconfig: QConfig, tracer: Tracer) -> Prepared:
    if target.axis is not None:
        return ObservedMatrix(target.original, target.path, target.axis, qconfig, tracer)
    if target.spec is None:
        return ObservedQuantStub(target.path, qconfig, tracer)
    return ObservedLinear(target.original, target.path, target.spec, qconfig, tracer)


@dataclass(frozen=True)
class Selection:
    """What `prepare` and `prepare_qat` are asked for.

    Attributes:
        layers, mapping, arrays, layout: as for `prepare`.
        stubs: which stubs are prepared, too.
        float_layers: whether layers that the mapping leaves in float are chosen, with None.
    """

    layers: LayerChoice | None
    mapping: QConfigMapping
    arrays: Arrays | None = None
    layout: Layout = "in_out"
    stubs: tuple[type, ...] = (QuantStub,)
    float_layers: bool = False


@dataclass(frozen=True)
class Choice:
    """A layer, an array or a stub, and its QConfig; None leaves it in float."""

    target: Target
    qconfig: QConfig | None


def choose(model: Any, selection: Selection, *, inplace: bool, check: bool) -> tuple[Any, list[Choice]]:
    """The model or its copy, and what is to be replaced in it."""
    model = unwrapped(model)
    chosen = _chosen(model, selection)
    for choice in chosen if check else []:
        choice.target.check()
    for choice in chosen:
        if choice.target.is_linear:
            choice.target.weight()
    originals = {id(choice.target.original): None for choice in chosen}
    if check:
        check_functions(model, originals, inplace)
    if not inplace:
        model = tree.copy_with(model, {})
        chosen = _chosen(model, selection)
        for choice in chosen:
            if id(choice.target.original) in originals:
                raise ValueError(
                    f"layer {tree.label(choice.target.path)} was not copied: a __deepcopy__ above it keeps the "
                    "original. Pass inplace=True, or copy the layer in that __deepcopy__"
                )
    return model, chosen


def _chosen(model: Any, selection: Selection) -> list[Choice]:
    targets = find_targets(model, selection.layers, selection.arrays, layout=selection.layout).items
    if others := sorted({type(target.original).__name__ for target in targets if target.counterpart is not None}):
        raise ValueError(
            f"prepare and prepare_qat are for linear layers and arrays alone, got {', '.join(others)} in layers; "
            "quantize_dynamic quantizes these"
        )
    names = ", ".join(tree.label(target.path) for target in targets)
    found = targets + [Target(path, value) for path, value in tree.walk(model) if type(value) in selection.stubs]
    if unused := selection.mapping.unused((target.path, type(target.original)) for target in found):
        raise ValueError(
            f"qconfig names {', '.join(map(repr, unused))}, but the layers are {names}: correct the name, or omit it"
        )
    resolve = selection.mapping.resolve
    chosen = [Choice(target, resolve(target.path, type(target.original))) for target in found]
    if all(choice.qconfig is None or not choice.target.is_linear for choice in chosen):
        raise ValueError(
            f"qconfig names none of the layers {names}: give a default, or one of these names, a pattern or a type"
        )
    return [c for c in chosen if c.qconfig is not None or (selection.float_layers and c.target.is_linear)]
