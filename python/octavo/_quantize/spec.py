"""The user's own float layers: which classes they are, which objects of a model, and how they are read."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo._layers.embedding import QuantEmbedding
from octavo._layers.linear import Layout, QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.registry import counterpart
from octavo._models import walk as tree
from octavo._models.containers import attributes, captured
from octavo._models.estimators import holds_trees, is_estimator
from octavo._quantize.by_name import ByName
from octavo._util.foreign import as_array

__all__ = [
    "ACTIVATIONS", "LAYOUTS", "FoundLayer", "LayerChoice", "LayerSpec", "Layers", "arrays_of", "as_choice",
    "layer_types", "matrices_of", "nothing_found", "quantized_in", "read_layer", "unseen",
]  # fmt: skip

LAYOUTS: tuple[Layout, ...] = ("out_in", "in_out")
ACTIVATIONS: tuple[Literal["relu"] | None, ...] = (None, "relu")


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
        TypeError: a name is not a string.
        ValueError: a name is not an identifier, or an option is unknown.

    Example:
        >>> import octavo as oc
        >>> oc.LayerSpec(weight="W", bias="b", layout="in_out", call="forward")
        LayerSpec(weight='W', bias='b', layout='in_out', call='forward', activation=None)
    """

    weight: str = "weight"
    bias: str | None = "bias"
    layout: Layout = "out_in"
    call: str = "__call__"
    activation: Literal["relu"] | None = None

    def __post_init__(self) -> None:
        names = {"weight": self.weight, "call": self.call} | ({} if self.bias is None else {"bias": self.bias})
        for field, name in names.items():
            if not isinstance(name, str):
                raise TypeError(f"{field} must be the name of an attribute, got {name!r}; the arrays stay in the layer")
            if not name.isidentifier():
                raise ValueError(f"{field} must be the name of an attribute, got {name!r}")
        if self.layout not in LAYOUTS:
            raise ValueError(f'layout must be "out_in" or "in_out", got {self.layout!r}')
        if self.activation not in ACTIVATIONS:
            raise ValueError(f'activation must be None or "relu", got {self.activation!r}')


Layers = type | str | Iterable[type | str] | Mapping[Any, LayerSpec | None]


class FoundLayer(NamedTuple):
    """A float layer of a model."""

    path: str
    layer: Any
    spec: LayerSpec


class LayerChoice:
    """Which objects of a model are layers, and the spec of each: what `layers=` stands for."""

    def __init__(self, choices: ByName[LayerSpec]) -> None:
        self._choices = choices

    @property
    def types(self) -> dict[type, LayerSpec | None]:
        """The classes that it names."""
        return self._choices.types

    def spec_of(self, path: str, value: Any) -> LayerSpec | None:
        """The spec of the object at `path`; None where it is not a layer, or is excluded."""
        named, spec = self._choices.named(path)
        if type(value) in self.types:
            return spec if named else self.types[type(value)]
        spec = spec if named else self._choices.default
        return spec if spec is not None and _is_layer(value, spec) else None

    def find(self, model: Any) -> list[FoundLayer]:
        """The layers. What only a layer itself holds goes with it.

        Raises:
            ValueError: no layer matches, or a name or pattern matches none.
        """
        found = self.look(model)
        if not found:
            raise ValueError(nothing_found(model, self))
        if unused := self._choices.unused(self._named_things(model, found)):
            layers = ", ".join(tree.label(path) for path, _, _ in found[:20])
            raise ValueError(
                f"layers names {', '.join(map(repr, unused))}, which is none of the model's layers; those found are "
                f"{layers}{', ...' if len(found) > 20 else ''}"
            )
        return found

    def look(self, model: Any) -> list[FoundLayer]:
        """The layers, of which there may be none."""
        found: list[FoundLayer] = []
        entered: set[int] = set()  # walk asks whether to stop at a thing after it has handed it out
        for path, value in tree.walk(model, stop=lambda value: id(value) in entered):
            spec = self.spec_of(path, value)
            if spec is not None:
                found.append(FoundLayer(path, value, spec))
                entered.add(id(value))
        return found

    def _named_things(self, model: Any, found: list[FoundLayer]) -> list[tuple[str, type]]:
        """(path, type) of layers, and of what a name excludes; types count as used wherever they are not needed."""
        excluded = [
            (path, type(value)) for path, value in tree.walk(model) if self._choices.named(path) == (True, None)
        ]
        return [*((path, type(layer)) for path, layer, _ in found), *excluded, *(("", kind) for kind in self.types)]


def as_choice(layers: Layers) -> LayerChoice:
    """What the argument `layers` stands for.

    Raises:
        TypeError, ValueError: it is of another kind, or empty.
    """
    if isinstance(layers, (type, str)):
        layers = [layers]
    if not isinstance(layers, Iterable):
        raise TypeError(
            "layers must be a set of classes and names or a dict from these to LayerSpecs, such as "
            f"{{Dense: LayerSpec(), 'head': None}}, got {layers!r}"
        )
    entries = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, LayerSpec())
    for key in entries:
        if not isinstance(key, (type, str)):
            raise TypeError(f"layers must hold classes and names, got {key!r}; for a layer pass its class")
    if all(spec is None for spec in entries.values()):
        raise ValueError("layers must name at least one class or layer to quantize, got none")
    choices = ByName[LayerSpec]()
    choices.put_all("layers", entries, _valid_spec)
    return LayerChoice(choices)


