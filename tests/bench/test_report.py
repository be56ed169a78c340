"""Columns, the tables made of them, figures, plots, and files."""

import json
import sys
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from retouch.bench.options import size_text
from retouch.bench.report import (
    COLOURS,
    Column,
    FileError,
    Plot,
    check_plot,
    figure,
    giga,
    markdown,
    row_of,
    save_plots,
    terminal_table,
    times,
    write_text,
)
from retouch.editing.images import as_pixels
from retouch.models.extras import ExtraError

COLUMNS = [
    Column("name", "network"),
    Column("", "name, kind", value=lambda row: f"{row['name']}, {row['kind']}", below=True),
    Column("slow"),
    Column("ratio", "speed-\nup", times, lambda row: row["slow"] / row["quick"]),
    Column("flag", "odd", lambda flag: "changed!" if flag else "", below=True),
    Column("", "published", figure, lambda row: 4.0, wide=True),
]
FOUND = {"name": "a", "kind": "b", "slow": 6.0, "quick": 2.0, "flag": False}


def printed(table):
    text = StringIO()
    Console(file=text, width=80).print(table)
    return text.getvalue()


def test_rows_hold_what_was_found_and_what_columns_derive():
    row = row_of(COLUMNS, FOUND)
    assert row == {**FOUND, "ratio": 3.0}
    assert json.loads(json.dumps(row)) == row
    assert row_of(COLUMNS, row) == row


def test_a_terminal_has_columns_below_others_and_no_wide_ones():
    shown = printed(terminal_table("Title", "caption", COLUMNS, [row_of(COLUMNS, FOUND)]))
    lines = [line.strip() for line in shown.splitlines()]
    assert lines[0] == "Title"
    assert "a, b" in lines
    assert any(line.split() == ["a", "3.0x"] for line in lines)
    assert "published" not in shown
    assert "slow" not in shown
    assert lines[-1] == "caption"


def test_columns_without_anything_to_show_are_left_out():
    plain, odd = (row_of(COLUMNS, {**FOUND, "flag": flag}) for flag in (False, True))
    assert "odd" not in printed(terminal_table("", "", COLUMNS, [plain]))
    shown = printed(terminal_table("", "", COLUMNS, [plain, odd]))
    assert "odd" in shown
    assert "changed!" in shown
    assert "odd" not in markdown(COLUMNS, [plain])


def test_markdown_has_all_columns_beside_each_other():
    assert markdown(COLUMNS, [row_of(COLUMNS, {**FOUND, "flag": True})]) == (
        "| network | name, kind | speed-up | odd | published |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| a | a, b | 3.0x | changed! | 4.0 |"
    )


def test_figures():
    assert [figure(x) for x in (0.04, 99.94, 123.4)] == ["0.0", "99.9", "123"]
    assert times(22.83) == "22.8x"
    assert (giga(8158366720), giga(248508317696)) == ("8.16", "249")
    assert [size_text(x) for x in (588644352, 1957822464)] == ["589 MB", "1.96 GB"]
    assert size_text(1250000, 1) == "1.2 MB"


def test_what_there_is_none_of_is_said():
    assert Column("x", text=times).cell({"x": None}) == "-"
    decibels = Column("x", text="{:.1f}".format, none="equal")
    assert [decibels.cell({"x": x}) for x in (None, 40.04)] == ["equal", "40.0"]


def test_files_that_cannot_be_written_are_named(tmp_path):
    path = tmp_path / "missing" / "x.json"
    with pytest.raises(FileError, match=r"cannot write .*x\.json: No such file"):
        write_text(path, "")


# Plots


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
    plot = Plot({"power": [(10.0**x, 10.0 ** (2 * x)) for x in range(5)]}, "x", "y", "xy")
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


def test_plots_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(FileError, match=r"no plot format has the suffix '\.txt'; use \.png"):
        check_plot(tmp_path / "p.txt")
    with pytest.raises(FileError, match=r"cannot write .*p\.png: No such file"):
        save_plots(tmp_path / "missing" / "p.png", [Plot({}, "x", "y")])


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ExtraError, match=r"pip install 'retouch\[bench\]'"):
        check_plot(tmp_path / "p.png")
