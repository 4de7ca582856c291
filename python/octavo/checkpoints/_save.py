"""compressed-tensors checkpoints of octavo's layers, for vLLM and transformers: the same integers and scales."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo._files.codecs import is_stored, packed
from octavo._files.fields import LazyTensor, LazyTensors, lazy
from octavo._files.renaming import every_alias
from octavo._files.safetensors import Tensor, Writer
from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.static import StaticQuantLinear
from octavo._layers.weights import GroupedWeights, Int4Weights, as_codes
from octavo._models.fill import survey
from octavo._numerics.grouped import GroupedCodes
from octavo._numerics.int4 import pack_int4
from octavo._numerics.params import qint8
from octavo._util.atomic import written_beside
from octavo._util.errors import raise_named
from octavo.checkpoints._config import read_json
from octavo.checkpoints._packing import words

__all__ = ["save"]


class _Scheme(NamedTuple):
    """What layers of one config group share."""

    format: str
    bits: int
    group: int | None
    symmetric: bool
    activation: str | None  # None: the weights alone are quantized
    static: bool = False

    def described(self, targets: list[str]) -> dict[str, Any]:
        """The group as config.json has it."""
        weights: dict[str, Any] = {
            "num_bits": self.bits, "type": "int", "symmetric": self.symmetric, "dynamic": False,
            "strategy": "channel" if self.group is None else "group", "group_size": self.group,
        }  # fmt: skip
        inputs = None
        if self.activation is not None:
            inputs = {
                "num_bits": 8, "type": "int", "symmetric": self.activation == "symmetric", "dynamic": not self.static,
                "strategy": "tensor" if self.static else "token", "group_size": None,
            }  # fmt: skip
        return {"targets": targets, "weights": weights, "input_activations": inputs, "format": self.format}


def save(model: Any, folder: str | os.PathLike[str], *, config: Mapping[str, Any] | None = None) -> None:
    """Writes a model as a compressed-tensors checkpoint: model.safetensors and config.json.

    int8 layers become int-quantized, with activations of 8 bits per token, or of fixed scales. Layers in groups become
    pack-quantized, of 4 or 8 bits; what such a checkpoint says of activations is that they are floats. Arrays are
    written as they are. vLLM and transformers read both; the library of that name is what tests compare with.

    Args:
        model: a dict of `QuantLinear`, `QuantMatrix` and arrays, nested as deep as you like, or any tree of objects
            with them. Names are the way there, joined by dots; a matrix "fc.weight" is the weight of the layer "fc".
        folder: where the files are to be; it is made where there is none. What it has of other names stays.
        config: the entries of config.json besides the quantization, as the float model has them. None: those of the
            config.json that is there, or none.

    Raises:
        OSError: a file cannot be written.
        TypeError: the model holds a layer of another class: embeddings, recurrent layers, permuted inputs.
        ValueError: there is no layer; a layer has no such form: minima or two levels of scales, int16 activations,
            ReLU, integers as results, a zero point of 16, a last group that is shorter. The folder holds
            other safetensors files. Nothing is written.

    Notes:
        The format's scales are positive: groups with a negative one, as the search for int4 scales gives them, are
        written with mirrored codes and zero points, which stand for the same weights. Groups of activations have no
        place in it: `load` chooses them anew. The format: https://github.com/vllm-project/compressed-tensors.

    Example:
        >>> import tempfile, numpy as np, octavo as oc
        >>> layer = oc.QuantLinear(np.eye(64, dtype=np.float32), dtype="int4", group_size=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     oc.checkpoints.save({"fc": layer}, folder)
        ...     oc.checkpoints.load(folder, activation_group=None)
        {'fc': QuantLinear(64 -> 64, int4, group_size=32, activation=symmetric)}
    """
    found, aliases = survey(model, is_stored)
    found = dict(found) | {alias: found[name] for alias, name in every_alias(found, aliases).items()}
    schemes: dict[_Scheme, list[str]] = {}
    parts: LazyTensors = {}
    for name, value in found.items():
        try:
            for full, part in _parts(name, value, schemes).items():
                if full in parts:
                    raise ValueError(f"its tensor {full!r} has the name of another; rename one of them")
                parts[full] = part
        except (TypeError, ValueError) as error:
            raise_named(error, name or "the model", hide=True)
    if not schemes:
        raise ValueError("the model holds no quantized layer; safetensors.numpy.save_file writes arrays")
    place = Path(folder)
    others = sorted(p.name for p in place.glob("*.safetensors*") if p.name != "model.safetensors")
    if others:
        raise ValueError(f"{place} holds other files of weights ({', '.join(others[:3])}); name another folder")
    content = _config(place, config) | {"quantization_config": _quantization(schemes)}
    text = json.dumps(content, ensure_ascii=False, indent=2).encode()
    place.mkdir(parents=True, exist_ok=True)
    tensors = {name: part.tensor for name, part in parts.items()}
    # The config is on the disk before the old weights go: a full disk keeps both.
    with written_beside(place / "config.json") as new, open(new.fd, "wb", closefd=False) as file:
        file.write(text)
        file.flush()
        with Writer(place / "model.safetensors", tensors, lambda crc32: {"format": "pt"}) as writer:
            for name, part in parts.items():
                writer.append(name, part.make())


def _config(place: Path, config: Mapping[str, Any] | None) -> dict[str, Any]:
    if config is not None:
        return dict(config)
    file = place / "config.json"
    return read_json(file) if file.is_file() else {}


def _quantization(schemes: Mapping[_Scheme, list[str]]) -> dict[str, Any]:
    formats = {scheme.format for scheme in schemes}
    groups = {f"group_{i}": scheme.described(names) for i, (scheme, names) in enumerate(schemes.items())}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [],
    }


def _parts(name: str, value: Any, schemes: dict[_Scheme, list[str]]) -> LazyTensors:
    """The tensors of an object, under their names; a layer is added to those of its scheme."""
    if isinstance(value, np.ndarray):
        options, own = packed(value)
        if options is not None:
            raise TypeError("it holds text, which such a checkpoint has no place for")
        return {name: own[""]}
    if isinstance(value, QuantMatrix):
        name, value = name.removesuffix(".weight"), value._layer
    if type(value) not in (QuantLinear, StaticQuantLinear):
        raise TypeError(
            f"{type(value).__name__} has no form in compressed-tensors that octavo writes; layers of QuantLinear and "
            "StaticQuantLinear have"
        )
    if not name:
        raise ValueError("the layer needs a name; pass {name: layer}")
    scheme, parts = _layer(value)
    schemes.setdefault(scheme, []).append(name)
    if value.bias is not None:
        parts["bias"] = lazy(np.array(value.bias))
    return {f"{name}.{suffix}": part for suffix, part in parts.items()}


def _layer(layer: QuantLinear) -> tuple[_Scheme, LazyTensors]:
    if layer.epilogue is not None:
        function = "ReLU" if layer.relu else layer.epilogue
        raise ValueError(f"it applies {function}, which such a checkpoint has no place for")
    if layer.rotation is not None:
        raise ValueError("it has a rotation, which such a checkpoint has no place for")
    if layer.pre_quant_scale is not None:
        raise ValueError("it has a pre_quant_scale, which such a checkpoint has no place for; fold it (find_smoothing)")
    if layer.activation == "int16":
        raise ValueError('activation="int16" has no place in such a checkpoint')
    weights = layer._weights
    if isinstance(weights, (GroupedWeights, Int4Weights)):
        codes = as_codes(weights.grouped()) if isinstance(weights, Int4Weights) else weights.codes()
        return _grouped(codes)
    parts = {
        "weight": LazyTensor(Tensor("I8", (layer.out_features, layer.in_features)), layer.int_repr),
        "weight_scale": lazy(np.array(layer.scale)[:, None]),
    }
    if not isinstance(layer, StaticQuantLinear):
        return _Scheme("int-quantized", 8, None, True, layer.activation), parts
    given = layer.input_qparams
    if layer.output_qparams is not None:
        raise ValueError("it gives integers, which such a checkpoint has no place for")
    if given.qmax - given.qmin != 255:
        raise ValueError(f"its activations must use all 8 bits, got {given.qmin}..{given.qmax}")
    point = int(given.zero_point) - (0 if given.qtype == qint8 else 128)
    parts["input_scale"] = lazy(np.array([given.scale], np.float32))
    if point:
        parts["input_zero_point"] = lazy(np.array([point], np.int8))
    return _Scheme("int-quantized", 8, None, True, "asymmetric" if point else "symmetric", static=True), parts


def _grouped(w: GroupedCodes) -> tuple[_Scheme, LazyTensors]:
    if w.minimum is not None or w.group_scale is not None:
        raise ValueError("minima and two levels of scales have no place in such a checkpoint; it has zero points")
    if w.bits in (5, 6):
        w = dataclasses.replace(w, bits=8)  # the same codes: such checkpoints have 4 and 8 bits
    (n, k), middle = w.shape, 1 << (w.bits - 1)
    raised = middle if w.codes.dtype == np.int8 else 0  # to codes from 0 on
    zero = np.full((n, w.groups), raised, np.int16)
    if w.zero_point is not None:
        zero += w.zero_point
    zero = np.where(w.scale < 0, 2 * middle - 1 - zero, np.where(w.scale == 0, middle, zero)).astype(np.int16)
    if zero.min(initial=0) < 0 or zero.max(initial=0) >= 2 * middle:
        raise ValueError(f"a zero point of 16 has no place in {w.bits} bits")
    symmetric = bool((zero == middle).all())
    parts = {
        "weight_packed": LazyTensor(
            Tensor("I32", (n, words(k, w.bits))), lambda: _stream(_mirrored(w, raised), w.bits)
        ),
        "weight_shape": lazy(np.array([n, k], np.int64)),
        "weight_scale": lazy(np.where(w.scale == 0, w.scale.dtype.type(1), np.abs(w.scale))),
    }
    if not symmetric:
        packed_zero = _stream(np.ascontiguousarray(zero.T.astype(np.uint8)), w.bits)
        parts["weight_zero_point"] = lazy(np.ascontiguousarray(packed_zero.T))
    return _Scheme("pack-quantized", w.bits, w.group_size, symmetric, None), parts


def _mirrored(w: GroupedCodes, raised: int) -> NDArray[np.uint8]:
    """Codes from 0 on for positive scales: top - c where the scale is negative, the middle where it is 0."""
    n, k = w.shape
    top = np.uint8((1 << w.bits) - 1)
    codes = (w.codes.view(np.uint8) + np.uint8(raised)).reshape(n, w.groups, -1)
    scale = w.scale[:, :, None]
    return np.where(scale < 0, top - codes, np.where(scale == 0, top // 2 + 1, codes)).astype(np.uint8).reshape(n, k)


def _stream(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """(rows, count) codes of 4 or 8 bits in words, low bits first."""
    mask = np.uint8((1 << bits) - 1)
    raw = pack_int4(codes & mask) if bits == 4 else codes
    whole = np.zeros((len(raw), 4 * words(codes.shape[1], bits)), np.uint8)
    whole[:, : raw.shape[1]] = raw
    found: NDArray[np.int32] = whole.view("<i4")
    return found
