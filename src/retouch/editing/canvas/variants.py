"""One edit of a canvas with several seeds, computed together in one viewport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from retouch.editing.canvas.drawing import Composed
from retouch.editing.canvas.picture import Patch
from retouch.editing.canvas.planner import Plan
from retouch.editing.canvas.request import Request
from retouch.editing.canvas.resample import Scaling
from retouch.editing.canvas.view import View
from retouch.editing.choice import Choice
from retouch.editing.version import Edited, Version


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
    made: Choice[Any, Edited]
    rectangle: tuple[int, int, int, int]
    seconds: dict[str, float]


class Alternatives(Choice[Alternative, Composed]):
    """Variants of one edit of a canvas; their pictures are of the rectangle of the edit.

    rectangle: left, top, right and bottom of what they show.
    """

    def __init__(self, canvas: Any, source: Source, made: Sequence[Alternative]) -> None:
        super().__init__(canvas, made)
        self.source, self.rectangle = source, source.rectangle
