"""How layers show themselves: one line at the prompt, a small table in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo._util.tables import html_table

__all__ = ["Described", "option_text", "option_texts"]


class Described:
    """A layer's `repr` and `_repr_html_`, both from what it says of itself.

        QuantLinear(256 -> 3, int4, group_size=64, activation=symmetric, bias)

    A subclass gives `_described`: its shape, the type of its numbers, and its options.
    """

    __slots__ = ()

    nbytes: Any

    def _described(self) -> tuple[str, str, Mapping[str, Any]]:
        """(shape, type, options). An option that is True shows its name alone; False and None are left out."""
        raise NotImplementedError

    def __repr__(self) -> str:
        shape, numbers, options = self._described()
        return f"{type(self).__name__}({', '.join([shape, numbers, *option_texts(options)])})"

    def _repr_html_(self) -> str:
        shape, numbers, options = self._described()
        shown = {name: value for name, value in options.items() if _is_shown(value)}
        cells = {
            "layer": type(self).__name__,
            "shape": shape,
            "type": numbers,
            **{name: "yes" if value is True else str(value) for name, value in shown.items()},
            "bytes": f"{self.nbytes:,}",
        }
        return html_table(list(cells), [list(cells.values())])


def option_text(name: str, value: Any) -> str:
    """An option as `repr` shows it.

    Example:
        >>> option_text("group_size", 64), option_text("bias", True)
        ('group_size=64', 'bias')
    """
    return name if value is True else f"{name}={value}"


def option_texts(options: Mapping[str, Any]) -> list[str]:
    """The options that are shown, as `repr` shows them."""
    return [option_text(name, value) for name, value in options.items() if _is_shown(value)]


def _is_shown(value: Any) -> bool:
    return value is not None and value is not False
