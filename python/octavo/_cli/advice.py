"""Times the layers of a checkpoint in float32, int8 and int4 on this machine, and says which type pays where.

Speed depends on the shape of a layer alone, so one layer of each shape is timed, on random rows. The error is that of
the weights, on 64 rows of every layer. What a model loses depends on its data too: octavo.advise(model, x) measures it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._analysis.advice import advise
from octavo._cli.arguments import add_layout, group_size, positive
from octavo._files.checkpoint import Checkpoint
from octavo._files.choice import Choice
from octavo._files.items import Matrix
from octavo._files.plan import make_plan
from octavo._files.rows import GROUP_SIZE, row_blocks, rows_at
from octavo._layers.linear import QuantLinear
from octavo._util.progress import with_bar
from octavo._util.tables import table

__all__ = ["Advised", "add_arguments", "advise_checkpoint", "command"]

DTYPES = ("int8", "int4")
_SAMPLED_ROWS = 64
_ENOUGH = 0.1  # the error from which octavo.advise says "float": 20 dB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a float checkpoint, as for octavo quantize")
    parser.add_argument(
        "--rows", type=positive, nargs="+", default=[1, 16, 256], metavar="N", help="rows of a call (default: 1 16 256)"
    )
    parser.add_argument(
        "--group-size", type=group_size, default=GROUP_SIZE, metavar="N", help=f"of int4 (default: {GROUP_SIZE})"
    )
    add_layout(parser)
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def command(arguments: argparse.Namespace) -> int:
    found = advise_checkpoint(
        arguments.file,
        rows=arguments.rows,
        group_size=arguments.group_size,
        choice=Choice(layout=arguments.layout),
        progress=not arguments.no_progress,
    )
    print(_text(found))
    return 0


@dataclass(frozen=True, slots=True)
class Advised:
    """The layers of one shape (out, in), at one number of rows.

    Attributes:
        layers: their names.
        float_seconds, seconds: of a call, in float32 and by type.
        errors: of the weights of the worst layer, relative to their RMS, by type.
    """

    shape: tuple[int, int]
    layers: tuple[str, ...]
    rows: int
    float_seconds: float
    seconds: dict[str, float]
    errors: dict[str, float]

    @property
    def best(self) -> str:
        """The fastest type whose error is small enough; "float" where none is faster than float32."""
        fit = {name: t for name, t in self.seconds.items() if self.errors[name] < _ENOUGH and t <= self.float_seconds}
        return min(fit, key=lambda name: fit[name], default="float")


def advise_checkpoint(
    path: Path, *, rows: Sequence[int], group_size: int | None, choice: Choice, progress: bool
) -> list[Advised]:
    """Times one layer of each shape, and measures the error of all.

    Raises:
        OSError, ValueError: as for `octavo._files.conversion.quantize_checkpoint`; no layer is a matrix.
        ImportError: progress without tqdm.
    """
    with Checkpoint(path) as checkpoint:
        if "octavo" in checkpoint.metadata:
            raise ValueError(f"{checkpoint.path} is quantized already; name the float checkpoint")
        layers: dict[tuple[int, int], list[tuple[str, Matrix]]] = {}
        for item in make_plan(checkpoint, choice).items:
            for m in item.matrices if item.kind != "QuantEmbedding" else ():
                name = f"{item.name}.{m.part}" if m.part else item.name
                layers.setdefault(m.shape, []).append((name, m))
        if not layers:
            raise ValueError(f"{checkpoint.path} holds no layer to quantize; `octavo inspect` lists what it holds")
        shapes: Iterable[tuple[int, int]] = with_bar(layers, "measuring", "shape") if progress else layers
        found: list[Advised] = []
        for shape in shapes:
            found += _advised(checkpoint, shape, layers[shape], rows, group_size)
    return found


def _advised(
    checkpoint: Checkpoint,
    shape: tuple[int, int],
    layers: Sequence[tuple[str, Matrix]],
    rows: Sequence[int],
    group_size: int | None,
) -> list[Advised]:
    options: dict[str, dict[str, Any]] = {"int8": {}, "int4": {"group_size": group_size}}
    errors = {dtype: max(_error(_sampled(checkpoint, m), dtype, options[dtype]) for _, m in layers) for dtype in DTYPES}
    blocks = [block for _, block in row_blocks(checkpoint, layers[0][1])]
    model = {"w": np.concatenate(blocks).astype(np.float32, copy=False)}
    measured = {
        dtype: advise(model, arrays=["w"], layout="out_in", dtype=dtype, batch_sizes=rows, **options[dtype]).rows
        for dtype in DTYPES
    }
    checkpoint.release(layers[0][1].tensor)
    names = tuple(name for name, _ in layers)
    return [
        Advised(
            shape,
            names,
            count,
            min(measured[dtype][i].float_seconds for dtype in DTYPES),
            {dtype: measured[dtype][i].quantized_seconds for dtype in DTYPES},
            errors,
        )
        for i, count in enumerate(rows)
    ]


def _sampled(checkpoint: Checkpoint, matrix: Matrix) -> NDArray[np.float32]:
    """Rows that are spread evenly over the matrix."""
    n = matrix.shape[0]
    wanted = np.unique(np.linspace(0, n - 1, min(n, _SAMPLED_ROWS)).astype(np.intp))
    sampled = rows_at(checkpoint, matrix, wanted).astype(np.float32, copy=False)
    checkpoint.release(matrix.tensor)
    return sampled


def _error(w: NDArray[np.float32], dtype: str, options: dict[str, Any]) -> float:
    whole = float(np.linalg.norm(w.astype(np.float64)))
    quantized = QuantLinear(w, dtype=dtype, **options).weight
    return float(np.linalg.norm(quantized - w.astype(np.float64))) / whole if whole else 0.0


def _text(found: Sequence[Advised]) -> str:
    header = ["layers", "first", "(out, in)", "rows", "float32", "int8", "int4", "int8 error", "int4 error", "advice"]
    lines = []
    for one in found:
        line = [str(len(one.layers)), one.layers[0], f"{one.shape[0]} x {one.shape[1]}", str(one.rows)]
        line += [f"{1e6 * one.float_seconds:.1f} us"]
        line += [f"{1e6 * one.seconds[name]:.1f} us" for name in DTYPES]
        line += [f"{100 * one.errors[name]:.2f} %" for name in DTYPES]
        lines.append([*line, one.best])
    return "\n".join(
        [
            table(header, lines),
            "",
            "Times are the fastest on random rows. Errors are those of the weights, of the worst layer of the shape; "
            "what your model loses with your data, octavo.advise(model, x) measures.",
        ]
    )
