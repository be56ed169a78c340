"""Images in OpenAI's form, so that clients of theirs work: edits (there the transparent part of the mask is edited) and
generations, at once or as server-sent events.

When the posted picture is the current one of a live session or canvas of the same caller, the edit is made there, and
computes only what it touches; the header `Retouch-Incremental` says so, `Retouch-Session` names the session. Pictures
that the model does not take whole are edited as canvases. Sessions that were begun here give way to later ones when the
caller has as many as the limit allows.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, File, Form, UploadFile
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.drawing import Composed
from retouch.editing.diffusion.editor import Editor
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.images import Pixels, box_of
from retouch.editing.jobs import Frame, Job, Origin, asked_by
from retouch.plan.region import Mask
from retouch.server import uploads
from retouch.server.cost import admit, of_edit
from retouch.server.drawn import Place
from retouch.server.entry import Entry
from retouch.server.forms import OpenForm, Text
from retouch.server.problems import Problem, documented
from retouch.server.sessions import Begun, Source, begin, source_of
from retouch.server.studio import Caller, InStudio, Studio, check_jobs
from retouch.server.tasks import Varied
from retouch.server.uploads import Format
from retouch.server.waiting import using
from retouch.server.work import Kind, Work

AUTO = "auto"
USAGE = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0,
         "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}}  # fmt: skip
Size = Annotated[str, Field(pattern=r"^(auto|[1-9]\d{0,3}x[1-9]\d{0,3})$")]
MOST = 10
"""Pictures that one request makes."""
Count = Annotated[int, Field(ge=1, le=MOST)]
Partial = Annotated[int, Field(ge=0, le=3)]

router = APIRouter(prefix="/v1/images", responses=documented(400, 415, 503, 507))


class Generation(BaseModel):
    """What is asked for. Fields of OpenAI's that mean nothing here are passed over."""

    prompt: Text
    model: str | None = None
    n: Count = 1
    size: Size = AUTO
    output_format: Format = "png"
    response_format: Literal["b64_json"] = "b64_json"
    stream: bool = False
    partial_images: Partial = 0


@dataclass
class Output:
    """How pictures are answered."""

    kind: Literal["image_edit", "image_generation"]
    format: Format
    partial: int

    def encoded(self, pixels: Pixels) -> str:
        """A file in base64."""
        return base64.b64encode(uploads.encoded(pixels, self.format)).decode()

    def whole(self, pictures: list[Pixels], headers: dict[str, str]) -> Response:
        """All at once."""
        data = [{"b64_json": self.encoded(each)} for each in pictures]
        body = {"created": int(time.time()), "data": data, "output_format": self.format, "usage": USAGE}
        return JSONResponse(body, headers=headers)

    def event(self, name: str, pixels: Pixels, **more: Any) -> bytes:
        """One server-sent event."""
        body = {
            "type": f"{self.kind}.{name}",
            "b64_json": self.encoded(pixels),
            "created_at": int(time.time()),
            "size": f"{pixels.shape[1]}x{pixels.shape[0]}",
            "quality": AUTO,
            "background": "opaque",
            "output_format": self.format,
            **more,
        }
        return f"event: {body['type']}\ndata: {json.dumps(body)}\n\n".encode()


@router.post("/generations", response_class=JSONResponse)
def generations(form: Generation, studio: InStudio, caller: Caller) -> Response:
    """Pictures from words."""
    name = _model(studio, form.model)
    width, height = (None, None) if form.size == AUTO else map(int, form.size.split("x"))
    size = None if width is None or height is None else (height, width)
    asked = OpenForm(model=name, prompt=form.prompt, size=size, generate=True)
    output = Output("image_generation", form.output_format, form.partial_images)
    made: list[Begun] = []
    try:
        for seed in range(form.n):
            made.append(_begun(studio, caller, asked.model_copy(update={"seed": seed}), None))
    except BaseException:  # nobody would see those that were begun
        for each in made:
            each.job.cancel()
        raise
    headers = {"Retouch-Session": made[0].entry.id, "Retouch-Incremental": "false"}
    if form.stream:
        return StreamingResponse(_events(made, output), media_type="text/event-stream", headers=headers)
    return output.whole([picture for each in made for picture in _pictures(each)], headers)


@router.post("/edits", response_class=JSONResponse)
def edits(
    studio: InStudio,
    caller: Caller,
    image: Annotated[list[UploadFile] | None, File()] = None,
    images: Annotated[list[UploadFile] | None, File(alias="image[]")] = None,
    prompt: Annotated[Text, Form()] = "",
    mask: Annotated[UploadFile | None, File()] = None,
    model: Annotated[str | None, Form()] = None,
    n: Annotated[int, Form(ge=1, le=MOST)] = 1,
    size: Annotated[Size, Form()] = AUTO,
    output_format: Annotated[Format, Form()] = "png",
    response_format: Annotated[Literal["b64_json"], Form()] = "b64_json",
    stream: Annotated[bool, Form()] = False,
    partial_images: Annotated[Partial, Form()] = 0,
) -> Response:
    """A picture of any size with what is transparent in the mask made anew after the words; without a mask, all of it
    redrawn.
    """
    given = [*(image or []), *(images or [])]
    if len(given) != 1:
        raise Problem(422, f"send one image, not {len(given)}")
    if not prompt:
        raise Problem(422, "send a prompt")
    data = given[0].file.read()
    pixels, region = _read(studio, data, None if mask is None else mask.file.read())
    if size not in (AUTO, f"{pixels.shape[1]}x{pixels.shape[0]}"):
        raise Problem(422, f"an edit has the size of its picture, {pixels.shape[1]}x{pixels.shape[0]}, not {size}")
    output = Output("image_edit", output_format, partial_images)
    name = _model(studio, model)
    entry = _showing(studio, caller, name, pixels)
    headers = {"Retouch-Incremental": str(entry is not None).lower()}
    if entry is None:
        source = source_of(studio.models.named(name), data, studio.limits.pixels)
        begun = _begun(studio, caller, OpenForm(model=name, prompt=prompt, strength=1.0), source)
        entry = begun.entry
        begun.job.result()
    headers["Retouch-Session"] = entry.id
    check_jobs(studio, caller)
    made = _edited(studio, entry, prompt, region, n)
    if stream:
        return StreamingResponse(_events([made], output), media_type="text/event-stream", headers=headers)
    return output.whole(_pictures(made), headers)


