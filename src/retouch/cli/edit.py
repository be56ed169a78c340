"""`retouch edit`: one edit of a picture, in a session of its own or in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from retouch.cli.app import app
from retouch.cli.common import (
    POLICY_HELP,
    AutomaticDevice,
    DeviceMemory,
    Memory,
    StorageName,
    Threads,
    failures,
    note,
    quiet_libraries,
    set_threads,
    steps_bar,
    usage_errors,
)
from retouch.cli.request import GUIDANCE, POLICY, SEED, STEPS, STRENGTH, Fixed, Request, SchedulerName, interruptible

if TYPE_CHECKING:
    from retouch.editing.archive import Progress
    from retouch.editing.images import Pixels
    from retouch.editing.opening import AnySession
    from retouch.editing.session import Edited
    from retouch.plan.region import Mask


@app.command()
def edit(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", help="The picture before the edit.")],
    edited: Annotated[
        Path, typer.Argument(metavar="EDITED", help="The same picture with strokes, patches or erasures on it.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the result.")],
    model: Annotated[
        str | None,
        typer.Option("--model", help="Folder or hub name of a diffusers pipeline, or a built-in model (see README)."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="What the picture shows, for models that read words.")
    ] = None,
    negative: Annotated[str | None, typer.Option("--negative", help="What it should not show.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help=f"Scale of guidance ({GUIDANCE:g}).")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, max=1000, help=f"Steps of the scheduler ({STEPS}).")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", help=f"How much is redrawn, (0, 1]: the share of steps run ({STRENGTH:g})."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option("--max-error", min=0, help="Grey levels; compute more when the estimated error is above it."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help=f"Seed of all noise ({SEED}).")] = None,
    scheduler: Annotated[
        SchedulerName | None, typer.Option("--scheduler", help="Scheduler (the pipeline's own).")
    ] = None,
    instances: Annotated[
        list[Path] | None,
        typer.Option(
            "--instances",
            metavar="FILE",
            help="Ids of instances in labels (PNG, .npy); areas: every area of one label. Given twice: EDITED's, too.",
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="Picture, white where edited (where the two differ).")
    ] = None,
    policy: Annotated[str | None, typer.Option("--policy", help=f"{POLICY_HELP} ({POLICY}).")] = None,
    storage: StorageName = None,
    memory: Memory = None,
    device_memory: DeviceMemory = None,
    device: AutomaticDevice = "auto",
    session: Annotated[
        Path | None, typer.Option("--session", help="Folder that keeps the recording and every edit; made if missing.")
    ] = None,
    preview: Annotated[
        Path | None, typer.Option("--preview", help="Picture of original, edited region and result, side by side.")
    ] = None,
    threads: Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite even the files that were read.")] = False,
) -> None:
    """Redraw the edited part of a picture: with a diffusion model, enlarged, or from labels.

    ORIGINAL is recorded first, which takes about as long as redrawing all of
    it; then only the edit is computed. With --session the recording is kept: an
    edit of the session's current picture needs no new one, and takes new words
    (--prompt) too. A recording fixes --steps, --seed, --guidance, --scheduler,
    --policy and --storage. With --mask EDITED may be ORIGINAL itself: that part
    is drawn again.

    A model that makes pictures from labels reads the edges of instances, too. To
    record, --instances names the map of ORIGINAL, which EDITED keeps unless a
    second one is named; in a session it names that of EDITED.
    """
    fixed = Fixed(steps, seed, guidance, scheduler, policy, storage)
    with interruptible(session), failures():
        with usage_errors(ValueError):
            request = Request.checked(
                original,
                edited,
                output,
                model,
                prompt,
                negative,
                strength,
                max_error,
                instances or [],
                mask,
                fixed,
                memory,
                device_memory,
                device,
                session,
                preview,
                force,
            )
        for warning in request.warnings():
            note(warning)
        if request.idle:
            _write(request, request.before)
            typer.echo(f"nothing differs: {output} is the original")
            return
        set_threads(threads)
        _run(request)


def _run(request: Request) -> None:
    from retouch.editing.diffusion import PipelineError, SchedulerError
    from retouch.editing.images import as_pixels

    quiet_libraries()
    bad_input = usage_errors(PipelineError, SchedulerError)
    with bad_input, steps_bar("loading the model") as progress, _opened(request, progress) as session:
        result = _edited(session, request, progress)
        first, last, number = session.versions[0].facts, session.version.facts, session.version.number
        kernels = _kernels(session)
    _write(request, as_pixels(result.image), result.region.mask[0])
    if result.changed:
        Console().print(_table(first, last, result.seconds["total"], earlier=request.saved is not None))
        if request.max_error is not None and result.error is not None:
            typer.echo(f"estimated difference from the dense result: {result.error:.1f} of 255 levels")
        typer.echo(f"written to {request.output}")
    else:
        typer.echo(f"nothing differs: {request.output} is the picture as it was")
    typer.echo(f"computed with {kernels}")
    if request.session:
        typer.echo(f"the session {request.session} is at version {number}")


def _edited(session: AnySession, request: Request, progress: Progress) -> Edited:
    from retouch.editing.diffusion import DiffusionSession
    from retouch.editing.gan.labels import LabelSession

    if isinstance(session, LabelSession):
        after = request.instances.after
        return session.edit(request.after, instances=after, mask=request.mask, progress=progress)
    if not isinstance(session, DiffusionSession):
        return session.edit(request.after, mask=request.mask, progress=progress)
    # A new session has these words already.
    prompt, negative = (request.prompt, request.negative) if request.saved else (None, None)
    return session.edit(
        request.after,
        mask=request.mask,
        prompt=prompt,
        negative=negative,
        strength=request.strength,
        max_error=request.max_error,
        progress=progress,
    )


def _opened(request: Request, progress: Progress) -> AnySession:
    """The session in the folder, or a new one with the original recorded."""
    import retouch

    if request.saved and request.session:
        return retouch.open(request.session, model=request.model, progress=progress, **request.machine)
    fixed = request.fixed
    kept: dict[str, Any] = {**request.machine, "storage": fixed.storage or "fp32"}
    if request.kind == "upscale":
        upscaler = retouch.Upscaler.from_pretrained(str(request.model), policy=fixed.policy, **kept)
        return upscaler.open(request.before, folder=request.session, progress=progress)
    if request.kind == "labels":
        painter = retouch.LabelEditor.from_pretrained(str(request.model), policy=fixed.policy or POLICY, **kept)
        with usage_errors(ValueError):
            request.check_labels(painter.count)
            painter.check_size(request.before.shape[:2])
        first = request.instances.before
        return painter.open(request.before, instances=first, folder=request.session, progress=progress)
    editor = retouch.Editor.from_pretrained(
        str(request.model), policy=fixed.policy or POLICY, scheduler=fixed.scheduler, **kept
    )
    return editor.open(
        request.before,
        prompt=request.prompt,
        negative=request.negative,
        guidance=GUIDANCE if fixed.guidance is None else fixed.guidance,
        strength=STRENGTH if request.strength is None else request.strength,
        steps=fixed.steps or STEPS,
        seed=SEED if fixed.seed is None else fixed.seed,
        folder=request.session,
        progress=progress,
    )


# Results


def _kernels(session: AnySession) -> str:
    from retouch.kernels import described

    return described(next(iter(session.networks().values())).backend)


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


def _write(request: Request, result: Pixels, region: Mask | None = None) -> None:
    from retouch.editing.images import save_png
    from retouch.editing.sheets import coloured, outlined, side_by_side

    save_png(result, request.output)
    if request.preview is not None:
        pictures = (request.before, request.after)
        before, after = (coloured(p[..., 0]) for p in pictures) if request.kind == "labels" else pictures
        edited = after if region is None or not region.any() else outlined(after, region)
        save_png(side_by_side([("original", before), ("edited", edited), ("result", result)]), request.preview)
