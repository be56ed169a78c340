"""`retouch cache`: what later starts need not make again."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

from retouch.cli.app import app


@app.command()
def cache(clear: Annotated[bool, Option("--clear", help="Remove the files.")] = False) -> None:
    """Show the files in the cache folder, or remove them: lowered programs, errors of int8, and packed weights
    (`map_weights=True`).

    Processes that have some mapped keep them until they end.
    """
    from retouch.runtime import packed_files, program_files, trial

    for kind in (program_files.FILES, trial.FILES, packed_files.FILES):
        if clear:
            typer.echo(f"removed {kind.clear() / 1e6:.1f} MB from {kind.folder}")
            continue
        files = kind.files()
        typer.echo(f"{kind.folder}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
