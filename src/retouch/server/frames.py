"""Messages with pixels: a header's length (u32, little-endian), the header as JSON, and the bytes of a rectangle.

Lossless ones are PNG, which the page decodes itself, as browsers alter what they decode; previews are WebP. Changes
go in as few pixels as some rectangles cover them with, a message for each; what is transparent there stays as it is.
All but the last name the version and job from before, so a page that receives a part of them knows that it is still to
be brought to the new one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from PIL import Image

from retouch.editing.images import Pixels
from retouch.plan.region import Mask

Kind = Literal["preview", "result", "refined", "head", "picture"]
Rect = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""

TILE = 32
FULL = 7 / 8
"""Share of a rectangle from which all of its pixels are sent, also those that stay."""
PREVIEW_QUALITY = 70
LARGE = 1 << 18
"""Pixels from which a picture is compressed in a hurry."""


def message(kind: Kind, version: int, rect: Rect, pixels: Pixels, job: int | None = None, **facts: Any) -> bytes:
    """One rectangle [height, width, 3 or 4] as bytes."""
    encoding = "webp" if kind == "preview" else "png"
    header = {"kind": kind, "job": job, "version": version, "rect": list(rect), "encoding": encoding, **facts}
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "little") + text + _encoded(pixels, encoding)


def messages(
    kind: Kind, before: tuple[int, Pixels] | None, version: int, pixels: Pixels, job: int | None = None, **facts: Any
) -> list[bytes]:
    """What brings a page from one version (its number and picture; None: it has none) to another: one message for a
    head, else as many as save pixels.
    """
    number, old = before or (version, None)
    *others, last = changes(old, pixels, whole=kind == "head")
    parts = [message(kind, number, rect, _changed(old, rect, part)) for rect, part in others]
    rect, part = last
    return [*parts, message(kind, version, rect, _changed(old, rect, part), job, **facts)]


def _changed(old: Pixels | None, rect: Rect, part: Pixels) -> Pixels:
    """The new pixels of a rectangle, transparent where they are the old ones, if that saves some."""
    left, top, width, height = rect
    if old is None or not part.size or (before := old[top : top + height, left : left + width]).shape != part.shape:
        return part
    differs = (before != part).any(2, keepdims=True)
    if differs.mean() > FULL:
        return part
    return np.concatenate([part * differs, np.uint8(255) * differs], 2)


def changes(old: Pixels | None, new: Pixels, whole: bool = False) -> Iterator[tuple[Rect, Pixels]]:
    """The rectangles in which two pictures [H, W, 3] differ, with their new pixels: few that cover little, or with
    `whole` the one around all. All of it without an old picture, and no pixels where nothing differs.
    """
    height, width = new.shape[:2]
    if old is None or old.shape != new.shape:
        yield (0, 0, width, height), new
        return
    differs = (old != new).any(2)
    if not differs.any():
        yield (0, 0, 0, 0), new[:0, :0]
        return
    for left, top, right, bottom in [_tight(differs, 0, 0, width, height)] if whole else _rectangles(differs):
        yield (left, top, right - left, bottom - top), new[top:bottom, left:right]


def _rectangles(differs: Mask) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, right and bottom of boxes around runs of tiles that hold a difference, rows of equal runs joined."""
    height, width = differs.shape
    padded = np.pad(differs, ((0, -height % TILE), (0, -width % TILE)))
    down, across = padded.shape[0] // TILE, padded.shape[1] // TILE
    tiles: Mask = np.asarray(padded.reshape(down, TILE, across, TILE).any((1, 3)))
    open_: dict[tuple[int, int], int] = {}
    for row in range(tiles.shape[0] + 1):
        runs = set(_runs(tiles[row])) if row < tiles.shape[0] else set()
        for run in [run for run in open_ if run not in runs]:
            yield _tight(differs, run[0] * TILE, open_.pop(run) * TILE, run[1] * TILE, row * TILE)
        for run in runs:
            open_.setdefault(run, row)


def _runs(row: Mask) -> Iterator[tuple[int, int]]:
    """First and beyond-last places of neighbours that are set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(np.int8)))
    yield from ((int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True))


def _tight(differs: Mask, left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
    part = differs[top:bottom, left:right]
    columns, rows = np.flatnonzero(part.any(0)), np.flatnonzero(part.any(1))
    return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1


def _encoded(pixels: Pixels, encoding: str) -> bytes:
    """A file; nothing for no pixels."""
    file = io.BytesIO()
    if not pixels.size:
        return b""
    if encoding == "webp":
        Image.fromarray(pixels).save(file, "WEBP", quality=PREVIEW_QUALITY, method=0)
    else:
        level = 6 if pixels[..., 0].size < LARGE else 2
        Image.fromarray(pixels).save(file, "PNG", compress_level=level)
    return file.getvalue()
