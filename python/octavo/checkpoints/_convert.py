"""`octavo quantize FOLDER out.safetensors`: the same integers in octavo's own format, some rows at a time."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo._files.codecs import packed
from octavo._files.fields import Options, tensor_name
from octavo._files.grouped import grouped_parts
from octavo._files.layouts import count
from octavo._files.safetensors import Tensor, Writer
from octavo._files.save_load import header_metadata, save
from octavo._layers.weights import ActivationScheme
from octavo._numerics.grouped import GroupedCodes
from octavo._numerics.int4 import GroupedWeight, pack_int4, unpack_int4
from octavo._util.atomic import require_other_file
from octavo._util.progress import with_bar
from octavo.checkpoints._forms import ActivationGroup, Weight, dequantized, parameters
from octavo.checkpoints._layer import Contents, Found
from octavo.checkpoints._load import Source, load, open_layer, opened
from octavo.checkpoints._packing import signed_nibbles

__all__ = ["Converted", "convert", "summary"]

_PIECE_CODES = 1 << 20  # decoded at a time: what fits a cache
_LARGEST_SCALE = 1e30  # below it no weight of four bits overflows

Piece = dict[str, NDArray[Any]]


class Converted(NamedTuple):
    """What was written."""

    kinds: dict[str, int]
    arrays: int
    source_bytes: int
    file_bytes: int
    verified: bool


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    activation: ActivationScheme | None = None,
    activation_group: ActivationGroup = "auto",
    verify: bool = False,
    progress: bool = False,
) -> Converted:
    """Writes what a quantized checkpoint holds as a file for `octavo.load`: every integer, in octavo's order.

    Args:
        source: as for `octavo.checkpoints.load`.
        destination: where the result is to be. It takes its place when all of it is on the disk.
        activation, activation_group: as for `octavo.checkpoints.load`.
        verify: compare every weight with the tool's formula, computed from the bits of the source in float32.
        progress: show a bar (needs the extra "cli").

    Raises:
        ImportError, OSError, ValueError: as for `octavo.checkpoints.load`; or a weight differs. Nothing is left.
    """
    if os.path.isdir(destination):
        raise ValueError(
            f"destination must be a file, got the folder {os.fspath(destination)}; name a .safetensors file"
        )
    if os.fspath(source).endswith(".onnx"):
        return _convert_onnx(source, destination, activation, activation_group, verify)
    with opened(source) as opened_source:
        opened_source.warn(activation)
        for part in opened_source.tensors.checkpoint.parts:
            require_other_file(part.path, destination)
        return _convert(opened_source, destination, activation, activation_group, verify, progress)


def summary(result: Converted) -> str:
    """The text of `octavo quantize` for such a checkpoint."""
    lines = ["converted, not quantized: the integers are the checkpoint's"]
    lines += [f"{count(n, 'layer', 'layers')}: {kind}" for kind, n in result.kinds.items()]
    lines.append(
        f"{count(result.arrays, 'array as it was', 'arrays as they were')}; "
        f"{result.source_bytes:,} B in the checkpoint, {result.file_bytes:,} B now"
    )
    if result.verified and any(kind.startswith("bitsandbytes") for kind in result.kinds):
        lines.append(
            "every weight is integer * (SCB / 127) in float32, to the bit; bitsandbytes itself rounds (integer * SCB) "
            "/ 127 twice, so about a third of its float32 weights differ from these in the last bit"
        )
    elif result.verified:
        lines.append("every weight is what the tool's formula gives in float32, to the bit")
    return "\n".join(lines)


def _convert(
    source: Source,
    destination: str | os.PathLike[str],
    activation: ActivationScheme | None,
    group: ActivationGroup,
    verify: bool,
    progress: bool,
) -> Converted:
    checkpoint = source.tensors.checkpoint
    layers: dict[str, Options] = {}
    tensors = {name: Tensor(checkpoint.tensors[name].dtype, checkpoint.tensors[name].shape) for name in source.arrays}
    once: dict[str, Piece] = {}  # what belongs to a layer as a whole
    for name, found in source.layers.items():
        layers[name], own, once[name] = _layout(source, found, activation, group)
        for suffix, tensor in own.items():
            full = tensor_name(name, suffix)
            if full in tensors:
                source.tensors.fail(full, f"has the name that the {suffix} of the layer {name!r} needs")
            tensors[full] = tensor
    extra = {f"checkpoint.{source.config.method}": json.dumps(source.config.values, separators=(",", ":"))}
    with Writer(destination, tensors, lambda crc32: header_metadata(layers, {}, crc32) | extra) as writer:
        work = _pieces(source, once, activation, group, verify)
        total = sum(1 + len(_steps(found)) for found in source.layers.values()) + len(source.arrays)
        for name, parts in with_bar(work, "convert", "piece", total=total) if progress else work:
            _append(writer, name, parts)
            del parts  # the next one takes its memory
    kinds = dict(Counter(found.kind for found in source.layers.values()))
    size = os.stat(destination).st_size
    return Converted(kinds, len(source.arrays), checkpoint.nbytes, size, verify)


def _append(writer: Writer, name: str, parts: Piece) -> None:
    for suffix, array in parts.items():
        writer.append(tensor_name(name, suffix) if suffix else name, array)


def _layout(
    source: Source, found: Found, activation: ActivationScheme | None, group: ActivationGroup
) -> tuple[Options, dict[str, Tensor], Piece]:
    """(options, tensors by suffix, those that are not made row by row) of a layer, before its rows are read."""
    try:
        contents, how = open_layer(found, activation, group)
        n, bias = found.shape[0], source.bias(found)
        weight, first = contents.blank(found.shape[1]), None if bias is None else bias[:1]
        row = found.layer(
            contents, weight, first, activation=how.activation, activation_group=how.group, static=how.static
        )
        options, parts = packed(row)
    except ValueError as error:
        source.refuse(found, error)
    source.release(found)
    assert options is not None
    rows = ("weight", "scale", "zero_point")
    tensors = {
        suffix: Tensor(part.tensor.dtype, (n, *part.tensor.shape[1:])) if suffix in (*rows, "bias") else part.tensor
        for suffix, part in parts.items()
    }
    once = {suffix: part.make() for suffix, part in parts.items() if suffix not in (*rows, "bias")}
    if bias is not None:
        once["bias"] = bias
    return options | {"shape": list(found.shape)}, tensors, once


def _steps(found: Found) -> range:
    """First rows of the pieces; whole words of AWQ."""
    n, k = found.shape
    return range(0, n, max(8, _PIECE_CODES // k // 8 * 8))


def _pieces(
    source: Source, once: dict[str, Piece], activation: ActivationScheme | None, group: ActivationGroup, verify: bool
) -> Iterator[tuple[str, Piece]]:
    """(name, arrays by suffix): the next rows of a layer, or an array."""
    checkpoint = source.tensors.checkpoint
    following = iter([*source.layers.values()][1:])
    for name, found in source.layers.items():
        if (after := next(following, None)) is not None:
            source.expect(after)
        yield name, once.pop(name)
        steps = _steps(found)
        try:
            contents, _ = open_layer(found, activation, group)
            fast = _stays_packed(contents)
            for first in steps:
                end = min(first + steps.step, found.shape[0])
                piece = _piece(contents, first, end, fast)
                if verify:
                    _verify(contents, first, end, piece)
                yield name, piece
                del piece
            del contents
        except ValueError as error:
            source.refuse(found, error)
        source.release(found)
    for name in source.arrays:
        yield name, {"": checkpoint.data(name)}
        checkpoint.release(name)


def _stays_packed(contents: Contents) -> bool:
    """Whether rows of nibbles need not be unpacked: they differ from octavo's in the sign bit at most."""
    form = contents.form
    if contents.nibbles is None or form.kind == "int8" or form.shift not in (0, 8):
        return False
    return contents.scale.dtype == np.float16 or bool(contents.scale.max(initial=0) < _LARGEST_SCALE)


