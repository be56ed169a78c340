"""Edits to measure with: masks over the pixels of a network's image, and strokes and patches on a photograph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from retouch.editing.images import Pixels, as_mask
from retouch.errors import OptionError
from retouch.models.extras import require
from retouch.plan.region import Mask

EDIT = 0.012
"""Share of the image that is edited unless another one is asked for."""


@dataclass(frozen=True)
class Edit:
    """A bool mask [H, W] in image pixels and the name it has in reports."""

    label: str
    mask: Tensor

    @property
    def fraction(self) -> float:
        """Share of the image that the mask covers."""
        return float(self.mask.float().mean())


def edits_of(shares: Sequence[float], masks: Sequence[Path], size: tuple[int, int]) -> list[Edit]:
    """Square edits and edits from files, for an image of `size` (H, W); one square if none are named."""
    squares = shares or ([] if masks else [EDIT])
    return [*(square(share, size) for share in squares), *(read_mask(mask, size) for mask in masks)]


def square(fraction: float, size: tuple[int, int]) -> Edit:
    """A square covering `fraction` of an image of `size` (H, W).

    It lies in the middle, with its corner off every grid of 8 pixels, so that no
    level of a network gets a conveniently aligned region. An area that no square
    can have inside the image becomes a rectangle. OptionError unless `fraction` lies in (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise OptionError(
            f"an edit of {fraction:g} is not a share of the image; give a number "
            "above 0 and at most 1, such as 0.012 for 1.2 %"
        )
    height, width = size
    area = fraction * height * width
    rows = min(height, max(1, round(math.sqrt(area))))
    cols = min(width, max(1, round(area / rows)))
    rows = min(height, max(1, round(area / cols)))
    # The corner near the middle that is congruent to 3 and 5 modulo 8, if that fits.
    middles = (((height - rows) // 2, height - rows, 3), ((width - cols) // 2, width - cols, 5))
    top, left = (min(slack, middle + (rest - middle) % 8) for middle, slack, rest in middles)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + rows, left : left + cols] = True
    return Edit(f"{fraction:g}", mask)


def read_mask(path: Path, size: tuple[int, int]) -> Edit:
    """The mask in an image file: pixels brighter than half are the edit.

    Raises ImageError if the file is no image, has another size than `size` (H, W) or holds no edited pixel.
    """
    return Edit(path.name, torch.from_numpy(as_mask(path, size)))


# Edits of pictures

MOST = 512
"""Side of the whole photograph in pixels."""


def photograph(side: int) -> Pixels:
    """The face of scikit-image's astronaut (NASA, public domain) in its own pixels, [side, side, 3], up to MOST.

    Raises ExtraError naming the extra to install if scikit-image is missing.
    """
    pixels: Pixels = require("skimage.data", "bench").astronaut()
    top, left = max(0, 120 - side // 2), min(MOST - side, max(0, 224 - side // 2))
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def soft_picture(size: tuple[int, int], seed: int = 0) -> Pixels:
    """A picture of `size` (H, W) of soft colours, the same for the same seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.array(Image.fromarray(colours).resize(size[::-1], Image.Resampling.BICUBIC))


def painted(pixels: Pixels, mask: Mask, colour: tuple[int, int, int]) -> Pixels:
    """The picture with one colour on `mask` [H, W]."""
    return np.where(mask[..., None], np.array(colour, np.uint8), pixels)


def brushed(
    pixels: Pixels, curve: Callable[[float], tuple[float, float]], colour: tuple[int, int, int], width: float
) -> Pixels:
    """A stroke on the picture along `curve`: x and y as shares of the sides, for 0 to 1; width in pixels."""
    sides = pixels.shape[1], pixels.shape[0]
    points = [tuple(side * share for side, share in zip(sides, curve(t), strict=True)) for t in np.linspace(0, 1, 40)]
    canvas = Image.fromarray(pixels)
    ImageDraw.Draw(canvas).line(points, colour, max(1, round(width)), "curve")
    return np.array(canvas)


def pasted(pixels: Pixels, source: tuple[int, int], target: tuple[int, int], size: tuple[int, int]) -> Pixels:
    """A patch of `size` (H, W) of the picture copied from one corner (y, x) to another one."""
    (y, x), (to_y, to_x), (height, width) = source, target, size
    drawn = pixels.copy()
    drawn[to_y : to_y + height, to_x : to_x + width] = pixels[y : y + height, x : x + width]
    return drawn
