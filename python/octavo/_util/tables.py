"""Tables of results: as text for a terminal, as HTML for a notebook."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

__all__ = ["Tabular", "html_table", "percent", "table"]

# A number with an optional unit: 12, -0.5, 1,024, 3.2e-05, inf, 99.1%, 1.8x, 3.5 ms, 12 MB, 40 GB/s.
_NUMBER = re.compile(r"([-+]?(\d[\d,]*(\.\d+)?(e[-+]?\d+)?|inf)|nan)( ?(%|x|[A-Za-z]{1,3}(/s)?))?")
_EMPTY = ("", "-", "...")


class Tabular:
    """Shows itself as a table, at the prompt and in a notebook. Subclasses write `_table`, and `_note` for a remark."""

    __slots__ = ()

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """The header and the rows."""
        raise NotImplementedError

    def _note(self) -> str:
        """A sentence under the table; none where it is empty."""
        return ""

    def __repr__(self) -> str:
        note = self._note()
        return table(*self._table()) + (f"\n{note}" if note else "")

    def _repr_html_(self) -> str:
        from html import escape

        note = self._note()
        return html_table(*self._table()) + (f"\n<p>{escape(note)}</p>" if note else "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows under their header, in aligned columns two spaces apart.

    Columns of numbers (with or without a unit; "-", "..." or nothing where one is missing) are aligned to the right,
    all others to the left. Characters that would break a line or steer a terminal are shown escaped.

    Args:
        header: the columns' names.
        rows: as many cells each.

    Returns:
        Lines without a newline at the end and without trailing spaces.

    Raises:
        ValueError: a row has more or fewer cells than the header.

    Example:
        >>> from octavo._util.tables import table
        >>> print(table(["layer", "SQNR, dB"], [["layers.0.weight", "40.2"], ["head", "8.1"]]))
        layer            SQNR, dB
        layers.0.weight      40.2
        head                  8.1
    """
    right = _numeric_columns(header, rows)
    lines = [[_printable(cell) for cell in line] for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = (
        [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        for line in lines
    )
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)


def percent(share: float) -> str:
    """A share as a cell shows it; "-" where it is NaN, which is to say unknown.

    Example:
        >>> percent(0.00123), percent(float("nan"))
        ('0.1230%', '-')
    """
    return "-" if math.isnan(share) else f"{share:.4%}"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows as an HTML table, as a class's `_repr_html_` returns it; cells are escaped and aligned as in `table`.

    Raises:
        ValueError: a row has more or fewer cells than the header.

    Example:
        >>> from octavo._util.tables import html_table
        >>> print(html_table(["a<b"], [["1"]]))
        <table>
        <thead><tr><th style="text-align: right">a&lt;b</th></tr></thead>
        <tbody>
        <tr><td style="text-align: right">1</td></tr>
        </tbody>
        </table>
    """
    from html import escape

    styles = ["text-align: right" if to_right else "text-align: left" for to_right in _numeric_columns(header, rows)]

    def line(cells: Sequence[str], tag: str) -> str:
        written = (
            f'<{tag} style="{style}">{escape(_printable(cell))}</{tag}>'
            for cell, style in zip(cells, styles, strict=True)
        )
        return f"<tr>{''.join(written)}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table>\n<thead>{line(header, 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _numeric_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row must have {len(header)} cells, as the header has, got {len(row)}: {list(row)}")
    return [_is_numeric([row[i] for row in rows]) for i in range(len(header))]


def _is_numeric(cells: Sequence[str]) -> bool:
    present = [cell for cell in cells if cell not in _EMPTY]
    return bool(present) and all(_NUMBER.fullmatch(cell) for cell in present)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
