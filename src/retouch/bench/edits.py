"""Edits to measure with: masks over the pixels of a network's image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from retouch.editing.images import as_mask


@dataclass(frozen=True)
class Edit:
    """A bool mask [H, W] in image pixels and the name it has in reports."""

    label: str
    mask: Tensor

    @property
    def fraction(self) -> float:
        """Share of the image that the mask covers."""
        return float(self.mask.float().mean())


def check_fraction(fraction: float) -> float:
    """`fraction` itself; ValueError unless it lies in (0, 1]."""
    if not 0.0 < fraction <= 1.0:
        raise ValueError(
            f"an edit of {fraction:g} is not a share of the image; give a number "
            "above 0 and at most 1, such as 0.012 for 1.2 %"
        )
    return fraction


def square(fraction: float, size: tuple[int, int]) -> Edit:
    """A square covering `fraction` of an image of `size` (H, W).

    It lies in the middle, with its corner off every grid of 8 pixels, so that no
    level of a network gets a conveniently aligned region. An area that no square
    can have inside the image becomes a rectangle.
    """
    height, width = size
    area = check_fraction(fraction) * height * width
    rows = min(height, max(1, round(math.sqrt(area))))
    cols = min(width, max(1, round(area / rows)))
    rows = min(height, max(1, round(area / cols)))
    top, left = _off_grid(height - rows, 3), _off_grid(width - cols, 5)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + rows, left : left + cols] = True
    return Edit(f"{fraction:g}", mask)


def read_mask(path: Path, size: tuple[int, int]) -> Edit:
    """The mask in an image file: pixels brighter than half are the edit.

    Raises ValueError if the file is no image, has another size than `size` (H, W)
    or holds no edited pixel.
    """
    return Edit(path.name, torch.from_numpy(as_mask(path, size)))


def _off_grid(slack: int, remainder: int) -> int:
    """A corner near the middle of `slack`, congruent to `remainder` modulo 8 if it fits."""
    middle = slack // 2
    return min(slack, middle + (remainder - middle) % 8)
