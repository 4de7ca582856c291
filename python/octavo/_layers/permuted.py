"""PermutedQuantLinear: a layer whose groups of inputs are not consecutive, as GPTQ's "act-order" leaves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo._layers.held_weights import HeldWeights
from octavo._layers.linear import QuantLinear, _linear_from_state
from octavo._layers.packing import no_result
from octavo._numerics.checks import as_activations
from octavo._util.arrays import locked, read_only
from octavo._util.foreign import as_array
from octavo._util.pickling import pickled

__all__ = ["PermutedQuantLinear"]


class PermutedQuantLinear(QuantLinear):
    """y = layer(x[..., permutation]): a `QuantLinear` whose weights stand in another order than the inputs.

    Scales belong to groups of consecutive inputs of the weights as they are held. Where a tool has grouped inputs that
    do not lie side by side (GPTQ's g_idx), sorting them by group makes the groups consecutive, and x is put into that
    order when the layer is called. Integers are multiplied as they are, so this is exact; it costs one pass over x.

    Args:
        layer: the layer for inputs in the order of its groups. Its packed weights are shared, not copied.
        permutation: (in_features,) integers: input i of `layer` is input permutation[i] of this one.

    Raises:
        TypeError: layer is not a plain QuantLinear, or permutation does not hold integers.
        ValueError: permutation is not one of 0..in_features - 1, or the layer has a rotation.

    Notes:
        `weight` and `int_repr` have the order of x. `scale`, `zero_point`, `pre_quant_scale` and `grouped` have that of
        the groups.

    Example:
        >>> import numpy as np, octavo as oc
        >>> inner = oc.QuantLinear.from_quantized(np.array([[1, 2, 3]], np.int8), 1.0)
        >>> layer = oc.PermutedQuantLinear(inner, [2, 0, 1])
        >>> layer.weight, layer(np.float32([[0, 0, 127]]))
        (array([[2., 3., 1.]], dtype=float32), array([[127.]], dtype=float32))
    """

    __slots__ = ("_inverse", "_permutation")

    def __init__(self, layer: QuantLinear, permutation: ArrayLike) -> None:
        if type(layer) is not QuantLinear:
            raise TypeError(f"layer must be a QuantLinear, got {type(layer).__name__}")
        if layer.rotation is not None:
            raise ValueError("layer must have no rotation, whose blocks have an order of their own")
        order = as_array(permutation, "permutation")
        if order.dtype.kind not in "iu":
            raise TypeError(f"permutation must hold integers, got dtype {order.dtype}")
        k = layer.in_features
        if order.shape != (k,) or not np.array_equal(np.sort(order), np.arange(k)):
            raise ValueError(f"permutation must hold each of 0..{k - 1} once, got shape {order.shape}: {order}")
        for name in HeldWeights.__slots__[1:]:
            setattr(self, name, getattr(layer, name))
        self._origin = None  # what lies in the file there is the layer without the permutation
        self._permutation = order.astype(np.intp)
        self._inverse = np.argsort(self._permutation)

    def __call__(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """y = x W^T + b; arguments, result and errors as for `QuantLinear`."""
        a = as_activations(x, self.in_features, self.out_features)
        return super().__call__(np.take(a, self._permutation, axis=-1), out)

    forward = __call__

    def _quick_call(self) -> Callable[[Any], None]:
        return no_result

    @property
    def permutation(self) -> NDArray[np.intp]:
        """(in_features,), read-only: which input of x stands at each place of the weights."""
        return locked(self._permutation)

    @property
    def weight(self) -> NDArray[np.float32]:
        """The weights as the layer sees them, (out, in) float32 in the order of x; read-only."""
        return read_only(super().weight[:, self._inverse])

    def int_repr(self) -> NDArray[Any]:
        """The integer weights q_w (out, in) in the order of x: a new array."""
        return super().int_repr()[:, self._inverse]

    def inner(self) -> QuantLinear:
        """The layer for inputs in the order of the groups. It shares the weights."""
        layer = QuantLinear.__new__(QuantLinear)
        for name in HeldWeights.__slots__[1:]:
            setattr(layer, name, getattr(self, name))
        layer._origin = None
        return layer

    @classmethod
    def from_quantized(cls, *args: Any, **options: Any) -> NoReturn:
        """Not for permuted layers: make a `QuantLinear`, and give it to ``PermutedQuantLinear``."""
        raise TypeError("make a QuantLinear, then PermutedQuantLinear(layer, permutation)")

    from_float = from_grouped = from_quantized

    def _without_bias(self) -> tuple[QuantLinear, NDArray[np.float32] | None]:
        layer, bias = self.inner()._without_bias()
        return PermutedQuantLinear(layer, self._permutation), bias

    def _weight_rows(self, outputs: NDArray[np.int64]) -> NDArray[np.float32]:
        return super()._weight_rows(outputs)[:, self._inverse]

    def _weight_columns(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        return super()._weight_columns(self._inverse[inputs])

    @property
    def nbytes(self) -> int:
        """Bytes the layer holds: those of the weights, and of both orders."""
        return super().nbytes + self._permutation.nbytes + self._inverse.nbytes

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"permuted": True}

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantLinear:
        layer = super().__deepcopy__(memo)
        for name in PermutedQuantLinear.__slots__:
            setattr(layer, name, getattr(self, name))  # immutable too
        return layer

    def _restorer(self) -> Callable[[dict[str, Any]], QuantLinear]:
        return _permuted_from_state

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"permutation": self._permutation.astype(np.int32)}

    def _image_state(self) -> dict[str, Any]:
        return super()._image_state() | {"permutation": self._permutation.astype(np.int32)}


@pickled
def _permuted_from_state(state: dict[str, Any]) -> PermutedQuantLinear:
    """What a pickle calls."""
    state = dict(state)
    permutation = state.pop("permutation")
    return PermutedQuantLinear(_linear_from_state(state), permutation)
