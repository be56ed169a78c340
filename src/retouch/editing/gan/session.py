"""Sessions on the source of a generator: an edit of the source updates the picture made of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from retouch.editing.archive import Progress, silent
from retouch.editing.calls import Calls, Clock, run_whole
from retouch.editing.images import Pixels, box_of, difference
from retouch.editing.jobs import Job, Task
from retouch.editing.session import GAIN, Session, locked
from retouch.editing.version import Edited, Version
from retouch.incremental import Incremental
from retouch.plan.region import Region
from retouch.runtime.store import Store

CALL = "network"
"""The name of the one recorded call."""


@dataclass(eq=False)
class SourceEdit(Task[Edited]):
    """An edit of a source that waits to be made: `source` where `drawn` (both of the source's shape).

    make: computes it for a job. net: what it is computed by.
    """

    make: Callable[[SourceEdit, Job[Edited]], Edited]
    net: Incremental
    source: Tensor
    drawn: Tensor

    @cached_property
    def meets(self) -> Incremental | None:
        """The network, where such edits gain."""
        region = Region.from_mask(self.drawn.reshape(-1, *self.drawn.shape[-2:]).any(0))
        return self.net if self.net.gain(region) >= GAIN else None

    def joined(self, older: Task[Edited]) -> SourceEdit | None:
        """What this draws over what `older` does."""
        if not isinstance(older, SourceEdit):
            return None
        source = torch.where(self.drawn, self.source, older.source)
        return replace(self, source=source, drawn=self.drawn | older.drawn)

    def run(self, job: Job[Edited]) -> Edited:
        """Make the edit of the current source."""
        return self.make(self, job)


class GeneratorSession(Session):
    """A picture made by one run of a network, and the source that the network read.

    Outside the rows that an edit activates the picture stays bit for bit; under the policy `exact` it is the
    picture that a whole run would make.
    """

    def __init__(self, net: Incremental, store: Store, settings: dict[str, Any]) -> None:
        super().__init__(store, settings)
        self.net = net
        self.size: tuple[int, int] = (settings["height"], settings["width"])

    light_tensors = ("source",)

    # What a kind of source says

    @abstractmethod
    def read(self, source: Tensor) -> Tensor:
        """What the network reads `[1, C, h, w]`, from a source."""

    @abstractmethod
    def differs(self, before: Tensor, after: Tensor) -> Tensor:
        """bool `[h, w]`: where it reads something else from one source than from the other."""

    @abstractmethod
    def shown(self, result: Tensor) -> Pixels:
        """The picture in what the network returned."""

    @property
    @abstractmethod
    def source_spec(self) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and dtype of a source."""

    # A session's networks

    def networks(self) -> dict[str, Incremental]:
        """The one network."""
        return {CALL: self.net}

    def calls(self) -> dict[str, str]:
        """The one call."""
        return {CALL: CALL}

    def is_complete(self, version: Version) -> bool:
        """True when picture and source are there."""
        image, source = version.tensors.get("image"), version.tensors.get("source")
        if image is None or source is None:
            return False
        shape, dtype = self.source_spec
        pictures = image.dtype == torch.uint8 and image.dim() == 3 and image.shape[2] == 3
        return pictures and tuple(source.shape) == shape and source.dtype == dtype

    def remake(self, version: Version, parent: Version | None, calls: Calls, progress: Progress) -> dict[str, Tensor]:
        """The picture of its source, recorded or updated from that of its parent."""
        source = version.tensors["source"]
        if parent is None:
            result = calls.record(CALL, self.net, self.read(source))
        else:
            region = self._region(parent, source)
            result = calls.update(CALL, self.net, region, self.read(source))
        return {"image": torch.from_numpy(self.shown(result)), "source": source}

    # Recording and editing

    @locked
    def record(self, source: Tensor, progress: Progress = silent) -> None:
        """Run the network on a source and make that the first version."""
        clock = Clock()
        progress(0, 1, "recording")
        with self._making() as calls:
            with clock.of("network"):
                result = calls.record(CALL, self.net, self.read(source))
            tensors = {"image": torch.from_numpy(self.shown(result)), "source": source}
            self._put(calls, tensors, _facts("original", 1.0, clock), {})
        progress(1, 1, "recorded")

    @property
    def source(self) -> npt.NDArray[Any]:
        """The current source; a copy."""
        return self.tensor("source").numpy().copy()

    def _submitted(self, drawn: Callable[[], Tensor], join: bool, progress: Progress) -> Job[Edited]:
        """A job that changes the current source where what was `drawn` differs from it."""

        def edit() -> SourceEdit:
            source = drawn()
            return SourceEdit(partial(self._draw, progress), self.net, source, source != self.tensor("source"))

        return self.start(self.at_once(edit), join)

    @locked
    def _draw(self, progress: Progress, edit: SourceEdit, job: Job[Edited]) -> Edited:
        return self._edited(torch.where(edit.drawn, edit.source, self.version.tensors["source"]), progress, job)

    def _edited(self, source: Tensor, progress: Progress, job: Job[Edited] | None = None) -> Edited:
        """Make another source the current one; a job shows what that changes."""
        clock, before = Clock(), self.version
        region = self._region(before, source)
        if not region.mask.any():
            self._show(job, before, None)
            return Edited(self.image, region, clock.total())
        progress(0, 1, "updating")
        with self._making() as calls:
            with clock.of("network"):
                result = calls.update(CALL, self.net, region, self.read(source))
            with clock.of("store"):
                tensors = {"image": torch.from_numpy(self.shown(result)), "source": source}
                self._put(calls, tensors, _facts("edit", region.fraction, clock), {})
        self._show(job, before, calls)
        progress(1, 1, "done")
        return Edited(self.image, region, clock.total())

    def _show(self, job: Job[Edited] | None, before: Version, calls: Calls | None) -> None:
        if job is not None:
            pixels = self.pixels
            box = box_of(difference(pixels, before.pixels, 0))
            job.show("result", self.version.number, box, pixels[box].copy(), (1, 1), calls)

    def _dense(self, source: Tensor) -> Edited:
        """What a whole run makes of a source; the session stays as it is."""
        clock = Clock()
        with clock.of("network"):
            pixels = self.shown(run_whole(self.net, self.read(source)))
        return Edited(Image.fromarray(pixels), self._region(self.version, source), clock.total())

    def _region(self, version: Version, source: Tensor) -> Region:
        """Where the network reads something else from a source than from that of a version."""
        return Region.from_mask(self.differs(version.tensors["source"], source).numpy())


def _facts(edit: str, region: float, clock: Clock) -> dict[str, Any]:
    return {"edit": edit, "region": region, "seconds": clock.total()}
