"""Pictures of the demonstration: the photograph, the edit on it, and what came of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from retouch.extras import require
from retouch.images import save_png
from retouch.models.registry import on_grid
from retouch.sheets import outlined, side_by_side

if TYPE_CHECKING:
    from retouch.demo import Outcome

YELLOW = (255, 214, 10)


def photograph(size: tuple[int, int]) -> Tensor:
    """scikit-image's astronaut (NASA, public domain) as [1, 3, H, W] in [-1, 1].

    Raises ImportError naming the extra to install if scikit-image is missing.
    """
    pixels = require("skimage.data", "demo").astronaut()
    image = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return _tensor(image) * 2 - 1


def paint(photo: Tensor) -> Tensor:
    """The photograph [1, 3, H, W] with a yellow star on the helmet, 1.2 % of its pixels."""
    image = _image((photo[0] + 1) / 2)
    ImageDraw.Draw(image).polygon(_star(image.size), fill=YELLOW)
    painted = _tensor(image) * 2 - 1
    # Only what the star covers changes: the rest stays free of 8-bit rounding.
    unpainted = _tensor(_image((photo[0] + 1) / 2)) * 2 - 1
    return torch.where((painted != unpainted).any(1, keepdim=True), painted, photo)


def write(folder: Path, photo: Tensor, before: Tensor, outcome: Outcome) -> list[Path]:
    """Write the pictures of `outcome` and one sheet of them all; returns their paths."""
    edited = outcome.edit.inputs.args[0]
    active = on_grid(outcome.active[0], photo.shape[-2], photo.shape[-1])
    show = _Display(before)
    pictures = {
        "photograph": _image((photo[0] + 1) / 2),
        "edited": _image((edited[0] + 1) / 2),
        "region": Image.fromarray(outlined(np.array(_image((edited[0] + 1) / 2)), active.numpy())),
        "change x1": show.difference(outcome.updated, before, 1),
        "before": show.picture(before),
        "after": show.picture(outcome.updated),
        "dense": show.picture(outcome.truth),
        "difference x10": show.difference(outcome.updated, outcome.truth, 10),
    }
    paths = [save_png(image, folder / f"{name.split()[0]}.png") for name, image in pictures.items()]
    sheet = side_by_side([(_CAPTIONS[name], np.array(image)) for name, image in pictures.items()])
    return [*paths, save_png(sheet, folder / "sheet.png")]


_CAPTIONS = {
    "photograph": "photograph",
    "edited": "edited photograph",
    "region": "rows computed by the update",
    "change x1": "|update - recorded response|",
    "before": "recorded response",
    "after": "response after the update",
    "dense": "dense response to the edit",
    "difference x10": "|update - dense| x10",
}


class _Display:
    """Maps responses [1, 3, H, W] to pictures, with the range of one of them."""

    def __init__(self, reference: Tensor) -> None:
        flat = reference[0].float().flatten(1)
        self._low = flat.quantile(0.01, dim=1).view(3, 1, 1)
        self._span = flat.quantile(0.99, dim=1).view(3, 1, 1) - self._low

    def picture(self, response: Tensor) -> Image.Image:
        return _image((response[0].float() - self._low) / self._span)

    def difference(self, one: Tensor, other: Tensor, gain: float) -> Image.Image:
        return _image(gain * (one[0].float() - other[0].float()).abs() / self._span)


def _star(size: tuple[int, int]) -> list[tuple[float, float]]:
    """Corners of a five-pointed star in an image of `size` (width, height)."""
    width, height = size
    centre_x, centre_y, outer = 0.745 * width, 0.83 * height, 0.103 * width
    corners = []
    for index in range(10):
        radius = outer if index % 2 == 0 else 0.382 * outer
        angle = math.pi * index / 5
        corners.append((centre_x + radius * math.sin(angle), centre_y - radius * math.cos(angle)))
    return corners


def _tensor(image: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.view(1, image.height, image.width, 3).permute(0, 3, 1, 2).float() / 255


def _image(picture: Tensor) -> Image.Image:
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()
    return Image.frombytes("RGB", (pixels.shape[1], pixels.shape[0]), bytes(pixels.numpy()))
