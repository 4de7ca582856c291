"""`octavo quantize`: a float checkpoint becomes a quantized one, a block of rows at a time.

Memory stays near one block, whatever the size of the file or of its largest tensor: the input is memory-mapped, rows
are quantized independently of each other, and the output is written where each piece belongs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo._files.codecs import WeightFormat, linear_options, tensor_name
from octavo._files.safetensors import Reader, Tensor, Writer, widened
from octavo._files.save_load import header_metadata
from octavo._numerics.checks import check_group_size, is_int4
from octavo._numerics.definition import quantize_weight
from octavo._numerics.int4 import ScaleDtype, pack_int4
from octavo._numerics.params import QTypeLike
from octavo._numerics.rounding import round_nearest, round_search

__all__ = ["Conversion", "as_rows", "candidates", "quantize_checkpoint", "summary"]

Layout = Literal["out_in", "in_out"]
Rounder = Callable[[NDArray[Any]], dict[str, NDArray[Any]]]

FLOATS = ("F16", "BF16", "F32", "F64")
_INCLUDE, _EXCLUDE = ("*.weight",), ("*emb*",)
_BLOCK_ELEMS = 1 << 20
_MAX_IN_FEATURES = (2**31 - 1) // 128**2  # int32 sums are exact up to it
_LAYOUTS = ("out_in", "in_out")
_GROUP_SIZE = 128


@dataclass(frozen=True, slots=True)
class Layer:
    """A matrix of the input that becomes a layer: its names there, its name in the output, and (out, in)."""

    name: str
    weight: str
    bias: str | None
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `quantize_checkpoint` did: names of layers, (tensor, reason) of those copied as they were, file sizes."""

    layers: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    bytes_before: int
    bytes_after: int


def quantize_checkpoint(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    dtype: QTypeLike = "int8",
    group_size: int | None = _GROUP_SIZE,
    symmetric: bool = True,
    scale_dtype: ScaleDtype = "float32",
    rounding: Literal["nearest", "search"] | None = None,
    layout: Layout = "out_in",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: bool = False,
) -> Conversion:
    """Writes a safetensors file in which each chosen matrix W (and its bias b) is an integer layer y = x W^T + b.

    Args:
        source: safetensors, in float16, bfloat16, float32 or float64.
        destination: another file, for `octavo.load`. The layer of "blocks.0.fc1.weight" and "blocks.0.fc1.bias" is
            called "blocks.0.fc1"; a matrix whose name does not end in ".weight" keeps it. All other tensors are copied
            byte by byte, and so is the metadata.
        dtype: of the weights: "int8" or "int4".
        group_size: int4 only: inputs that share a scale; a multiple of 32, or None for one scale a row. The last group
            of a row is shorter where it does not divide the number of inputs.
        symmetric: int4 only: False for a zero point a group.
        scale_dtype: int4 only: "float32", or "float16" for half the bytes of the scales.
        rounding: "nearest" or, for int4 only and the default there, "search": see `octavo.rounding`.
        layout: of the matrices in `source`: "out_in" as in y = x W^T, "in_out" as in y = x W.
        include: patterns (`fnmatch`, case matters) of tensors to quantize if they are matrices. Default: "*.weight"
            except "*emb*".
        exclude: patterns of tensors to leave as they are, besides.
        progress: show a progress bar (needs tqdm).

    Returns:
        What was quantized, and why the rest was not.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: an option is unknown or not for this dtype; source is no usable safetensors file, or quantized
            already; nothing is chosen; weights hold NaN or infinity; source and destination are one file. Nothing is
            left of the destination.
        ImportError: progress without tqdm; the message names the extra.

    Notes:
        The integers are those of `QuantLinear`; rows are quantized one by one, so memory stays near a few blocks of
        rows.

    Example:
        >>> import tempfile, numpy as np, octavo as oc
        >>> from safetensors.numpy import save_file
        >>> from octavo._files.conversion import quantize_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"fc.weight": np.eye(64, dtype=np.float32)}, folder + "/in.safetensors")
        ...     quantize_checkpoint(folder + "/in.safetensors", folder + "/out.safetensors").layers
        ...     oc.load(folder + "/out.safetensors")
        ('fc',)
        {'fc': QuantLinear(64 -> 64, int8, activation=symmetric)}
    """
    if layout not in _LAYOUTS:
        raise ValueError(f"layout must be one of {_LAYOUTS}, got {layout!r}")
    weights, rounder = _weights(dtype, group_size, symmetric, scale_dtype, rounding)
    with Reader(source) as reader:
        if os.path.exists(destination) and os.path.samefile(source, destination):
            raise ValueError(f"{reader.path} would be overwritten by its own conversion; give another output file")
        if "octavo" in reader.metadata:
            raise ValueError(f"{reader.path} is an octavo file, quantized already; convert the float checkpoint")
        layers, skipped = candidates(reader, layout=layout, include=include, exclude=exclude)
        if not layers:
            why = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5]) or "it holds no tensor"
            raise ValueError(f"{reader.path} has no tensor to quantize ({why}); use --include")
        tensors = {name: reader.tensors[name] for name, _ in skipped}
        options: dict[str, Any] = {}
        for layer in layers:
            own = weights.tensors(layer.shape, bias=layer.bias is not None)
            tensors |= {tensor_name(layer.name, suffix): tensor for suffix, tensor in own.items()}
            options[layer.name] = linear_options(layer.shape, weights, bias=layer.bias is not None)

        def metadata(crc32: dict[str, int]) -> dict[str, str]:
            return reader.metadata | header_metadata(options, {}, crc32)

        with _bar(_bytes(reader), progress) as advance, Writer(destination, tensors, metadata) as writer:
            for layer in layers:
                _write_layer(reader, writer, layer, layout, rounder, advance)
            for name, _ in skipped:
                _copy(reader, writer, name, advance)
        return Conversion(tuple(layer.name for layer in layers), tuple(skipped), reader.nbytes, writer.nbytes)


