"""From a GGUF file to matrices that multiply as they are."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo._files.header import regular
from octavo._layers.matrix import QuantMatrix
from octavo._layers.weights import ActivationScheme
from octavo._numerics.grouped import SUPER_BLOCK, GroupedCodes, join_rows
from octavo._util.progress import with_bar
from octavo.gguf._blocks import DECODERS
from octavo.gguf._header import Header, TensorInfo, read_header

__all__ = [
    "PLAIN", "ActivationGroup", "Loaded", "activation_group_for", "block_shape", "decoded_rows", "load", "opened",
    "raw_rows",
]  # fmt: skip

ActivationGroup = int | Literal["auto"] | None

PLAIN = {
    "F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "BF16": "<u2",
}  # fmt: skip
# Bytes of a tensor that are decoded at a time: a decoder needs several times as much for its steps.
_PIECE_BYTES = 8 << 20


class Loaded(NamedTuple):
    """What a file holds. `tensors` is nested by the parts of the names: tensors["blk"]["0"]["attn_q"]["weight"]."""

    tensors: dict[str, Any]
    metadata: dict[str, Any]


def load(
    path: str | os.PathLike[str],
    *,
    activation: ActivationScheme = "symmetric",
    activation_group: ActivationGroup = "auto",
    progress: bool = False,
) -> Loaded:
    """The tensors of a GGUF file, quantized ones as `QuantMatrix`, and its metadata. Nothing is dequantized.

        tensors, metadata = octavo.gguf.load("model.gguf")

    A quantized tensor of rows (outputs, inputs) becomes a QuantMatrix Q of that shape, axis=0: x @ Q.T multiplies
    integers, Q[ids] are the rows of an embedding. One of more dimensions (experts) becomes a list of them, or lists
    within lists. Float and integer tensors become arrays; bfloat16, which NumPy lacks, becomes float32, which holds it.

    Args:
        path: of the file.
        activation: how the other operand of a product is quantized, as for `QuantLinear`.
        activation_group: inputs of it that share a scale. "auto": with activation="symmetric" groups of 32, and of 256
            beside the two-level scales of Q2_K to Q6_K, else a scale a row. None: a scale a row.
        progress: show a bar (needs the extra "cli").

    Returns:
        A named tuple (tensors, metadata). Both are plain dicts; metadata maps keys to numbers, text and lists.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, cut off, of a version, byte order or type that is not read, or a scale is NaN or
            infinite. The file and the tensor are named.

    Notes:
        Types: F32, F16, BF16, F64, I8 to I64; Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL and MXFP4, all
        without loss. Source of the formats: ggml's gguf.h and ggml-quants.c. docs/gguf.md has what each takes in memory
        and what activations cost.

    Example:
        >>> import tempfile, numpy as np, octavo as oc
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     oc.gguf.save({"w": np.eye(32, dtype=np.float32)}, folder + "/x.gguf", types="Q8_0")
        ...     tensors, metadata = oc.gguf.load(folder + "/x.gguf", activation="int16")
        >>> tensors
        {'w': QuantMatrix(32 x 32, int8, group_size=32, scale_dtype=float16, activation=int16, axis=0)}
    """
    with opened(path) as (file, header):
        items = _load_flat(file, header, activation, activation_group)
        nested: dict[str, Any] = {}
        for name, value in with_bar(items, "load", "tensor", total=len(header.tensors)) if progress else items:
            _put(nested, name, value)
        return Loaded(nested, header.metadata)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, Header]]:
    """The open file and its header; every ValueError inside names the file."""
    regular(path)
    with open(path, "rb") as file:
        try:
            yield file, read_header(file)
        except ValueError as error:
            raise ValueError(f"cannot read {os.fspath(path)}: {error}") from error


def _load_flat(
    file: BinaryIO, header: Header, activation: ActivationScheme, group: ActivationGroup
) -> Iterator[tuple[str, Any]]:
    """(name, array, QuantMatrix or lists of them), one tensor after the other, each read when it is asked for."""
    for info in header.tensors.values():
        try:
            yield info.name, _tensor(file, info, activation, group)
        except ValueError as error:
            raise ValueError(f"tensor {info.name!r}: {error}") from error


def activation_group_for(w: GroupedCodes, activation: str, group: ActivationGroup) -> int | None:
    """What "auto" means for these weights."""
    if group != "auto":
        return group
    if activation != "symmetric":
        return None
    return SUPER_BLOCK if w.group_scale is not None else 32


def _tensor(file: BinaryIO, info: TensorInfo, activation: ActivationScheme, group: ActivationGroup) -> Any:
    if info.type.name in PLAIN:
        return _read_array(file, info)
    if len(info.shape) == 1:
        raise ValueError(f"it has one dimension and type {info.type.name}; quantized tensors need rows, at least two")

    def matrix(w: GroupedCodes) -> QuantMatrix:
        chosen = activation_group_for(w, activation, group)
        return QuantMatrix.from_grouped(w, axis=0, activation=activation, activation_group=chosen)

    codes = _read_codes(file, info)
    if len(info.shape) == 2:
        return matrix(codes)
    n = info.shape[-2]
    matrices: Any = [matrix(codes.rows(slice(i, i + n))) for i in range(0, codes.shape[0], n)]
    for length in info.shape[1:-2][::-1]:
        matrices = [matrices[i : i + length] for i in range(0, len(matrices), length)]
    return matrices


def _read_array(file: BinaryIO, info: TensorInfo) -> NDArray[Any]:
    """A float or integer tensor."""
    raw = _bytes(file, info.offset, info.nbytes)
    values = raw.view(PLAIN[info.type.name]).reshape(info.shape)
    if info.type.name == "BF16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _read_codes(file: BinaryIO, info: TensorInfo) -> GroupedCodes:
    """A quantized tensor as (rows, inputs): all of its leading dimensions are rows."""
    if info.type.name not in DECODERS:
        raise ValueError(f"type {info.type.name} is not read; these are: {', '.join([*PLAIN, *DECODERS])}")
    pieces = [codes for _, codes in decoded_rows(file, info, 0, math.prod(info.shape[:-1]))]
    return pieces[0] if len(pieces) == 1 else join_rows(pieces)


def block_shape(info: TensorInfo) -> tuple[int, int]:
    """Blocks of a row, and bytes of a block."""
    return info.shape[-1] // info.type.block, info.type.nbytes


def decoded_rows(
    file: BinaryIO, info: TensorInfo, first: int, count: int
) -> Iterator[tuple[NDArray[np.uint8], GroupedCodes]]:
    """As `raw_rows`, and what the blocks hold."""
    for raw in raw_rows(file, info, first, count):
        try:
            codes = DECODERS[info.type.name](raw)
        except ValueError as error:
            raise ValueError(f"{error}, counted from row {first}") from error
        yield raw, codes
        first += len(raw)


def raw_rows(file: BinaryIO, info: TensorInfo, first: int, count: int) -> Iterator[NDArray[np.uint8]]:
    """Rows first .. first + count of a tensor, some at a time: (rows, blocks, bytes)."""
    blocks, nbytes = block_shape(info)
    step = max(1, _PIECE_BYTES // (blocks * nbytes))
    for row in range(first, first + count, step):
        rows = min(step, first + count - row)
        raw = _bytes(file, info.offset + row * blocks * nbytes, rows * blocks * nbytes)
        yield raw.reshape(rows, blocks, nbytes)


def _bytes(file: BinaryIO, offset: int, count: int) -> NDArray[np.uint8]:
    file.seek(offset)
    raw = np.fromfile(file, np.uint8, count)
    if raw.size != count:
        raise ValueError("the file became shorter while it was read; is it still being written?")
    return raw


def _put(nested: dict[str, Any], name: str, value: Any) -> None:
    """value at the place that the name's parts lead to."""
    *parents, last = name.split(".")
    place = nested
    for part in parents:
        found = place.setdefault(part, {})
        if not isinstance(found, dict):
            raise ValueError(f"tensor {name!r}: part of its name is the name of another tensor")
        place = found
    if last in place:
        raise ValueError(f"tensor {name!r}: part of another tensor's name is its name")
    place[last] = value
