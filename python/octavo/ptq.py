"""Post-training quantization of whole models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo import tree
from octavo.linear import ActivationScheme, QuantLinear
from octavo.qparams import QTypeLike

__all__ = ["LayerSpec", "quantize_dynamic"]

# Two float32 results of K terms, summed in different orders, differ by at most about K * 2**-24 times the sum of
# magnitudes; a layer that computes something else differs by about the magnitude of its output.
_TOLERANCE = 1e-4
_HALF_TOLERANCE = 1e-2  # layers that hold or compute in float16


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """How to read a float layer class: y = activation(x W^T + b).

    Args:
        weight: name of the attribute that holds W, a 2-D float array.
        bias: name of the attribute that holds b, with as many elements as W has outputs; None: the layer has none. An
            attribute that is missing or None counts as no bias.
        layout: "out_in" if W is (out, in), as in y = x W^T + b; "in_out" if it is (in, out), as in y = x W + b.
        call: name of the method that computes y.
        activation: what the layer itself applies to x W^T + b: None or "relu".

    Raises:
        TypeError, ValueError: a name is no attribute name, or an option is unknown.

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
        if self.layout not in ("out_in", "in_out"):
            raise ValueError(f'layout must be "out_in" or "in_out", got {self.layout!r}')
        if self.activation not in (None, "relu"):
            raise ValueError(f'activation must be None or "relu", got {self.activation!r}')


Layers = type | Iterable[type] | Mapping[type, LayerSpec]


