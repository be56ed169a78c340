"""Edits: what was painted is put on the exact pixels of the version that it was painted on, and submitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, File, Form, UploadFile
from pydantic import Json

from retouch.editing.diffusion.refine import ENOUGH
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.gan.labels import LabelSession
from retouch.editing.images import Pixels, full_box
from retouch.editing.jobs import Job, Task
from retouch.editing.kinds import AnySession
from retouch.editing.session import Edited
from retouch.editing.sheets import coloured
from retouch.server import uploads
from retouch.server.forms import EditForm, VariantsForm
from retouch.server.idempotency import Key
from retouch.server.pool import Entry
from retouch.server.problems import Problem, documented
from retouch.server.studio import Caller, InSession, InStudio, Studio, check_jobs
from retouch.server.uploads import Rectangle
from retouch.server.work import Work

router = APIRouter(prefix="/api/sessions/{id}")


Overlay = Annotated[UploadFile | None, File(description="What was painted: PNG, RGBA of straight alpha")]
Area = Annotated[UploadFile | None, File(description="Where: PNG, grey. Absent: where the overlay is not transparent")]


@router.post("/edits", status_code=202, responses=documented(409, 415, 503, 507))
def edit(
    studio: InStudio,
    caller: Caller,
    entry: InSession,
    settings: Annotated[Json[EditForm], Form()],
    overlay: Overlay = None,
    mask: Area = None,
    key: Key = None,
) -> dict[str, int]:
    """Begin an edit. It takes the place of one that waits or runs, whose strokes become part of it."""
    return _begun(studio, caller, entry, settings, overlay, mask, key)


@router.post("/variants", status_code=202, responses=documented(409, 415, 503, 507))
def variants(
    studio: InStudio,
    caller: Caller,
    entry: InSession,
    settings: Annotated[Json[VariantsForm], Form()],
    overlay: Overlay = None,
    mask: Area = None,
    key: Key = None,
) -> dict[str, int]:
    """Begin one edit with several seeds, computed together: each becomes a version, the first one the head."""
    return _begun(studio, caller, entry, settings, overlay, mask, key)


def _begun(
    studio: Studio,
    caller: str,
    entry: Entry,
    form: EditForm,
    overlay: UploadFile | None,
    mask: UploadFile | None,
    key: str | None,
) -> dict[str, int]:
    painted, area = (each.file.read() if each is not None else None for each in (overlay, mask))

    def begin() -> dict[str, int]:
        check_jobs(studio, caller)
        with studio.pool.using(entry) as session:
            check_base(session, form.base)
            work = Work(studio, entry, "variants" if isinstance(form, VariantsForm) else form.kind)
            return {"job": work.follow(submitted(session, form, painted, area, work))}

    found: dict[str, int] = entry.answers.once(key, begin)
    return found


def check_base(session: AnySession, base: int) -> None:
    """Problem 409 unless that is the head, which it names; of a picture that is being recorded it is 0."""
    if not session.versions and "image" not in session.awaited:
        raise Problem(409, "the session is still being opened and has no picture; wait for its job")
    head = session.version.number if session.versions else 0
    if head != base:
        raise Problem(409, f"version {base} is not the head, that is {head}; draw on that one", head=head)


def submitted(session: AnySession, form: EditForm, overlay: bytes | None, mask: bytes | None, work: Work) -> Job[Any]:
    """The job of an edit."""
    size = session.size
    whole = (0, 0, size[1], size[0])
    rectangle = Rectangle.inside(form.rect or whole, size)
    painted = None if overlay is None else uploads.part(overlay, "the overlay", "RGBA", rectangle)
    area = None if mask is None else uploads.part(mask, "the mask", "L", rectangle)
    if area is None and painted is not None:
        area = np.where(painted[..., 3] > 0, np.uint8(255), np.uint8(0))
    if area is not None and not form.soft:
        area = np.where(uploads.selected(area), np.uint8(255), np.uint8(0))
    if area is not None and not area.any():
        raise Problem(422, "nothing is painted: the mask, or the overlay's alpha, is 0 everywhere")
    levels = None if area is None else uploads.spread(area, rectangle, size)
    if isinstance(session, DiffusionSession):
        return _redrawn(session, form, painted, levels, rectangle, work)
    if isinstance(form, VariantsForm):
        raise Problem(422, "this model draws no noise, so there are no variants")
    if painted is None or form.kind != "edit":
        raise Problem(422, "this model makes its picture of what is painted: send an overlay")
    if isinstance(session, LabelSession):
        return _labelled(session, form, painted, levels, rectangle, work)
    drawn = uploads.composited(session.source, painted, rectangle)
    return session.submit(drawn, mask=levels, progress=work.progress)


def _redrawn(
    session: DiffusionSession,
    form: EditForm,
    painted: Pixels | None,
    levels: Pixels | None,
    rectangle: Rectangle,
    work: Work,
) -> Job[Any]:
    inpaint = form.kind == "inpaint"
    if inpaint and levels is None:
        raise Problem(422, "to inpaint, send a mask")
    if painted is None and levels is None and form.prompt is None and form.negative is None:
        raise Problem(422, "nothing is asked for: send an overlay, a mask or words")
    asked: dict[str, Any] = {
        "image": None if painted is None or inpaint else uploads.composited(session.pixels, painted, rectangle),
        "mask": levels,
        "prompt": form.prompt,
        "negative": form.negative,
        "strength": form.strength,
        "inpaint": inpaint,
        "progress": work.progress,
    }
    if isinstance(form, VariantsForm):
        return session.start(Varied(session, form, asked))
    refine: float | str = form.refine
    if isinstance(form.refine, bool):
        refine = ENOUGH if form.refine else "off"
    return session.submit(base=form.base if session.versions else None, refine=refine, **asked)


@dataclass(eq=False)
class Varied(Task[Edited]):
    """One edit with several seeds; all of them become versions, the first one last, so that it is the head."""

    session: DiffusionSession
    form: VariantsForm
    asked: dict[str, Any]

    def run(self, job: Job[Edited]) -> Edited:
        """Compute and keep them; the first one."""
        session, count = self.session, self.form.n
        seeds = None if self.form.seed is None else [self.form.seed + k for k in range(count)]
        found = session.variants(count, seeds=seeds, **self.asked)
        for number in reversed(range(count)):
            result = found.choose(number)
        pixels = session.pixels
        job.show("result", session.version.number, full_box(pixels), pixels, (1, 1))
        return result


def _labelled(
    session: LabelSession, form: EditForm, painted: Pixels, levels: Pixels | None, rectangle: Rectangle, work: Work
) -> Job[Any]:
    """Colours of the palette, as labels."""
    colours = coloured(np.arange(session.count)[None])[0]
    inside = painted[..., 3] > 0
    match = (painted[..., None, :3] == colours).all(-1)
    if not match.any(-1)[inside].all():
        raise Problem(422, "the overlay has colours that are no label's; the palette is in GET /api/models")
    labels = session.labels
    labels[rectangle.part][inside] = match.argmax(-1)[inside]
    options: dict[str, Any] = {}
    if session.instances is not None:
        instances = session.instances
        new = int(instances.max()) + 1 if form.instance is None else form.instance
        instances[rectangle.part][inside] = new
        options["instances"] = instances
    return session.submit(labels, mask=levels, progress=work.progress, **options)
