"""Whether a stored thing may take the place of what a model has, and in which form.

A layer never takes the place of one of another kind. octavo's own are told apart by their classes; a class of the
user's is called with random rows, and must compute what the stored layer computes with its weights.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo import nn
from octavo._files.mapped_layers import weight_and_bias
from octavo._layers.arrays.quantized import QuantizedArray
from octavo._layers.embedding import QuantEmbedding
from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.permuted import PermutedQuantLinear
from octavo._layers.recurrent import QuantGRU, QuantLSTM
from octavo._layers.static import StaticQuantLinear
from octavo._layers.stubs import DeQuantStub, Quantize, QuantStub
from octavo._models.containers import attributes, instance_dict, slot_members
from octavo._models.fill import Fit
from octavo._models.snapshot import restore, snapshot
from octavo._numerics.int4 import GroupedWeight, ScaleDtype
from octavo._numerics.params import QParams, qint4
from octavo._quantize.checking import check_layer, fitting_spec
from octavo._quantize.spec import LayerSpec, read_layer

__all__ = ["Dtypes", "Fitter", "as_matrices"]

Dtypes = Literal["model", "file"]

_CONTAINERS = (dict, list, tuple, set, frozenset)
_RECURRENT = ("input_size", "hidden_size", "num_layers", "bidirectional", "batch_first")
_STUBS = (QuantStub, DeQuantStub, Quantize)
_LINEAR = (nn.Linear, QuantLinear, StaticQuantLinear, PermutedQuantLinear)

# Whose place each may take, by exact type. What derives from one of them is a class of the user's.
_PLACES: dict[type, tuple[type, ...]] = {
    QuantLinear: _LINEAR,
    StaticQuantLinear: _LINEAR,
    PermutedQuantLinear: _LINEAR,
    QuantMatrix: (QuantMatrix,),
    QuantEmbedding: (nn.Embedding, QuantEmbedding),
    QuantLSTM: (nn.LSTM, QuantLSTM),
    QuantGRU: (nn.GRU, QuantGRU),
    QuantStub: _STUBS,
    DeQuantStub: _STUBS,
    Quantize: _STUBS,
    QuantizedArray: (QuantizedArray,),
    QParams: (QParams,),
}


class Fitter:
    """What becomes of a stored thing in the place of what a model has: a `Fit`.

    Args:
        dtypes: whose dtype arrays have: that of the model, to which values are converted, or that of the file.
        check: call the user's own layers with random rows to find out what they compute.
        convert: False: what would have to be converted does not fit.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo._files.fits import Fitter
        >>> Fitter("model", check=True)(oc.nn.ReLU(), oc.QuantLinear(np.eye(2))).misfit
        'the model has a ReLU, the file a QuantLinear 2 -> 2'
    """

    def __init__(self, dtypes: Dtypes, *, check: bool, convert: bool = True) -> None:
        if dtypes not in ("model", "file"):
            raise ValueError(f'dtypes must be "model" or "file", got {dtypes!r}')
        self._dtypes, self._check, self._convert = dtypes, check, convert
        self._converted: dict[tuple[int, np.dtype[Any]], Fit] = {}
        self._specs: dict[type, list[LayerSpec]] = {}

    def __call__(self, old: Any, new: Any) -> Fit:
        if old is None or isinstance(new, list):  # a list of matrices was made to fit
            return Fit(new)
        if isinstance(new, np.ndarray) and isinstance(old, np.ndarray) and old.shape == new.shape:
            return self._with_dtype(old, new)
        text = f"the model has {described(old)}, the file {described(new)}"
        if isinstance(new, np.ndarray) or isinstance(old, _CONTAINERS):
            return Fit(new, text)
        if isinstance(old, np.ndarray):
            fits = isinstance(new, (QuantMatrix, QuantizedArray)) and new.shape == old.shape
            return Fit(new, None if fits else text)
        if type(old) in _PLACES[type(new)]:
            same = _sizes(old) == _sizes(new) or isinstance(new, _STUBS)
            return _instead_of_own(old, new) if same else Fit(new, text)
        if type(old).__module__.partition(".")[0] == "octavo":
            return Fit(new, text)
        if isinstance(new, (QuantLinear, QuantEmbedding)):
            return self._instead_of_users(old, new, text)
        return Fit(new, None if not self._check else text)

    def _with_dtype(self, old: NDArray[Any], new: NDArray[Any]) -> Fit:
        """The values in the model's dtype: floats are rounded to it, other numbers must be exactly the same in it."""
        if self._dtypes == "file" or old.dtype == new.dtype or new.dtype.kind in "OUS":
            return Fit(new)
        if not self._convert:
            return Fit(
                new,
                f'the model has dtype {old.dtype}, the file {new.dtype}, and with mmap="strict" nothing is converted; '
                'pass dtypes="file" to take arrays as they lie in the file',
            )
        key = id(new), old.dtype
        if key not in self._converted:  # one array for all places of what was one
            self._converted[key] = _converted(new, old.dtype)
        return self._converted[key]

    def _instead_of_users(self, old: Any, new: QuantLinear | QuantEmbedding, text: str) -> Fit:
        """A layer in the place of one of a class that octavo does not know."""
        sizes = _sizes(new)
        shapes = [a.shape for a in attributes(old).values() if isinstance(a, np.ndarray) and a.ndim == 2]
        if shapes and not {sizes, sizes[::-1]} & set(shapes):
            return Fit(new, f"the model has weights of shape {shapes[0]}, the file {described(new)}")
        if not self._check:
            return Fit(new)
        remedy = "pass check=False where it is to give way all the same"
        if not shapes and _waits_for_weights(old):
            return Fit(new)
        if isinstance(new, QuantEmbedding):
            return Fit(new, None if _looks_up(old, sizes) else f"{text}, and it does not look up rows; {remedy}")
        spec = self._spec(old)
        if spec is None:
            return Fit(new, f"{text}, and it does not compute x W^T + b of a random row; {remedy}")
        weight, bias = read_layer(old, spec)
        if weight.shape != sizes:
            return Fit(new, f"the model has weights of shape {weight.shape} (out, in), the file {described(new)}")
        if new.epilogue not in (None, "relu"):
            return Fit(new, f"{text}, and the file's applies {new.epilogue}; {remedy}")
        if (spec.activation == "relu") != _has_relu(new):
            one, other = ("the model's", "the file's") if spec.activation else ("the file's", "the model's")
            return Fit(new, f"{text}, and {one} applies ReLU, {other} does not; {remedy}")
        return Fit(_called(new, spec.call), None, (str(spec.bias),) if bias is not None and new.bias is None else ())

    def _spec(self, layer: Any) -> LayerSpec | None:
        """What the layer computes; None where that is not x W^T + b.

        What was found for layers of its class is tried first, so that the search among all specs is made once. A class
        says nothing of what one layer of it computes: every layer is called.
        """
        trials, known = _trials(layer), self._specs.setdefault(type(layer), [])
        for trial, spec in itertools.product(trials, known):
            if _computes(trial, spec):
                return spec
        searched = (fitting_spec(trial, LayerSpec()) for trial in trials)
        found = next((spec for spec in searched if spec is not None), None)
        if found is not None:
            known.append(found)
        return found


