"""Trains a model on real data, quantizes it with one call, and shows what that costs and gains."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import nn
from octavo._cli.arguments import positive, require_folder_of
from octavo._layers.linear import QuantLinear
from octavo._quantize.dynamic import quantize_dynamic
from octavo._util.extras import import_extra
from octavo._util.plots import GOOD, GRID, Panel, bar_panels
from octavo._util.timing import duration, interleaved
from octavo.runtime import get_num_threads, kernels

HIDDEN = (1024, 1024)
BATCHES = (1, 1024)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the table")
    parser.add_argument("--epochs", type=positive, default=12, help="passes over the training data (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="of the data's split and the weights (default: 0)")


def command(arguments: argparse.Namespace) -> int:
    require_folder_of(arguments.plot, "--plot")
    result = run(epochs=arguments.epochs, seed=arguments.seed)
    print(table(result))
    if arguments.plot is not None:
        plot(result, arguments.plot)
        print(f"plot written to {arguments.plot}")
    return 0


@dataclass(frozen=True, slots=True)
class Row:
    """One model's line of the table. Seconds are the fastest of a call, by batch size."""

    name: str
    accuracy: float
    parameter_bytes: int
    seconds: dict[int, float]
    largest_difference: float


@dataclass(frozen=True, slots=True)
class Result:
    rows: tuple[Row, Row]
    kernel: str
    threads: int


def run(*, epochs: int = 12, seed: int = 0) -> Result:
    """Trains 64-1024-1024-10 on scikit-learn's handwritten digits, quantizes it, and measures both.

    Raises:
        ImportError: scikit-learn or tqdm is missing; the message names the extra that brings them.
    """
    x_train, x_test, y_train, y_test = _digits(seed)
    model = _train(x_train, y_train, epochs, seed)
    quantized = quantize_dynamic(model, {nn.Linear})

    everything = np.concatenate([x_train, x_test])
    logits = model(x_test), quantized(x_test)
    seconds: dict[int, dict[str, float]] = {}
    for batch in BATCHES:
        x = np.ascontiguousarray(everything[:batch])
        contenders = {"float32": lambda x=x: model(x), "int8": lambda x=x: quantized(x)}
        times = interleaved(contenders, rounds=10, round_seconds=0.025)
        seconds[batch] = {name: min(t.rounds) for name, t in times.items()}
    rows = [
        Row(
            name=name,
            accuracy=float(np.mean(out.argmax(axis=1) == y_test)),
            parameter_bytes=sum(_layer_bytes(layer) for layer in layers),
            seconds={batch: seconds[batch][name] for batch in BATCHES},
            largest_difference=float(np.abs(out - logits[0]).max()),
        )
        for name, out, layers in zip(("float32", "int8"), logits, (model, quantized), strict=True)
    ]
    active = next(k.name for k in kernels() if k.active)
    return Result((rows[0], rows[1]), active, get_num_threads())


def table(result: Result) -> str:
    """The result as text, one line a model."""
    base = result.rows[0]
    head = f"{'':8} {'accuracy':>8} {'parameters':>12} {'batch 1':>19} {'batch 1024':>19} {'largest difference':>19}"
    lines = [head]
    for row in result.rows:
        times = [f"{1e6 * row.seconds[b]:9.1f} us {base.seconds[b] / row.seconds[b]:5.2f}x" for b in BATCHES]
        size = f"{row.parameter_bytes:,} B"
        lines.append(
            f"{row.name:8} {100 * row.accuracy:7.2f}% {size:>12} {times[0]:>19} {times[1]:>19} "
            f"{row.largest_difference:19.4f}"
        )
    share = result.rows[1].parameter_bytes / base.parameter_bytes
    lines.append(f"int8 takes {100 * share:.1f}% of the bytes; kernel {result.kernel}, {result.threads} thread(s)")
    return "\n".join(lines)


def plot(result: Result, path: Path) -> None:
    """Draws the table as bars.

    Raises:
        ImportError: matplotlib is missing; the message has the command that installs it.
    """
    rows = result.rows
    colours = [GRID, GOOD]
    accuracies, sizes = [100 * row.accuracy for row in rows], [row.parameter_bytes / 1e6 for row in rows]
    panels = [
        Panel("Test accuracy", accuracies, [f"{value:.2f} %" for value in accuracies], colours),
        Panel("Parameters, MB", sizes, colours=colours),
    ]
    for batch in BATCHES:
        times = [row.seconds[batch] for row in rows]
        title = f"{batch} row{'s' if batch > 1 else ''}, ms a call"
        panels.append(Panel(title, [1e3 * t for t in times], [duration(t) for t in times], colours))
    bar_panels([row.name for row in rows], panels, path=path, axes=None)


def _digits(seed: int) -> tuple[NDArray[Any], ...]:
    """(x_train, x_test, y_train, y_test); pixels scaled to 0..1, float32."""
    data = _extra("sklearn.datasets").load_digits()
    split = _extra("sklearn.model_selection").train_test_split
    x = (data.data / 16).astype(np.float32)
    return tuple(split(x, data.target, test_size=0.25, random_state=seed, stratify=data.target))


def _extra(module: str) -> Any:
    return import_extra(module, purpose="the demo", extra="demo")


def _train(x: NDArray[np.float32], y: NDArray[Any], epochs: int, seed: int) -> nn.Sequential:
    classifier = _extra("sklearn.neural_network").MLPClassifier(HIDDEN, batch_size=128, random_state=seed)
    classes = np.unique(y)
    progress = _extra("tqdm").trange(epochs, desc="training", unit="epoch")
    for _ in progress:
        classifier.partial_fit(x, y, classes=classes)
        progress.set_postfix(loss=f"{classifier.loss_:.4f}")
    layers: list[Any] = []
    for weight, bias in zip(classifier.coefs_, classifier.intercepts_, strict=True):
        layers += [nn.Linear(np.ascontiguousarray(weight.T, np.float32), bias.astype(np.float32)), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _layer_bytes(layer: Any) -> int:
    if isinstance(layer, QuantLinear):
        return layer.nbytes
    if isinstance(layer, nn.Linear):
        return layer.weight.nbytes + (0 if layer.bias is None else layer.bias.nbytes)
    return 0
