"""How far an edit may be from what the dense model makes of it: one denoising step held against the dense network.

Errors of an update come from what it reads outside its region, which is much the same at every step. So one
step tells, and a quarter of the way, where the picture takes shape, it tells most (`benchmarks/quality.md`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

PLACE = 0.25
"""The step that is checked, as a share of an edit's steps."""


@dataclass(frozen=True, eq=False)
class StepCheck:
    """What an edit predicted at one step, and how the dense network is asked for the same.

    output: `[1, C, h, w]`; dense: runs the network on the same inputs; inside: bool `[1, 1, h, w]`, the positions
    of the mask, not grown; levels: grey levels of the clean image that a prediction differs by if it differs by 1;
    decoded: whether a decoder adds an error of its own.
    """

    output: Tensor
    dense: Callable[[], Tensor]
    inside: Tensor
    levels: float
    decoded: bool

    @cached_property
    def disagreement(self) -> float:
        """Root mean square difference inside of the clean images that the predictions stand for, in grey levels.

        Takes one dense run when first asked for.
        """
        difference = (self.output - self.dense()).square().mean(1, keepdim=True)
        return self.levels * float(difference[self.inside].mean().sqrt())

    @property
    def error(self) -> float:
        """The estimate: root mean square difference from the dense model inside the region, in grey levels."""
        return math.hypot(GAIN * self.disagreement, FLOOR if self.decoded else 0)


GAIN, FLOOR = 1.3, 1.3
"""Error for a disagreement of one grey level, and grey levels that encoder and decoder add: fitted on the quality
suite."""


def checked_step(count: int) -> int:
    """Which of an edit's steps is checked."""
    return math.floor(PLACE * count)
