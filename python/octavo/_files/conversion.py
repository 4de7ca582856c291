"""`octavo quantize`: a float checkpoint becomes a quantized one, a block of rows at a time.

`plan` decides what becomes of each tensor, `rows` quantizes blocks of rows, and this module writes each piece where it
belongs. Memory stays near one block, whatever the size of the checkpoint or of its largest tensor.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo._files.checkpoint import Checkpoint
from octavo._files.choice import Choice
from octavo._files.fields import tensor_name
from octavo._files.header import BITS, Tensor
from octavo._files.items import Item, Matrix
from octavo._files.layouts import count
from octavo._files.outputs import made, planned_outputs
from octavo._files.plan import FLOATS, Plan, make_plan
from octavo._files.rows import BLOCK_ELEMS, GROUP_SIZE, Rounder, Rounding, make_rounder, quantized_blocks
from octavo._files.safetensors import Writer
from octavo._files.shards import index_name, write_index
from octavo._numerics.int4 import ScaleDtype
from octavo._numerics.params import QTypeLike
from octavo._util.extras import import_extra

__all__ = ["Conversion", "quantize_checkpoint", "summary"]

Rest = Literal["same", "float16"]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `quantize_checkpoint` did.

    Attributes:
        layers: names of what was quantized, in the order of the checkpoint.
        kinds: how many there are of each class.
        skipped: (tensor, reason) of those copied.
        layout: how the layouts of matrices were found, in words.
        notes: what the user should know, such as patterns that matched nothing.
        files: what was written.
        bytes_before, bytes_after: of all files.
    """

    layers: tuple[str, ...]
    kinds: Mapping[str, int]
    skipped: tuple[tuple[str, str], ...]
    layout: str
    notes: tuple[str, ...]
    files: tuple[Path, ...]
    bytes_before: int
    bytes_after: int