def _computes(layer: Any, spec: LayerSpec) -> bool:
    try:
        check_layer(layer, spec)
    except Exception:  # whatever the user's code raises
        return False
    return True


def _called(layer: QuantLinear, method: str) -> QuantLinear:
    """The layer, also called by the method that the model calls it by; what converts checkpoints cannot know it."""
    if method in ("__call__", "forward", layer._call_name):
        return layer
    made = copy.deepcopy(layer)  # with the same integers
    made._call_name, made._origin = method, None  # in the file it is called otherwise
    return made


def _instead_of_own(old: Any, new: Any) -> Fit:
    """A layer in the place of one of octavo's, of the right kind and size."""
    if not isinstance(new, QuantLinear):
        return Fit(new)
    if _has_relu(old) != _has_relu(new):
        one, other = ("model's", "file's") if _has_relu(old) else ("file's", "model's")
        return Fit(new, f"the {one} layer applies ReLU, the {other} does not")
    models, files = (getattr(layer, "epilogue", None) for layer in (old, new))
    if models != files and {models, files} - {None, "relu"}:
        return Fit(new, f"the model's layer has epilogue={models!r}, the file's {files!r}")
    return Fit(new, None, ("bias",) if old.bias is not None and new.bias is None else ())


def _has_relu(layer: Any) -> bool:
    """Whether ReLU is a part of the layer, not one of the model's that was folded into it."""
    return isinstance(layer, QuantLinear) and layer.relu and getattr(layer, "_folded", None) is None


