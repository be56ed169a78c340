"""The `retouch` command that all others belong to.

Exit codes: 0 done, 2 wrong usage, 1 anything that failed, 130 interrupted; messages go to stderr.
"""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="Incremental inference for image editing: record a run once, then compute only what an edit touches.",
)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Record a run once, then compute only what an edit touches."""
    if version:
        from retouch.bench.machine import package_version

        typer.echo(f"retouch {package_version()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
