"""Results as a table for people and as JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from retouch.bench.measure import Result


def check_writable(path: Path) -> None:
    """ValueError unless a file can be written at `path`; nothing is left behind."""
    existed = path.exists()
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
    if not existed:
        path.unlink()


def write_json(path: Path, results: Sequence[Result]) -> None:
    """Write the list of results; ValueError if the file cannot be written."""
    try:
        path.write_text(json.dumps(list(results), indent=2) + "\n")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error


_TITLES = ("dense", "record", "update", "speed-\nup", "GMAC", "kept", "error")


def compact_table(title: str, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table 80 columns wide: names in the first column, figures in the others."""
    made = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for place, name in enumerate(titles):
        made.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def table(results: Sequence[Result]) -> Table:
    """One row for each result, 80 columns wide; times in ms, medians."""
    titles = ("network\npolicy, edit", *_TITLES)
    made = compact_table("Dense, record and update (medians, ms)", titles, map(_row, results))
    made.caption = "error: relative L2 in the active rows, random weights"
    return made


def restless(results: Sequence[Result], limit: float = 1.5) -> list[str]:
    """Networks whose dense times differ by more than `limit` between rounds: a busy machine."""
    return sorted({each["model"] for each in results if _unevenness(each) > limit})


def _unevenness(result: Result) -> float:
    """Longest over shortest time of the best dense run."""
    spread = result["spread"][result["dense_kind"]]
    return float(spread["max"] / spread["min"])


def _row(result: Result) -> list[str]:
    outside = "" if result["outside_unchanged"] else "\noutside\nchanged!"
    dtype = "" if result["dtype"] == "float32" else f"\n{result['dtype']}"
    replayed, faster = "", ""
    if result["update_replayed_ms"] is not None:
        replayed = f"\n{_ms(result['update_replayed_ms'])} graph"
        faster = f"\n{result['speedup_replayed']:.1f}x"
    return [
        f"{result['model']}\n{result['policy']}, {result['edit_label']}{dtype}",
        f"{_ms(result['dense_ms'])}\n{result['dense_kind'].removeprefix('channels_')}",
        f"{_ms(result['record_ms'])}\n{result['record_over_dense']:.2f}x",
        f"{_ms(result['update_ms'])}{replayed}",
        f"{result['speedup']:.1f}x{faster}",
        f"{_giga(result['macs_active'])}\nof {_giga(result['macs_dense'])}",
        size_text(result["kept_bytes"]),
        f"{result['rel_err']:.2g}{outside}",
    ]


def _ms(value: Any) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _giga(count: int) -> str:
    return f"{count / 1e9:.2f}" if count < 99.5e9 else f"{count / 1e9:.0f}"


def size_text(count: int) -> str:
    """Bytes as MB or GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
