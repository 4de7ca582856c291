"""Dynamic post-training quantization: integer weights now, activations quantized at each call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo._layers.linear import ActivationScheme, QuantLinear, Rounding
from octavo._layers.matrix import QuantMatrix
from octavo._layers.registry import counterpart
from octavo._models import walk as tree
from octavo._numerics.int4 import GroupedWeight, ScaleDtype
from octavo._numerics.params import QTypeLike, as_qtype, qint4
from octavo._numerics.rounding import as_weight
from octavo._quantize.calibrated import (
    RoundingErrors,
    Watchable,
    rounded_weights,
    watchable_array,
    watchable_layer,
)
from octavo._quantize.measure import check_measuring, measured, random_rows
from octavo._quantize.select import (
    Arrays,
    Entry,
    Layout,
    QuantizationReport,
    chosen_arrays,
    entry,
    shape_check,
    unwrapped,
)
from octavo._quantize.spec import (
    Layers,
    LayerSpec,
    as_specs,
    check_functions,
    check_layer,
    find_layers,
    nothing_found,
    read_layer,
    refusal,
)

__all__ = ["quantize_dynamic"]


def quantize_dynamic(
    model: Any,
    layers: Layers | None = None,
    dtype: QTypeLike = "int8",
    *,
    arrays: Arrays | None = None,
    layout: Layout = "in_out",
    min_size: int | None = None,
    min_speedup: float | None = None,
    batch_size: int = 32,
    report: Callable[[QuantizationReport], object] | None = None,
    group_size: int | None = None,
    symmetric: bool = True,
    scale_dtype: ScaleDtype = "float32",
    rounding: Rounding | Literal["gptq"] | None = None,
    calibration: Iterable[Any] | None = None,
    forward: Callable[[Any, Any], Any] = lambda model, batch: model(batch),
    progress: bool = False,
    rounding_report: Callable[[RoundingErrors], object] | None = None,
    activation: ActivationScheme = "symmetric",
    inplace: bool = False,
    check: bool = True,
) -> Any:
    """The model with its float layers replaced by `QuantLinear`, or its 2-D arrays by `QuantMatrix`.

    The model is any tree of objects: attributes, slots, dataclasses, lists, tuples, dicts, sets, object arrays,
    partials and bound methods are searched. What is held in several places stays one thing; cycles are fine. What
    replaces a layer answers to the method that the float layer was called by; what replaces an array multiplies as the
    array did (x @ w, w.T, w[ids]). The model's own code stays as it is.

    Without layers and without arrays, every 2-D float array of min_size elements or more is replaced; of fitted
    scikit-learn estimators, wherever they are, the matrices that they multiply by (coefs_, and coef_ of several
    outputs) and nothing else. A mapping that is no dict (an .npz file) becomes one.

    Args:
        model: the model, or a layer itself.
        layers: the user's own layer class or classes, or a dict from class to `LayerSpec`. Matched by exact type, so a
            subclass is quantized only where it is named. octavo.nn's LSTM, GRU and Embedding become a `QuantLSTM`,
            `QuantGRU` and `QuantEmbedding`.
        dtype: of the weights: "int8" or "int4".
        arrays: paths of arrays, where * and ? stand for anything: ["coefs_.*", "blocks.*.w"]; a dict from such a path
            to its layout; or True: every 2-D float array of min_size elements or more. Other arrays stay.
        layout: of arrays: "in_out" where code has x @ w, "out_in" where it has x @ w.T or w[ids].
        min_size: smaller arrays stay; 4096 elements where no path names them.
        min_speedup: measure each linear layer and array, float and quantized, with batch_size random rows and the
            threads as they are set; what is not faster by this factor stays in float.
        report: called with the `QuantizationReport`, as in report=print.
        group_size, symmetric, scale_dtype, rounding: of int4 weights, as for `QuantLinear`. rounding="gptq" (with
            calibration) minimises the error of each layer's output instead of its weights' (`octavo.gptq`).
        calibration: batches that the float model is run on first, for int4 weights: rounding="search" then weighs each
            input by its mean square. "gptq" takes 8 K^2 bytes a layer of K inputs (K = 4096: 134 MB, 11008: 970 MB), at
            most 2 GiB at a time: where that does not hold all layers, the batches are run several times, so they must
            be a list or the like. A layer that no batch reaches is rounded by the plain search, with a warning;
            recurrent layers and embeddings always are.
        forward: how to run the model on a batch of calibration.
        progress: show a bar of the batches of calibration, then of the weights as they are rounded (needs tqdm).
        rounding_report: called with the `RoundingErrors` of each weight as soon as it is rounded with calibration:
            rounding_report=print. Takes the memory of "gptq" with "search" too. `compare_rounding` compares all ways.
        activation: how `QuantLinear` quantizes its input: "symmetric" or "asymmetric".
        inplace: change the model itself, after every replacement has been built. Otherwise a copy.deepcopy is made in
            which the layers' float weights are never copied.
        check: send a random row (and its negative) through each float layer and compare with activation(x W^T + b).
            Attributes that the layer sets on the way are put back. Also refuse functions inside the model that would
            still reach a float layer through their closure or default arguments.

    Returns:
        The quantized model. With inplace=True that is the model itself, unless it is a layer, a tuple or a bound
        method: use what is returned.

    Raises:
        TypeError: layers holds something that is no class, a weight is not numeric, or an attribute cannot be copied.
        ValueError: no layer or path matches; an array that a path names exactly cannot be quantized; a layer computes
            something else than its spec says; its weight is not 2-D, or holds NaN or infinity; a closure still reaches
            it; the model cannot be changed or copied. The message gives the path ("model.blocks.3.fc1") and the
            remedy, and the model is as it was.

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
    if min_speedup is not None:
        check_measuring(min_speedup, batch_size)
    model = unwrapped(model)
    specs = {} if layers is None else as_specs(layers)
    found = find_layers(model, specs) if specs else []
    if specs and not found:
        raise ValueError(nothing_found(model, specs))
    groups: dict[str, Any] = {"group_size": group_size, "symmetric": symmetric, "scale_dtype": scale_dtype}
    options = groups | {"rounding": rounding, "activation": activation, "dtype": dtype}
    entries: list[Entry] = []
    matrices: list[tuple[str, NDArray[Any], Literal[0, 1]]] = []
    if arrays is not None or layers is None:
        wanted = True if arrays is None else arrays
        fits = shape_check(dtype, group_size, symmetric, activation)
        chosen = chosen_arrays(model, wanted, layout, min_size, lambda value: type(value) in specs, fits)
        matrices, entries = list(chosen.arrays.values()), chosen.left
        if not matrices and not found:
            raise ValueError(_no_array(chosen.left))
    rounded: dict[int, GroupedWeight] = {}
    if calibration is not None:
        way = _calibrated(dtype, rounding)
        watchables = [watchable_layer(p, v, specs[type(v)]) for p, v in found if counterpart(type(v)) is None]
        watchables += [watchable_array(*matrix) for matrix in matrices]
        if not watchables:
            raise ValueError("calibration is for linear layers and arrays, and neither is named; others need none")
        _check_first(watchables, specs, options | {"rounding": "nearest"}, check)
        rounded = rounded_weights(
            model,
            watchables,
            calibration,
            rounding=way,
            forward=forward,
            progress=progress,
            report=rounding_report,
            **groups,
        )
        options["rounding"] = "search"  # of what has no inputs of its own: recurrent layers, embeddings
    elif rounding == "gptq":
        raise ValueError('rounding="gptq" needs calibration=batches, which the layers\' inputs are taken from')
    elif rounding_report is not None:
        raise ValueError("rounding_report needs calibration=batches, which the errors are measured on")
    replacements: dict[int, Any] = {}
    for path, layer in found:
        spec = specs[type(layer)]
        try:
            quantized_class = counterpart(type(layer))
            if quantized_class is not None:  # octavo's own class, by exact type: what it computes is known
                replacements[id(layer)] = quantized_class.from_float(layer, **options)
                continue
            replacements[id(layer)] = _quantized(layer, spec, options, rounded.get(id(layer)))
            if check:
                check_layer(layer, spec)
        except (TypeError, ValueError) as error:
            raise refusal(path, layer, spec, error, hint=check) from error
    for path, array, axis in matrices:
        try:
            grouped = rounded.get(id(array))
            if grouped is not None:
                replacements[id(array)] = QuantMatrix.from_grouped(grouped, axis=axis, activation=activation)
            else:
                replacements[id(array)] = QuantMatrix(array, axis=axis, **options)
        except ValueError as error:
            raise ValueError(f"{tree.label(path)}: {error}") from error
    if min_speedup is not None:
        entries += _without_losers(model, found, specs, replacements, min_speedup, batch_size)
    if report is not None:
        report(QuantizationReport(tuple(_entries(model, replacements) + entries)))
    if check:
        check_functions(model, replacements, inplace)
    if inplace:
        return tree.replace(model, replacements)
    quantized = tree.copy_with(model, replacements)
    for path, layer in find_layers(quantized, specs) if min_speedup is None else ():
        raise ValueError(
            f"{tree.label(path)} is still a {type(layer).__name__} in the copy: a __deepcopy__ above it makes copies "
            "of its own. Hand the memo on in that __deepcopy__, or pass inplace=True"
        )
    return quantized


