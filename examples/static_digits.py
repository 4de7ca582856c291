"""Static quantization of a digits classifier: float, dynamic, and static with three kinds of observers.

    python examples/static_digits.py [--plot layers.png]

Trains 64-256-128-10 on scikit-learn's handwritten digits, quantizes it, and prints accuracy, bytes and the time of a
call. The hidden layers of the static models hand int8 to each other, with ReLU in their clamp. Takes about ten seconds;
needs the extra `demo` (pip install '.[demo]').
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from tqdm import trange

import octavo as oc

HIDDEN = (256, 128)
EPOCHS = 30
ACTIVATIONS = {
    "static, min/max": oc.MinMaxObserver,
    "static, moving average": oc.MovingAverageMinMaxObserver,
    "static, histogram": oc.HistogramObserver,
}


def train(x: NDArray[np.float32], y: NDArray[Any]) -> oc.nn.Sequential:
    """The float model, from scikit-learn's weights."""
    classifier = MLPClassifier(HIDDEN, batch_size=64, random_state=0)
    progress = trange(EPOCHS, desc="training", unit="epoch")
    for _ in progress:
        classifier.partial_fit(x, y, classes=np.arange(10))
        progress.set_postfix(loss=f"{classifier.loss_:.4f}")
    layers: list[Any] = []
    for weight, bias in zip(classifier.coefs_, classifier.intercepts_, strict=True):
        layers += [oc.nn.Linear(np.ascontiguousarray(weight.T, np.float32), bias.astype(np.float32)), oc.nn.ReLU()]
    return oc.nn.Sequential(*layers[:-1])


def batches(x: NDArray[np.float32], size: int = 32) -> Iterator[NDArray[np.float32]]:
    return (x[start : start + size] for start in range(0, len(x), size))


def parameter_bytes(model: oc.nn.Sequential) -> int:
    quantized = sum(layer.nbytes for layer in model if isinstance(layer, oc.QuantLinear))
    return quantized + sum(v.weight.nbytes + v.bias.nbytes for v in model if isinstance(v, oc.nn.Linear))


def main() -> None:
    parser = argparse.ArgumentParser(description="Float, dynamic and static quantization of a digits classifier.")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the last static model's layers against the float ones")
    plot = parser.parse_args().plot

    digits = load_digits()
    x = (digits.data / 16).astype(np.float32)
    x_train, x_test, y_train, y_test = train_test_split(
        x, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    model = train(x_train, y_train)

    models = {"float32": model, "dynamic int8": oc.quantize_dynamic(model, {oc.nn.Linear})}
    for name, observer in ACTIVATIONS.items():
        qconfig = oc.QConfig(activation=observer)
        prepared = oc.prepare(model, qconfig, layers={oc.nn.Linear})
        oc.calibrate(prepared, batches(x_train[:512]))
        models[name] = oc.convert(prepared)

    seconds = {name: min(timeit.repeat(lambda m=m: m(x_test), number=20)) / 20 for name, m in models.items()}
    print(f"\n{'':24} {'accuracy':>8} {'parameters':>12} {f'{len(x_test)} rows':>11}")
    for name, quantized in models.items():
        accuracy = np.mean(np.asarray(quantized(x_test)).argmax(axis=1) == y_test)
        size, microseconds = f"{parameter_bytes(quantized):,} B", 1e6 * seconds[name]
        print(f"{name:24} {accuracy:8.2%} {size:>12} {microseconds:8.0f} us")

    print(f"\n{name}:")
    print(*(layer for layer in quantized if isinstance(layer, oc.StaticQuantLinear)), sep="\n")
    comparison = oc.compare(model, quantized, x_test)
    print(f"\nagainst float32:\n{comparison}")
    if plot is not None:
        comparison.plot(plot)
        print(f"plot written to {plot}")


if __name__ == "__main__":
    main()
