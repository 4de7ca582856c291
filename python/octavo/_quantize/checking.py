"""Whether a float layer computes what its `LayerSpec` says; and which other spec does, where it does not."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from octavo._models import walk as tree
from octavo._models.functions import stale_references
from octavo._models.snapshot import restore, snapshot
from octavo._quantize.spec import ACTIVATIONS, LAYOUTS, LayerSpec, arrays_of, matrices_of, read_layer
from octavo._util.arrays import row_blocks
from octavo._util.errors import raise_named

__all__ = ["check_functions", "check_layer", "fitting_spec", "refuse"]

# Allowed difference of a layer's result from the exact one, relative to sum |x| |w| + |b|. The terms of a random row
# have random signs, so partial sums grow like sqrt(K), and float32 rounding adds up to about 2**-24 of that sum for any
# K; this is 168 times as much. What computes something else is off by about its result, 1/sqrt(K) of the sum: 276 times
# the tolerance at K = 131,071.
_TOLERANCE = 1e-5
_HALF_TOLERANCE = 1e-2  # float16: 20 times its rounding of 2**-11


class _ProbeError(ValueError):
    """The layer fails on a random row, or computes something else than its spec says."""


def check_functions(model: Any, replacements: Mapping[int, Any], inplace: bool) -> None:
    """Raises ValueError where a function or a weak reference of the model would still reach what is replaced."""
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
    """Raises ValueError unless the layer computes what its spec says, for a random row and its negative.

    The row has shape (1, K). Where the layer does not take that (it unpacks `b, t, c = x.shape`, or looks at x.ndim),
    it is tried with (1, 1, K).
    """
    weight, bias = read_layer(layer, spec)
    for rows in row_blocks(weight.shape):
        if (bad := weight[rows][~np.isfinite(weight[rows])]).size:
            raise ValueError(f"{spec.weight} must be finite, got {bad[0]}")
    try:
        _check_on_rows(layer, spec, weight, bias, (1, weight.shape[1]))
    except _ProbeError as error:
        try:
            _check_on_rows(layer, spec, weight, bias, (1, 1, weight.shape[1]))
        except ValueError:
            raise error from error.__cause__


def _check_on_rows(
    layer: Any, spec: LayerSpec, weight: NDArray[Any], bias: NDArray[Any] | None, shape: tuple[int, ...]
) -> None:
    dtype = weight.dtype.newbyteorder("=") if weight.dtype.kind == "f" else np.dtype(np.float32)
    b = np.zeros(weight.shape[0]) if bias is None else bias.astype(np.float64)
    x = np.random.default_rng(0).standard_normal(shape)
    # Reaching twice as far as the bias, and both ways, so that a ReLU in the layer shows in some output.
    reach, offset = np.abs(_product(x, weight)).max(initial=0), np.abs(b).max(initial=0)
    farthest = 64 if dtype == np.float16 else 1e6
    x = (x * np.clip(2 * offset / reach, 1, farthest) if reach > 0 else x).astype(dtype)
    for row in (x, -x):
        x64 = row.astype(np.float64)
        y = _called(layer, spec.call, row)
        expected = _product(x64, weight) + b
        expected = np.maximum(expected, 0) if spec.activation == "relu" else expected
        if y.shape != expected.shape:
            raise _ProbeError(f"{spec.call} gives shape {y.shape} for a row {x.shape}, expected {expected.shape}")
        half = np.float16 in (weight.dtype, y.dtype)
        allowed = (_HALF_TOLERANCE if half else _TOLERANCE) * (_product(np.abs(x64), weight, np.abs) + np.abs(b))
        allowed += np.finfo(np.float16 if half else np.float32).tiny
        difference = np.abs(y.astype(np.float64) - expected)
        if not np.all(difference <= allowed):  # `not`, so that NaN is a mismatch
            raise _ProbeError(
                f"{spec.call} is not {_equation(spec, bias)}: largest difference {difference.max():.3g} on a random "
                f"row, where values reach {np.abs(expected).max():.3g}"
            )


def _product(
    x: NDArray[np.float64], weight: NDArray[Any], of: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
) -> NDArray[np.float64]:
    """x W^T in float64, or of |W|: by rows of W, which as float64 would be twice as large as the layer."""
    parts = [x @ of(weight[rows].astype(np.float64)).T for rows in row_blocks(weight.shape)]
    return np.concatenate(parts, axis=-1) if parts else np.zeros((*x.shape[:-1], 0))


def _equation(spec: LayerSpec, bias: NDArray[Any] | None) -> str:
    equation = f"x {spec.weight}" + ("^T" if spec.layout == "out_in" else "")
    equation += "" if bias is None else f" + {spec.bias}"
    return f"relu({equation})" if spec.activation == "relu" else equation


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
        raise _ProbeError(f"{call} failed on a random row of shape {x.shape}: {what}") from error
    finally:
        restore(layer, before)
    if y.dtype.kind not in "fiub":
        raise _ProbeError(f"{call} must give real numbers, got dtype {y.dtype}")
    return y


def _methods(layer: Any) -> list[str]:
    """Names that layers are usually called by, as far as this one has them."""
    return [name for name in ("__call__", "forward", "apply", "predict") if callable(getattr(layer, name, None))]


def refuse(where: str, layer: Any, spec: LayerSpec, error: Exception, *, hint: bool) -> NoReturn:
    """Raises the error with the name of the layer and, with `hint`, which other spec fits it."""
    raise_named(error, f"{where} ({type(layer).__name__})", _hint(layer, spec, error) if hint else "")


def fitting_spec(layer: Any, spec: LayerSpec) -> LayerSpec | None:
    """The spec that fits the layer, found by trying, fewest changes first; None where the layer is not linear."""
    vectors = [name for name, v in arrays_of(layer).items() if v.ndim > 0 and v.size == max(v.shape)]
    weights = [spec.weight] if hasattr(layer, spec.weight) else matrices_of(layer)
    calls = [spec.call] if callable(getattr(layer, spec.call, None)) else _methods(layer)
    choices = itertools.product(
        weights,
        dict.fromkeys([spec.bias, *vectors, None]),
        dict.fromkeys([spec.layout, *LAYOUTS]),
        calls,
        dict.fromkeys([spec.activation, *ACTIVATIONS]),
    )
    trials = [LayerSpec(*choice) for choice in choices]
    for trial in sorted(trials, key=lambda trial: len(_differences(trial, spec))):
        try:
            check_layer(layer, trial)
        except Exception:
            continue
        return trial
    return None


def _hint(layer: Any, spec: LayerSpec, error: Exception) -> str:
    """Which other spec fits the layer."""
    fitting = fitting_spec(layer, spec)
    if fitting is not None:
        options = ", ".join(f"{name}={value!r}" for name, value in _differences(fitting, LayerSpec()).items())
        return f"; it fits LayerSpec({options})" if fitting != spec else ""
    if isinstance(error, _ProbeError):
        return (
            "; give its part that is x W^T + b a class of its own, or pass check=False if the layer is right and only "
            "the random row is not for it"
        )
    return ""


def _differences(spec: LayerSpec, other: LayerSpec) -> dict[str, Any]:
    old, new = dataclasses.asdict(other), dataclasses.asdict(spec)
    return {name: value for name, value in new.items() if value != old[name]}
