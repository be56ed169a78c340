"""What is asked of an edit of a canvas, apart from the picture that it will be made on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from retouch.editing.area import Area, AreasLike
from retouch.editing.canvas.files import strips
from retouch.editing.canvas.picture import Picture
from retouch.editing.canvas.resample import Size
from retouch.editing.canvas.viewport import common, hull, inside, moved, sides
from retouch.editing.images import Box, ImageLike, Pixels, as_strengths, box_of, check_same, difference
from retouch.errors import OptionError
from retouch.plan.region import Mask

Bounds = Box | tuple[int, int, int, int]
"""Rows and columns, or left, top, right and bottom, the last two beyond it."""


class Options(TypedDict, total=False):
    """What an edit takes as `DiffusionSession.edit` does; None: as the canvas has it."""

    prompt: str | None
    negative: str | None
    class_label: int | None
    strength: float | None
    max_error: float | None
    blend: str | None
    areas: AreasLike


Shares = npt.NDArray[np.float32]
"""Strengths [h, w] from 0 to 1."""
Worded = tuple[Shares, str, str | None]
"""Where an area is, its prompt, and its negative prompt (None: that of the rest)."""


@dataclass(frozen=True, eq=False)
class Request:
    """An edit of what is in a box of a canvas.

    strengths: [h, w], shares of the strength by pixel, 0 where nothing is edited. pixels: uint8 [h, w, 3], of
    which `drawn` [h, w] are strokes. options: of a session's `edit`, those that are given; inpaint: it is `inpaint`.
    areas: strengths [h, w] by the words that they have of their own.
    """

    box: Box
    strengths: Shares
    pixels: Pixels
    drawn: Mask
    options: Mapping[str, Any]
    inpaint: bool = False
    areas: tuple[Worded, ...] = ()

    @property
    def mask(self) -> Mask:
        """The pixels that are edited."""
        found: Mask = self.strengths > 0
        return found

    def on(self, picture: Pixels) -> Pixels:
        """What is in the box, [h, w, 3], with the strokes on it."""
        strokes: Pixels = np.where(self.drawn[..., None], self.pixels, picture)
        return strokes

    def within(self, box: Box) -> Request:
        """What another box has of it, which is nothing around its own."""
        strengths, pixels, drawn = (self._wider(found, box) for found in (self.strengths, self.pixels, self.drawn))
        areas = tuple((self._wider(where, box), prompt, negative) for where, prompt, negative in self.areas)
        return replace(self, box=box, strengths=strengths, pixels=pixels, drawn=drawn, areas=areas)

    def mask_in(self, box: Box) -> Mask:
        """The mask as another box has it."""
        return self._wider(self.mask, box)

    def _wider(self, found: Any, box: Box) -> npt.NDArray[Any]:
        both, wide = common(self.box, box), np.zeros((*sides(box), *found.shape[2:]), found.dtype)
        if both is not None:
            wide[inside(both, box)] = found[inside(both, self.box)]
        return wide

    def over(self, older: Request) -> Request | None:
        """These strokes over older ones, in both regions; words and options of this where they are given.

        None where one fills and the other redraws.
        """
        if self.inpaint != older.inpaint:
            return None
        box = hull(self.box, older.box)
        new, old = self.within(box), older.within(box)
        return replace(
            new,
            strengths=np.maximum(new.strengths, old.strengths),
            pixels=new.on(old.pixels),
            drawn=new.drawn | old.drawn,
            options={**old.options, **new.options},
            areas=(*old.areas, *new.areas),
        )


def bounded(given: Bounds | None, picture: Picture) -> Box:
    """A box as rows and columns; None: that of the whole picture. ImageError unless it lies inside."""
    if given is None:
        return slice(0, picture.size[0]), slice(0, picture.size[1])
    if len(given) == 4:
        left, top, right, bottom = given
        given = slice(top, bottom), slice(left, right)
    picture.check_box(given)
    return given


def read(
    picture: Picture,
    image: ImageLike | None,
    mask: ImageLike | None,
    bounds: Bounds | None,
    threshold: int,
    options: Mapping[str, Any],
    inpaint: bool = False,
    areas: AreasLike = (),
) -> Request | None:
    """What an edit asks of a picture; None: nothing.

    image, mask, and masks of areas: of the whole picture, or of what `bounds` says. threshold: grey levels; where the
    image differs by no more, it counts as not edited.

    Raises ImageError for what cannot be read, for other sizes and bounds outside; OptionError without image, mask and
    areas, and for a threshold below 0.
    """
    if image is None and mask is None and not areas:
        raise OptionError("on a canvas say where: draw, or give a mask or areas")
    within = bounded(bounds, picture)
    given = None if image is None else Picture.read(image)
    size = sides(within)
    if given is not None:
        check_same(given.levels, np.empty((*size, 0)), "image and canvas" if bounds is None else "image and box")
    worded = [(_strengths(area.mask, size), area.prompt, area.negative) for area in map(Area.of, areas)]
    if mask is not None:
        strengths = _strengths(mask, size)
    else:
        strengths = np.zeros(size, np.float32)
        if given is not None:
            strengths[_changed(picture, within, given, threshold)] = 1
        for where, *_ in worded:
            strengths = np.where(where, where, strengths)
    changed = strengths > 0
    if not changed.any():
        return None
    tight = box_of(changed)
    box = moved(tight, within[0].start, within[1].start)
    pixels = picture.seen(box)
    drawn = np.zeros(pixels.shape[:2], np.bool_)
    if given is not None:
        new = given.seen(tight)
        drawn, pixels = difference(pixels, new, 0) & changed[tight], new
    parts = [(where[tight] * changed[tight], prompt, negative) for where, prompt, negative in worded]
    seen = tuple(part for part in parts if part[0].any())
    return Request(box, strengths[tight].copy(), pixels, drawn, options, inpaint, seen)


def _strengths(mask: ImageLike, size: Size) -> Shares:
    return as_strengths(mask, size).astype(np.float32)


def _changed(picture: Picture, within: Box, given: Picture, threshold: int) -> Mask:
    """Where an image differs from what a box holds; never a copy of all of it."""
    found = np.zeros(given.size, np.bool_)
    for rows in strips(given.size):
        part = rows, slice(0, given.size[1])
        found[rows] = difference(
            picture.seen(moved(part, within[0].start, within[1].start)), given.seen(part), threshold
        )
    return found
