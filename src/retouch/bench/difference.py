"""How much two pictures differ: PSNR, SSIM and LPIPS, over all of them and inside a mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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


def inside_and_image(name: str, error: Errors, mask: Mask, **measures: Callable[[Errors], Any]) -> Result:
    """Measures of an error [H, W, C] in `mask` [H, W] and over the image, under `{name}_{measure}[_image]`."""
    found = {"psnr_db": lambda part: psnr(part), **measures}
    parts = {"": error[mask], "_image": error}
    return {
        f"{name}_{measure.removesuffix('_db')}{where}{'_db' if measure.endswith('_db') else ''}": take(part)
        for where, part in parts.items()
        for measure, take in found.items()
    }


@dataclass(frozen=True)
class Difference:
    """How far apart two pictures are, over all pixels and over those inside a mask.

    psnr: dB, at most MAX_PSNR. ssim: 1 for equal pictures. lpips: 0 for equal pictures, nan if not computed.
    """

    psnr: float
    ssim: float
    lpips: float
    psnr_inside: float
    ssim_inside: float
    lpips_inside: float


def compare(a: Pixels, b: Pixels, mask: Mask, lpips: Lpips | None) -> Difference:
    """The difference of two pictures [H, W, 3]; `mask` bool [H, W] says what is inside.

    lpips: None leaves LPIPS out.

    SSIM has windows of 7x7 pixels. Over all it is the mean of those inside the picture, inside the mask that of
    the windows around its pixels, so near the mask's edge it sees what lies outside.

    Raises ImageError for different sizes, sides below 7 (with `lpips`: SMALLEST) and an empty mask, ExtraError
    naming the extra to install if scikit-image is missing.
    """
    _check(a, b, SMALLEST if lpips else 7)
    check_same(a, mask, "picture and mask")
    if not mask.any():
        raise ImageError("the mask is empty: nothing is inside")
    metrics = require("skimage.metrics", "bench")
    similar, similarity = metrics.structural_similarity(a, b, channel_axis=-1, data_range=255, full=True)
    distance = np.full(mask.shape, math.nan) if lpips is None else lpips.distance_map(a, b)
    error = np.abs(a.astype(np.float64) - b)
    everywhere, inside = (
        min(MAX_PSNR, MAX_PSNR if found is None else found) for found in map(psnr, (error, error[mask]))
    )
    return Difference(
        everywhere, float(similar), _mean(distance), inside, _mean(similarity[mask]), _mean(distance[mask])
    )


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


def _mean(values: npt.NDArray[np.floating[Any]]) -> float:
    return float(values.mean(dtype=np.float64))


def _check(a: Pixels, b: Pixels, smallest: int) -> None:
    for each in (a, b):
        if each.dtype != np.uint8 or each.ndim != 3 or each.shape[2] != 3:
            raise ImageError(f"a picture is uint8 [H, W, 3], not {each.dtype} {list(each.shape)}")
    check_same(a, b, "pictures")
    if min(a.shape[:2]) < smallest:
        raise ImageError(f"pictures of {a.shape[1]}x{a.shape[0]} are too small: {smallest} pixels a side are needed")
