"""Versions as files, how far they may be off, and what the last edit computed."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response

from retouch.editing.computed import Computed, computed
from retouch.editing.jobs import Job, Task
from retouch.editing.sheets import coloured
from retouch.server import uploads
from retouch.server.facts import TOLD, facts_of
from retouch.server.pool import Entry
from retouch.server.problems import Problem, documented
from retouch.server.studio import InSession, InStudio
from retouch.server.uploads import Format

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
    thumb: Annotated[str | None, Query(description="A small JPEG instead.")] = None,
    input: Annotated[str | None, Query(description="What edits are drawn on instead: labels, small pictures.")] = None,
    format: Annotated[Format, Query(description="Of the file; WebP is lossless.")] = "png",
    quality: Annotated[int, Query(ge=1, le=95, description="Of JPEG.")] = 90,
) -> Response:
    """The exact picture of a version; a PNG carries the settings that made it, as JSON in the text `retouch`."""
    pixels = entry.pixels(version, source=input is not None)
    if input is not None and _is_labels(entry):
        pixels = coloured(pixels[..., 0])
    if thumb is not None:
        return Response(uploads.thumbnail(pixels, THUMB), media_type=MEDIA["jpeg"])
    data = uploads.encoded(pixels, format, settings_of(studio.models, entry, version), quality)
    return Response(data, media_type=MEDIA[format])


def _is_labels(entry: Entry) -> bool:
    return (entry.session.kind if entry.session is not None else entry.manifest().kind) == "labels"


def settings_of(models: Any, entry: Entry, version: int) -> dict[str, Any]:
    """What makes the picture of a version again, as far as it is not the picture itself."""
    facts = facts_of(models, entry)
    found: dict[str, Any] = next((each for each in facts["tree"] if each["version"] == version), {})
    words = {name: found[name] for name in ("prompt", "edit") if found.get(name) is not None}
    return {"model": facts["model"], **{n: facts["settings"][n] for n in TOLD if n in facts["settings"]}, **words}


class Asked(Task[Any]):
    """A question to a session that its device answers."""

    def __init__(self, ask: Any) -> None:
        self._ask = ask

    def run(self, job: Job[Any]) -> Any:
        """The answer."""
        return self._ask()


@router.get("/versions/{version}/error", responses=documented(409, 503))
def error(version: int, studio: InStudio, entry: InSession) -> dict[str, Any]:
    """An estimate of how far a version is from what the dense model makes of its edit, in grey levels inside it: null
    where nothing is known to estimate it from, which is so for all but the last edit.
    """
    if all(each.number != version for each in entry.history.versions):
        raise Problem(404, f"there is no version {version}")
    known = entry.estimate
    if known is None or known[0] != version or known[1].estimate is None:
        return {"version": version, "error": None}
    if studio.pool.busy():
        raise Problem(503, "an edit is being computed; ask again when it is done", retry_after=1)
    with studio.pool.using(entry) as session:
        return {"version": version, "error": session.start(Asked(lambda: known[1].error)).result()}


@router.get("/explain", responses=documented(409, 503, 507))
def explain(studio: InStudio, entry: InSession) -> dict[str, Any]:
    """What the networks computed for the head: active rows of every grid, arithmetic of every operation.

    `mask` of a grid is its rows from the top, eight positions a byte with the leftmost in the highest bit, in base64.
    """
    with studio.pool.using(entry) as session:
        if not session.versions:
            raise Problem(409, "the session is still being opened; wait for its job")
        version = session.version
        networks = [_network(found) for found in computed(session, version)]
    return {"version": version.number, "seconds": version.facts["seconds"], "networks": networks}


def _network(found: Computed) -> dict[str, Any]:
    grids = [
        {
            "height": grid.height,
            "width": grid.width,
            "active": int(mask.sum()),
            "mask": base64.b64encode(np.packbits(mask).tobytes()).decode(),
        }
        for grid, mask in found.grids.items()
    ]
    told = ("name", "op", "grid", "rows", "active", "macs_dense", "macs_active", "backend")
    explanation = found.explanation
    return {
        "network": found.network,
        "calls": found.calls,
        "macs_dense": explanation.macs_dense,
        "macs_active": explanation.macs_active,
        "grids": grids,
        "layers": [{each: getattr(line, each) for each in told} for line in explanation.lines],
    }