def _valid_spec(key: str | type, spec: Any) -> LayerSpec | None:
    if spec is None or isinstance(spec, LayerSpec):
        return spec
    name = key.__name__ if isinstance(key, type) else repr(key)
    raise TypeError(f"layers must map {name} to a LayerSpec, or to None to leave it in float, got {spec!r}")


def _is_layer(value: Any, spec: LayerSpec) -> bool:
    """Whether an object that is selected by its path has a weight and a method as the spec says, or is octavo's own."""
    if counterpart(type(value)) is not None:
        return True
    weight = attributes(value).get(spec.weight)
    matrix = isinstance(weight, np.ndarray) and weight.ndim == 2 and weight.dtype.kind in "fiu"
    return matrix and callable(getattr(value, spec.call, None))


def nothing_found(model: Any, choice: LayerChoice) -> str:
    """Why there was nothing to quantize: subclasses of what was named, and other types that hold a 2-D float array."""
    values = [value for _, value in tree.walk(model)]
    if quantized := quantized_in(model):
        return f"the model is already quantized: it holds {quantized} and no float layer that layers names"
    kinds = sorted(cls.__name__ for cls, spec in choice.types.items() if spec is not None)
    text = f"no layer of type {', '.join(kinds)} in the model" if kinds else "layers names no layer of the model"
    subclasses = sorted({type(v).__name__ for v in values if isinstance(v, tuple(choice.types))})
    if subclasses:
        return (
            f"{text}; types are matched exactly, and it holds the subclass {', '.join(subclasses)}: name it in layers"
        )
    holders = sorted({type(v).__name__ for v in values if matrices_of(v)})
    if not choice.types:
        paths = {*choice._choices.unused(())} & {*holders}
        holders += [f"but {name!r} is taken for a path; pass the class" for name in sorted(paths)]
    return f"{text}; types in it with a 2-D float array as an attribute: {', '.join(holders) or 'none'}{unseen(model)}"


def unseen(model: Any) -> str:
    """What `walk` does not look into, for messages that nothing was found."""
    if isinstance(model, type):
        return f"; the model is the class {model.__name__}: pass an instance"
    functions = [p for p, v in tree.walk(model) if isinstance(v, types.FunctionType) and any(captured(v))]
    names = ", ".join(map(tree.label, functions[:5]))
    return f"; what functions capture is not looked at ({names}): hold it in an object or a partial" if names else ""


def quantized_in(model: Any) -> str:
    """The kinds of octavo's quantized things in a model, "" where it has none."""
    kinds = (QuantLinear, QuantMatrix, QuantEmbedding)
    found = {
        type(value).__name__
        for _, value in tree.walk(model, stop=lambda value: isinstance(value, kinds))
        if isinstance(value, kinds)
    }
    return " and ".join(sorted(found))


def layer_types(model: Any) -> list[str]:
    """Names of a model's classes that look like layers: octavo's own, and what holds a matrix and can be called."""
    found = {
        type(value).__name__
        for path, value in tree.walk(model)
        if counterpart(type(value)) is not None
        or (matrices_of(value) and not is_estimator(value) and (callable(value) or hasattr(value, "forward")))
    }
    return sorted(found)


def matrices_of(layer: Any) -> list[str]:
    """Names of the attributes that are 2-D float arrays."""
    return [name for name, v in arrays_of(layer).items() if v.ndim == 2 and v.dtype.kind == "f"]


def arrays_of(layer: Any) -> dict[str, NDArray[Any]]:
    """The attributes that are arrays."""
    return {k: v for k, v in attributes(layer).items() if isinstance(v, np.ndarray) and k.isidentifier()}


def read_layer(layer: Any, spec: LayerSpec) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """(W as (out, in), b as (out,) or None)."""
    if not hasattr(layer, spec.weight):
        if is_estimator(layer):
            raise ValueError(
                "trees are not quantized: they multiply by no matrix"
                if holds_trees(layer)
                else "the matrices of an estimator are found without layers: omit them, quantize_dynamic(model)"
            )
        names = matrices_of(layer)
        remedy = f"use LayerSpec(weight={names[0]!r})" if len(names) == 1 else "use LayerSpec(weight=...)"
        raise ValueError(f"no attribute {spec.weight!r}; its 2-D float arrays: {', '.join(names) or 'none'}; {remedy}")
    weight = as_array(getattr(layer, spec.weight), spec.weight)
    if weight.ndim != 2:
        shape = '(out, in), or (in, out) with layout="in_out"'
        raise ValueError(f"{spec.weight} must be 2-D, {shape}, got shape {weight.shape}")
    if weight.dtype.kind not in "fiu":
        raise TypeError(f"{spec.weight} must be real numbers, got dtype {weight.dtype}")
    weight = weight if spec.layout == "out_in" else weight.T
    raw = None if spec.bias is None else getattr(layer, spec.bias, None)
    if raw is None:
        return weight, None
    bias = as_array(raw, spec.bias or "bias")
    if bias.ndim == 0 or bias.size != weight.shape[0] or bias.size != max(bias.shape):
        raise ValueError(
            f"{spec.bias} must have {weight.shape[0]} elements, one for each output of {spec.weight} with "
            f'layout="{spec.layout}", got shape {bias.shape}'
        )
    return weight, bias.reshape(-1)
