"""How far an edit may be from what the dense model makes of it: one denoising step held against the dense network.

Errors of an update come from what it reads outside its region, which is much the same at every step. So one
step tells, and a quarter of the way, where the picture takes shape, it tells most (`benchmarks/quality.md`).
How much of an error a disagreement stands for depends on the model: it is calibrated on an edit of the session's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from retouch.editing.images import Pixels
from retouch.plan.region import Mask

PLACE = 0.25
"""The step that is checked, as a share of an edit's steps."""

SILENT = 1e-2
"""A disagreement in grey levels below which an edit tells nothing of a model's gain."""


@dataclass(frozen=True)
class Calibration:
    """What a disagreement stands for: error for each grey level of it, and grey levels that the autoencoder adds."""

    gain: float
    floor: float

    @staticmethod
    def measured(disagreement: float, error: float, floor: float) -> Calibration:
        """From one edit, all in grey levels: what its checked step says, its true error, the autoencoder's part.

        An edit that says nothing, and one that came out well by chance, do not make the error less than a
        disagreement.
        """
        gain = math.sqrt(max(0.0, error**2 - floor**2)) / disagreement if disagreement > SILENT else 1.0
        return Calibration(max(1.0, gain), floor)

    @staticmethod
    def saved(found: Any) -> bool:
        """True for one as manifests hold it."""
        known = isinstance(found, dict) and set(found) == {"gain", "floor"}
        return known and all(isinstance(x, float) and 0 <= x < math.inf for x in found.values())


EXACT = Calibration(1.0, 0.0)
"""Where updates equal the dense model, but for rounding."""

FITTED = {"builtin/emoji": Calibration(1.3, 1.3)}
"""Of models by name: fitted on the quality suite, over many edits instead of one."""


@dataclass(frozen=True, eq=False)
class StepCheck:
    """What an edit predicted at one step, and how the dense network is asked for the same.

    output: `[1, C, h, w]`; dense: runs the network on the same inputs; inside: bool `[1, 1, h, w]`, the positions
    of the mask, not grown; levels: grey levels of the clean image that a prediction differs by if it differs by 1;
    decoded: whether a decoder adds an error of its own; calibration: of the model. What is called is called when it is
    first asked for.
    """

    output: Tensor = field(repr=False)
    dense: Callable[[], Tensor] = field(repr=False)
    inside: Tensor = field(repr=False)
    levels: Callable[[], float] = field(repr=False)
    decoded: bool
    calibration: Callable[[], Calibration] = field(repr=False)

    @cached_property
    def disagreement(self) -> float:
        """Root mean square difference inside of the clean images that the predictions stand for, in grey levels.

        Takes one dense run when first asked for.
        """
        difference = (self.output - self.dense()).square().mean(1, keepdim=True)
        return self.levels() * float(difference[self.inside].mean().sqrt())

    @property
    def error(self) -> float:
        """The estimate: root mean square difference from the dense model inside the region, in grey levels."""
        found = self.calibration()
        return math.hypot(found.gain * self.disagreement, found.floor if self.decoded else 0)


def checked_step(count: int) -> int:
    """Which of an edit's steps is checked."""
    return math.floor(PLACE * count)


def sample_edit(pixels: Pixels) -> tuple[Pixels, Mask]:
    """An edit to calibrate on: the picture [H, W, 3] with four inverted squares of a tenth of its side, and where."""
    height, width = pixels.shape[:2]
    side = max(1, min(height, width) // 10)
    mask: Mask = np.zeros((height, width), np.bool_)
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            mask[y - side // 2 : y - side // 2 + side, x - side // 2 : x - side // 2 + side] = True
    return np.where(mask[..., None], 255 - pixels, pixels), mask


def root_mean_square(one: Pixels, other: Pixels, mask: Mask) -> float:
    """Difference of two pictures [H, W, 3] inside a mask [H, W], in grey levels."""
    difference = one[mask].astype(np.float64) - other[mask]
    return float(np.sqrt(np.square(difference).mean()))
