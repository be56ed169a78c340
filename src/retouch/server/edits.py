"""Edits: checked, decoded and submitted; drafts of them, and variants."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Header
from pydantic import Json

from retouch.editing.canvas.canvas import Canvas
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.jobs import Job, Origin, asked_by
from retouch.editing.kinds import AnySession
from retouch.editing.stages import ENOUGH
from retouch.server.cost import of_edit
from retouch.server.drawn import Drawn, Files
from retouch.server.entry import Entry
from retouch.server.forms import DrawnForm, EditForm, VariantsForm
from retouch.server.idempotency import Key, digest
from retouch.server.models import capabilities
from retouch.server.problems import Problem, documented
from retouch.server.studio import InSession, InStudio, Studio, check_jobs
from retouch.server.tasks import Draft, Varied
from retouch.server.waiting import AT_ONCE, begin, check_made, opening_of
from retouch.server.work import Kind, Work

router = APIRouter(prefix="/api/sessions/{id}")
REFUSED = documented(409, 415, 503, 507)
Sent = Annotated[Files, Depends(Files.sent)]
Deadline = Annotated[
    float | None,
    Header(alias="Retouch-Deadline", gt=0, le=3600, description="Seconds after which nobody waits for the result."),
]


@router.post("/edits", status_code=202, responses=REFUSED)
def edit(
    studio: InStudio,
    entry: InSession,
    settings: Annotated[Json[EditForm], Form()],
    files: Sent,
    key: Key = None,
    deadline: Deadline = None,
) -> dict[str, int]:
    """Begin an edit. It takes the place of one that waits or runs, whose strokes become part of it.

    A draft shows what the edit would make, in frames of the kind "preview", and makes no version: it ends when another
    draft or an edit is sent.
    """
    return _begun(studio, entry, settings, files, key, deadline)


@router.post("/variants", status_code=202, responses=REFUSED)
def variants(
    studio: InStudio,
    entry: InSession,
    settings: Annotated[Json[VariantsForm], Form()],
    files: Sent,
    key: Key = None,
    deadline: Deadline = None,
) -> dict[str, int]:
    """Begin one edit with several seeds, computed together: each becomes a version, the first one the head."""
    return _begun(studio, entry, settings, files, key, deadline)


def _begun(
    studio: Studio, entry: Entry, form: DrawnForm, files: Files, key: str | None, deadline: float | None
) -> dict[str, int]:
    wait = deadline or math.inf

    def start(work: Work) -> int:
        work.ask(form)
        check_base(entry, form.base)
        _check_words(studio, entry, form)
        drawn = Drawn.read(form, files, entry.size, entry.instance)
        return begin(
            work,
            lambda session: started(session, drawn, work),
            lambda session: of_edit(session, drawn.place) * (form.n if isinstance(form, VariantsForm) else 1),
            min(studio.limits.backlog, wait),
        )

    return once(studio, entry, kind_of(form), key, start, time.monotonic() + wait)


def once(
    studio: Studio, entry: Entry, kind: Kind, key: str | None, start: Callable[[Work], int], until: float = math.inf
) -> dict[str, int]:
    """The job of a request: one that waits or runs for its key; one that is done, where a version was made by that,
    maybe in an earlier run of this server or another one; or what is started, for whom waits `until` then.
    """
    keys = set() if key is None else {digest(key)}
    with studio.pool.kept(entry):
        opening = opening_of(studio, entry)
        if opening is not None:
            opening.made.wait(AT_ONCE)
            check_made(opening)
        with entry.lock:  # a request that comes twice at once begins once
            for number, each in list(entry.jobs.items()):
                if not each.job.done() and not keys.isdisjoint(each.job.keys):
                    return {"job": number}
            # Of what ended by now all is sealed.
            check_jobs(studio, entry.owner)
            work = Work(studio, entry, kind)
            if any(not keys.isdisjoint(version.facts.get("keys", ())) for version in entry.history.versions):
                return {"job": work.ended()}
            with asked_by(Origin(tuple(keys), entry.owner, until)):
                return {"job": start(work)}


def kind_of(form: DrawnForm) -> Kind:
    """What pages and metrics call the job."""
    if isinstance(form, VariantsForm):
        return "variants"
    return "draft" if isinstance(form, EditForm) and form.draft else form.kind


def check_base(entry: Entry, base: int) -> None:
    """Problem 409 unless that is the head, which it names; of a picture that is being recorded it is 0."""
    head = max(0, entry.history.current)
    if head != base:
        raise Problem(409, f"version {base} is not the head, that is {head}; draw on that one", head=head)


def _check_words(studio: Studio, entry: Entry, form: DrawnForm) -> None:
    """Problem 422 for words for areas of a model that reads none."""
    kind, settings = entry.about
    if form.areas and not capabilities(studio.models.editors[studio.models.name_of(settings)], kind)["areas"]:
        raise Problem(422, "this model reads no words, so areas can have none")


def started(session: AnySession, drawn: Drawn, work: Work) -> Job[Any]:
    """The job of an edit; drafts before it end."""
    form, entry, base = drawn.form, work.entry, session.version.number if session.versions else None
    if work.kind == "draft":
        entry.end_draft()
        entry.draft = session.start(Draft(session, drawn, work.progress))
        return entry.draft
    asked: dict[str, Any] = {**drawn.asked(session), "progress": work.progress}
    entry.end_draft()
    if "instances" in asked:
        entry.instance = int(asked["instances"].max())
    if not isinstance(session, DiffusionSession | Canvas):
        job: Job[Any] = session.submit(**asked)
        return job
    if isinstance(form, VariantsForm):
        return session.start(Varied(session, form.n, form.seed, asked))
    refine: float | str = form.refine
    if isinstance(form.refine, bool):
        refine = ENOUGH if form.refine else "off"
    if isinstance(session, Canvas):
        return session.submit(refine=refine, **asked)
    return session.submit(base=base, refine=refine, **asked)
