"""The header that makes a safetensors file an octavo file, written and read. See docs/file_format.md."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from octavo._files.codecs import FEATURES, features_of
from octavo._files.header import parse_json
from octavo._files.safetensors import Reader

__all__ = ["header_metadata", "read_header"]

_VERSIONS = (1, 2)
_KEY, _CRC_KEY = "octavo", "octavo.crc32"


def header_metadata(layers: Mapping[str, Any], aliases: Mapping[str, str], crc32: Mapping[str, int]) -> dict[str, str]:
    """What makes a safetensors file an octavo file. Its length does not depend on the checksums.

    A file that holds nothing beyond version 1 is of version 1, so that an older octavo loads it.

    Example:
        >>> from octavo._files.octavo_header import header_metadata
        >>> header_metadata({}, {}, {"a": 255})["octavo"]
        '{"version":1,"layers":{},"aliases":{},"crc32":{"a":"000000ff"}}'
    """
    digests = {name: f"{value:08x}" for name, value in crc32.items()}
    features = features_of(layers)
    header: dict[str, Any] = {"version": 2, "features": features} if features else {"version": 1}
    header |= {"layers": layers, "aliases": aliases, "crc32": digests}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    return {_KEY: text, _CRC_KEY: f"{zlib.crc32(text.encode()):08x}"}


def read_header(reader: Reader) -> tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, str]]:
    """(options by layer, first name by alias, checksum by tensor) of an octavo file, checked to be of that form.

    Raises:
        ValueError: it is not an octavo file, of another version, or damaged.
    """
    text = reader.metadata.get(_KEY)
    if text is None:
        config = reader.path.with_name("config.json")
        if config.is_file() and b'"quantization_config"' in config.read_bytes():
            raise ValueError("it is another tool's; octavo.checkpoints.load reads it")
        raise ValueError(
            "it was not written by octavo. `octavo quantize` converts a float checkpoint; safetensors.numpy.load_file "
            "reads one as it is"
        )
    header = parse_json(text, "octavo header")
    version = header.get("version")
    if version not in _VERSIONS:
        raise ValueError(
            f"it has format version {version!r}, this octavo reads 1 to {_VERSIONS[-1]}; use a newer octavo"
        )
    if reader.metadata.get(_CRC_KEY) != f"{zlib.crc32(text.encode()):08x}":
        raise ValueError("the octavo header does not match its checksum: the file was altered")
    members = ("version", "layers", "aliases", "crc32", *(["features"] if version == 2 else []))
    if header.keys() != set(members):
        raise ValueError(f"the octavo header must have {', '.join(members)}, got {sorted(header)}")
    unknown = [name for name in _features(header.get("features", [])) if name not in FEATURES]
    if unknown:
        raise ValueError(f"it needs the feature {unknown[0]!r}, which this octavo does not know; use a newer octavo")
    layers, aliases, crc32 = header["layers"], header["aliases"], header["crc32"]
    if not _maps(layers, dict) or not _maps(aliases, str) or not _maps(crc32, str):
        raise ValueError("layers must map names to objects, aliases and crc32 to text")
    if crc32.keys() != reader.tensors.keys():
        name = min(crc32.keys() ^ reader.tensors.keys())
        kind = "is missing" if name in crc32 else "is not in the octavo header"
        raise ValueError(f"tensor {name!r} {kind}")
    return layers, aliases, crc32


def _features(names: Any) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"features must be a list of names, got {names!r}")
    return names


def _maps(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(type(item) is kind for item in value.values())
