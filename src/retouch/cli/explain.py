"""`retouch explain | demo`: what an update computes, and what it looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retouch.cli.app import app
from retouch.cli.bench import run_suite
from retouch.cli.common import (
    ArithmeticName,
    AutomaticDevice,
    BackendName,
    Dilate,
    PolicyName,
    Threads,
    Tiny,
    quiet_libraries,
    usage_errors,
)


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="Network, one of `retouch bench networks --list`.")],
    edit: Annotated[
        float, typer.Option("--edit", help="Share of the image that the square edit covers, (0, 1].")
    ] = 0.012,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="Image file instead of --edit: white pixels are edited.")
    ] = None,
    policy: PolicyName = "balanced",
    dilate: Dilate = None,
    dtype: ArithmeticName = "float32",
    backend: BackendName = "auto",
    tiny: Tiny = False,
) -> None:
    """Print what an update computes: each op with its grid, rows, arithmetic and backend."""
    from retouch.bench.networks import Networks

    edits, masks = ([], [mask]) if mask else ([edit], [])
    suite = Networks([model], edits, masks, [policy], [dtype], "cpu", backend, dilate, tiny=tiny)
    with usage_errors():
        suite.check()
    typer.echo(str(suite.explanation()))


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
    quiet_libraries()
    from retouch.cli.demo import NEXT, Demo

    suite = Demo(output, policy, device, backend, tiny)
    run_suite(suite, threads)
    for text in suite.kernels:
        typer.echo(f"Computed with {text}")
    paths = suite.write_sheet()
    typer.echo(f"Pictures in {output}/: {', '.join(path.name for path in paths)}")
    typer.echo(NEXT)
