"""GPTQ checkpoints, as AutoGPTQ and GPTQModel write them.

    NAME.qweight  I32 (k * bits / 32, n)          codes of a column in a stream of words, k ascending
    NAME.qzeros   I32 (groups, n * bits / 32)     zero points of a group in a stream; less 1 in version 1
    NAME.scales   F16 (groups, n)
    NAME.g_idx    I32 (k,)                        the group of each input
    NAME.bias     F16 (n,), where there is one

    w[n, k] = (code[k, n] - zero[g_idx[k], n]) * scale[g_idx[k], n]

Version 1 stores a zero point z as z - 1, so they are 1 to 2**bits: 16 with four bits. "checkpoint_format": "gptq_v2"
says that they are stored as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.checkpoints._config import Config, choice, group_size, integer
from octavo.checkpoints._layer import Contents, Found, codes_of, fields_of_words, with_group
from octavo.checkpoints._packing import Bytes, stream_values, turned_words
from octavo.checkpoints._tensors import Tensors, group_order

__all__ = ["find_layers"]

_BITS = (2, 3, 4, 8)
_FORMATS = ("gptq", "gptq_v2")


def find_layers(config: Config, tensors: Tensors) -> Iterator[Found]:
    """The layers of a GPTQ checkpoint.

    Raises:
        ValueError: the config or a tensor is not as the format has them; file and tensor are named.
    """
    bits, group = integer(config, "bits", "w_bit"), group_size(config, "group_size", default=-1)
    if bits not in _BITS:
        raise ValueError(f"{config.path}: bits must be one of {_BITS}, got {bits}")
    version = choice(config, ("checkpoint_format", "format"), "gptq")
    if version not in _FORMATS:
        raise ValueError(f"{config.path}: checkpoint_format {version!r} is not read; these are: {', '.join(_FORMATS)}")
    own_bits = bool(config.values.get("dynamic"))  # GPTQModel: some layers have settings of their own
    raised = 0 if version == "gptq_v2" else 1  # what is added to stored zero points
    for name in tensors.layers(".qweight"):
        yield _found(config, tensors, name, None if own_bits else bits, None if own_bits else group, raised)


def _found(config: Config, tensors: Tensors, name: str, bits: int | None, group: int | None, raised: int) -> Found:
    qweight, qzeros, scales, g_idx = (f"{name}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx"))
    packed_rows, n = tensors.matrix(qweight, "I32")
    tensors.require(qzeros, qweight, "GPTQ has a zero point for each group")
    tensors.require(scales, qweight, "GPTQ has a scale for each group")
    tensors.require(
        g_idx, qweight, "it says which group an input belongs to, and without it that is not known; convert it anew"
    )
    k = tensors.expect(g_idx, ("I32", "I64")).shape
    if len(k) != 1 or k[0] == 0 or 32 * packed_rows % k[0]:
        tensors.fail(g_idx, f"must have one entry an input, got shape {list(k)} for a qweight of {packed_rows} rows")
    inputs, held = k[0], 32 * packed_rows // k[0]
    if held not in _BITS or (bits is not None and held != bits):
        said = f"{config.path.name} says {bits} bits" if bits is not None else f"bits are one of {_BITS}"
        tensors.fail(qweight, f"has {packed_rows} rows for {inputs} inputs, so {held} bits a weight, but {said}")
    groups = tensors.matrix(scales, "F16", "BF16", "F32")[0]
    size = -(-inputs // groups) if group is None else inputs if group == -1 else min(group, inputs)
    if -(-inputs // size) != groups:
        tensors.fail(scales, f"has {groups} groups of {inputs} inputs, but {config.path.name} says group_size {group}")
    tensors.expect(scales, ("F16", "BF16", "F32"), (groups, n))
    tensors.expect(qzeros, ("I32",), (groups, -(-n * held // 32)))
    bias = tensors.bias(name, n)
    return Found(
        name,
        (n, inputs),
        f"GPTQ{' v2' if raised == 0 else ''} {held} bits, {'a row' if groups == 1 else f'groups of {size}'}",
        (qweight, qzeros, scales, g_idx, *([bias] if bias else [])),
        bias,
        lambda: _open(tensors, name, (n, inputs), held, size, raised),
    )


def _open(tensors: Tensors, name: str, shape: tuple[int, int], bits: int, size: int, raised: int) -> Contents:
    n, k = shape
    raw = tensors.checkpoint.raw(f"{name}.qweight")
    groups = -(-k // size)
    scale = np.ascontiguousarray(tensors.scales(f"{name}.scales", (groups, n)).T)
    stored = stream_values(tensors.checkpoint.raw(f"{name}.qzeros"), bits, n)
    zero = np.ascontiguousarray(stored.T).astype(np.int16) + np.int16(raised)
    index = tensors.integers(f"{name}.g_idx", ("I32", "I64"), (k,)).astype(np.int64)
    permutation = group_order(tensors, f"{name}.g_idx", index, size, groups)
    form = tensors.form(f"{name}.qzeros", k, bits, signed=False, group=size, zero=zero, scale=scale)

    def nibbles(first: int, end: int) -> Bytes:
        return turned_words(raw[:, first:end])

    def codes(first: int, end: int) -> NDArray[Any]:
        found = stream_values(nibbles(first, end), bits, k)
        return found if permutation is None else np.take(found, permutation, axis=1)

    def reference(first: int, end: int) -> NDArray[np.float32]:
        values = fields_of_words(raw[:, first:end].T, bits, bits * np.arange(k))
        zeros = fields_of_words(tensors.checkpoint.raw(f"{name}.qzeros"), bits, bits * np.arange(first, end)) + raised
        return with_group(values, zeros.T, tensors.checkpoint.values(f"{name}.scales")[:, first:end].T, index)

    whole = bits == 4 and permutation is None and k % 8 == 0
    return Contents(
        form,
        scale,
        zero,
        codes_of(nibbles) if whole else codes,
        reference,
        nibbles if whole else None,
        permutation,
    )
