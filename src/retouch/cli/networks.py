"""`retouch explain | demo`: what an update computes, and what it looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from retouch.cli.app import app
from retouch.cli.common import (
    AutomaticDevice,
    BackendName,
    Dilate,
    DtypeName,
    PolicyName,
    Threads,
    Tiny,
    check_device,
    check_masks,
    edits_of,
    failures,
    known_networks,
    known_policies,
    quiet_libraries,
    set_threads,
    steps_bar,
    torch_dtype,
    usage_errors,
)


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="Network, one of `retouch bench --list`.")],
    edit: Annotated[
        float, typer.Option("--edit", help="Share of the image that the square edit covers, (0, 1].")
    ] = 0.012,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="Image file instead of --edit: white pixels are edited.")
    ] = None,
    policy: PolicyName = "balanced",
    dilate: Dilate = None,
    dtype: DtypeName = "float32",
    backend: BackendName = "auto",
    tiny: Tiny = False,
) -> None:
    """Print what an update computes: each op with its grid, rows, arithmetic and backend."""
    from retouch.bench import Options

    with failures(), usage_errors():
        options = Options(
            models=known_networks([model]),
            edits=edits_of([] if mask else [edit], [mask] if mask else []),
            policies=known_policies([policy]),
            dtypes=[torch_dtype(dtype, backend)],
            backend=backend,
            dilate=dilate,
            tiny=tiny,
        )
        check_masks(options)
    with failures():
        from retouch.bench.measure import explanation

        typer.echo(str(explanation(options)))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder for the pictures; made if missing.")] = Path("demo"),
    policy: PolicyName = "balanced",
    threads: Threads = None,
    device: AutomaticDevice = "auto",
    backend: BackendName = "auto",
    tiny: Tiny = False,
) -> None:
    """Edit a photograph that is enlarged and a generated emoji, densely and incrementally.

    Three edits each, one on top of the other, with trained networks; prints a table
    and writes the pictures. --policy is for the emoji: the enlargement is exact.
    """
    with usage_errors():
        known_policies([policy])
        check_device(device)
        _make_folder(output)
    set_threads(threads)
    with failures():
        from retouch.cli.demo import run_demo, show

        quiet_libraries()
        with steps_bar("loading the models") as progress:
            sessions = run_demo(policy, device, backend, tiny, progress)
        show(sessions, output, Console())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {folder}: {error.strerror or error}") from error
