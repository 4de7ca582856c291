"""The user's own float layers: which classes they are, how they are read, and whether they do what is claimed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo._models import walk as tree
from octavo._models.containers import attributes
from octavo._models.functions import stale_references
from octavo._models.hooks import restore, snapshot

__all__ = [
    "LayerSpec", "Layers", "as_specs", "check_functions", "check_layer", "find_layers", "nothing_found", "read_layer",
    "refusal",
]  # fmt: skip

# Allowed difference of a layer's result from the exact one, relative to sum |x| |w| + |b|. The terms of a random row
# have random signs, so partial sums grow like sqrt(K) and float32 rounding adds up to about 2**-24 of that sum for any
# K; this is 168 times as much. What computes something else is off by about its result, 1/sqrt(K) of the sum: 276 times
# the tolerance at K = 131,071.
_TOLERANCE = 1e-5
_HALF_TOLERANCE = 1e-2  # float16: 20 times its rounding of 2**-11

_LAYOUTS: tuple[Literal["out_in", "in_out"], ...] = ("out_in", "in_out")
_ACTIVATIONS: tuple[Literal["relu"] | None, ...] = (None, "relu")


@dataclasses.dataclass(frozen=True, slots=True)
class LayerSpec:
    """y = activation(x W^T + b): where a float layer class keeps W and b, and which method computes y.

    Args:
        weight: name of the attribute that holds W, a 2-D float array.
        bias: name of the attribute that holds b, as many elements as W has outputs; None: the layer has none. An
            attribute that is missing or None counts as no bias.
        layout: "out_in" if W is (out, in), as in y = x W^T + b; "in_out" if it is (in, out), as in y = x W + b.
        call: name of the method that computes y.
        activation: what the layer itself applies to x W^T + b: None or "relu".

    Raises:
        TypeError: a name is no string.
        ValueError: a name is no identifier, or an option is unknown.

    Example:
        >>> import octavo as oc
        >>> oc.LayerSpec(weight="W", bias="b", layout="in_out", call="forward")
        LayerSpec(weight='W', bias='b', layout='in_out', call='forward', activation=None)
    """

    weight: str = "weight"
    bias: str | None = "bias"
    layout: Literal["out_in", "in_out"] = "out_in"
    call: str = "__call__"
    activation: Literal["relu"] | None = None

    def __post_init__(self) -> None:
        names = {"weight": self.weight, "call": self.call} | ({} if self.bias is None else {"bias": self.bias})
        for field, name in names.items():
            if not isinstance(name, str):
                raise TypeError(f"{field} must be the name of an attribute, got {name!r}; the arrays stay in the layer")
            if not name.isidentifier():
                raise ValueError(f"{field} must be the name of an attribute, got {name!r}")
        if self.layout not in _LAYOUTS:
            raise ValueError(f'layout must be "out_in" or "in_out", got {self.layout!r}')
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f'activation must be None or "relu", got {self.activation!r}')


Layers = type | Iterable[type] | Mapping[type, LayerSpec]


def find_layers(model: Any, specs: Mapping[type, LayerSpec]) -> list[tuple[str, Any]]:
    """(path, layer) of each layer; what only a layer itself holds goes with it."""
    return [(p, v) for p, v in tree.walk(model, stop=lambda v: type(v) in specs) if type(v) in specs]


def as_specs(layers: Layers) -> dict[type, LayerSpec]:
    if isinstance(layers, type):
        layers = [layers]
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers must be a set of classes or a dict of LayerSpecs, got {layers!r}")
    items = list(layers.items()) if isinstance(layers, Mapping) else [(cls, LayerSpec()) for cls in layers]
    if not items:
        raise ValueError("layers must name at least one class, got none")
    for cls, spec in items:
        if not isinstance(cls, type):
            raise TypeError(f"layers must hold classes, got {cls!r}; for a layer pass its class")
        if not isinstance(spec, LayerSpec):
            raise TypeError(f"layers must map {cls.__name__} to a LayerSpec, got {spec!r}")
    return dict(items)


def nothing_found(model: Any, specs: Mapping[type, LayerSpec]) -> str:
    """Why there was nothing to quantize: subclasses of what was named, and other types that hold a 2-D float array."""
    text = f"no layer of type {', '.join(sorted(c.__name__ for c in specs))} in the model"
    values = [value for _, value in tree.walk(model)]
    subclasses = sorted({type(v).__name__ for v in values if isinstance(v, tuple(specs))})
    if subclasses:
        return (
            f"{text}; types are matched exactly, and it holds the subclass {', '.join(subclasses)}: name it in layers"
        )
    holders = sorted({type(v).__name__ for v in values if _matrices(v)})
    return f"{text}; types in it with a 2-D float array as an attribute: {', '.join(holders) or 'none'}"


def _matrices(layer: Any) -> list[str]:
    """Names of the attributes that are 2-D float arrays."""
    return [name for name, v in _arrays(layer).items() if v.ndim == 2 and v.dtype.kind == "f"]


def _arrays(layer: Any) -> dict[str, NDArray[Any]]:
    return {k: v for k, v in attributes(layer).items() if isinstance(v, np.ndarray) and k.isidentifier()}


def read_layer(layer: Any, spec: LayerSpec) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """(W as (out, in), b as (out,) or None)."""
    if not hasattr(layer, spec.weight):
        names = _matrices(layer)
        remedy = f"use LayerSpec(weight={names[0]!r})" if len(names) == 1 else "use LayerSpec(weight=...)"
        raise ValueError(f"no attribute {spec.weight!r}; its 2-D float arrays: {', '.join(names) or 'none'}; {remedy}")
    weight = np.asarray(getattr(layer, spec.weight))
    if weight.ndim != 2:
        shape = '(out, in), or (in, out) with layout="in_out"'
        raise ValueError(f"{spec.weight} must be 2-D, {shape}, got shape {weight.shape}")
    if weight.dtype.kind not in "fiu":
        raise TypeError(f"{spec.weight} must be real numbers, got dtype {weight.dtype}")
    weight = weight if spec.layout == "out_in" else weight.T
    raw = None if spec.bias is None else getattr(layer, spec.bias, None)
    if raw is None:
        return weight, None
    bias = np.asarray(raw)
    if bias.ndim == 0 or bias.size != weight.shape[0] or bias.size != max(bias.shape):
        raise ValueError(
            f"{spec.bias} must have {weight.shape[0]} elements, one for each output of {spec.weight} with "
            f'layout="{spec.layout}", got shape {bias.shape}'
        )
    return weight, bias.reshape(-1)


# The check


class _MismatchError(ValueError):
    """The layer computes something else than its spec says."""


def check_functions(model: Any, replacements: Mapping[int, Any], inplace: bool) -> None:
    stale = stale_references(model, replacements, inplace=inplace)
    functions = [f"{tree.label(path)} through its variable {name!r}" for path, name in stale if name]
    if functions:
        raise ValueError(
            f"a function inside the model would still reach a float layer: {'; '.join(functions)}. Functions are not "
            "copied or changed: give the model a method or a callable object in its place, or pass check=False"
        )
    if stale:
        raise ValueError(
            f"the weak reference {tree.label(stale[0][0])} leads out of the model to an object that would still reach "
            "a float layer: quantize the object that holds them all, or pass check=False"
        )


def check_layer(layer: Any, spec: LayerSpec) -> None:
    """Raises ValueError unless the layer computes what its spec says, for a random row and its negative."""
    weight, bias = read_layer(layer, spec)
    dtype = weight.dtype.newbyteorder("=") if weight.dtype.kind == "f" else np.dtype(np.float32)
    w, b = weight.astype(np.float64), np.zeros(weight.shape[0]) if bias is None else bias.astype(np.float64)
    x = np.random.default_rng(0).standard_normal((1, w.shape[1]))
    # Reaching twice as far as the bias, and both ways, so that a ReLU in the layer shows in some output.
    reach, offset = np.abs(x @ w.T).max(initial=0), np.abs(b).max(initial=0)
    farthest = 64 if dtype == np.float16 else 1e6
    x = (x * np.clip(2 * offset / reach, 1, farthest) if reach > 0 else x).astype(dtype)
    for row in (x, -x):
        x64 = row.astype(np.float64)
        y = _called(layer, spec.call, row)
        expected = x64 @ w.T + b
        expected = np.maximum(expected, 0) if spec.activation == "relu" else expected
        if y.shape != expected.shape:
            raise _MismatchError(f"{spec.call} gives shape {y.shape} for a row {x.shape}, expected {expected.shape}")
        half = np.float16 in (weight.dtype, y.dtype)
        allowed = (_HALF_TOLERANCE if half else _TOLERANCE) * (np.abs(x64) @ np.abs(w).T + np.abs(b))
        allowed += np.finfo(np.float16 if half else np.float32).tiny
        difference = np.abs(y.astype(np.float64) - expected)
        if not np.all(difference <= allowed):  # `not`, so that NaN is a mismatch
            equation = f"x {spec.weight}" + ("^T" if spec.layout == "out_in" else "")
            equation += "" if bias is None else f" + {spec.bias}"
            equation = f"relu({equation})" if spec.activation == "relu" else equation
            raise _MismatchError(
                f"{spec.call} is not {equation}: largest difference {difference.max():.3g} on a random row, where "
                f"values reach {np.abs(expected).max():.3g}"
            )


def _called(layer: Any, call: str, x: NDArray[Any]) -> NDArray[Any]:
    """The layer's result for x. What it stores in itself on the way (a cached input) is put back as it was."""
    method = getattr(layer, call, None)
    if not callable(method):
        others = _methods(layer)
        remedy = f"use LayerSpec(call={others[0]!r})" if others else "use LayerSpec(call=...)"
        raise ValueError(f"no method {call!r} to call it by; {remedy}")
    before = snapshot(layer)
    try:
        y = np.asarray(method(x))
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{call} failed on a random row of shape {x.shape}: {what}") from error
    finally:
        restore(layer, before)
    if y.dtype.kind not in "fiub":
        raise ValueError(f"{call} must give real numbers, got dtype {y.dtype}")
    return y


