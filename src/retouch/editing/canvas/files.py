"""Picture files in their full depth, with colour profile and EXIF; Pillow alone gives 16-bit RGB as 8 bit."""

from __future__ import annotations

import math
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin
from PIL.TiffTags import TAGS_V2_GROUPS

from retouch.editing.canvas.colour import converter, is_rgb
from retouch.editing.images import ImageError, channels_of, check_count, eight_bit, opened, over
from retouch.runtime.blocks import spill_folder

STRIP = 2**16
"""Pixels that are converted at a time: nothing but the levels themselves is there of the whole picture."""

Levels = npt.NDArray[Any]
"""[H, W, 3 or 4] of uint8 or uint16: red, green, blue, and alpha, which is not multiplied in."""

_DEEP = re.compile(r"(RGB|RGBX|RGBA);16([BLN])")
"""Raw modes of Pillow's decoders that take one byte of each 16-bit level: the first (B), the second (L)."""
_NATIVE = "L" if sys.byteorder == "little" else "B"
_HEAD = b"Exif\0\0"
_DESCRIPTIVE = {270, 271, 272, 282, 283, 296, 305, 306, 315, 33432, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo}
"""Tags of a TIFF file that say something of the picture rather than where its pixels are."""
LOSSLESS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
"""What formats are written with, as near to the pixels as they allow."""

TRANSPARENT = {"AVIF", "JPEG2000", "PNG", "TIFF", "WEBP"}
"""Formats that are written with alpha; in others it is composited on white."""


@dataclass(frozen=True)
class Contents:
    """A picture as it stands in a file, upright. icc: a profile of RGB; None: sRGB. exif: without orientation."""

    levels: Levels
    icc: bytes | None
    exif: bytes | None


