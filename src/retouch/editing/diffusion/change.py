"""What an edit of a diffusion session comes to, and when each of its pixels joins."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from retouch.editing.diffusion.model import Conditioning
from retouch.editing.diffusion.schedulers import SchedulerError
from retouch.editing.images import Pixels, Strengths
from retouch.plan.areas import Areas
from retouch.plan.region import Mask

Joins = npt.NDArray[np.int32]
"""[H, W], the step at which a pixel joins an edit; `NEVER` where it stays."""

NEVER = np.iinfo(np.int32).max

SLACK = 1e-7
"""A mask in float32 has no more digits: 0.7 of 10 steps is 7 steps."""


@dataclass(frozen=True)
class Change:
    """What an edit comes to: pixels, when each joins (at least one does), conditioning, how the result is set in (a
    name of `editing.blend.BLENDS`); whether all is repainted.

    areas: those with texts of their own; words: these texts, as facts of versions have them.
    """

    pixels: Pixels
    joins: Joins
    conditioning: Conditioning
    blend: str
    repaint: bool = False
    areas: Areas | None = None
    words: tuple[dict[str, str | None], ...] = ()

    @cached_property
    def mask(self) -> Mask:
        """The pixels that join at all, bool `[H, W]`."""
        return self.joined(NEVER - 1)

    def joined(self, i: int) -> Mask:
        """The pixels that have joined when step i begins, bool `[H, W]`."""
        found: Mask = self.joins <= i
        return found

    @cached_property
    def steps(self) -> frozenset[int]:
        """The steps at which pixels join."""
        return frozenset(np.unique(self.joins[self.mask]).tolist())

    @property
    def start(self) -> int:
        """The first step."""
        return min(self.steps)


def joins(strengths: Strengths, strength: float, start: Callable[[float], int]) -> Joins:
    """The step at which each pixel joins an edit: `start` of its own strength, which the mask scales.

    start: the first step of an edit of that strength; later for a smaller one, SchedulerError where none is left.
    """

    def first(level: float) -> int:
        try:
            return start(min(strength, strength * level + SLACK))
        except SchedulerError:
            return NEVER

    found, inside = np.full(strengths.shape, NEVER, np.int32), strengths > 0
    levels, places = np.unique(strengths[inside], return_inverse=True)
    steps, low = np.full(len(levels), NEVER, np.int32), 0
    while low < len(levels):
        step = first(levels[low])
        high = bisect_right(levels, -step, low, key=lambda level: -first(level))
        steps[low:high] = step
        low = high
    found[inside] = steps[places]
    return found
