"""Dynamic post-training quantization: integer weights now, activations quantized at each call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from types import MethodType
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

from numpy.typing import ArrayLike, NDArray

from octavo._layers.embedding import QuantEmbedding
from octavo._layers.hollow import empty
from octavo._layers.linear import Layout, QuantLinear, Rounding
from octavo._layers.matrix import QuantMatrix
from octavo._layers.recurrent import QuantGRU, QuantLSTM
from octavo._layers.weights import ActivationScheme
from octavo._models import walk as tree
from octavo._models.estimators import refuse_training, training_state
from octavo._models.paths import joined
from octavo._numerics.gptq_int8 import Int8Weight
from octavo._numerics.input_transform import InputTransform
from octavo._numerics.int4 import GroupedWeight, ScaleDtype
from octavo._numerics.params import QType
from octavo._quantize.batches import Forward, check_callable, run_model
from octavo._quantize.building import Builder
from octavo._quantize.calibrated import RoundingErrors, rounded_weights
from octavo._quantize.checking import check_functions
from octavo._quantize.input_transforms import Rotations, transforms_of_inputs
from octavo._quantize.measure import measured, random_rows, signal_to_noise
from octavo._quantize.options import Calibration, Dtypes, Measuring, WeightOptions, as_dtypes
from octavo._quantize.report import Outcome, QuantizationReport, report_of
from octavo._quantize.scales import warn_of_losses, warn_of_spread
from octavo._quantize.select import Arrays, Chosen, unwrapped
from octavo._quantize.sequential import rounded_in_turn
from octavo._quantize.spec import LayerChoice, Layers, as_choice
from octavo._quantize.targets import Target, find_targets
from octavo._quantize.watching import first_rows
from octavo.nn import GRU, LSTM, Embedding, Linear

__all__ = ["quantize_dynamic"]

_Model = TypeVar("_Model")


class _Options(TypedDict, total=False):
    """The keyword arguments, for the overloads of bare layers."""

    arrays: Arrays | None
    layout: Layout
    min_size: int | None
    min_speedup: float | None
    batch_size: int
    report: Callable[[QuantizationReport], object] | None
    x: Any
    group_size: int | None
    symmetric: bool
    scale_dtype: ScaleDtype
    rounding: Rounding | Literal["gptq"] | None
    calibration: Iterable[Any] | None
    sequential: bool
    forward: Forward
    progress: bool
    rounding_report: Callable[[RoundingErrors], object] | None
    activation: ActivationScheme
    activation_group: int | None
    pre_quant_scale: Mapping[str, ArrayLike] | None
    rotation: Rotations | None
    inplace: bool
    check: bool


@overload
def quantize_dynamic(
    model: NDArray[Any], layers: None = None, dtype: Dtypes = ..., **options: Unpack[_Options]
) -> QuantMatrix: ...
@overload
def quantize_dynamic(
    model: Linear, layers: Layers | None = ..., dtype: Dtypes = ..., **options: Unpack[_Options]
) -> QuantLinear: ...
@overload
def quantize_dynamic(
    model: LSTM, layers: Layers | None = ..., dtype: Dtypes = ..., **options: Unpack[_Options]
) -> QuantLSTM: ...
@overload
def quantize_dynamic(
    model: GRU, layers: Layers | None = ..., dtype: Dtypes = ..., **options: Unpack[_Options]
) -> QuantGRU: ...
@overload
def quantize_dynamic(
    model: Embedding, layers: Layers | None = ..., dtype: Dtypes = ..., **options: Unpack[_Options]
) -> QuantEmbedding: ...
@overload
def quantize_dynamic(
    model: _Model, layers: Layers | None = ..., dtype: Dtypes = ..., **options: Unpack[_Options]
) -> _Model: ...


def quantize_dynamic(
    model: Any,
    layers: Layers | None = None,
    dtype: Dtypes = "int8",
    *,
    arrays: Arrays | None = None,
    layout: Layout = "in_out",
    min_size: int | None = None,
    min_speedup: float | None = None,
    batch_size: int = 32,
    report: Callable[[QuantizationReport], object] | None = None,
    x: Any = None,
    group_size: int | None = None,
    symmetric: bool = True,
    scale_dtype: ScaleDtype = "float32",
    rounding: Rounding | Literal["gptq"] | None = None,
    calibration: Iterable[Any] | None = None,
    sequential: bool = False,
    forward: Forward = run_model,
    progress: bool = False,
    rounding_report: Callable[[RoundingErrors], object] | None = None,
    activation: ActivationScheme = "symmetric",
    activation_group: int | None = None,
    pre_quant_scale: Mapping[str, ArrayLike] | None = None,
    rotation: Rotations | None = None,
    inplace: bool = False,
    check: bool = True,
) -> Any:
    """Replaces a model's float layers by `QuantLinear`, or its 2-D arrays by `QuantMatrix`, and returns the model.

    The model is any tree of objects: attributes, slots, dataclasses, lists, tuples, dicts, sets, object arrays,
    partials and bound methods are searched. What several places share stays shared; cycles are fine. A replacement for
    a layer has the method that the float layer was called by; a replacement for an array multiplies as the array did
    (x @ w, w.T, w[ids]). The model's own code stays as it is.

    Without layers and without arrays, every 2-D float array of min_size elements or more is replaced. In fitted
    scikit-learn estimators, only the matrices that they multiply by are replaced (coefs_, and coef_ if there are
    several outputs). Attributes that only training needs are dropped, and `fit` then raises an error. A
    read-only mapping (an .npz file) becomes a dict.

    Args:
        model: the model, or a layer itself.
        layers: your own layer class or classes, or a dict from class to `LayerSpec`. Classes are matched by exact type,
            so name subclasses too. octavo.nn's LSTM, GRU and Embedding become a `QuantLSTM`, `QuantGRU` and
            `QuantEmbedding`. Paths and patterns select as well, and None excludes: {Dense: LayerSpec(), "head": None},
            ["blocks.*.up", "blocks.*.down"]. Names take precedence over patterns, and patterns over classes.
        dtype: of the weights: "int8" or "int4"; or a dict by name, pattern and class, with the default under "":
            {"": "int8", "blocks.*.down": "int4", "head": None}. None leaves a layer in float; so does a dict without a
            matching entry.
        arrays: paths of arrays, where * and ? stand for anything: ["coefs_.*", "blocks.*.w"]; a dict from such a path
            to its layout; or True: every 2-D float array of min_size elements or more. Other arrays stay.
        layout: of arrays: "in_out" where code has x @ w, "out_in" where it has x @ w.T or w[ids].
        min_size: smaller arrays stay; 4096 elements where no path names them.
        min_speedup: measure each linear layer and array, float and quantized, with batch_size random rows and the
            threads as they are set; what is not faster by this factor stays in float.
        report: called with the `QuantizationReport`: report=print.
        x: an input of the model. The report then has the SQNR of each layer and array on what reaches it from x, and
            those below 20 dB are warned about. Pass real inputs; random ones say little.
        group_size, symmetric, scale_dtype, rounding: of int4 weights, as for `QuantLinear`. rounding="gptq" needs
            calibration; it minimises the error of each layer's output rather than of its weights (`octavo.round_gptq`).
            It is for int8 weights, too, where all have eight bits (`octavo.round_gptq_int8`).
        calibration: batches to run the float model on first, for int4 weights or GPTQ; [x] for one. With
            rounding="search" each input is then weighed by its mean square. "gptq" takes 8 K^2 bytes a layer of K
            inputs (K = 4096: 134 MB, 11008: 970 MB), at most 2 GiB at a time: where that does not hold all layers, the
            batches are run several times, so they must be a list or the like. A layer that no batch reaches is rounded
            as without calibration, with a warning; recurrent layers and embeddings always are.
        sequential: with rounding="gptq", round the weights one after the other, in the order in which the model uses
            them. Each weight W is first replaced by V, and V is rounded on the inputs q that the quantized model gives
            the layer. V brings the result on q closest to the float model's, x W^T:

                V = argmin sum |q V^T - (x W^T + r)|^2 + d |V - W|^2          d = 0.01 of the mean of q^2

            so layers make up for the errors of those before them. If the result is added to another value before the
            next of these layers is called, as in a residual connection, r is the error of that value: the float model's
            minus the quantized model's. Otherwise r = 0.
            The model runs over all batches for each weight, which takes time, and what float's layers are given is kept
            for as many as fit 1 GiB. What needs no calibration (embeddings, recurrent layers, int8 weights beside int4
            ones) is quantized from the start.
        forward: how to run the model on x and on a batch of calibration; by default model(batch), or
            model.predict(batch) where the model cannot be called.
        progress: show a bar of the batches of calibration, then of the weights as they are rounded (needs tqdm).
        rounding_report: called with the `RoundingErrors` of each weight as soon as it is rounded with calibration:
            rounding_report=print. With "search", too, this takes as much memory as "gptq". `compare_rounding` compares
            all ways of rounding.
        activation: how `QuantLinear` quantizes its input: "symmetric", "asymmetric" or, for layers and arrays that are
            not recurrent, "int16".
        activation_group: inputs of a row that share a scale, as for `QuantLinear`: with dtype="int4" a multiple of
            group_size. Recurrent layers have one scale a row all the same, and so have int8 weights beside int4 ones.
        pre_quant_scale: a scale of the inputs of each linear layer or array that has one, by path: `find_smoothing`
            finds them, or a checkpoint has them. See `QuantLinear`.
        rotation: inputs of a block, as for `QuantLinear`: one number for all linear layers and arrays, or a dict by
            name, pattern and class, with the default under "": {"": 128, "head": None}. It divides each one's inputs.
        inplace: change the model itself. Every replacement is built on trial first, so an error leaves the model as it
            was; then the layers are quantized one by one, each giving up its float weights before the next. At most
            one layer is in memory twice. Where memory runs out all the same, or Ctrl-C comes, the layers that are not
            done yet stay in float. (A model that holds bound methods of its layers is changed after all are built.)
            Otherwise the model is copied with copy.deepcopy; the layers' float weights are not copied.
        check: send a random row and its negative through each float layer and compare with activation(x W^T + b). The
            row has shape (1, K), or (1, 1, K) for a layer that does not take that. Attributes that the layer sets on
            the way are put back. Functions in the model that would still reach a float layer through their closure or
            default arguments are refused, too.

    Returns:
        The quantized model. With inplace=True that is the model itself, unless it is a layer, a tuple or a bound
        method: use what is returned.

    Raises:
        TypeError: layers holds something that is neither a class nor a path, calibration is one array instead of
            batches, a weight is not numeric, or an attribute cannot be copied.
        ValueError: no layer or path matches; the model is quantized already, or an estimator is not fitted; an array
            that a path names exactly cannot be quantized; a layer computes something other than its spec says; its
            weight is not 2-D, or holds NaN or infinity; a closure still reaches it; the model cannot be changed or
            copied. The message gives the path and the remedy, and the model is as it was.

    Warns:
        UserWarning: the SQNR of a layer on x is below 20 dB. Without x: the weights of a layer's inputs differ in range
            by 1000 times or more. Where the inputs do too, one scale for a row of them loses the small ones.

    Example:
        >>> import numpy as np, octavo as oc
        >>> class Dense:
        ...     def __init__(self, W, b):
        ...         self.W, self.b = W, b
        ...     def forward(self, x):
        ...         return np.maximum(x @ self.W + self.b, 0)
        >>> model = {"hidden": Dense(np.ones((4, 3), np.float32), np.zeros(3, np.float32))}
        >>> spec = oc.LayerSpec(weight="W", bias="b", layout="in_out", call="forward", activation="relu")
        >>> oc.quantize_dynamic(model, {Dense: spec})
        {'hidden': QuantLinear(4 -> 3, int8, activation=symmetric, bias, relu)}
        >>> oc.quantize_dynamic(model, {Dense: spec}, dtype="int4", group_size=32)
        {'hidden': QuantLinear(4 -> 3, int4, group_size=32, activation=symmetric, bias, relu)}
    """
    options = WeightOptions(
        dtypes=as_dtypes(dtype), group_size=group_size, symmetric=symmetric, scale_dtype=scale_dtype,
        rounding=rounding, activation=activation, activation_group=activation_group,
    )  # fmt: skip
    check_callable(forward)
    for name, told in (("report", report), ("rounding_report", rounding_report)):
        if told is not None:
            check_callable(told, name, "print")
    batches = Calibration.of(options, calibration, forward, progress, rounding_report, sequential)
    measuring = Measuring(min_speedup=min_speedup, batch_size=batch_size)

    model = unwrapped(model)
    choice = None if layers is None else as_choice(layers)
    found = find_targets(model, choice, arrays, layout=layout, min_size=min_size, check_shape=options.check_shape)
    types, why = _weight_types(found, options)
    targets = [target for target in found.items if id(target.original) in types]
    transforms = transforms_of_inputs(pre_quant_scale, rotation, targets)
    rounded = {} if batches is None else _calibrated(model, targets, types, options, batches, transforms, check)
    rows = None if x is None else first_rows(model, [target for target in targets if target.is_linear], x, forward)
    builder = Builder(targets, types, options, rounded, transforms, check=check)
    one_by_one = inplace and not _methods_held(model, types)
    outcomes, slow = _outcomes(builder, targets, measuring, rows, one_by_one)
    targets = [target for target in targets if id(target.original) in outcomes]
    replacements = {held: outcome.new for held, outcome in outcomes.items()}
    dropped = _training_state(model, replacements)
    if check:
        check_functions(model, replacements, inplace)
    quantized = None if inplace else _copied(model, choice, replacements, dropped)
    _warn(targets, outcomes, rows)
    if report is not None:  # of what has not been refused; one that raises leaves the model as it is
        report(report_of(model, outcomes, why=why | slow, dropped=dropped))
    if one_by_one:
        del found, rounded, rows  # they hold float weights, which `replace` frees one by one
        return builder.replace(model, lambda: _replaced(model, replacements, dropped, inplace), targets, replacements)
    return _replaced(model, replacements, dropped, inplace) if inplace else quantized


def _weight_types(found: Chosen[Target], options: WeightOptions) -> tuple[dict[int, QType], dict[int, str]]:
    """The type of each target's weights, by its id; and why the others, and arrays looked at before, stay in float."""
    types: dict[int, QType] = {}
    why = dict(found.why)
    for target in found.items:
        qtype = options.type_of(target.path, type(target.original))
        if qtype is None:
            why[id(target.original)] = "left in float by dtype"
        else:
            types[id(target.original)] = qtype
    if unused := options.dtypes.unused((target.path, type(target.original)) for target in found.items):
        names = ", ".join(target.name for target in found.items[:20])
        raise ValueError(f"dtype names {', '.join(map(repr, unused))}, but what is quantized is {names}")
    if not types:
        raise ValueError(
            "dtype leaves everything in float that layers and arrays select: give it a default, {'': 'int8'}"
        )
    return types, why


