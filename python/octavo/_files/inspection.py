"""`octavo inspect`: what a safetensors file holds, what it takes, and how far its integers are from the floats."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._files.conversion import Layout, as_rows, candidates
from octavo._files.safetensors import Reader
from octavo._files.save_load import read_header, stored_items
from octavo._files.sizes import Shape, memory_table
from octavo._layers.embedding import QuantEmbedding
from octavo._layers.linear import QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.recurrent import QuantGRU, QuantLSTM

__all__ = ["Row", "error_against", "estimated_error", "report", "rows"]


@dataclass(frozen=True, slots=True)
class Row:
    """One layer or tensor. `elems` counts a layer's bias too; `memory_bytes` is what it takes once loaded; the error is
    relative to the RMS of the weights.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    elems: int
    file_bytes: int
    memory_bytes: int
    layer: Shape | None = None
    error: float | None = None


def report(
    path: str | os.PathLike[str], *, against: str | os.PathLike[str] | None = None, layout: Layout = "out_in"
) -> str:
    """The text of `octavo inspect`: a line a layer or tensor, totals, and what the model takes in each type.

    Args:
        path: any safetensors file. Of one of octavo's, every layer is loaded, and every checksum verified.
        against: the float checkpoint from which it was made: errors are then measured, not estimated.
        layout: of the matrices in `against`.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged, or `against` does not hold the matrices.
    """
    with Reader(path) as reader:
        quantized = "octavo" in reader.metadata
        if not quantized and against is not None:
            raise ValueError(f"{reader.path} has no quantized layers to compare with {os.fspath(against)}")
        try:
            found = list(_octavo_rows(reader, against, layout) if quantized else _plain_rows(reader, layout))
        except ValueError as error:
            raise ValueError(f"cannot inspect {reader.path}: {error}") from error
        file_bytes = reader.nbytes
    text = [_table(found, "error" if against is not None else "error (est.)", quantized), ""]
    if quantized and against is None:
        text += [
            "error (est.): step/sqrt(12) over the RMS of the weights, as if rounding were all of the error; "
            "--against ORIGINAL measures it",
            "",
        ]
    floats = 4 * sum(row.elems for row in found)
    memory = sum(row.memory_bytes for row in found)
    text.append(
        f"{len(found)} entries, {file_bytes:,} B in the file, {memory:,} B in memory; "
        f"{floats:,} B as float32 ({100 * file_bytes / max(floats, 1):.1f} %)"
    )
    layers = Counter(row.layer for row in found if row.layer is not None)
    if layers:
        rest = floats // 4 - sum(n * k + bias * n for n, k, bias in layers.elements())
        text += [
            "",
            "the same model by type of its layers' weights, everything else in float16 (float32 in the first):",
        ]
        text.append(memory_table(layers, rest))
    return "\n".join(text)


def rows(path: str | os.PathLike[str]) -> list[Row]:
    """The entries of an octavo file, errors estimated.

    Example:
        >>> import tempfile, numpy as np, octavo as oc
        >>> from octavo._files.inspection import rows
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     oc.save({"fc": oc.QuantLinear(np.eye(64, dtype=np.float32))}, folder + "/x.safetensors")
        ...     [(row.name, row.kind, row.file_bytes) for row in rows(folder + "/x.safetensors")]
        [('fc', 'QuantLinear int8', 4352)]
    """
    with Reader(path) as reader:
        return list(_octavo_rows(reader, None, "out_in"))


def _plain_rows(reader: Reader, layout: Layout) -> Iterator[Row]:
    layers, _ = candidates(reader, layout=layout)
    shapes = {layer.weight: Shape(*layer.shape, layer.bias is not None) for layer in layers}
    for name, t in reader.tensors.items():
        yield Row(name, t.dtype, t.shape, math.prod(t.shape), t.nbytes, t.nbytes, shapes.get(name))


def _octavo_rows(reader: Reader, against: str | os.PathLike[str] | None, layout: Layout) -> Iterator[Row]:
    layers, _, crc32 = read_header(reader)
    if against is None:
        yield from _measured(reader, layers, crc32, None, layout)
        return
    with Reader(against) as original:
        yield from _measured(reader, layers, crc32, original, layout)


