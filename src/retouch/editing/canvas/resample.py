"""Boxes of a picture at the scale and size that a model takes, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from retouch.editing.images import Box, ImageError, Pixels, Strengths, check_same

Size = tuple[int, int]
"""Height and width."""
Enlarger = Callable[[Pixels], Pixels]
"""Pixels [h, w, 3] to those of a picture several times as large, by a whole number."""

LANCZOS = Image.Resampling.LANCZOS
LOBES = 3
"""Pixels of the larger grid on each side that Lanczos reads."""
SEEN = 16
"""Pixels that an enlarger sees around what is wanted, at least."""


def scaled(pixels: Pixels, size: Size) -> Pixels:
    """A picture [h, w, 3] at another size by Lanczos; at its own size as it is."""
    if pixels.shape[:2] == size:
        return pixels
    return np.array(Image.fromarray(pixels).resize(size[::-1], LANCZOS))


@dataclass(frozen=True)
class Scaling:
    """How a box of a picture is shown to a model: scaled to `inner`, and reflected around that to fill `size`.

    box: what is shown. inner: height and width that it is scaled to, `size` unless the picture has not enough around
    it. size: of what the model takes. Raises ImageError when `inner` does not fit.
    """

    box: Box
    inner: Size
    size: Size

    def __post_init__(self) -> None:
        if not all(0 < inner <= size for inner, size in zip(self.inner, self.size, strict=True)):
            raise ImageError(f"{self.inner[1]}x{self.inner[0]} pixels do not fit into {self.size[1]}x{self.size[0]}")

    @property
    def sides(self) -> Size:
        """Height and width of the box."""
        return self.box[0].stop - self.box[0].start, self.box[1].stop - self.box[1].start

    @property
    def scale(self) -> float:
        """Pixels of the model for one of the picture; above 1 it is enlarged."""
        return max(self.inner[0] / self.sides[0], self.inner[1] / self.sides[1])

    @property
    def window(self) -> Box:
        """Where `inner` lies in `size`: in the middle."""
        top, left = ((size - inner) // 2 for size, inner in zip(self.size, self.inner, strict=True))
        return slice(top, top + self.inner[0]), slice(left, left + self.inner[1])

    def shown(self, pixels: Pixels) -> Pixels:
        """The box's pixels [h, w, 3] as the model sees them, [H, W, 3]. ImageError for another size."""
        self._check(pixels, self.sides)
        return np.pad(scaled(pixels, self.inner), [*self._around, (0, 0)], "symmetric")

    def shown_mask(self, strengths: npt.NDArray[np.floating[Any] | np.bool_]) -> Strengths:
        """A mask [h, w] of the box from 0 to 1 at the model's size [H, W]: none of it is lost, and none reflected."""
        self._check(strengths, self.sides)
        image = Image.fromarray(np.asarray(strengths, np.float32))
        # Means of the pixels that each one covers: a mask never falls between the samples.
        found = np.asarray(image.resize(self.inner[::-1], Image.Resampling.BOX), np.float64)
        return np.pad(found.clip(0, 1), self._around)

    def returned(self, pixels: Pixels, part: Box | None = None, enlarger: Enlarger | None = None) -> Pixels:
        """What the model made, [H, W, 3], in pixels of the picture, [h, w, 3].

        part: of the picture, in the box; None: all of the box. enlarger: enlarges it first where the box has more
        pixels than the model saw, with `SEEN` around the part; None: Lanczos alone. ImageError for another size.
        """
        self._check(pixels, self.size)
        part = part or self.box
        rows, columns = (_along(*each) for each in zip(part, self.box, self.inner, strict=True))
        found = pixels[self.window][rows.seen, columns.seen]
        if self.inner == self.sides:
            return found[rows.exactly, columns.exactly].copy()
        times, wanted = 1, (part[0].stop - part[0].start, part[1].stop - part[1].start)
        if enlarger is not None and self.scale < 1:
            small, found = len(found), enlarger(np.ascontiguousarray(found))
            times = len(found) // small
        edges = times * columns.start, times * rows.start, times * columns.stop, times * rows.stop
        return np.array(Image.fromarray(found).resize(wanted[::-1], LANCZOS, edges))

    def _check(self, found: npt.NDArray[np.generic], size: Size) -> None:
        check_same(found, np.empty((*size, 0)), "pixels and viewport")

    @property
    def _around(self) -> list[tuple[int, int]]:
        return [(span.start, size - span.stop) for span, size in zip(self.window, self.size, strict=True)]


class _Along(NamedTuple):
    """Pixels of the model along one side: those that are read, and from where to where in them a part reaches."""

    seen: slice
    start: float
    stop: float

    @property
    def exactly(self) -> slice:
        return slice(int(self.start), int(self.stop))


def _along(part: slice, box: slice, inner: int) -> _Along:
    scale = inner / (box.stop - box.start)
    start, stop = (part.start - box.start) * scale, (part.stop - box.start) * scale
    around = SEEN + math.ceil(LOBES * scale)
    first = max(0, math.floor(start) - around)
    return _Along(slice(first, min(inner, math.ceil(stop) + around)), start - first, stop - first)
