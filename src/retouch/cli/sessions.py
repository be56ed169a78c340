"""`retouch info | undo | redo`: session folders, read and moved without their model."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from retouch.cli.app import app
from retouch.cli.common import check_picture_file, failures, usage_errors
from retouch.cli.saved import Saved, SavedVersion, check_outside

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Session folder.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File for the picture.")]


@app.command()
def info(
    folder: Folder, json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False
) -> None:
    """Show what a session folder holds: settings, versions, bytes.

    Only the manifest is read: no model is loaded, and no checksum compared.
    """
    with failures():
        saved = Saved.read(folder)
    if json:
        typer.echo(jsonlib.dumps(saved.report(), indent=1))
        return
    for name, text in _facts(saved).items():
        typer.echo(f"{name + ':':10}{printable(text)}")
    Console().print(_table(saved))
    typer.echo(f"in all:   {megabytes(sum(version.bytes for version in saved.versions))}")
    typer.echo(f"current:  {saved.version.picture}")


def _facts(saved: Saved) -> dict[str, str]:
    settings = saved.settings
    kept = f"policy {settings['editor']['policy']['name']}, rows as {saved.storage}"
    found = {
        "session": f"{saved.kind}, {settings['width']}x{settings['height']} pixels",
        "model": str(settings["model"] or "not named"),
    }
    if saved.kind == "diffusion":
        steps = f"{saved.versions[0].steps} recorded of {settings['steps']}, {settings['scheduler']['name']}"
        noise = f"strength {settings['strength']}, guidance {settings['guidance']}, seed {settings['seed']}"
        return {**found, "steps": steps, "settings": f"{noise}, {kept}"}
    return {**found, "settings": kept}


def _table(saved: Saved) -> Table:
    made = Table("", "version", "edit", "prompt")
    for title in ("region", "seconds", "stored", "read"):
        made.add_column(title, justify="right", no_wrap=True)
    for place, version in enumerate(saved.versions):
        made.add_row(
            "now" if place == saved.current else "undone" if place > saved.current else "",
            str(version.number),
            Text(printable(version.edit)),
            Text(printable(version.prompt or "")),
            f"{version.region:.2%}",
            f"{version.seconds['total']:.2f}",
            megabytes(version.bytes),
            megabytes(version.bytes_read),
        )
    return made


@app.command()
def undo(folder: Folder, output: Output = None) -> None:
    """Go back to the version before the last edit of a session; no model is loaded."""
    _moved(folder, -1, output)


@app.command()
def redo(folder: Folder, output: Output = None) -> None:
    """Take an undone edit of a session back again; no model is loaded."""
    _moved(folder, 1, output)


def _moved(folder: Path, by: int, output: Path | None) -> None:
    if output is not None:
        with usage_errors(ValueError):
            check_picture_file(output)
            check_outside(output, folder)
    with failures():
        version = move(folder, by, output)
    typer.echo(f"now at version {version.number}: {output or version.picture}")


def move(folder: Path, by: int, output: Path | None = None) -> SavedVersion:
    """Make the version that many places further the current one; its picture is written first.

    Raises UndoError when there is none, ArchiveError when the folder is no session, damaged or in use.
    """
    from retouch.editing.archive import PICTURE, Archive, ArchiveError
    from retouch.editing.images import as_pixels, save_png
    from retouch.runtime.state.in_place import UndoError

    archive, manifest = Archive.open(folder)
    try:
        saved, place = Saved.of(folder, manifest), manifest["current"] + by
        if place not in range(len(saved.versions)):
            raise UndoError(
                "nothing to undo: this is the original" if by < 0 else "nothing to redo: no later version is kept"
            )
        entry = manifest["versions"][place]
        if PICTURE not in entry["files"]:
            raise ArchiveError(f"the manifest in {folder} is damaged: version {entry['number']} has no {PICTURE}")
        archive.verify({"versions": [{**entry, "files": {PICTURE: entry["files"][PICTURE]}}]})
        if output is not None:
            save_png(as_pixels(saved.versions[place].picture), output)
        archive.commit({**manifest, "current": place})
    finally:
        archive.close()
    return saved.versions[place]


def printable(text: str) -> str:
    """Without the control characters that a manifest from elsewhere could send to the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def megabytes(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
