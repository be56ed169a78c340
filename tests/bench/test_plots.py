"""Plots: what is drawn, in which files, and what cannot be."""

import sys

import numpy as np
import pytest

from retouch.bench.plots import COLOURS, Plot, check_plot, save_plots
from retouch.bench.report import FileError
from retouch.editing.images import as_pixels
from retouch.models.extras import ExtraError


def coloured(pixels, colour):
    """Where the picture has exactly a colour, bool [H, W]."""
    return (pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(2)


def test_curves_go_where_their_points_are(tmp_path):
    curves = {"up": [(0, 0), (10, 10)], "level": [(0, 2), (10, 2)]}
    pixels = as_pixels(save_plots(tmp_path / "p.png", [Plot(curves, "x", "y")]))
    below = np.s_[120:]  # without the legend
    rows, columns = np.nonzero(coloured(pixels, COLOURS[0])[below])
    assert np.corrcoef(rows, columns)[0, 1] < -0.98
    rows, columns = np.nonzero(coloured(pixels, COLOURS[1])[below])
    assert np.ptp(rows) < 15
    assert np.ptp(columns) > 300


def test_logarithmic_axes_make_powers_straight(tmp_path):
    plot = Plot({"power": [(10.0**x, 10.0 ** (2 * x)) for x in range(5)]}, "x", "y", log_x=True, log_y=True)
    pixels = as_pixels(save_plots(tmp_path / "p.png", [plot]))
    rows, columns = np.nonzero(coloured(pixels, COLOURS[0])[100:])
    assert np.corrcoef(rows, columns)[0, 1] < -0.98


def test_plots_are_beside_each_other_and_one_point_is_enough(tmp_path):
    plot = Plot({str(i): [(1, i)] for i in range(9)}, "x", "y")
    one, two = (as_pixels(save_plots(tmp_path / f"{n}.png", [plot] * n, "title")) for n in (1, 2))
    assert two.shape == (one.shape[0], 2 * one.shape[1], 3)
    assert all(coloured(one, colour).any() for colour in COLOURS)


def test_a_display_is_not_needed_and_pyplot_is_left_alone(tmp_path):
    save_plots(tmp_path / "p.png", [Plot({}, "x", "y")])
    assert "matplotlib.pyplot" not in sys.modules


def test_files_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(FileError, match=r"no plot format has the suffix '\.txt'; use \.png"):
        check_plot(tmp_path / "p.txt")
    with pytest.raises(FileError, match=r"cannot write .*p\.png: No such file"):
        save_plots(tmp_path / "missing" / "p.png", [Plot({}, "x", "y")])


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ExtraError, match=r"pip install 'retouch\[bench\]'"):
        check_plot(tmp_path / "p.png")
