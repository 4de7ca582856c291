"""What a layer's inputs go through before they are quantized: a scale of each, then a rotation of blocks of them.

    x' = H D (x * c)        c = fl(1 / s), of input_scale.py; D and H of rotation.py
    W' = (W * s) D H / B    W * s in float32

Both are linear, so that x' W'^T = x W^T but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from octavo._numerics.input_scale import as_input_scale, input_factors, scaled_inputs, scaled_weight
from octavo._numerics.rotation import as_rotation, rotated, rotated_weight, rotation_signs, unrotated
from octavo._util.arrays import require_finite

if TYPE_CHECKING:
    from octavo._numerics.gptq import InputStatistics

__all__ = ["NO_TRANSFORM", "InputTransform"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class InputTransform:
    """The transform of a layer's inputs. `of` checks what it is made of.

    Attributes:
        scale: s (K,), or None.
        rotation: the size of the blocks, or None.
    """

    scale: Floats | None = None
    rotation: int | None = None

    @classmethod
    def of(cls, scale: npt.ArrayLike | None, rotation: int | None, inputs: int, name: str = "") -> InputTransform:
        """The transform of so many inputs; the name of what it is for stands in errors.

        Raises:
            TypeError, ValueError: as `as_input_scale` and `as_rotation`.

        Example:
            >>> InputTransform.of([1] * 16, 16, 16).rotation
            16
        """
        owner = f" of {name}" if name else ""
        s = as_input_scale(scale, inputs, f"pre_quant_scale{owner}")
        return cls(s, as_rotation(rotation, inputs, f"rotation{owner}"))

    def __bool__(self) -> bool:
        return self.scale is not None or self.rotation is not None

    def inputs(self, x: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """x' of x (..., K), the definition of what the kernels quantize."""
        with np.errstate(all="ignore"):
            values = np.asarray(x, np.float32) if self.scale is None else scaled_inputs(x, self.scale)
        return values if self.rotation is None else rotated(values, self.rotation)

    def weight(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """W' of W (N, K); W itself where there is neither a scale nor a rotation.

        Raises:
            ValueError: a product with the scale overflows, or what is to be rotated holds NaN or infinity.
        """
        w = scaled_weight(weight, self.scale)
        if self.rotation is None:
            return w
        require_finite(w, "weight")  # a block would be NaN of one such element
        return rotated_weight(w, self.rotation)

    def undone(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Of x itself, what W' (..., K) is of x': (W' H D) * c, in the dtype of W'."""
        w = weight if self.rotation is None else unrotated(weight, self.rotation)
        if self.scale is None:
            return w
        with np.errstate(all="ignore"):
            return w * input_factors(self.scale)

    def undone_columns(
        self, columns_of: Callable[[npt.NDArray[np.int64]], npt.NDArray[Any]], inputs: npt.NDArray[np.int64]
    ) -> npt.NDArray[Any]:
        """The same of some inputs alone: (len(inputs), N) of columns_of(indices), which gives columns of W' as rows."""
        if self.rotation is None:
            columns = columns_of(inputs)
        else:
            blocks, at = np.unique(inputs // self.rotation, return_inverse=True)
            sources = blocks[:, None] * self.rotation + np.arange(self.rotation)
            parts = columns_of(sources.ravel())
            parts = parts.reshape(len(blocks), self.rotation, parts.shape[1])
            columns = unrotated(parts.swapaxes(1, 2), self.rotation)[at, :, inputs % self.rotation]
        if self.scale is None:
            return columns
        with np.errstate(all="ignore"):
            return columns * input_factors(self.scale)[inputs, None]

    def statistics(self, statistics: InputStatistics) -> InputStatistics:
        """Those of x', from those of x.

        Raises:
            ValueError: there is a rotation, and they hold no X^T X.
        """
        return (statistics if self.scale is None else statistics.scaled(self.scale)).rotated(self.rotation)

    def same_as(self, other: InputTransform) -> bool:
        """Whether both do the same."""
        a, b = self.scale, other.scale
        same_scale = a is b or (a is not None and b is not None and np.array_equal(a, b))
        return same_scale and self.rotation == other.rotation

    def arguments(self) -> dict[str, Any]:
        """Those of `QuantLinear` that ask for it."""
        return {"pre_quant_scale": self.scale, "rotation": self.rotation}

    def packing(self, inputs: int) -> dict[str, Any]:
        """Arguments of the compiled layers of k inputs, which multiply x by the factors and then by H."""
        factors = None if self.scale is None else input_factors(self.scale)
        if self.rotation is None:
            return {} if factors is None else {"input_factor": factors}
        signs = rotation_signs(inputs, self.rotation)
        return {"input_factor": signs if factors is None else factors * signs, "rotation": self.rotation}


NO_TRANSFORM = InputTransform()
