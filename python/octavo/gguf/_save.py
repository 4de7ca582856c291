"""GGUF files of octavo's matrices and of arrays, written by the `gguf` package."""

from __future__ import annotations

import fnmatch
import math
import os
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._files.codecs import is_stored
from octavo._files.renaming import every_alias
from octavo._layers.embedding import QuantEmbedding
from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.weights import GroupedWeights
from octavo._models.fill import survey
from octavo._numerics.grouped import GroupedCodes
from octavo._numerics.params import qint4
from octavo._util.atomic import checked_destination, written_beside
from octavo._util.errors import raise_named
from octavo._util.extras import import_extra
from octavo._util.foreign import refuse_masked
from octavo.gguf._blocks import ENCODERS
from octavo.gguf._header import alignment_of, read_header
from octavo.gguf._types import BY_NAME

__all__ = ["save"]

_ARRAY_TYPES = ("F32", "F16", *ENCODERS)


def save(
    model: Any,
    path: str | os.PathLike[str],
    *,
    types: str | Mapping[str, str] = "F16",
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes what a model holds as a GGUF file: matrices in groups as they are, arrays in the types that are asked for.

    Needs the extra "gguf": the package of that name writes the file and quantizes float arrays, as llama.cpp does.

    Args:
        model: a dict of arrays, `QuantMatrix`, `QuantLinear` and `QuantEmbedding`, nested as deep as you like, or any
            tree of objects with them. Names of tensors are the way there, joined by dots; a layer's are "NAME.weight"
            and "NAME.bias". What the model holds in several places is written under each of its names.
        path: of the file. It is written beside `path` and renamed when all of it is on the disk.
        types: what float arrays of two and more dimensions become: "F32", "F16", "Q8_0" or "Q4_0"; or a dict from
            patterns of names to these, of which the first that matches counts, F16 where none does. Each must match an
            object or a tensor that it is written as. Arrays of one dimension, such as norms, are F32, as llama.cpp
            wants them. Quantized matrices keep their integers.
        metadata: keys and values. "general.architecture" is "octavo" where it is not given.

    Raises:
        ImportError: the package is not installed; the message has the command that installs it.
        TypeError: an array, a layer of another class or a metadata value has no type in GGUF.
        OSError: the file cannot be written. What was there before is as it was.
        ValueError: a type is unknown, or a pattern matches nothing; a type's blocks do not divide the rows; quantized
            weights are neither of Q8_0's nor of Q4_0's form (int8 or int4, groups of 32, float16 scales, nothing else),
            or those of an embedding not of Q4_0's.

    Example:
        >>> import tempfile, numpy as np, octavo as oc
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     oc.gguf.save({"norm": np.ones(3, np.float32)}, folder + "/x.gguf", metadata={"general.name": "example"})
        ...     oc.gguf.load(folder + "/x.gguf").metadata["general.name"]
        'example'
    """
    package = import_extra("gguf", purpose="octavo.gguf.save", extra="gguf")
    patterns = {"*": types} if isinstance(types, str) else dict(types)
    for pattern, name in patterns.items():
        if name not in _ARRAY_TYPES:
            where = "" if isinstance(types, str) else f"[{pattern!r}]"
            raise ValueError(f"types{where} must be one of {_ARRAY_TYPES}, got {name!r}")
    found, aliases = survey(model, is_stored)
    if not found:
        raise ValueError("the model holds no matrix and no array, so there is nothing to write")
    found = dict(found) | {alias: found[name] for alias, name in every_alias(found, aliases).items()}
    _check_patterns(types, found)
    destination = checked_destination(path)
    keys = {"general.architecture": "octavo", **(metadata or {})}
    writer = package.GGUFWriter(None, str(keys.pop("general.architecture")))
    writer.data_alignment = alignment_of(keys)
    for key, value in keys.items():
        _put_metadata(package.GGUFValueType, writer, key, value)
    for name, value in found.items():
        try:
            for full, raw, kind in _tensors(package, name, value, patterns):
                writer.add_tensor(full, raw, raw_dtype=package.GGMLQuantizationType[kind])
        except (TypeError, ValueError) as error:
            raise_named(error, name or "the model", hide=True)
    with written_beside(destination) as new:
        try:
            writer.write_header_to_file(path=new.path)
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        with open(new.path, "rb") as file:
            read_header(file)  # so that nothing is written that `load` refuses, such as five dimensions


def _check_patterns(types: str | Mapping[str, str], found: Mapping[str, Any]) -> None:
    """Raises ValueError where `types` has patterns that match no object and no tensor: usually misspelt ones."""
    known = [full for name, value in found.items() for full in _names(name, value)]
    patterns = [] if isinstance(types, str) else [p for p in types if not fnmatch.filter([*known, *found], p)]
    if patterns:
        raise ValueError(
            f"types: {', '.join(map(repr, patterns))} matches nothing of the model; it has {', '.join(known[:20])}"
        )


def _names(name: str, value: Any) -> list[str]:
    """Those of the tensors that an object is written as."""
    if not isinstance(value, (QuantEmbedding, QuantLinear)):
        return [name]
    parts = ["weight"] if getattr(value, "bias", None) is None else ["weight", "bias"]
    return [f"{name}.{part}" if name else part for part in parts]


def _tensors(package: Any, name: str, value: Any, patterns: Mapping[str, str]) -> list[tuple[str, NDArray[Any], str]]:
    """(name, array or rows of blocks, type) of everything that one object is written as."""
    names = _names(name, value)
    if isinstance(value, QuantEmbedding):
        return [(names[0], *_table(value))]
    if isinstance(value, QuantMatrix):
        if value.axis != 0:
            raise ValueError("GGUF holds rows of outputs; write the transpose of a matrix with axis=1")
        return [(name, *_blocks(value._layer))]
    if isinstance(value, QuantLinear):
        parts = [(names[0], *_blocks(value))]
        return parts if value.bias is None else [*parts, (names[1], np.array(value.bias), "F32")]
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"it is a {type(value).__name__}, which GGUF has no place for; pass its float arrays, or a dict without it"
        )
    refuse_masked(value, "it")
    if value.dtype.kind != "f" or value.ndim == 0:
        kinds = {f"int{8 * size}": f"I{8 * size}" for size in (1, 2, 4, 8)}
        if value.dtype.name not in kinds or value.ndim == 0:
            raise TypeError(f"GGUF has no type for an array of {value.dtype} and shape {value.shape}")
        return [(name, np.ascontiguousarray(value, value.dtype.newbyteorder("=")), kinds[value.dtype.name])]
    kind = "F32" if value.ndim == 1 else next((t for p, t in patterns.items() if fnmatch.fnmatch(name, p)), "F16")
    single = np.ascontiguousarray(value, np.float32)
    if not np.isfinite(single).all():
        raise ValueError("it holds NaN or infinity (in float32)")
    if kind == "F32":
        return [(name, single, kind)]
    if kind == "F16":
        with np.errstate(over="ignore", under="ignore"):
            half = single.astype(np.float16)
        if not np.isfinite(half).all():
            raise ValueError("a value is beyond float16; choose F32 for it")
        return [(name, half, kind)]
    if single.shape[-1] % BY_NAME[kind].block != 0:
        raise ValueError(f"its rows have {single.shape[-1]} elements; {kind} needs a multiple of {BY_NAME[kind].block}")
    with np.errstate(all="ignore"):
        blocks = package.quants.quantize(single, package.GGMLQuantizationType[kind])
    if not np.isfinite(blocks.reshape(-1, BY_NAME[kind].nbytes)[:, :2].copy().view(np.float16)).all():
        raise ValueError(f"a scale is beyond float16; choose F32 for it instead of {kind}")
    return [(name, blocks, kind)]


def _blocks(layer: QuantLinear) -> tuple[NDArray[Any], str]:
    """Rows of blocks, and their type."""
    if layer.epilogue is not None:
        raise ValueError(f"it applies {layer.epilogue}, which GGUF has no place for")
    what = [f"is a {type(layer).__name__}"] if type(layer) is not QuantLinear else []
    what += [f"has a {name}" for name in ("rotation", "pre_quant_scale") if getattr(layer, name) is not None]
    if what:
        raise ValueError(f"it {what[0]}, which GGUF has no place for; pass .weight to quantize it anew")
    weights = layer._weights
    w = weights.codes() if isinstance(weights, GroupedWeights) else None
    plain = w is not None and w.group_size == 32 and w.codes.dtype == np.int8 and w.scale.dtype == np.float16
    if w is None or not plain or any(a is not None for a in (w.zero_point, w.minimum, w.group_scale)):
        raise ValueError(
            "its weights must be of Q8_0's or Q4_0's form to be written as they are (int8 or int4, groups of 32, "
            f"float16 scales), got {layer!r}; pass .dequantize() or .weight to have them quantized anew"
        )
    kind = "Q4_0" if w.bits == 4 else "Q8_0"
    blocks = ENCODERS[kind](w)
    return blocks.reshape(len(blocks), -1), kind


def _table(table: QuantEmbedding) -> tuple[NDArray[Any], str]:
    """Rows of blocks of an embedding, and their type."""
    state = table._state()
    scale, dim = state["scale"], table.embedding_dim
    groups_of_32 = dim % 32 == 0 and scale.shape[1] == dim // 32
    if table.dtype != qint4 or not groups_of_32 or scale.dtype != np.float16 or state["zero_point"] is not None:
        raise ValueError(
            "its rows must be of Q4_0's form to be written as they are (int4, symmetric, groups of 32, float16 "
            f"scales), got {table!r}; pass .weight to have them quantized anew"
        )
    blocks = ENCODERS["Q4_0"](GroupedCodes(table.int_repr(), scale, 4, 32))
    return blocks.reshape(len(blocks), -1), "Q4_0"


def _put_metadata(types: Any, writer: Any, key: str, value: Any) -> None:
    is_list = isinstance(value, (list, tuple))
    values = [v.item() if isinstance(v, np.generic) else v for v in (value if is_list else [value])]
    if not values or isinstance(values[0], list):  # an empty list has no type of elements, and nothing to say
        writer.add_array(key, values)
        return
    integers = ("INT32", "UINT32", "INT64", "UINT64") if is_list else ("UINT32", "INT32", "UINT64", "INT64")
    for name in ("BOOL", "STRING", "FLOAT32", *integers):
        if all(_fits(v, name) for v in values):
            args = (values, types.ARRAY) if is_list else (values[0],)
            writer.add_key_value(key, *args, types[name])
            return
    raise TypeError(
        f"metadata {key!r} must be a number, text, or a list of one kind of them, whole numbers within 64 bits and "
        f"others within float32, got {reprlib.repr(value)}"
    )


def _fits(value: Any, name: str) -> bool:
    """Whether GGUF's type of this name holds the value."""
    if "INT" in name:
        bounds = np.iinfo(name.lower())
        return type(value) is int and bounds.min <= value <= bounds.max
    if name == "FLOAT32":
        return type(value) is float and not 2.0**128 <= abs(value) < math.inf
    return type(value) is (bool if name == "BOOL" else str)
