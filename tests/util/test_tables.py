"""table and html_table: alignment, escaping, wrong rows."""

from __future__ import annotations

import pytest

from octavo._util.tables import html_table, table


@pytest.mark.parametrize(
    "cell",
    [
        "1",
        "-0.5",
        "+3",
        "1,024",
        "3.2e-05",
        "inf",
        "-inf",
        "nan",
        "99.1%",
        "1.8x",
        "3.5 ms",
        "12 MB",
        "4 GB/s",
        "",
        "-",
    ],
)
def test_table_aligns_numbers_to_the_right(cell: str) -> None:
    lines = table(["column", "next"], [[cell, "a"], ["12345678901.5", "b"]]).splitlines()
    assert lines[1] == cell.rjust(13) + "  a"
    assert lines[0] == "       column  next"


@pytest.mark.parametrize("cell", ["0.fc.weight", "layers.0", "float", "2 x 3", "1.2.3", "inf4"])
def test_table_aligns_text_to_the_left(cell: str) -> None:
    assert table(["a rather long name", "n"], [[cell, "1"]]).splitlines()[1] == cell.ljust(18) + "  1"


def test_table_without_rows_is_its_header() -> None:
    assert table(["layer", "bytes"], []) == "layer  bytes"


def test_table_of_missing_cells_alone_is_text() -> None:
    assert table(["gain"], [["-"], [""]]) == "gain\n-\n"


def test_table_has_one_line_a_row_without_trailing_spaces() -> None:
    lines = table(["a", "b"], [["one\ntwo\x1b[31m", "x"], ["three", "yyy"]]).splitlines()
    assert lines == ["a                 b", r"one\ntwo\x1b[31m  x", "three             yyy"]


def test_html_table_escapes_cells_and_aligns_them() -> None:
    text = html_table(["<i>", "n"], [["<script>&\n", "1"]])
    assert "<i>" not in text
    assert "&lt;i&gt;" in text
    assert r"&lt;script&gt;&amp;\n" in text
    assert text.count("text-align: right") == text.count("text-align: left") == 2


@pytest.mark.parametrize("write", [table, html_table])
def test_rows_of_another_length_than_the_header_are_refused(write) -> None:
    with pytest.raises(ValueError, match=r"a row must have 2 cells, as the header has, got 1: \['x'\]"):
        write(["a", "b"], [["x"]])
