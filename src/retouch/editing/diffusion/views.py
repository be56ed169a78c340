"""Edits of regions that are larger than a session: sessions as overlapping views of one picture, denoised together.

Each view computes its part of the region from its own recordings. Where views overlap they go on with the same latents
after every step (see `lockstep`). Their decoded pixels are mixed likewise, and set into the picture as one: nothing
comes of the border of a view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image
from torch import Tensor

from retouch.editing.archive import Progress, silent
from retouch.editing.blend import blend
from retouch.editing.diffusion.asked import Asked
from retouch.editing.diffusion.change import Change
from retouch.editing.diffusion.contents import Redrawn
from retouch.editing.diffusion.lockstep import Shared, agreed, together
from retouch.editing.diffusion.session import Begun, DiffusionSession
from retouch.editing.images import Box, Pixels
from retouch.editing.jobs import Frames
from retouch.editing.version import Edited
from retouch.errors import OptionError
from retouch.plan.region import Region


@dataclass(frozen=True, eq=False)
class View:
    """A session as a view of a larger picture.

    left, top: where its corner lies in that, in pixels. asked: its part of an edit, of the size of its own picture.
    frames: what is told of its steps, as previews of that.
    """

    session: DiffusionSession
    left: int
    top: int
    asked: Asked
    frames: Frames | None = None


@dataclass(frozen=True, eq=False)
class Mosaic:
    """What views show together, from `left`, `top` on and black where there is no view; what came of each."""

    image: Image.Image
    left: int
    top: int
    edits: tuple[Edited, ...]


@dataclass(frozen=True, eq=False)
class _Part:
    """What an edit comes to in a session, whose picture is the rectangle `box` of the larger one."""

    session: DiffusionSession
    box: Box
    change: Change
    frames: Frames | None


def redrawn_together(views: Sequence[View], progress: Progress = silent) -> Mosaic:
    """One edit in several sessions, each of which gets a version of it; views that see nothing of it stay as they are.

    Views should show the same where they overlap, and do so afterwards inside the region. A view alone makes what
    `DiffusionSession.edit` makes, bit for bit.

    Raises OptionError for no views, for a session twice, for views that differ in model, schedule, words or blend, and
    for corners that lie between the positions of a latent; and what `edit` raises. All sessions are then as before, and
    so they are when this is interrupted.
    """
    sessions = {view.session for view in views}
    if not views or len(sessions) < len(views):
        raise OptionError(f"{len(views)} views of {len(sessions)} sessions; give at least one, and no session twice")
    left, top = min(view.left for view in views), min(view.top for view in views)
    with _held(sessions):
        parts = [_part(view, left, top) for view in views]
        _check(parts)
        picture = _shown(parts)
        edited = [part for part in parts if part.change.mask.any()]
        found = {part: Edited(part.session.image, Region.from_mask(part.change.mask), {}) for part in parts}
        if edited:
            picture, made = _redrawn(edited, picture, progress)
            found |= zip(edited, made, strict=True)
    return Mosaic(Image.fromarray(picture), left, top, tuple(found.values()))


@contextmanager
def _held(sessions: set[DiffusionSession]) -> Iterator[None]:
    """All of them locked, in an order that is the same for all threads."""
    for session in sessions:
        session.wait_until_open()
    with ExitStack() as locks:
        for session in sorted(sessions, key=id):
            locks.enter_context(session.lock)
        yield


def _part(view: View, left: int, top: int) -> _Part:
    (height, width), y, x = view.session.size, view.top - top, view.left - left
    return _Part(
        view.session, (slice(y, y + height), slice(x, x + width)), view.session.change(view.asked), view.frames
    )


def _check(parts: Sequence[_Part]) -> None:
    """OptionError unless the sessions are views of one picture and their changes parts of one edit."""
    factor = parts[0].session.model.factor
    for part in parts:
        y, x = (side.start for side in part.box)
        if y % factor or x % factor:
            raise OptionError(f"a view lies at {x}, {y} from the first corner; those are multiples of {factor} pixels")
        for what, own, first in zip(_COMMON, _common(part), _common(parts[0]), strict=True):
            if own != first:
                raise OptionError(f"views of one picture have one {what}; of these there are {first} and {own}")


_COMMON = "editor", "scheduler", "number of steps", "guidance", "prompt, negative prompt and class", "blend"


def _common(part: _Part) -> tuple[object, ...]:
    session, settings = part.session, part.session.settings
    asked, blend = part.change.conditioning.asked, part.change.blend
    return id(session.model), settings["scheduler"], settings["steps"], settings["guidance"], asked, blend


def _shown(parts: Sequence[_Part]) -> Pixels:
    """The picture of all views; where they differ, that of the first."""
    height, width = (max(part.box[axis].stop for part in parts) for axis in (0, 1))
    picture = np.zeros((height, width, 3), np.uint8)
    for part in reversed(parts):
        picture[part.box] = part.session.pixels
    return picture


def _redrawn(parts: Sequence[_Part], picture: Pixels, progress: Progress) -> tuple[Pixels, list[Edited]]:
    """The edit of the picture [H, W, 3] that views show, made; what came of it in each."""
    told = [progress, *[silent] * (len(parts) - 1)]
    with ExitStack() as making:
        begun = [
            making.enter_context(part.session.begun(part.change, each, part.frames))
            for part, each in zip(parts, told, strict=True)
        ]
        found = together([each.redraw.stages() for each in begun], partial(_agree, parts))
        drawn, mask = picture.copy(), np.zeros(picture.shape[:2], np.bool_)
        for part, each in zip(parts, found, strict=True):
            drawn[part.box] = each.pixels
            mask[part.box] |= part.change.mask
        border, method = parts[0].session.border, parts[0].change.blend
        drawn = blend(picture, drawn, mask, border, method)
        near = Region.from_mask(mask).dilated(border).mask[0, ..., None]
        found = [
            replace(each, pixels=np.where(near[part.box], drawn[part.box], part.session.pixels))
            for part, each in zip(parts, found, strict=True)
        ]
        return drawn, _kept(begun, found)


def _agree(parts: Sequence[_Part], numbers: Sequence[int], shared: list[Shared]) -> list[Tensor]:
    """What the views of these numbers go on with."""
    places = []
    for number, each in zip(numbers, shared, strict=True):
        pixels = parts[number].session.size[0] // each.values.shape[2]
        y, x = (side.start // pixels for side in parts[number].box)
        places.append((y, x))
    return agreed(shared, places)


def _kept(begun: Sequence[Begun], found: Sequence[Redrawn]) -> list[Edited]:
    """All results as versions, or none."""
    try:
        return [each.keep(result) for each, result in zip(begun, found, strict=True)]
    except BaseException:
        for each in begun:
            each.take_back()
        raise
