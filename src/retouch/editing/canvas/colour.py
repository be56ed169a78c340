"""Colour profiles: a model sees sRGB, whatever the levels of a picture stand for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from retouch.editing.images import Pixels
from retouch.errors import FallbackWarning

RGB = "RGB"
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
SAME = 1
"""Levels; a profile that moves no colour further is sRGB."""


@dataclass(frozen=True)
class Profile:
    """Conversions of 8-bit RGB between a profile and sRGB; colours that the other cannot hold are clipped."""

    to_srgb: Any
    from_srgb: Any

    def seen(self, pixels: Pixels) -> Pixels:
        """Levels of the profile [H, W, 3] as sRGB."""
        return _applied(pixels, self.to_srgb)

    def stored(self, pixels: Pixels) -> Pixels:
        """SRGB [H, W, 3] as levels of the profile."""
        return _applied(pixels, self.from_srgb)


def profile_of(icc: bytes | None) -> Profile | None:
    """What converts pixels of a profile of RGB; None for none, for sRGB, and (FallbackWarning) for a broken one."""
    if icc is None:
        return None
    try:
        found, srgb = ImageCms.ImageCmsProfile(BytesIO(icc)), ImageCms.createProfile("sRGB")
        profile = Profile(
            ImageCms.buildTransform(found, srgb, RGB, RGB, INTENT),
            ImageCms.buildTransform(srgb, found, RGB, RGB, INTENT),
        )
    except (ImageCms.PyCMSError, OSError) as error:
        _warn(error, "the model sees its levels as sRGB, and the file keeps the profile")
        return None
    ramp = np.linspace(0, 255, 9).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(ramp, ramp, ramp), -1).reshape(81, 9, 3)
    moved = np.abs(profile.seen(colours).astype(int) - colours)
    return profile if moved.max() > SAME else None


def is_rgb(icc: bytes) -> bool:
    """True for a profile of RGB (ICC.1:2022, section 7.2.8: the space's signature at byte 16)."""
    return icc[16:20] == b"RGB "


def converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Turns parts of an image of grey levels or inks into sRGB by its profile; else leaves them to Pillow."""
    icc = image.info.get("icc_profile")
    if not icc or image.mode not in ("L", "CMYK", "LAB") or image.has_transparency_data:
        return lambda part: part
    try:
        source, srgb = ImageCms.ImageCmsProfile(BytesIO(icc)), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, srgb, image.mode, RGB, INTENT)
    except (ImageCms.PyCMSError, OSError) as error:
        _warn(error, "its levels are converted without it")
        return lambda part: part
    return lambda part: ImageCms.applyTransform(part, transform) or part


def _applied(pixels: Pixels, transform: Any) -> Pixels:
    return np.array(ImageCms.applyTransform(Image.fromarray(pixels), transform))


def _warn(error: Exception, instead: str) -> None:
    warnings.warn(f"the picture's colour profile cannot be used ({error}): {instead}", FallbackWarning, stacklevel=3)
