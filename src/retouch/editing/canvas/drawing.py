"""Edits of a canvas as jobs, what they show on the way, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from retouch.editing.archive import Progress
from retouch.editing.calls import Calls, Cancelled
from retouch.editing.canvas.planner import Candidate, Plan
from retouch.editing.canvas.request import Request
from retouch.editing.canvas.resample import Scaling, scaled
from retouch.editing.canvas.view import Refinement, Replace
from retouch.editing.canvas.viewport import canvas_box, common, inside
from retouch.editing.images import Box, Pixels
from retouch.editing.jobs import After, Content, Counted, Job, Kind, Task, made
from retouch.editing.version import Edited, Version


@dataclass(frozen=True, eq=False)
class Composed:
    """What an edit of a canvas came to.

    rectangle: left, top, right and bottom of what it may have changed; image: that part of the canvas.
    seconds: by what they were spent on. plan: how it was made and might have been; None: it changes nothing.
    edited: what the session of its viewport says.
    """

    rectangle: tuple[int, int, int, int]
    image: Image.Image
    seconds: dict[str, float]
    plan: Plan | None = None
    edited: Edited | None = None

    @property
    def error(self) -> float | None:
        """An estimate of how far the result is from the dense model's; see `Edited.error`."""
        return self.edited.error if self.edited else None

    @property
    def changed(self) -> bool:
        """False when the edit changed nothing."""
        return self.plan is not None


@dataclass(eq=False)
class Refining:
    """An edit in a viewport that is bettered there, and set into the canvas anew after each stage.

    version: of the canvas, what came of the edit last. compose: sets pixels [H, W, 3] of the viewport in and puts that
    in the place of a version, with facts that are others now; Cancelled when that is no longer the last.
    """

    refinement: Refinement
    version: Version
    compose: Callable[[Version, Pixels, Mapping[str, Any]], tuple[Version, Box, Pixels]]
    is_last: Callable[[Version], bool]
    lock: AbstractContextManager[Any]

    def stale(self) -> bool:
        """True when nothing is left to do, or too late."""
        return self.refinement.stale() or not self.is_last(self.version)

    def refine(self, job: Job[Composed]) -> None:
        """Compute the stages that are needed; a frame shows what changed."""
        self.refinement.refine(_Silent(), lambda put: partial(self._replaced, job, put))

    def _replaced(
        self, job: Job[Composed], put: Replace, old: Version, calls: Calls, tensors: dict[str, Tensor],
        facts: dict[str, Any],
    ) -> Version:  # fmt: skip
        with self.lock:  # of the canvas first, as everywhere
            if not self.is_last(self.version):
                raise Cancelled
            its = put(old, calls, tensors, facts)
            self.version, box, pixels = self.compose(self.version, its.pixels, {"refined": facts["refined"]})
        steps = int(facts["steps"])
        job.show("refined", self.version.number, box, pixels, (steps, steps), calls)
        return its


class _Silent:
    """Frames of a viewport that nobody sees: the canvas shows its own."""

    def show(self, *_: Any) -> None:
        pass


@dataclass(eq=False)
class Drawing(Task[Composed]):
    """A request as a job; None: nothing is edited. make: computes it for the job, and says what follows."""

    make: Callable[[Drawing, Job[Composed]], tuple[Composed, After | None]]
    request: Request | None
    plan: Candidate | str | None
    progress: Progress
    refine_to: float | str | None = None

    def run(self, job: Job[Composed]) -> Composed:
        """Make the edit of the current picture."""
        composed, self.after = self.make(self, job)
        return composed

    def joined(self, older: Task[Composed]) -> Drawing | None:
        """These strokes over older ones; None where one fills and the other redraws."""
        if not isinstance(older, Drawing) or self.request is None or older.request is None:
            return None
        request = self.request.over(older.request)
        return None if request is None else replace(self, request=request)


@dataclass(eq=False)
class Expanding(Task[Composed]):
    """A picture made larger, as a job."""

    make: Callable[[Job[Composed]], Composed]

    def run(self, job: Job[Composed]) -> Composed:
        """Do it."""
        return self.make(job)


@dataclass(eq=False)
class Preparation(Task[None]):
    """Records a viewport when nothing else needs the device; begun anew when it was interrupted."""

    record: Callable[[], None]
    is_needed: Callable[[], bool]

    def run(self, job: Job[None]) -> None:
        """Nothing: what is to be done is done as refinements are."""

    def stale(self) -> bool:
        """True when the viewport is there."""
        return not self.is_needed()

    def refine(self, job: Job[None]) -> None:
        """Record it."""
        self.record()


@dataclass(frozen=True, eq=False)
class Framed:
    """Shows frames of a viewport's session as a job's, in pixels of the canvas.

    current: what the canvas shows in the request's box.
    """

    job: Job[Composed]
    viewport: Scaling
    request: Request
    current: Pixels
    version: int

    def show(
        self, kind: Kind, version: int, box: Box, content: Content, at: tuple[int, int], counted: Counted | None = None
    ) -> None:
        """Show a preview; the result is the canvas's to show."""
        part, seen = canvas_box(self.viewport, box), common(box, self.viewport.window)
        both = None if part is None else common(part, self.request.box)
        if kind != "preview" or part is None or seen is None or both is None:
            return
        size, within = (part[0].stop - part[0].start, part[1].stop - part[1].start), inside(both, self.request.box)

        def shown() -> Pixels:
            coming = scaled(np.ascontiguousarray(made(content)[inside(seen, box)]), size)[inside(both, part)]
            return np.where(self.request.mask[within][..., None], coming, self.current[within])

        self.job.show(kind, self.version, both, shown, at, counted)
