"""`retouch bench`: times of networks and of editing sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from retouch.cli.app import app
from retouch.cli.common import (
    DEVICE_HELP,
    POLICY_HELP,
    BackendName,
    Dilate,
    Dtype,
    Memory,
    StorageName,
    Threads,
    Tiny,
    bar,
    byte_count,
    check_masks,
    command_line,
    edits_of,
    failures,
    known_networks,
    known_policies,
    set_threads,
    torch_dtype,
    usage_errors,
)

if TYPE_CHECKING:
    from retouch.bench import Options
    from retouch.bench.forecast import ForecastOptions
    from retouch.bench.measure import Result, Tick
    from retouch.bench.sessions import SessionOptions

Products = Literal[Dtype, "tf32"]
"""Types of products that peaks are published for."""

NETWORK, PIPELINE, EDIT, ROUNDS, STEPS = "ddpm-256", "ddpm-256", 0.012, 5, (10, 20, 50)

_RESTLESS = "Warning: dense times of {} vary by more than half; is the machine busy? Measure again."
_ALLOCATOR_HINT = (
    "Hint: eager PyTorch loses time to page faults under stock malloc. For a dense baseline "
    "without them, run again with MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 "
    "MALLOC_TOP_PAD_=268435456 in the environment."
)


@app.command()
def bench(
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Network, or pipeline with --session; may be repeated.")
    ] = None,
    edit: Annotated[
        list[float] | None, typer.Option("--edit", help=f"Share of the image edited, (0, 1] ({EDIT:g}); repeatable.")
    ] = None,
    mask: Annotated[
        list[Path] | None, typer.Option("--mask", help="Image file, white where edited; may be repeated.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", help=f"{POLICY_HELP}; may be repeated (balanced; fast with --session, paper with --predict)."
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            "--dtype",
            help="Type of weights and activations: float32, bfloat16, float16; tf32 with --predict; repeatable.",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help=f"{DEVICE_HELP} (cpu).")] = None,
    threads: Threads = None,
    backend: BackendName = "auto",
    dilate: Dilate = None,
    json: Annotated[Path | None, typer.Option("--json", help="File to write the results to.")] = None,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Leave torch.compile out of the dense baselines.")
    ] = False,
    repeat: Annotated[
        int | None, typer.Option("--repeat", min=1, help=f"Rounds that are counted ({ROUNDS}; 1 with --session).")
    ] = None,
    tiny: Tiny = False,
    session: Annotated[
        bool, typer.Option("--session", help="Measure whole editing sessions: record once, then edits.")
    ] = False,
    steps: Annotated[
        list[int] | None,
        typer.Option("--steps", min=1, max=1000, help="With --session: steps (10, 20, 50); may be repeated."),
    ] = None,
    storage: StorageName = None,
    memory: Memory = None,
    quality: Annotated[
        bool, typer.Option("--quality", help="Measure how close edits of a trained model come to dense ones.")
    ] = False,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="With --quality: policy or variant; may be repeated (all).")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="With --quality: folder of PNG files named after their prompts.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="With --quality: number of edits.")] = 100,
    report: Annotated[
        Path | None, typer.Option("--report", help="Markdown file to write (with --quality a plot beside it).")
    ] = None,
    predict: Annotated[
        list[str] | None,
        typer.Option("--predict", help="Predict times on rtx3090, a100, h100 or m1pro; may be repeated."),
    ] = None,
    list_models: Annotated[
        bool, typer.Option("--list", help="List networks (with --session: pipelines) and policies, and exit.")
    ] = False,
) -> None:
    """Time dense, record and update of named networks, interleaved in one process.

    The speed-up is against the best dense run of eager NCHW, eager channels-last
    and torch.compile. Weights are random, so read the error columns as a check of
    the arithmetic, not as image quality.

    With --session: whole edits of diffusion pipelines, against the dense pipeline,
    plain image to image, and crop and stitch. --storage and --memory are for these.

    With --quality: a fixed set of edits with several methods, on pictures that the
    built-in model makes or on those of --images, each against the dense model.

    With --predict: nothing is run; a cost model says what dense runs and updates
    would take on a device, beside SIGE's published measurements.
    """
    if list_models:
        Console().print(_pipeline_table() if session else _network_table())
        return
    if quality:
        from retouch.cli.quality import bench_quality

        model_name = model[0] if model else None
        bench_quality(model_name, images, count, method, backend, threads, json, report)
        return
    command = command_line(
        {
            "--predict": predict,
            "--device": device,
            "--model": model,
            "--edit": edit,
            "--mask": mask,
            "--policy": policy,
            "--dtype": dtype,
            "--dilate": dilate,
            "--backend": backend if backend != "auto" else None,
            "--repeat": repeat,
            "--threads": threads,
            "--no-compile": no_compile,
            "--tiny": tiny,
            "--report": report,
        }
    )
    if predict:
        with usage_errors():
            _refuse(
                {"--session": session or None, "--device": device, "--repeat": repeat}, "does not go with --predict"
            )
            _refuse({"--no-compile": no_compile or None}, "does not go with --predict")
            chosen = edits_of(edit or [], mask or []) if edit or mask else None
            types = _types(dtype)
            if len(types) > 1:
                raise ValueError("--predict takes one --dtype")
            forecasts = _forecast_options(predict, model, chosen, policy, types[0], dilate, tiny)
            _check_files(json, report)
        with failures():
            _bench_predictions(forecasts, command, json, report)
        return
    with failures(), usage_errors():
        edits = edits_of(edit or ([] if mask else [EDIT]), mask or [])
        if session:
            _refuse({"--dtype": dtype, "--device": device, "--dilate": dilate}, "does not go with --session")
            _refuse({"--report": report}, "does not go with --session")
            _refuse({"--no-compile": no_compile or None}, "does not go with --session")
            sessions = _session_options(model, edits, policy, steps, storage, memory, backend, repeat, tiny)
        else:
            _refuse({"--steps": steps, "--storage": storage, "--memory": memory}, "needs --session")
            stored = _measurable(_types(dtype))
            from retouch.bench import Options
            from retouch.kernels.devices import selected

            place = str(selected(device or "cpu", backend))
            options = Options(
                models=known_networks(model or [NETWORK]),
                edits=edits,
                policies=known_policies(policy or ["balanced"]),
                dtypes=[torch_dtype(name, backend, place) for name in stored],
                device=place,
                backend=backend,
                dilate=dilate,
                compile_dense=not no_compile,
                repeat=repeat or ROUNDS,
                tiny=tiny,
            )
            check_masks(options)
        _check_files(json, report)
    set_threads(threads)
    with failures():
        if session:
            _bench_sessions(sessions, json)
        else:
            _bench_networks(options, command, json, report)


def _types(names: list[str] | None) -> list[Products]:
    """Types by name; ValueError for an unknown one."""
    known = get_args(Products)
    for name in names or ():
        if name not in known:
            raise ValueError(f"unknown --dtype {name!r}; there are {', '.join(known)}")
    return cast(list[Products], names or ["float32"])


def _measurable(types: list[Products]) -> list[Dtype]:
    """The types, which weights can have; ValueError for others."""
    if "tf32" in types:
        raise ValueError("--dtype tf32 needs --predict; measure another one")
    return [name for name in types if name != "tf32"]


def _refuse(given: dict[str, Any], why: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} {why}")


def _check_files(*files: Path | None) -> None:
    """ValueError unless all can be written."""
    from retouch.bench import check_writable

    for file in files:
        if file is not None:
            check_writable(file)


def _session_options(
    model: list[str] | None,
    edits: Callable[[tuple[int, int]], list[Any]],
    policy: list[str] | None,
    steps: list[int] | None,
    storage: str | None,
    memory: str | None,
    backend: str,
    repeat: int | None,
    tiny: bool,
) -> SessionOptions:
    from retouch.bench.sessions import SessionOptions
    from retouch.models import pipelines

    if policy is not None and len(policy) > 1:
        raise ValueError("--session measures one policy at a time")
    options = SessionOptions(
        models=[pipelines.get(name).name for name in model or [PIPELINE]],
        steps=steps or STEPS,
        edits=edits,
        policy=known_policies(policy or ["fast"])[0],
        storage=storage or "fp32",
        memory=byte_count(memory),
        backend=backend,
        repeat=repeat or 1,
        tiny=tiny,
    )
    _ = options.ticks  # reads every mask
    return options


def _forecast_options(
    devices: list[str],
    model: list[str] | None,
    edits: Callable[[tuple[int, int]], list[Any]] | None,
    policy: list[str] | None,
    dtype: Products,
    dilate: int | None,
    tiny: bool,
) -> ForecastOptions:
    from retouch.bench.forecast import ForecastOptions

    options = ForecastOptions(
        models=known_networks(model or [NETWORK]),
        devices=devices,
        edits=edits,
        edit=EDIT,
        policies=known_policies(policy or ["paper"]),
        dtype=dtype,
        dilate=dilate,
        tiny=tiny,
    )
    options.check_edits()
    return options


def _bench_predictions(options: ForecastOptions, command: str, json: Path | None, report: Path | None) -> None:
    from retouch.bench.forecast import assumptions, forecast, forecast_markdown, forecast_tables

    results = collected(lambda tick: forecast(options, tick), options.steps, json)
    console = Console()
    for each in forecast_tables(results):
        console.print(each)
    for text in assumptions(results):
        console.print(f"- {text}", style="dim", markup=False, highlight=False)
    if report is not None:
        report.write_text(forecast_markdown(results, command))


def _bench_sessions(options: SessionOptions, json: Path | None) -> None:
    from retouch.bench.sessions import measure_sessions, session_table

    results = collected(lambda tick: measure_sessions(options, tick), options.ticks, json)
    Console().print(session_table(results))


def _bench_networks(options: Options, command: str, json: Path | None, report: Path | None) -> None:
    from retouch.bench import markdown, measure, restless, table

    results = collected(lambda tick: measure(options, tick), options.steps, json)
    Console().print(table(results))
    if report is not None:
        report.write_text(markdown(results, command))
    notes = Console(stderr=True)
    for name in restless(results):
        notes.print(_RESTLESS.format(name), style="yellow")
    notes.print(_ALLOCATOR_HINT, style="dim")


def collected(
    measure: Callable[[Tick], Iterator[Result]], ticks: int, json: Path | None, every: int = 1
) -> list[Result]:
    """All results, with a bar; they are in the file as soon as `every` more are there."""
    from retouch.bench import write_json

    results: list[Result] = []
    with bar() as shown:
        task = shown.add_task("starting", total=ticks)
        begun = 0

        def tick(text: str) -> None:
            # A step is done when the next one begins.
            nonlocal begun
            shown.update(task, description=text, completed=begun)
            begun += 1

        for result in measure(tick):
            results.append(result)
            if json is not None and len(results) % every == 0:
                write_json(json, results)
        if json is not None:
            write_json(json, results)
        shown.update(task, description="done", completed=ticks)
    return results


def _network_table() -> Table:
    from retouch import models

    made = Table(title="Networks (random weights)", caption="Policies: paper, balanced, fast, exact")
    made.add_column("name", no_wrap=True)
    made.add_column("image")
    made.add_column("GMAC", justify="right")
    made.add_column("what it is")
    for network in map(models.get, models.names()):
        height, width = network.image
        gmacs = f"{network.gmacs:g}" if network.gmacs else ""
        made.add_row(network.name, f"{height}x{width}", gmacs, network.summary)
    return made


def _pipeline_table() -> Table:
    from retouch.bench.sessions import PIPELINES

    made = Table(title="Pipelines (random weights)", caption="Policies: paper, balanced, fast, exact")
    made.add_column("name", no_wrap=True)
    made.add_column("what it is")
    for name, summary in PIPELINES.items():
        made.add_row(name, summary)
    return made