def strips(size: Sequence[int], least: int = 1) -> Iterator[slice]:
    """Rows of an array [H, W, ...] of a size, some at a time, `least` or more."""
    height, rows = size[0], max(least, STRIP // max(size[1], 1))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def read(file: IO[bytes], formats: tuple[str, ...] | None = None) -> Contents:
    """The picture in an open file: 16 bits of RGB in PNG and TIFF, and of grey; else 8.

    formats: the only ones that are read, as Pillow names them; None: all that it knows. Grey levels and inks become
    sRGB. Raises ImageError for more than 100 megapixels, and what Pillow raises.
    """
    image = opened(file, formats=formats)
    return _deep(file) if _is_deep(image) else of_image(image)


def _deep(file: IO[bytes]) -> Contents:
    """Decoded twice, for the higher byte of each level and for the lower. Both wait in a temporary file: an image of
    Pillow's is freed as a whole, and would be there beside all levels.
    """
    with TemporaryFile(dir=spill_folder()) as waiting:
        for byte in "BL":
            image = _bytes_of(file, byte)
            for _, part in _parts(image):
                waiting.write(part.tobytes())
        size, bands, turn = (image.height, image.width), len(image.getbands()), _orientation(image)
        key, metadata = image.info.get("transparency"), _metadata(image)
        del image, part
        levels = np.empty((*_upright(size, turn), bands if key is None else 4), np.uint16)
        for rows in strips(size):
            shape = rows.stop - rows.start, size[1], bands
            high, low = (_read_at(waiting, (n * size[0] + rows.start) * size[1] * bands, shape) for n in (0, 1))
            found = high.astype(np.uint16) << 8 | low
            _stored(levels, turn)[rows, :, :bands] = found
            if key is not None:  # this colour is transparent
                _stored(levels, turn)[rows, :, 3] = np.where((found == key).all(2), 0, 65535)
    return Contents(levels, *metadata)


def _read_at(file: IO[bytes], place: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    file.seek(place)
    return np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)


def of_image(image: Image.Image) -> Contents:
    """An image of Pillow's, in 8 bits but for 16-bit grey. Raises as `read`."""
    check_count(image)
    image.load()
    levels: Levels | None = None
    converted, turn = converter(image), _orientation(image)
    for rows, part in _parts(image):
        found = _colours(channels_of(converted(part)))
        if levels is None:
            levels = np.empty((*_upright((image.height, image.width), turn), found.shape[2]), found.dtype)
        _stored(levels, turn)[rows] = found
    if levels is None:
        raise ImageError("a picture without pixels is empty")
    return Contents(levels, *_metadata(image))


def write(contents: Contents, kind: str, file: IO[bytes], **options: Any) -> None:
    """A file of a format that Pillow names: 16 bits in PNG and TIFF, else 8; alpha where the format has it.

    options: of Pillow's writer of 8 bits; as lossless as the format allows without.
    Raises what Pillow raises for a picture that the format cannot hold.
    """
    if contents.levels.dtype == np.uint16 and kind in _WRITERS:
        _WRITERS[kind](contents, file)
        return
    levels = contents.levels
    flat = levels.shape[2] == 4 and kind not in TRANSPARENT
    image = Image.new("RGBA"[: 3 if flat else levels.shape[2]], levels.shape[1::-1])
    for rows in strips(levels.shape):
        part = eight_bit(levels[rows])
        image.paste(Image.fromarray(over(part, 255) if flat else np.ascontiguousarray(part)), (0, rows.start))
    how = {**LOSSLESS.get(kind, {}), **options}
    image.save(file, format=kind, icc_profile=contents.icc, exif=contents.exif or b"", **how)


# Reading


def _bytes_of(file: IO[bytes], byte: str) -> Image.Image:
    """The image of the higher ("B") or lower ("L") byte of each level."""
    image = opened(file)
    image.tile = [_of_byte(tile, byte) for tile in image.tile]
    image.load()
    return image


def _is_deep(image: Image.Image) -> bool:
    tiles = getattr(image, "tile", [])
    return bool(tiles) and all(_DEEP.fullmatch(_raw_mode(tile)) is not None for tile in tiles)


def _raw_mode(tile: ImageFile._Tile) -> str:
    return tile.args if isinstance(tile.args, str) else str((tile.args or ("",))[0])


def _of_byte(tile: ImageFile._Tile, byte: str) -> ImageFile._Tile:
    """What a decoder is told, for the higher byte ("B") of each level or the lower one."""
    mode, order = _raw_mode(tile).split(";16")
    big_endian = (_NATIVE if order == "N" else order) == "B"
    raw = f"{mode};16{byte if big_endian else 'BL'[byte == 'B']}"
    return tile._replace(args=raw if isinstance(tile.args, str) else (raw, *(tile.args or ())[1:]))


def _parts(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    for rows in strips((image.height, image.width)):
        yield rows, image.crop((0, rows.start, image.width, rows.stop))


def _colours(channels: npt.NDArray[Any]) -> Levels:
    """[h, w, 3 or 4] of uint8 or uint16."""
    deep = channels if channels.dtype == np.uint16 else eight_bit(channels)
    return deep if deep.ndim == 3 else np.broadcast_to(deep[..., None], (*deep.shape, 3))


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _upright(size: tuple[int, int], turn: int) -> tuple[int, int]:
    """Height and width of an image of an orientation, when it is turned upright."""
    return (size[1], size[0]) if turn in _TURNED else size


_TURNED: dict[int, Callable[[Levels], Levels]] = {
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
_VIEWS: dict[int, Callable[[Levels], Levels]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    **_TURNED,
}
"""For each orientation of EXIF: an upright picture as it is stored."""


def _stored(upright: Levels, turn: int) -> Levels:
    """A view of the upright picture in which rows are those of a file of an orientation."""
    view = _VIEWS.get(turn)
    return upright if view is None else view(upright)


def _metadata(image: Image.Image) -> tuple[bytes | None, bytes | None]:
    """Profile and EXIF."""
    icc, exif = image.info.get("icc_profile"), image.getexif()
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        for tag in set(exif) - _DESCRIPTIVE:
            del exif[tag]
    turned = exif.pop(ExifTags.Base.Orientation, None) is not None
    raw = None if turned else image.info.get("exif")
    return (icc if icc and is_rgb(icc) else None), raw or (exif.tobytes() if len(exif) else None)


# Writing


def _write_png(contents: Contents, file: IO[bytes]) -> None:
    """PNG (third edition, W3C 2025) of 16-bit levels, each row filtered by the one above it."""
    height, width, channels = contents.levels.shape

    def chunk(name: bytes, data: bytes) -> None:
        file.write(len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4))

    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", width.to_bytes(4) + height.to_bytes(4) + bytes((16, 6 if channels == 4 else 2, 0, 0, 0)))
    if contents.icc:
        chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(contents.icc))
    if contents.exif:
        chunk(b"eXIf", contents.exif.removeprefix(_HEAD))
    packer, above = zlib.compressobj(), np.zeros((1, width * channels * 2), np.uint8)
    for rows in strips(contents.levels.shape):
        found = np.ascontiguousarray(contents.levels[rows].astype(">u2")).view(np.uint8).reshape(-1, above.shape[1])
        up = np.full((len(found), 1 + above.shape[1]), 2, np.uint8)
        up[:, 1:] = found - np.concatenate([above, found[:-1]])
        chunk(b"IDAT", packer.compress(up.tobytes()))
        above = found[-1:]
    chunk(b"IDAT", packer.flush())
    chunk(b"IEND", b"")


def _write_tiff(contents: Contents, file: IO[bytes]) -> None:
    """TIFF 6.0 of 16-bit levels, not compressed."""
    height, width, channels = contents.levels.shape
    directory, exif = TiffImagePlugin.ImageFileDirectory_v2(), Image.Exif()
    exif.load(contents.exif or b"")
    for tag, value in exif.items():
        directory[tag] = exif.get_ifd(tag) if tag in TAGS_V2_GROUPS else value
    layout = {256: width, 257: height, 258: (16,) * channels, 259: 1, 262: 2, 273: 0, 277: channels, 278: height,
              279: contents.levels.nbytes, 284: 1}  # fmt: skip
    for tag, value in layout.items():
        directory[tag] = value
    if channels == 4:
        directory[338] = 2
    if contents.icc:
        directory[34675] = contents.icc
    directory.save(file)
    for rows in strips(contents.levels.shape):
        file.write(contents.levels[rows].astype("<u2").tobytes())


_WRITERS: dict[str, Callable[[Contents, IO[bytes]], None]] = {"PNG": _write_png, "TIFF": _write_tiff}
