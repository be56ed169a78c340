"""`retouch halo`: how wrong an update is, and how long it takes, with more and more computed around the edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from retouch.cli.app import app
from retouch.cli.bench import collected
from retouch.cli.common import (
    POLICY_HELP,
    BackendName,
    Threads,
    check_picture_file,
    failures,
    known_policies,
    set_threads,
    usage_errors,
)


@app.command()
def halo(
    model: Annotated[
        str, typer.Option("--model", help="Trained network: a built-in super-resolution model (see README).")
    ] = "builtin/realesrgan-x4",
    dilate: Annotated[
        list[int] | None,
        typer.Option("--dilate", min=0, help="Halo in pixels; may be repeated (0 to 48 in eleven steps)."),
    ] = None,
    policy: Annotated[str, typer.Option("--policy", help=f"{POLICY_HELP}, with other halos.")] = "balanced",
    side: Annotated[int, typer.Option("--side", help="Width and height of the photograph in pixels.")] = 256,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Rounds that are counted.")] = 3,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Leave torch.compile out of the dense baselines.")
    ] = False,
    threads: Threads = None,
    backend: BackendName = "auto",
    json: Annotated[Path | None, typer.Option("--json", help="File to write the results to.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Picture to draw the curves to.")] = None,
) -> None:
    """Measure error and time of updates against their halo, on a photograph.

    The halo is what is computed around an edit, in pixels. Where a network sees
    further, an update is an approximation; its error is that to the dense result,
    with trained weights, for a brush stroke and a pasted patch.
    """
    with usage_errors():
        from retouch.bench.halo import HALOS, HaloOptions

        options = HaloOptions(
            model=model,
            halos=sorted(set(dilate)) if dilate else HALOS,
            policy=known_policies([policy])[0],
            backend=backend,
            side=side,
            compile_dense=not no_compile,
            repeat=repeat,
        )
        _check_files(json, plot)
    set_threads(threads)
    with failures():
        from retouch.bench.halo import halo_plot, halo_table, measure_halo
        from retouch.editing.images import save_png

        results = collected(lambda tick: measure_halo(options, tick), options.ticks, json)
        Console().print(halo_table(results))
        if plot is not None:
            save_png(halo_plot(results), plot)


def _check_files(json: Path | None, plot: Path | None) -> None:
    """ValueError unless both can be written."""
    from retouch.bench import check_writable

    if json is not None:
        check_writable(json)
    if plot is not None:
        check_picture_file(plot)
