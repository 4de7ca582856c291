"""Where a layer of a mapped file lies, so that its pickle need not hold its integers: path, name and checksum.

Source    a file that is being loaded: what is used in place and what had to be copied
REPACK    what remedies most of that
Origin    what a layer of it carries, and gives in its place when it is pickled
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from octavo.runtime import _Setting

__all__ = ["REPACK", "WEIGHT", "Origin", "Restore", "Source", "pickle_by_reference"]

REPACK = "`octavo pack IN OUT` packs a file for the machine it runs on"
WEIGHT = "weight"  # the part of a linear layer that is a matrix: all but its bias

# (path, checksum, name, part) -> the layer
Restore = Callable[[str, str, str, str], Any]

_by_reference = True


def pickle_by_reference(on: bool = True) -> AbstractContextManager[None]:
    """Sets how layers of a mapped file (`load` with mmap) are pickled: as the file's path, or with their integers.

    A pickle by reference holds the path, the layer's name and the file's checksum, a hundred bytes. Whoever loads it
    maps the same file. This is the default. Switch it off where the file is not at the same path, such as
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

    `part` is the product of a recurrent layer, such as "ih_l0", or `WEIGHT`; empty for a layer as a whole. `restore` is
    what pickles call with all of these. `keeps` stays there as long as the layer does.
    """

    path: str
    checksum: str
    name: str
    part: str
    restore: Restore
    identity: tuple[int, ...]
    keeps: object = field(default=None, repr=False, compare=False)

    def reduced(self) -> tuple[Restore, tuple[str, str, str, str]] | None:
        """What a pickle calls; None where `pickle_by_reference` is off, or another file is at the path by now."""
        if not _by_reference or identity_of(self.path) != self.identity:
            return None
        return self.restore, (self.path, self.checksum, self.name, self.part)


def identity_of(path: str) -> tuple[int, ...]:
    """What tells the file at a path from another one, and from itself after it was written to; () where there is none.

    Example:
        >>> from octavo._files.origins import identity_of
        >>> identity_of("/no/such/file")
        ()
    """
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass
class Source:
    """A file that is loaded through its pages. `copied` says of what could not be used in place why; `keeps` stays
    there as long as a layer of it does.
    """

    path: str
    checksum: str
    restore: Restore
    copied: dict[str, str] = field(default_factory=dict)
    identity: tuple[int, ...] = ()
    keeps: object = None

    def __post_init__(self) -> None:
        self.identity = identity_of(self.path)

    def origin(self, name: str, part: str) -> Origin:
        return Origin(self.path, self.checksum, name, part, self.restore, self.identity, self.keeps)
