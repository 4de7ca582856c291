"""`octavo quantize model.gguf out.safetensors`: the same integers in octavo's own format, a piece at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo._files.fields import Options, tensor_name
from octavo._files.grouped import grouped_options, grouped_parts
from octavo._files.layouts import count
from octavo._files.octavo_header import header_metadata
from octavo._files.safetensors import Tensor, Writer
from octavo._layers.weights import ActivationScheme
from octavo._numerics.grouped import GroupedCodes
from octavo._util.atomic import require_other_file
from octavo._util.extras import import_extra
from octavo._util.progress import with_bar
from octavo.gguf._blocks import DECODERS
from octavo.gguf._header import TensorInfo
from octavo.gguf._load import PLAIN, ActivationGroup, activation_group_for, block_shape, decoded_rows, opened, raw_rows

__all__ = ["Converted", "convert", "summary"]


class Converted(NamedTuple):
    """What was written."""

    quantized: int
    arrays: int
    source_bytes: int
    file_bytes: int
    verified: bool


class _Matrix(NamedTuple):
    """Rows first .. first + rows of a tensor, which one QuantMatrix holds."""

    name: str
    info: TensorInfo
    first: int
    options: Options
    tensors: dict[str, Tensor]


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    activation: ActivationScheme = "symmetric",
    activation_group: ActivationGroup = "auto",
    verify: bool = False,
    progress: bool = False,
) -> Converted:
    """Writes what a GGUF file holds as a file for `octavo.load`: every bit of the weights, in octavo's order.

    Options and errors are those of `octavo.gguf.load`. `verify` compares every weight with what the `gguf` package
    makes of it, to the bit; a difference is a ValueError. Names are the file's. What has more than two dimensions
    becomes a matrix for each of the leading indices, "NAME.0", "NAME.1". The metadata is kept as JSON text under
    "gguf.metadata".
    """
    require_other_file(source, destination)
    package = import_extra("gguf", purpose="--verify", extra="gguf") if verify else None
    with opened(source) as (file, header):
        if not header.tensors:
            raise ValueError("it holds no tensors")
        matrices = {
            m.name: m for info in header.tensors.values() for m in _matrices(info, activation, activation_group)
        }
        arrays = {info.name: info for info in header.tensors.values() if info.type.name in PLAIN}
        layers = {name: m.options for name, m in matrices.items()}
        tensors = {name: Tensor(info.type.name, info.shape) for name, info in arrays.items()}
        for m in matrices.values():
            for suffix, tensor in m.tensors.items():
                if tensor_name(m.name, suffix) in tensors:
                    raise ValueError(f"tensor {m.info.name!r}: its {suffix} would have the name of another tensor")
                tensors[tensor_name(m.name, suffix)] = tensor
        extra = {"gguf.metadata": json.dumps(header.metadata, ensure_ascii=False, separators=(",", ":"))}
        with Writer(destination, tensors, lambda crc32: header_metadata(layers, {}, crc32) | extra) as writer:
            work = _pieces(file, matrices, arrays, package)
            total = len(matrices) + len(arrays)  # about: large ones come in several pieces
            for name, data in with_bar(work, "convert", "piece", total=total) if progress else work:
                for suffix, array in data.items():
                    writer.append(tensor_name(name, suffix) if suffix else name, array)
    return Converted(len(matrices), len(arrays), header.file_bytes, os.stat(destination).st_size, verify)


def summary(result: Converted) -> str:
    """The text of `octavo quantize` for a GGUF file."""
    lines = [
        f"{count(result.quantized, 'matrix', 'matrices')} and {count(result.arrays, 'array', 'arrays')}, "
        f"{result.source_bytes:,} B in the GGUF file, {result.file_bytes:,} B now"
    ]
    if result.verified:
        lines.append("every weight is the gguf package's, to the bit")
    return "\n".join(lines)


def _matrices(info: TensorInfo, activation: ActivationScheme, group: ActivationGroup) -> Iterator[_Matrix]:
    """The matrices that a quantized tensor becomes, before anything of it is read."""
    if info.type.name in PLAIN:
        return
    if info.type.name not in DECODERS or len(info.shape) == 1:
        raise ValueError(f"tensor {info.name!r}: {info.type.name} of shape {list(info.shape)} is not read")
    n, k = info.shape[-2:]
    blocks, nbytes = block_shape(info)
    row = DECODERS[info.type.name](np.zeros((1, blocks, nbytes), np.uint8))  # the form, which all rows share
    options = grouped_options(
        row, activation=activation, activation_group=activation_group_for(row, activation, group), bias=False
    )
    options |= {"type": "QuantMatrix", "shape": [n, k], "relu": False, "call": "forward", "axis": 0}
    tensors = {
        suffix: Tensor(part.tensor.dtype, (n, *part.tensor.shape[1:])) for suffix, part in grouped_parts(row).items()
    }
    for i, index in enumerate(np.ndindex(info.shape[:-2])):
        name = ".".join([info.name, *map(str, index)])
        yield _Matrix(name, info, i * n, options, tensors)


def _pieces(
    file: BinaryIO, matrices: dict[str, _Matrix], arrays: dict[str, TensorInfo], package: Any
) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """(name, arrays by suffix): the next rows of a matrix, or of an array."""
    for m in matrices.values():
        n, type_name = m.options["shape"][0], m.info.type.name
        try:
            for raw, w in decoded_rows(file, m.info, m.first, n):
                if package is not None:
                    _verify(package, type_name, raw, w)
                yield m.name, {suffix: part.make() for suffix, part in grouped_parts(w).items()}
        except ValueError as error:
            raise ValueError(f"tensor {m.info.name!r}: {error}") from error
    for name, info in arrays.items():
        rows = math.prod(info.shape[:-1])
        for raw in raw_rows(file, info, 0, rows):
            yield name, {"": raw.reshape(-1)}


def _verify(package: Any, type_name: str, raw: NDArray[np.uint8], w: GroupedCodes) -> None:
    with np.errstate(all="ignore"):
        expected = package.quants.dequantize(raw.reshape(len(raw), -1), package.GGMLQuantizationType[type_name])
    found = w.dequantize()
    differs = found.view(np.int32) != np.asarray(expected, np.float32).reshape(found.shape).view(np.int32)
    if differs.any():
        at = tuple(int(i) for i in np.argwhere(differs)[0])
        raise ValueError(f"the weight at {list(at)} of a piece is {found[at]}, and {expected[at]} by the gguf package")
