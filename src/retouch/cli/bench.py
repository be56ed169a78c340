"""`retouch bench`: the suites of measurements, one sub-command each."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import TaskProgressColumn
from rich.table import Table

from retouch.cli.app import app
from retouch.cli.common import (
    DEVICE_HELP,
    POLICY_HELP,
    BackendName,
    Dilate,
    Dtype,
    DtypeName,
    Memory,
    StorageName,
    Threads,
    Tiny,
    bar,
    byte_count,
    note,
    quiet_libraries,
    set_threads,
    usage_errors,
)
from retouch.errors import OptionError

if TYPE_CHECKING:
    from retouch.bench.harness import Progress, Suite
    from retouch.bench.report import Result

Products = Literal[Dtype, "tf32"]
"""Types of products that peaks are published for."""

WRITE_EVERY_S = 10.0

bench = typer.Typer(no_args_is_help=True, help="Measure networks, sessions, quality, halos and tiles; predict times.")
app.add_typer(bench, name="bench")

Json = Annotated[Path | None, typer.Option("--json", help="File to write the results to.")]
List = Annotated[bool, typer.Option("--list", help="List what --model takes, and exit.")]
Masks = Annotated[list[Path] | None, typer.Option("--mask", help="Image file, white where edited; may be repeated.")]
Names = Annotated[list[str] | None, typer.Option("--model", help="Network or pipeline (ddpm-256); may be repeated.")]
NoCompile = Annotated[bool, typer.Option("--no-compile", help="Leave torch.compile out of the dense baselines.")]
Peers = Annotated[
    list[str] | None, typer.Option("--peer", help="openvino or onnxruntime as a further dense run; may be repeated.")
]
Policies = Annotated[list[str] | None, typer.Option("--policy", help=f"{POLICY_HELP}; may be repeated.")]
Report = Annotated[Path | None, typer.Option("--report", help="Markdown file to write, pictures beside it.")]
Rounds = Annotated[int, typer.Option("--repeat", min=1, help="Rounds that are counted.")]
Shares = Annotated[
    list[float] | None, typer.Option("--edit", help="Share of the image edited, (0, 1] (0.012); may be repeated.")
]
Texts = Annotated[
    list[str] | None,
    typer.Option("--text", help="What becomes of texts in joint attention: recomputed or recorded; may be repeated."),
]


# The parameters of a command are named as the fields of its suite.


@bench.command()
def networks(
    context: typer.Context,
    model: Names = None,
    edit: Shares = None,
    mask: Masks = None,
    policy: Policies = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option("--dtype", help="Type of weights and activations (float32), or int8; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help=f"{DEVICE_HELP}.")] = "cpu",
    backend: BackendName = "auto",
    dilate: Dilate = None,
    text: Texts = None,
    no_compile: NoCompile = False,
    peer: Peers = None,
    repeat: Rounds = 5,
    tiny: Tiny = False,
    threads: Threads = None,
    json: Json = None,
    report: Report = None,
    list_models: List = False,
) -> None:
    """Time dense, record and update of named networks, interleaved in one process.

    The speed-up is against the best dense run of eager NCHW, eager channels-last,
    torch.compile and the peers. Weights are random, so read the error columns as a check of
    the arithmetic, not as image quality.
    """
    if not list_models:
        _run(context, "networks", "Networks")
        return
    from retouch import models

    known = [models.get(name) for name in models.names()]
    rows = [[x.name, f"{x.image[0]}x{x.image[1]}", f"{x.gmacs:g}" if x.gmacs else "", x.summary] for x in known]
    _list("Networks (random weights)", ["name", "image", "GMAC", "what it is"], rows)


@bench.command()
def sessions(
    context: typer.Context,
    model: Names = None,
    edit: Shares = None,
    mask: Masks = None,
    policy: Annotated[str, typer.Option("--policy", help=f"{POLICY_HELP}.")] = "fast",
    steps: Annotated[
        list[int] | None, typer.Option("--steps", min=1, max=1000, help="Steps (the pipeline's); may be repeated.")
    ] = None,
    dtype: DtypeName = "float32",
    storage: StorageName = None,
    memory: Memory = None,
    backend: BackendName = "auto",
    repeat: Rounds = 1,
    tiny: Tiny = False,
    threads: Threads = None,
    json: Json = None,
    report: Report = None,
    list_models: List = False,
) -> None:
    """Time whole edits of diffusion pipelines, from picture to picture: record once, then edits.

    They are held against the dense pipeline with the same replacement outside the
    region, plain image to image, and crop and stitch. Weights are random.
    """
    if not list_models:
        with usage_errors():
            size = byte_count(memory)
        quiet_libraries()
        _run(context, "sessions", "Sessions", memory=size)
        return
    from retouch.models.pipelines import PIPELINES

    _list("Pipelines (random weights)", ["name", "what it is"], [list(item) for item in PIPELINES.items()])


@bench.command()
def quality(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", help="A trained diffusion model.")] = "builtin/emoji-256",
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of PNG files named after their prompts (drawn anew).")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Number of edits.")] = 100,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Policy or variant; may be repeated (all).")
    ] = None,
    backend: BackendName = "auto",
    threads: Threads = None,
    json: Json = None,
    report: Report = None,
) -> None:
    """Measure how close edits of a trained model come to dense ones, with several methods.

    A fixed set of edits is made on pictures that the built-in model draws or on those
    of --images; each is held against the dense model. A report has a plot and a sheet
    of pictures beside it.
    """
    quiet_libraries()
    _run(context, "quality", "Quality")


@bench.command()
def halo(
    context: typer.Context,
    model: Annotated[
        str, typer.Option("--model", help="Built-in super-resolution network (see docs/guide/models.md).")
    ] = "builtin/realesrgan-x4",
    dilate: Annotated[
        list[int] | None,
        typer.Option("--dilate", min=0, help="Halo in pixels; may be repeated (0 to 48 in eleven steps)."),
    ] = None,
    policy: Annotated[str, typer.Option("--policy", help=f"{POLICY_HELP}, with other halos.")] = "balanced",
    side: Annotated[int, typer.Option("--side", help="Width and height of the photograph in pixels.")] = 256,
    backend: BackendName = "auto",
    no_compile: NoCompile = False,
    repeat: Rounds = 3,
    threads: Threads = None,
    json: Json = None,
    report: Report = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Picture to draw the curves to.")] = None,
) -> None:
    """Measure error and time of updates against their halo, on a photograph.

    The halo is what is computed around an edit, in pixels. Where a network sees
    further, an update is an approximation; its error is that to the dense result,
    with trained weights, for a brush stroke and a pasted patch.
    """
    _run(context, "halo", "Halo")


@bench.command()
def predict(
    context: typer.Context,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="rtx3090 (the default), a100, h100 or m1pro; may be repeated.")
    ] = None,
    model: Names = None,
    edit: Shares = None,
    mask: Masks = None,
    policy: Policies = None,
    dtype: Annotated[Products, typer.Option("--dtype", help="Type of the products.")] = "float32",
    dilate: Dilate = None,
    tiny: Tiny = False,
    json: Json = None,
    report: Report = None,
) -> None:
    """Predict dense runs and updates on a device, beside SIGE's published measurements.

    Nothing is run: a cost model says what they would take.
    """
    _run(context, "forecast", "Forecast")


@bench.command()
def tiles(
    architecture: Annotated[
        str | None, typer.Option("--list", help="Print the candidates for sm_80, sm_90 ..., and exit; needs no GPU.")
    ] = None,
    json: Json = None,
) -> None:
    """Time tiles of Triton's kernels on the GPU at hand, and say which to put into `tiles.py`.

    Candidates that spill registers, need more shared memory than there is or multiply
    16-bit numbers without tensor cores are left out before anything is timed.
    """
    from retouch.models.extras import require

    require("triton", "triton")
    from retouch.bench.tiles import Tiles, candidates
    from retouch.kernels.triton import tune

    if architecture is not None:
        typer.echo(candidates(architecture))
        return
    suite = Tiles(tune.present())
    run_suite(suite, json=json)
    typer.echo(suite.lines())


# Running a suite


@bench.command()
def serve(
    url: Annotated[str, typer.Argument(help="Address of a running server, as http://127.0.0.1:8188.")],
    token: Annotated[str | None, typer.Option("--token", envvar="RETOUCH_TOKEN", help="What opens it.")] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Address of another server to put the same load on, a dense one.")
    ] = None,
    against_token: Annotated[
        str | None, typer.Option("--against-token", envvar="RETOUCH_AGAINST_TOKEN", help="What opens that one.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Of those of the server (its first).")] = None,
    people: Annotated[int, typer.Option("--people", min=1, help="How many come.")] = 8,
    rate: Annotated[float, typer.Option("--rate", min=0.001, help="How many come in a second in the mean.")] = 1.0,
    strokes: Annotated[int, typer.Option("--strokes", min=1, help="What each of them paints.")] = 10,
    think: Annotated[float, typer.Option("--think", min=0, help="Seconds between strokes in the mean.")] = 2.0,
    undo: Annotated[
        float, typer.Option("--undo", min=0, max=1, help="Share of strokes before which one undoes.")
    ] = 0.1,
    reopen: Annotated[float, typer.Option("--reopen", min=0, max=1, help="And opens the page anew.")] = 0.05,
    size: Annotated[int, typer.Option("--size", min=8, help="Side of pictures in pixels.")] = 64,
    stroke: Annotated[int, typer.Option("--stroke", min=1, help="Side of a stroke's square in pixels.")] = 8,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of the model (its own).")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of everything that is random.")] = 0,
    json: Json = None,
) -> None:
    """Put simulated people on a running server, and time their strokes."""
    from json import dumps

    from retouch.bench.serve import Load, Server, document, drive

    with usage_errors(OptionError):
        if stroke > size:
            raise OptionError(f"a stroke of {stroke} pixels does not fit a picture of {size}")
        _check_files(json, None, None)
    servers = [Server("server", url.rstrip("/"), token, model)]
    servers += [Server("against", against.rstrip("/"), against_token, model)] if against else []
    load = Load(people, rate, strokes, think, undo, reopen, size, stroke, steps, seed)
    tallies = drive(servers, load, lambda done, total: note(f"{done} of {total} people came"))
    found = document(load, tallies)
    if json is not None:
        json.write_text(dumps(found, indent=1), "utf-8")
    names = [name for name in next(iter(found["servers"].values())) if name != "seconds"]
    rows = [[name, *(_shown(each.get(name)) for each in found["servers"].values())] for name in names]
    table = Table("", *found["servers"], title="Strokes to their results, in seconds")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if any(tally.failed or tally.lost or tally.twice for tally in tallies.values()):
        raise typer.Exit(1)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _run(context: typer.Context, module: str, name: str, **others: Any) -> None:
    """Run a suite with the options of the command; those that were not given are the suite's own."""
    kind = getattr(import_module(f"retouch.bench.{module}"), name)
    given = {key: value for key, value in {**context.params, **others}.items() if value not in (None, (), [])}
    suite = kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})
    run_suite(
        suite, **{key: given.get(key) for key in ("threads", "json", "report", "plot")}, command=command_line(context)
    )


