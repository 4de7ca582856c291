"""AWQ checkpoints in their GEMM form, as AutoAWQ writes them.

NAME.qweight  I32 (k, n / 8)         eight columns a word, nibble i holds column [0, 2, 4, 6, 1, 3, 5, 7][i]
NAME.qzeros   I32 (groups, n / 8)    zero points, packed alike, 0 to 15
NAME.scales   F16 (groups, n)
NAME.bias     F16 (n,), where there is one

w[n, k] = (code[k, n] - zero[g, n]) * scale[g, n]            g = k // group_size
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from octavo.checkpoints._config import Config, choice, group_size, integer
from octavo.checkpoints._layer import Contents, Found, codes_of, fields_of_words, with_group
from octavo.checkpoints._packing import AWQ_COLUMNS, Bytes, awq_nibbles, awq_zeros
from octavo.checkpoints._tensors import Tensors

__all__ = ["find_layers"]


def find_layers(config: Config, tensors: Tensors) -> Iterator[Found]:
    """The layers of an AWQ checkpoint.

    Raises:
        ValueError: the config or a tensor is not as the format has them; file and tensor are named.
    """
    bits, group = integer(config, "bits", "w_bit"), group_size(config, "group_size", "q_group_size")
    version = choice(config, ("version", "checkpoint_format", "format"), "gemm")
    if bits != 4:
        raise ValueError(f"{config.path}: AWQ has 4 bits, got {bits}")
    if version != "gemm":
        raise ValueError(
            f"{config.path}: the {version} form of AWQ orders its codes in another way and is not read; save the model "
            'in the GEMM form (AutoAWQ: quant_config["version"] = "GEMM")'
        )
    for name in tensors.layers(".qweight"):
        yield _found(config, tensors, name, group)


def _found(config: Config, tensors: Tensors, name: str, group: int) -> Found:
    qweight, qzeros, scales = (f"{name}.{part}" for part in ("qweight", "qzeros", "scales"))
    k, across = tensors.matrix(qweight, "I32")
    n = 8 * across
    tensors.require(qzeros, qweight, "AWQ has a zero point for each group")
    tensors.require(scales, qweight, "AWQ has a scale for each group")
    groups, outputs = tensors.matrix(scales, "F16", "BF16", "F32")
    if outputs != n:
        tensors.fail(
            qweight,
            f"of shape {[k, across]} has {n} outputs, but the scales have {outputs}: it is not AWQ's GEMM form with "
            "4 bits, whatever the config says",
        )
    size = k if group == -1 else group
    if k % size or groups != k // size:
        tensors.fail(scales, f"has {groups} groups of {k} inputs, but {config.path.name} says group_size {group}")
    tensors.expect(qzeros, ("I32",), (groups, across))
    bias = tensors.bias(name, n)
    taken = (qweight, qzeros, scales, *([bias] if bias else []))
    kind = f"AWQ 4 bits, {'a row' if groups == 1 else f'groups of {size}'}"
    return Found(name, (n, k), kind, taken, bias, lambda: _open(tensors, name, (n, k), size))


def _open(tensors: Tensors, name: str, shape: tuple[int, int], size: int) -> Contents:
    n, k = shape
    raw = tensors.checkpoint.raw(f"{name}.qweight")
    scale = np.ascontiguousarray(tensors.scales(f"{name}.scales", (k // size, n)).T)
    zero = awq_zeros(tensors.checkpoint.raw(f"{name}.qzeros"))
    if k % 2:
        tensors.fail(f"{name}.qweight", f"must have an even number of inputs, got {k}")
    form = tensors.form(f"{name}.qzeros", k, 4, signed=False, group=size, zero=zero, scale=scale)

    def nibbles(first: int, end: int) -> Bytes:
        start = first // 8  # whole words
        return awq_nibbles(raw[:, start : -(-end // 8)])[first - 8 * start : end - 8 * start]

    def reference(first: int, end: int) -> NDArray[np.float32]:
        columns = np.arange(first, end)
        positions = columns // 8 * 32 + 4 * np.argsort(AWQ_COLUMNS)[columns % 8]
        zeros = fields_of_words(tensors.checkpoint.raw(f"{name}.qzeros"), 4, positions)
        scales = tensors.checkpoint.values(f"{name}.scales")[:, first:end]
        return with_group(fields_of_words(raw, 4, positions).T, zeros.T, scales.T, np.arange(k) // size)

    return Contents(form, scale, zero, codes_of(nibbles), reference, nibbles)
