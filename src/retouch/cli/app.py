"""The `retouch` command that all others belong to.

Exit codes: 0 done, 2 wrong usage, 1 anything that failed, 130 interrupted; messages go to stderr.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperGroup

from retouch.cli.common import failures, note
from retouch.errors import FallbackWarning


class Reporting(TyperGroup):
    """Commands whose errors are said in one line where they are the caller's."""

    def invoke(self, context: Any) -> Any:
        """Run the command that was asked for."""
        with failures():
            return super().invoke(context)


app = typer.Typer(
    cls=Reporting,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Incremental inference for image editing: record a run once, then compute only what an edit touches.",
)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Record a run once, then compute only what an edit touches."""
    context.with_resource(_noted_fallbacks())
    if version:
        typer.echo(f"retouch {metadata.version('retouch')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@contextmanager
def _noted_fallbacks() -> Iterator[None]:
    """Show warnings of fallbacks as notes of the command."""
    real = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if issubclass(category, FallbackWarning):
            note(str(message))
        else:
            real(message, category, *where, **options)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = real
