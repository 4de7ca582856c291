"""Models, configurations and jobs for the tests of quantization-aware training."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
from autograd.misc.optimizers import adam

import octavo as oc


def minmax(bits: int = 8, *, learnable: bool = False, weight_bits: int | None = None) -> oc.QConfig:
    """Unsigned activations and signed symmetric weights per channel of so many bits."""
    half = 2 ** ((weight_bits or bits) - 1)
    return oc.QConfig(
        activation=oc.FakeQuantize.with_args(
            observer=oc.MinMaxObserver, learnable=learnable, dtype="quint8", quant_min=0, quant_max=2**bits - 1
        ),
        weight=oc.FakeQuantize.with_args(
            observer=oc.PerChannelMinMaxObserver, learnable=learnable, dtype="qint8",
            qscheme=oc.per_channel_symmetric, quant_min=-half, quant_max=half - 1,
        ),
    )  # fmt: skip


def mlp(*sizes: int, seed: int = 0) -> oc.nn.Sequential:
    rng = np.random.default_rng(seed)
    layers: list[Any] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [oc.nn.Linear.init(fan_in, fan_out, rng=rng), oc.nn.ReLU()]
    return oc.nn.Sequential(*layers[:-1])


def job(model: Any, x: np.ndarray, target: np.ndarray) -> Callable[[Any], Any]:
    """The loss as a function of the parameters."""
    return lambda params: anp.mean((oc.qat.apply(model, params, x) - target) ** 2)


def trained(model: Any, x: np.ndarray, target: np.ndarray, steps: int = 3) -> dict[str, np.ndarray]:
    gradient = autograd.grad(job(model, x, target))
    params = adam(lambda p, i: gradient(p), oc.qat.parameters(model), num_iters=steps, step_size=0.01)
    oc.qat.set_parameters(model, params)
    return params
