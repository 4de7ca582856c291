"""What a folder says of how its weights are quantized: config.json and its relatives, read within bounds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from octavo._files import header
from octavo._files.safetensors import Reader

__all__ = [
    "METHODS",
    "Config",
    "choice",
    "find_config",
    "group_size",
    "integer",
    "is_quantized",
    "read_config",
    "read_json",
]

METHODS = ("compressed-tensors", "gptq", "awq", "bitsandbytes")
_MARKS = (".qweight", ".SCB", ".weight_packed", ".weight_scale")  # names that quantized layers alone have
CONFIG_LIMIT = 16 << 20  # bytes; those of the largest models have some 100 KB

# (file, key of the quantization within it; None: the whole file), in the order in which they are asked
_PLACES: tuple[tuple[str, str | None], ...] = (
    ("config.json", "quantization_config"),
    ("config.json", "compression_config"),
    ("quantize_config.json", None),  # AutoGPTQ
    ("quant_config.json", None),  # AutoAWQ
)


class Config(NamedTuple):
    """The quantization of a checkpoint, as its file has it."""

    path: Path
    method: str
    values: dict[str, Any]


def folder_of(path: str | os.PathLike[str]) -> Path:
    """Where the config of a checkpoint is looked for: beside its file or index."""
    given = Path(path)
    return given if given.is_dir() else given.parent


def find_config(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]] | None:
    """The file and the object that describe the quantization, where there is one.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is too large, or not JSON.
    """
    folder = folder_of(path)
    read: dict[Path, dict[str, Any]] = {}
    for name, key in _PLACES:
        file = folder / name
        if not file.is_file():
            continue
        if file not in read:
            read[file] = read_json(file)
        found = read[file] if key is None else read[file].get(key)
        if found is None:
            continue
        if not isinstance(found, dict):
            raise ValueError(f"{file}: {key} must be an object, got {type(found).__name__}")
        return file, found
    return None


def is_quantized(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a checkpoint whose config says that it is quantized, or an ONNX model.

    The config beside a single file may be of another one: the file must hold a tensor of a quantized layer, too.

    Raises:
        OSError, ValueError: as for `find_config`, where `path` is a folder or an index.
    """
    given = Path(path)
    if given.is_dir() or given.name.endswith(".index.json"):
        return find_config(given) is not None
    if given.suffix != ".safetensors" or not given.is_file():
        return given.suffix == ".onnx" and given.is_file()
    try:
        with Reader(given) as reader:
            own = any(name.endswith(_MARKS) for name in reader.tensors) and "octavo" not in reader.metadata
        return own and find_config(given) is not None
    except ValueError:  # a damaged file, or a config that is none: for others to say
        return False


def read_config(path: str | os.PathLike[str]) -> Config:
    """The quantization of the checkpoint at `path`: a folder, a file in it or its index.

    Raises:
        OSError: a file cannot be read.
        ValueError: there is no such config, or it is of a tool that is not read; what to do is said.
    """
    os.stat(path)  # exists
    found = find_config(path)
    if found is None:
        raise ValueError(
            f"{folder_of(path)} has no config.json with a quantization_config, so how its weights are quantized is not "
            "known. `octavo quantize` quantizes float checkpoints; octavo.load reads its files; octavo.gguf.load GGUF"
        )
    file, values = found
    method = values.get("quant_method")
    if method is None and file.name == "quantize_config.json":
        method = "gptq"
    if method is None and file.name == "quant_config.json":
        method = "awq"
    if method is None and values.get("config_groups") is not None:
        method = "compressed-tensors"
    if not isinstance(method, str) or method.replace("_", "-") not in METHODS:
        raise ValueError(
            f"{file}: quant_method {method!r} is not read; these are: {', '.join(METHODS)}. Load the float checkpoint "
            "from which it was made, and quantize that with `octavo quantize`"
        )
    return Config(file, method.replace("_", "-"), values)


def integer(config: Config, *keys: str, default: int | None = None) -> int:
    """The first of these entries that is there.

    Raises:
        ValueError: none is, and there is no default; or it is not a whole number.
    """
    for key in keys:
        if key in config.values:
            value = config.values[key]
            if type(value) is not int:
                raise ValueError(f"{config.path}: {key} must be a whole number, got {value!r}")
            return value
    if default is None:
        raise ValueError(f"{config.path}: the quantization of method {config.method} lacks {keys[0]!r}")
    return default


def group_size(config: Config, *keys: str, default: int | None = None) -> int:
    """As `integer`, of group sizes: -1 for one group a row."""
    group = integer(config, *keys, default=default)
    if group != -1 and group < 1:
        raise ValueError(f"{config.path}: group_size must be positive, or -1 for one group a row, got {group}")
    return group


def choice(config: Config, keys: tuple[str, ...], default: str) -> str:
    """The first of these entries that is there, text in lower case."""
    for key in keys:
        if config.values.get(key) is not None:
            value = config.values[key]
            if not isinstance(value, str):
                raise ValueError(f"{config.path}: {key} must be text, got {value!r}")
            return value.lower()
    return default


def read_json(file: Path) -> dict[str, Any]:
    return header.read_json(file, "a config", CONFIG_LIMIT, infinities=True)  # as Python writes those of Mamba
