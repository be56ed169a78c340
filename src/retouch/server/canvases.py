"""Canvases: which part of one a page looks at, what brings one version to another, and making it larger."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from fastapi import APIRouter, Response

from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.resample import Scaling
from retouch.editing.kinds import AnySession
from retouch.server import frames
from retouch.server.cost import of_expansion
from retouch.server.edits import check_base, once
from retouch.server.entry import Entry, Looking
from retouch.server.forms import ExpandForm, LookForm
from retouch.server.hub import Message
from retouch.server.idempotency import Key
from retouch.server.problems import Problem, documented
from retouch.server.studio import InSession, InStudio, Studio
from retouch.server.uploads import Rectangle
from retouch.server.waiting import begin
from retouch.server.work import Work

State = Literal["recorded", "recording", "none"]
BINARY: dict[int | str, dict[str, Any]] = {
    200: {"description": "Messages as the WebSocket has them", "content": {"application/octet-stream": {}}}
}

WHOLE = "the session shows its model all of the picture; open the picture with canvas: true"

router = APIRouter(prefix="/api/sessions/{id}")


def canvas_of(session: AnySession) -> Canvas:
    """The canvas that a session is; Problem 422 for others."""
    if not isinstance(session, Canvas):
        raise Problem(422, WHOLE)
    return session


@router.post("/view", responses=documented())
def look(form: LookForm, studio: InStudio, entry: InSession) -> dict[str, Any]:
    """What a page looks at. The viewport that shows it is recorded while nothing else needs the device, so an edit
    there begins at once; the WebSocket tells when it is. Where the model would see it too small, and of a session that
    is not in memory, none is.
    """
    session = entry.session
    if session is None or not session.versions:
        return _told(None, "none")
    canvas = canvas_of(session)
    rows, columns = Rectangle.inside(form.rect, canvas.size).part
    viewport = canvas.viewport((rows, columns))
    if viewport.scale < canvas.planner.floor:
        _stop(entry)
        return _told(None, "none")
    if canvas.is_prepared(viewport):
        _stop(entry)
        return _told(viewport, "recorded")
    looking = entry.looking
    if looking is None or looking.viewport != viewport:
        _prepare(studio, entry, canvas, viewport)
    return _told(viewport, "recording")


def _prepare(studio: Studio, entry: Entry, canvas: Canvas, viewport: Scaling) -> None:
    def progress(done: int, total: int, text: str) -> None:
        studio.tell(_tell, entry, viewport, "recording", done, total)

    def over() -> None:
        if entry.looking is not None and entry.looking.job is job:
            entry.looking = None  # it holds the session
        with studio.pool.kept(entry):  # what it takes is counted anew
            session = entry.session
            if isinstance(session, Canvas) and entry.looking is None:
                _tell(entry, viewport, "recorded" if session.is_prepared(viewport) else "none")

    job = canvas.prepare(viewport.box, progress)
    entry.looking = Looking(viewport, job)
    job.when_over(lambda: studio.tell(over))


def _stop(entry: Entry) -> None:
    looking, entry.looking = entry.looking, None
    if looking is not None:
        looking.job.cancel()


def _tell(entry: Entry, viewport: Scaling, state: State, done: int = 0, total: int = 0) -> None:
    told = {"event": "viewport", **_told(viewport, state), "done": done, "total": total}
    entry.hub.send(Message(json.dumps(told)))


def _told(viewport: Scaling | None, state: State) -> dict[str, Any]:
    if viewport is None:
        return {"viewport": None, "state": state}
    rows, columns = viewport.box
    rect = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
    return {"viewport": {"rect": rect, "scale": viewport.scale}, "state": state}


@router.post("/expand", status_code=202, responses=documented(409, 413, 503, 507))
def expand(form: ExpandForm, studio: InStudio, entry: InSession, key: Key = None) -> dict[str, int]:
    """Make a canvas larger and draw what is new. It begins from a guess, a version of its own, which goes again if that
    is cancelled or fails.
    """

    def start(work: Work) -> int:
        work.ask(form)
        if entry.about[0] != Canvas.kind:
            raise Problem(422, WHOLE)
        check_base(entry, form.base)
        height, width = entry.size
        larger = height + form.top + form.bottom, width + form.left + form.right
        if larger == (height, width):
            raise Problem(422, "say by how many pixels: left, top, right, bottom")
        if math.prod(larger) > studio.limits.pixels:
            raise Problem(413, f"it would be {larger[1]}x{larger[0]}, more than {studio.limits.pixels:,} pixels")
        asked = form.model_dump(exclude={"base"}, exclude_none=True)
        return begin(
            work,
            lambda session: canvas_of(session).submit_expand(**asked, progress=work.progress),
            lambda session: of_expansion(canvas_of(session), math.prod(larger) - height * width),
            studio.limits.backlog,
        )

    return once(studio, entry, "expand", key, start)


@router.get("/versions/{version}/difference", response_class=Response, responses={**BINARY, **documented(409)})
def difference(version: int, since: int, entry: InSession) -> Response:
    """What brings a page from the version `since` to another one, which stays where it is."""
    if entry.history.find(version) is None or entry.history.find(since) is None:
        raise Problem(404, f"there is no version {version} or {since}")
    found = frames.messages("picture", entry.difference((since, None), version), version)
    return Response(b"".join(found), media_type="application/octet-stream")
