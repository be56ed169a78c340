"""Pictures for people to look at: a region outlined, several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from retouch.editing.images import ImageError, Pixels, check_same
from retouch.plan.region import Mask, dilate

DIM = 0.6
OUTLINE = (0, 255, 102)
WIDE_OUTLINE = 256
TILE, CAPTION, GAP, COLUMNS, FONT_SIZE = 320, 26, 8, 4, 15


def outlined(pixels: Pixels, mask: Mask) -> Pixels:
    """The picture [H, W, 3] with a bright line around `mask` [H, W], unchanged inside and dimmed outside.

    Raises ImageError if the sizes differ.
    """
    check_same(pixels, mask, "picture and mask")
    width = 1 if max(mask.shape) < WIDE_OUTLINE else 2
    dimmed: Pixels = np.rint(np.arange(256) * DIM).astype(np.uint8)[pixels]
    dimmed[dilate(mask[None], width)[0]] = OUTLINE
    dimmed[mask] = pixels[mask]
    return dimmed


def coloured(ids: npt.NDArray[np.integer[Any]]) -> Pixels:
    """A map of ids [H, W] in colours [H, W, 3], neighbouring ids far apart; 0 is black."""
    known = np.arange(int(ids.max()) + 1)
    hues = known * 0.618034 % 1 * 256
    rings = np.stack([hues, np.full(len(known), 170), np.where(known % 2, 230, 170)], 1).astype(np.uint8)
    palette = np.array(Image.fromarray(rings[None], "HSV").convert("RGB"))[0]
    palette[0] = 0
    colours: Pixels = palette[ids]
    return colours


def side_by_side(tiles: Sequence[tuple[str, Pixels]], most: int = COLUMNS) -> Image.Image:
    """Pictures [H, W, 3] under their captions, in rows of up to `most`, each fitted into a square.

    Raises ImageError if there are none.
    """
    if not tiles:
        raise ImageError("there are no pictures to put side by side")
    pictures = [_fitted(pixels) for _, pixels in tiles]
    columns = min(len(tiles), most)
    heights = [max(tile.height for tile in pictures[i : i + columns]) for i in range(0, len(tiles), columns)]
    tops = [GAP + sum(height + CAPTION + GAP for height in heights[:row]) for row in range(len(heights) + 1)]
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, tops[-1]), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for index, (caption, _) in enumerate(tiles):
        left, top = GAP + index % columns * (TILE + GAP), tops[index // columns]
        draw.text((left, top + 4), _shortened(caption, font), fill="black", font=font)
        sheet.paste(pictures[index], (left, top + CAPTION))
    return sheet


def _fitted(pixels: Pixels) -> Image.Image:
    """Scaled so that the longer side is a tile's; small pictures keep their pixels visible."""
    scale = TILE / max(pixels.shape[:2])
    width, height = (max(1, round(scale * side)) for side in pixels.shape[1::-1])
    resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return Image.fromarray(pixels).resize((width, height), resample)


def _shortened(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """One line that is no wider than a tile."""
    line = " ".join(caption.split())[:TILE]
    if font.getlength(line) <= TILE:
        return line
    while font.getlength(line + "...") > TILE:
        line = line[:-1]
    return line + "..."
