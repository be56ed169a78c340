"""Pictures of an editing session as uint8 RGB arrays, from files, Pillow, NumPy or PyTorch."""

from __future__ import annotations

import os
import secrets
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from retouch.errors import OptionError, RetouchError
from retouch.plan.policy import Policy
from retouch.plan.region import Mask

A = TypeVar("A", bound=npt.NDArray[Any])

Pixels = npt.NDArray[np.uint8]
"""[H, W, 3], RGB from 0 to 255."""

Strengths = npt.NDArray[np.float64]
"""[H, W], from 0 to 1."""

Box = tuple[slice, slice]
"""Rows and columns of a rectangle, with numbers for their ends."""

ImageLike = str | os.PathLike[str] | Image.Image | npt.NDArray[Any] | Tensor

HURRIED = {"compress_level": 2}
"""Options of PNG files that somebody waits for: a quarter larger, and five times as fast."""
MAX_PIXELS = 100 * 10**6
"""Files and Pillow images with more pixels are refused before they are decoded."""

WHITE, BLACK = 255, 0

# Python keeps one list of warning filters for all threads.
_filters = threading.Lock()


class ImageError(RetouchError, ValueError):
    """A picture or mask that cannot be read, used or written; the message says why."""


def as_pixels(image: ImageLike) -> Pixels:
    """The picture as a new contiguous array [H, W, 3].

    image: one of
        - the path of a file that Pillow reads (of an animation, the first frame), or a Pillow image;
        - an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8, uint16, bool, or floats in 0..1;
        - a tensor [3, H, W] or [1, 3, H, W] of these types.

    EXIF rotation is applied. Transparency is composited on white. 16-bit levels are divided by 257
    and rounded, floats multiplied by 255 and rounded half to even.

    Raises ImageError for a missing, broken or too large file, for other shapes and types, and for
    values that are NaN or outside 0..1.
    """
    return _pixels(image, WHITE)


def as_mask(mask: ImageLike, size: tuple[int, int]) -> Mask:
    """The edited positions as a new bool array of `size` (H, W): those brighter than half.

    mask: as in `as_strengths`. Raises ImageError as that does, and when no position is brighter than half.
    """
    return _not_empty(_strengths(mask, size) > 0.5, mask)


def as_strengths(mask: ImageLike, size: tuple[int, int]) -> Strengths:
    """A grey mask as a new array of `size` (H, W): 0 where nothing is edited, 1 where it is white.

    mask: a path or a Pillow image, read as in `as_pixels` with transparency as black; or an array or tensor
        [H, W], [H, W, 1], [1, H, W], [1, 1, H, W] of bool (True: white), uint8 (255: white), uint16 (65535: white)
        or floats in 0..1, or an RGB or RGBA array. Colours count by their luma.

    Raises ImageError as `as_pixels` does, when the mask has another size, and when all of it is black.
    """
    return _not_empty(_strengths(mask, size), mask)


def _strengths(mask: ImageLike, size: tuple[int, int]) -> Strengths:
    if isinstance(mask, Tensor | np.ndarray):
        found = _unit(_one_channel(_array(mask), size))
    else:
        found = _unit(_luma(_levels(mask)))
    if found.shape != size:
        raise ImageError(
            f"{_mask_name(mask)} is {_size(found)} pixels, but the picture is {_size(size)} (width x height)"
        )
    return found


def _not_empty(found: A, mask: ImageLike) -> A:
    if not found.any():
        raise ImageError(f"{_mask_name(mask)} is empty: paint the edited pixels white")
    return found


def _mask_name(mask: ImageLike) -> str:
    return f"the mask {mask}" if isinstance(mask, str | os.PathLike) else "the mask"


