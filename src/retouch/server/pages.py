"""The page: files of this package, served by name from a list, compressed, checked anew on every visit."""

from __future__ import annotations

import gzip
import hashlib
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from fastapi.responses import Response

from retouch.server.problems import Problem

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


@lru_cache(maxsize=256)
def _prepared(content: bytes) -> tuple[str, bytes]:
    """An entity tag and the compressed content."""
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"', gzip.compress(content, 6, mtime=0)


@router.get("/")
def index(request: Request) -> Response:
    """The page."""
    return static(INDEX, request)


@router.get("/static/{name:path}")
def static(name: str, request: Request) -> Response:
    """A file of the page."""
    if name not in FILES:
        raise Problem(404, "the page has no such file")
    content = FILES[name].read_bytes()
    tag, packed = _prepared(content)
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    if _suffix(name) in PACKED and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        content = packed
    return Response(content, headers=headers, media_type=TYPES[_suffix(name)])
