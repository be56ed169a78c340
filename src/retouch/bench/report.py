"""Results as tables and plots for people and as JSON for scripts; tables and JSON are made of one list of columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from retouch.errors import RetouchError
from retouch.models.extras import require

Result = dict[str, Any]
"""One result as it is in JSON, by the keys of the columns."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Column:
    """One figure of a result.

    key: in JSON; empty for what is only shown. value: from what was found and the columns before; None: it was found
    under the key. title: in tables; empty for what is only in JSON. text: how a value is shown; none: what None is
    shown as. below: in the terminal it stands under the column before. wide: too much for a terminal.
    """

    key: str = ""
    title: str = ""
    text: Callable[[Any], str] = str
    value: Callable[[Mapping[str, Any]], Any] | None = None
    below: bool = False
    wide: bool = False
    none: str = "-"

    def of(self, row: Mapping[str, Any]) -> Any:
        """The value in what was found, or in a result."""
        return row[self.key] if self.value is None or self.key in row else self.value(row)

    def cell(self, row: Mapping[str, Any]) -> str:
        """How it is shown."""
        value = self.of(row)
        return self.none if value is None else self.text(value)


def row_of(columns: Sequence[Column], found: Mapping[str, Any]) -> Result:
    """What was found, with what the columns derive from it."""
    row = dict(found)
    for column in columns:
        if column.key and column.value:
            row[column.key] = column.of(row)
    return row


def grouped(results: Sequence[Result], key: str) -> dict[Any, list[Result]]:
    """Results by their value of a key, in the order in which these come."""
    found: dict[Any, list[Result]] = {}
    for each in results:
        found.setdefault(each[key], []).append(each)
    return found


# Tables


def terminal_table(title: str, caption: str, columns: Sequence[Column], results: Sequence[Mapping[str, Any]]) -> Table:
    """A row of one or more lines for each result: names in the first column, figures in the others."""
    groups: list[list[Column]] = []
    for column in _shown(columns, results):
        if not column.wide:
            groups[-1].append(column) if column.below else groups.append([column])
    made = Table(title=title, caption=caption or None, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for place, group in enumerate(groups):
        names = "\n".join(column.title for column in group)
        made.add_column(names, justify="right" if place else "left", no_wrap=True)
    for row in results:
        made.add_row(*("\n".join(filter(None, (column.cell(row) for column in group))) for group in groups))
    return made


def _shown(columns: Sequence[Column], results: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Columns with a title and something to show."""
    return [column for column in columns if column.title and any(column.cell(row) for row in results)]


def markdown(columns: Sequence[Column], results: Sequence[Mapping[str, Any]]) -> str:
    """A table in Markdown, all columns beside each other."""
    shown = _shown(columns, results)
    titles = [column.title.replace("-\n", "-").replace("\n", " ") for column in shown]
    rows = ([column.cell(row) or "-" for column in shown] for row in results)
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(shown), *rows))


# Figures


def figure(value: float) -> str:
    """Three figures."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


times = "{:.1f}x".format
"""A factor."""


def giga(count: float) -> str:
    """A count in 10^9."""
    return f"{count / 1e9:.2f}" if count < 99.5e9 else f"{count / 1e9:.0f}"


# Plots

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by colour-blind people, too (Okabe and Ito)."""
MARKERS = "os^Dv*P"


@dataclass(frozen=True)
class Plot:
    """Curves by their names in the legend, each a line through its points (x, y) in the given order.

    x, y: what they are of. logarithmic: which axes are, "x", "y" or "xy".
    """

    curves: Mapping[str, Sequence[Point]]
    x: str
    y: str
    logarithmic: str = ""


def check_plot(path: Path) -> None:
    """FileError for a suffix that no plot is written in, ExtraError naming the extra if matplotlib is missing."""
    backend = require("matplotlib.backends.backend_agg", "bench")
    if path.suffix[1:].lower() not in backend.FigureCanvasAgg.get_supported_filetypes():
        raise FileError(f"cannot write {path}: no plot format has the suffix {path.suffix!r}; use .png")


def save_plots(path: Path, plots: Sequence[Plot], title: str = "") -> Path:
    """Write plots beside each other; the path itself. Raises what `check_plot` raises, and FileError."""
    check_plot(path)
    ticker = require("matplotlib.ticker", "bench")
    figure = require("matplotlib.figure", "bench").Figure((7.6 * len(plots), 4.6), layout="constrained")
    figure.suptitle(title)
    for plot, axes in zip(plots, figure.subplots(1, len(plots), squeeze=False)[0], strict=True):
        axes.set(xlabel=plot.x, ylabel=plot.y, axisbelow=True)
        axes.set_prop_cycle(color=COLOURS, marker=list(MARKERS))
        for name, points in plot.curves.items():
            axes.plot(*np.reshape(points, (-1, 2)).T, label=name)
        for axis in plot.logarithmic:
            axes.set(**{f"{axis}scale": "log"})
            labels = {"major_locator": ticker.LogLocator(subs=(1, 2, 5)), "major_formatter": "{x:g}"}
            getattr(axes, f"{axis}axis").set(**labels, minor_formatter=ticker.NullFormatter())
        axes.grid(color="#dddddd")
        if plot.curves:
            axes.legend(fontsize="small")
    with _writing(path):
        figure.savefig(path, dpi=100)
    return path


# Files


class FileError(RetouchError, OSError):
    """A file of results that cannot be written."""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file; FileError if that is impossible."""
    with _writing(path):
        path.write_text(text)
