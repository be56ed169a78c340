"""How much two pictures differ: PSNR, SSIM and LPIPS, over all of them and inside a mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from retouch.bench.report import Result
from retouch.editing.blend import distance
from retouch.editing.images import ImageError, Pixels, check_same
from retouch.models.extras import require
from retouch.models.lpips import SMALLEST, Lpips
from retouch.plan.region import Mask

MAX_PSNR = 100.0
"""dB; also that of equal pictures. One grey level in one value of a megapixel is 113 dB."""

Errors = npt.NDArray[np.float64]
"""Absolute differences in levels of 0 to 255, [H, W, C]."""


def psnr(error: Errors) -> float | None:
    """Peak signal to noise ratio in dB of differences in levels of 0 to 255; None when there are none."""
    square = float(np.square(error).mean())
    return 10 * math.log10(255**2 / square) if square else None


def inside_and_image(
    name: str, picture: npt.NDArray[Any], truth: npt.NDArray[Any], mask: Mask, **measures: Callable[[Errors], Any]
) -> Result:
    """How far a picture [H, W, C] is from another one, in `mask` [H, W] and over the image: PSNR, under
    `{name}_psnr[_image]_db`, and other measures of absolute differences, under `{name}_{measure}[_image]`.
    """
    found, error = {}, np.abs(picture.astype(np.float64) - truth)
    for where, part in (("", error[mask]), ("_image", error)):
        found[f"{name}_psnr{where}_db"] = psnr(part)
        found |= {f"{name}_{measure}{where}": float(take(part)) for measure, take in measures.items()}
    return found


def compare(a: Pixels, b: Pixels, mask: Mask, lpips: Lpips | None) -> Result:
    """How far apart two pictures [H, W, 3] are, and inside of `mask` bool [H, W]: psnr, psnr_inside, psnr_outside (dB,
    at most MAX_PSNR), ssim, ssim_inside (1 for equal pictures), lpips, lpips_inside (0 for these, nan without `lpips`).

    SSIM has windows of 7x7 pixels. Over all it is the mean of those inside the picture, inside the mask that of
    the windows around its pixels, so near the mask's edge it sees what lies outside.

    Raises ImageError for different sizes, sides below 7 (with `lpips`: SMALLEST) and an empty mask, ExtraError
    naming the extra to install if scikit-image is missing.
    """
    for each in (a, b):
        if each.dtype != np.uint8 or each.ndim != 3 or each.shape[2] != 3:
            raise ImageError(f"a picture is uint8 [H, W, 3], not {each.dtype} {list(each.shape)}")
    check_same(a, b, "pictures")
    check_same(a, mask, "picture and mask")
    smallest = SMALLEST if lpips else 7
    if min(mask.shape) < smallest:
        raise ImageError(f"pictures of {a.shape[1]}x{a.shape[0]} are too small: {smallest} pixels a side are needed")
    if not mask.any():
        raise ImageError("the mask is empty: nothing is inside")
    metrics = require("skimage.metrics", "bench")
    similar, similarity = metrics.structural_similarity(a, b, channel_axis=-1, data_range=255, full=True)
    perceived = np.full(mask.shape, math.nan) if lpips is None else lpips.distance_map(a, b)
    error, found = np.abs(a.astype(np.float64) - b), {"ssim": float(similar)}
    found["ssim_inside"] = float(similarity[mask].mean(dtype=float))
    for where, part in (("", ...), ("_inside", mask), ("_outside", ~mask)):
        decibels = psnr(error[part]) if part is ... or part.any() else None
        found[f"psnr{where}"] = MAX_PSNR if decibels is None else min(MAX_PSNR, decibels)
    for where, part in (("", ...), ("_inside", mask)):
        found[f"lpips{where}"] = float(perceived[part].mean(dtype=float))
    return found


def seam(result: Pixels, before: Pixels, mask: Mask, border: int) -> float:
    """How much more a result steps across the border of its region than the unedited picture does there.

    Grey levels a step: the mean absolute difference of neighbours over channels, of the result less that of the picture
    before [H, W, 3]. The neighbours are those of which one is a square further from `mask` [H, W], from its edge
    through all of the border to the first pixels that no edit changes. So a change of tone counts the same whether it
    comes at once or as a ramp. nan where there are none.
    """
    away, steps = distance(mask, border + 1), []
    for axis in (0, 1):
        after, earlier = (np.abs(np.diff(picture.astype(np.int64), axis=axis)) for picture in (result, before))
        steps.append((after - earlier)[np.diff(away, axis=axis) != 0])
    found = np.concatenate(steps)
    return float(found.mean()) if len(found) else math.nan