def _calibrated(
    model: Any,
    targets: list[Target],
    types: Mapping[int, QType],
    options: WeightOptions,
    calibration: Calibration,
    transforms: Mapping[int, InputTransform],
    check: bool,
) -> dict[int, GroupedWeight | Int8Weight]:
    """The weights of linear layers and arrays that calibration rounds, by the targets' ids."""
    linear = [t for t in targets if t.is_linear and types[id(t.original)] == options.calibrated_type]
    if not linear:
        raise ValueError("calibration is for linear layers and arrays, and neither is named; others need none")
    if calibration.sequential:
        chosen = {id(t.original) for t in linear}
        others = [t for t in targets if id(t.original) not in chosen]

        def build(target: Target, weight: GroupedWeight | Int8Weight | None) -> Any:
            held = id(target.original)
            known = {} if weight is None else {held: weight}
            own = {held: transforms[held]} if held in transforms else {}
            return Builder([target], types, options, known, own, check=check).build(target)

        return rounded_in_turn(model, linear, options, calibration, build, others, transforms=transforms, check=check)
    return rounded_weights(model, linear, options, calibration, transforms=transforms, check=check)


def _outcomes(
    builder: Builder,
    targets: list[Target],
    measuring: Measuring,
    rows: Mapping[str, NDArray[Any]] | None,
    one_by_one: bool,
) -> tuple[dict[int, Outcome], dict[int, str]]:
    """What became of each target that is fast enough, and why the others stay in float, by their ids.

    What is to be replaced one by one is built on trial, so that whatever is wrong with one is found before any is.
    """
    outcomes, slow = {}, {}
    for target in targets:
        new = builder.trial(target, exact=rows is not None) if one_by_one else builder.build(target)
        speedup = _speedup(target, new, measuring)
        if speedup is not None and not speedup >= (measuring.min_speedup or 0.0):
            held = target.original if target.spec is None else getattr(target.original, target.spec.weight)
            slow[id(held)] = f"{speedup:.2f} times as fast with {measuring.batch_size} rows"
            continue
        x = None if rows is None else rows.get(target.path)
        sqnr = None if x is None else signal_to_noise(target.original, new, target.spec, x)
        outcomes[id(target.original)] = Outcome.of(target.original, new, builder.key(target), sqnr)
        if one_by_one:
            empty(new)
    return outcomes, slow