def as_integers(image: ImageLike, size: tuple[int, int] | None = None) -> npt.NDArray[np.int32]:
    """A map of ids (class labels, instances) as a new array int32 [H, W].

    image: the path of a file or a Pillow image of one channel or with a palette, whose indices are the ids; or
        an array, its path (.npy) or a tensor of integers [H, W], [1, H, W], [H, W, 1], or with equal
        channels [H, W, 3].

    Raises ImageError for other shapes and types, ids beyond int32, and another size (H, W) than `size`.
    """
    what = "the map of ids"
    if isinstance(image, Image.Image):
        ids = np.asarray(image)
    elif isinstance(image, str | os.PathLike):
        what, path = f"{what} {image}", Path(image)
        ids = _from_array_file(path) if path.suffix == ".npy" else _from_file(path, np.asarray)
    else:
        ids = _array(image)
    if ids.ndim == 3 and len(ids) == 1:
        ids = ids[0]
    elif ids.ndim == 3 and ids.shape[2] in (1, 3) and (ids == ids[..., :1]).all():
        ids = ids[..., 0]
    if ids.dtype.kind not in "iub" or ids.ndim != 2 or not ids.size:
        raise ImageError(
            f"{what} is not one channel of integers [H, W], but {ids.dtype} {list(ids.shape)}; colours are no ids"
        )
    if size is not None and ids.shape != size:
        raise ImageError(f"{what} is {_size(ids)}, but the picture is {_size(size)} (width x height)")
    if ids.min() < -(2**31) or ids.max() >= 2**31:
        raise ImageError(f"{what} holds ids from {ids.min()} to {ids.max()}, beyond 32 bits")
    return ids.astype(np.int32)


THRESHOLD = 2
"""Grey levels by which pictures may differ and count as alike: what files and colour conversions leave."""


def threshold_of(policy: Policy) -> int:
    """Grey levels that two pictures may differ by and count as alike under a policy: none if it is exact."""
    return 0 if policy.exact else THRESHOLD


def difference(before: Pixels, after: Pixels, threshold: int = THRESHOLD) -> Mask:
    """Where any channel differs by more than `threshold` grey levels, bool [H, W].

    Raises ImageError if the pictures [H, W, 3] have different sizes, OptionError for a threshold below 0.
    """
    check_same(before, after, "pictures")
    if threshold < 0:
        raise OptionError(f"a threshold counts grey levels and cannot be {threshold}")
    red, green, blue = np.moveaxis(np.maximum(before, after) - np.minimum(before, after), 2, 0)
    changed: Mask = np.maximum(np.maximum(red, green), blue) > threshold
    return changed


def pasted(new: Pixels, mask: Mask, old: Pixels) -> Pixels:
    """A new picture [H, W, 3]: `new` in a mask [H, W], `old` around it. ImageError for different sizes."""
    check_same(old, new, "pictures")
    found = old.copy()
    found[mask] = new[mask]
    return found


def to_tensor(pixels: Pixels) -> Tensor:
    """The picture [H, W, 3] as float32 [1, 3, H, W] in [-1, 1]."""
    planes = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
    planes /= 127.5
    planes -= 1
    return torch.from_numpy(planes[None])


