"""`retouch edit | info | undo | redo`: editing sessions."""

from __future__ import annotations

import json as jsonlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from retouch.cli.app import PolicyName, Threads, _failures, _progress, _set_threads, _usage_errors, app

if TYPE_CHECKING:
    from retouch.archive import Progress
    from retouch.images import Pixels
    from retouch.session import Edited

Storage = Literal["fp32", "bf16", "fp16"]
Folder = Annotated[Path, typer.Argument(help="Session folder.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File for the picture.")]

STEPS, STRENGTH, GUIDANCE, SEED = 20, 0.6, 7.5, 0


@app.command()
def edit(
    original: Annotated[Path, typer.Argument(help="The picture before the edit.")],
    edited: Annotated[Path, typer.Argument(help="The same picture with strokes, patches or erasures on it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the result.")],
    model: Annotated[str | None, typer.Option("--model", help="Folder or hub name of a diffusers pipeline.")] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="What the picture shows, for models with words.")
    ] = None,
    negative: Annotated[str | None, typer.Option("--negative", help="What it should not show.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help=f"Scale of guidance ({GUIDANCE:g}).")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help=f"Steps of the scheduler ({STEPS}).")] = None,
    strength: Annotated[
        float | None, typer.Option("--strength", help=f"How much the region is redrawn, (0, 1] ({STRENGTH:g}).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help=f"Seed of all noise ({SEED}).")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="ddim, ddpm, dpm++, euler, euler-a or pndm (the pipeline's).")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="Picture, white where edited (else: the difference).")
    ] = None,
    policy: PolicyName = "balanced",
    storage: Annotated[Storage | None, typer.Option("--storage", help="How recorded rows are kept (fp32).")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Memory for recordings, such as 4GB.")] = None,
    session: Annotated[
        Path | None, typer.Option("--session", help="Folder that keeps the session; made if missing.")
    ] = None,
    preview: Annotated[Path | None, typer.Option("--preview", help="PNG with original, region and result.")] = None,
    threads: Threads = None,
) -> None:
    """Redraw the edited part of a picture with a diffusion model.

    Without --session the picture is recorded, edited and forgotten. With it the
    recording is kept: the next edit of the result starts at once.
    """
    from retouch.images import as_mask, as_pixels

    recording = {"steps": steps, "seed": seed, "guidance": guidance, "scheduler": scheduler, "storage": storage}
    with _usage_errors():
        before, after = as_pixels(original), as_pixels(edited)
        if before.shape != after.shape:
            raise ValueError(f"{original} and {edited} have different sizes: {_size(before)} and {_size(after)}")
        if mask is not None:
            as_mask(mask, before.shape[:2])
        budget = _bytes(memory)
        for path in filter(None, (output, preview)):
            _check_output(path)
        if strength is not None and not 0 < strength <= 1:
            raise ValueError(f"a strength of {strength:g} is not above 0 and at most 1")
        known = session is not None and (session / "manifest.json").exists()
        if model is None and not known:
            raise ValueError("no model: name the folder or hub name of a diffusers pipeline with --model")
        if known and (wrong := [f"--{name}" for name, value in recording.items() if value is not None]):
            raise ValueError(f"{', '.join(wrong)}: fixed by the session {session} when it was recorded")
    _set_threads(threads)
    with _interruptible(), _failures(), _bar() as progress:
        _one_bar()
        if known and session:
            opened = _opened(session, model, budget, before, original, progress)
        else:
            opened = _recorded(before, model, prompt, negative, strength, policy, budget, session, recording, progress)
        with opened:
            words = {"prompt": prompt, "negative": negative} if known else {}
            result = opened.edit(after, mask=mask, strength=strength, progress=progress, **words)
            facts = opened.versions[0].facts
    with _failures():
        _write(result, before, output, preview)
    _report(result, facts, output)


def _recorded(
    before: Pixels,
    model: str | None,
    prompt: str | None,
    negative: str | None,
    strength: float | None,
    policy: str,
    memory: int | None,
    folder: Path | None,
    given: dict[str, Any],
    progress: Progress,
) -> Any:
    import retouch

    editor = retouch.Editor.from_pretrained(
        str(model), policy=policy, memory=memory, scheduler=given["scheduler"], storage=given["storage"] or "fp32"
    )
    return editor.open(
        before,
        prompt=prompt,
        negative=negative,
        guidance=GUIDANCE if given["guidance"] is None else given["guidance"],
        strength=STRENGTH if strength is None else strength,
        steps=given["steps"] or STEPS,
        seed=SEED if given["seed"] is None else given["seed"],
        folder=folder,
        progress=progress,
    )


def _opened(folder: Path, model: str | None, memory: int | None, before: Pixels, name: Path, progress: Progress) -> Any:
    import numpy as np

    import retouch
    from retouch.archive import read_manifest

    opened = retouch.open(folder, model=model, progress=progress, memory=memory)
    if not np.array_equal(opened.pixels, before):
        current = _picture(folder, read_manifest(folder))
        opened.close()
        raise ValueError(f"{name} is not the current picture of the session {folder}; that is {current}")
    return opened


@app.command()
def info(
    folder: Folder, json: Annotated[bool, typer.Option("--json", help="Print the manifest's facts as JSON.")] = False
) -> None:
    """Show what a session folder holds: settings, versions, bytes."""
    from retouch.archive import read_manifest

    with _failures():
        manifest = read_manifest(folder)
    if json:
        facts = {k: manifest[k] for k in ("kind", "settings", "storage", "current")}
        typer.echo(jsonlib.dumps({**facts, "versions": [_facts(v) for v in manifest["versions"]]}, indent=1))
        return
    settings = manifest["settings"]
    typer.echo(
        f"{manifest['kind']} session, {settings.get('width')}x{settings.get('height')}, {settings.get('steps')} steps, "
        f"{settings.get('scheduler', {}).get('name')}, stored as {manifest['storage']}, model {settings.get('model')}"
    )
    Console().print(_versions(manifest))
    typer.echo(f"current picture: {_picture(folder, manifest)}")


def _facts(entry: dict[str, Any]) -> dict[str, Any]:
    return {"number": entry["number"], "bytes": sum(f["bytes"] for f in entry["files"].values()), **entry["facts"]}


def _versions(manifest: dict[str, Any]) -> Table:
    made = Table("", "version", "edit", "prompt", caption="* the current version")
    for title in ("region", "seconds", "stored", "read"):
        made.add_column(title, justify="right")
    for place, facts in enumerate(map(_facts, manifest["versions"])):
        made.add_row(
            "*" if place == manifest["current"] else "",
            str(facts["number"]),
            str(facts.get("edit", "")),
            str(facts.get("prompt") or ""),
            f"{facts.get('region', 0):.2%}",
            f"{facts.get('seconds', {}).get('total', 0):.1f}",
            f"{facts['bytes'] / 1e6:.0f} MB",
            f"{facts.get('bytes_read', 0) / 1e6:.0f} MB",
        )
    return made


@app.command()
def undo(folder: Folder, output: Output = None) -> None:
    """Go back to the version before the last edit of a session."""
    _step(folder, -1, output)


@app.command()
def redo(folder: Folder, output: Output = None) -> None:
    """Take an undone edit of a session back again."""
    _step(folder, 1, output)


def _step(folder: Path, by: int, output: Path | None) -> None:
    from retouch.archive import Archive
    from retouch.images import as_pixels, save_png

    if output is not None:
        with _usage_errors():
            _check_output(output)
    with _failures():
        archive, manifest = Archive.open(folder)
        try:
            position = manifest["current"] + by
            if position not in range(len(manifest["versions"])):
                raise ValueError("nothing to undo: this is the original" if by < 0 else "nothing to redo")
            manifest["current"] = position
            archive.verify({"versions": [manifest["versions"][position]]})
            archive.commit(manifest)
            picture = _picture(folder, manifest)
            if output is not None:
                save_png(as_pixels(picture), output)
        finally:
            archive.close()
    typer.echo(f"now at version {manifest['versions'][position]['number']}: {output or picture}")


def _picture(folder: Path, manifest: dict[str, Any]) -> Path:
    number = manifest["versions"][manifest["current"]]["number"]
    return folder / "versions" / f"{number:04d}" / "image.png"


# Shared parts


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar that several long tasks move, one after the other."""
    with _progress() as bar:
        task = bar.add_task("starting", total=None)
        last = 0

        def show(done: int, total: int, what: str) -> None:
            nonlocal last
            if done < last:
                bar.reset(task)
            last = done
            bar.update(task, description=what, completed=done, total=total)

        yield show


def _one_bar() -> None:
    """Keep the progress bars of the libraries that load a model to themselves."""
    from retouch.extras import require

    for library in ("diffusers", "transformers"):
        require(library, "diffusers").utils.logging.disable_progress_bar()


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        typer.echo("retouch: interrupted; nothing was changed", err=True)
        raise typer.Exit(130) from error


def _check_output(path: Path) -> None:
    """ValueError unless a picture can be written to `path`."""
    from PIL import Image

    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{path} has no suffix of a picture; use .png")
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"cannot write {path}: {folder} is no folder")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"cannot write {path}")


def _bytes(text: str | None) -> int | None:
    """A size such as "4GB" or "512 MB" in bytes."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text.upper())
    if not found:
        raise ValueError(f"{text!r} is no size; write 4GB or 512MB")
    return int(float(found[1]) * 10 ** (3 * " KMGT".index(found[2] or " ")))


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _write(result: Edited, before: Pixels, output: Path, preview: Path | None) -> None:
    import numpy as np

    from retouch.images import outlined, save_png, side_by_side

    save_png(result.image, output)
    if preview is not None:
        pixels = np.asarray(result.image)
        tiles = [("before", before), ("region", outlined(pixels, result.region.mask[0])), ("after", pixels)]
        save_png(side_by_side(tiles), preview)


def _report(result: Edited, facts: dict[str, Any], output: Path) -> None:
    if not result.changed:
        typer.echo(f"nothing differs: {output} is the original")
        return
    record, update = facts["seconds"]["total"], result.seconds["total"]
    made = Table("run", caption="dense: as long as the recording, which runs every network whole")
    made.add_column("seconds", justify="right")
    made.add_column("against dense", justify="right")
    made.add_row("dense (estimate)", f"{record:.2f}", "")
    made.add_row("record, once", f"{record:.2f}", "")
    made.add_row(
        f"edit, {result.region.fraction:.1%} of the picture", f"{update:.2f}", f"{record / update:.1f}x faster"
    )
    Console().print(made)
    typer.echo(f"written to {output}")
