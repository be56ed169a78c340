"""`retouch bench`: the suites of measurements, one sub-command each, whose options are the fields of the suite."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import TaskProgressColumn
from rich.table import Table
from typer import Option

from retouch.bench import options
from retouch.bench.options import Threads
from retouch.cli.app import app
from retouch.cli.common import check_file, quiet_libraries, steps_bar, usage_errors
from retouch.errors import OptionError

if TYPE_CHECKING:
    from retouch.bench.harness import Suite
    from retouch.bench.report import Result

WRITE_EVERY_S = 10.0

bench = typer.Typer(no_args_is_help=True, help="Measure networks, sessions, quality, halos and tiles; predict times.")
app.add_typer(bench, name="bench")

Json = Annotated[Path | None, Option(help="File to write the results to.")]
Plot = Annotated[Path | None, Option(help="Picture to draw the curves to.")]
Report = Annotated[Path | None, Option(help="Markdown file to write, pictures beside it.")]
FILES: Mapping[str, Any] = {"json": Json, "report": Report}
TIMED: Mapping[str, Any] = {"threads": Threads, **FILES}


def suite(asked: type, module: str, first: Callable[[], object] = lambda: None, **others: Any) -> Callable[..., None]:
    """A command that runs the suite of the same name in a module. first: what is done before that is loaded."""

    def run(context: typer.Context, **given: Any) -> None:
        files = {name: given.pop(name, None) for name in (*FILES, "plot")}
        for name in others.keys() & {"threads", "list"}:  # done when they were read
            given.pop(name)
        first()
        made = getattr(import_module(module), asked.__name__)(**given)
        run_suite(made, **files, command=context.meta["command"])

    fields = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in signature(asked, eval_str=True).parameters.values()]
    fields += [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, kind in others.items()]
    context = Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    run.__signature__ = Signature([context, *fields])  # type: ignore[attr-defined]
    run.__doc__ = asked.__doc__
    return run


def listed(title: str, titles: list[str], rows: Callable[[], list[list[str]]]) -> Any:
    """The option --list, which shows a table and ends the command."""

    def shown(wanted: bool) -> None:
        if wanted:
            made = Table(*titles, title=title)
            for row in rows():
                made.add_row(*row)
            Console().print(made)
            raise typer.Exit

    return Annotated[bool, Option("--list", help="List what --model takes, and exit.", callback=shown, is_eager=True)]


def _networks() -> list[list[str]]:
    from retouch import models

    known = map(models.get, models.names())
    return [[x.name, f"{x.image[0]}x{x.image[1]}", f"{x.gmacs:g}" if x.gmacs else "", x.summary] for x in known]


def _needs_triton() -> None:
    from retouch.models.extras import require

    require("triton", "triton")


def _pipelines() -> list[list[str]]:
    from retouch.models.pipelines import PIPELINES

    return [list(item) for item in PIPELINES.items()]


NETWORKS = listed("Networks (random weights)", ["name", "image", "GMAC", "what it is"], _networks)
PIPELINES = listed("Pipelines (random weights)", ["name", "what it is"], _pipelines)

bench.command("networks")(suite(options.Networks, "retouch.bench.networks", **TIMED, list=NETWORKS))
bench.command("sessions")(suite(options.Sessions, "retouch.bench.sessions", quiet_libraries, **TIMED, list=PIPELINES))
bench.command("quality")(suite(options.Quality, "retouch.bench.quality", quiet_libraries, **TIMED))
bench.command("halo")(suite(options.Halo, "retouch.bench.halo", **TIMED, plot=Plot))
bench.command("predict")(suite(options.Forecast, "retouch.bench.forecast", **FILES))
bench.command("tiles")(suite(options.Tiles, "retouch.bench.tiles", _needs_triton, json=Json))
bench.command("serve")(suite(options.Serve, "retouch.bench.serve", json=Json))


# Running a suite


def run_suite(
    suite: Suite, json: Path | None = None, report: Path | None = None, plot: Path | None = None, command: str = ""
) -> None:
    """Check what a suite reads and writes, run it with a bar, print its tables, write its files."""
    with usage_errors():
        suite.check()
        _check_files(json, report, plot)
    results = _collected(suite, json)
    for table in suite.tables(results):
        Console().print(table)
    for text in suite.notes(results):
        Console(stderr=True).print(text, style="dim", markup=False, highlight=False)
    if lines := suite.lines():
        typer.echo(lines)
    if report is not None:
        suite.write_report(report, results, command)
    if plot is not None:
        from retouch.bench.report import save_plots

        save_plots(plot, suite.plots(results), suite.heading(results)[0])
    if suite.failed(results):
        raise typer.Exit(1)


def _check_files(json: Path | None, report: Path | None, plot: Path | None) -> None:
    from retouch.bench.report import check_plot

    if report is not None and report.suffix != ".md":
        raise OptionError(f"cannot write {report}: a report is Markdown, with pictures beside it; name it .md")
    if plot is not None:
        check_plot(plot)
    for path in filter(None, (json, report, plot)):
        check_file(path)


def _collected(suite: Suite, json: Path | None) -> list[Result]:
    """All results. Those that are there are in the file soon, and when the run ends early."""
    from retouch.bench.harness import Progress
    from retouch.bench.report import write_text

    results: list[Result] = []

    def write() -> float:
        if json is not None and results:
            write_text(json, jsonlib.dumps(suite.document(results), indent=2) + "\n")
        return time.monotonic()

    written = time.monotonic()
    try:
        with steps_bar("starting", TaskProgressColumn()) as show:
            for result in suite.results(Progress(lambda text, done: show(done, 1, text))):
                results.append(result)
                if time.monotonic() - written > WRITE_EVERY_S:
                    written = write()
            show(1, 1, "done")
    finally:
        write()
    return results
