"""Versions as files, how far they may be off, and what the last edit computed."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, cast

import numpy as np
from fastapi import APIRouter, Query, Response

from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.resample import Scaling
from retouch.editing.computed import Computed, computed
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.gan.labels import LabelSession
from retouch.editing.kinds import AnySession
from retouch.editing.sheets import coloured
from retouch.editing.version import Version
from retouch.plan.explain import Line
from retouch.server import uploads
from retouch.server.entry import Entry
from retouch.server.facts import TOLD, facts_of
from retouch.server.problems import Problem, documented
from retouch.server.studio import InSession, InStudio, Studio
from retouch.server.tasks import Question
from retouch.server.uploads import Format
from retouch.server.waiting import using

THUMB = 160
MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

router = APIRouter(prefix="/api/sessions/{id}")


def _files(*kinds: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "A picture", "content": {MEDIA[kind]: {} for kind in kinds}}}


@router.get(
    "/versions/{version}.png", response_class=Response, responses={**_files("png", "jpeg", "webp"), **documented(409)}
)
def picture(
    version: int,
    studio: InStudio,
    entry: InSession,
    thumb: Annotated[str | None, Query(description="A small JPEG instead; `change`: of what was changed.")] = None,
    input: Annotated[str | None, Query(description="What edits are drawn on instead: labels, small pictures.")] = None,
    format: Annotated[Format, Query(description="Of the file; PNG is lossless.")] = "png",
    quality: Annotated[
        int | None, Query(ge=1, le=95, description="Of JPEG (90) and WebP, which is lossless without.")
    ] = None,
    file: Annotated[str | None, Query(description="Of a canvas: with alpha, 16 bits, profile and EXIF.")] = None,
) -> Response:
    """The exact picture of a version, with the settings that made it as JSON: in the text `retouch` of a PNG, in XMP of
    others (`retouch:settings`).
    """
    kind = entry.about[0]
    if thumb is not None and input is None:
        return Response(uploads.thumbnail(entry.glimpse(version, thumb == "change"), THUMB), media_type=MEDIA["jpeg"])
    if file is not None and kind == Canvas.kind:
        found = entry.picture(version)
        data = uploads.as_filed(found, format, settings_of(studio.models, entry, version), quality)
        return Response(data, media_type=MEDIA[format])
    pixels = entry.pixels(version, source=input is not None)
    if input is not None and kind == LabelSession.kind:
        pixels = coloured(pixels[..., 0])
    if thumb is not None:
        return Response(uploads.thumbnail(pixels, THUMB), media_type=MEDIA["jpeg"])
    data = uploads.encoded(pixels, format, settings_of(studio.models, entry, version), quality)
    return Response(data, media_type=MEDIA[format])


def settings_of(models: Any, entry: Entry, version: int) -> dict[str, Any]:
    """What makes the picture of a version again, as far as it is not the picture itself."""
    facts = facts_of(models, entry)
    made: Mapping[str, Any] = entry.history[version].facts
    words = {name: made[name] for name in ("prompt", "negative", "seed", "edit") if made.get(name) is not None}
    return {"model": facts["model"], **{n: facts["settings"][n] for n in TOLD if n in facts["settings"]}, **words}


@router.get(
    "/versions/{version}/instances.png",
    response_class=Response,
    responses={**_files("png"), **documented(409, 503, 507)},
)
def instances(version: int, studio: InStudio, entry: InSession) -> Response:
    """The ids of instances in a map of labels, in the levels of a PNG: red, 256 times green and 65536 times blue."""
    if entry.history.find(version) is None or not entry.about[1].get("instances"):
        raise Problem(404, f"there is no version {version} with a map of instances")
    with using(studio, entry) as session:
        ids = session.history[version].tensors["source"][1].numpy()
    levels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    return Response(uploads.encoded(levels, "png"), media_type=MEDIA["png"])


@router.get("/versions/{version}/error", responses=documented(409, 503))
def error(version: int, studio: InStudio, entry: InSession) -> dict[str, Any]:
    """An estimate of how far a version is from what the dense model makes of its edit, in grey levels inside it: null
    where nothing is known to estimate it from, which is so for all but the last edit.
    """
    if entry.history.find(version) is None:
        raise Problem(404, f"there is no version {version}")
    known = entry.estimate
    if known is None or known[0] != version or known[1].estimate is None:
        return {"version": version, "error": None}
    return {"version": version, "error": _when_idle(studio, entry, lambda _: known[1].error)}


def _when_idle(studio: Studio, entry: Entry, ask: Callable[[AnySession], Any]) -> Any:
    """What the session's device answers; Problem 503 while it computes something."""
    if studio.pool.busy():
        raise Problem(503, "an edit is being computed; ask again when it is done", retry_after=1)
    with using(studio, entry) as session:
        return session.start(Question(lambda: ask(session))).result()


