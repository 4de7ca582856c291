"""What data and models are known by: digests of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from octavo._analysis.candidates import Candidate
from octavo._models import walk as tree
from octavo._quantize.spec import read_layer
from octavo._quantize.targets import Target

__all__ = ["digest", "fingerprint"]

_PLAIN = (str, bytes, int, float, complex, type(None))  # equal where their values are


def _by_identity(value: Any) -> Any:
    return "object", id(value)


def digest(batch: Any, other: Callable[[Any], Any] = _by_identity) -> Any:
    """What is equal of batches of equal types with equal numbers.

    Args:
        batch: arrays, what NumPy reads as an array, plain values, and tuples, lists and mappings of these.
        other: says what stands for anything else; by default its identity does.
    """
    if isinstance(batch, (tuple, list)):
        return type(batch).__name__, tuple(digest(part, other) for part in batch)
    if isinstance(batch, Mapping):
        return "mapping", tuple((digest(key, other), digest(value, other)) for key, value in batch.items())
    if isinstance(batch, _PLAIN):
        return type(batch).__name__, batch
    if not hasattr(batch, "__array__"):
        return other(batch)
    try:
        a = np.asarray(batch)
    except Exception:  # what another library raises, of a tensor on a GPU for instance
        return other(batch)
    if a.dtype.hasobject and (a.ndim == 0 or a.dtype.kind == "V"):
        return other(batch)
    if isinstance(batch, np.ma.MaskedArray):
        return "masked", digest(a, other), digest(np.ma.getmaskarray(batch)), digest(batch.fill_value, other)
    if a.dtype.kind in "OT":
        return a.shape, tuple(digest(value, other) for value in a.flat)
    return a.shape, str(a.dtype), hashlib.sha256(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data).digest()


def fingerprint(
    model: Any,
    targets: Sequence[Target],
    ways: Sequence[Candidate],
    data: Mapping[str, Sequence[Any]],
    minimize: str,
) -> dict[str, str]:
    """Digests of all that the numbers of an accuracy control depend on, functions aside, by what they are of.

    Every array of the model counts, and the targets' weights and biases, which need not be arrays of it. A batch that
    holds something known by its identity alone is a TypeError.
    """
    arrays = [(path, digest(value)) for path, value in tree.walk(model) if isinstance(value, np.ndarray)]
    parts = {name: [_content(batch, name, i) for i, batch in enumerate(given)] for name, given in data.items()}
    parts |= {"model": [arrays, list(map(_parameters, targets))], "candidates": list(ways), "minimize": [minimize]}
    return {name: hashlib.sha256(repr(part).encode()).hexdigest() for name, part in parts.items()}


def _parameters(target: Target) -> Iterable[Any]:
    activation, bias = None, None
    if target.spec is not None:
        activation, bias = target.spec.activation, read_layer(target.original, target.spec)[1]
    return target.path, activation, digest(target.weight()), digest(bias)


def _content(batch: Any, name: str, number: int) -> Any:
    def refuse(value: Any) -> Any:
        raise TypeError(
            f"state= needs batches whose content can be compared in the next run: arrays, numbers and strings, and "
            f"tuples, lists and dicts of these; batch {number} of {name} holds a {type(value).__name__}. Pass its "
            "arrays and build it in forward, or omit state="
        )

    return digest(batch, refuse)
