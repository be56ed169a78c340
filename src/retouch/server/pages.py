"""The page: files of this package, served by name from a list, compressed, checked anew on every visit.

They are read once: whoever changes one starts the server again.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from fastapi.responses import Response

from retouch.server.problems import Problem
from retouch.server.script import joined

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
PACKED = (".html", ".js", ".css", ".svg", ".json", ".webmanifest")
INDEX = "index.html"
SCRIPTS, APP = "js/{}.js", "app"
SCRIPT = SCRIPTS.format(APP)

router = APIRouter(include_in_schema=False)


def _listed(folder: Traversable, above: str = "") -> dict[str, Traversable]:
    found: dict[str, Traversable] = {}
    for each in folder.iterdir():
        name = above + each.name
        if each.is_dir():
            found |= _listed(each, f"{name}/")
        elif _suffix(name) in TYPES:
            found[name] = each
    return found


def _suffix(name: str) -> str:
    return name[name.rfind(".") :] if "." in name else ""


FILES = _listed(files("retouch.server") / "static")
"""What is served, by name; nothing else of the machine can be named."""


def prepare() -> None:
    """Make ready what the page asks for, which the first visitor would wait for: its modules come as one script."""
    for name in FILES:
        if name == SCRIPT or _suffix(name) != ".js":
            prepared(name)


@dataclass(frozen=True)
class Prepared:
    """A file as it is sent: an entity tag, its content, and that compressed, where this makes it smaller."""

    tag: str
    content: bytes
    packed: bytes | None


@cache
def prepared(name: str) -> Prepared:
    """A file of `FILES`; the page's script comes with all that it imports."""
    content = _content(name)
    tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
    return Prepared(tag, content, gzip.compress(content, mtime=0) if _suffix(name) in PACKED else None)


def _content(name: str) -> bytes:
    if name != SCRIPT:
        return FILES[name].read_bytes()
    return joined(APP, lambda module: FILES[SCRIPTS.format(module)].read_text("utf-8")).encode()


@router.get("/")
def index(request: Request) -> Response:
    """The page."""
    return static(INDEX, request)


@router.get("/static/{name:path}")
def static(name: str, request: Request) -> Response:
    """A file of the page."""
    if name not in FILES:
        raise Problem(404, "the page has no such file")
    file = prepared(name)
    headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    content = file.content
    if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        content = file.packed
    return Response(content, headers=headers, media_type=TYPES[_suffix(name)])
