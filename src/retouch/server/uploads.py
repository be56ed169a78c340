"""Pictures that callers send: read by their content alone, bounded before they are decoded.

Names of files are never used. Only PNG, JPEG and WebP are read, whatever a part says that it is.
"""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fastapi import UploadFile
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from retouch.editing.images import MAX_PIXELS, Pixels, as_pixels
from retouch.plan.region import Mask
from retouch.server.problems import Problem

FORMATS = ("PNG", "JPEG", "WEBP")
Format = Literal["png", "jpeg", "webp"]
SETTINGS = "retouch"
"""The keyword under which a PNG carries the settings that made it."""


@dataclass(frozen=True)
class Rectangle:
    """Where an upload lies in a picture of `size` (H, W): left, top, width and height in pixels."""

    left: int
    top: int
    width: int
    height: int

    @staticmethod
    def inside(found: tuple[int, int, int, int], size: tuple[int, int]) -> Rectangle:
        """From numbers of a caller; Problem 422 unless it lies in the picture."""
        left, top, width, height = found
        if left < 0 or top < 0 or width < 1 or height < 1 or left + width > size[1] or top + height > size[0]:
            raise Problem(422, f"the rectangle {list(found)} does not lie in a picture of {size[1]}x{size[0]}")
        return Rectangle(left, top, width, height)

    @property
    def part(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def content(file: UploadFile | None) -> bytes | None:
    """What a file that was sent holds."""
    return None if file is None else file.file.read()


def opened(data: bytes, what: str, pixels: int) -> Image.Image:
    """A picture that was sent, not decoded yet.

    Problem 415 for other formats and broken heads, 413 for more than so many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Problem(413, f"{what} has more than {pixels} pixels") from error
    except UnidentifiedImageError as error:
        raise Problem(415, f"{what} is no PNG, JPEG or WebP picture") from error
    # Readers of headers let through whatever they meet in a broken file.
    except Exception as error:
        raise Problem(415, f"{what} cannot be read: its head is damaged") from error
    if image.width * image.height > pixels:
        raise Problem(413, f"{what} is {image.width}x{image.height}, more than {pixels} pixels")
    return image


def decoded(image: Image.Image, what: str, mode: str) -> Any:
    """The levels uint8 of an opened picture in a mode of Pillow; Problem 415 when its content is damaged."""
    try:
        return np.array(ImageOps.exif_transpose(image).convert(mode))
    # Decoders raise anything.
    except Exception as error:
        raise Problem(415, f"{what} cannot be decoded: its content is damaged") from error


def picture(data: bytes, pixels: int, what: str = "the picture") -> Pixels:
    """[H, W, 3], transparency on white."""
    rgba = decoded(opened(data, what, pixels), what, "RGBA")
    return as_pixels(rgba)


def part(data: bytes, what: str, mode: str, rectangle: Rectangle) -> Pixels:
    """What was sent for a rectangle, in a mode of Pillow; Problem 422 when its size is another."""
    image = opened(data, what, MAX_PIXELS)
    if image.size != (rectangle.width, rectangle.height):
        size = f"{rectangle.width}x{rectangle.height}"
        raise Problem(422, f"{what} is {image.width}x{image.height}, its rectangle {size}")
    found: Pixels = decoded(image, what, mode)
    return found


def composited(base: Pixels, overlay: Pixels, rectangle: Rectangle) -> Pixels:
    """A copy of the base [H, W, 3] with an overlay [h, w, 4] of straight alpha on its rectangle."""
    result = base.copy()
    alpha = overlay[..., 3:].astype(np.uint16)
    below = result[rectangle.part]
    result[rectangle.part] = (overlay[..., :3] * alpha + below * (255 - alpha) + 127) // 255
    return result


def spread(levels: Pixels, rectangle: Rectangle, size: tuple[int, int]) -> Pixels:
    """Levels [h, w] of a rectangle in a picture of zeros [H, W]."""
    whole = np.zeros(size, np.uint8)
    whole[rectangle.part] = levels
    return whole


def encoded(pixels: Pixels, kind: Format, settings: dict[str, Any] | None = None, quality: int = 90) -> bytes:
    """A file with a picture [H, W, 3], lossless as PNG and WebP; a PNG carries settings, to be opened with again."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    if kind == "png":
        info = PngImagePlugin.PngInfo()
        if settings:
            info.add_itxt(SETTINGS, json.dumps(settings))
        image.save(file, "PNG", pnginfo=info, compress_level=4)
    elif kind == "webp":
        image.save(file, "WEBP", lossless=True, quality=20, method=1)
    else:
        image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def thumbnail(pixels: Pixels, side: int) -> bytes:
    """A small JPEG of a picture [H, W, 3], its longer side at most `side`."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return encoded(np.asarray(image), "jpeg", quality=85)


def white(where: Mask) -> Pixels:
    """Levels: 255 there, 0 elsewhere."""
    return np.where(where, np.uint8(255), np.uint8(0))
