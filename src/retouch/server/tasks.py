"""What a server's jobs do beside the edits of the library."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np

from retouch.editing.archive import Progress
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.drawing import Composed
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.images import Box, box_of, full_box
from retouch.editing.jobs import Job, Task
from retouch.editing.kinds import AnySession
from retouch.editing.version import Edited
from retouch.server.drawn import Drawn

R = TypeVar("R")


@dataclass(eq=False)
class Question(Task[R], Generic[R]):
    """Something that a session's device finds out."""

    ask: Callable[[], R]

    def run(self, job: Job[R]) -> R:
        """The answer."""
        return self.ask()


@dataclass(eq=False)
class Draft(Task[None]):
    """An edit that is shown, and of which nothing stays: it is made on a branch of the session that is thrown away."""

    session: AnySession
    drawn: Drawn
    progress: Progress

    @cached_property
    def meets(self) -> Hashable:
        """Where the edit would."""
        session, mask = self.session, self.drawn.mask
        if not isinstance(session, DiffusionSession) or mask is None or self.drawn.areas:
            return None
        return session.meets(mask > 0)

    def run(self, job: Job[None]) -> None:
        """Compute it and show where it differs."""
        branch: Any = self.session.branch()
        asked = self.drawn.asked(branch)
        edit = branch.inpaint if asked.pop("inpaint", False) else branch.edit
        if isinstance(branch, Canvas):
            with branch:
                self._on_canvas(branch, edit, asked, job)
            return
        before = branch.pixels
        edit(progress=self.progress, **asked)
        pixels = branch.pixels
        box = box_of((pixels != before).any(-1))
        job.show("preview", branch.version.number, box, pixels[box], (1, 1))

    def _on_canvas(self, branch: Canvas, edit: Callable[..., Composed], asked: dict[str, Any], job: Job[None]) -> None:
        """Only in a viewport that is recorded: what a draft records would be thrown away."""
        plan = branch.plan(**asked)
        if plan is None or plan.chosen.way != "sparse":
            return
        result = edit(progress=self.progress, plan=plan.chosen, **asked)
        job.show("preview", branch.version.number, _box(result), np.asarray(result.image), (1, 1))


@dataclass(eq=False)
class Varied(Task[Edited | Composed]):
    """One edit with several seeds; all become versions, the first one last, so that it is the head.

    made: the numbers of the versions in the order of their seeds, when it has run.
    """

    session: DiffusionSession | Canvas
    count: int
    seed: int | None
    asked: dict[str, Any]
    made: list[int] = field(default_factory=list)

    def run(self, job: Job[Edited | Composed]) -> Edited | Composed:
        """Compute and keep them; the first one."""
        session: Any = self.session
        seeds = None if self.seed is None else [self.seed + k for k in range(self.count)]
        found = session.variants(self.count, seeds=seeds, **self.asked)
        with session.sealed_together():
            for number in reversed(range(self.count)):
                first: Edited | Composed = found.choose(number)
                self.made.insert(0, session.version.number)
        pixels = np.asarray(first.image)
        box = _box(first) if isinstance(first, Composed) else full_box(pixels)
        job.show("result", session.version.number, box, pixels, (1, 1))
        return first


def _box(made: Composed) -> Box:
    left, top, right, bottom = made.rectangle
    return slice(top, bottom), slice(left, right)