@router.get("/explain", responses=documented(409, 503, 507))
def explain(
    studio: InStudio,
    entry: InSession,
    timed: Annotated[bool, Query(description="Compute a call of each network again, to time it.")] = False,
) -> dict[str, Any]:
    """What the networks computed for the head: active rows of every grid; rows, arithmetic and time of every layer.

    Of several calls of a network the first one. `mask` of a grid is its rows from the top, eight positions a byte with
    the leftmost in the highest bit, in base64. A layer computed `rows` `of` so many, with `macs` multiply-accumulates
    of `dense_macs`, in `milliseconds` (null unless `timed`), or as the machine's cost model has it in
    `predicted_milliseconds` (null where there is none). `rect` is where a network's grids lie in the picture: left,
    top, width and height; of a canvas this is the viewport of the edit, and there is nothing to explain (409) when its
    recording is not in memory any more; an edit that recorded nothing has no networks.
    """

    def explained(session: AnySession) -> dict[str, Any]:
        version = session.version
        networks = [
            _network(found, rect)
            for made_in, made, rect in _made_in(session, version)
            for found in computed(made_in, made, timed)
        ]
        return {"version": version.number, "seconds": version.facts["seconds"], "networks": networks}

    if not entry.history.versions:
        raise Problem(409, "the session is still being opened; wait for its job")
    if timed:
        return cast(dict[str, Any], _when_idle(studio, entry, explained))
    with using(studio, entry) as session:
        return explained(session)


def _made_in(session: AnySession, version: Version) -> Iterator[tuple[AnySession, Version, list[float]]]:
    """The sessions that made a version, with the version there, and what of the picture they see."""
    if not isinstance(session, Canvas):
        yield session, version, [0, 0, session.size[1], session.size[0]]
        return
    views = [view for view in session.pool.views if view.number in version.facts.get("views", ())]
    if version.facts.get("views") and all(view.session is None for view in views):
        raise Problem(409, "the recording that the edit was made in is not in memory any more")
    for view in views:
        if isinstance(view.session, DiffusionSession):
            made = view.session.history.find(view.versions[version.number])
            if made is not None:
                yield view.session, made, _rect(session.now.local(view.scaling))


def _rect(viewport: Scaling) -> list[float]:
    """Left, top, width and height of all that a viewport shows, reflections included, in pixels of the canvas."""
    (rows, columns), (down, right), scale = viewport.box, viewport.window, viewport.scale
    corner = columns.start - right.start / scale, rows.start - down.start / scale
    return [*corner, viewport.size[1] / scale, viewport.size[0] / scale]


def _network(found: Computed, rect: list[float]) -> dict[str, Any]:
    grids = [
        {
            "height": grid.height,
            "width": grid.width,
            "active": int(mask.sum()),
            "mask": base64.b64encode(np.packbits(mask).tobytes()).decode(),
        }
        for grid, mask in found.grids.items()
    ]
    explanation = found.explanation
    return {
        "network": found.network,
        "calls": found.calls,
        "rect": rect,
        "macs": explanation.macs_active,
        "dense_macs": explanation.macs_dense,
        "grids": grids,
        "layers": list(map(_layer, explanation.lines)),
    }


def _layer(line: Line) -> dict[str, Any]:
    return {
        "name": line.name,
        "op": line.op,
        "grid": line.grid,
        "rows": line.active,
        "of": line.rows,
        "macs": line.macs_active,
        "dense_macs": line.macs_dense,
        "milliseconds": line.measured_ms,
        "predicted_milliseconds": line.predicted_ms,
        "backend": line.backend,
    }
