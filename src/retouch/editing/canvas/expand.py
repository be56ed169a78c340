"""Borders that a picture does not have yet, filled with a first guess for a model to draw over."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from retouch.editing.canvas.files import MAX_PIXELS, Levels
from retouch.editing.canvas.picture import Picture
from retouch.editing.images import Box, ImageError

SHARP = 2
"""Pixels from the edge up to which a guess is as sharp as what it mirrors. The blur grows with the distance: far away
colours go on, and things are not there twice.
"""


def expanded(picture: Picture, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> tuple[Picture, Box]:
    """A new picture with so many more pixels on each side, and the box of the old one in it, kept bit for bit.

    What is new mirrors what is inside, so that edges go on, and is the more blurred the further away it is. It is
    opaque. Raises ImageError for negative numbers, none at all, and more than 100 megapixels.
    """
    sides = (left, top, right, bottom)
    height, width = picture.size[0] + top + bottom, picture.size[1] + left + right
    if min(sides) < 0 or not any(sides):
        raise ImageError(f"a picture is expanded by pixels of which none are below and some above 0, not {sides}")
    if height * width > MAX_PIXELS:
        raise ImageError(f"it would be {width}x{height}, more than {MAX_PIXELS} pixels")
    levels = np.empty((height, width, picture.levels.shape[2]), picture.levels.dtype)
    old = slice(top, top + picture.size[0]), slice(left, left + picture.size[1])
    levels[old] = picture.levels
    # Columns first, then rows over these: corners are guessed from what is already there.
    _fill(levels[old[0]].swapaxes(0, 1), old[1])
    _fill(levels, old[0])
    return Picture(levels, picture.icc, picture.exif), old


def _fill(levels: Levels, known: slice) -> None:
    """Guess the rows before and after the known ones, in place."""
    for side, edge in ((levels[known.stop :], levels[: known.stop][::-1]),
                       (levels[: known.start][::-1], levels[known.start :])):  # fmt: skip
        if len(side):
            mirrored = _mirrored(edge[: known.stop - known.start], len(side))
            for channel in range(3):
                side[..., channel] = _blurred(mirrored[..., channel])
            side[..., 3:] = np.iinfo(levels.dtype).max


def _mirrored(edge: Levels, count: int) -> Levels:
    """So many rows that mirror those from an edge on, there and back."""
    length = len(edge)
    place = np.arange(count) % (2 * length)
    return edge[np.minimum(place, 2 * length - 1 - place)]


def _blurred(plane: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Rows [n, W], each as a mean over about half its distance from the first: levels of a pyramid, mixed."""
    away = np.arange(len(plane), dtype=np.float32)
    wanted = np.log2(np.maximum(away / SHARP, 1))[:, None]
    sharp = np.asarray(plane, np.float32)
    found = sharp * (1 - wanted).clip(0)
    for level in range(1, int(wanted.max()) + 2):
        small = Image.fromarray(sharp).reduce(2**level)
        smooth = np.asarray(small.resize(sharp.shape[::-1], Image.Resampling.BILINEAR))
        found += smooth * (1 - np.abs(wanted - level)).clip(0)
    rounded: npt.NDArray[np.float32] = np.rint(found).clip(0, np.iinfo(plane.dtype).max)
    return rounded
