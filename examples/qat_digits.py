"""Quantization-aware training of a digits classifier at four and two bits: float, post-training, trained.

    python examples/qat_digits.py [--plot accuracy.png]

Trains 64-64-32-10 on scikit-learn's handwritten digits, quantizes weights and activations to four and to two bits after
training, then trains on with simulated integers, where scales are learned too. Prints accuracy and bytes. The integer
models hold each weight in one byte; "packed" is what their bits would take. Takes about half a minute; needs the
extras `demo` and `qat` (pip install '.[demo,qat]').
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
from autograd.misc.optimizers import adam
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import octavo as oc

SIZES = (64, 64, 32, 10)
BATCH = 64
EPOCHS = 40
BITS = (4, 2)

Params = dict[str, NDArray[np.float32]]


def float_model() -> oc.nn.Sequential:
    rng = np.random.default_rng(0)
    layers: list[Any] = []
    for fan_in, fan_out in pairwise(SIZES):
        layers += [oc.nn.Linear.init(fan_in, fan_out, rng=rng), oc.nn.ReLU()]
    return oc.nn.Sequential(*layers[:-1])


def qconfig(bits: int, *, learnable: bool) -> oc.QConfig:
    """Activations 0 .. 2**bits - 1, weights -2**(bits - 1) .. 2**(bits - 1) - 1, one scale an output channel."""
    half = 2 ** (bits - 1)
    return oc.QConfig(
        activation=oc.FakeQuantize.with_args(
            observer=oc.MinMaxObserver, learnable=learnable, dtype="quint8", quant_min=0, quant_max=2**bits - 1
        ),
        weight=oc.FakeQuantize.with_args(
            observer=oc.PerChannelMinMaxObserver, learnable=learnable, dtype="qint8",
            qscheme=oc.per_channel_symmetric, quant_min=-half, quant_max=half - 1,
        ),
    )  # fmt: skip


def train(model: Any, x: NDArray[np.float32], y: NDArray[np.int64], title: str, step_size: float) -> None:
    """Adam on the cross entropy, over batches in a new order each epoch; stores what was learned in the model."""
    rng = np.random.default_rng(1)
    order = np.concatenate([rng.permutation(len(x)) for _ in range(EPOCHS)])

    def batch(i: int) -> NDArray[np.int64]:
        return order[i * BATCH : (i + 1) * BATCH]

    def loss(params: Params, i: int) -> Any:
        rows = batch(i)
        logits = oc.qat.apply(model, params, x[rows])
        logits = logits - anp.max(logits, axis=1, keepdims=True)
        chosen = logits[np.arange(len(rows)), y[rows]]
        return anp.mean(anp.log(anp.sum(anp.exp(logits), axis=1)) - chosen)

    loss_and_gradient = autograd.value_and_grad(loss)
    steps = len(order) // BATCH
    with tqdm(total=steps, desc=title, unit="step") as bar:

        def gradient(params: Params, i: int) -> Params:
            value, g = loss_and_gradient(params, i)
            bar.update()
            if i % 20 == 0:
                bar.set_postfix(loss=f"{value:.4f}")
            return g

        oc.qat.set_parameters(model, adam(gradient, oc.qat.parameters(model), num_iters=steps, step_size=step_size))


def batches(x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    return (x[start : start + BATCH] for start in range(0, len(x), BATCH))


def accuracy(model: Any, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    return float(np.mean(np.asarray(model(x)).argmax(axis=1) == y))


def held_and_packed(model: Any, bits: int) -> tuple[int, int]:
    """Bytes of parameters in memory, and with weights at `bits` bits each."""
    if bits == 32:
        size = sum(layer.weight.nbytes + layer.bias.nbytes for layer in model if isinstance(layer, oc.nn.Linear))
        return size, size
    layers = [layer for layer in model if isinstance(layer, oc.StaticQuantLinear)]
    packed = sum(-(-bits * q.size // 8) + 8 * len(q) for q in (layer.int_repr() for layer in layers))
    return sum(layer.nbytes for layer in layers), packed


def plot(rows: list[tuple[str, int, float, int, int]], path: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    colors = {"float32": "tab:gray", "post-training": "tab:orange", "trained": "tab:blue"}
    for x, (name, _, value, _, packed) in enumerate(rows):
        axes.bar(x, 100 * value, color=colors[name])
        axes.text(x, 100 * value + 1, f"{value:.1%}\n{packed:,} B", ha="center", fontsize=8)
    axes.set_xticks(range(len(rows)), [f"{name}\n{bits} bits" for name, bits, *_ in rows], fontsize=8)
    axes.set(ylabel="accuracy in %", ylim=(0, 115), title="Digits: weights and activations of few bits")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantization-aware training of a digits classifier.")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the table")
    path = parser.parse_args().plot

    digits = load_digits()
    x = (digits.data / 16).astype(np.float32)
    x_train, x_test, y_train, y_test = train_test_split(
        x, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    # The float model trains by the same functions, with nothing rounded.
    float_qat = oc.prepare_qat(float_model(), qconfig(4, learnable=False), layers={oc.nn.Linear})
    oc.qat.disable_fake_quant(float_qat)
    train(float_qat, x_train, y_train, "float32", 0.003)
    model = oc.nn.Sequential(*(getattr(layer, "layer", layer) for layer in float_qat))  # what was there before

    rows = [("float32", 32, accuracy(model, x_test, y_test), *held_and_packed(model, 32))]
    for bits in BITS:
        prepared = oc.prepare(model, qconfig(bits, learnable=False), layers={oc.nn.Linear})
        oc.calibrate(prepared, batches(x_train[:512]))
        after = oc.convert(prepared)
        rows.append(("post-training", bits, accuracy(after, x_test, y_test), *held_and_packed(after, bits)))

        qat = oc.prepare_qat(model, qconfig(bits, learnable=True), layers={oc.nn.Linear})
        oc.calibrate(qat, batches(x_train[:512]))  # the ranges that learning starts from, and how results are used
        train(qat, x_train, y_train, f"{bits} bits", 0.003)
        trained = oc.convert(qat)
        rows.append(("trained", bits, accuracy(trained, x_test, y_test), *held_and_packed(trained, bits)))

    print(f"\n{'':14} {'bits':>4} {'accuracy':>8} {'held':>10} {'packed':>10}")
    for name, bits, value, held, packed in rows:
        print(f"{name:14} {bits:4} {value:8.2%} {held:8,} B {packed:8,} B")
    if path is not None:
        plot(rows, path)
        print(f"plot written to {path}")


if __name__ == "__main__":
    main()
