"""Parameters of a model in training, running it with them, and its observers' switches."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from octavo._models import walk as tree
from octavo._models.paths import find
from octavo._numerics.params import QParams
from octavo._quantize.training.fake_layers import QATLinear, Session, fake_quantized, value_of, walk_untraced
from octavo._quantize.training.fake_quantizer import FakeQuantize
from octavo._util.arrays import is_traced

__all__ = [
    "apply", "disable_fake_quant", "disable_observer", "enable_fake_quant", "enable_observer", "parameters",
    "set_parameters",
]  # fmt: skip


def parameters(model: Any) -> dict[str, NDArray[np.float32]]:
    """The parameters of training by path: weights, biases, learned scales and zero points; float32 copies.

    Args:
        model: what `prepare_qat` returned.

    Returns:
        {"fc1.weight": ..., "fc1.bias": ..., "fc1.weight_fake_quant.scale": ..., ...}. Weights have the layout that the
        float layer has. An array that several layers share is one parameter, under the first one's name.

    Raises:
        ValueError: the model is not prepared; a learnable scale has no value to start from, as its observer has seen no
            data: run `octavo.calibrate` first. The layer is named.

    Notes:
        From the first call on, learnable scales are learned, and their observers no longer run.

    Example:
        >>> import octavo as oc
        >>> model = oc.prepare_qat(oc.nn.Linear.init(4, 2), oc.default_qat_qconfig, layers={oc.nn.Linear})
        >>> {name: value.shape for name, value in oc.qat.parameters(model).items()}
        {'weight': (2, 4), 'bias': (2,)}
    """
    found = fake_quantized(model)
    starts: list[tuple[FakeQuantize, QParams]] = []
    for _, layer in found:
        for at, quantizer in layer.quantizers().items():
            if quantizer.learnable and not (layer.fed_by is not None and not quantizer.seen):
                starts.append((quantizer, quantizer.qparams(f"{layer.label}, its {at}")))
    for quantizer, start in starts:  # only now, for any of them may have had nothing to start from
        quantizer.begin_learning(start)
    params: dict[str, NDArray[np.float32]] = {}
    for names, value, _ in _held(model):
        params[names[0]] = np.array(value, np.float32)
    return params


def set_parameters(model: Any, params: Mapping[str, Any]) -> None:
    """Stores trained values in the prepared model, as new arrays in the types that the float layers have.

    Args:
        model: what `prepare_qat` returned.
        params: as `parameters` gives them; some may be missing and stay as they are.

    Raises:
        TypeError, ValueError: a name, a shape or a value that is not finite. Nothing is stored then.

    Notes:
        Weights' observers that are enabled see the new weights.

    Example:
        >>> import numpy as np, octavo as oc
        >>> model = oc.prepare_qat(oc.nn.Linear.init(4, 2), oc.default_qat_qconfig, layers={oc.nn.Linear})
        >>> oc.qat.set_parameters(model, {"bias": np.zeros(2)})
        >>> model.bias
        array([0., 0.], dtype=float32)
    """
    held = list(_held(model))
    params = _checked(params, held)
    for names, value, places in held:
        if names[0] in params:
            new = np.array(value_of(params[names[0]]), value.dtype)
            for holder, attribute in places:
                setattr(holder, attribute, new)
    for _, layer in fake_quantized(model):
        if isinstance(layer, QATLinear):
            layer.observe_weight()


# Names, value, and the attributes (of which object, by which name) that hold it.
_Held = tuple[list[str], NDArray[Any], list[tuple[Any, str]]]


def _held(model: Any) -> Iterator[_Held]:
    """Every parameter; one array in several places is one."""
    arrays: dict[int, _Held] = {}
    learned: list[_Held] = []
    for _, layer in fake_quantized(model):
        if isinstance(layer, QATLinear):
            spec = layer.spec
            for name, attribute in zip(layer.names(), (spec.weight, spec.bias), strict=True):
                value = None if attribute is None else getattr(layer.layer, attribute, None)
                if value is not None:
                    names, _, places = arrays.setdefault(id(value), ([], np.asarray(value), []))
                    names.append(name)
                    places.append((layer.layer, str(attribute)))
        for at, quantizer in layer.quantizers().items():
            for kind in ("scale", "zero_point"):
                if (value := getattr(quantizer, kind)) is not None:
                    learned.append(([layer.learned_name(at, kind)], value, [(quantizer, kind)]))
    yield from arrays.values()
    yield from learned


def _checked(params: Any, held: list[_Held]) -> dict[str, Any]:
    """params as a dict. Raises for names, types, shapes and values that do not fit."""
    if not isinstance(value_of(params), Mapping):
        raise TypeError(f"params must be a dict of arrays by path, as octavo.qat.parameters gives, got {params!r:.80}")
    known = {names[0]: value for names, value, _ in held}
    # of a dict that is differentiated, too
    found: dict[str, Any] = {find(name, known) or name: params[name] for name in value_of(params)}
    for name, given in found.items():
        if name not in known:
            listed = ", ".join(map(repr, known))
            raise ValueError(f"params names {name!r}, but the model's parameters are {listed}")
        value, expected = value_of(given), known[name]
        if np.shape(value) != expected.shape:
            raise ValueError(f"params[{name!r}] must have shape {expected.shape}, got {np.shape(value)}")
        if np.result_type(value).kind != "f":
            raise TypeError(f"params[{name!r}] must be a float array, got dtype {np.result_type(value)}")
        if not (finite := _finite_in(np.asarray(value), np.float32, expected.dtype)).all():
            bad = np.asarray(value)[~finite]
            raise ValueError(
                f"params[{name!r}] must be finite, got {bad.size} values such as {bad[0]}, of {tree.label(name)}, a "
                f"parameter of {expected.dtype}, computed in float32: the "
                "loss or its gradient was NaN or infinite in the step before, or the step size is too large"
            )
    return found


def _finite_in(value: NDArray[Any], *dtypes: DTypeLike) -> NDArray[np.bool_]:
    """Whether each element is finite, and is so in each of the dtypes."""
    with np.errstate(all="ignore"):
        finite: NDArray[np.bool_] = np.all([np.isfinite(value.astype(dtype)) for dtype in dtypes], axis=0)
    return finite


def apply(
    model: Any, params: Mapping[str, Any], x: Any, *args: Any, training: bool | None = None, **options: Any
) -> Any:
    """model(x, ...) with these parameters in place of its own.

    Args:
        model: what `prepare_qat` returned.
        params: as `parameters` gives them, or values that autograd is differentiating; others keep the model's value.
        x, *args, **options: what the model is called with.
        training: whether observers run. Default: whether one of the parameters is being differentiated.

    Returns:
        What the model returns.

    Raises:
        TypeError: code in the model that autograd cannot follow, or that assigns to parts of a value; the layer is
            named.
        ValueError: NaN or infinity in a parameter, an input or a gradient, NaN in the result; no range and no training.
            The layer is named.

    Notes:
        The model is as before afterwards, whatever happens, except for what observers have seen and what its own code
        keeps: there, values that were differentiated are replaced by their arrays. One call at a time for each model.

    Example:
        >>> import numpy as np, octavo as oc
        >>> model = oc.prepare_qat(oc.nn.Linear.init(4, 2), oc.default_qat_qconfig, layers={oc.nn.Linear})
        >>> params = oc.qat.parameters(model)
        >>> oc.qat.apply(model, params, np.ones((3, 4), np.float32), training=True).shape
        (3, 2)
    """
    held = list(_held(model))
    params = _checked(params, held)
    if training is None:
        training = any(map(is_traced, params.values()))
    bound = {name: params[names[0]] for names, _, _ in held for name in names if names[0] in params}
    session = _session(model)
    try:
        with session.bind(bound, training=training):
            y = model(x, *args, **options)
    except Exception as error:
        _name_layer(error, model)
        raise
    finally:
        traced = {id(v): value_of(v) for _, v in walk_untraced(model) if is_traced(v)}
        if traced:
            tree.replace(model, traced)
    if getattr(getattr(y, "dtype", None), "kind", "") == "O":
        raise TypeError(
            "the model's result must be a float array, got dtype object: some code in it computes with a NumPy "
            "function that autograd does not know; use that of autograd.numpy"
        )
    _refuse_nan(y)
    return y


def _refuse_nan(y: Any) -> None:
    """Raises for a result that holds NaN. The gradient of its loss may be finite, and training would go on."""
    for part in y if isinstance(y, (list, tuple)) else [y]:
        value = value_of(part)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and np.isnan(value).any():
            count = int(np.count_nonzero(np.isnan(value)))
            raise ValueError(
                f"the model's result must not hold NaN, got {count} of {value.size} values NaN, and so will be the "
                "loss: look at the data and at code of the model behind its last layer, or take smaller steps"
            )


def _session(model: Any) -> Session:
    sessions = {id(layer.tracer): layer.tracer for _, layer in fake_quantized(model)}
    if len(sessions) > 1:
        raise ValueError("the model holds layers of several prepare_qat calls; prepare the whole model in one")
    return next(iter(sessions.values()))


# What messages of Python, NumPy and autograd have in common when code cannot be differentiated.
_UNFOLLOWED = ("ArrayBox", "Autograd", "Can't differentiate", "VJP of")
_IN_PLACE = ("does not support item assignment", "setting an array element with a sequence", "read-only")
_STORE = dis.opmap["STORE_SUBSCR"]


def _name_layer(error: Exception, model: Any) -> None:
    """Raises an error that names the part of the model that autograd cannot follow; adds a note to any other."""
    objects = {id(v): (path, v) for path, v in walk_untraced(model) if not is_traced(v)}
    place, text, trace = "the model", str(error), error.__traceback__
    while trace is not None:
        frame, last = trace.tb_frame, trace
        code = frame.f_code
        owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if id(owner) in objects:
            path, value = objects[id(owner)]
            place = f"layer {tree.label(path)} ({type(value).__name__})"
        trace = trace.tb_next
    # x[i] = ...: the messages differ with the kind of i, the instruction does not
    stores = last.tb_frame.f_code.co_code[last.tb_lasti] == _STORE and any(map(is_traced, frame.f_locals.values()))
    kind = isinstance(error, (TypeError, ValueError, AttributeError, NotImplementedError))
    if kind and (stores or any(sign in text for sign in _IN_PLACE)):
        raise TypeError(
            f"{place} assigns to parts of a value in place, which autograd cannot follow ({text}): compute a new "
            "value, as with autograd.numpy.where"
        ) from error
    if kind and any(sign in text for sign in _UNFOLLOWED):
        raise TypeError(
            f"{place} cannot be differentiated ({type(error).__name__}: {text}): use functions of autograd.numpy, or "
            "write a primitive with autograd.extend"
        ) from error
    if not text.startswith(("layer ", "QuantStub ", "DeQuantStub ")):
        error.add_note(f"octavo.qat.apply: this was in {place}")


def _switch(model: Any, switch: Callable[[FakeQuantize], None]) -> None:
    for _, layer in fake_quantized(model):
        for quantizer in layer.quantizers().values():
            switch(quantizer)


def enable_observer(model: Any) -> None:
    """Lets all observers of a prepared model see data in training.

    Example:
        >>> import octavo as oc
        >>> model = oc.prepare_qat(oc.nn.Linear.init(4, 2), oc.default_qat_qconfig, layers={oc.nn.Linear})
        >>> oc.qat.disable_observer(model)
        >>> oc.qat.enable_observer(model)
        >>> model.input_fake_quant.observer_enabled
        True
    """
    _switch(model, FakeQuantize.enable_observer)


def disable_observer(model: Any) -> None:
    """Freezes all ranges of a prepared model.

    Example:
        >>> import octavo as oc
        >>> model = oc.prepare_qat(oc.nn.Linear.init(4, 2), oc.default_qat_qconfig, layers={oc.nn.Linear})
        >>> oc.qat.disable_observer(model)
        >>> model.weight_fake_quant.observer_enabled
        False
    """
    _switch(model, FakeQuantize.disable_observer)


def enable_fake_quant(model: Any) -> None:
    """Lets all of a prepared model's values be rounded.

    Example:
        >>> import octavo as oc
        >>> model = oc.prepare_qat(oc.nn.Linear.init(4, 2), oc.default_qat_qconfig, layers={oc.nn.Linear})
        >>> oc.qat.enable_fake_quant(model)
    """
    _switch(model, FakeQuantize.enable_fake_quant)


def disable_fake_quant(model: Any) -> None:
    """Lets values pass as they are: the model computes in float, and observers go on.

    Example:
        >>> import numpy as np, octavo as oc
        >>> layer = oc.nn.Linear.init(4, 2)
        >>> model = oc.prepare_qat(layer, oc.default_qat_qconfig, layers={oc.nn.Linear})
        >>> oc.qat.disable_fake_quant(model)
        >>> x = np.ones((1, 4), np.float32)
        >>> np.array_equal(model(x), layer(x))
        True
    """
    _switch(model, FakeQuantize.disable_fake_quant)
