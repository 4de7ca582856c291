"""Layers of files that pickles refer to: each file is mapped once, for all of its layers."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from copy import copy, deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._files.codecs import unpacked
from octavo._files.fields import Fields
from octavo._files.header import Memory
from octavo._files.octavo_header import read_header
from octavo._files.origins import WEIGHT, Origin, Source
from octavo._files.safetensors import Reader
from octavo._layers.linear import QuantLinear
from octavo._util.pickling import pickled

__all__ = ["source_of", "weight_and_bias"]


def source_of(reader: Reader) -> Source:
    """A file that is to be used in place: its layers will refer to it."""
    return Source(os.path.abspath(reader.path), reader.metadata["octavo.crc32"], _layer_from_file)


def weight_and_bias(layer: QuantLinear) -> tuple[QuantLinear, NDArray[np.float32] | None]:
    """(the layer without its bias, that or None). Of a mapped file both stay its pages, and pickles refer to it.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo._files.mapped_layers import weight_and_bias
        >>> weight_and_bias(oc.QuantLinear(np.eye(2), [3, 4]))
        (QuantLinear(2 -> 2, int8, activation=symmetric), array([3., 4.], dtype=float32))
    """
    if layer.bias is None:
        return layer, None
    alone, bias = layer._without_bias()
    assert bias is not None
    if not isinstance(layer._origin, Origin):
        return alone, bias.copy()
    alone._origin = replace(layer._origin, part=WEIGHT)
    return alone, bias


class _Mapped:
    """A file that pickles refer to, open once for all of them."""

    def __init__(self, path: str) -> None:
        memory = _memories.pop(path, None) or Memory()
        self.reader = Reader(path, memory)
        if memory.options is None:
            try:
                memory.options = read_header(self.reader)[0]
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        self.options = memory.options
        _memories[path] = memory
        if len(_memories) > _REMEMBERED:
            del _memories[next(iter(_memories))]
        self.source = source_of(self.reader)


_REMEMBERED = 4
_memories: dict[str, Memory] = {}  # headers of the files used last; the files themselves may be closed
_lock = threading.Lock()  # of this and `_mapped`
if hasattr(os, "register_at_fork"):  # another thread may hold it when a worker is forked
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_mapped: weakref.WeakValueDictionary[tuple[Any, ...], _Mapped] = weakref.WeakValueDictionary()


def _open_mapped(path: str) -> _Mapped:
    state = os.stat(path)
    key = (path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    with _lock:
        found = _mapped.get(key)
        if found is None:
            found = _mapped[key] = _Mapped(path)
        return found


@pickled
def _layer_from_file(path: str, checksum: str, name: str, part: str) -> Any:
    """What a pickle by reference calls. Checksums of tensors are not computed again."""
    remedy = (
        "copy the file to this path on every machine that loads the pickle, or pickle with "
        "octavo.pickle_by_reference(False), which embeds the integers"
    )
    try:
        mapped = _open_mapped(path)
    except OSError as error:
        kinds = {errno.ENOENT: "does not exist here", errno.EACCES: "must not be read by this process"}
        why = kinds.get(error.errno or 0, f"cannot be opened ({error.strerror})")
        raise type(error)(f"{path} {why}, and the pickle of layer {name!r} refers to it; {remedy}") from None
    if mapped.source.checksum != checksum or name not in mapped.options:
        raise ValueError(
            f"{path} is another file than the one that the pickle of layer {name!r} refers to: its checksum is "
            f"{mapped.source.checksum}, not {checksum}. Pickle the model anew from this file, or put the old one back"
        )
    source = copy(mapped.source)
    source.keeps = mapped  # open for the other layers of the pickle, and closed with the last of them
    item = unpacked(Fields(name, deepcopy(mapped.options[name]), mapped.reader, source=source))
    layer = getattr(item, "_layer", item)
    if part == WEIGHT:
        return weight_and_bias(layer)[0]
    return item._layers[part] if part else layer
