"""Progress bars: tqdm's, where the user asks for one and has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from octavo._util.extras import import_extra

__all__ = ["with_bar"]

T = TypeVar("T")


def with_bar(items: Iterable[T], what: str, unit: str, *, total: int | None = None) -> Iterable[T]:
    """The items, with a bar that counts them as they are taken: tqdm.auto's, so a widget in a notebook.

    Args:
        items: what to iterate over.
        what: the bar's description.
        unit: what one item is called.
        total: how many there are, for iterables without a length.

    Raises:
        ImportError: tqdm is not installed; the message has the command that installs it.
    """
    bar: Iterable[T] = import_extra("tqdm.auto", purpose="progress=True", extra="cli").tqdm(
        items, desc=what, unit=unit, total=total
    )
    return bar