def _no_array(left: list[Entry]) -> str:
    stays = "; ".join(f"{e.path}: {e.why}" for e in left[:10])
    return (
        f"the model holds no array to quantize{f' ({stays})' if stays else ''}; "
        "name layers=..., or arrays=[...] and min_size"
    )


def _entries(model: Any, replacements: dict[int, Any]) -> list[Entry]:
    """An entry for each thing that is replaced, in the order of the model."""
    entries, seen = [], set()
    for path, value in tree.references(model, lambda value: id(value) in replacements):
        new = replacements.get(id(value))
        if new is None or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(new, QuantMatrix):
            entries.append(entry(path, value, new))
        else:
            before = sum(a.nbytes for _, a in tree.walk(value) if isinstance(a, np.ndarray))
            shape = (new.out_features, new.in_features) if isinstance(new, QuantLinear) else ()
            kind = new.dtype.name[1:] if hasattr(new, "dtype") else as_qtype("int8").name[1:]
            entries.append(Entry(path or "(model)", shape, kind, "", before, new.nbytes))
    return entries


def _without_losers(
    model: Any,
    found: list[tuple[str, Any]],
    specs: dict[type, LayerSpec],
    replacements: dict[int, Any],
    min_speedup: float,
    batch_size: int,
) -> list[Entry]:
    """Takes what is not fast enough out of the replacements, and says so."""
    entries, seen = [], set()
    for path, value in tree.references(model, lambda value: id(value) in replacements):
        new = replacements.get(id(value))
        if not isinstance(new, (QuantLinear, QuantMatrix)) or id(value) in seen:
            continue
        seen.add(id(value))
        speedup = measured(value, new, specs.get(type(value)), random_rows(new, batch_size)).speedup
        if speedup < min_speedup:
            del replacements[id(value)]
            array = value if isinstance(value, np.ndarray) else read_layer(value, specs[type(value)])[0]
            why = f"{speedup:.2f} times as fast with {batch_size} rows"
            entries.append(Entry(path or "(model)", array.shape, "float", why, array.nbytes, array.nbytes))
    return entries


