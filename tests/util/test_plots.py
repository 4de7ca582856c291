"""Plots: which axes they draw into, what is legible, and axes that fit what is drawn."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from octavo._util.plots import BAD, GOOD, GRID, TEXT, Panel, bar_panels, short

matplotlib = pytest.importorskip("matplotlib", reason="plots need matplotlib, octavo's extra cli")
matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  # after the backend is chosen

PANELS = [Panel("Error", [3.0, 1.0]), Panel("Clipped, %", [0.0, 0.0])]


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("colour", "least"), [(TEXT, 4.0), (GOOD, 3.0), (BAD, 3.0), (GRID, 3.0)])
@pytest.mark.parametrize("background", ["#ffffff", "#0d1117"])
def test_colours_are_legible_on_white_and_on_black(colour: str, least: float, background: str) -> None:
    assert contrast(colour, background) >= least


def test_bar_panels_draw_into_axes_given() -> None:
    figure, axes = plt.subplots(1, 2)
    try:
        assert bar_panels(["a", "b"], PANELS, path=None, axes=axes) == tuple(axes)
        assert [axis.get_title() for axis in axes] == ["Error", "Clipped, %"]
        assert [text.get_text() for text in axes[0].get_yticklabels()] == ["a", "b"]
        with pytest.raises(
            ValueError, match=r"axes must be 2 matplotlib axes, got 1; plt\.subplots\(1, 2\) makes them"
        ):
            bar_panels(["a", "b"], PANELS, path=None, axes=axes[0])
    finally:
        plt.close(figure)


def test_bar_panels_without_a_path_make_a_figure_that_pyplot_shows() -> None:
    before = plt.get_fignums()
    axes = bar_panels(["a", "b"], PANELS, path=None, axes=None)
    try:
        assert plt.figure(plt.get_fignums()[-1]) is axes[0].figure
    finally:
        plt.close(axes[0].figure)
    assert plt.get_fignums() == before


@pytest.mark.slow
def test_bar_panels_with_a_path_leave_no_figure_open(tmp_path: Path) -> None:
    before = plt.get_fignums()
    for name, start in [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")]:
        bar_panels(["a", "b"], PANELS, path=tmp_path / name, axes=None)
        assert (tmp_path / name).read_bytes().startswith(start)
    assert plt.get_fignums() == before


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 48])
def test_bar_panels_leave_no_blank_bands(rows: int, tmp_path: Path) -> None:
    names = [f"layers.{i}" for i in range(rows)]
    axes = bar_panels(names, [Panel("Error", [1.0] * rows)] * 2, path=tmp_path / "a.png", axes=None)
    for axis in axes:
        assert axis.get_ylim() == (rows - 0.4, -0.6)


def test_bar_panels_of_zeros_have_an_axis_that_begins_at_zero(tmp_path: Path) -> None:
    axis = bar_panels(["a", "b"], PANELS, path=tmp_path / "a.png", axes=None)[1]
    assert axis.get_xlim()[0] == 0
    assert axis.get_xticks().tolist() == [0]


@pytest.mark.slow
@pytest.mark.parametrize("values", [[math.inf, 1.0], [math.nan, 2.0], [-math.inf, -3.0], [math.inf, math.inf]])
def test_bar_panels_write_what_is_not_finite(values: list[float], tmp_path: Path) -> None:
    (axis,) = bar_panels(["a", "b"], [Panel("SQNR, dB", values, limit=20.0)], path=tmp_path / "a.png", axes=None)
    assert [text.get_text() for text in axis.texts] == [short(value) for value in values]
    assert all(map(math.isfinite, axis.get_xlim()))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.21e4, "32,100"), (999.6, "1,000"), (999.4, "999"), (-1234.5, "-1,234"), (0.01234, "0.0123"),
        (1e-5, "1.0e-05"), (2.5e7, "2.50e+07"), (math.nan, "nan"), (-math.inf, "-inf"), (-0.0, "0"), (12.0, "12"),
    ],
)  # fmt: skip
def test_short_has_three_digits_and_rarely_an_exponent(value: float, text: str) -> None:
    assert short(value) == text
