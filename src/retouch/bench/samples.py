"""A fixed set of edits as people make them: strokes, pasted patches, erasures, text and dots on given pictures.

Everything is drawn as a source of colours and a coverage, whose size is then searched for the wanted number of
changed pixels. Letters look as the installed Pillow draws them; all else is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from retouch.editing.images import ImageError, Pixels
from retouch.plan.region import Mask

LEAST, MOST = 0.005, 0.30
"""Shares of a picture that edits change."""
TOLERANCE = 1.35
"""Factor by which the share of an edit may miss its target."""
THRESHOLD = 8
"""Grey levels; a pixel is changed if one of its channels differs by more."""
SMALLEST = 32
"""Pixels on the shorter side of a picture."""
UNIT = 16
"""Parts of a pixel in which the size of what is drawn is counted."""
ATTEMPTS = 40

COLOURS = np.frombuffer(
    bytes.fromhex("d62828 f77f00 fccd14 2a9d48 1e60d2 783caa 141414 fafafa ec6ea0 6e4628"), np.uint8
).reshape(-1, 3)
LETTERS = "ABCDEFGHKLMNPRSTUVXYZabdeghknopqrstuy"

Numbers = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

Layer = tuple[Bytes, Bytes]
"""Colours, [H, W, 3] or [3], and how far each pixel takes them on, [H, W] from 0 to 255."""
Drawing = Callable[[int], Layer]
"""What is drawn at a size."""


@dataclass(frozen=True, eq=False)
class SampleEdit:
    """Picture number `image` with one edit on it, [H, W, 3], and bool [H, W], exactly where they differ."""

    kind: str
    image: int
    pixels: Pixels
    mask: Mask

    @property
    def fraction(self) -> float:
        """Share of the picture that the edit changes."""
        return float(self.mask.mean())


def sample_edits(images: Sequence[Pixels], count: int = 100, seed: int = 0) -> list[SampleEdit]:
    """Edits of all kinds in turn, on the pictures [H, W, 3] in turn; the same for the same arguments.

    Of a larger `count` the first edits are the same. Raises ImageError for fewer than two pictures, for
    what is no picture or has a side below SMALLEST, and if an edit of its size cannot be made.
    """
    if len(images) < 2:
        raise ImageError(f"patches are pasted from other pictures: two are needed, not {len(images)}")
    for place, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < SMALLEST:
            raise ImageError(
                f"picture {place} is {image.dtype} {list(image.shape)}; "
                f"they are uint8 [H, W, 3], {SMALLEST} pixels or more a side"
            )
    return [_sample(images, index, seed) for index in range(count)]


def target_fraction(index: int) -> float:
    """The share of the picture that edit `index` is meant to change, from LEAST to what its kind has at most.

    Targets are spread evenly over their logarithm, for each kind.
    """
    turn, number = divmod(index, len(KINDS))
    kind = tuple(KINDS.values())[number]
    # Multiples of the golden ratio stay evenly spread, however many are taken.
    place = (turn * 0.6180339887498949 + (number + 0.5) / len(KINDS)) % 1
    return float(LEAST * (kind.most / LEAST) ** place)


def _sample(images: Sequence[Pixels], index: int, seed: int) -> SampleEdit:
    # One further in every pass over the pictures, so that each meets every kind.
    place = (index + index // len(images)) % len(images)
    name = tuple(KINDS)[index % len(KINDS)]
    kind, target = KINDS[name], target_fraction(index)
    rng = np.random.default_rng([seed, index])
    for attempt in range(ATTEMPTS):
        other = images[(place + 1 + int(rng.integers(len(images) - 1))) % len(images)]
        site = _Site(images[place], other, target, attempt, rng)
        layer = site.fitted(kind.drawing(site))
        pixels, mask = site.edited(layer)
        changed, covered = int(mask.sum()), int((layer[1] > 127).sum())
        if 1 / TOLERANCE < changed / (target * mask.size) < TOLERANCE and changed >= kind.effect * covered:
            return SampleEdit(name, place, pixels, mask)
    raise ImageError(f"no {name} was found that changes {target:.2%} of picture {place}")


@dataclass(frozen=True)
class _Site:
    """Where an edit is made: the picture, the one that patches come from, the target and the source of chance.

    What each kind of edit draws there does not depend on its size but for chance that was drawn before.
    """

    image: Pixels
    other: Pixels
    target: float
    attempt: int
    rng: np.random.Generator

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def edited(self, layer: Layer) -> tuple[Pixels, Mask]:
        """The picture under a layer, and where it changed; changes that are too small to count are not made."""
        colours, coverage = layer
        over = coverage[..., None].astype(np.int32)
        mixed = (self.image * (255 - over) + colours * over + 127) // 255
        mask = np.asarray((np.abs(mixed - self.image) > THRESHOLD).any(2))
        return np.where(mask[..., None], mixed, self.image).astype(np.uint8), mask

    def fitted(self, drawing: Drawing) -> Layer:
        """The drawing at the size at which the number of changed pixels is nearest to the target."""
        wanted = round(self.target * self.size[0] * self.size[1])

        def changed(size: int) -> int:
            return int(self.edited(drawing(size))[1].sum())

        low, high = 1, UNIT * max(self.image.shape)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if changed(middle) < wanted else (low, middle)
        return drawing(min((low, high), key=lambda size: abs(changed(size) - wanted)))

    # Kinds of edits

    def stroke(self) -> Drawing:
        """One smooth curve, about five times as long as it is thick."""
        centre = self.rng.random(2) * self.size
        return _brush(self._away_from([self._curve(centre, self._length(5))]), self._colour())

    def erasure(self) -> Drawing:
        """One to three curves of the background's colour over what is not background."""
        content = np.argwhere(_content(self.image))
        strokes = 1 + int(self.rng.integers(3))
        length = self._length(6, strokes)
        centres = content[self.rng.integers(len(content), size=strokes)].astype(np.float64)
        away = self._away_from([self._curve(centre, length) for centre in centres])
        # Where the background's colour cannot change enough, another one is taken.
        return _brush(away, _background(self.image) if self.attempt < ATTEMPTS // 2 else self._colour())

    def dots(self) -> Drawing:
        """Discs of similar sizes, more of them for larger targets."""
        discs = max(4, round(self.target * 400))
        centres = self.rng.random((discs, 2)) * self.size
        weights = 0.6 + 0.8 * self.rng.random(discs)
        rows, cols = _grid(self.size)
        nearest = np.full(self.size, np.inf)
        for (row, col), weight in zip(centres, weights, strict=True):
            np.minimum(nearest, ((rows - row) ** 2 + (cols - col) ** 2) / weight**2, out=nearest)
        return _brush(np.sqrt(nearest), self._colour())

    def paste(self) -> Drawing:
        """A rectangle or an ellipse of another picture, from around something in it."""
        limits = np.minimum(self.image.shape[:2], self.other.shape[:2])
        aspect = 0.6 + 0.8 * self.rng.random()
        content = np.argwhere(_content(self.other))
        taken = content[int(self.rng.integers(len(content)))]
        place = self.rng.random(2)
        ellipse = self.rng.random() < 0.5

        def draw(size: int) -> Layer:
            window = np.clip(np.rint(np.array([aspect, 1 / aspect]) * size / UNIT), 1, limits).astype(np.int64)
            top, left = np.rint(place * (self.size - window)).astype(np.int64)
            first, second = np.clip(taken - window // 2, 0, self.other.shape[:2] - window)
            here = np.s_[top : top + window[0], left : left + window[1]]
            colours, coverage = self.image.copy(), np.zeros(self.size, np.uint8)
            colours[here] = self.other[first : first + window[0], second : second + window[1]]
            coverage[here] = _ellipse(int(window[0]), int(window[1])) if ellipse else 255
            return colours, coverage

        return draw

    def text(self) -> Drawing:
        """Two to four letters, in two lines if they are to be large."""
        length = 2 + int(self.rng.integers(3))
        lines = ["".join(LETTERS[i] for i in self.rng.integers(len(LETTERS), size=length)) for _ in range(2)]
        text = "\n".join(lines if self.target > 0.03 else lines[:1])
        place, colour = self.rng.random(2), self._colour()

        def draw(size: int) -> Layer:
            sheet = Image.new("L", self.size[::-1])
            pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size / UNIT)
            left, top, right, bottom = pen.multiline_textbbox((0, 0), text, font)
            room = np.array([self.size[1] - (right - left), self.size[0] - (bottom - top)])
            x, y = np.rint(place[::-1] * np.maximum(room, 0)) - (left, top)
            pen.multiline_text((float(x), float(y)), text, fill=255, font=font)
            return colour, np.array(sheet)

        return draw

    # What they are drawn of

    def _colour(self) -> Bytes:
        colour: Bytes = COLOURS[int(self.rng.integers(len(COLOURS)))]
        return colour

    def _length(self, times: int, strokes: int = 1) -> float:
        """Of each of so many strokes that change the target, so many times as long as they are thick."""
        height, width = self.size
        return math.sqrt(times * (self.target * height * width) / strokes)

    def _curve(self, centre: Numbers, length: float) -> Numbers:
        """Points [n, 2] of a winding curve through five points about a centre, moved into the picture."""
        along = self.rng.random(2) - 0.5
        along /= max(math.sqrt(along[0] * along[0] + along[1] * along[1]), 1e-6)
        across = along[::-1] * (1, -1)
        steps = np.arange(-2, 3)[:, None] * (length / 4)
        swings = (self.rng.random(5)[:, None] - 0.5) * (length / 3)
        knots = centre + steps * along + swings * across
        knots -= np.minimum(knots.min(0), 0)
        knots -= np.maximum(knots.max(0) - self.size, 0)
        knots = np.pad(np.clip(knots, 0, self.size), ((1, 1), (0, 0)), "edge")
        # Catmull-Rom curves between neighbours, 8 points each.
        t = np.arange(8)[:, None] / 7
        pieces = [
            b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * b - a - 3 * c + d)))
            for a, b, c, d in zip(knots, knots[1:], knots[2:], knots[3:], strict=False)
        ]
        return np.concatenate(pieces)

    def _away_from(self, curves: Sequence[Numbers]) -> Numbers:
        """Pixels from every centre [H, W] to the nearest of the curves, each points [n, 2] joined by lines."""
        rows, cols = _grid(self.size)
        nearest = np.full(self.size, np.inf)
        for (row, col), (row_end, col_end) in (line for curve in curves for line in pairwise(curve)):
            down, right = row_end - row, col_end - col
            squared = max(down * down + right * right, 1e-12)
            share = np.clip(((rows - row) * down + (cols - col) * right) / squared, 0, 1)
            away = (rows - row - share * down) ** 2 + (cols - col - share * right) ** 2
            np.minimum(nearest, away, out=nearest)
        root: Numbers = np.sqrt(nearest)
        return root


