"""One edit of a canvas with several seeds, computed together in one viewport."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from retouch.editing.canvas.drawing import Composed
from retouch.editing.canvas.picture import Patch
from retouch.editing.canvas.planner import Plan
from retouch.editing.canvas.request import Request
from retouch.editing.canvas.resample import Scaling
from retouch.editing.canvas.view import Variants, View
from retouch.editing.session import Edited, Version
from retouch.errors import OptionError


@dataclass(frozen=True, eq=False)
class Alternative:
    """What an edit makes with one seed.

    image: what the canvas would show in the rectangle of the edit. patch: what makes it that. edited: what the session
    of the viewport says.
    """

    seed: int
    image: Image.Image
    patch: Patch
    edited: Edited


@dataclass(frozen=True, eq=False)
class Source:
    """What alternatives were made of: the version of the canvas, the request, how it was planned, where it was made."""

    base: Version
    request: Request
    plan: Plan
    viewport: Scaling
    view: View
    made: Variants
    rectangle: tuple[int, int, int, int]
    seconds: dict[str, float]


class Chooses(Protocol):
    """A canvas that can take one of its alternatives."""

    def choose(self, found: Alternatives, number: int) -> Composed:
        """Make it a version."""


class Alternatives:
    """Variants of one edit, to look at and choose from; they hold what they computed until they are dropped.

    rectangle: left, top, right and bottom of what they show. chosen: the number of the version of the canvas that one
    of them has become last, None before.
    """

    def __init__(self, canvas: Chooses, source: Source, made: Sequence[Alternative]) -> None:
        self.canvas, self.source, self._made = canvas, source, tuple(made)
        self.chosen: int | None = None

    def __len__(self) -> int:
        return len(self._made)

    def __iter__(self) -> Iterator[Alternative]:
        return iter(self._made)

    def __getitem__(self, number: int) -> Alternative:
        """One of them; OptionError when there is none of that number."""
        if not 0 <= number < len(self):
            raise OptionError(f"there is no variant {number}; they are 0 to {len(self) - 1}")
        return self._made[number]

    @property
    def rectangle(self) -> tuple[int, int, int, int]:
        """What they show of the canvas."""
        return self.source.rectangle

    @property
    def images(self) -> list[Image.Image]:
        """Their pictures, of the rectangle."""
        return [each.image for each in self]

    @property
    def seeds(self) -> list[int]:
        """Their seeds; the first is the canvas's own."""
        return [each.seed for each in self]

    def choose(self, number: int) -> Composed:
        """Make one the canvas's version; see `Canvas.choose`."""
        return self.canvas.choose(self, number)