def from_tensor(picture: Tensor) -> Pixels:
    """The inverse of `to_tensor`, for floats [1, 3, H, W] or [3, H, W]: clamped to [-1, 1], rounded half to even.

    Raises ImageError for another shape or type, and for NaN.
    """
    if not picture.is_floating_point():
        raise ImageError(f"a picture in [-1, 1] is a float tensor, not {picture.dtype}")
    planes = _planes(_array(picture))
    if np.isnan(planes).any():
        raise ImageError("the picture holds NaN")
    levels = np.rint((planes.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return levels.transpose(1, 2, 0).copy(order="C")


def save_png(image: Pixels | Image.Image, path: str | os.PathLike[str], **options: Any) -> Path:
    """Write the picture in the format that the suffix of `path` names; returns the path. options: of Pillow's writer.

    The file appears complete or not at all: it is written beside its place and then moved there.

    Raises ImageError for a suffix that Pillow does not write, and when writing fails.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(as_pixels(image))
    return saved(Path(path), lambda file, kind: picture.save(file, format=kind, **options))


def saved(path: Path, write: Callable[[IO[bytes], str], None]) -> Path:
    """The path of a picture file that `write` filled, in the format that its suffix names; as `save_png`."""
    kind = format_of(path)
    try:
        with replacing(path) as file:
            write(file, kind)
    # What formats raise for modes and sizes that they cannot hold has no common type.
    except Exception as error:
        raise ImageError(f"cannot write {path}: {_reason(error)}") from error
    return path


def format_of(path: Path) -> str:
    """The format that the suffix of a picture file names. ImageError where none is written under it."""
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise ImageError(f"cannot write {path}: no picture format has the suffix {path.suffix!r}; use .png")
    return kind


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` when the block ends, or goes away if it fails."""
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            yield file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _pixels(image: ImageLike, ground: int) -> Pixels:
    """The picture composited on the grey level `ground`."""
    if isinstance(image, Image.Image):
        return _from_image(image, ground)
    if isinstance(image, str | os.PathLike):
        return _from_file(Path(image), lambda opened: _from_image(opened, ground))
    return _rgb(channels_in(image), ground)


def channels_in(image: Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values [H, W, 1, 3 or 4] of an array or tensor as `as_pixels` takes them. ImageError for other shapes."""
    if isinstance(image, Tensor):
        return _channels(_planes(_array(image)).transpose(1, 2, 0))
    if isinstance(image, np.ndarray):
        return _channels(image)
    raise ImageError(f"a picture is a path, a Pillow image, an array or a tensor, not {type(image).__name__}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """ImageError with the name of the file for whatever happens while it is read."""
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(f"there is no file {path}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image in a format that Pillow reads") from error
    # Readers of headers let through whatever they meet in a broken file.
    except Exception as error:
        raise ImageError(f"cannot read {path}: {_reason(error)}") from error


def _from_file(path: Path, convert: Callable[[Image.Image], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    with reading(path), path.open("rb") as file, opened(file) as image:
        return convert(image)


def _from_array_file(path: Path) -> npt.NDArray[Any]:
    """The array in an .npy file; what would run code is refused."""
    with reading(path):
        # Mapped, so that a header that lies about the size reserves no memory.
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        if array.size > MAX_PIXELS:
            raise ImageError(f"it has more than {MAX_PIXELS} pixels")
    return array


def opened(file: IO[bytes], most: int = MAX_PIXELS, formats: tuple[str, ...] | None = None) -> ImageFile.ImageFile:
    """The header of a picture file of some formats (None: any), nothing decoded. ImageError for more than `most`
    pixels.
    """
    try:
        with _filters, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=formats)
    except Image.DecompressionBombError as error:
        raise ImageError(f"it has more than {most} pixels") from error
    check_count(image, most)
    return image


def check_count(image: Image.Image, most: int = MAX_PIXELS) -> None:
    """ImageError for an image of more than `most` pixels."""
    if image.width * image.height > most:
        raise ImageError(f"it is {image.width}x{image.height}, more than {most} pixels")


def _from_image(image: Image.Image, ground: int) -> Pixels:
    check_count(image)
    with decoding():
        channels = channels_of(ImageOps.exif_transpose(image))
    return _rgb(channels, ground)


@contextmanager
def decoding() -> Iterator[None]:
    """ImageError for whatever happens while an image is decoded."""
    try:
        yield
    except ImageError:
        raise
    # As for headers: decoders raise anything.
    except Exception as error:
        raise ImageError(f"the image cannot be decoded: {_reason(error)}") from error


def channels_of(image: Image.Image) -> npt.NDArray[Any]:
    """The levels [H, W] or [H, W, 3 or 4] of an image in any mode: uint8, uint16 or float32."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _deep(image)
    if image.mode == "F":
        return np.asarray(image)
    if image.mode == "La":
        image = image.convert("LA")
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _deep(image: Image.Image) -> npt.NDArray[np.uint16]:
    """A grey image of 16-bit levels: [H, W], or [H, W, 4] if one level is declared transparent."""
    levels = np.asarray(image)
    if levels.size and not 0 <= levels.min() <= levels.max() <= 65535:
        raise ImageError(f"16-bit levels are 0 to 65535, these are {levels.min()} to {levels.max()}")
    grey = levels.astype(np.uint16)
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    return np.stack([grey, grey, grey, np.where(levels == transparent, 0, 65535).astype(np.uint16)], 2)


def _array(values: Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    # NumPy has no bfloat16.
    return (values.float() if values.is_floating_point() and values.itemsize < 4 else values).numpy()


def _planes(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[3, H, W] from that or [1, 3, H, W]."""
    planes = array[0] if array.ndim == 4 and len(array) == 1 else array
    if planes.ndim != 3 or len(planes) != 3:
        raise ImageError(f"a picture as a tensor is [3, H, W] or [1, 3, H, W], not {list(array.shape)}")
    return planes


def _rgb(array: npt.NDArray[Any], ground: int) -> Pixels:
    """A new [H, W, 3] from [H, W] or [H, W, 1, 3 or 4]."""
    levels = eight_bit(_channels(array))
    if levels.shape[2] == 4:
        return over(levels, ground)
    return np.array(np.broadcast_to(levels, (*levels.shape[:2], 3)), order="C")


def _channels(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[H, W, 1, 3 or 4] from that or [H, W]."""
    channels = array[..., None] if array.ndim == 2 else array
    if channels.ndim != 3 or channels.shape[2] not in (1, 3, 4):
        raise ImageError(f"a picture is [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], not {list(array.shape)}")
    if 0 in channels.shape:
        raise ImageError(f"a picture of {_size(channels)} pixels is empty")
    return channels


def over(rgba: Pixels, ground: int) -> Pixels:
    """[H, W, 4] composited on a grey level, rounded to nearest."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + ground * (255 - alpha) + 127) // 255).astype(np.uint8, order="C")


def eight_bit(array: npt.NDArray[Any]) -> Pixels:
    """Levels of any type of `as_pixels` as uint8; those of uint8 themselves. ImageError as that."""
    kind = array.dtype.kind, array.dtype.itemsize
    if kind == ("u", 1):
        return array
    if kind == ("u", 2):
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind == ("b", 1):
        return array.astype(np.uint8) * np.uint8(255)
    _check_unit(array)
    levels: Pixels = np.rint(np.multiply(array, 255, dtype=np.result_type(array, np.float32))).astype(np.uint8)
    return levels


def _check_unit(array: npt.NDArray[Any]) -> None:
    if array.dtype.kind != "f":
        raise ImageError(f"values are uint8, uint16, bool or floats in 0..1, not {array.dtype}")
    if np.isnan(array).any():
        raise ImageError("some values are NaN")
    low, high = array.min(), array.max()
    if low < 0 or high > 1:
        raise ImageError(f"values as floats are in 0..1, these are in {low:g}..{high:g}")


def _one_channel(array: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """The levels of a mask, [H, W]. ImageError if the shape is none that a mask of `size` has."""
    if array.shape in (size, (1, *size), (1, 1, *size), (*size, 1)):
        return array.reshape(size)
    if array.shape in ((*size, 3), (*size, 4)):
        return _luma(_rgb(array, BLACK))
    raise ImageError(f"the mask is {list(array.shape)}, but the picture is {list(size)} [H, W]")


def _levels(mask: ImageLike) -> Pixels:
    try:
        return _pixels(mask, BLACK)
    except ImageError as error:
        raise ImageError(f"cannot read the mask: {error}") from error


def _unit(array: npt.NDArray[Any]) -> Strengths:
    """Levels as parts of the highest one of their type."""
    if array.dtype.kind not in "bu" or array.dtype.itemsize > 2:
        _check_unit(array)
        return array.astype(np.float64)
    return array / (1 if array.dtype.kind == "b" else np.iinfo(array.dtype).max)


def _luma(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).convert("L"))


def box_of(mask: Mask, border: int = 0) -> Box:
    """The rectangle around a mask [H, W], with `border` more on every side that has them; an empty one for an empty."""
    spans = []
    for axis in (1, 0):
        found = np.flatnonzero(mask.any(axis))
        first, last = (int(found[0]) - border, int(found[-1]) + 1 + border) if len(found) else (0, 0)
        spans.append(slice(max(0, first), min(last, mask.shape[1 - axis])))
    return spans[0], spans[1]


def full_box(pixels: Pixels) -> Box:
    """The rectangle of a whole picture [H, W, 3]."""
    return slice(0, pixels.shape[0]), slice(0, pixels.shape[1])


def check_same(one: npt.NDArray[Any], other: npt.NDArray[Any], what: str) -> None:
    """ImageError unless both have the same height and width."""
    if one.shape[:2] != other.shape[:2]:
        raise ImageError(f"{what} of different sizes: {_size(one)} and {_size(other)} (width x height)")


def _size(of: npt.NDArray[Any] | tuple[int, int]) -> str:
    height, width = of if isinstance(of, tuple) else of.shape[:2]
    return f"{width}x{height}"


def _reason(error: BaseException) -> str:
    # The text of an OSError names the temporary file.
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