def summary(result: Conversion) -> str:
    """What was left as it was and why, and what was gained: the text that the command prints."""
    lines = [f"copied {name}: {reason}" for name, reason in result.skipped]
    share = 100 * result.bytes_after / result.bytes_before
    lines.append(
        f"{len(result.layers)} layers quantized, {len(result.skipped)} tensors copied; "
        f"{result.bytes_before:,} B before, {result.bytes_after:,} B after ({share:.1f} %)"
    )
    return "\n".join(lines)


def candidates(
    reader: Reader, *, layout: Layout, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[Layer], list[tuple[str, str]]]:
    """(layers to be, (tensor, reason) of what stays as it is)."""
    excluded = [*exclude, *(() if include else _EXCLUDE)]
    included = include or _INCLUDE
    layers: list[Layer] = []
    reasons: dict[str, str] = {}
    biases: set[str] = set()
    for name, tensor in reader.tensors.items():
        layer = _layer(name, tensor, reader, layout)
        reason = _unfit(name, tensor, layer, reader) or _unwanted(name, included, excluded)
        if reason is None:
            layers.append(layer)
            biases |= {layer.bias} if layer.bias else set()
        else:
            reasons[name] = reason
    return layers, [(name, reason) for name, reason in reasons.items() if name not in biases]


def _layer(name: str, tensor: Tensor, reader: Reader, layout: Layout) -> Layer:
    stem = name.removesuffix(".weight") if name.endswith(".weight") else "" if name == "weight" else name
    bias = tensor_name(stem, "bias")
    shape = tensor.shape[::-1] if layout == "in_out" else tensor.shape
    return Layer(stem, name, bias if stem != name and bias in reader.tensors else None, shape)  # type: ignore[arg-type]  # 2-D is checked by _unfit


def _unwanted(name: str, include: Sequence[str], exclude: Sequence[str]) -> str | None:
    if not any(fnmatchcase(name, pattern) for pattern in include):
        return f"does not match {' or '.join(include)}"
    return next((f"matches the excluded {pattern}" for pattern in exclude if fnmatchcase(name, pattern)), None)


