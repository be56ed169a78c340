"""How the result of an edit is set into the picture around it, so that no seam shows.

All methods change pixels inside the mask and its border alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from retouch.editing.images import ImageError, Pixels, box_of, check_same
from retouch.errors import OptionError
from retouch.plan.region import Mask, dilate

Distance = npt.NDArray[np.int64]
"""Squares around a mask that each pixel [H, W] lies outside of: 0 in the mask."""
Planes = npt.NDArray[np.floating[Any]]
"""Channels [C, H, W] to compute with, float32."""
Levels = npt.NDArray[Any]
"""Pixels in grey levels, [H, W, 3] or as rows [n, 3]."""
Blend = Callable[[Levels, Levels, Distance, int], Levels]
"""From the current and the new picture [H, W, 3], the distance and the border: the rows of what may change, those
that are no further away than the border.
"""

TONE = 32.0
"""Grey levels; where pictures differ by more, that is content rather than tone."""


def blend(current: Pixels, new: Pixels, mask: Mask, border: int, method: str) -> Pixels:
    """`new` inside `mask` [H, W], `current` further than `border` pixels from it, and a passage between.

    Distances are counted in squares, as `retouch.plan.region.dilate` grows them. method: a name of `BLENDS`. Further
    away than the border pixels [H, W, 3] are copied. Returns a new array.

    Raises ImageError for different sizes or a negative border, OptionError for an unknown method.
    """
    check_same(current, new, "pictures")
    check_same(current, mask, "picture and mask")
    if border < 0:
        raise ImageError(f"a border counts pixels and cannot be {border}")
    made, blended = BLENDS[checked(method)], np.array(current, order="C")
    if mask.any():
        box = box_of(mask, border)
        away = distance(mask[box], border + 1)
        rows = made(current[box], new[box], away, border)
        blended[box][away <= border] = np.rint(rows).clip(0, 255)
    return blended


def checked(method: str) -> str:
    """The name of a method; OptionError for another."""
    if method not in BLENDS:
        raise OptionError(f"unknown blend {method!r}; choose from {', '.join(BLENDS)}")
    return method


def distance(mask: Mask, limit: int) -> Distance:
    """Squares around `mask` [H, W] that a position lies outside of: its distance, at most `limit`."""
    found = np.zeros(mask.shape, dtype=np.int64)
    reached = mask[None]
    for _ in range(limit):
        if reached.all():
            break
        found += ~reached[0]
        reached = dilate(reached, 1)
    return found


def is_blend(found: Any) -> bool:
    """True for the name of a method."""
    return isinstance(found, str) and found in BLENDS


# Methods


def _fade(current: Levels, new: Levels, distance: Distance, border: int) -> Levels:
    """A linear ramp: at distance k the new picture has the weight 1 - k / (border + 1)."""
    inside = distance <= border
    weight = 1 - distance[inside, None] / (border + 1)
    old = current[inside].astype(np.float64)
    mixed: Levels = old + weight * (new[inside] - old)
    return mixed


def _multiband(current: Levels, new: Levels, distance: Distance, border: int) -> Levels:
    """Each band of frequencies passes over about its own wavelength, in the middle of the border.

    Burt and Adelson, "A multiresolution spline with application to image mosaics" (1983), with means of 2x2 and
    bilinear interpolation as filters and as many bands as have wavelengths within the border.
    """
    weight = (distance <= border // 2).astype(np.float32)[None]
    levels = max(0, min(border, *distance.shape).bit_length() - 1)
    return np.moveaxis(_spline(_planes(current), _planes(new), weight, levels), 0, 2)[distance <= border]


def _spline(current: Planes, new: Planes, weight: Planes, levels: int) -> Planes:
    if not levels:
        return current + weight * (new - current)
    old, other, share = (_halved(x) for x in (current, new, weight))
    fine = current - _doubled(old, current)
    found = fine + weight * (new - _doubled(other, new) - fine)
    return found + _doubled(_spline(old, other, share, levels - 1), current)


def _harmonise(current: Levels, new: Levels, distance: Distance, border: int) -> Levels:
    """The new picture faded in after its tone was matched to the current one in the border.

    There both pictures are known and nothing was edited. Their difference is smoothly continued over the mask, as the
    membrane of Perez et al., "Poisson image editing" (2003), by pulling and pushing (Gortler et al., "The Lumigraph",
    1996, section 3.4). Large differences, where content grew over the mask's edge, count little (Geman and McClure's
    weights). Without a border nothing is matched.
    """
    difference = _planes(current) - _planes(new)
    tone = 1 / (1 + np.square(difference).mean(0) / TONE**2) ** 2
    weight = np.where((distance > 0) & (distance <= border), tone, 0)[None]
    matched = _doubled(_continued(*_pulled(difference, weight)), difference)
    return _fade(current, new + np.moveaxis(matched, 0, 2), distance, border)


def _continued(values: Planes, weight: Planes) -> Planes:
    """Values `[C, H, W]` where their weight `[1, H, W]` is 1, else what coarser ones say, and 0 where none does."""
    if max(values.shape[1:]) == 1:
        return weight * values
    smooth = _doubled(_continued(*_pulled(values, weight)), values)
    return smooth + weight * (values - smooth)


def _pulled(values: Planes, weight: Planes) -> tuple[Planes, Planes]:
    """Means of 2x2 values by their weights, and the sums of these, at most 1."""
    mean = _halved(weight)
    return _halved(weight * values) / np.where(mean > 0, mean, 1), np.minimum(4 * mean, 1)


BLENDS: Mapping[str, Blend] = {"fade": _fade, "multiband": _multiband, "harmonise": _harmonise}
"""Methods by name."""
FADE, DEFAULT = "fade", "harmonise"
"""The method of sessions that name none, which are old, and that of new ones."""


# Arrays


def _planes(picture: Levels) -> Planes:
    """`[H, W, 3]` as `[3, H, W]`."""
    return np.moveaxis(picture, 2, 0).astype(np.float32)


def _halved(planes: Planes) -> Planes:
    """Means of 2x2, fewer at odd ends."""
    return np.stack([np.asarray(Image.fromarray(plane).reduce(2)) for plane in planes])


def _doubled(planes: Planes, like: Planes) -> Planes:
    """Interpolated to the height and width of another array."""
    size = like.shape[:0:-1]
    return np.stack([np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)) for plane in planes])