def run_suite(
    suite: Suite,
    threads: int | None = None,
    json: Path | None = None,
    report: Path | None = None,
    plot: Path | None = None,
    command: str = "",
) -> None:
    """Check what a suite reads and writes, run it with a bar, print its tables, write its files."""
    with usage_errors():
        suite.check()
        _check_files(json, report, plot)
    set_threads(threads)
    results = _collected(suite, json)
    for table in suite.tables(results):
        Console().print(table)
    for text in suite.notes(results):
        Console(stderr=True).print(text, style="dim", markup=False, highlight=False)
    if report is not None:
        suite.write_report(report, results, command)
    if plot is not None:
        from retouch.bench.plots import save_plots

        save_plots(plot, suite.plots(results), suite.heading(results)[0])


def _check_files(json: Path | None, report: Path | None, plot: Path | None) -> None:
    from retouch.bench.plots import check_plot
    from retouch.bench.report import check_writable

    if report is not None and report.suffix != ".md":
        raise OptionError(f"cannot write {report}: a report is Markdown, with pictures beside it; name it .md")
    if plot is not None:
        check_plot(plot)
    for path in (json, report, plot):
        if path is not None:
            check_writable(path)


def _collected(suite: Suite, json: Path | None) -> list[Result]:
    """All results. Those that are there are in the file soon, and when the run ends early."""
    from retouch.bench.report import write_json

    results: list[Result] = []
    written = time.monotonic()
    try:
        with _progress() as progress:
            for result in suite.results(progress):
                results.append(result)
                if json is not None and time.monotonic() - written > WRITE_EVERY_S:
                    write_json(json, results)
                    written = time.monotonic()
    except KeyboardInterrupt as error:
        note(f"interrupted; {json} holds the results so far: {len(results)}" if json and results else "interrupted")
        raise typer.Exit(130) from error
    finally:
        if json is not None and results:
            write_json(json, results)
    return results


@contextmanager
def _progress() -> Iterator[Progress]:
    """What suites tell how much is done, shown as a bar."""
    from retouch.bench.harness import Progress

    with bar(TaskProgressColumn()) as shown:
        task = shown.add_task("starting", total=1.0)
        yield Progress(lambda text, done: shown.update(task, description=text, completed=done))
        shown.update(task, description="done", completed=1.0)


def command_line(context: typer.Context) -> str:
    """The command that runs, with the options that were given."""
    words = [str(context.parent and context.parent.info_name), str(context.info_name)]
    for parameter in context.command.params:
        source, value = context.get_parameter_source(str(parameter.name)), context.params.get(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE":
            for each in value if isinstance(value, list | tuple) else [value]:
                words += [parameter.opts[0]] if each is True else [parameter.opts[0], str(each)]
    return shlex.join(["retouch", *words])


def _list(title: str, titles: list[str], rows: list[list[str]]) -> None:
    made = Table(*titles, title=title, caption="Policies: paper, balanced, fast, exact")
    for row in rows:
        made.add_row(*row)
    Console().print(made)
