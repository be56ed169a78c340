"""Messages with pixels: a header's length (u32, little-endian), the header as JSON, and the bytes of a rectangle.

Lossless ones are PNG, which the page decodes itself, as browsers alter what they decode; previews are WebP. Changes
go in as few pixels as some rectangles cover them with, a message for each; what is transparent there stays as it is.
All but the last name the version from before (none where the page had none, or one of another size), so a page that
receives a part of them knows that it is still to be brought to the new one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
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
STRIP = 1 << 20
"""Pixels of a message: what is larger goes in several, and is shown as it comes."""
LARGE = 1 << 18
"""Pixels from which a picture is compressed in a hurry."""


@dataclass(frozen=True, eq=False)
class Difference:
    """What brings a page from one version of a picture to another.

    since: the number of the version that it has; None: it has none. size: of the new picture (H, W). corner: left and
    top, in it, of `differs` [h, w], where both may differ, and of the new `pixels` [h, w, 3]. moved: left and top of
    the old picture in the new one, where that has another size.
    """

    since: int | None
    size: tuple[int, int]
    corner: tuple[int, int]
    differs: Mask
    pixels: Pixels
    moved: tuple[int, int] | None = None

    @staticmethod
    def between(old: tuple[int, Pixels] | None, new: Pixels) -> Difference:
        """From a version (its number and picture; None: none) to a picture [H, W, 3]."""
        size = new.shape[0], new.shape[1]
        if old is None or old[1].shape != new.shape:
            return Difference(None, size, (0, 0), np.ones(size, np.bool_), new)
        return Difference(old[0], size, (0, 0), (old[1] != new).any(2), new)

    def parts(self) -> Iterator[tuple[Rect, Pixels]]:
        """Rectangles of the new picture with their pixels, few that cover little; transparent ones [h, w, 4] where they
        are the old ones, if that saves some. One without pixels where nothing differs.
        """
        left, top = self.corner
        found = False
        for x0, y0, x1, y1 in _rectangles(self.differs) if self.differs.any() else ():
            for rows in _strips(y0, y1, x1 - x0):
                part = rows, slice(x0, x1)
                found = True
                yield (left + x0, top + rows.start, x1 - x0, rows.stop - rows.start), self._part(part)
        if not found:
            yield (0, 0, 0, 0), self.pixels[:0, :0]

    def _part(self, part: tuple[slice, slice]) -> Pixels:
        pixels, differs = self.pixels[part], self.differs[part][..., None]
        if differs.mean() > FULL:
            return pixels
        return np.concatenate([pixels * differs, np.uint8(255) * differs], 2)


def message(kind: Kind, version: int | None, rect: Rect, pixels: Pixels, job: int | None = None, **facts: Any) -> bytes:
    """One rectangle [height, width, 3 or 4] as bytes."""
    encoding = "webp" if kind == "preview" else "png"
    data = _encoded(pixels, encoding)
    header = {"kind": kind, "job": job, "version": version, "rect": list(rect), "encoding": encoding}
    text = json.dumps({**header, "bytes": len(data), **facts}).encode()
    return len(text).to_bytes(4, "little") + text + data


def messages(kind: Kind, difference: Difference, version: int, job: int | None = None, **facts: Any) -> Iterator[bytes]:
    """What brings a page to a version, as many messages as save pixels."""
    moved = difference.moved
    before = None if moved else difference.since
    first: dict[str, Any] = {} if before is not None else {"size": list(difference.size), "moved": moved}
    parts = difference.parts()
    rect, pixels = next(parts)
    for following in parts:
        yield message(kind, before, rect, pixels, **first)
        first, (rect, pixels) = {}, following
    yield message(kind, version, rect, pixels, job, **first, **facts)


def _strips(top: int, bottom: int, width: int) -> Iterator[slice]:
    """Rows of a rectangle, some at a time."""
    rows = max(1, STRIP // width)
    return (slice(start, min(start + rows, bottom)) for start in range(top, bottom, rows))


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
