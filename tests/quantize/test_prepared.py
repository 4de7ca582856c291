"""Prepared models: threads that calibrate one take turns, and preparing or quantizing one again is refused."""

from __future__ import annotations

import contextlib
import copy
import threading
from typing import Any

import numpy as np
import pytest

import octavo as oc
from static_mlp import LINEAR, data, mlp, prepare


class Meeting:
    """A model whose runs in two threads overlap, unless one waits for the other."""

    def __init__(self) -> None:
        self.layers = mlp()
        self.running = threading.Barrier(2)

    def __deepcopy__(self, memo: dict[int, Any]) -> Meeting:
        other = Meeting()
        other.layers = copy.deepcopy(self.layers, memo)
        return other

    def __call__(self, x: Any) -> Any:
        hidden = self.layers[0](x)
        with contextlib.suppress(threading.BrokenBarrierError):
            self.running.wait(0.2)
        return self.layers[4](np.maximum(self.layers[2](np.maximum(hidden, 0)), 0))


def test_threads_that_calibrate_one_model_take_turns() -> None:
    prepared, alone = prepare(Meeting()), prepare(Meeting())
    batches = [data(seed=1), 3 * data(seed=2)]
    oc.calibrate(alone, batches)
    workers = [threading.Thread(target=oc.calibrate, args=(prepared, [x])) for x in batches]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert repr(oc.convert(prepared).layers) == repr(oc.convert(alone).layers)
    assert "relu" in repr(oc.convert(prepared).layers[0])


@pytest.mark.parametrize("model", [mlp(), mlp()[0]], ids=["model", "layer"])
@pytest.mark.parametrize("prepare", [oc.prepare, oc.prepare_qat])
@pytest.mark.parametrize(
    "again",
    [
        lambda model: prepare(model),
        lambda model: oc.prepare_qat(model, oc.default_qat_qconfig, layers=LINEAR),
        lambda model: oc.quantize_dynamic(model, LINEAR),
        lambda model: oc.quantize_dynamic(model, min_size=1),
    ],
    ids=["prepare", "prepare_qat", "layers", "arrays"],
)
def test_prepared_models_are_not_prepared_or_quantized_again(model: Any, prepare: Any, again: Any) -> None:
    pytest.importorskip("autograd", reason="quantization-aware training needs autograd")
    prepared = prepare(model, oc.default_qconfig, layers=LINEAR)
    before = repr(prepared)
    with pytest.raises(ValueError, match="is already prepared: convert the model first, or pass the float model"):
        again(prepared)
    assert repr(prepared) == before


def test_other_layers_of_a_prepared_model_are_quantized() -> None:
    model = {"rnn": oc.nn.LSTM.init(4, 4), "fc": oc.nn.Linear.init(4, 4)}
    mixed = oc.quantize_dynamic(prepare(model), oc.nn.LSTM)
    assert isinstance(mixed["rnn"], oc.QuantLSTM)
    assert repr(mixed["fc"]) == "Observed(Linear(4 -> 4, bias))"
