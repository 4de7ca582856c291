"""Candidates: the ways of quantizing a layer that `sensitivity` and the accuracy control choose from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.weights import ActivationScheme
from octavo._numerics.gptq import InputStatistics, round_gptq
from octavo._numerics.gptq_int8 import round_gptq_int8
from octavo._numerics.input_transform import InputTransform
from octavo._numerics.int4 import ScaleDtype
from octavo._numerics.params import as_qtype, as_weight_qtype, qint4, qint8
from octavo._numerics.rotation import as_rotation
from octavo._numerics.smoothing import InputSample, SmoothingMethod
from octavo._quantize.batches import Forward
from octavo._quantize.smoothing import searched_scale
from octavo._quantize.spec import read_layer
from octavo._quantize.targets import Target
from octavo._quantize.watching import gather

__all__ = ["Candidate", "Candidates", "Inputs", "built", "checked_candidates", "seen_inputs"]

Candidates = Iterable["str | Mapping[str, Any] | Candidate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way of quantizing a layer or array: options of `QuantLinear`, and what calibration data is used for.

    Args:
        dtype, group_size, symmetric, scale_dtype, activation, activation_group: as for `QuantLinear`.
        rounding: of int4 weights: "nearest", "search" or "gptq"; of int8 weights "gptq", or None for the nearest.
        smooth: the scale of the inputs: "smoothquant", "awq" or None, as for `find_smoothing`.
        name: in reports; by default made of the options.
        rotation: as for `QuantLinear`; layers whose inputs are not a multiple of it are not rotated.

    Example:
        >>> import octavo as oc
        >>> oc.Candidate(dtype="int4", group_size=64, rounding="gptq", smooth="awq").name
        'int4 g64 gptq awq'
    """

    dtype: str = "int8"
    group_size: int | None = None
    symmetric: bool = True
    scale_dtype: ScaleDtype = "float32"
    rounding: Literal["nearest", "search", "gptq"] | None = None
    activation: ActivationScheme = "symmetric"
    activation_group: int | None = None
    smooth: SmoothingMethod | None = None
    name: str = ""
    rotation: int | None = None

    def __post_init__(self) -> None:
        qtype = as_weight_qtype(self.dtype)
        if self.smooth not in (None, "smoothquant", "awq"):
            raise ValueError(f'a candidate\'s smooth must be "smoothquant", "awq" or None, got {self.smooth!r}')
        if self.rounding not in (None, "nearest", "search", "gptq"):
            raise ValueError(f'a candidate\'s rounding must be "nearest", "search" or "gptq", got {self.rounding!r}')
        if qtype == qint8 and (
            self.rounding not in (None, "gptq")
            or self.group_size is not None
            or not self.symmetric
            or self.scale_dtype != "float32"
        ):
            raise ValueError(
                'other rounding than "gptq", group_size, symmetric and scale_dtype are for int4 candidates; int8 '
                "weights have one scale an output, in float32"
            )
        object.__setattr__(self, "rotation", as_rotation(self.rotation, 0))
        object.__setattr__(self, "dtype", qtype.name[1:])
        object.__setattr__(self, "name", self.name or self._made_name())

    def _made_name(self) -> str:
        parts = [
            self.dtype,
            f"g{self.group_size}" if self.group_size else "",
            "" if self.symmetric else "zero points",
            "float16" if self.scale_dtype == "float16" else "",
            self.rounding if self.rounding not in (None, "search") else "",
            "" if self.activation == "symmetric" else self.activation,
            f"activations g{self.activation_group}" if self.activation_group else "",
            f"rotated {self.rotation}" if self.rotation else "",
            self.smooth or "",
        ]
        return " ".join(part for part in parts if part)

    def rotation_of(self, inputs: int) -> int | None:
        """That of a layer of so many inputs."""
        return None if self.rotation is None or inputs % self.rotation else self.rotation

    def arguments(self) -> dict[str, Any]:
        """Of `QuantLinear`, but for what its inputs go through."""
        four = as_qtype(self.dtype) == qint4
        groups = {"group_size": self.group_size, "symmetric": self.symmetric, "scale_dtype": self.scale_dtype}
        rounding = {"rounding": "search" if self.rounding in (None, "gptq") else self.rounding}
        own = {"activation": self.activation, "activation_group": self.activation_group}
        return {"dtype": self.dtype, **(groups | rounding if four else {}), **own}


_SHORT = {"int8": Candidate(), "int4": Candidate(dtype="int4", group_size=64, name="int4")}


