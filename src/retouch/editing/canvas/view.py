"""A viewport of a canvas with its recordings, which follow what was edited elsewhere."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from retouch.editing.archive import Progress
from retouch.editing.calls import Calls
from retouch.editing.canvas.composition import Shown
from retouch.editing.canvas.picture import Picture
from retouch.editing.canvas.resample import Scaling
from retouch.editing.canvas.viewport import common, inside, moved
from retouch.editing.choice import Choice
from retouch.editing.history import History
from retouch.editing.images import Box, Pixels
from retouch.editing.jobs import Frames
from retouch.editing.session import Session
from retouch.editing.version import Edited, Version
from retouch.plan.region import Mask


class ViewSession(Session):
    """A session that a canvas can show as a viewport; see `DiffusionSession`, which is one."""

    draw: Callable[..., tuple[Edited, Refinement | None]]
    redraw: Callable[..., tuple[Edited, dict[str, Any]]]
    variants: Callable[..., Choice[Any, Edited]]
    adopt: Callable[[Pixels, Mask], Edited]

    @property
    @abstractmethod
    def border(self) -> int:
        """Pixels around a region in which an edit's result passes into the old image."""


Replace = Callable[[Version, Calls, dict[str, Tensor], dict[str, Any]], Version]
"""Puts what was computed in the place of a version, with its facts; Cancelled where it is too late."""


class Refinement(Protocol):
    """What a canvas asks of an edit of a session that can be bettered; that of a `DiffusionSession` is one."""

    def stale(self) -> bool: ...  # noqa: D102
    @property
    def refine(self) -> Callable[[Frames, Callable[[Replace], Replace]], None]: ...  # noqa: D102


Together = Callable[["Sequence[Part]", bool, Mapping[str, Any], Progress], tuple[Pixels, Box, Edited]]
"""Makes one edit in several sessions: what they show together [h, w, 3], the box of that, and what came of it."""


@dataclass(frozen=True, eq=False)
class Part:
    """A session as a view of a larger picture, in which its corner lies at `corner` (top and left); what it is shown of
    an edit, and what its previews go to.
    """

    session: ViewSession
    corner: tuple[int, int]
    shown: Shown
    frames: Frames | None


@dataclass(frozen=True, eq=False)
class Now:
    """A canvas as it is. Boxes that last are counted from the corner of its first version, as expanding moves that.

    changes: the boxes and masks [h, w] of what versions changed, by their numbers. corners: top and left of each
    version's picture; corner: of the current one.
    """

    picture: Picture
    history: History[Version]
    changes: Mapping[int, tuple[Box, Mask]]
    corners: Mapping[int, tuple[int, int]]
    corner: tuple[int, int]

    def local(self, lasting: Scaling) -> Scaling:
        """A viewport in the pixels of the picture."""
        return replace(lasting, box=moved(lasting.box, -self.corner[0], -self.corner[1]))

    def lasting(self, local: Scaling) -> Scaling:
        """The inverse of `local`."""
        return replace(local, box=moved(local.box, *self.corner))

    def shown(self, local: Scaling) -> Pixels:
        """The picture as a viewport shows it."""
        return local.shown(self.picture.seen(local.box))


@dataclass(eq=False)
class View:
    """A viewport and its session, which is in memory, in a folder, or both.

    scaling: the viewport, in lasting pixels. versions: those of the canvas that the session has, by their numbers, with
    the numbers that it gave them.
    """

    number: int
    scaling: Scaling
    versions: dict[int, int]
    session: ViewSession | None = None
    folder: Path | None = None
    nbytes: int = 0

    @property
    def opened(self) -> ViewSession:
        """The session, which is in memory."""
        assert self.session is not None
        return self.session

    def missed(self, now: Now) -> tuple[int, Mask]:
        """The version of the canvas from which the session has least to follow to the current one, and where it has.

        The mask is that of the viewport's box, [h, w].
        """
        known = [number for number in list(self.versions) if now.history.find(number) is not None]
        found = [(self._changed(now, number), number) for number in known]
        mask, number = min(found, key=lambda each: int(each[0].sum()))
        return number, mask

    def _changed(self, now: Now, number: int) -> Mask:
        """Where versions between one and the current one changed what the viewport shows."""
        mask, box = np.zeros(self.scaling.sides, np.bool_), self.scaling.box
        one, other = ({version.number for version in now.history.path(n)} for n in (number, now.history.current))
        for where, changed in (now.changes[n] for n in one ^ other if n in now.changes):
            both = common(where, box)
            if both is not None:
                mask[inside(both, box)] |= changed[inside(both, where)]
        return mask

    def follow(self, now: Now) -> None:
        """Bring the session, which is open, to the current version of the canvas.

        What it has made itself it goes to; what others have changed it adopts. So pixels that were scaled are never
        compared with what the model made.
        """
        session, (nearest, mask) = self.opened, self.missed(now)
        if session.version.number != self.versions[nearest]:
            session.go(self.versions[nearest])
        if mask.any():
            session.adopt(now.shown(now.local(self.scaling)), self.scaling.shown_mask(mask) > 0)
        self.versions[now.history.current] = session.version.number

    @property
    def saved(self) -> dict[str, Any]:
        """What the manifest of a canvas says of it."""
        return {
            "number": self.number,
            "box": [[span.start, span.stop] for span in self.scaling.box],
            "inner": list(self.scaling.inner),
            "versions": sorted(map(list, self.versions.items())),
            "bytes": self.nbytes,
        }
