"""Refinement: an edit that was made approximately is computed again with more around it, and at last densely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retouch.editing.calls import Calls, Told, untold
from retouch.editing.diffusion.areas import run_dense
from retouch.editing.diffusion.contents import Redrawn
from retouch.editing.diffusion.process import Evaluations, Growth
from retouch.editing.diffusion.redraw import GROWTHS
from retouch.editing.images import box_of
from retouch.editing.jobs import Frames
from retouch.editing.stages import DENSE, STEP
from retouch.editing.version import Estimate, Version
from retouch.incremental import Incremental
from retouch.plan.areas import Areas
from retouch.plan.region import Region

Replace = Callable[[Version, Calls, dict[str, Tensor], dict[str, Any]], Version]


class Dense:
    """Every network run whole. What is kept of it are the rows that an edit computes, updated on the same inputs:
    whole recordings of every edit would take too much memory.
    """

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    def update(
        self,
        name: str,
        net: Incremental,
        region: Region,
        *args: Any,
        areas: Areas | None = None,
        told: Told = untold,
        **kwargs: Any,
    ) -> Any:
        """The dense result of the call `name`."""
        before = self.calls.macs
        result = self.calls.update(name, net, region, *args, areas=areas, **kwargs)
        if self.calls.macs - before < net.macs:  # that was not dense
            self.calls.macs += net.macs
            result = run_dense(net, *args, areas=areas, **kwargs)
        told(result)
        return result


def remade(stage: str | None, growth: int, calls: Calls) -> tuple[Evaluations, Growth]:
    """How an edit was computed that was refined up to `stage` (None: not), and before that grown so many times."""
    if stage == DENSE:
        return Dense(calls), GROWTHS[0]
    return calls, GROWTHS[1 if stage == STEP else growth]


@dataclass(eq=False)
class Refinement:
    """An edit to be made again: `version` is what came of it, `check` is for the estimate of its error.

    stages: what is still to be computed; bound: grey levels, see `stages_of`. calls: new ones from where the edit
    began; redraw: computes the edit; replace, is_last, settle: those of the session.
    """

    version: Version
    check: Estimate | None
    stages: list[str]
    bound: float | None
    calls: Callable[[], Calls]
    redraw: Callable[[Evaluations, Growth], Redrawn]
    replace: Replace
    is_last: Callable[[Version], bool]
    settle: Callable[[], None]

    def stale(self) -> bool:
        """True when nothing is left to do, or another version has become the current one."""
        return not self.stages or not self.is_last(self.version)

    def refine(self, job: Frames, putting: Callable[[Replace], Replace] = lambda put: put) -> None:
        """Compute the stages that are needed; the version is replaced after each, and a frame shows what changed. Then
        the session settles.

        putting: what replaces versions instead of the session's own way, given that.
        """
        while self.stages and not self._is_close():
            calls, stage = self.calls(), self.stages[0]
            dense = stage == DENSE
            found = self.redraw(Dense(calls) if dense else calls, GROWTHS[0 if dense else 1])
            old = self.version
            self.version = putting(self.replace)(old, calls, found.tensors(), {**old.facts, "refined": stage})
            self.check, self.stages = found.check, self.stages[1:]
            self._show(job, old.tensors["image"], calls)
        self.settle()

    def _is_close(self) -> bool:
        return self.bound is not None and (self.check is None or self.check.error <= self.bound)

    def _show(self, job: Frames, old: Tensor, calls: Calls) -> None:
        image = self.version.tensors["image"]
        box = box_of(torch.ne(image, old).any(-1).numpy())
        steps = int(self.version.facts["steps"])
        job.show("refined", self.version.number, box, image.numpy()[box].copy(), (steps, steps), calls)
