"""What a call needed is freed when it returns, not by the garbage collector: weights and rows are large."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo.nn import Linear

ROWS = [np.random.default_rng(i).standard_normal((64, 64), dtype=np.float32) for i in range(2)]
GPTQ: Any = {"dtype": "int4", "group_size": 32, "rounding": "gptq", "calibration": ROWS}


class Model:
    """Two layers, the first of which is held twice."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.up = Linear(rng.standard_normal((64, 64), dtype=np.float32))
        self.down = Linear(rng.standard_normal((64, 64), dtype=np.float32))
        self.tied = self.up

    def __call__(self, x: Any) -> Any:
        return x + self.down(np.maximum(self.up(x), 0))


class Picky(Model):
    """Takes plain arrays alone, so that a run with stand-ins fails and is repeated without them."""

    def __call__(self, x: Any) -> Any:
        y = self.up(x)
        if type(y) is not np.ndarray:
            raise TypeError("not an array")
        return self.down(y)


def prepared_and_converted(folder: Path, kind: type[Model] = Model) -> None:
    model = oc.prepare(kind(), oc.default_qconfig, layers={Linear})
    oc.calibrate(model, ROWS)
    oc.convert(model)


def trained(folder: Path) -> None:
    model = oc.prepare_qat(Model(), oc.default_qat_qconfig, layers={Linear})
    oc.qat.set_parameters(model, oc.qat.parameters(model))
    oc.calibrate(model, ROWS)
    oc.convert(model)


def controlled(folder: Path) -> None:
    other = [np.ones((8, 64), np.float32)]
    oc.quantize_with_accuracy_control(
        Model(), ROWS, other, lambda results: 1.0, max_drop=0.5, layers={Linear}, progress=False
    )


def saved_and_loaded(folder: Path) -> None:
    oc.save(Model(), folder / "float")
    oc.load(folder / "float", Model())
    oc.save(oc.quantize_dynamic(Model(), {Linear}), folder / "int8")
    oc.load(folder / "int8", Model())
    oc.load(folder / "int8")


CALLS: dict[str, Callable[[Path], object]] = {
    "dynamic": lambda folder: oc.quantize_dynamic(Model(), {Linear}),
    "in place": lambda folder: oc.quantize_dynamic(Model(), {Linear}, inplace=True),
    "arrays": lambda folder: oc.quantize_dynamic({"w": np.ones((64, 64), np.float32)}, arrays={"w": "out_in"}),
    "gptq": lambda folder: oc.quantize_dynamic(Model(), {Linear}, **GPTQ),
    "gptq, in turn": lambda folder: oc.quantize_dynamic(Model(), {Linear}, **GPTQ, sequential=True),
    "static": prepared_and_converted,
    "static, without stand-ins": lambda folder: prepared_and_converted(folder, Picky),
    "training": trained,
    "smoothing": lambda folder: oc.find_smoothing(Model(), ROWS, layers={Linear}),
    "sensitivity": lambda folder: oc.sensitivity(Model(), ROWS, layers={Linear}, progress=False),
    "accuracy control": controlled,
    "comparison": lambda folder: oc.compare(Model(), oc.quantize_dynamic(Model(), {Linear}), ROWS),
    "files": saved_and_loaded,
}


@pytest.fixture
def garbage() -> Iterator[list[Any]]:
    """What only the collector would have freed, once it is asked for."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize("name", CALLS)
def test_call_leaves_no_array_to_the_collector(name: str, tmp_path: Path, garbage: list[Any]) -> None:
    CALLS[name](tmp_path)  # brings in what is imported when it is first needed
    gc.collect()
    garbage.clear()
    CALLS[name](tmp_path)
    gc.collect()
    # The collector does not see plain arrays, but what refers to them.
    left = {
        type(o).__qualname__
        for o in garbage
        if type(o).__module__ != "builtins" or any(isinstance(r, np.ndarray) for r in gc.get_referents(o))
    }
    assert not left
