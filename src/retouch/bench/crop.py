"""Crop and stitch, which editors do today: redraw a rectangle around the mask, paste it back through the mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.images import Pixels
from retouch.plan.region import Mask

GROWTH = 1.5
"""The rectangle's sides over those of the mask's bounding box: what is around an edit guides it."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, as Pillow counts them."""


def redrawn(session: DiffusionSession, pixels: Pixels) -> Pixels:
    """Dense image to image from the session's noise: with nothing outside the region, nothing is replaced."""
    everything = np.ones(session.size, np.bool_)
    return np.array(session.reference(pixels, mask=everything).image)


def of_session(session: DiffusionSession, edited: Pixels, mask: Mask) -> Pixels:
    """Crop and stitch in place of an edit of a session, from its picture and noise."""
    return crop_and_stitch(
        edited, session.pixels, mask, session.size, session.border, lambda crop: redrawn(session, crop)
    )


def crop_and_stitch(
    edited: Pixels, original: Pixels, mask: Mask, size: tuple[int, int], border: int, redraw: Callable[[Pixels], Pixels]
) -> Pixels:
    """`original` with what `redraw` makes of the crop around `mask`, scaled to `size` (H, W) and back.

    Pixels [H, W, 3]. Around the mask the new pixels fade into the old, over about `border` pixels.
    """
    box = crop_box(mask, size)
    scaled = Image.fromarray(edited).crop(box).resize(size[::-1], Image.Resampling.LANCZOS)
    drawn = Image.fromarray(redraw(np.array(scaled)))
    soft = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
    if border:
        # A Gaussian is nothing beyond three times its radius.
        soft = soft.filter(ImageFilter.GaussianBlur(border / 3))
    result, sides = Image.fromarray(original), (box[2] - box[0], box[3] - box[1])
    result.paste(drawn.resize(sides, Image.Resampling.LANCZOS), box[:2], soft.crop(box))
    return np.array(result)


def crop_box(mask: Mask, size: tuple[int, int]) -> Box:
    """The bounding box of `mask` [H, W] grown by half, with the aspect of `size` (H, W), inside the image.

    A box that would leave the image is moved; one that is larger than the image is cut.
    """
    spans = [np.flatnonzero(mask.any(1 - axis))[[0, -1]] + (0, 1) for axis in (0, 1)]
    scale = max(GROWTH * (end - start) / side for (start, end), side in zip(spans, size, strict=True))
    found = []
    for (start, end), side, limit in zip(spans, size, mask.shape, strict=True):
        length = min(max(round(scale * side), end - start), limit)
        first = min(max((start + end - length) // 2, 0), limit - length)
        found.append((int(first), int(first + length)))
    (top, bottom), (left, right) = found
    return left, top, right, bottom
