"""Whole sessions as one file, out and in: a zip of the session's folder, nothing of it compressed.

What comes in is a stranger's: names are those of session folders and no others, sizes are counted, nothing is inflated,
and the folder is then checked as any saved session is.
"""

from __future__ import annotations

import math
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any

from fastapi import APIRouter, File, UploadFile
from fastapi.responses import StreamingResponse

from retouch.editing.archive import Archive
from retouch.editing.manifest import MANIFEST, MAX_BYTES, ArchiveError
from retouch.editing.saved import Saved
from retouch.server.entry import Entry
from retouch.server.problems import Problem, documented
from retouch.server.studio import Caller, InSession, InStudio, Studio

MEMBER = re.compile(r"manifest\.json|versions/\d{4,9}(-\d{1,9})?/[a-z0-9][a-z0-9-]{0,80}\.(safetensors|png)")
CHUNK = 1 << 20
MOST = 100_000

router = APIRouter()


@router.get(
    "/api/sessions/{id}/archive",
    response_class=StreamingResponse,
    responses={200: {"description": "The session", "content": {"application/zip": {}}}, **documented(409)},
)
def archive(entry: InSession) -> StreamingResponse:
    """A session as one file, to be kept or sent in elsewhere."""
    manifest = entry.saved(files=True).manifest.portable()
    folders = [Path("versions") / each.folder / name for each in manifest.versions for name in each.files]
    text = manifest.text()
    return StreamingResponse(
        _zipped(entry.folder, text, folders),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{entry.id}.zip"'},
    )


class _Pipe:
    """What a zip file is written to, piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def taken(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def _zipped(folder: Path, manifest: str, names: list[Path]) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as made:  # type: ignore[call-overload]
        made.writestr(MANIFEST, manifest)
        for name in names:
            with (folder / name).open("rb") as source, made.open(name.as_posix(), "w", force_zip64=True) as target:
                while chunk := source.read(CHUNK):
                    target.write(chunk)
                    yield pipe.taken()
    yield pipe.taken()


@router.post("/api/archives", status_code=201, responses=documented(409, 415, 507))
def restore(studio: InStudio, caller: Caller, archive: Annotated[UploadFile, File()]) -> dict[str, str]:
    """A session from a file that `archive` gave."""
    entry = studio.pool.new(caller)
    try:
        _extract(archive.file, entry, studio)
    except BaseException:
        studio.pool.remove(entry)
        raise
    return {"id": entry.id}


def _extract(file: IO[bytes], entry: Entry, studio: Studio) -> None:
    """The checked folder of a session, which appears whole or not at all."""
    home = studio.pool.home
    staging = home.incoming()
    try:
        _unzip(file, staging, studio.limits.archive)
        saved = Saved.read(staging)
        studio.models.name_of(saved.manifest.settings)
        _check_canvas(saved.manifest.settings, studio.limits.pixels)
        opened, manifest = Archive.open(staging)
        try:
            opened.verify(manifest.versions)
        finally:
            opened.close()
        home.adopt(staging, entry.folder)
    except ArchiveError as error:
        raise Problem(
            415, f"the archive holds no session that can be trusted: {_without_path(error, staging)}"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unzip(file: IO[bytes], folder: Path, limit: int) -> None:
    try:
        with zipfile.ZipFile(file) as opened:
            members = opened.infolist()
            _check(members, limit)
            for member in members:
                target = folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, target.open("xb") as kept:
                    shutil.copyfileobj(source, kept, CHUNK)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise Problem(415, "that is no archive of a session, or it is damaged") from error


def _check(members: list[zipfile.ZipInfo], limit: int) -> None:
    """Problem 415 unless all that is inside are plain files of a session folder, 413 for too much of it."""
    names = [member.filename for member in members]
    if len(names) > MOST or len(set(names)) != len(names) or MANIFEST not in names:
        raise Problem(415, "that is no archive of a session")
    for member in members:
        plain = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
        if not MEMBER.fullmatch(member.filename) or not plain or member.flag_bits & 1:
            raise Problem(415, "the archive holds what no session holds")
    if sum(member.file_size for member in members) > limit:
        raise Problem(413, f"the archive holds more than {limit} bytes")
    if next(member.file_size for member in members if member.filename == MANIFEST) > MAX_BYTES:
        raise Problem(413, "the archive's manifest is too large")


def _check_canvas(settings: Mapping[str, Any], most: int) -> None:
    """Problem 415 for viewports, which no archive has; 413 for more pixels than the model should see at once."""
    if settings.get("views"):
        raise Problem(415, "the archive says that it holds viewports, and it holds none")
    if math.prod(settings.get("viewport", (1, 1))) > most:
        raise Problem(413, f"the archive has viewports of more than {most:,} pixels")


def _without_path(error: Exception, folder: Path) -> str:
    return str(error).replace(f"{folder}/", "").replace(str(folder), "it")
