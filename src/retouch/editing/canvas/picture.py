"""A picture of any size and depth as it stands in its file, which edits change in place and take back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from retouch.editing.canvas.colour import Profile, profile_of
from retouch.editing.canvas.files import Contents, Levels, of_image, read, strips, write
from retouch.editing.canvas.rows import Rows
from retouch.editing.images import (
    MAX_PIXELS,
    WHITE,
    Box,
    ImageError,
    ImageLike,
    Pixels,
    Strengths,
    box_of,
    channels_in,
    check_same,
    decoding,
    eight_bit,
    over,
    reading,
    saved,
)
from retouch.plan.region import Mask


@dataclass(eq=False)
class Patch:
    """Levels that one change of a picture replaced, or is to put in again.

    box: the rectangle around them. mask: bool [h, w], where they are in it. levels: [n, 3], row by row.
    """

    box: Box
    mask: Mask
    levels: Rows

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.mask.nbytes + self.levels.nbytes


Weights = Strengths | npt.NDArray[np.float32] | Mask
Part = Callable[[slice], tuple[Pixels, Weights]]
"""Pixels of sRGB [h, w, 3] and weights [h, w] from 0 to 1 of some rows of a box."""


@dataclass(eq=False)
class Picture:
    """A picture with all that its file says of it.

    levels: uint8 or uint16 [H, W, 3 or 4], red, green, blue, and alpha if it has one, in the colours of the profile.
    icc: the profile of RGB; None: sRGB. exif: EXIF without an orientation, the picture being upright.
    """

    levels: Levels
    icc: bytes | None = None
    exif: bytes | None = None

    @staticmethod
    def read(source: ImageLike) -> Picture:
        """From a file, a Pillow image, an array or tensor as `as_pixels` takes them, but with its alpha; always a copy.

        16-bit levels are kept where they come from PNG or TIFF files, 16-bit grey images, or arrays. EXIF rotation is
        applied. Grey levels and inks become sRGB. Raises ImageError for what cannot be read, and for more than 100
        megapixels.
        """
        if isinstance(source, str | os.PathLike):
            with reading(Path(source)), Path(source).open("rb") as file:
                return Picture._of(read(file))
        if isinstance(source, Image.Image):
            with decoding():
                return Picture._of(of_image(source))
        return Picture(_of_array(source))

    @staticmethod
    def of_file(file: IO[bytes], formats: tuple[str, ...]) -> Picture:
        """From an open file of one of some formats, as Pillow names them; ImageError as `read`."""
        with decoding():
            return Picture._of(read(file, formats))

    @staticmethod
    def _of(contents: Contents) -> Picture:
        return Picture(contents.levels, contents.icc, contents.exif)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.levels.shape[0], self.levels.shape[1]

    @property
    def pixels(self) -> Levels:
        """The colours, uint8 or uint16 [H, W, 3]: a view."""
        return self.levels[..., :3]

    @property
    def alpha(self) -> Levels | None:
        """How opaque it is, of the same type [H, W]: a view; None: everywhere."""
        return self.levels[..., 3] if self.levels.shape[2] == 4 else None

    @cached_property
    def profile(self) -> Profile | None:
        """What converts its colours; None for sRGB."""
        return profile_of(self.icc)

    def check_box(self, box: Box) -> None:
        """ImageError unless a box lies in the picture and has pixels."""
        for span, limit in zip(box, self.size, strict=True):
            if not 0 <= span.start < span.stop <= limit:
                raise ImageError(
                    f"the box of rows {box[0].start} to {box[0].stop} and columns {box[1].start} to {box[1].stop} does "
                    f"not lie in the picture of {self.size[1]}x{self.size[0]} pixels"
                )

    def seen(self, box: Box | None = None) -> Pixels:
        """What a model sees of it, or of a box: a new array of sRGB [h, w, 3] in 8 bits, on white.

        Raises ImageError for a box that does not lie in it.
        """
        part = self._part(box)
        found = np.empty((*part.shape[:2], 3), np.uint8)
        for rows in strips(part.shape):
            levels = eight_bit(part[rows])
            colours = levels[..., :3]
            if self.profile is not None:
                colours = self.profile.seen(np.ascontiguousarray(colours))
            found[rows] = colours if self.alpha is None else over(np.dstack([colours, levels[..., 3]]), WHITE)
        return found

    def put(self, box: Box, pixels: Pixels, weights: Weights) -> Patch:
        """Mix pixels of sRGB [h, w, 3] into a box by their weights [h, w] from 0 to 1; returns what they replaced.

        Levels are mixed in the picture's depth and colours, 8-bit ones as 257 times themselves in 16 bits. Where the
        weight is 0 no bit changes, and alpha does nowhere. Raises ImageError for a box outside and for other sizes.
        """
        part = self._part(box)
        check_same(part, pixels, "box and pixels")
        check_same(part, weights, "box and weights")
        return self.put_parts(box, lambda rows: (pixels[rows], weights[rows]))

    def put_parts(self, box: Box, made: Part, rows: int = 1) -> Patch:
        """`put`, of what is made of some rows at a time: at least so many, but for the last."""
        part = self._part(box)
        mask, levels = np.zeros(part.shape[:2], np.bool_), Rows(part.dtype)
        for some in strips(part.shape, rows):
            pixels, weights = made(some)
            active = weights > 0
            old = part[some][..., :3][active]
            mixed = self._mixed(old, pixels[active], weights[active])
            changed = (mixed != old).any(1)
            mask[some][active] = changed
            levels.add(mixed[changed])
        tight = box_of(mask)
        patch = Patch(_moved(tight, box), mask[tight].copy(), levels)
        self.swap(patch)
        return patch

    def swap(self, patch: Patch) -> None:
        """Exchange the levels of the picture and a patch in place: done twice, everything is as it was."""
        part, done = self.levels[patch.box], 0
        for rows in strips(part.shape):
            mask = patch.mask[rows]
            ours, theirs = part[rows][..., :3], slice(done, done + int(mask.sum()))
            replaced = ours[mask]
            ours[mask] = patch.levels[theirs]
            patch.levels[theirs] = replaced
            done = theirs.stop

    def write(self, path: str | os.PathLike[str]) -> Path:
        """To a file of the format that the suffix names, with profile and EXIF; it appears complete or not at all.

        PNG and TIFF keep every level and alpha. Others hold 8 bits, JPEG no alpha, and it loses some detail. Returns
        the path. Raises ImageError for an unknown suffix and when writing fails.
        """
        contents = Contents(self.levels, self.icc, self.exif)
        return saved(Path(path), lambda file, kind: write(contents, kind, file))

    def _part(self, box: Box | None) -> Levels:
        if box is None:
            return self.levels
        self.check_box(box)
        return self.levels[box]

    def _mixed(self, old: Levels, pixels: Pixels, weights: npt.NDArray[np.floating | np.bool_]) -> Levels:
        """Rows [n, 3] of levels with `pixels` in them by their weights [n]."""
        new = self.profile.stored(pixels[None])[0] if self.profile is not None and len(pixels) else pixels
        unit = 257.0 if old.dtype == np.uint16 else 1.0
        mixed: Levels = np.rint(old + weights[:, None] * (new * unit - old))
        return mixed.astype(old.dtype)


def _of_array(source: npt.NDArray[Any] | Tensor) -> Levels:
    """A copy of an array or tensor as levels."""
    found = channels_in(source)
    if found.shape[0] * found.shape[1] > MAX_PIXELS:
        raise ImageError(f"it is {found.shape[1]}x{found.shape[0]}, more than {MAX_PIXELS} pixels")
    levels = found if found.dtype == np.uint16 else eight_bit(found)
    return np.array(np.broadcast_to(levels, (*levels.shape[:2], max(3, levels.shape[2]))))


def _moved(box: Box, into: Box) -> Box:
    """A box within another one, in what that one lies in."""
    return (
        slice(into[0].start + box[0].start, into[0].start + box[0].stop),
        slice(into[1].start + box[1].start, into[1].start + box[1].stop),
    )
