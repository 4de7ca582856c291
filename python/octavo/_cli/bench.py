"""Times int8 layers beside NumPy's float32 x @ W + b, on this machine, both with the same number of threads."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from octavo import runtime
from octavo._cli.arguments import positive, require_folder_of
from octavo._layers.linear import QuantLinear
from octavo._util.timing import Timing, interleaved

Shape = tuple[int, int, int]

# M x K x N: a tiny layer, layers of BERT-base, a layer of Llama-7B.
SHAPES: tuple[Shape, ...] = (
    (1, 64, 32),
    (1, 768, 768),
    (1, 4096, 4096),
    (16, 768, 3072),
    (128, 768, 3072),
    (512, 768, 3072),
    (512, 3072, 768),
)

# Where NumPy's matrix libraries read their number of threads, once, when they are loaded.
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

# Both operands are rounded to 8 bits; results have unit variance and errors of about 0.01.
LARGEST_ERROR = 0.1
_ROWS_CHECKED = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive, help="of both (default: as many as octavo would use)")
    parser.add_argument("--kernel", help="force one by name, see octavo info (NumPy keeps its own)")
    parser.add_argument("--shapes", nargs="+", metavar="MxKxN", help="instead of the usual ones")
    parser.add_argument("--rounds", type=positive, default=5, help="of which the median counts (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures")


def command(arguments: argparse.Namespace) -> int:
    shapes = [parse_shape(text) for text in arguments.shapes] if arguments.shapes else SHAPES
    require_folder_of(arguments.json, "--json")
    if arguments.kernel is not None:
        runtime.use_kernel(arguments.kernel)
    threads = arguments.threads or runtime.get_num_threads()
    runtime.set_num_threads(threads)
    environment = environment_for(threads, os.environ)
    if environment is not None:  # NumPy's library has its threads already: once more, in a process that sets them
        return subprocess.run(_again(arguments, threads), env=environment, check=False).returncode
    print("\n".join(runtime.config_lines()))
    rows = run(shapes, rounds=arguments.rounds)
    print(table(rows))
    if arguments.json is not None:
        write_json(rows, arguments.json)
    return 0 if all(row.is_right for row in rows) else 1


def _again(arguments: argparse.Namespace, threads: int) -> list[str]:
    """The command line of a process that does the same with this number of threads."""
    line = [sys.executable, "-m", "octavo", "bench", "--threads", str(threads), "--rounds", str(arguments.rounds)]
    given = {"--kernel": arguments.kernel, "--json": arguments.json}
    for option, value in given.items():
        line += [] if value is None else [option, str(value)]
    return [*line, "--shapes", *arguments.shapes] if arguments.shapes else line


@dataclass(frozen=True, slots=True)
class Row:
    """One layer's figures. ``largest_error`` is octavo's, absolute, against float64; results have unit variance."""

    shape: Shape
    numpy: Timing
    octavo: Timing
    largest_error: float

    @property
    def tops(self) -> float:
        """10^12 multiplications and additions a second, of octavo."""
        m, k, n = self.shape
        return 2 * m * k * n / self.octavo.median / 1e12

    @property
    def ratio(self) -> float:
        """NumPy's time over octavo's."""
        return self.numpy.median / self.octavo.median

    @property
    def is_right(self) -> bool:
        return self.largest_error <= LARGEST_ERROR


def parse_shape(text: str) -> Shape:
    """(M, K, N) of "MxKxN".

    Raises:
        ValueError: the text is not three positive whole numbers with x between.

    Example:
        >>> from octavo._cli.bench import parse_shape
        >>> parse_shape("16x768x3072")
        (16, 768, 3072)
    """
    sizes = text.split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(f"a shape must be MxKxN, as 16x768x3072, got {text!r}")
    m, k, n = map(int, sizes)
    return m, k, n


def environment_for(threads: int, environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment of a process in which NumPy uses that many threads too; None where this one is such.

    Example:
        >>> from octavo._cli.bench import environment_for
        >>> sorted(environment_for(2, {}).items())[0]
        ('MKL_NUM_THREADS', '2')
        >>> environment_for(2, environment_for(2, {})) is None
        True
    """
    wanted = dict.fromkeys(THREAD_VARIABLES, str(threads))
    if all(environment.get(name) == value for name, value in wanted.items()):
        return None
    return {**environment, **wanted}


def run(shapes: Sequence[Shape] = SHAPES, *, rounds: int = 5, round_seconds: float = 0.05) -> list[Row]:
    """Times x @ W + b and the int8 layer in turn, float32 in, float32 out, with the kernel and threads in force.

    Args:
        shapes: M x K x N of x (M, K) times W (K, N).
        rounds: of which the median counts.
        round_seconds: how long each contender is called in each round; once at least.

    Example:
        >>> from octavo._cli import bench
        >>> [row] = bench.run([(1, 64, 32)], rounds=1, round_seconds=0.001)
        >>> row.is_right
        True
    """
    return [_measure(shape, rounds, round_seconds) for shape in shapes]


def _measure(shape: Shape, rounds: int, round_seconds: float) -> Row:
    m, k, n = shape
    rng = np.random.default_rng(m + k + n)
    x = rng.standard_normal((m, k), dtype=np.float32)
    weight = rng.standard_normal((k, n), dtype=np.float32) / np.float32(k**0.5)
    bias = rng.standard_normal(n, dtype=np.float32)
    layer = QuantLinear(weight.T, bias)
    expected = x[:_ROWS_CHECKED].astype(np.float64) @ weight.astype(np.float64) + bias
    error = float(np.abs(layer(x)[:_ROWS_CHECKED] - expected).max())
    contenders = {"numpy": lambda: x @ weight + bias, "octavo": lambda: layer(x)}
    timings = interleaved(contenders, rounds=rounds, round_seconds=round_seconds)
    return Row(shape, timings["numpy"], timings["octavo"], error)


def table(rows: Sequence[Row]) -> str:
    """The rows in columns, and under them who is wrong."""
    lines = [f"{'M x K x N':>16} {'numpy':>12} {'spread':>7} {'octavo':>12} {'spread':>7} {'TOPS':>6} {'ratio':>7}"]
    for row in rows:
        lines.append(
            f"{_name(row.shape):>16} {1e6 * row.numpy.median:9.1f} us {100 * row.numpy.spread:6.0f}% "
            f"{1e6 * row.octavo.median:9.1f} us {100 * row.octavo.spread:6.0f}% {row.tops:6.3f} {row.ratio:6.2f}x"
        )
    wrong = [row for row in rows if not row.is_right]
    lines += [f"wrong at {_name(row.shape)}: an error of {row.largest_error:.3g}" for row in wrong]
    return "\n".join(lines)


def write_json(rows: Sequence[Row], path: Path) -> None:
    """All figures, in seconds, with what ran."""
    kernel = next(k.name for k in runtime.kernels() if k.active)
    figures = [
        {
            "shape": row.shape,
            "numpy_seconds": row.numpy.rounds,
            "octavo_seconds": row.octavo.rounds,
            "ratio": row.ratio,
            "largest_error": row.largest_error,
        }
        for row in rows
    ]
    blas = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    head = {"cpu": runtime.cpu_info().brand, "kernel": kernel, "threads": runtime.get_num_threads(), "blas": blas}
    path.write_text(json.dumps({**head, "numpy": np.__version__, "rows": figures}, indent=1))


def _name(shape: Shape) -> str:
    return "x".join(map(str, shape))
