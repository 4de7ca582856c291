"""A layer that tells what it is called with, while the model around it runs unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Watched"]


class Watched:
    """Stands in for a layer in a copy of its model: `before(x)`, the layer, then `after(what before gave, y)`.

    Args:
        layer: what is called; all other attributes are its own.
        method: name of the method that computes, besides ``__call__`` and ``forward``.
        before: given the layer's first argument (None without one), before the call, which may write to it.
        after: given what `before` returned and the layer's result; what it returns takes its place, unless that is
            None.

    Example:
        >>> import octavo as oc
        >>> layer = Watched(oc.nn.ReLU(), "forward", before=print, after=lambda kept, y: None)
        >>> float(layer(-1.0))
        -1.0
        0.0
    """

    def __init__(self, layer: Any, method: str, before: Callable[[Any], Any], after: Callable[[Any, Any], Any]) -> None:
        self._layer, self._method, self._before, self._after = layer, method, before, after

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._called(self._layer, args, options)

    def _called(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        kept = self._before(args[0] if args else next(iter(options.values()), None))
        y = function(*args, **options)
        found = self._after(kept, y)
        return y if found is None else found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_layer" not in self.__dict__:
            raise AttributeError(name)
        value = getattr(self._layer, name)
        if name in (self._method, "forward") and callable(value):
            return lambda *args, **options: self._called(value, args, options)
        return value
