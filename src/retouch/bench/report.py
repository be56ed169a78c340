"""Results as a table for people and as JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from retouch.bench.measure import Result
from retouch.bench.published import REFERENCE, SIGE, measured
from retouch.plan.peaks import device


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
        replayed = f"\n{figure(result['update_replayed_ms'])} graph"
        faster = f"\n{result['speedup_replayed']:.1f}x"
    return [
        f"{result['model']}\n{result['policy']}, {result['edit_label']}{dtype}",
        f"{figure(result['dense_ms'])}\n{result['dense_kind'].removeprefix('channels_')}",
        f"{figure(result['record_ms'])}\n{result['record_over_dense']:.2f}x",
        f"{figure(result['update_ms'])}{replayed}",
        f"{result['speedup']:.1f}x{faster}",
        f"{_giga(result['macs_active'])}\nof {_giga(result['macs_dense'])}",
        size_text(result["kept_bytes"]),
        f"{result['rel_err']:.2g}{outside}",
    ]


def _giga(count: int) -> str:
    return f"{count / 1e9:.2f}" if count < 99.5e9 else f"{count / 1e9:.0f}"


def size_text(count: int) -> str:
    """Bytes as MB or GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


# Markdown

_COLUMNS = (
    "network", "type", "policy", "edit", "GMAC dense", "active", "dense ms", "record ms", "update ms", "in graphs",
    "speed-up", "in graphs", "error", "SIGE: edit", "dense ms", "update ms", "speed-up",
)  # fmt: skip


def markdown(results: Sequence[Result], command: str) -> str:
    """The report of measurements on one machine, beside SIGE's on its reference device."""
    machine = results[0]["machine"]
    where = f"{machine['gpu'] or machine['cpu']}, {machine['threads']} threads, PyTorch {machine['torch']}"
    parts = [
        f"# Measured: {where}",
        f"`{command}`, commit {machine['commit']}.",
        "Times are medians. *Dense* is the best of eager NCHW, eager channels-last and `torch.compile`; *in graphs*: "
        "as editing sessions update, replayed from a CUDA graph; *error*: relative L2 in the active rows, random "
        f"weights. SIGE's figures are of the {device(REFERENCE).title} (arXiv 2211.02048) for the edit nearest in "
        "size, for Stable Diffusion of twice the pixels.",
        markdown_table(_COLUMNS, map(_cells, results)),
    ]
    return "\n\n".join(parts) + "\n"


def _cells(result: Result) -> list[str]:
    published = None if result["tiny"] else SIGE.get(result["model"])
    update = published.nearest(result["edit"]) if published else None
    sige = measured(published, update.edit if update else 0.0, REFERENCE)
    return [
        *(result[name] for name in ("model", "dtype", "policy", "edit_label")),
        _giga(result["macs_dense"]),
        _giga(result["macs_active"]),
        f"{figure(result['dense_ms'])} ({result['dense_kind']})",
        *(figure(result[name]) for name in ("record_ms", "update_ms", "update_replayed_ms")),
        *(times(result[name]) for name in ("speedup", "speedup_replayed")),
        f"{result['rel_err']:.2g}",
        f"{update.edit:g}" if update else "-",
        *(figure(sige[name]) for name in ("dense_ms", "update_ms")),
        times(sige["speedup"]),
    ]


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))


def figure(value: float | None, unit: str = "") -> str:
    """Three figures; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.0f}{unit}" if value >= 100 else f"{value:.1f}{unit}"


def times(value: float | None) -> str:
    """A factor; a dash where there is none."""
    return "-" if value is None else f"{value:.1f}x"
