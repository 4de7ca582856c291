"""Integers of other tools as octavo holds them: what becomes of codes, scales and zero points, without loss.

    w[n, k] = (code[n, k] - zero[n, g]) * scale[n, g]                 g = k // group

Zero points that are all alike are taken off the codes, where these then still fit their type. Codes of 2 and 3 bits
take 4 in memory. Groups of another size than the kernels' are split into smaller ones with the same parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from octavo._layers.linear import QuantLinear
from octavo._layers.weights import ActivationScheme
from octavo._numerics.grouped import GROUP_SIZES, GroupedCodes
from octavo._numerics.grouped_definition import ACTIVATION_GROUPS
from octavo._numerics.int4 import GroupedWeight

__all__ = [
    "ActivationGroup", "Form", "Weight", "activation_group_for", "dequantized", "make_layer", "make_weight",
    "parameters",
]  # fmt: skip

ActivationGroup = int | Literal["auto"] | None
Weight = tuple[NDArray[np.int8], NDArray[np.float32]] | GroupedCodes | GroupedWeight


@dataclass(frozen=True, slots=True)
class Form:
    """How the integers of a layer are held.

    Attributes:
        kind: "int8": one scale an output and nothing else; "int4": 4-bit groups of 32 or a multiple of it, the last of
            which may be shorter, beside x with one scale a row; else "grouped".
        bits: 4 or 8, in memory.
        shift: what is taken off each code and zero point.
        has_zero: whether zero points are left.
        signed: whether codes and zero points are, less `shift`.
        group_size: inputs that share a scale; None: all of a row.
        repeat: how many groups each one of the file becomes.
    """

    kind: Literal["int8", "grouped", "int4"]
    bits: int
    shift: int
    has_zero: bool
    signed: bool
    group_size: int | None
    repeat: int = 1

    @classmethod
    def of(cls, k: int, bits: int, *, signed: bool, group: int, zero: NDArray[Any] | None, scale: NDArray[Any]) -> Form:
        """That of codes of `bits` bits, in groups of `group` of k inputs.

        Args:
            zero: (n, groups) zero points, or None where all are 0.
            scale: (n, groups).

        Raises:
            ValueError: octavo has no such form: a group size that no size of its kernels divides, or a zero point
                beyond what the codes' type holds.

        Example:
            >>> import numpy as np
            >>> from octavo.checkpoints._forms import Form
            >>> ones = np.ones((1, 2), np.float32)
            >>> Form.of(128, 4, signed=False, group=64, zero=8 * ones, scale=ones)
            Form(kind='grouped', bits=4, shift=8, has_zero=False, signed=True, group_size=64, repeat=1)
        """
        held, middle = (4 if bits <= 4 else 8), 1 << (bits - 1)
        centred = not signed and zero is not None and bool((zero == middle).all())
        has_zero = not centred and zero is not None and bool((zero != 0).any())
        if has_zero and zero is not None:
            low, high = (-middle, middle - 1) if signed else (0, 16 if held == 4 else 255)
            _require_zero_points(zero, low, high)
        shift = middle if centred else 0  # taken off, it leaves signed codes without zero points
        own = signed or centred
        if group >= k:
            plain = held == 8 and not has_zero and own and scale.min(initial=1) > 0
            return cls("int8" if plain else "grouped", held, shift, has_zero, own, None)
        size = next((s for s in GROUP_SIZES[::-1] if group % s == 0 and k % s == 0), None)
        if size is not None:
            return cls("grouped", held, shift, has_zero, own, size, group // size)
        if held == 4 and group % 32 == 0:  # whose codes are signed, and have zero points in their place
            return cls("int4", 4, 0 if signed else 8, has_zero if own else True, True, group)
        raise ValueError(
            f"groups of {group} in {k} inputs are not supported: one of {GROUP_SIZES} must divide both, or with 4-bit "
            "codes 32 must divide the size of the groups"
        )

    def beside_rows(self, scale: NDArray[Any], zero: NDArray[Any] | None) -> Form:
        """The form for x with one scale a row: that of `QuantLinear(dtype="int4")`, which is faster, where it can hold
        the weights. It has no scale of zero, and no zero point of 16.

        Args:
            scale, zero: (n, groups) of the file, as for `of`.

        Example:
            >>> import numpy as np
            >>> from octavo.checkpoints._forms import Form
            >>> ones = np.ones((1, 2), np.float32)
            >>> form = Form.of(128, 4, signed=False, group=64, zero=7 * ones, scale=ones)
            >>> form.beside_rows(ones, 7 * ones)
            Form(kind='int4', bits=4, shift=8, has_zero=True, signed=True, group_size=64, repeat=1)
        """
        size = None if self.group_size is None else self.group_size * self.repeat
        if self.kind != "grouped" or self.bits != 4 or (size is not None and size % 32):
            return self
        if not scale.all() or (zero is not None and zero.max(initial=0) > 15):
            return self
        same = replace(self, kind="int4", group_size=size, repeat=1)
        return same if self.signed else replace(same, shift=8, has_zero=True, signed=True)


def _require_zero_points(zero: NDArray[Any], low: int, high: int) -> None:
    bad = (zero < low) | (zero > high)
    if bad.any():
        at = [int(i) for i in np.argwhere(bad)[0]]
        raise ValueError(f"zero points must be in {low}..{high}, got {zero[tuple(at)]} at {at} (output, group)")


def make_weight(form: Form, codes: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None) -> Weight:
    """The weights of some outputs: codes (n, k) as the file has them, scale and zero (n, groups of the file)."""
    shifted = codes
    if form.shift:
        shifted = (codes - np.uint8(form.shift)).view(np.int8)
    if form.kind == "int8":
        return np.ascontiguousarray(shifted), np.ascontiguousarray(scale[:, 0], np.float32)
    scale, own = parameters(form, codes.shape[1], scale, zero)
    if form.kind == "int4":
        dtype: Literal["float16", "float32"] = "float16" if scale.dtype == np.float16 else "float32"
        return GroupedWeight(shifted, scale.astype(np.float32), own, form.group_size, dtype)
    return GroupedCodes(shifted, scale, form.bits, form.group_size, zero_point=own)


def parameters(
    form: Form, k: int, scale: NDArray[Any], zero: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The scales and zero points of some outputs for grouped codes, in their groups and types."""
    own = None
    if form.has_zero:
        held = np.zeros(scale.shape, np.int16) if zero is None else zero
        own = (held - np.int16(form.shift)).astype(np.int8 if form.signed else np.uint8)
    if form.repeat > 1 and form.group_size is not None:
        count = k // form.group_size  # the last group of the file may be shorter
        scale = np.repeat(scale, form.repeat, axis=1)[:, :count]
        own = None if own is None else np.repeat(own, form.repeat, axis=1)[:, :count]
    return np.ascontiguousarray(scale), own


def activation_group_for(form: Form, activation: str, group: ActivationGroup) -> int | None:
    """What "auto" means: groups of the weights' size, at least 32; a scale a row beside weights without groups.

    Example:
        >>> from octavo.checkpoints._forms import Form, activation_group_for
        >>> activation_group_for(Form("grouped", 4, 8, False, True, 128), "symmetric", "auto")
        128
    """
    if group != "auto":
        return group
    if activation != "symmetric" or form.kind != "grouped" or form.group_size is None:
        return None
    found = max(32, form.group_size)
    return found if found in ACTIVATION_GROUPS else None


def make_layer(
    weight: Weight,
    bias: NDArray[Any] | None,
    *,
    activation: ActivationScheme,
    activation_group: int | None,
) -> QuantLinear:
    """The layer of these weights."""
    if isinstance(weight, tuple):
        return QuantLinear.from_quantized(*weight, bias, activation=activation, activation_group=activation_group)
    return QuantLinear.from_grouped(weight, bias, activation=activation, activation_group=activation_group)


def dequantized(weight: Weight) -> NDArray[np.float32]:
    """(n, k) float32."""
    if isinstance(weight, tuple):
        return np.multiply(weight[0], weight[1][:, None], dtype=np.float32)
    return weight.dequantize()
