"""An edit that waits to be made: what was drawn, apart from the picture that it will be made on."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from retouch.editing.archive import Progress
from retouch.editing.diffusion.asked import Asked
from retouch.editing.diffusion.refine import Refinement
from retouch.editing.images import Pixels, Strengths, pasted
from retouch.editing.jobs import Job, Task
from retouch.editing.version import Edited
from retouch.plan.region import Mask


@dataclass(eq=False)
class Drawing(Task[Edited]):
    """An edit of a diffusion session as it was asked for, apart from the picture that it will be made on.

    pixels: a picture `[H, W, 3]`, of which `drawn` `[H, W]` are strokes. mask: strengths `[H, W]`; None: the words find
    the region. asked: all else. make: computes it for a job, and says how to refine it. place: where an edit of a mask
    meets others.
    """

    make: Callable[[Drawing, Job[Edited]], tuple[Edited, Refinement | None]]
    place: Callable[[Mask], Hashable]
    pixels: Pixels
    drawn: Mask
    mask: Strengths | None
    asked: Asked
    max_error: float | None
    refining: float | str | None
    progress: Progress

    def on(self, picture: Pixels) -> Pixels:
        """A picture with the strokes on it."""
        return pasted(self.pixels, self.drawn, picture)

    @cached_property
    def meets(self) -> Hashable:
        """What the session says; None where words find the region, where areas have words, and where edits may be
        computed more than once.
        """
        if self.mask is None or self.asked.areas or self.max_error is not None:
            return None
        return self.place(self.mask > 0)

    def joined(self, older: Task[Edited]) -> Drawing | None:
        """These strokes over older ones, in both regions; words and options of this where they are given.

        None where a region is to be found by words and the other is not, and where one fills and the other redraws.
        """
        if not isinstance(older, Drawing) or self.asked.inpaint != older.asked.inpaint:
            return None
        mask = None
        if self.mask is not None and older.mask is not None:
            mask = np.maximum(self.mask, older.mask)
        elif self.mask is not older.mask:
            return None
        return replace(
            self,
            pixels=self.on(older.pixels),
            drawn=self.drawn | older.drawn,
            mask=mask,
            asked=self.asked.over(older.asked),
        )

    def run(self, job: Job[Edited]) -> Edited:
        """Make the edit of the current picture."""
        edited, self.after = self.make(self, job)
        return edited