def _sizes(value: Any) -> tuple[Any, ...]:
    if isinstance(value, (nn.Linear, nn.Embedding)):
        return value.weight.shape
    if isinstance(value, QuantLinear):
        return value.out_features, value.in_features
    if isinstance(value, QuantEmbedding):
        return value.num_embeddings, value.embedding_dim
    if isinstance(value, (nn.LSTM, nn.GRU, QuantLSTM, QuantGRU)):
        return tuple((name, getattr(value, name)) for name in _RECURRENT)
    return getattr(value, "shape", ())


def described(value: Any) -> str:
    """What messages say of a thing in a model or a file."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    sizes, name = _sizes(value), type(value).__name__
    text = f"{'an' if name.startswith(('A', 'E', 'I', 'O', 'LSTM')) else 'a'} {name}"
    if isinstance(value, (nn.Linear, QuantLinear)):
        return f"{text} {sizes[1]} -> {sizes[0]}"
    if isinstance(value, (nn.Embedding, QuantEmbedding)):
        return f"{text} with num_embeddings={sizes[0]}, embedding_dim={sizes[1]}"
    if isinstance(value, (nn.LSTM, nn.GRU, QuantLSTM, QuantGRU)):
        return f"{text} with {', '.join(f'{name}={size}' for name, size in sizes)}"
    return f"{text} of shape {sizes}" if isinstance(value, (QuantMatrix, QuantizedArray)) else text


def _converted(new: NDArray[Any], dtype: np.dtype[Any]) -> Fit:
    floats = _is_float(new.dtype) and _is_float(dtype)
    with np.errstate(all="ignore"):
        try:
            made = (new.real if new.dtype.kind == "c" and dtype.kind != "c" else new).astype(dtype)
            if floats:
                same = not (np.isfinite(new.astype(np.float64)) & ~np.isfinite(made.astype(np.float64))).any()
            else:
                same = _is_same(made, new)
        except (TypeError, ValueError):
            made, same = new, False
    if same:
        return Fit(made, converted=f"it was converted from {new.dtype} to {dtype}, which the model has")
    return Fit(
        new,
        f"the model has dtype {dtype}, the file {new.dtype} with values that {dtype} does not have; pass "
        'dtypes="file" to load them as they are',
    )


def _is_same(made: NDArray[Any], new: NDArray[Any]) -> bool:
    """Whether conversion kept every number: all come back, and none left the range of an integer type on the way.

    NumPy compares int64 with float64 as float64, where 2**53 + 1 equals 2**53; what lies beyond a range may come back
    on one CPU and not on another.
    """
    if "c" in (made.dtype.kind, new.dtype.kind):
        return _is_same(made.real, new.real) and np.array_equal(made.imag, new.imag)
    for integers, other in ((new, made), (made, new)):
        if integers.dtype.kind not in "iu":
            continue
        if other.dtype.kind in "iu":
            if ((integers < 0) != (other < 0)).any():
                return False
        elif other.dtype.kind != "b":
            info = np.iinfo(integers.dtype)
            low, high = (np.array(float(bound)).astype(other.dtype) for bound in (info.min, info.max + 1))
            if not (np.isfinite(other) & (other >= low) & (other < high)).all():
                return False
    return np.array_equal(made.astype(new.dtype), new)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


# Finding out what a layer computes


def _trials(layer: Any) -> list[Any]:
    """The layer itself, or where its weights are placeholders (zeros, ones, NaN) first a copy with random ones."""
    floats = {name: a for name, a in attributes(layer).items() if isinstance(a, np.ndarray) and a.dtype.kind == "f"}
    if all(np.isfinite(a).all() and (a.size < 2 or a.min() < a.max()) for a in floats.values()):
        return [layer]
    rng, trial = np.random.default_rng(0), copy.copy(layer)
    own, slots = instance_dict(trial), slot_members(trial)
    for name, a in floats.items():
        random = np.asarray(rng.standard_normal(a.shape), a.dtype)
        if name in own:
            own[name] = random
        else:
            slots[name].__set__(trial, random)
    return [trial, layer]


def _answers(layer: Any, x: NDArray[Any]) -> list[NDArray[Any]]:
    """What its methods give for x, of those that do not fail."""
    found = []
    for name in ("__call__", "forward"):
        before = snapshot(layer)
        try:
            found.append(np.asarray(getattr(layer, name)(x)))
        except Exception:
            continue
        finally:
            restore(layer, before)
    return found


def _waits_for_weights(layer: Any) -> bool:
    """Whether it is a layer whose weights are None so far: it has methods to call, and calling them fails."""
    callable_at_all = any(callable(getattr(layer, name, None)) for name in ("__call__", "forward", "apply", "predict"))
    lacks = any(value is None for value in attributes(layer).values())
    return callable_at_all and lacks and not _answers(layer, np.ones((1, 1), np.float32))


def _looks_up(layer: Any, sizes: tuple[int, int]) -> bool:
    """Whether calling it with indices gives rows of an array of its own."""
    ids = np.array([[sizes[0] - 1, 0]])
    for trial in _trials(layer) if sizes[0] else ():
        tables = [a for a in attributes(trial).values() if isinstance(a, np.ndarray) and a.shape == sizes]
        if any(np.array_equal(y, table[ids]) for y in _answers(trial, ids) for table in tables):
            return True
    return False


# Models that are dicts of arrays


def as_matrices(items: Mapping[str, Any], held: Mapping[str, Any], copied: dict[str, str]) -> dict[str, Any]:
    """The stored things, with matrices in place of layers where a model has the arrays "fc.weight" and "fc.bias".

    Args:
        items: stored things by name.
        held: what the model has, by name.
        copied: gets the names of matrices that are not the stored integers themselves, with the reason.

    Notes:
        An array (out, in) becomes a matrix for x @ W.T, one (in, out) a matrix for x @ W. A square one goes with the
        others of the model, and is (out, in) where there are none.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo._files.fits import as_matrices
        >>> as_matrices({"fc": oc.QuantLinear(np.ones((3, 4)))}, {"fc.weight": np.ones((4, 3))}, {})
        {'fc.weight': QuantMatrix(4 x 3, int8, activation=symmetric, axis=1)}
    """
    places = {name: place for name, item in items.items() if (place := _matrix_place(name, item, held)) is not None}
    shapes = {name: getattr(held[place], "shape", None) for name, place in places.items()}
    layouts = {name: _axis_of(items[name], shapes[name]) for name in places}
    known = set(layouts.values()) - {None}
    usual: Literal[0, 1] = 1 if known == {1} else 0
    found: dict[str, Any] = {}
    for name, item in items.items():
        if name not in places:
            found[name] = item
            continue
        axis = usual if (known_axis := layouts[name]) is None else known_axis
        if isinstance(item, QuantEmbedding):
            found[places[name]] = _packed_table(item, axis)
            copied[places[name]] = (
                "the model has an array there, so the table was packed as a matrix. Save the model that comes of it "
                'with layout="packed" once, and map that file'
            )
            continue
        layer, bias = weight_and_bias(item)
        found[places[name]] = QuantMatrix._made(layer, axis)
        if bias is not None:
            found[f"{name}.bias" if name else "bias"] = bias
    return found


def _matrix_place(name: str, item: Any, held: Mapping[str, Any]) -> str | None:
    """The name of the array whose place a layer's matrix takes; None where the layer as a whole has a place."""
    if type(item) not in (QuantLinear, QuantEmbedding) or getattr(item, "epilogue", None) is not None:
        return None
    own = held.get(name)
    if isinstance(own, np.ndarray):
        return name if getattr(item, "bias", None) is None else None
    inner = f"{name}.weight" if name else "weight"
    fits = inner in held and isinstance(held[inner], (np.ndarray, QuantMatrix, type(None)))
    return inner if fits and (name not in held or isinstance(own, dict)) else None


def _axis_of(item: QuantLinear | QuantEmbedding, shape: tuple[int, ...] | None) -> Literal[0, 1] | None:
    """The axis of the outputs in an array of the model; None where its shape does not tell."""
    sizes = _sizes(item)
    if isinstance(item, QuantEmbedding):
        return 0
    return None if shape is None or sizes == sizes[::-1] else 1 if shape == sizes[::-1] else 0


def _packed_table(table: QuantEmbedding, axis: Literal[0, 1]) -> QuantMatrix:
    """The rows of a table as a matrix."""
    state = table._state()
    q, scale = table.int_repr(), state["scale"]
    if table.dtype != qint4:
        return QuantMatrix._made(QuantLinear.from_quantized(q, scale.reshape(-1)), axis)
    scale_dtype: ScaleDtype = "float16" if scale.dtype == np.float16 else "float32"
    return QuantMatrix.from_grouped(
        GroupedWeight(q, scale, state["zero_point"], table.group_size, scale_dtype), axis=axis
    )