def checked_candidates(candidates: Candidates, targets: Sequence[Target] = ()) -> tuple[Candidate, ...]:
    """What the argument `candidates` stands for: "int8", "int4" (groups of 64), options, or a `Candidate`.

    Raises:
        TypeError, ValueError: there is none, one is of another kind, two have one name, or a target cannot take one;
            both are named then.

    Example:
        >>> [c.name for c in checked_candidates(["int8", {"dtype": "int4", "group_size": 32}])]
        ['int8', 'int4 g32']
    """
    if isinstance(candidates, (str, Mapping, Candidate)) or not isinstance(candidates, Iterable):
        raise TypeError(f'candidates must be several, such as ["int8", "int4"], got {candidates!r}')
    found: list[Candidate] = []
    known = {field.name for field in fields(Candidate)}
    for given in candidates:
        if isinstance(given, Candidate):
            found.append(given)
        elif isinstance(given, str) and given in _SHORT:
            found.append(_SHORT[given])
        elif isinstance(given, Mapping):
            if unknown := sorted(set(given) - known):
                raise ValueError(f"a candidate has no option {unknown[0]!r}; it has {', '.join(sorted(known))}")
            found.append(Candidate(**given))
        else:
            raise ValueError(f'candidates must hold "int8", "int4", options or octavo.Candidate, got {given!r}')
    names = [c.name for c in found]
    if not found or len(set(names)) < len(names):
        raise ValueError(f"candidates must be one or more of different names, got {names}")
    if "float" in names:
        raise ValueError('"float" is always a candidate; leave it out')
    for target in targets:
        width = target.weight().shape[1]
        for candidate in found:
            try:
                QuantLinear(np.zeros((1, width), np.float32), **candidate.arguments())
            except (TypeError, ValueError) as error:
                target.refuse(error, hint=False, prefix=f"candidate {candidate.name!r}: ")
    return tuple(found)


@dataclass(slots=True)
class Inputs:
    """What one layer was given: a sample, and sums for GPTQ where some candidate needs them.

    Attributes:
        sample, statistics: of what it multiplied.
        lookups: how often each of its rows was looked up.
    """

    sample: InputSample
    statistics: InputStatistics | None
    lookups: NDArray[np.int64]

    def update(self, x: Any) -> None:
        self.sample.update(x)
        if self.statistics is not None:
            self.statistics.update(x)

    def look_up(self, ids: NDArray[np.int64]) -> None:
        np.add.at(self.lookups, ids, 1)


def seen_inputs(
    model: Any,
    targets: Sequence[Target],
    batches: Iterable[Any],
    forward: Forward,
    candidates: Sequence[Candidate],
    *,
    rows: int = 512,
    progress: bool = False,
) -> dict[str, Inputs]:
    """The inputs of each, by path, from one run of a copy of the model."""
    gptq = any(c.rounding == "gptq" for c in candidates)
    found = []
    for target in targets:
        n, k = target.weight().shape
        lookups = np.zeros(k if target.axis else n, np.int64)
        found.append(Inputs(InputSample(k, rows=rows), InputStatistics(k) if gptq else None, lookups))
    looked_up = [inputs.look_up for inputs in found]
    gather(model, targets, found, batches, forward, progress=progress, looked_up=looked_up)
    return {target.path: inputs for target, inputs in zip(targets, found, strict=True)}


def built(target: Target, candidate: Candidate, inputs: Inputs | None) -> QuantLinear | QuantMatrix:
    """What takes the place of a layer or array. Without rows of inputs, scales and GPTQ do nothing."""
    arguments, own = candidate.arguments(), _own(target)
    weight, bias = target.weight(), None
    rotation = candidate.rotation_of(weight.shape[1])
    if target.spec is not None:
        weight, bias = read_layer(target.original, target.spec)
    seen = inputs is not None and inputs.sample.seen > 0
    scale: NDArray[np.float32] | None = None
    if seen and candidate.smooth is not None:
        assert inputs is not None
        scale = searched_scale(weight, inputs.sample, arguments | {"rotation": rotation}, candidate.smooth)
    transform = InputTransform(scale, rotation)
    if seen and candidate.rounding == "gptq":
        assert inputs is not None
        assert inputs.statistics is not None
        statistics, weight = transform.statistics(inputs.statistics), transform.weight(weight)
        own |= {name: arguments[name] for name in ("activation", "activation_group")} | transform.arguments()
        if as_qtype(candidate.dtype) == qint8:
            layer = QuantLinear.from_quantized(*round_gptq_int8(weight, statistics), bias, **own)
        else:
            groups = {name: arguments[name] for name in ("group_size", "symmetric", "scale_dtype")}
            layer = QuantLinear.from_grouped(round_gptq(weight, statistics, **groups), bias, **own)
    else:
        layer = QuantLinear(weight, bias, **transform.arguments(), **arguments, **own)
    return layer if target.spec is not None else QuantMatrix._made(layer, target.axis or 0)


def _own(target: Target) -> dict[str, Any]:
    if target.spec is None:
        return {}
    call = target.spec.call
    return {"relu": target.spec.activation == "relu", "call": "forward" if call == "__call__" else call}
