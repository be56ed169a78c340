"""Results as tables for people and as JSON for scripts, both made of one list of columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from retouch.errors import RetouchError

Result = dict[str, Any]
"""One result as it is in JSON, by the keys of the columns."""


class FileError(RetouchError, OSError):
    """A file of results that cannot be written."""


@dataclass(frozen=True)
class Column:
    """One figure of a result.

    key: in JSON; empty for what is only shown. value: from what was found and the columns before; None: it was found
    under the key. title: in tables; empty for what is only in JSON. text: how a value is shown. below: in the
    terminal it stands under the column before. wide: too much for a terminal.
    """

    key: str = ""
    title: str = ""
    text: Callable[[Any], str] = str
    value: Callable[[Mapping[str, Any]], Any] | None = None
    below: bool = False
    wide: bool = False

    def of(self, row: Mapping[str, Any]) -> Any:
        """The value in what was found, or in a result."""
        return row[self.key] if self.value is None or self.key in row else self.value(row)

    def cell(self, row: Mapping[str, Any]) -> str:
        """How it is shown."""
        return self.text(self.of(row))


def row_of(columns: Sequence[Column], found: Mapping[str, Any]) -> Result:
    """What was found, with what the columns derive from it."""
    row = dict(found)
    for column in columns:
        if column.key:
            row[column.key] = column.of(row)
    return row


def grouped(results: Sequence[Result], key: str) -> dict[Any, list[Result]]:
    """Results by their value of a key, in the order in which these come."""
    found: dict[Any, list[Result]] = {}
    for each in results:
        found.setdefault(each[key], []).append(each)
    return found


# Tables


def terminal_table(
    title: str, columns: Sequence[Column], results: Sequence[Mapping[str, Any]], caption: str = ""
) -> Table:
    """A row of one or more lines for each result: names in the first column, figures in the others."""
    groups: list[list[Column]] = []
    for column in _shown(columns, results):
        if not column.wide:
            groups[-1].append(column) if column.below else groups.append([column])
    titles = ["\n".join(column.title for column in group) for group in groups]
    rows = (["\n".join(filter(None, (column.cell(row) for column in group))) for group in groups] for row in results)
    made = Table(title=title, caption=caption or None, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for place, name in enumerate(titles):
        made.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def _shown(columns: Sequence[Column], results: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Columns with a title and something to show."""
    return [column for column in columns if column.title and any(column.cell(row) for row in results)]


def column_table(columns: Sequence[Column], results: Sequence[Mapping[str, Any]]) -> str:
    """A table in Markdown, all columns beside each other."""
    shown = _shown(columns, results)
    titles = [column.title.replace("-\n", "-").replace("\n", " ") for column in shown]
    rows = ([column.cell(row) or "-" for column in shown] for row in results)
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(shown), *rows))


# Figures


def figure(value: float | None, unit: str = "") -> str:
    """Three figures; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.0f}{unit}" if value >= 100 else f"{value:.1f}{unit}"


def times(value: float | None) -> str:
    """A factor; a dash where there is none."""
    return "-" if value is None else f"{value:.1f}x"


def giga(count: float) -> str:
    """A count in 10^9."""
    return f"{count / 1e9:.2f}" if count < 99.5e9 else f"{count / 1e9:.0f}"


def size_text(count: int) -> str:
    """Bytes as MB or GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def decibels(value: float | None) -> str:
    """A ratio in dB; None: nothing differs."""
    return "equal" if value is None else f"{value:.1f}"


# Files


def check_writable(path: Path) -> None:
    """FileError unless a file can be written at `path`; nothing is left behind."""
    existed = path.exists()
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    if not existed:
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file; FileError if that is impossible."""
    try:
        path.write_text(text)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, results: Sequence[Result]) -> None:
    """Write the list of results; FileError if the file cannot be written."""
    write_text(path, json.dumps(list(results), indent=2) + "\n")
