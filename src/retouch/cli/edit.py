"""`retouch edit`: one edit of a picture, in a session of its own or in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from retouch.bench.options import POLICY_HELP, AnyStorage, DeviceMemory, DeviceName, Memory, Preset, Threads
from retouch.cli.app import app
from retouch.cli.common import check_picture_file, note, pairs, quiet_libraries, steps_bar, usage_errors
from retouch.cli.sessions import check_outside
from retouch.errors import OptionError

if TYPE_CHECKING:
    from retouch.editing.canvas.drawing import Composed
    from retouch.editing.images import Pixels
    from retouch.editing.request import Request
    from retouch.plan.region import Mask

BlendName = Literal["fade", "multiband", "harmonise"]
SchedulerName = Literal[
    "ddim", "ddpm", "deis", "dpm++", "dpm++2m-sde", "dpm++2s", "dpm++sde", "euler", "euler-a", "flow-euler", "heun",
    "lcm", "pndm", "scm", "tcd", "unipc",
]  # fmt: skip

# Those of the library, which is not loaded for a help text.
STEPS, STRENGTH, GUIDANCE, SEED, POLICY, THRESHOLD, BLEND = 20, 0.6, 7.5, 0, "balanced", 2, "harmonise"

OWN = {"original", "edited", "output", "model", "session", "preview", "threads", "force"}
"""Parameters of the command itself; the others are options of the edit."""


@app.command()
def edit(
    context: typer.Context,
    original: Annotated[Path, Argument(metavar="ORIGINAL", help="The picture before the edit.")],
    edited: Annotated[
        Path, Argument(metavar="EDITED", help="The same picture with strokes, patches or erasures on it.")
    ],
    output: Annotated[Path, Option("--output", "-o", help="File for the result.")],
    model: Annotated[
        str | None,
        Option(help="Folder or hub name of a diffusers pipeline, file of weights, or built-in (docs/guide/models.md)."),
    ] = None,
    prompt: Annotated[str | None, Option(help="What the picture shows, for models that read words.")] = None,
    negative: Annotated[str | None, Option(help="What it should not show.")] = None,
    class_label: Annotated[int | None, Option(min=0, help="Number of a class, for models that read one.")] = None,
    guidance: Annotated[float | None, Option(help=f"Scale of guidance ({GUIDANCE:g}).")] = None,
    steps: Annotated[int | None, Option(min=1, max=1000, help=f"Steps of the scheduler ({STEPS}).")] = None,
    strength: Annotated[
        float | None, Option(help=f"How much is redrawn, (0, 1]: the share of steps run ({STRENGTH:g}).")
    ] = None,
    max_error: Annotated[
        float | None, Option(min=0, help="Grey levels; compute more when the estimated error is above it.")
    ] = None,
    threshold: Annotated[
        int | None, Option(min=0, help=f"Grey levels; smaller differences are no edits ({THRESHOLD}; exact: 0).")
    ] = None,
    seed: Annotated[int | None, Option(min=0, help=f"Seed of all noise ({SEED}).")] = None,
    scheduler: Annotated[SchedulerName | None, Option(help="Scheduler (the pipeline's own).")] = None,
    vae: Annotated[
        str | None, Option(metavar="FOLDER", help="Folder or hub name of another autoencoder (the pipeline's own).")
    ] = None,
    lora: Annotated[
        list[str] | None, Option(metavar="NAME=FILE", help="LoRA of the pipeline, and a name for it; may be repeated.")
    ] = None,
    scale: Annotated[
        list[str] | None, Option(metavar="NAME=NUMBER", help="Scale of a LoRA, or of control-1, ...; may be repeated.")
    ] = None,
    control: Annotated[
        list[Path] | None, Option(metavar="FILE", help="Control image of the pipeline's ControlNet or T2I-Adapter.")
    ] = None,
    image_prompt: Annotated[
        list[Path] | None, Option(metavar="FILE", help="Picture for the pipeline's IP-Adapter.")
    ] = None,
    instances: Annotated[
        list[Path] | None,
        Option(
            metavar="FILE",
            help="Ids of instances in labels (PNG, .npy); areas: every area of one label. Given twice: EDITED's, too.",
        ),
    ] = None,
    mask: Annotated[
        Path | None, Option(help="Picture, white where edited, grey: with less strength (where the two differ).")
    ] = None,
    area: Annotated[
        list[str] | None,
        Option(
            metavar="MASK=PROMPT",
            help="Other words for the part that is not black in a picture; may be repeated, the later one wins.",
        ),
    ] = None,
    blend: Annotated[
        BlendName | None, Option(help=f"How the result is set into the picture ({BLEND}; a session's own).")
    ] = None,
    enlarger: Annotated[
        str | None, Option(help="What enlarges results of pictures that were seen reduced, lanczos for example.")
    ] = None,
    policy: Annotated[Preset | None, Option(help=f"{POLICY_HELP} ({POLICY}).")] = None,
    storage: AnyStorage = None,
    memory: Memory = None,
    device_memory: DeviceMemory = None,
    device: DeviceName = "auto",
    session: Annotated[
        Path | None, Option(help="Folder that keeps the recording and every edit; made if missing.")
    ] = None,
    preview: Annotated[Path | None, Option(help="Picture of original, edited region and result, side by side.")] = None,
    threads: Threads = None,
    force: Annotated[bool, Option("--force", help="Overwrite even the files that were read.")] = False,
) -> None:
    """Redraw the edited part of a picture: with a diffusion model, enlarged, or from labels.

    ORIGINAL is recorded first, which takes about as long as redrawing all of
    it; then only the edit is computed. With --session the recording is kept: an
    edit of the session's current picture needs no new one, and takes new words
    (--prompt), another class, scale or control image too. A recording fixes --steps, --seed, --guidance, --scheduler,
    --policy and --storage. With --mask or --area EDITED may be ORIGINAL itself:
    that part is drawn again.

    A picture of a size that a diffusion model does not take is edited in viewports of
    it, chosen by what each would take and give; 16 bits, alpha, colour profile and
    EXIF of its file are kept.

    A model that makes pictures from labels reads the edges of instances, too. To
    record, --instances names the map of ORIGINAL, which EDITED keeps unless a
    second one is named; in a session it names that of EDITED.
    """
    with usage_errors():
        asked = context.params.items()
        options = {name: value for name, value in asked if name not in OWN and value not in ((), [])}
        options |= {"lora": pairs("--lora", lora, str), "scale": pairs("--scale", scale, float)}
        read = [original, edited, mask, *(instances or []), *(control or []), *(image_prompt or [])]
        read += [Path(each.partition("=")[0]) for each in area or []]
        _check_outputs([output, preview], read, session, force)
        from retouch.editing.canvas.picture import Picture
        from retouch.editing.request import Request

        request = Request.checked(original, edited, model, session, options)
    for warning in request.warnings():
        note(warning)
    if request.idle:
        Picture.read(request.files[0]).write(output)
        _preview(request, request.before, preview)
        typer.echo(f"nothing differs: {output} is the original")
        return
    _run(request, output, preview)


def _run(request: Request, output: Path, preview: Path | None) -> None:
    """Make the edit, write its picture and tell what it took."""
    from retouch.editing.canvas.canvas import Canvas
    from retouch.editing.canvas.drawing import Composed
    from retouch.editing.diffusion import PipelineError, SchedulerError
    from retouch.editing.images import as_pixels, save_png
    from retouch.kernels import described

    quiet_libraries()
    bad_input = usage_errors(OptionError, PipelineError, SchedulerError)
    with bad_input, steps_bar("loading the model") as progress, request.open(progress) as session:
        result = request.edit(session, progress)
        number = session.version.number
        kernels = described(next(iter(session.networks().values())).backend)
    if isinstance(result, Composed):
        assert isinstance(session, Canvas)
        session.write(output)
        _preview(request, session.pixels if preview else request.before, preview, request.region)
        _tell_plan(result, session.version.facts)
    else:
        save_png(result.image, output)
        _preview(request, as_pixels(result.image), preview, result.region.mask[0])
        if result.changed:
            facts = session.versions[0].facts, session.version.facts
            Console().print(_table(*facts, result.seconds["total"], request.saved is not None))
    if not result.changed:
        typer.echo(f"nothing differs: {output} is the picture as it was")
    else:
        if "max_error" in request.given and result.error is not None:
            typer.echo(f"estimated difference from the dense result: {result.error:.1f} of 255 levels")
        typer.echo(f"written to {output}")
    typer.echo(f"computed with {kernels}")
    if request.session:
        typer.echo(f"the session {request.session} is at version {number}")


# Results


def dense_estimate(recorded: Mapping[str, Any], steps: int) -> float:
    """Seconds of a dense edit of that many steps: a recording runs every network whole, too."""
    seconds = recorded["seconds"]
    return float(seconds["total"] + seconds.get("denoise", 0.0) * (steps / recorded.get("steps", 1) - 1))


def _table(recorded: Mapping[str, Any], version: Mapping[str, Any], update: float, earlier: bool) -> Table:
    dense = dense_estimate(recorded, version.get("steps", 1))
    steps = f", {version['steps']} steps" if "steps" in version else ""
    made = Table("run", caption="dense: from the time of the recording")
    made.add_column("seconds", justify="right")
    made.add_column("speed-up", justify="right")
    made.add_row(f"dense{steps} (estimate)", f"{dense:.2f}", "")
    made.add_row(f"record, {'earlier' if earlier else 'once'}", f"{recorded['seconds']['total']:.2f}", "")
    made.add_row(f"edit, {version['region']:.2%} of the picture", f"{update:.2f}", f"{dense / update:.1f}x")
    return made


def _tell_plan(result: Composed, facts: Mapping[str, Any]) -> None:
    """How an edit of a canvas was made."""
    if result.plan is not None:
        typer.echo(f"planner: {result.plan.chosen}\n         {result.plan.reason}")
        if facts["enlarger"]:
            typer.echo(f"the result was enlarged with {facts['enlarger']}")
        typer.echo(f"edit, {facts['region']:.2%} of the picture: {result.seconds['total']:.2f} s")


def _preview(request: Request, result: Pixels, preview: Path | None, region: Mask | None = None) -> None:
    from retouch.editing.images import save_png
    from retouch.editing.sheets import outlined, side_by_side

    if preview is not None:
        before, after = (request.kind.form.shown(pixels) for pixels in (request.before, request.after))
        edited = after if region is None or not region.any() else outlined(after, region)
        save_png(side_by_side([("original", before), ("edited", edited), ("result", result)]), preview)


# Files


def _check_outputs(outputs: list[Path | None], inputs: list[Path | None], session: Path | None, force: bool) -> None:
    written = [path for path in outputs if path is not None]
    for path in written:
        check_picture_file(path)
        if session is not None:
            check_outside(path, session)
        if not force and any(other and _same(path, other) for other in inputs):
            raise OptionError(f"{path} is a file that the edit reads; name another one, or overwrite it with --force")
    if len(written) == 2 and _same(*written):
        raise OptionError(f"result and preview cannot both be written to {written[0]}")


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