def _measured(
    reader: Reader, layers: dict[str, Any], crc32: dict[str, str], original: Reader | None, layout: Layout
) -> Iterator[Row]:
    for name, item, tensors in stored_items(reader, layers, crc32):
        file_bytes = sum(reader.tensors[tensor].nbytes for tensor in tensors)
        if isinstance(item, QuantLinear):
            shape = Shape(item.out_features, item.in_features, item.bias is not None)
            error = estimated_error(item) if original is None else error_against(item, name, original, layout)
            elems = math.prod(shape[:2]) + shape.bias * shape.out_features
            yield Row(name, _kind(item), shape[:2], elems, file_bytes, item.nbytes, shape, error)
        elif isinstance(item, QuantMatrix):
            layer = item._layer
            stored: Layout = "in_out" if item.axis == 1 else "out_in"
            error = estimated_error(layer) if original is None else error_against(layer, name, original, stored)
            shape = Shape(layer.out_features, layer.in_features, False)
            yield Row(name, _kind(item), item.shape, item.size, file_bytes, item.nbytes, shape, error)
        elif isinstance(item, QuantEmbedding):
            table = (item.num_embeddings, item.embedding_dim)
            yield Row(name, _kind(item), table, math.prod(table), file_bytes, item.nbytes)
        elif isinstance(item, (QuantLSTM, QuantGRU)):
            elems = sum(array.size for array in item.weights.values())
            yield Row(name, _kind(item), (item.hidden_size, item.input_size), elems, file_bytes, item.nbytes)
        elif isinstance(item, np.ndarray):
            code = reader.tensors[name].dtype if name in reader.tensors else "text"
            yield Row(name, code, item.shape, item.size, file_bytes, item.nbytes)
        else:
            yield Row(
                name, type(item).__name__, getattr(item, "shape", ()), getattr(item, "size", 0), file_bytes, file_bytes
            )


def _kind(item: QuantLinear | QuantMatrix | QuantEmbedding | QuantLSTM | QuantGRU) -> str:
    qtype = item.qtype if isinstance(item, QuantMatrix) else item.dtype
    return f"{type(item).__name__} {qtype.name.removeprefix('q')}"


def estimated_error(layer: QuantLinear) -> float:
    """sqrt(mean(s^2)/12) / rms(W): the error of rounding alone, relative to the weights.

    Example:
        >>> import numpy as np, octavo as oc
        >>> from octavo._files.inspection import estimated_error
        >>> w = np.random.default_rng(0).standard_normal((8, 512), dtype=np.float32)
        >>> round(estimated_error(oc.QuantLinear(w)), 3)
        0.007
    """
    scale = layer.scale.astype(np.float64)
    weights = _mean_square(layer.weight)
    return math.sqrt(float(np.mean(scale**2)) / 12 / weights) if scale.size and weights else 0.0


def error_against(layer: QuantLinear, name: str, original: Reader, layout: Layout) -> float:
    """||W' - W|| / ||W|| with W from the float checkpoint.

    Raises:
        ValueError: the checkpoint has no matrix of that name and shape.
    """
    tensor = next((t for t in (f"{name}.weight" if name else "weight", name) if t in original.tensors), None)
    if tensor is None:
        raise ValueError(f"{original.path} has no tensor for the layer {name!r}")
    shape = original.tensors[tensor].shape
    if (shape if layout == "out_in" else shape[::-1]) != (layer.out_features, layer.in_features):
        raise ValueError(
            f"{original.path}: {tensor} has shape {list(shape)} with layout {layout}, "
            f"the layer {name!r} is ({layer.out_features}, {layer.in_features})"
        )
    weight = layer.weight
    difference = total = 0.0
    for start, block in as_rows(original, tensor, layout):
        exact = block.astype(np.float64)
        total += float(np.sum(exact**2))
        difference += float(np.sum((weight[start : start + len(block)] - exact) ** 2))
    original.release(tensor)
    return math.sqrt(difference / total) if total else 0.0


def _mean_square(w: NDArray[Any]) -> float:
    return float(np.mean(np.square(w, dtype=np.float64))) if w.size else 0.0


def _table(found: list[Row], error: str, quantized: bool) -> str:
    width = max([4, *(len(row.name) for row in found)])
    kinds = max([4, *(len(row.kind) for row in found)])
    head = f"{'name':{width}}  {'type':{kinds}}  {'shape':>16}  {'bytes':>15}  {'of float32':>10}"
    lines = [head + (f"  {error:>12}" if quantized else "")]
    for row in found:
        share = f"{100 * row.file_bytes / (4 * row.elems):.1f} %" if row.elems else "-"
        line = f"{row.name:{width}}  {row.kind:{kinds}}  {_shown(row.shape):>16}  {row.file_bytes:>15,}  {share:>10}"
        if quantized:
            line += f"  {'-' if row.error is None else f'{100 * row.error:.3f} %':>12}"
        lines.append(line)
    return "\n".join(lines)


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
