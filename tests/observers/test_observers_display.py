"""Tables and plots of observers."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import octavo as oc

F = np.float32
HISTOGRAMS = [oc.HistogramObserver, oc.PercentileObserver, oc.EntropyObserver, oc.MSEObserver]
X = np.random.default_rng(0).laplace(size=(4, 5000)).astype(F)


def lines(observer: oc.Observer) -> dict[str, str]:
    return {line.split()[0]: " ".join(line.split()[1:]) for line in str(observer).splitlines()}


@pytest.mark.parametrize("cls", [oc.MinMaxObserver, oc.MovingAverageMinMaxObserver, *HISTOGRAMS])
def test_str_is_a_table_of_what_was_seen_and_chosen(cls: type[oc.Observer]) -> None:
    observer = cls(dtype="int8")
    assert lines(observer)["qparams"].startswith(f"{cls.__name__} has seen no data")
    observer(X)
    found, params = lines(observer), observer.calculate_qparams()
    assert str(observer).splitlines()[0] == cls.__name__
    assert found["dtype"] == "qint8"
    assert found["scale"] == f"{params.scale:.6g}"
    assert found["zero_point"] == f"{params.zero_point}"
    assert found["seen"] == f"{X.min():.3g} to {X.max():.3g}"
    assert observer._repr_html_().count("<tr>") == len(found)
    assert len(repr(observer).splitlines()) == 1


@pytest.mark.parametrize("channels", [1, 16, 17, 300])
def test_str_of_channels_has_a_row_for_each_or_for_the_first_and_last(channels: int) -> None:
    observer = oc.PerChannelMinMaxObserver()
    observer(np.arange(1, channels + 1, dtype=F)[:, None] * F([-1, 2]))
    rows = [line.split() for line in str(observer).splitlines()[1:]]
    params = observer.calculate_qparams()
    for row in rows:
        if row != ["..."]:
            c = int(row[0])
            assert row[1:] == [f"{-(c + 1)}", f"{2 * (c + 1)}", f"{params.scale[c]:.6g}", f"{params.zero_point[c]}"]
    shown = [row[0] for row in rows]
    all_channels = [str(c) for c in range(channels)]
    assert shown == (all_channels if channels <= 16 else [*all_channels[:8], "...", *all_channels[-8:]])


def test_str_neither_warns_nor_raises() -> None:
    zeros, huge = oc.MinMaxObserver(), oc.MinMaxObserver()
    zeros([0.0])
    huge([-3e38, 3e38])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lines(zeros)["scale"] == "1"
        assert "must fit float32" in lines(huge)["qparams"]


@pytest.mark.slow
@pytest.mark.parametrize("data", [X, np.maximum(X, 0), F([[5, 5]]), F([[0, 0]]), F([[-1e30, 1e30]])], ids=range(5))
@pytest.mark.parametrize("cls", [oc.MinMaxObserver, oc.PerChannelMinMaxObserver, *HISTOGRAMS])
def test_plot_draws_into_a_file_or_axes(cls: type[oc.Observer], data: np.ndarray, tmp_path: Path) -> None:
    figure_module = pytest.importorskip("matplotlib.figure", reason="plots need matplotlib, octavo's extra cli")
    observer = cls()
    observer(data)
    axes = figure_module.Figure().subplots()
    assert observer.plot(axes=axes) is axes
    assert cls.__name__ in axes.get_title()
    assert observer.plot(tmp_path / "o.png") is not axes
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


def test_plot_of_a_histogram_marks_the_range_that_integers_cover() -> None:
    figure_module = pytest.importorskip("matplotlib.figure", reason="plots need matplotlib, octavo's extra cli")
    observer = oc.PercentileObserver(percentile=90)
    observer(X)
    scale, zero_point = observer.calculate_qparams()
    axes = observer.plot(axes=figure_module.Figure().subplots())
    marked = [line.get_xdata()[0] for line in axes.lines]
    np.testing.assert_allclose(marked, [-zero_point * scale, (255 - zero_point) * scale], rtol=1e-6)
    drawn = axes.patches[0].get_data()
    assert drawn.values.sum() == X.size
    assert (drawn.edges[0], drawn.edges[-1]) == (X.min(), X.max())


def test_plot_without_data_or_matplotlib_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    observer = oc.MinMaxObserver()
    with pytest.raises(ValueError, match="MinMaxObserver has seen no data"):
        observer.plot()
    observer([1.0])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="plot needs matplotlib, which octavo's extra 'cli' installs: pip install"):
        observer.plot()
