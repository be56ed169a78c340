"""The `retouch` command that all others belong to.

Exit codes: 0 done, 2 wrong usage, 1 anything that failed, 130 interrupted; messages go to stderr.
"""

from __future__ import annotations

import shlex
import warnings
from importlib import metadata
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperGroup

from retouch.cli.common import failures, note
from retouch.errors import FallbackWarning


class Reporting(TyperGroup):
    """Commands whose errors are said in one line where they are the caller's."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        """Keep the words of the command, for reports to name it."""
        context.meta["command"] = shlex.join(["retouch", *args])
        return super().parse_args(context, args)

    def invoke(self, context: Any) -> Any:
        """Run the command that was asked for."""
        with failures(), warnings.catch_warnings():
            warnings.showwarning = _noting(warnings.showwarning)
            return super().invoke(context)


def _noting(real: Any) -> Any:
    """What shows warnings, those of fallbacks as notes of the command."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if issubclass(category, FallbackWarning):
            note(str(message))
        else:
            real(message, category, *where, **options)

    return show


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
    if version:
        typer.echo(f"retouch {metadata.version('retouch')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
