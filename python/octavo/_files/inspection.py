"""`octavo inspect`: what a file holds, what it takes, and how far its integers are from the floats."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from octavo._files.checkpoint import Checkpoint
from octavo._files.choice import Choice
from octavo._files.header import Tensor
from octavo._files.layouts import count
from octavo._files.octavo_header import read_header
from octavo._files.packed_layout import lies_packed
from octavo._files.plan import FLOATS, make_plan
from octavo._files.save_load import stored_items
from octavo._files.sizes import Shape, memory_sizes, memory_table
from octavo._files.weight_error import ErrorOf, estimate, measure_against
from octavo._layers.embedding import QuantEmbedding
from octavo._layers.images import OWN_FAMILY
from octavo._layers.linear import Layout, QuantLinear
from octavo._layers.matrix import QuantMatrix
from octavo._layers.recurrent import QuantGRU, QuantLSTM
from octavo._util.tables import table

__all__ = ["Report", "Row", "inspect_file"]


@dataclass(frozen=True, slots=True)
class Row:
    """One layer or tensor.

    Attributes:
        name, kind, shape: as they are shown.
        elems: how many numbers it holds, a layer's bias among them.
        file_bytes, memory_bytes: in the file, and once loaded.
        layers: the matrices that are quantized, or would be.
        error: of the weights, relative to their RMS.
        is_float: whether the numbers stand for floats.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    elems: int
    file_bytes: int
    memory_bytes: int
    layers: tuple[Shape, ...] = ()
    error: float | None = None
    is_float: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """What `octavo inspect` prints: `str` gives the text, `as_json` the figures."""

    path: Path
    rows: tuple[Row, ...]
    file_bytes: int
    is_quantized: bool
    is_measured: bool
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        floats = 4 * sum(row.elems for row in self.rows)
        memory = sum(row.memory_bytes for row in self.rows)
        lines = [_table(self.rows, self.is_quantized, self.is_measured), ""]
        if self.is_quantized and not self.is_measured:
            lines += [
                "error (est.): step/sqrt(12) over the RMS of the weights, as if rounding were all of the error; "
                "--against ORIGINAL measures it",
                "",
            ]
        lines.append(
            f"{count(len(self.rows), 'entry', 'entries')}, {self.file_bytes:,} B in the file, {memory:,} B in memory; "
            f"{floats:,} B as float32 ({100 * self.file_bytes / max(floats, 1):.1f} %)"
        )
        if layers := self._layers():
            lines += [
                "",
                "the same model by type of its layers' weights; all other floats in float16 (octavo quantize --rest "
                "float16), in the first line in float32:",
                memory_table(layers, *self._rest()),
            ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def as_json(self) -> dict[str, Any]:
        """The figures, for `json.dumps`."""
        entries = [
            {key: value for key, value in asdict(row).items() if key not in ("layers", "is_float")} for row in self.rows
        ]
        sizes = {
            name: {"file_bytes": size.file, "memory_bytes": size.memory}
            for name, size in memory_sizes(self._layers(), *self._rest()).items()
        }
        return {
            "path": str(self.path),
            "file_bytes": self.file_bytes,
            "quantized": self.is_quantized,
            "error": ("measured" if self.is_measured else "estimated") if self.is_quantized else None,
            "entries": entries,
            "sizes": sizes if self._layers() else {},
            "notes": list(self.notes),
        }

    def _layers(self) -> Counter[Shape]:
        return Counter(shape for row in self.rows for shape in row.layers)

    def _rest(self) -> tuple[int, int]:
        """(floats outside the layers, bytes of all that is not floats)."""
        floats = sum(row.elems for row in self.rows if row.is_float)
        inside = sum(shape.elems * count for shape, count in self._layers().items())
        return floats - inside, sum(row.file_bytes for row in self.rows if not row.is_float)


def inspect_file(
    path: str | os.PathLike[str], *, against: str | os.PathLike[str] | None = None, layout: Layout | None = None
) -> Report:
    """A line for each layer or tensor, totals, and what the model takes in each type.

    Args:
        path: any checkpoint that `octavo quantize` reads, or what it wrote. Of an octavo file, every layer is loaded
            and every checksum verified.
        against: the float checkpoint from which it was made: errors are then measured, not estimated.
        layout: of the matrices of the float checkpoint, as for `quantize_checkpoint`.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged, or `against` does not hold the matrices.

    Example:
        >>> import tempfile, numpy as np, octavo as oc
        >>> from octavo._files.inspection import inspect_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     oc.save({"fc": oc.QuantLinear(np.eye(64, dtype=np.float32))}, folder + "/x.safetensors")
        ...     [(row.name, row.kind, row.file_bytes) for row in inspect_file(folder + "/x.safetensors").rows]
        [('fc', 'QuantLinear int8', 4352)]
    """
    with Checkpoint(path) as checkpoint:
        is_quantized = "octavo" in checkpoint.metadata
        if not is_quantized:
            if against is not None:
                raise ValueError(f"{checkpoint.path} has no quantized layers to compare with {os.fspath(against)}")
            rows, notes = _plain_rows(checkpoint, layout)
            return Report(checkpoint.path, tuple(rows), checkpoint.nbytes, False, False, tuple(notes))
        try:
            if against is None:
                rows = list(_octavo_rows(checkpoint, estimate))
            else:
                with Checkpoint(against) as original:
                    rows = list(_octavo_rows(checkpoint, measure_against(original, layout)))
        except ValueError as error:
            raise ValueError(f"cannot inspect {checkpoint.path}: {error}") from error
        said = _layout_notes(checkpoint)
        return Report(checkpoint.path, tuple(rows), checkpoint.nbytes, True, against is not None, said)


def _layout_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What is said of files whose layers lie packed."""
    families = {family for r in checkpoint.readers() for o in read_header(r)[0].values() for family in lies_packed(o)}
    return tuple(
        f"weights lie packed for {family}, {'this' if family == OWN_FAMILY else 'which is not this'} machine's family: "
        f"octavo.load(path, mmap=True) {'uses them in place' if family == OWN_FAMILY else 'packs them anew'}"
        for family in sorted(families)
    )


def _plain_rows(checkpoint: Checkpoint, layout: Layout | None) -> tuple[list[Row], list[str]]:
    """Rows of a float checkpoint, with what `octavo quantize` would make of each tensor."""
    kinds: dict[str, str] = {}
    layers: dict[str, tuple[Shape, ...]] = {}
    notes = []
    try:
        for item in make_plan(checkpoint, Choice(layout=layout)).items:
            for m in item.matrices:
                kinds[m.tensor] = item.kind
                shape = Shape(*m.shape, m.bias is not None, item.kind == "QuantEmbedding")
                layers[m.tensor] = (*layers.get(m.tensor, ()), shape)
    except ValueError as error:
        notes.append(str(error))
    rows = []
    for name, t in checkpoint.tensors.items():
        kind = f"{t.dtype} -> {kinds[name]}" if name in kinds else t.dtype
        is_float = t.dtype in FLOATS
        own = layers.get(name, ())
        rows.append(Row(name, kind, t.shape, math.prod(t.shape), t.nbytes, t.nbytes, own, is_float=is_float))
    return rows + _foreign_rows(checkpoint), notes


def _foreign_rows(checkpoint: Checkpoint) -> list[Row]:
    return [
        Row(name, f"{t.dtype}, unreadable", t.shape, math.prod(t.shape), t.nbytes, 0, is_float=False)
        for name, t in checkpoint.foreign.items()
    ]


def _octavo_rows(checkpoint: Checkpoint, error_of: ErrorOf) -> Iterator[Row]:
    for reader in checkpoint.readers():
        layers, _, crc32 = read_header(reader)
        for name, item, tensors in stored_items(reader, layers, crc32):
            if not isinstance(item, Tensor):
                file_bytes = sum(reader.tensors[tensor].nbytes for tensor in tensors)
                stored = reader.tensors[name].dtype if name in reader.tensors else "text"
                yield _octavo_row(name, item, stored, file_bytes, error_of(name, item))
    yield from _foreign_rows(checkpoint)


def _octavo_row(name: str, item: Any, stored: str, file_bytes: int, error: float | None) -> Row:
    """`stored` is the type of an array in the file."""
    if isinstance(item, np.ndarray):
        return Row(name, stored, item.shape, item.size, file_bytes, item.nbytes, is_float=item.dtype.kind == "f")
    shape, shapes = _sizes(item)
    if not shapes:
        own_shape, size = getattr(item, "shape", ()), getattr(item, "size", 0)
        return Row(name, type(item).__name__, own_shape, size, file_bytes, file_bytes, is_float=False)
    qtype = item.qtype if isinstance(item, QuantMatrix) else item.dtype
    kind = f"{type(item).__name__} {qtype.name.removeprefix('q')}"
    elems = sum(inner.elems for inner in shapes)
    return Row(name, kind, shape, elems, file_bytes, item.nbytes, shapes, error)


def _sizes(item: Any) -> tuple[tuple[int, ...], tuple[Shape, ...]]:
    """What is shown as the shape of a stored layer, and its matrices; none for other objects."""
    if isinstance(item, QuantLinear):
        return (item.out_features, item.in_features), (_shape_of(item),)
    if isinstance(item, QuantMatrix):
        return item.shape, (_shape_of(item._layer),)
    if isinstance(item, QuantEmbedding):
        shape = item.num_embeddings, item.embedding_dim
        return shape, (Shape(*shape, False, True),)
    if isinstance(item, (QuantLSTM, QuantGRU)):
        return (item.hidden_size, item.input_size), tuple(_shape_of(layer) for layer in item._layers.values())
    return (), ()


def _shape_of(layer: QuantLinear) -> Shape:
    return Shape(layer.out_features, layer.in_features, layer.bias is not None)


# Text


def _table(rows: tuple[Row, ...], is_quantized: bool, is_measured: bool) -> str:
    header = ["name", "type", "shape", "bytes", "of float32"]
    header += ["error" if is_measured else "error (est.)"] if is_quantized else []
    lines = []
    for row in rows:
        share = f"{100 * row.file_bytes / (4 * row.elems):.1f} %" if row.elems else "-"
        line = [row.name, row.kind, " x ".join(map(str, row.shape)) or "scalar", f"{row.file_bytes:,}", share]
        line += ["-" if row.error is None else f"{100 * row.error:.3f} %"] if is_quantized else []
        lines.append(line)
    return table(header, lines)