def _methods(layer: Any) -> list[str]:
    """Names that layers are usually called by, as far as this one has them."""
    return [name for name in ("__call__", "forward", "apply", "predict") if callable(getattr(layer, name, None))]


def refusal(path: str, layer: Any, spec: LayerSpec, error: Exception, *, hint: bool) -> Exception:
    """An error of the same kind that names the layer and, with `hint`, says which other spec fits it."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{tree.label(path)} ({type(layer).__name__}): {error}{_hint(layer, spec, error) if hint else ''}")


def _hint(layer: Any, spec: LayerSpec, error: Exception) -> str:
    """Which other spec fits the layer, found by trying, fewest changes first."""
    vectors = [name for name, v in _arrays(layer).items() if v.ndim > 0 and v.size == max(v.shape)]
    weights = [spec.weight] if hasattr(layer, spec.weight) else _matrices(layer)
    calls = [spec.call] if callable(getattr(layer, spec.call, None)) else _methods(layer)
    choices = itertools.product(
        weights,
        dict.fromkeys([spec.bias, *vectors, None]),
        dict.fromkeys([spec.layout, *_LAYOUTS]),
        calls,
        dict.fromkeys([spec.activation, *_ACTIVATIONS]),
    )
    trials = [LayerSpec(*choice) for choice in choices]
    for trial in sorted(trials, key=lambda trial: len(_differences(trial, spec))):
        try:
            check_layer(layer, trial)
        except Exception:
            continue
        options = ", ".join(f"{name}={value!r}" for name, value in _differences(trial, LayerSpec()).items())
        return f"; it fits LayerSpec({options})" if trial != spec else ""
    if isinstance(error, _MismatchError):
        return "; give its part that is x W^T + b a class of its own, or pass check=False if this is wanted"
    return ""


def _differences(spec: LayerSpec, other: LayerSpec) -> dict[str, Any]:
    old, new = dataclasses.asdict(other), dataclasses.asdict(spec)
    return {name: value for name, value in new.items() if value != old[name]}