class _Kind(NamedTuple):
    """How a kind of edit is drawn, the largest share it is meant to change, and the least share of the pixels it
    covers that must change: otherwise it is drawn anew in another colour.
    """

    drawing: Callable[[_Site], Drawing]
    most: float
    effect: float


KINDS = {
    "stroke": _Kind(_Site.stroke, MOST, 0.6),
    "paste": _Kind(_Site.paste, MOST, 0.3),
    "erasure": _Kind(_Site.erasure, MOST, 0.3),
    # More of a picture is not covered by a few letters, nor by small discs.
    "text": _Kind(_Site.text, 0.12, 0.6),
    "dots": _Kind(_Site.dots, 0.20, 0.6),
}


def _brush(distance: Numbers, colour: Bytes) -> Drawing:
    """All that is nearer than a radius, with smooth edges."""
    return lambda size: (colour, _smooth(size / UNIT - distance))


def _ellipse(height: int, width: int) -> Bytes:
    """The coverage of the ellipse that fills a window."""
    rows, cols = _grid((height, width))
    away = np.sqrt(((2 * rows - height) / height) ** 2 + ((2 * cols - width) / width) ** 2)
    return _smooth((1 - away) * min(height, width) / 2)


def _smooth(inside: Numbers) -> Bytes:
    """The coverage of pixels whose centres lie so far inside an edge."""
    # Half a pixel wide, so that the thinnest strokes still have their colour.
    return np.rint(np.clip(2 * inside + 0.5, 0, 1) * 255).astype(np.uint8)


def _grid(size: tuple[int, int]) -> tuple[Numbers, Numbers]:
    """The centres of pixels, [H, 1] and [1, W]."""
    rows, cols = (np.arange(side, dtype=np.float64) + 0.5 for side in size)
    return rows[:, None], cols[None]


def _background(image: Pixels) -> Bytes:
    """The most frequent colour of the border."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    colours, counts = np.unique(border, axis=0, return_counts=True)
    colour: Bytes = colours[counts.argmax()]
    return colour


def _content(image: Pixels) -> Mask:
    """Where the picture [H, W, 3] is not its background; everywhere if it is nothing else."""
    content = np.asarray((np.abs(image.astype(np.int16) - _background(image)) > THRESHOLD).any(2))
    return content if content.any() else ~content