def quantize_dynamic(
    model: Any,
    layers: Layers,
    dtype: QTypeLike = "int8",
    *,
    activation: ActivationScheme = "symmetric",
    inplace: bool = False,
    check: bool = True,
) -> Any:
    """Replaces each float layer y = x W^T + b of a model by a `QuantLinear` of its weights, and returns the model.

    The model is any tree of objects: attributes, slots, dataclasses, lists, tuples and dicts are searched. A layer that
    is held in several places stays one layer; cycles are fine. A replacement answers to the method that the float layer
    was called by.

    Args:
        model: the model, or a layer itself.
        layers: the user's own layer classes, or a dict from class to `LayerSpec`. Matched by exact type, so a subclass
            is quantized only where it is named.
        dtype: of the weights: "int8".
        activation: how `QuantLinear` quantizes its input: "symmetric" or "asymmetric".
        inplace: change the model itself, after every replacement has been built. Otherwise a copy.deepcopy is made in
            which the float weights are never copied.
        check: send one random row through each float layer and compare with activation(x W^T + b). Also refuses
            functions inside the model whose closure or defaults would still reach a float layer.

    Returns:
        The quantized model.

    Raises:
        TypeError: layers holds something that is no class, or an attribute cannot be copied (its path is named).
        ValueError: no layer matches; a layer computes something else than its spec says; its weight is not 2-D, or
            holds NaN or infinity; a closure still reaches it. The layer's path is named. The model is as it was.

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
    """
    specs = _as_specs(layers)
    found = [(path, value) for path, value in tree.walk(model) if type(value) in specs]
    if not found:
        raise ValueError(_nothing_found(model, specs))
    replacements: dict[int, Any] = {}
    for path, layer in found:
        spec = specs[type(layer)]
        weight, bias = _read(layer, path, spec)
        if check:
            _check_layer(layer, path, spec, weight, bias)
        try:
            replacements[id(layer)] = QuantLinear(
                weight,
                bias,
                dtype=dtype,
                activation=activation,
                relu=spec.activation == "relu",
                call="forward" if spec.call == "__call__" else spec.call,
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {tree.label(path)}: {error}") from error
    if check and (stale := tree.stale_references(model, frozenset(replacements), inplace=inplace)):
        raise ValueError(
            f"a function in the model would still reach a float layer: {'; '.join(stale)}. Let it take the layer "
            "from the model when it is called, or pass check=False"
        )
    if inplace:
        return tree.replace(model, replacements)
    quantized = tree.copy_with(model, replacements)
    for path, value in tree.walk(quantized):
        if type(value) in specs:
            raise ValueError(
                f"layer {tree.label(path)} is still a {type(value).__name__} in the copy: a __deepcopy__ above it "
                "makes copies of its own. Pass inplace=True, or hand the memo on in that __deepcopy__"
            )
    return quantized


def _as_specs(layers: Layers) -> dict[type, LayerSpec]:
    items = layers.items() if isinstance(layers, Mapping) else ((c, LayerSpec()) for c in _as_classes(layers))
    specs = dict(items)
    if not specs:
        raise ValueError("layers must name at least one class, got none")
    for cls, spec in specs.items():
        if not isinstance(cls, type):
            raise TypeError(f"layers must hold classes, got {cls!r}; pass its class {type(cls).__name__}")
        if not isinstance(spec, LayerSpec):
            raise TypeError(f"layers must map {cls.__name__} to a LayerSpec, got {spec!r}")
    return specs


def _as_classes(layers: type | Iterable[type]) -> Iterable[type]:
    if isinstance(layers, type):
        return [layers]
    if isinstance(layers, Iterable):
        return layers
    raise TypeError(f"layers must be a set of classes or a dict of LayerSpecs, got {type(layers).__name__}")


def _nothing_found(model: Any, specs: Mapping[type, LayerSpec]) -> str:
    """Why there was nothing to quantize: subclasses of what was named, and other types that hold a 2-D float array."""
    text = f"no layer of exact type {', '.join(sorted(c.__name__ for c in specs))} in the model"
    seen = {type(value): path for path, value in reversed(list(tree.walk(model)))}
    subclasses = [c.__name__ for c in seen if issubclass(c, tuple(specs))]
    if subclasses:
        return f"{text}; it has the subclass {', '.join(sorted(subclasses))}: name it in layers"
    holders = {type(v).__name__ for _, v in tree.walk(model) if hasattr(v, "__dict__") and _matrices(v)}
    if holders:
        return f"{text}; types that hold a 2-D float array: {', '.join(sorted(holders))}"
    return f"{text}, and nothing else in it holds a 2-D float array as an attribute"


def _matrices(layer: Any) -> list[str]:
    """Names of the layer's attributes that are 2-D float arrays."""
    attributes = getattr(layer, "__dict__", {})
    return [n for n, v in attributes.items() if isinstance(v, np.ndarray) and v.ndim == 2 and v.dtype.kind == "f"]


def _read(layer: Any, path: str, spec: LayerSpec) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """(W as (out, in), b as (out,) or None)."""
    name = f"layer {tree.label(path)} ({type(layer).__name__})"
    if not hasattr(layer, spec.weight):
        has = ", ".join(_matrices(layer)) or "none"
        raise ValueError(
            f"{name} has no attribute {spec.weight!r}; its 2-D float arrays: {has}. Use LayerSpec(weight=...)"
        )
    weight = np.asarray(getattr(layer, spec.weight))
    if weight.ndim != 2:
        raise ValueError(f"{name}: {spec.weight} must be 2-D, got shape {weight.shape}")
    weight = weight if spec.layout == "out_in" else weight.T
    raw = None if spec.bias is None else getattr(layer, spec.bias, None)
    if raw is None:
        return weight, None
    bias = np.asarray(raw)
    if bias.size != weight.shape[0] or bias.ndim == 0 or bias.size != max(bias.shape):
        raise ValueError(
            f"{name}: {spec.bias} must have {weight.shape[0]} elements, one for each output of {spec.weight} with "
            f'layout="{spec.layout}", got shape {bias.shape}'
        )
    return weight, bias.reshape(-1)


def _check_layer(layer: Any, path: str, spec: LayerSpec, weight: NDArray[Any], bias: NDArray[Any] | None) -> None:
    """Raises ValueError unless the layer computes activation(x W^T + b) of a random row."""
    name = f"layer {tree.label(path)} ({type(layer).__name__})"
    if not callable(getattr(layer, spec.call, None)):
        other = next((m for m in ("forward", "apply", "predict") if callable(getattr(layer, m, None))), None)
        remedy = f'use LayerSpec(call="{other}")' if other else "use LayerSpec(call=...)"
        raise ValueError(f"{name} has no method {spec.call!r} to call; {remedy}")
    dtype = weight.dtype if weight.dtype.kind == "f" else np.dtype(np.float32)
    x = np.random.default_rng(0).standard_normal((1, weight.shape[1])).astype(dtype)
    y = _called(layer, name, spec.call, x)
    if y.shape != (1, weight.shape[0]):
        raise ValueError(
            f"{name} gives shape {y.shape} for a row, expected {(1, weight.shape[0])}; see LayerSpec(layout=...)"
        )
    half = np.float16 in (weight.dtype, y.dtype)
    x64, w64 = x.astype(np.float64), weight.astype(np.float64)
    b64 = np.zeros(weight.shape[0]) if bias is None else bias.astype(np.float64)
    scale = np.abs(x64) @ np.abs(w64).T + np.abs(b64) + np.finfo(np.float32).tiny
    candidates = {
        "": x64 @ w64.T + b64,
        "activation": np.maximum(x64 @ w64.T + b64, 0),
        "bias": x64 @ w64.T,
    }
    if w64.shape[0] == w64.shape[1]:
        candidates["layout"] = x64 @ w64 + b64
    if spec.activation == "relu":
        candidates = {key: np.maximum(value, 0) for key, value in candidates.items()}

    def error(expected: NDArray[np.float64]) -> float:
        with np.errstate(invalid="ignore"):
            return float(np.max(np.abs(y - expected) / scale, initial=0))

    # `not <=`, so that NaN counts as a mismatch; weights with NaN are QuantLinear's to refuse.
    tolerance = _HALF_TOLERANCE if half else _TOLERANCE
    if not np.isfinite(w64).all() or not np.isfinite(b64).all() or error(candidates[""]) <= tolerance:
        return
    causes = {
        "activation": 'it applies ReLU: use LayerSpec(activation="relu")',
        "bias": f"it does not add {spec.bias}: use LayerSpec(bias=None)",
        "layout": f"its weight is ({'in, out' if spec.layout == 'out_in' else 'out, in'}): use LayerSpec(layout=...)",
    }
    likely = [causes[key] for key, value in candidates.items() if key and error(value) <= tolerance]
    what = f"{spec.activation or ''}(x W^T{' + b' if bias is not None else ''})"
    remedy = likely[0] if likely else "it does more than that: quantize it by hand"
    raise ValueError(
        f"{name} does not compute {what} of its {spec.weight}: off by {np.abs(y - candidates['']).max():.3g} on a "
        f"random row; {remedy}; check=False skips this test"
    )


def _called(layer: Any, name: str, method: str, x: NDArray[Any]) -> NDArray[np.float64]:
    """The layer's result for x. What it stores in itself on the way (a cached input) is put back as it was."""
    before = tree.state(layer)
    try:
        y = np.asarray(getattr(layer, method)(x))
        return y.astype(np.float64)
    except Exception as error:
        raise ValueError(f"{name}: {method} failed on a random row of shape {x.shape}: {error}") from error
    finally:
        tree.restore(layer, before)
