"""Where pickles find what they name.

New pickles name `octavo` alone. Pickles of 0.1.0 name its modules, which have moved since: their names answer with what
stands there now.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["PICKLED", "V0_1_0", "find", "install"]

# What is not public and yet named by pickles (`octavo._util.pickling.pickled`), and its module.
PICKLED = {
    "Entry": "_quantize.report",
    "FakeQuantizeFactory": "_quantize.training.fake_quantizer",
    "Histogram": "_observers.histogram_math",
    "ObservedLinear": "_quantize.static.observed",
    "ObservedMatrix": "_quantize.static.observed",
    "ObservedQuantStub": "_quantize.static.observed",
    "ObserverFactory": "_observers.base",
    "QATDeQuantStub": "_quantize.training.fake_layers",
    "QATLinear": "_quantize.training.fake_layers",
    "QATQuantStub": "_quantize.training.fake_layers",
    "Range": "_quantize.static.ranges",
    "Ranges": "_quantize.static.ranges",
    "Session": "_quantize.training.fake_layers",
    "Source": "_layers.arrays.traced",
    "Tracer": "_layers.arrays.traced",
    "TrainingRefused": "_models.estimators",
    "Use": "_quantize.training.fake_layers",
    "_array_from_state": "_layers.arrays.quantized",
    "_embedding_from_state": "_layers.embedding",
    "_layer_from_file": "_files.mapped_layers",
    "_linear_from_state": "_layers.linear",
    "_matrix_from_state": "_layers.matrix",
    "_matrix_of": "_layers.matrix",
    "_permuted_from_state": "_layers.permuted",
    "_qparams_from_state": "_numerics.params",
    "_recurrent_from_state": "_layers.recurrent",
    "_recurrent_of": "_layers.recurrent",
    "_static_from_state": "_layers.static",
}

# Modules of 0.1.0 that its pickles name, and what has another name today.
V0_1_0: dict[str, dict[str, str]] = {
    "advise": {},
    "arrays": {},
    "calibrated_rounding": {},
    "compare": {},
    "convert": {},
    "embedding": {"_from_state": "_embedding_from_state"},
    "fake_quantizer": {},
    "gptq": {},
    "histogram": {},
    "int4": {},
    "io": {},
    "layers": {},
    "linear": {"_from_state": "_linear_from_state"},
    "nn_recurrent": {"GRU": "nn.GRU", "LSTM": "nn.LSTM"},
    "observers": {},
    "observers_histogram": {},
    "observers_minmax": {},
    "prepare": {},
    "ptq": {},
    "qarray": {"_restored": "_array_from_state"},
    "qat_layers": {},
    "qconfig": {},
    "qmatrix": {"_from_state": "_matrix_from_state"},
    "qparams": {"_restore": "_qparams_from_state"},
    "quantize": {},
    "recurrent": {"_from_state": "_recurrent_from_state"},
    "rounding": {},
    "static_linear": {"_from_state": "_static_from_state"},
    "tracing": {},
}


def find(name: str) -> Any:
    """What pickles call octavo.NAME, though it is not public.

    Raises:
        KeyError: there is no such thing.
    """
    return getattr(importlib.import_module(f"octavo.{PICKLED[name]}"), name)


class _Moved(ModuleType):
    """A module of 0.1.0: each of its names is looked up in the package of today."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value: Any = sys.modules["octavo"]
        for part in V0_1_0[self.__name__.rpartition(".")[2]].get(name, name).split("."):
            value = getattr(value, part)
        return value


def install() -> None:
    """Makes the modules of 0.1.0 known.

    They are put where import looks first. If import loaded them, it would store each as an attribute of the package,
    in the place of the functions `prepare`, `convert` and others.
    """
    for name in V0_1_0:
        sys.modules[f"octavo.{name}"] = _Moved(f"octavo.{name}")