def _edited(studio: Studio, entry: Entry, prompt: str, region: Mask | None, count: int) -> Begun:
    """An edit that fills a region (None: redraws everything), so many times with other seeds."""
    kind: Kind = "variants" if count > 1 else "edit" if region is None else "inpaint"
    with using(studio, entry) as session, asked_by(Origin(caller=entry.owner)):
        assert isinstance(session, DiffusionSession | Canvas)
        mask = np.ones(session.size, np.bool_) if region is None else region
        box = box_of(mask)
        seconds = of_edit(session, Place(mask[box], box)) * count
        admit(studio.pool.backlog(), seconds, studio.limits.backlog, recording=False)
        work = Work(studio, entry, kind)
        work.ask(OpenForm(prompt=prompt))
        where: dict[str, Any] = {"mask": mask[box], "box": box} if isinstance(session, Canvas) else {"mask": mask}
        asked: dict[str, Any] = {**where, "prompt": prompt, "inpaint": region is not None, "progress": work.progress}
        if count > 1:
            job: Job[Any] = session.start(Varied(session, count, None, asked))
        else:
            job = session.submit(refine="off", join=False, **asked)
        return Begun(entry, job, work.follow(job, seconds))


def _model(studio: Studio, name: str | None) -> str:
    """A diffusion model by its name, or the first."""
    known = [label for label, editor in studio.models.editors.items() if isinstance(editor, Editor)]
    if name is None and known:
        return known[0]
    if name not in known:
        raise Problem(404, f"there is no model {name!r} here; there are {', '.join(known) or 'none for this'}")
    return str(name)


def _read(studio: Studio, image: bytes, mask: bytes | None) -> tuple[Pixels, Mask | None]:
    """The picture, and what is transparent in the mask, or without one in the picture (None: nothing is)."""
    pixels = uploads.picture(image, studio.limits.pixels, "the image")
    source, what = (image, "the image") if mask is None else (mask, "the mask")
    alpha = uploads.decoded(uploads.opened(source, what, studio.limits.pixels), what, "RGBA")[..., 3]
    if alpha.shape != pixels.shape[:2]:
        raise Problem(422, "mask and image differ in size")
    region: Mask = alpha == 0
    if mask is not None and not region.any():
        raise Problem(422, "nothing is transparent in the mask: there is nothing to edit")
    return pixels, region if region.any() else None


def _showing(studio: Studio, caller: str, model: str, pixels: Pixels) -> Entry | None:
    """A session of the caller in memory that shows this picture, made with the model."""
    for entry in studio.pool.of(caller):
        session = entry.session
        if not isinstance(session, DiffusionSession | Canvas) or not session.versions:
            continue
        if studio.models.name_of(session.settings) != model or session.size != pixels.shape[:2]:
            continue
        if np.array_equal(session.pixels, pixels):
            return entry
    return None


def _begun(studio: Studio, caller: str, form: OpenForm, source: Source | None) -> Begun:
    """A new session, which may be removed when there is no room for others."""
    own = [entry for entry in studio.pool.of(caller) if entry.passing and not entry.users]
    if len(studio.pool.of(caller)) >= studio.limits.sessions and own:
        studio.pool.remove(own[-1])
    made = begin(studio, caller, form, source)
    made.entry.passing = True
    return made


def _pictures(made: Begun) -> list[Pixels]:
    """What a job made, whole."""
    job, entry = made.job, made.entry
    result = job.result()
    if isinstance(job.task, Varied):
        numbers = job.task.made
    elif isinstance(result, Composed):
        numbers = [frame.version for frame in job if frame.kind == "result"] or [entry.history.current]
    else:
        return [np.asarray(result.image)]
    return [entry.pixels(number) for number in numbers]


def _events(made: list[Begun], output: Output) -> Iterator[bytes]:
    """Server-sent events of jobs, one after the other; they are cancelled when nobody reads on."""
    try:
        for each in made:
            yield from _events_of(each, output)
    except Exception as error:
        body = {"type": "error", "error": Problem.of(error).openai()}
        yield f"event: error\ndata: {json.dumps(body)}\n\n".encode()
    finally:
        for each in made:
            each.job.cancel()


def _events_of(begun: Begun, output: Output) -> Iterator[bytes]:
    session = begun.entry.session
    picture = session.pixels if session is not None and session.versions else None
    sent = 0
    for frame in begun.job:
        if frame.kind == "preview" and picture is not None and _is_due(frame, sent, output.partial):
            yield output.event("partial_image", _with(picture, frame), partial_image_index=sent)
            sent += 1
        elif frame.kind == "result":
            for made in _pictures(begun):
                yield output.event("completed", made, usage=USAGE)
            return
    begun.job.result()


def _is_due(frame: Frame, sent: int, most: int) -> bool:
    """Whether it is time for one of `most` pictures, spread evenly over the steps."""
    return sent < most and frame.step * (most + 1) >= (sent + 1) * frame.steps


def _with(picture: Pixels, frame: Frame) -> Pixels:
    left, top, right, bottom = frame.rectangle
    shown = picture.copy()
    shown[top:bottom, left:right] = frame.pixels
    return shown
