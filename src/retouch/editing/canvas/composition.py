"""Between the canvas and a viewport: what a model is shown of a request, and what is set in of what it made."""

from __future__ import annotations

import math

import numpy as np

from retouch.editing.blend import distance
from retouch.editing.canvas.picture import Patch, Picture
from retouch.editing.canvas.request import Request
from retouch.editing.canvas.resample import Enlarger, Scaling
from retouch.editing.canvas.viewport import grown
from retouch.editing.images import Box, Pixels, Strengths
from retouch.plan.region import Mask


def shown(
    request: Request, viewport: Scaling, picture: Picture, current: Pixels
) -> tuple[Pixels | None, Strengths | Mask]:
    """A request as a viewport sees it that shows `current` [H, W, 3]: strokes on that (None: none), and a mask."""
    wide = request.within(viewport.box)
    grey = (request.strengths[request.mask] < 1).any()
    mask = viewport.shown_mask(wide.strengths) if grey else viewport.shown_mask(wide.mask) > 0
    if not request.drawn.any():
        return None, mask
    drawn = viewport.shown_mask(wide.drawn) > 0
    strokes = viewport.shown(wide.on(picture.seen(viewport.box)))
    return np.where(drawn[..., None], strokes, current), mask


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
    away = distance(request.within(box).mask, by + 1)
    weights = away <= by if viewport.scale == 1 else (1 - away / (by + 1)).clip(0)
    return picture.put(box, viewport.returned(pixels, box, enlarger), weights)
