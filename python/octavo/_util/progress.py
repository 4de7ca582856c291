"""Progress bars: tqdm's, where the user asks for one and has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

__all__ = ["with_bar"]

T = TypeVar("T")


def with_bar(items: Iterable[T], what: str, unit: str, *, total: int | None = None) -> Iterable[T]:
    """The items, with a bar that counts them while they are taken. `total`: how many, where they do not tell.

    Raises:
        ImportError: tqdm is not installed; the message names the extra that brings it.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install 'octavo[cli]'") from error
    bar: Iterable[T] = tqdm(items, desc=what, unit=unit, total=total)
    return bar