def _methods_held(model: Any, replaced: Collection[int]) -> bool:
    """Whether the model holds a bound method of what is replaced. One of a replacement does not lead back to it."""
    places = tree.places(model, lambda place: id(place.value) in replaced)
    methods = (place.value for place in places if isinstance(place.value, MethodType))
    return any(id(method.__self__) in replaced for method in methods)


def _speedup(target: Target, new: Any, measuring: Measuring) -> float | None:
    """How many times as fast it is, where that is asked and can be measured."""
    if measuring.min_speedup is None or not isinstance(new, (QuantLinear, QuantMatrix)):
        return None
    return measured(target.original, new, target.spec, random_rows(new, measuring.batch_size)).speedup


def _warn(targets: list[Target], outcomes: Mapping[int, Outcome], rows: Mapping[str, NDArray[Any]] | None) -> None:
    """Warns of low SQNR on x; without x, of weights that make it likely."""
    if rows is None:
        warn_of_spread([target for target in targets if target.is_linear])
    else:
        measured_ones = ((target, outcomes[id(target.original)].sqnr_db) for target in targets)
        warn_of_losses((target, sqnr) for target, sqnr in measured_ones if sqnr is not None)


def _training_state(model: Any, replacements: Mapping[int, Any]) -> dict[int, str]:
    """Paths of what estimators whose matrices are replaced need for training alone, by id."""
    return {id(held): joined(path, name) for path, name, held in training_state(model, replacements)}


def _replaced(model: Any, replacements: Mapping[int, Any], dropped: Mapping[int, str], inplace: bool) -> Any:
    """The model, or a copy, with the replacements in it."""
    mapping = dict(replacements) | dict.fromkeys(dropped)
    quantized = tree.replace(model, mapping) if inplace else tree.copy_with(model, mapping)
    refuse_training(quantized, {id(new) for new in replacements.values()})
    return quantized


def _copied(model: Any, choice: LayerChoice | None, replacements: Mapping[int, Any], dropped: Mapping[int, str]) -> Any:
    """A copy with the replacements in it.

    Raises:
        ValueError: it still holds a float layer that was to be replaced.
    """
    quantized = _replaced(model, replacements, dropped, inplace=False)
    if choice is None:
        return quantized
    places = tree.references(model, lambda value: id(value) in replacements)
    expected = {path for path, value in places if id(value) in replacements}
    for path, layer, _ in choice.look(quantized):
        if path in expected:
            raise ValueError(
                f"{tree.label(path)} is still a {type(layer).__name__} in the copy: a __deepcopy__ above it makes "
                "copies of its own. Hand the memo on in that __deepcopy__, or pass inplace=True"
            )
    return quantized
