"""bitsandbytes checkpoints of 8 bits (LLM.int8).

    NAME.weight          I8 (n, k)
    NAME.SCB             F32 (n,)       the largest absolute value of each row
    NAME.weight_format   U8 (), where there is one: 0, the order of rows

    w[n, k] = (weight[n, k] * SCB[n]) * float32(1 / 127)         as bitsandbytes has it
    w[n, k] = weight[n, k] * (SCB[n] / 127)                      as octavo has it: one rounding instead of two

The integers are the same, and so is what they stand for; about a third of the float32 weights differ in the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from octavo._numerics.params import SMALLEST_SCALE
from octavo.checkpoints._config import Config
from octavo.checkpoints._forms import Form
from octavo.checkpoints._layer import Contents, Found
from octavo.checkpoints._tensors import Tensors

__all__ = ["find_layers"]


def find_layers(config: Config, tensors: Tensors) -> Iterator[Found]:
    """The layers of a bitsandbytes checkpoint of 8 bits.

    Raises:
        ValueError: it has 4 bits, or a tensor is not as the format has it; file and tensor are named.
    """
    values = config.values
    if values.get("load_in_4bit") or values.get("_load_in_4bit"):
        kind = values.get("bnb_4bit_quant_type", "fp4")
        raise ValueError(
            f"{config.path}: {kind} of bitsandbytes holds indices into a table of 16 floats, not integers, so octavo "
            "cannot take its weights as they are; quantize the float checkpoint with `octavo quantize --dtype int4`"
        )
    for name in tensors.layers(".SCB"):
        yield _found(tensors, name)


def _found(tensors: Tensors, name: str) -> Found:
    weight, scb, order = (f"{name}.{part}" for part in ("weight", "SCB", "weight_format"))
    tensors.require(weight, scb, "SCB holds the scales of it")
    n, k = tensors.matrix(weight, "I8")
    tensors.expect(scb, ("F32",), (n,), (n, 1))
    taken = [weight, scb]
    if order in tensors.by_name:
        taken.append(order)
        if tensors.integers(order, ("U8",), (), (1,)).any():
            tensors.fail(
                order, "must be 0: other numbers are orders for a GPU; save the model with a newer bitsandbytes"
            )
    bias = tensors.bias(name, n)
    taken += [bias] if bias else []
    return Found(
        name, (n, k), "bitsandbytes int8", tuple(taken), bias, lambda: _open(tensors, name, (n, k)), "symmetric"
    )


def _open(tensors: Tensors, name: str, shape: tuple[int, int]) -> Contents:
    n, k = shape
    raw = tensors.checkpoint.raw(f"{name}.weight")
    scb: NDArray[np.float32] = np.array(tensors.checkpoint.values(f"{name}.SCB")).reshape(n)
    wrong = [int(i) for i in np.flatnonzero(scb == 0) if raw[i].any()]
    if wrong:
        tensors.fail(f"{name}.SCB", f"is 0 for output {wrong[0]}, whose integers are not all 0")
    bad = np.flatnonzero(~(np.isfinite(scb) & (scb >= 0)))
    if bad.size:
        tensors.fail(f"{name}.SCB", f"must be finite and not negative, got {scb[bad[0]]} at [{bad[0]}]")
    scale = np.maximum(scb / np.float32(127), np.float32(SMALLEST_SCALE))[
        :, None
    ]  # of a row of zeros any scale is right

    def codes(first: int, end: int) -> NDArray[np.int8]:
        return raw[first:end]

    def reference(first: int, end: int) -> NDArray[np.float32]:
        unit: NDArray[np.float32] = scb[first:end, None] / np.float32(127)
        return raw[first:end].astype(np.float32) * unit

    form = Form.of(k, 8, signed=True, group=k, zero=None, scale=scale)
    return Contents(form, scale, None, codes, reference)
