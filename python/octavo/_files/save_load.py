"""Saving quantized models and loading them: safetensors files with a header of our own. See docs/file_format.md."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any, Literal, TypeVar, overload

from octavo._files.codecs import is_stored, packed, shared_parts, unpacked
from octavo._files.fields import Fields, LazyTensor, LazyTensors, tensor_name
from octavo._files.fits import Dtypes, Fitter, as_matrices
from octavo._files.fitting import fitted
from octavo._files.mapped_layers import source_of
from octavo._files.octavo_header import header_metadata, read_header
from octavo._files.origins import Source
from octavo._files.packed_layout import Layout, family_of, image_names, note_copies
from octavo._files.renaming import every_alias, renamed
from octavo._files.safetensors import Reader, Tensor, Writer
from octavo._files.shards import open_files
from octavo._layers.matrix import QuantMatrix
from octavo._models.estimators import drop_training_state, needed_for_training
from octavo._models.fill import fill, held_by_name, holds, survey
from octavo._models.walk import label, places
from octavo._util.caller import warn_caller

__all__ = ["header_metadata", "load", "naming_file", "placed", "read_header", "save", "stored_items", "write_items"]

_Model = TypeVar("_Model")


def save(model: Any, path: str | os.PathLike[str], *, layout: Layout = "canonical") -> None:
    """Stores what a quantized model holds: its integer layers, its quantization steps, and every array.

    The file is safetensors, with canonical integers (4-bit ones two a byte), so that it can be read by any tool, on any
    CPU, in years. It holds no code and no pickle: of the model's own classes it knows nothing but where things are.
    Files are written beside `path` and then renamed: if anything fails, the file that was there stays.

    Args:
        model: any tree of objects, as for `quantize_dynamic`; or a layer, or a dict of arrays.
        path: of the file.
        layout: "canonical": integers row by row, for any CPU and any tool. "packed": weights as the kernels of this
            machine take them, for `load` with mmap, which then copies nothing; "x86" and "arm" name the architecture
            for which to pack. Every machine loads all of them.

    Raises:
        TypeError: `path` is not a path; or an array that files cannot hold (dates, complex128, masked arrays), whose
            place is named.
        ValueError: there is nothing to store, `layout` is unknown, or two things have one name: see Notes.
        OSError: the file cannot be written.

    Notes:
        Names are the way from the model to the thing, joined by dots: "blocks.3.fc1" for model.blocks[3].fc1, and for
        model["blocks"][3].fc1 too. What is held in several places is stored once. Single numbers (np.float32(3)) and
        settings are not stored: they are the model's own to set.

    Example:
        >>> import tempfile, numpy as np, octavo as oc
        >>> layer = oc.QuantLinear(np.eye(3, dtype=np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     oc.save({"fc": layer, "table": np.arange(3)}, folder + "/model.safetensors")
        ...     oc.load(folder + "/model.safetensors")
        {'fc': QuantLinear(3 -> 3, int8, activation=symmetric), 'table': array([0, 1, 2])}
    """
    _check_path(path, "save(model, path)")
    family = family_of(layout)
    found, aliases = survey(model, is_stored)
    if not found:
        raise ValueError("the model holds no quantized layer and no array, so there is nothing to store")
    found, aliases = _without_twins(found, aliases)
    write_items(path, found, aliases, family, {})


def write_items(
    path: str | os.PathLike[str],
    items: Mapping[str, Any],
    aliases: Mapping[str, str],
    family: str | None,
    metadata: Mapping[str, str],
) -> int:
    """Writes things by name, weights packed for a family or as canonical integers; a `LazyTensor` as it is.

    Returns how many matrices lie packed.
    """
    layers: dict[str, Any] = {}
    parts: LazyTensors = {}
    for name, value in items.items():
        try:
            options, own = (None, {"": value}) if isinstance(value, LazyTensor) else packed(value, family)
        except TypeError as error:
            raise TypeError(f"{label(name)}: {error}") from None
        if options is not None:
            layers[name] = options
        for suffix, part in own.items():
            full = tensor_name(name, suffix) if suffix else name
            if full in parts:
                raise ValueError(f"{label(name)}: its tensor {full!r} has the name of another; rename one of them")
            parts[full] = part
    tensors = {name: part.tensor for name, part in parts.items()}
    images = image_names(layers)
    with Writer(path, tensors, lambda crc32: {**metadata, **header_metadata(layers, aliases, crc32)}, images) as writer:
        for name, part in parts.items():
            writer.append(name, part.make())
    return len(images)


def _check_path(path: Any, order: str) -> None:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be the path of a file, got a {type(path).__name__}; the order is octavo.{order}")


def _without_twins(found: Mapping[str, Any], aliases: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Both, with an alias in place of each layer that shares its integers with an earlier one."""
    first: dict[Any, str] = {}
    keys = {name: shared_parts(value) for name, value in found.items()}
    twins = {name: first.setdefault(key, name) for name, key in keys.items() if key is not None}
    twins = {name: other for name, other in twins.items() if name != other}
    rest = {name: value for name, value in found.items() if name not in twins}
    names = sorted(rest)
    return rest, {
        **{alias: name for alias, name in aliases.items() if holds(names, name)},
        **{alias: twins[name] for alias, name in every_alias(twins, aliases).items()},
        **twins,
    }


Mmap = bool | Literal["strict"]


@overload
def load(
    path: str | os.PathLike[str],
    *,
    rename: Mapping[str, str] = ...,
    prefix: str = ...,
    mmap: Mmap = ...,
    verify: bool = ...,
) -> dict[str, Any]: ...
@overload
def load(
    path: str | os.PathLike[str],
    model: _Model,
    *,
    strict: bool = ...,
    prefix: str = ...,
    rename: Mapping[str, str] = ...,
    dtypes: Dtypes = ...,
    check: bool = ...,
    mmap: Mmap = ...,
    verify: bool = ...,
) -> _Model: ...


def load(
    path: str | os.PathLike[str],
    model: Any = None,
    *,
    strict: bool = True,
    prefix: str = "",
    rename: Mapping[str, str] = MappingProxyType({}),
    dtypes: Dtypes = "model",
    check: bool = True,
    mmap: Mmap = False,
    verify: bool = True,
) -> Any:
    """What `save` stored, bit for bit: by name, or in the place of what a model has.

    Args:
        path: of the file: from `save`, or from `octavo quantize`; of several files, their index or folder.
        model: the model to fill, **in place**: built as it was before it was quantized, or after. Its float layers, at
            the names of stored layers, give way to these; arrays are set. Weights may be None there. Where the model is
            a dict of arrays, {"fc.weight": W, "fc.bias": b}, a `QuantMatrix` takes the place of W. What a scikit-learn
            estimator keeps for training alone is dropped, and its `fit` refused, where its matrices become integers.
        strict: anything that only the file or only the model has is an error, even the bias of a single layer; with
            False, a UserWarning lists it.
        prefix: what the names of the model begin with, and those of the file do not: "model." for model.fc.
        rename: from names of the file to names of the model, where * stands for anything and is kept:
            {"old.*": "new.*"}, {"transformer.*": "*"}. The first that matches counts, before the prefix.
        dtypes: "model": values are converted to the dtype of the array whose place they take, floats with rounding, all
            else only where it is exact; "file": arrays have the dtype that was stored.
        check: make sure that a layer takes the place of one that computes the same. octavo's own are told apart by
            their classes, yours by calling them with random rows. False leaves that to you.
        mmap: True: layers of a packed file (`save` with layout="packed") and arrays are the file's own pages,
            read-only: nothing is copied, and all processes of a machine share one copy. What cannot be used in place -
            canonical integers, weights packed for another family, a file that another tool rewrote, arrays of another
            dtype than the model's - is packed, copied or converted, and a UserWarning says why. "strict": that is an
            error instead. Parameters of quantization, the order and the scales of a layer's inputs and text that is
            held as Python strings are small, and always made anew.
        verify: compare each tensor with its checksum, which reads all of the file: 0.2 s for 200 MB. This is the
            default, because a damaged file would otherwise give wrong numbers and no error. Where one process has
            verified a file, others on the machine need not. The header is always checked.

    Returns:
        Without `model` a dict from name to layer or array; names of one thing give one object. With it the model, which
        has been changed: itself, unless it is a layer or a tuple.

    Raises:
        OSError: the file cannot be read.
        TypeError: `path` is not a path, `prefix` or `rename` not text, or `mmap` or `verify` of another kind.
        ValueError: it is damaged (every tensor has a checksum), of another version, or not octavo's; names are missing
            or extra; shapes, kinds of layers or dtypes do not fit; with mmap="strict" something cannot be used in
            place. All that does not match is listed, and the model is as it was.

    Notes:
        The file is read through a memory map, one layer after the other, and is closed on return; with mmap it stays
        mapped while a layer or array of it lives. Replacing or deleting the file then changes nothing for those that
        have it. Writing into it, or cutting it short, does: the process reads what is written, or is killed (SIGBUS).
        docs/scale.md has the rest. NumPy has no
        bfloat16: such tensors become float32, exactly, unless the model has a bfloat16 array (of ml_dtypes) there.

    Example:
        >>> import tempfile, numpy as np, octavo as oc
        >>> trained = oc.nn.Sequential(oc.nn.Linear(np.eye(3, dtype=np.float32)), oc.nn.ReLU())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     oc.save(oc.quantize_dynamic(trained, {oc.nn.Linear}), folder + "/model.safetensors")
        ...     oc.load(folder + "/model.safetensors", trained)
        Sequential(QuantLinear(3 -> 3, int8, activation=symmetric), ReLU())
    """
    _check_path(path, "load(path, model)")
    if type(verify) is not bool or not (type(mmap) is bool or mmap == "strict"):
        raise TypeError(f'verify must be True or False, mmap one of them or "strict", got {verify!r} and {mmap!r}')
    items, aliases, foreign = _read(path, strict=strict, mmap=mmap, verify=verify)
    options: dict[str, Any] = {"strict": strict, "prefix": prefix, "rename": rename, "dtypes": dtypes, "check": check}
    return placed(path, items, aliases, foreign, model, mmap=mmap, **options)


def placed(
    path: str | os.PathLike[str],
    items: Mapping[str, Any],
    aliases: Mapping[str, str],
    foreign: Mapping[str, Any],
    model: Any,
    *,
    strict: bool,
    prefix: str,
    rename: Mapping[str, str],
    dtypes: Dtypes,
    check: bool,
    mmap: Mmap = False,
) -> Any:
    """What `load` returns for things by name, wherever they were read: options, errors and warnings are those of it.

    Example:
        >>> from octavo._files.save_load import placed
        >>> options = {"strict": True, "prefix": "model.", "rename": {}, "dtypes": "model", "check": True}
        >>> placed("a file", {"fc": 1}, {"head": "fc"}, {}, None, **options)
        {'model.fc': 1, 'model.head': 1}
    """
    if prefix or rename:
        items, aliases = renamed(items, aliases, rename, prefix)
    if model is None:
        return dict(items) | {alias: items[name] for alias, name in every_alias(items, aliases).items()}
    copied: dict[str, str] = {}
    items = as_matrices(fitted(items, model), held_by_name(model, is_stored), copied)
    if mmap == "strict" and copied:
        raise ValueError(f"cannot load {os.fspath(path)}: {_copies_refused(copied)}")
    # What estimators need for training alone is not in the file, and not missed: quantized matrices are not trained.
    matrices = {name for name, item in items.items() if isinstance(item, QuantMatrix)}
    replaced = {id(place.value) for place in places(model) if place.name in matrices} if matrices else set()
    unneeded = needed_for_training(model, replaced)
    filled, result = fill(
        model,
        items,
        aliases,
        lambda value: is_stored(value) and id(value) not in unneeded,
        strict=strict,
        fit=Fitter(dtypes, check=check, convert=mmap != "strict"),
    )
    complaints = [
        f"{what}: {', '.join(names)}"
        for what, names in (
            ("they do not fit", result.misfits),
            ("names missing from the file", result.missing),
            ("names in the file that the model has no place for", result.extra),
            ("tensors in the file of types that NumPy lacks", list(foreign)),
        )
        if names
    ]
    if complaints and (strict or result.misfits):
        raise ValueError(f"{os.fspath(path)} does not match the model, which was not changed; {'; '.join(complaints)}")
    if complaints:
        warn_caller(f"{os.fspath(path)}: {'; '.join(complaints)}")
    if mmap and (copied := copied | result.converted):
        warn_caller(_copies_made(os.fspath(path), copied))
    if matrices:
        drop_training_state(filled, {id(items[name]) for name in matrices})
    return filled


def _read(
    path: str | os.PathLike[str], *, strict: bool, mmap: Mmap, verify: bool
) -> tuple[dict[str, Any], dict[str, str], dict[str, Tensor]]:
    """(things by name, first name by alias, tensors of types that NumPy lacks) of the files of a checkpoint."""
    items: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    foreign: dict[str, Tensor] = {}
    with open_files(path) as readers:
        for reader in readers:
            with naming_file("load", reader):
                layers, own_aliases, crc32 = read_header(reader)
                source = source_of(reader) if mmap else None
                own = {name: item for name, item, _ in stored_items(reader, layers, crc32, source, verify=verify)}
                if source is not None and source.copied:
                    if mmap == "strict":
                        raise ValueError(_copies_refused(source.copied))
                    warn_caller(_copies_made(source.path, source.copied))
                foreign |= {name: own.pop(name) for name, item in list(own.items()) if isinstance(item, Tensor)}
                if foreign and strict:
                    name, tensor = next(iter(foreign.items()))
                    raise ValueError(f"tensor {name!r} is {tensor.dtype}, a type that NumPy lacks")
                _check_aliases(own_aliases, own)
            items |= own
            aliases |= own_aliases
    return items, aliases, foreign


@contextlib.contextmanager
def naming_file(action: str, reader: Reader) -> Iterator[None]:
    """Within it a ValueError names the file, and what could not be done with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"cannot {action} {reader.path}: {error}") from error


def _told_copies(copied: Mapping[str, str]) -> str:
    """What of a mapped file does not lie in its pages."""
    first = next(iter(copied))
    return f"{len(copied)} of its layers and arrays cannot be used in place, {label(first)} first: {copied[first]}"


def _copies_refused(copied: Mapping[str, str]) -> str:
    return f'{_told_copies(copied)}. mmap=True copies them instead of mmap="strict"'


def _copies_made(path: str, copied: Mapping[str, str]) -> str:
    return f"{path}: {_told_copies(copied)}. They were copied into memory of this process"


def stored_items(
    reader: Reader,
    layers: Mapping[str, dict[str, Any]],
    crc32: Mapping[str, str],
    source: Source | None = None,
    *,
    verify: bool = True,
) -> Iterator[tuple[str, Any, set[str]]]:
    """(name, object, its tensors): every layer, then every other tensor, checked one after the other.

    The object of a tensor whose type NumPy lacks (float8) is what the header says of it. With `source` things lie in
    the pages of the file, where they can; it learns of those that do not.
    """
    taken: set[str] = set()
    for name, options in layers.items():
        fields = Fields(name, deepcopy(options), reader, source=source, verify=verify)
        try:
            layer = unpacked(fields)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        if verify:
            for tensor in fields.taken:
                _verify(reader, tensor, crc32)
        if source is not None:
            note_copies(source, name, layer)
        if fields.taken & taken:
            raise ValueError(f"layer {name!r}: tensor {min(fields.taken & taken)!r} belongs to another layer too")
        taken |= fields.taken
        yield name, layer, fields.taken
    for name in sorted(reader.tensors.keys() - taken):
        if name in layers:
            raise ValueError(f"{name!r} is the name of a layer and of a tensor")
        header = reader.tensors[name]
        item: Any = header
        if header.is_readable and source is None:
            item = reader.array(name)
        elif header.is_readable and source is not None:
            item, copied = reader.array_in_place(name)
            if copied:
                source.copied[name] = copied
        if verify:
            _verify(reader, name, crc32)
        yield name, item, {name}


def _check_aliases(aliases: Mapping[str, str], items: Mapping[str, Any]) -> None:
    names = sorted(items)
    for alias, first in aliases.items():
        if alias in items or not holds(names, first):
            why = "is a stored name itself" if alias in items else "leads nowhere"
            raise ValueError(f"alias {alias!r} of {first!r} {why}")


def _verify(reader: Reader, name: str, crc32: Mapping[str, str]) -> None:
    if f"{reader.crc32(name):08x}" != crc32[name]:
        raise ValueError(f"tensor {name!r} does not match its checksum: the file was altered")
    reader.release(name)