def _check_first(
    watchables: list[Watchable], specs: Mapping[type, LayerSpec], options: dict[str, Any], check: bool
) -> None:
    """Refuses, before batches are run for long, what would be refused afterwards."""
    for item in watchables:
        spec = specs.get(type(item.original))
        try:
            weight = as_weight(item.weight)
            QuantLinear(np.zeros((1, weight.shape[1]), np.float32), **options)
            if check and spec is not None:
                check_layer(item.original, spec)
        except (TypeError, ValueError) as error:
            if spec is None:
                raise type(error)(f"{tree.label(item.path)}: {error}") from error
            raise refusal(item.path, item.original, spec, error, hint=check) from error


def _calibrated(dtype: QTypeLike, rounding: str | None) -> Literal["search", "gptq"]:
    if as_qtype(dtype) != qint4:
        raise ValueError(f'calibration is for dtype="int4", got {as_qtype(dtype).name}; int8 weights need none')
    if rounding in (None, "search"):
        return "search"
    if rounding == "gptq":
        return "gptq"
    raise ValueError(f'rounding must be "search" or "gptq" with calibration, got {rounding!r}')


def _quantized(layer: Any, spec: LayerSpec, options: dict[str, Any], rounded: GroupedWeight | None) -> QuantLinear:
    weight, bias = read_layer(layer, spec)
    relu, call = spec.activation == "relu", "forward" if spec.call == "__call__" else spec.call
    if rounded is not None:
        return QuantLinear.from_grouped(rounded, bias, activation=options["activation"], relu=relu, call=call)
    return QuantLinear(weight, bias, relu=relu, call=call, **options)
