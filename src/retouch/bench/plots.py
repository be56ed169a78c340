"""Curves drawn by matplotlib, without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retouch.bench.report import FileError
from retouch.models.extras import require

Point = tuple[float, float]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by colour-blind people, too (Okabe and Ito)."""

MARKERS = "os^D"


@dataclass(frozen=True)
class Plot:
    """Curves by their names in the legend, each a line through its points (x, y) in the given order."""

    curves: Mapping[str, Sequence[Point]]
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False


def check_plot(path: Path) -> None:
    """FileError for a suffix that no plot is written in, ExtraError naming the extra if matplotlib is missing."""
    backend = require("matplotlib.backends.backend_agg", "bench")
    kinds = backend.FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise FileError(f"cannot write {path}: no plot format has the suffix {path.suffix!r}; use .png")


def save_plots(path: Path, plots: Sequence[Plot], title: str = "") -> Path:
    """Write plots beside each other; the path itself. Raises what `check_plot` raises, and FileError."""
    check_plot(path)
    ticker = require("matplotlib.ticker", "bench")
    figure = require("matplotlib.figure", "bench").Figure((7.6 * len(plots), 4.6), layout="constrained")
    figure.suptitle(title)
    for plot, axes in zip(plots, figure.subplots(1, len(plots), squeeze=False)[0], strict=True):
        scales = {True: "log", False: "linear"}
        axes.set(xlabel=plot.x, ylabel=plot.y, xscale=scales[plot.log_x], yscale=scales[plot.log_y])
        for place, (name, points) in enumerate(plot.curves.items()):
            x, y = zip(*points, strict=True) if points else ((), ())
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            axes.plot(x, y, color=colour, marker=marker, label=name)
        for axis, logarithmic in ((axes.xaxis, plot.log_x), (axes.yaxis, plot.log_y)):
            if logarithmic:
                axis.set(major_locator=ticker.LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
                axis.set(minor_formatter=ticker.NullFormatter())
        axes.grid(True, which="major", color="#dddddd")
        axes.set_axisbelow(True)
        if plot.curves:
            axes.legend(fontsize="small")
    try:
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    return path
