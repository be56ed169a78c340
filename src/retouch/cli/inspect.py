"""`retouch explain | demo | kernels | cache`: what an update computes and looks like, with what, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from retouch.bench import options
from retouch.bench.options import AnyDtype, BackendName, DeviceName, Dilate, PolicyName, Threads, Tiny
from retouch.cli.app import app
from retouch.cli.bench import suite
from retouch.cli.common import quiet_libraries, usage_errors


@app.command()
def explain(
    model: Annotated[str, Argument(help="Network, one of `retouch bench networks --list`.")],
    edit: Annotated[float, Option(help="Share of the image that the square edit covers, (0, 1].")] = 0.012,
    mask: Annotated[Path | None, Option(help="Image file instead of --edit: white pixels are edited.")] = None,
    policy: PolicyName = "balanced",
    dilate: Dilate = None,
    dtype: Annotated[
        AnyDtype,
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


app.command("demo")(suite(options.Demo, "retouch.cli.demo", quiet_libraries, threads=Threads))


@app.command()
def kernels(device: DeviceName = "auto") -> None:
    """List the kernels: what each computes, which backends have it here, and why others have not."""
    with usage_errors():
        from retouch.kernels.devices import selected

        chosen = selected(device)
    from retouch.kernels.registry import coverage

    known, lacking = coverage(chosen), dict[tuple[str, str], list[str]]()
    typer.echo(f"Kernels on {chosen}, and the backends that have them:")
    for each in known:
        typer.echo(f"{each.spec.name}: {', '.join(each.have)}\n    {each.spec.formula}")
        for why in each.lack.items():
            lacking.setdefault(why, []).append(each.spec.name)
    for (backend, reason), names in lacking.items():
        typer.echo(f"{backend} lacks {'all' if len(names) == len(known) else ', '.join(names)}: {reason}")


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
