"""`retouch cache`: packed weights that processes share."""

from __future__ import annotations

from typing import Annotated

import typer

from retouch.cli.app import app


@app.command()
def cache(clear: Annotated[bool, typer.Option("--clear", help="Remove the files of packed weights.")] = False) -> None:
    """Show the files of packed weights (`map_weights=True`) in the cache folder, or remove them.

    Processes that have some mapped keep them until they end.
    """
    from retouch.runtime.packed_files import clear as removed
    from retouch.runtime.packed_files import packed_files, packed_folder

    folder = packed_folder()
    if clear:
        typer.echo(f"removed {removed(folder) / 1e6:.1f} MB from {folder}")
        return
    files = packed_files(folder)
    typer.echo(f"{folder}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
