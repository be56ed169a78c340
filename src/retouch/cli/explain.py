"""`retouch explain | demo`: what an update computes, and what it looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from retouch.bench import options
from retouch.bench.options import BackendName, Dilate, Dtype, PolicyName, Tiny
from retouch.cli.app import app
from retouch.cli.bench import suite
from retouch.cli.common import Threads, usage_errors


@app.command()
def explain(
    model: Annotated[str, Argument(help="Network, one of `retouch bench networks --list`.")],
    edit: Annotated[float, Option(help="Share of the image that the square edit covers, (0, 1].")] = 0.012,
    mask: Annotated[Path | None, Option(help="Image file instead of --edit: white pixels are edited.")] = None,
    policy: PolicyName = "balanced",
    dilate: Dilate = None,
    dtype: Annotated[
        Literal[Dtype, "int8"],
        Option(help="Type of weights and activations; int8: products in int8, the rest in the fastest type here."),
    ] = "float32",
    backend: BackendName = "auto",
    tiny: Tiny = False,
) -> None:
    """Print what an update computes: each op with its grid, rows, arithmetic and backend."""
    from retouch.bench.networks import Networks

    edits, masks = ([], [mask]) if mask else ([edit], [])
    asked = Networks([model], edits, masks, [policy], [dtype], "cpu", backend, dilate, tiny=tiny)
    with usage_errors():
        asked.check()
    typer.echo(str(asked.explanation()))


app.command("demo")(suite(options.Demo, "retouch.cli.demo", True, threads=Threads))
