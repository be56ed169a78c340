"""Pictures that callers send: read by their content alone, bounded before they are decoded.

Names of files are never used. Only PNG, JPEG and WebP are read, whatever a part says that it is.
"""

from __future__ import annotations

import io
import json
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import escape

import numpy as np
from fastapi import UploadFile
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from retouch.editing.canvas.files import Contents, write
from retouch.editing.canvas.picture import Picture
from retouch.editing.images import MAX_PIXELS, ImageError, Pixels, as_pixels
from retouch.plan.region import Mask
from retouch.server.problems import Problem

JPEG_QUALITY = 90
FORMATS = ("PNG", "JPEG", "WEBP")
Format = Literal["png", "jpeg", "webp"]
SETTINGS = "retouch"
"""The keyword under which a PNG carries the settings that made it."""
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:retouch="urn:retouch:" retouch:settings="{}"/></rdf:RDF></x:xmpmeta>'
)
"""The metadata in which JPEG and WebP carry them (ISO 16684-1)."""
HEAD = 33
"""Bytes of a PNG before what may stand there: its signature and the chunk IHDR."""


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
        raise Problem(413, f"{what} has more than {pixels:,} pixels") from error
    except UnidentifiedImageError as error:
        raise Problem(415, f"{what} is no PNG, JPEG or WebP picture") from error
    # Readers of headers let through whatever they meet in a broken file.
    except Exception as error:
        raise Problem(415, f"{what} cannot be read: its head is damaged") from error
    if image.width * image.height > pixels:
        raise Problem(413, f"{what} is {image.width}x{image.height}, more than {pixels:,} pixels")
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


def upright(image: Image.Image, what: str) -> tuple[int, int]:
    """Height and width of an opened picture as it is shown; Problem 415 when its head is damaged."""
    try:
        turned = int(image.getexif().get(ExifTags.Base.Orientation, 1)) >= 5
    except Exception as error:
        raise Problem(415, f"{what} cannot be read: its head is damaged") from error
    return (image.width, image.height) if turned else (image.height, image.width)


def photograph(data: bytes, pixels: int, what: str = "the picture") -> Picture:
    """With all that its file says: alpha, 16 bits, profile, EXIF. Problem 415 or 413 as for others."""
    opened(data, what, pixels)
    try:
        return Picture.of_file(io.BytesIO(data), FORMATS)
    except ImageError as error:
        raise Problem(415, f"{what} cannot be decoded: its content is damaged") from error


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
    result[rectangle.part] = over(result[rectangle.part], overlay)
    return result


def over(below: Pixels, overlay: Pixels) -> Pixels:
    """Pixels [h, w, 3] with an overlay [h, w, 4] of straight alpha."""
    alpha = overlay[..., 3:].astype(np.uint16)
    found: Pixels = ((overlay[..., :3] * alpha + below * (255 - alpha) + 127) // 255).astype(np.uint8)
    return found


def spread(levels: Pixels, rectangle: Rectangle, size: tuple[int, int]) -> Pixels:
    """Levels [h, w] of a rectangle in a picture of zeros [H, W]."""
    whole = np.zeros(size, np.uint8)
    whole[rectangle.part] = levels
    return whole


def encoded(pixels: Pixels, kind: Format, settings: dict[str, Any] | None = None, quality: int | None = None) -> bytes:
    """A file with a picture [H, W, 3] that carries settings, to be opened with again.

    quality: of JPEG, which has 90 without, and of WebP, which is lossless without; PNG always is.
    """
    image, file = Image.fromarray(pixels), io.BytesIO()
    if kind == "png":
        image.save(file, "PNG", compress_level=4)
    elif kind == "webp" and quality is None:
        image.save(file, "WEBP", lossless=True, quality=20, method=1, **_xmp(settings))
    else:
        image.save(file, kind.upper(), quality=quality or JPEG_QUALITY, **_xmp(settings))
    return with_text(file.getvalue(), settings) if kind == "png" and settings else file.getvalue()


def as_filed(picture: Picture, kind: Format, settings: dict[str, Any], quality: int | None = None) -> bytes:
    """A file with a picture of a canvas, as `encoded` makes it; with alpha, profile and EXIF, in 16 bits as PNG."""
    file, contents = io.BytesIO(), Contents(picture.levels, picture.icc, picture.exif)
    if kind == "png":
        write(contents, "PNG", file)
        return with_text(file.getvalue(), settings)
    lossless = kind == "webp" and quality is None
    how = {} if lossless else {"lossless": False, "quality": quality or JPEG_QUALITY}
    write(contents, kind.upper(), file, **how, **_xmp(settings))
    return file.getvalue()


def _xmp(settings: dict[str, Any] | None) -> dict[str, bytes]:
    """An option of Pillow's."""
    return {"xmp": XMP.format(escape(json.dumps(settings), {'"': "&quot;"})).encode()} if settings else {}


def with_text(data: bytes, settings: dict[str, Any]) -> bytes:
    """A PNG with settings in it, behind its head."""
    body = b"iTXt" + SETTINGS.encode() + bytes(5) + json.dumps(settings).encode()  # not compressed, of no language
    chunk = (len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
    return data[:HEAD] + chunk + data[HEAD:]


def thumbnail(pixels: Pixels, side: int) -> bytes:
    """A small JPEG of a picture [H, W, 3], its longer side at most `side`."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return encoded(np.asarray(image), "jpeg", quality=85)


def white(where: Mask) -> Pixels:
    """Levels: 255 there, 0 elsewhere."""
    return np.where(where, np.uint8(255), np.uint8(0))