def quantize_checkpoint(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    dtype: QTypeLike = "int8",
    group_size: int | None = GROUP_SIZE,
    symmetric: bool = True,
    scale_dtype: ScaleDtype = "float32",
    rounding: Rounding | None = None,
    rest: Rest = "same",
    choice: Choice | None = None,
    progress: bool = False,
) -> Conversion:
    """Writes a checkpoint for `octavo.load` in which each weight W is held as integers.

    Args:
        source: a safetensors file in float16, bfloat16, float32 or float64; the index of several (model.safetensors.
            index.json), or their folder; or a NumPy archive (.npz).
        destination: another file that ends in .safetensors; or a folder, where the files get the names of the source's.
        dtype: of the weights: "int8" or "int4".
        group_size: int4 only: inputs that share a scale; a multiple of 32, or None for one scale a row. The last group
            of a row is shorter where it does not divide the number of inputs.
        symmetric: int4 only: False for a zero point a group.
        scale_dtype: int4 only: "float32", or "float16" for half the bytes of the scales.
        rounding: "nearest" or, for int4 only and the default there, "search": see `octavo.round_search`.
        rest: the type of float tensors that are not quantized: "same" as they have, or "float16".
        choice: which tensors become what; by default, weights by their names: see `Choice`.
        progress: show a progress bar (needs tqdm).

    Returns:
        What was quantized, and why the rest was not.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: an option is unknown or not for this dtype; source is not a usable checkpoint, is only a part of
            one, or is quantized already; a tensor has a type that NumPy lacks; nothing is chosen; weights hold NaN or
            infinity; source and destination are one file. Nothing is left of the destination.
        ImportError: progress without tqdm; the message names the extra.

    Notes:
        The integers are those of `QuantLinear`, `QuantEmbedding` and so on. All tensors that are not quantized are
        copied byte by byte, and so is the metadata. Each layer lies in one file, that of its weight.

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
    if rest not in ("same", "float16"):
        raise ValueError(f'rest must be "same" or "float16", got {rest!r}')
    choice = choice or Choice()
    weights, rounder = make_rounder(dtype, group_size, symmetric, scale_dtype, rounding)
    with Checkpoint(source) as checkpoint:
        _check(checkpoint, choice)
        plan = make_plan(checkpoint, choice, weights)
        if not plan.items:
            raise ValueError(_nothing_chosen(checkpoint, plan, choice))
        outputs, folder = planned_outputs(checkpoint, plan, Path(destination))
        floats = {name: _kept(checkpoint.tensors[name], rest) for name, _ in plan.copied}
        with made(folder), _bar(checkpoint, progress) as advance, contextlib.ExitStack() as stack:
            for output in outputs:
                writer = stack.enter_context(output.writer(weights, floats))
                for item in output.items:
                    for matrix in item.matrices:
                        _write_matrix(checkpoint, writer, item, matrix, rounder, advance)
                for name in output.copied:
                    _copy(checkpoint, writer, name, floats[name], advance)
                output.nbytes = writer.nbytes
        files = [output.path for output in outputs]
        if folder is not None and len(files) > 1:
            where = {name: output.path.name for output in outputs for name in output.tensors(weights, floats)}
            files.append(folder / index_name(checkpoint.path))
            write_index(files[-1], where, sum(output.nbytes for output in outputs))
        return Conversion(
            tuple(item.name for item in plan.items),
            Counter(item.kind for item in plan.items),
            plan.copied,
            plan.layout,
            _notes(checkpoint, plan, choice),
            tuple(files),
            checkpoint.nbytes,
            sum(os.path.getsize(file) for file in files),
        )


def summary(result: Conversion) -> str:
    """What was copied and why, and what was gained: the text that the command prints."""
    lines = [f"copied {name}: {reason}" for name, reason in result.skipped]
    lines += [result.layout] if result.layout else []
    kinds = ", ".join(f"{count} {kind}" for kind, count in result.kinds.items())
    layers, tensors = count(len(result.layers), "layer", "layers"), count(len(result.skipped), "tensor", "tensors")
    lines.append(f"{layers} quantized ({kinds}), {tensors} copied")
    share = 100 * result.bytes_after / result.bytes_before
    lines.append(f"{result.bytes_before:,} B before, {result.bytes_after:,} B after ({share:.1f} %)")
    if len(result.files) > 1:
        lines.append(f"{len(result.files)} files in {result.files[0].parent}")
    return "\n".join([*lines, *result.notes])


# What to convert


def _check(checkpoint: Checkpoint, choice: Choice) -> None:
    """Raises ValueError where the checkpoint cannot be converted as a whole."""
    if "octavo" in checkpoint.metadata:
        raise ValueError(f"{checkpoint.path} is an octavo file, quantized already; convert the float checkpoint")
    for name, tensor in checkpoint.foreign.items():
        if not choice.drops(name):
            remedy = "convert it to float16, or " if tensor.dtype in BITS else ""
            raise ValueError(
                f"{checkpoint.file_of(name)}: tensor {name!r} is {tensor.dtype}, a type that octavo cannot read; "
                f"{remedy}leave it out with --drop {name}"
            )


def _nothing_chosen(checkpoint: Checkpoint, plan: Plan, choice: Choice) -> str:
    patterns = choice.include
    if not patterns:
        why = "; ".join(f"{name}: {reason}" for name, reason in plan.copied[:5]) or "it holds no tensor"
        return f"{checkpoint.path} has no tensor to quantize ({why}); name some with --include, or use --arrays"
    meant = [(name, reason) for name, reason in plan.copied if choice.includes(name)]
    if meant:
        why = "; ".join(f"{name}: {reason}" for name, reason in meant[:5])
        return f"{checkpoint.path}: nothing that matches {' or '.join(patterns)} can be quantized ({why})"
    names = ", ".join([*list(checkpoint.tensors)[:5], *(["..."] if len(checkpoint.tensors) > 5 else [])])
    return f"{checkpoint.path} has no tensor that matches {' or '.join(patterns)}; its tensors are {names}"


def _notes(checkpoint: Checkpoint, plan: Plan, choice: Choice) -> tuple[str, ...]:
    """Patterns that matched nothing, and floats that were left though they are most of the checkpoint."""
    known = [*checkpoint.tensors, *checkpoint.foreign]
    notes = [f"note: {option} {pattern} matches no tensor" for option, pattern in choice.unmatched(known)]
    quantized = {name for item in plan.items for name in item.sources()}
    floats = {name: t.nbytes for name, t in checkpoint.tensors.items() if t.dtype in FLOATS}
    done = sum(floats[name] for name in quantized)
    if 2 * done < sum(floats.values()):
        left = sorted(floats.keys() - quantized, key=lambda name: -floats[name])[:3]
        notes.append(
            f"note: little was quantized, {100 * done / sum(floats.values()):.1f} % of the bytes; the largest tensors "
            f"that were copied are {', '.join(left)}. Use --include, or --arrays where they are arrays of the model"
        )
    return tuple(notes)


# Writing


def _write_matrix(
    checkpoint: Checkpoint, writer: Writer, item: Item, matrix: Matrix, rounder: Rounder, advance: Callable[[int], Any]
) -> None:
    prefix, source = item.prefix(matrix), checkpoint.tensors[matrix.tensor]
    itemsize = source.nbytes // math.prod(source.shape)
    for elems, pieces in quantized_blocks(checkpoint, matrix, rounder):
        for suffix, piece in pieces.items():
            writer.append(tensor_name(prefix, suffix), piece)
        advance(elems * itemsize)
    checkpoint.release(matrix.tensor)
    if matrix.bias is not None:
        with np.errstate(all="ignore"):
            bias = checkpoint.array(matrix.bias).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(bias))
        if bad.size:
            raise ValueError(
                f"{checkpoint.file_of(matrix.bias)}: {matrix.bias} must be finite in float32, got {bias[bad[0]]!s} at "
                f"index {bad[0]}; leave the layer as it is with --exclude {matrix.tensor}"
            )
        writer.append(tensor_name(prefix, "bias"), bias)
        advance(checkpoint.tensors[matrix.bias].nbytes)


def _kept(tensor: Tensor, rest: Rest) -> Tensor:
    """How a tensor is written that is not quantized."""
    return Tensor("F16", tensor.shape) if rest == "float16" and tensor.dtype in FLOATS else tensor


def _copy(checkpoint: Checkpoint, writer: Writer, name: str, kept: Tensor, advance: Callable[[int], Any]) -> None:
    before = checkpoint.tensors[name]
    if kept.dtype != before.dtype:
        values = checkpoint.values(name).reshape(-1)
        for start in range(0, values.size, BLOCK_ELEMS):
            writer.append(name, _as_float16(checkpoint, name, values[start : start + BLOCK_ELEMS], start))
        advance(before.nbytes)
    else:
        data = checkpoint.data(name)
        for start in range(0, data.size, 4 * BLOCK_ELEMS):
            piece = data[start : start + 4 * BLOCK_ELEMS]
            writer.append(name, piece)
            advance(piece.size)
    checkpoint.release(name)


def _as_float16(checkpoint: Checkpoint, name: str, values: NDArray[Any], start: int) -> NDArray[np.float16]:
    with np.errstate(all="ignore"):
        found = values.astype(np.float16)
    lost = np.flatnonzero(np.isinf(found) & np.isfinite(values))
    if lost.size:
        raise ValueError(
            f"{checkpoint.file_of(name)}: {name} holds {values[lost[0]]!s} at element {start + lost[0]}, beyond "
            f"float16's 65504; omit --rest float16"
        )
    return found


@contextlib.contextmanager
def _bar(checkpoint: Checkpoint, progress: bool) -> Iterator[Callable[[int], Any]]:
    """What to call with the number of bytes that are done."""
    if not progress:
        yield lambda done: None
        return
    tqdm = import_extra("tqdm", purpose="the progress bar (or use --no-progress)", extra="cli")
    total = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    with tqdm.tqdm(total=total, desc="quantizing", unit="B", unit_scale=True) as bar:
        yield bar.update
