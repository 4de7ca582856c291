"""Laying an octavo file out anew: its layers packed for a family of architectures, or as canonical integers."""

from __future__ import annotations

import functools
import os
from typing import Any

from octavo._files.fields import LazyTensor
from octavo._files.header import Tensor
from octavo._files.mapped_layers import source_of
from octavo._files.octavo_header import read_header
from octavo._files.packed_layout import Layout, family_of
from octavo._files.safetensors import Reader
from octavo._files.save_load import naming_file, stored_items, write_items
from octavo._files.shards import open_files

__all__ = ["repack"]


def repack(source: str | os.PathLike[str], destination: str | os.PathLike[str], layout: Layout = "packed") -> int:
    """Writes what an octavo file holds in another layout, bit for bit; several files become one.

    Args:
        source: from `octavo.save` or `octavo quantize`: a file, an index of several, or their folder.
        destination: another file, or `source` itself, which is replaced when all is written.
        layout: as for `save`.

    Returns:
        How many matrices lie packed now.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: `source` is damaged or not octavo's.

    Example:
        >>> import tempfile, numpy as np, octavo as oc
        >>> from octavo._files.repacking import repack
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     oc.save({"fc": oc.QuantLinear(np.eye(64))}, folder + "/model.safetensors")
        ...     repack(folder + "/model.safetensors", folder + "/packed.safetensors")
        1
    """
    family = family_of(layout)
    items: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    metadata: dict[str, str] = {}
    with open_files(source) as readers:
        for reader in readers:
            with naming_file("pack", reader):
                layers, own_aliases, crc32 = read_header(reader)
                for name, item, _ in stored_items(reader, layers, crc32, source_of(reader)):
                    items[name] = item if name in layers else _as_stored(reader, name)
            aliases |= own_aliases
            metadata |= {key: text for key, text in reader.metadata.items() if not key.startswith("octavo")}
        return write_items(destination, items, aliases, family, metadata)


def _as_stored(reader: Reader, name: str) -> LazyTensor:
    """A tensor that belongs to no layer, byte for byte."""
    header, data = reader.tensors[name], reader.data
    return LazyTensor(Tensor(header.dtype, header.shape), functools.partial(data, name))
