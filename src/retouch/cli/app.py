"""The command line: `retouch demo | bench | explain`.

Exit codes: 0 done, 2 wrong usage, 1 anything that failed; messages go to stderr.
torch is imported by the commands that need it, so that help stays quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from retouch.bench import Edit, Options

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="Incremental inference for image editing: record a run once, then compute only what an edit touches.",
)

Dtype = Literal["float32", "bfloat16"]
Backend = Literal["auto", "cpu", "reference"]
EditSize = Annotated[float, typer.Option("--edit", help="Share of the image that the square edit covers, (0, 1].")]
MaskFile = Annotated[Path | None, typer.Option("--mask", help="Image file instead of --edit: white pixels are edited.")]
PolicyName = Annotated[str, typer.Option("--policy", help="paper, balanced, fast or exact (see README).")]
Dilate = Annotated[int | None, typer.Option("--dilate", min=0, help="Dilation of the mask in its own pixels.")]
DtypeName = Annotated[Dtype, typer.Option("--dtype", help="Type of weights and activations.")]
BackendName = Annotated[Backend, typer.Option("--backend", help="Kernels to use.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of PyTorch and the kernels.")]
Tiny = Annotated[bool, typer.Option("--tiny", help="Few channels and a small image: to try things out.")]


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


@app.command()
def bench(
    model: Annotated[list[str] | None, typer.Option("--model", help="Network to measure; may be repeated.")] = None,
    edit: Annotated[
        list[float] | None, typer.Option("--edit", help="Share of the image edited, (0, 1]; may be repeated.")
    ] = None,
    mask: Annotated[
        list[Path] | None, typer.Option("--mask", help="Image file, white where edited; may be repeated.")
    ] = None,
    policy: Annotated[list[str] | None, typer.Option("--policy", help="Policy name; may be repeated.")] = None,
    dtype: DtypeName = "float32",
    threads: Threads = None,
    backend: BackendName = "auto",
    dilate: Dilate = None,
    json: Annotated[Path | None, typer.Option("--json", help="File to write the results to.")] = None,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Leave torch.compile out of the dense baselines.")
    ] = False,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Rounds that are counted, after one warm-up.")] = 5,
    tiny: Tiny = False,
    session: Annotated[
        bool, typer.Option("--session", help="Measure whole editing sessions: record once, then edits.")
    ] = False,
    steps: Annotated[
        list[int] | None, typer.Option("--steps", min=1, help="Steps of --session; may be repeated.")
    ] = None,
    list_models: Annotated[bool, typer.Option("--list", help="List models and policies and exit.")] = False,
) -> None:
    """Time dense, record and update of named networks, interleaved in one process.

    The speed-up is against the best dense run of eager NCHW, eager channels-last
    and torch.compile. Weights are random, so read the error columns as a check of
    the arithmetic, not as image quality.
    """
    if list_models:
        Console().print(_model_table())
        return
    if session:
        _set_threads(threads)
        _bench_sessions(model, edit, mask, policy, steps, backend, json, tiny)
        return
    from retouch.bench import Options, check_writable

    with _usage_errors():
        options = Options(
            models=_known_models(model or ["ddpm-256"]),
            edits=_edits(edit or ([] if mask else [0.012]), mask or []),
            policies=_known_policies(policy or ["balanced"]),
            dtype=_torch_dtype(dtype),
            backend=backend,
            dilate=dilate,
            compile_dense=not no_compile,
            repeat=repeat,
            tiny=tiny,
        )
        _check_masks(options)
        if json is not None:
            check_writable(json)
    _set_threads(threads)
    with _failures():
        _bench(options, json)


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="Network, one of `retouch bench --list`.")],
    edit: EditSize = 0.012,
    mask: MaskFile = None,
    policy: PolicyName = "balanced",
    dilate: Dilate = None,
    dtype: DtypeName = "float32",
    backend: BackendName = "auto",
    tiny: Tiny = False,
) -> None:
    """Print what an update computes: each op with its grid, rows, arithmetic and backend."""
    from retouch.bench import Options

    with _usage_errors():
        options = Options(
            models=_known_models([model]),
            edits=_edits([] if mask else [edit], [mask] if mask else []),
            policies=_known_policies([policy]),
            dtype=_torch_dtype(dtype),
            backend=backend,
            dilate=dilate,
            tiny=tiny,
        )
        _check_masks(options)
    with _failures():
        from retouch.bench.measure import explanation

        typer.echo(str(explanation(options)))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder for the pictures; made if missing.")] = Path("demo"),
    policy: PolicyName = "balanced",
    threads: Threads = None,
    backend: BackendName = "auto",
    tiny: Tiny = False,
) -> None:
    """Edit a photograph, run real networks on it densely and incrementally, write pictures.

    The networks have random weights: the pictures show their response to the
    photograph, not a generated image. Times are those of the real networks.
    """
    with _usage_errors():
        _known_policies([policy])
        _make_folder(output)
    _set_threads(threads)
    with _failures():
        from retouch.demo import run_demo

        run_demo(output, policy, backend, tiny, Console())


def _bench_sessions(
    model: list[str] | None,
    edit: list[float] | None,
    mask: list[Path] | None,
    policy: list[str] | None,
    steps: list[int] | None,
    backend: str,
    json: Path | None,
    tiny: bool,
) -> None:
    from retouch.bench import check_writable, write_json
    from retouch.bench.sessions import PIPELINES, SessionOptions, measure_sessions, session_table

    with _usage_errors():
        names = model or ["ddpm-256"]
        if unknown := [name for name in names if name not in PIPELINES]:
            raise ValueError(f"unknown pipeline {unknown[0]!r}; there are {', '.join(PIPELINES)}")
        if policy is not None and len(policy) > 1:
            raise ValueError("--session measures one policy at a time")
        options = SessionOptions(
            models=names,
            steps=steps or (10, 20, 50),
            edits=_edits(edit or ([] if mask else [0.012]), mask or []),
            policy=_known_policies(policy or ["fast"])[0],
            backend=backend,
            tiny=tiny,
        )
        if json is not None:
            check_writable(json)
    results = []
    with _failures():
        with _progress() as bar:
            task = bar.add_task("starting", total=options.ticks)
            tick = _ticker(lambda text, done: bar.update(task, description=text, completed=done))
            for result in measure_sessions(options, tick):
                results.append(result)
                if json is not None:
                    write_json(json, results)
        Console().print(session_table(results))


def _bench(options: Options, json: Path | None) -> None:
    from retouch.bench import measure, restless, table, write_json

    results = []
    with _progress() as bar:
        task = bar.add_task("starting", total=options.steps)
        # Advance before naming: a step is done when the next one begins.
        tick = _ticker(lambda text, done: bar.update(task, description=text, completed=done))
        for result in measure(options, tick):
            results.append(result)
            if json is not None:
                write_json(json, results)
        bar.update(task, description="done", completed=options.steps)
    Console().print(table(results))
    notes = Console(stderr=True)
    for name in restless(results):
        notes.print(_RESTLESS.format(name), style="yellow")
    notes.print(_ALLOCATOR_HINT, style="dim")


_RESTLESS = "Warning: dense times of {} vary by more than half; is the machine busy? Measure again."


_ALLOCATOR_HINT = (
    "Hint: eager PyTorch loses time to page faults under stock malloc. For a dense baseline "
    "without them, run again with MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 "
    "MALLOC_TOP_PAD_=268435456 in the environment."
)


def _ticker(show: Callable[[str, int], None]) -> Callable[[str], None]:
    count = 0

    def tick(text: str) -> None:
        nonlocal count
        show(text, count)
        count += 1

    return tick


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _model_table() -> Table:
    from retouch import models

    made = Table(title="Networks (random weights)")
    made.add_column("name", no_wrap=True)
    made.add_column("image")
    made.add_column("GMAC", justify="right")
    made.add_column("what it is")
    for network in map(models.get, models.names()):
        height, width = network.image
        gmacs = f"{network.gmacs:g}" if network.gmacs else ""
        made.add_row(network.name, f"{height}x{width}", gmacs, network.summary)
    made.caption = "Policies: paper, balanced, fast, exact"
    return made


def _known_models(names: Sequence[str]) -> list[str]:
    from retouch import models

    return [models.get(name).name for name in names]


def _known_policies(names: Sequence[str]) -> list[str]:
    import retouch

    for name in names:
        retouch.Policy.named(name)
    return list(names)


def _torch_dtype(name: Dtype) -> Any:
    import torch

    return getattr(torch, name)


def _edits(fractions: Sequence[float], masks: Sequence[Path]) -> Callable[[tuple[int, int]], list[Edit]]:
    from retouch.bench.edits import check_fraction, read_mask, square

    for fraction in fractions:
        check_fraction(fraction)
    return lambda size: [
        *(square(fraction, size) for fraction in fractions),
        *(read_mask(mask, size) for mask in masks),
    ]


def _check_masks(options: Options) -> None:
    """Read every mask at every model's image size before any long work starts."""
    from retouch import models

    for name in options.models:
        options.edits(models.get(name).image_size(options.tiny))


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {folder}: {error.strerror or error}") from error


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        _stop(error, 2)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, ImportError, OSError, MemoryError) as error:
        _stop(error, 1)


def _stop(error: BaseException, code: int) -> NoReturn:
    typer.echo(f"retouch: {error}", err=True)
    raise typer.Exit(code) from error


if __name__ == "__main__":
    app()
