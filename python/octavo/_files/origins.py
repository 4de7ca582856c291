"""Where a layer of a mapped file lies, so that its pickle need not hold its integers: path, name and checksum.

Source    a file that is being loaded: what is used in place and what had to be copied
Origin    what a layer of it carries, and gives in its place when it is pickled
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from octavo._files.fields import Fields
from octavo._files.packed_layout import lies_packed
from octavo._files.safetensors import Reader
from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.recurrent import QuantGRU, QuantLSTM
from octavo._util.pickling import pickled
from octavo.runtime import _Setting

__all__ = ["Origin", "Source", "pickle_by_reference"]

_by_reference = True


def pickle_by_reference(on: bool = True) -> AbstractContextManager[None]:
    """Sets how layers of a mapped file (`load` with mmap) are pickled: as the file's path, or with their integers.

    A pickle by reference holds the path, the layer's name and the file's checksum, a hundred bytes. Whoever loads it
    maps the same file. That is the setting to begin with. Switch it off where the file is not at the same path, such as
    for another machine without a shared file system, or where the pickle must outlive the file.

    Args:
        on: False: pickles hold the integers.

    Returns:
        A context manager, which puts the previous choice back.

    Raises:
        TypeError: on is not a bool.

    Notes:
        Loading such a pickle raises FileNotFoundError where the file is not there, PermissionError where it must not be
        read, and ValueError where it is another one by now. Arrays of the file are NumPy's own, and always pickled with
        their values. The setting is the whole process's.

    Example:
        >>> import pickle, tempfile, numpy as np, octavo as oc
        >>> layer = oc.QuantLinear(np.ones((64, 256), np.float32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     oc.save({"fc": layer}, folder + "/model.safetensors", layout="packed")
        ...     fc = oc.load(folder + "/model.safetensors", mmap=True)["fc"]
        ...     sizes = [len(pickle.dumps(fc))]
        ...     with oc.pickle_by_reference(False):
        ...         sizes.append(len(pickle.dumps(fc)))
        >>> sizes[0] < 300, sizes[1] > 16384
        (True, True)
    """
    global _by_reference
    if not isinstance(on, bool):
        raise TypeError(f"on must be True or False, got {on!r}")
    before = _by_reference
    _by_reference = on
    return _Setting(f"pickle_by_reference({on})", before, lambda: _put_back(before))


def _put_back(on: bool) -> None:
    global _by_reference
    _by_reference = on


@dataclass(frozen=True, slots=True)
class Origin:
    """The place of a layer: a file, the checksum of its octavo header, which covers all others, and the layer's name.

    `part` is the product of a recurrent layer, such as "ih_l0"; empty for a layer that stands by itself.
    """

    path: str
    checksum: str
    name: str
    part: str = ""

    def reduced(self) -> tuple[Callable[..., Any], tuple[str, str, str, str]] | None:
        """What a pickle calls; None where `pickle_by_reference` is switched off."""
        return (_layer_from_file, (self.path, self.checksum, self.name, self.part)) if _by_reference else None


@dataclass
class Source:
    """A file that is loaded through its pages. `copied` says of layers that could not be used in place why."""

    path: str
    checksum: str
    copied: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, reader: Reader) -> Source:
        return cls(os.path.abspath(reader.path), reader.metadata["octavo.crc32"])

    def note(self, name: str, layer: Any, options: Mapping[str, Any]) -> None:
        """Learns of a layer whose weights are canonical integers in the file."""
        if isinstance(layer, QuantLinear | QuantMatrix | QuantLSTM | QuantGRU) and not lies_packed(options):
            self.copied[name] = "its weights are canonical integers, which were packed"

    def origin(self, fields: Fields) -> Origin:
        return Origin(self.path, self.checksum, fields.name, fields.prefix.removesuffix("."))


class _Mapped:
    """A file that pickles refer to, open once for all of them."""

    def __init__(self, path: str) -> None:
        from octavo._files.save_load import read_header

        self.reader = Reader(path)
        try:
            self.options = read_header(self.reader)[0]
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self.source = Source.of(self.reader)


_lock = threading.Lock()
_mapped: weakref.WeakValueDictionary[tuple[Any, ...], _Mapped] = weakref.WeakValueDictionary()
_latest: list[_Mapped] = []  # keeps the last one between the layers of one pickle


def _open_mapped(path: str) -> _Mapped:
    state = os.stat(path)
    key = (path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    with _lock:
        found = _mapped.get(key)
        if found is None:
            found = _mapped[key] = _Mapped(path)
            _latest[:] = [found]
        return found


@pickled
def _layer_from_file(path: str, checksum: str, name: str, part: str) -> Any:
    """What a pickle by reference calls. Checksums of tensors are not computed again."""
    from octavo._files.codecs import unpacked

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
    item = unpacked(Fields(name, deepcopy(mapped.options[name]), mapped.reader, source=mapped.source))
    if part:
        return item._layers[part]
    return getattr(item, "_layer", item)
