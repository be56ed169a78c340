"""Between the canvas and a viewport: what a model is shown of a request, and what is set in of what it made."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from retouch.editing.area import Area
from retouch.editing.blend import distance
from retouch.editing.canvas.picture import Patch, Picture
from retouch.editing.canvas.request import Request
from retouch.editing.canvas.resample import Enlarger, Scaling
from retouch.editing.canvas.viewport import grown, sides
from retouch.editing.images import Box, Pixels, Strengths
from retouch.plan.region import Mask


@dataclass(frozen=True, eq=False)
class Shown:
    """A request as a viewport sees it: strokes on what it shows [H, W, 3] (None: none), a mask [H, W], and areas."""

    image: Pixels | None
    mask: Strengths | Mask
    areas: tuple[Area, ...]


def shown(request: Request, viewport: Scaling, picture: Picture, current: Pixels) -> Shown:
    """A request as a viewport sees it that shows `current` [H, W, 3]."""
    wide = request.within(viewport.box)
    grey = (request.strengths[request.mask] < 1).any()
    mask = viewport.shown_mask(wide.strengths) if grey else viewport.shown_mask(wide.mask) > 0
    areas = tuple(
        Area(viewport.shown_mask(where), prompt, negative) for where, prompt, negative in wide.areas if where.any()
    )
    if not request.drawn.any():
        return Shown(None, mask, areas)
    drawn = viewport.shown_mask(wide.drawn) > 0
    strokes = viewport.shown(wide.on(picture.seen(viewport.box)))
    return Shown(np.where(drawn[..., None], strokes, current), mask, areas)


def region_of(request: Request, viewport: Scaling, border: int) -> tuple[Box, int]:
    """What an edit may change of the canvas, and by how many of its pixels that is more than its mask.

    border: pixels of the model.
    """
    by = math.ceil(border / viewport.scale)
    return grown(request.box, by, viewport.box), by


def set_in(
    request: Request, viewport: Scaling, pixels: Pixels, picture: Picture, border: int, enlarger: Enlarger | None
) -> Patch:
    """Set what a viewport shows [H, W, 3] into a picture, where a request may change it.

    Sessions have blended it already. At another scale all of it went through resampling, so the difference that this
    makes fades over the border, too.
    """
    box, by = region_of(request, viewport, border)
    height, mask = sides(box)[0], request.mask_in(box)

    def made(rows: slice) -> tuple[Pixels, Strengths | Mask]:
        near = slice(max(0, rows.start - by), min(height, rows.stop + by))
        away = distance(mask[near], by + 1)[rows.start - near.start : rows.stop - near.start]
        weights = away <= by if viewport.scale == 1 else (1 - away / (by + 1)).clip(0)
        part = slice(box[0].start + rows.start, box[0].start + rows.stop), box[1]
        return viewport.returned(pixels, part, enlarger), weights

    whole = enlarger is not None and viewport.scale < 1  # it sees further than parts that are made one by one
    return picture.put_parts(box, made, height if whole else 2 * by)
