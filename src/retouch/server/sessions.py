"""Sessions: made, listed, told of, moved and deleted."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy.typing as npt
from fastapi import APIRouter, File, Form, Response, UploadFile
from pydantic import Json

from retouch.editing.archive import Progress
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.picture import Picture
from retouch.editing.diffusion.editor import GUIDANCE, STEPS, STRENGTH, Editor
from retouch.editing.gan.labels import LabelEditor, Labels
from retouch.editing.images import ImageError, as_integers, as_pixels
from retouch.editing.jobs import Job
from retouch.editing.kinds import AnyEditor, AnySession
from retouch.server import uploads
from retouch.server.cost import Recording, admit
from retouch.server.entry import Awaited, Entry
from retouch.server.facts import facts_of, job_of, listed
from retouch.server.forms import HeadForm, NameForm, OpenForm
from retouch.server.idempotency import Key, digest
from retouch.server.models import cropped, shows_whole
from retouch.server.problems import Problem, documented
from retouch.server.studio import Caller, InSession, InStudio, Named, Studio, check_jobs
from retouch.server.waiting import AT_ONCE, check_made, opened, using
from retouch.server.work import Work, show, tell_tree

Source = npt.NDArray[Any] | Picture
"""Pixels, labels, or the picture of a canvas."""
BINARY: dict[int | str, dict[str, Any]] = {
    200: {"description": "A message as the WebSocket has it", "content": {"application/octet-stream": {}}}
}

router = APIRouter(prefix="/api/sessions")


@router.post("", status_code=202, responses=documented(409, 415, 503, 507))
def create(
    studio: InStudio,
    caller: Caller,
    settings: Annotated[Json[OpenForm], Form()],
    picture: Annotated[UploadFile | None, File()] = None,
    instances: Annotated[UploadFile | None, File(description="Of a map of labels: ids of instances, grey")] = None,
    wanted: Named = None,
    key: Key = None,
) -> dict[str, Any]:
    """Make a session of a picture, or of a map of labels, or generate one; `kind` says whether it is a canvas. Its
    `state` is "opening" until the job has ended, which is told of the session, too; meanwhile networks are compiled, if
    this is the first session of its size, and the picture is recorded.
    """
    data, ids = map(uploads.content, (picture, instances))
    mine = None if key is None else digest(caller, key)
    found: dict[str, Any] = studio.answers.once(
        mine, lambda: _made(studio, caller, settings, data, ids, wanted or mine, mine)
    )
    return found


def _made(
    studio: Studio, caller: str, form: OpenForm, data: bytes | None, ids: bytes | None, id_: str | None, key: str | None
) -> dict[str, Any]:
    if id_ is not None and (known := studio.pool.known(caller, id_)) is not None:
        return {"id": id_, "job": Work(studio, known, "open").ended(), **_opened(known)}
    if form.generate == (data is not None):
        raise Problem(422, "send a picture, or settings with generate: one of the two")
    editor = studio.models.named(form.model)
    if form.canvas and not isinstance(editor, Editor):
        raise Problem(422, "this model sees a picture whole; canvases are for models that draw from noise")
    if ids is not None and not isinstance(editor, LabelEditor):
        raise Problem(422, "instances go with a model that makes pictures from labels")
    limit = studio.limits.pixels
    source = None if data is None else source_of(editor, data, limit, form.canvas)
    options = {} if ids is None else {"instances": cropped(editor, _integers(ids, "the map of instances", limit))}
    made = begin(studio, caller, form, source, options, id_)
    made.job.add_done_callback(lambda ended: studio.answers.forget_failed(key, ended))
    return {"id": made.entry.id, "job": made.number, **_opened(made.entry)}


def _opened(entry: Entry) -> dict[str, str]:
    return {"kind": entry.about[0], "state": "open" if entry.history.versions else "opening"}


@dataclass(frozen=True)
class Begun:
    """A job of a session, with its number."""

    entry: Entry
    job: Job[Any]
    number: int


def begin(
    studio: Studio,
    caller: str,
    form: OpenForm,
    source: Source | None,
    options: Mapping[str, Any] = MappingProxyType({}),
    id_: str | None = None,
) -> Begun:
    """A new session that is being recorded, on a source or without one generated; of a `Picture` a canvas. `options`
    are further ones of its editor's `open`, `id_` its id (None: any).
    """
    editor = studio.models.named(form.model)
    _check(editor, form, source, studio.limits.pixels)
    check_jobs(studio, caller)
    last = studio.recordings.get(editor, Recording())
    admit(studio.pool.backlog(), last.seconds, studio.limits.backlog, recording=True)
    entry = studio.pool.new(caller, id_)
    work = Work(studio, entry, "generate" if source is None else "open")
    work.ask(form)
    options = {**options, **(form.options() if isinstance(editor, Editor) else {})}

    def make(progress: Progress) -> AnySession:
        told: dict[str, Any] = {"progress": progress, **options}

        def start(folder: Path) -> AnySession:
            if isinstance(source, Picture):
                assert isinstance(editor, Editor)
                return editor.canvas(source, folder=folder, **told)
            if source is None:
                assert isinstance(editor, Editor)
                return editor.generate(size=form.size, wait=False, folder=folder, **told)
            return editor.open(source, wait=False, folder=folder, **told)

        light = studio.pool.home.light or last.is_made_faster_than_read(studio.limits.read_rate)
        session = studio.pool.start(entry, start, light and not isinstance(source, Picture))  # canvases have no layers
        studio.recordings[editor] = recording = Recording.of(session)
        work.predict(recording.seconds)
        return session

    entry.awaited = _awaited(editor, form, source, options)
    if isinstance(editor, Editor) and source is not None:
        entry.shown = 0, None if isinstance(source, Picture) else source
    text = "opening the picture" if source is not None else "reading the words"
    opening = opened(work, make, text, last.seconds)
    opening.job.add_done_callback(lambda ended: _forget_failed(studio, entry, ended))
    opening.made.wait(AT_ONCE)
    check_made(opening)
    return Begun(entry, opening.job, work.number)


def _check(editor: AnyEditor, form: OpenForm, source: Source | None, most: int) -> None:
    """Problem 422 or 413, or PipelineError, for what can be refused before anything is computed."""
    if source is None and not isinstance(editor, Editor):
        raise Problem(422, "this model makes no pictures from words; send it one")
    if form.size is not None and form.size[0] * form.size[1] > most:
        raise Problem(413, f"{form.size[1]}x{form.size[0]} are more than {most:,} pixels")
    if not isinstance(editor, Editor):
        return
    if source is None:
        editor.model.check_size(form.size or editor.model.default_size)
    if not editor.model.reads_text and (form.prompt, form.negative) != (None, None):
        raise Problem(422, "this model reads no words; send no prompt")


def _awaited(editor: AnyEditor, form: OpenForm, source: Source | None, options: Mapping[str, Any]) -> Awaited:
    """What is told of a session until it is made."""
    if isinstance(source, Picture):
        kind, (height, width) = Canvas.kind, source.size
    elif source is not None:
        kind, (height, width) = editor.sessions.kind, source.shape[:2]
    else:
        assert isinstance(editor, Editor)
        kind, (height, width) = editor.sessions.kind, form.size or editor.model.default_size
    known: dict[str, Any] = {"model": editor.name, "height": height, "width": width}
    if not isinstance(editor, Editor):
        return Awaited(kind, {**known, "instances": "instances" in options}, None)
    usual = {"strength": STRENGTH, "steps": STEPS, "guidance": GUIDANCE, "seed": 0}
    return Awaited(kind, {**known, **usual, **options}, source)


def source_of(editor: AnyEditor, data: bytes, limit: int, canvas: bool | None = None) -> Source:
    """What a session is opened on: a `Picture` for a canvas, which None is for what the model does not take whole."""
    if isinstance(editor, LabelEditor):
        return cropped(editor, _integers(data, "the map of labels", limit))
    if isinstance(editor, Editor) and canvas is None:
        what = "the picture"
        canvas = not shows_whole(editor, uploads.upright(uploads.opened(data, what, limit), what))
    return uploads.photograph(data, limit) if canvas else cropped(editor, uploads.picture(data, limit))


def source_in(editor: AnyEditor, file: Path) -> Source:
    """The same of a file of this machine, in any format that is read."""
    if isinstance(editor, LabelEditor):
        return cropped(editor, as_integers(file))
    picture = Picture.read(file)
    if isinstance(editor, Editor) and not shows_whole(editor, picture.size):
        return picture
    return cropped(editor, as_pixels(file))


def _integers(data: bytes, what: str, limit: int) -> Labels:
    image = uploads.opened(data, what, limit)
    try:
        return as_integers(image)
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything
        raise Problem(415, f"{what} cannot be decoded: its content is damaged") from error


def _forget_failed(studio: Studio, entry: Entry, job: Future[Any]) -> None:
    """A session whose recording failed or was cancelled is none; those who watch are told why first."""
    if job.cancelled() or job.exception() is not None:
        studio.tell(studio.pool.remove, entry)


@router.get("", responses=documented())
def recent(studio: InStudio, caller: Caller) -> list[dict[str, Any]]:
    """Your sessions, the one used last first."""
    found = []
    for entry in studio.pool.of(caller):
        try:
            found.append(listed(studio.models, entry))
        except Problem:  # of a model that is not here, or not recorded yet
            continue
    return found


@router.get("/{id}", responses=documented(409, 503))
def session(studio: InStudio, entry: InSession) -> dict[str, Any]:
    """All of a session. What another server still computes for it is waited for."""
    studio.pool.settle(entry)
    return facts_of(studio.models, entry)


@router.delete("/{id}", status_code=204, responses=documented())
def delete(studio: InStudio, entry: InSession) -> Response:
    """Delete a session; what is computed for it is stopped."""
    studio.pool.remove(entry)
    return Response(status_code=204)


@router.get("/{id}/jobs/{job}", responses=documented(409, 503, 507))
def job(id: str, job: int, studio: InStudio, caller: Caller) -> dict[str, Any]:
    """What a job does, or its `state` at the end: "done" or "cancelled". Of one that failed the answer is the problem,
    also when it was to open a session, which is none then.
    """
    became = studio.ended.known((caller, id, job))
    if isinstance(became, Problem):
        raise became.with_traceback(None)
    found = None if became else studio.pool.find(caller, id).jobs.get(job)
    if not (became or found):
        raise Problem(404, f"there is no job {job}, or it ended long ago")
    return {"job": job, "state": became} if found is None else job_of(job, found)


@router.delete("/{id}/jobs/{job}", status_code=204, responses=documented(409))
def cancel(job: int, entry: InSession) -> Response:
    """Stop a job; the session stays as it was."""
    found = entry.jobs.get(job)
    if found is None:
        raise Problem(404, f"there is no job {job}")
    if not found.job.cancel():
        raise Problem(409, f"job {job} has ended")
    return Response(status_code=204)


@router.post("/{id}/head", response_class=Response, responses={**BINARY, **documented(409, 503, 507)})
def head(form: HeadForm, studio: InStudio, entry: InSession) -> Response:
    """Go to a version: undo, redo, another branch. Jobs of the session are cancelled."""
    with using(studio, entry) as opened:
        if all(version.number != form.version for version in opened.versions):
            raise Problem(409, f"there is no version {form.version}")
        opened.go(form.version)
        message = studio.told(_shown, studio, entry, form.version)
    return Response(message, media_type="application/octet-stream")


def _shown(studio: Studio, entry: Entry, version: int) -> bytes:
    message = show(studio, entry, "head", version, None, {})
    tell_tree(entry)
    return message


@router.post("/{id}/versions/{version}/name", status_code=204, responses=documented(409, 503, 507))
def name(version: int, form: NameForm, studio: InStudio, entry: InSession) -> Response:
    """Call a version something."""
    with using(studio, entry) as opened:
        opened.rename(version, form.name.strip() or None)
    studio.tell(tell_tree, entry)
    return Response(status_code=204)