def _piece(contents: Contents, first: int, end: int, fast: bool) -> Piece:
    """The tensors of some rows."""
    form = contents.form
    if fast and contents.nibbles is not None:
        nibbles = contents.nibbles(first, end)
        zero = None if contents.zero is None else contents.zero[first:end]
        scale, own = parameters(form, 2 * nibbles.shape[1], contents.scale[first:end], zero)
        weight = signed_nibbles(nibbles) if form.shift == 8 else nibbles
        return {"weight": weight, "scale": scale} | ({} if own is None else {"zero_point": own})
    weight_of_rows = contents.weight(first, end)
    if isinstance(weight_of_rows, tuple):
        return dict(zip(("weight", "scale"), weight_of_rows, strict=True))
    if isinstance(weight_of_rows, GroupedCodes):
        return {suffix: part.make() for suffix, part in grouped_parts(weight_of_rows).items()}
    int4 = {"weight": pack_int4(weight_of_rows.q), "scale": weight_of_rows.scale.astype(weight_of_rows.scale_dtype)}
    return int4 if weight_of_rows.zero_point is None else int4 | {"zero_point": weight_of_rows.zero_point}


def _verify(contents: Contents, first: int, end: int, piece: Piece) -> None:
    """Raises ValueError where a weight that is written is not that of the tool's formula."""
    expected = contents.reference(first, end)
    if contents.permutation is not None:
        expected = expected[:, contents.permutation]
    form, codes = contents.form, piece["weight"]
    weight: Weight
    if form.kind == "int8":
        weight = codes.view(np.int8), piece["scale"]
    else:
        scale, zero = piece["scale"], piece.get("zero_point")
        if form.bits == 4:
            codes = unpack_int4(codes, expected.shape[1], signed=form.signed)
        if form.kind == "int4":
            weight = GroupedWeight(codes, scale.astype(np.float32), zero, form.group_size)
        else:
            weight = GroupedCodes(
                codes.view(np.int8 if form.signed else np.uint8), scale, form.bits, form.group_size, zero
            )
    found = dequantized(weight)
    differs = found.view(np.uint32) != expected.view(np.uint32)
    if differs.any():
        n, k = (int(i) for i in np.argwhere(differs)[0])
        raise ValueError(
            f"the weight of output {first + n} and input {k} is {found[n, k]!s}, and {expected[n, k]!s} by the tool's "
            "formula; please report it"
        )


def _convert_onnx(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    activation: ActivationScheme | None,
    group: ActivationGroup,
    verify: bool,
) -> Converted:
    """An ONNX model is in memory as a whole anyway."""
    if verify:
        raise ValueError("--verify is for checkpoints of safetensors; onnx.reference computes what an ONNX model gives")
    found = load(source, activation=activation, activation_group=group)
    require_other_file(source, destination)
    save(found, destination)
    kinds = dict(Counter(f"ONNX {type(item).__name__}" for item in found.values()))
    return Converted(kinds, 0, os.stat(source).st_size, os.stat(destination).st_size, False)
