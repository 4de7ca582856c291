"""Layers and arrays that tell what they are given and give, while the model around them runs unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["Watched", "WatchedArray"]

_PRODUCTS = (np.dot, np.inner, np.tensordot, np.einsum, np.vdot)


class Watched:
    """Stands in for a layer in a copy of its model: `before(x)`, the layer, then `after(what before gave, y)`.

    Args:
        layer: what is called; all other attributes are its own.
        method: name of the method that computes, besides ``__call__`` and ``forward``.
        before: given the layer's first argument (None without one), before the call, which may write to it.
        after: given what `before` returned and the layer's result.

    Example:
        >>> import octavo as oc
        >>> layer = Watched(oc.nn.ReLU(), "forward", before=print, after=lambda kept, y: None)
        >>> float(layer(-1.0))
        -1.0
        0.0
    """

    def __init__(
        self, layer: Any, method: str, before: Callable[[Any], Any], after: Callable[[Any, Any], None]
    ) -> None:
        self._layer, self._method, self._before, self._after = layer, method, before, after

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._called(self._layer, args, options)

    def _called(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        kept = self._before(args[0] if args else next(iter(options.values()), None))
        y = function(*args, **options)
        self._after(kept, y)
        return y

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_layer" not in self.__dict__:
            raise AttributeError(name)
        value = getattr(self._layer, name)
        if name in (self._method, "forward") and callable(value):
            return lambda *args, **options: self._called(value, args, options)
        return value


class WatchedArray(NDArrayOperatorsMixin):
    """Stands in for an array in a copy of its model, and tells of its products: `after(x, y)` for y = x @ array.

    Args:
        array: an array, or what NumPy code takes for one; every use is a use of it.
        after: given the other operand of each product and its result.

    Example:
        >>> import numpy as np
        >>> w = WatchedArray(np.eye(2), lambda x, y: print("product", y.shape))
        >>> np.ones((3, 2)) @ w.T + 1 is not None
        product (3, 2)
        True
    """

    def __init__(self, array: Any, after: Callable[[Any, Any], None]) -> None:
        self._array, self._after = array, after

    @property
    def T(self) -> WatchedArray:  # noqa: N802 - NumPy's name
        return WatchedArray(self._array.T, self._after)

    def transpose(self, *axes: Any) -> Any:
        turned = self._array.transpose(*axes)
        return WatchedArray(turned, self._after) if turned.shape == self._array.T.shape else turned

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        y = getattr(ufunc, method)(*_plain(inputs), **_plain(kwargs))
        if ufunc is np.matmul and method == "__call__":
            self._tell(inputs, y)
        return y

    def __array_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if func in (np.transpose, np.swapaxes) and args and args[0] is self:
            turned = func(self._array, *args[1:], **kwargs)
            return self.T if turned.shape == self._array.T.shape else turned
        y = func(*_plain(args), **_plain(kwargs))
        if func in _PRODUCTS:
            self._tell([part for part in args if not isinstance(part, str)], y)
        return y

    def _tell(self, operands: Any, y: Any) -> None:
        others = [_plain(part) for part in operands if part is not self and np.ndim(_plain(part))]
        self._after(others[0] if others else None, y)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self._array, dtype)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._array, name)

    def __getitem__(self, index: Any) -> Any:
        return self._array[_plain(index)]

    def __len__(self) -> int:
        return len(self._array)

    def __repr__(self) -> str:
        return f"Watched({self._array!r})"


def _plain(value: Any) -> Any:
    """`value` with every WatchedArray in its tuples, lists and dicts as the array itself."""
    if isinstance(value, WatchedArray):
        return value._array
    if type(value) in (tuple, list):
        return type(value)(_plain(part) for part in value)
    if type(value) is dict:
        return {key: _plain(part) for key, part in value.items()}
    return value