def _unfit(name: str, tensor: Tensor, layer: Layer, reader: Reader) -> str | None:
    """Why a tensor cannot be the weight of a layer."""
    if tensor.dtype not in FLOATS:
        return f"{tensor.dtype}, not a float type that can be read"
    if len(tensor.shape) != 2:
        return f"{len(tensor.shape)}-D, not a matrix"
    if 0 in tensor.shape:
        return "empty"
    n, k = layer.shape
    if k > _MAX_IN_FEATURES:
        return f"{k} inputs, more than the {_MAX_IN_FEATURES} that int32 sums hold exactly"
    if layer.bias is not None:
        bias = reader.tensors[layer.bias]
        if bias.dtype not in FLOATS or bias.shape != (n,):
            return f"its bias is {bias.dtype} of shape {list(bias.shape)}, expected {n} floats"
    taken = {tensor_name(layer.name, suffix) for suffix in ("weight", "scale", "zero_point", "bias")}
    clash = (taken & reader.tensors.keys()) - {name, layer.bias}
    if clash or layer.name in reader.tensors.keys() - {name}:
        return f"{min(clash or {layer.name})} has the name that the layer would need"
    return None


def _weights(
    dtype: QTypeLike,
    group_size: int | None,
    symmetric: bool,
    scale_dtype: ScaleDtype,
    rounding: Literal["nearest", "search"] | None,
) -> tuple[WeightFormat, Rounder]:
    """How weights are stored, and what makes their tensors of a block of rows."""
    given = None if group_size == _GROUP_SIZE else group_size
    if not is_int4(dtype, group_size=given, symmetric=symmetric, scale_dtype=scale_dtype, rounding=rounding):
        return WeightFormat(), _rounded_to_int8
    check_group_size(group_size)
    weights = WeightFormat("int4", group_size, symmetric, scale_dtype)
    choose = round_nearest if rounding == "nearest" else round_search

    def rounded(block: NDArray[Any]) -> dict[str, NDArray[Any]]:
        found = choose(block, group_size=group_size, symmetric=symmetric, scale_dtype=scale_dtype)
        tensors: dict[str, NDArray[Any]] = {"weight": pack_int4(found.q), "scale": found.scale.astype(scale_dtype)}
        return tensors if found.zero_point is None else tensors | {"zero_point": found.zero_point}

    return weights, rounded


def _rounded_to_int8(block: NDArray[Any]) -> dict[str, NDArray[Any]]:
    q, scale = quantize_weight(block)
    return {"weight": q, "scale": scale}


def _write_layer(
    reader: Reader, writer: Writer, layer: Layer, layout: Layout, rounder: Rounder, advance: Callable[[int], Any]
) -> None:
    for start, block in as_rows(reader, layer.weight, layout):
        bad = ~np.isfinite(block)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"{reader.path}: {layer.weight} holds {block[row, column]!s} for output {start + row}, input {column}, "
                f"and integers have no such value; leave it as it is with --exclude {layer.weight}"
            )
        for suffix, piece in rounder(block).items():
            writer.append(tensor_name(layer.name, suffix), piece)
        advance(block.size * reader.tensors[layer.weight].nbytes // (layer.shape[0] * layer.shape[1]))
    reader.release(layer.weight)
    if layer.bias is not None:
        bias = reader.array(layer.bias).astype(np.float32)
        if not np.isfinite(bias).all():
            remedy = f"leave it out with --exclude {layer.weight}"
            raise ValueError(f"{reader.path}: {layer.bias} must be finite in float32; {remedy}")
        writer.append(tensor_name(layer.name, "bias"), bias)
        advance(reader.tensors[layer.bias].nbytes)


def as_rows(reader: Reader, name: str, layout: Layout) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, rows) of the matrix as (out, in), about a million elements at a time; bfloat16 as float32."""
    raw = reader.raw(name) if layout == "out_in" else reader.raw(name).T
    step = max(1, _BLOCK_ELEMS // max(1, raw.shape[1]))
    for start in range(0, raw.shape[0], step):
        yield start, widened(raw[start : start + step], reader.tensors[name].dtype)


def _copy(reader: Reader, writer: Writer, name: str, advance: Callable[[int], Any]) -> None:
    data = reader.data(name)
    for start in range(0, data.size, 4 * _BLOCK_ELEMS):
        piece = data[start : start + 4 * _BLOCK_ELEMS]
        writer.append(name, piece)
        advance(piece.size)
    reader.release(name)


def _bytes(reader: Reader) -> int:
    return sum(tensor.nbytes for tensor in reader.tensors.values())


@contextlib.contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[int], Any]]:
    """What to call with bytes that are done."""
    if not progress:
        yield lambda done: None
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("the progress bar needs tqdm: pip install 'octavo[cli]', or use --no-progress") from error
    with tqdm(total=total, desc="quantizing", unit="B", unit_scale=True) as bar:
        yield bar.update
