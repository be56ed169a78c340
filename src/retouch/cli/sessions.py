"""`retouch info | undo | redo | go`: session folders, read and moved without their model."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from retouch.bench.options import size_text
from retouch.cli.app import app
from retouch.cli.common import check_picture_file, usage_errors
from retouch.errors import OptionError

if TYPE_CHECKING:
    from retouch.editing.history import History
    from retouch.editing.manifest import Entry
    from retouch.editing.saved import Saved

Folder = Annotated[Path, Argument(metavar="FOLDER", help="Session folder.")]
Output = Annotated[Path | None, Option("--output", "-o", help="File for the picture.")]


@app.command()
def info(folder: Folder, json: Annotated[bool, Option("--json", help="Print everything as JSON.")] = False) -> None:
    """Show what a session folder holds: settings, versions, bytes.

    Only the manifest is read: no model is loaded, and no checksum compared.
    """
    from retouch.editing.saved import Saved

    saved = Saved.read(folder)
    if json:
        typer.echo(jsonlib.dumps(saved.report(), indent=1))
        return
    for name, text in saved.facts().items():
        typer.echo(f"{name + ':':10}{printable(text)}")
    Console().print(_table(saved))
    manifest = saved.manifest
    typer.echo(f"in all:   {size_text(sum(entry.nbytes for entry in manifest.versions), 1)}")
    typer.echo(f"current:  {saved.picture(manifest.version)}")


def _table(saved: Saved) -> Table:
    made, history = Table("", "version", "edit", "prompt"), saved.manifest.history
    before = {entry.number for entry in history.past}
    for title in ("region", "seconds", "stored", "read"):
        made.add_column(title, justify="right", no_wrap=True)
    for above, entry in zip((None, *(entry.number for entry in history.versions)), history.versions, strict=False):
        later = "undone" if entry.number in history.line() else "branch"
        made.add_row(
            "now" if entry.number == history.current else "" if entry.number in before else later,
            f"{entry.number}" if entry.parent == above else f"{entry.number} of {entry.parent}",
            Text(printable(entry.facts["edit"])),
            Text(printable(_words(entry.facts))),
            f"{entry.facts['region']:.2%}",
            f"{entry.facts['seconds'].get('total', 0.0):.2f}",
            size_text(entry.nbytes, 1),
            size_text(entry.facts["bytes_read"], 1),
        )
    return made


def _words(facts: Mapping[str, Any]) -> str:
    """The words of a version, with those of its areas."""
    return " | ".join([facts.get("prompt") or "", *(area["prompt"] for area in facts.get("areas", ()))])


@app.command()
def undo(folder: Folder, output: Output = None) -> None:
    """Go back to the version before the last edit of a session; no model is loaded."""
    _moved(folder, lambda history: history.undone(), output)


@app.command()
def redo(folder: Folder, output: Output = None) -> None:
    """Take an undone edit of a session back again; no model is loaded."""
    _moved(folder, lambda history: history.redone(), output)


@app.command()
def go(
    folder: Folder,
    version: Annotated[int, Argument(metavar="VERSION", help="Its number, as `retouch info` shows it.", min=0)],
    output: Output = None,
) -> None:
    """Go to any version of a session, on any branch; no model is loaded."""
    _moved(folder, lambda history: history.at(version), output)


def _moved(folder: Path, to: Callable[[History[Entry]], History[Entry]], output: Path | None) -> None:
    """Make another version the current one, and say where its picture is."""
    from retouch.editing.saved import Saved

    if output is not None:
        with usage_errors(ValueError):
            check_picture_file(output)
            check_outside(output, folder)
    saved = Saved.moved(folder, to, output)
    version = saved.manifest.version
    typer.echo(f"now at version {version.number}: {output or saved.picture(version)}")


def check_outside(path: Path, folder: Path) -> None:
    """OptionError if `path` is a file of a session folder."""
    if path.resolve().is_relative_to(folder.resolve()):
        raise OptionError(f"cannot write {path}: {folder} is a session, which keeps its own files")


def printable(text: str) -> str:
    """Without the control characters that a manifest from elsewhere could send to the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
