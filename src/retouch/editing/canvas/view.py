"""A viewport of a canvas with its recordings, which follow what was edited elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from retouch.editing.canvas.picture import Patch, Picture
from retouch.editing.canvas.resample import Scaling
from retouch.editing.canvas.viewport import common, inside
from retouch.editing.history import History
from retouch.editing.images import Pixels
from retouch.editing.session import Edited, Version
from retouch.incremental import Incremental
from retouch.plan.region import Mask


class ViewSession(Protocol):
    """What a canvas asks of the session of a viewport; a `DiffusionSession` is one."""

    @property
    def settings(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def version(self) -> Version: ...  # noqa: D102
    @property
    def pixels(self) -> Pixels: ...  # noqa: D102
    @property
    def border(self) -> int: ...  # noqa: D102
    @property
    def folder(self) -> Path | None: ...  # noqa: D102
    @property
    def recording_bytes(self) -> int: ...  # noqa: D102
    @property
    def draw(self) -> Callable[..., Edited]: ...  # noqa: D102
    @property
    def redraw(self) -> Callable[..., tuple[Edited, dict[str, Any]]]: ...  # noqa: D102
    @property
    def adopt(self) -> Callable[[Pixels, Mask], Edited]: ...  # noqa: D102
    @property
    def branch(self) -> Callable[[], ViewSession]: ...  # noqa: D102
    def go(self, number: int) -> Any: ...  # noqa: D102
    def save(self, path: Path) -> Path: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102
    def networks(self) -> dict[str, Incremental]: ...  # noqa: D102
    def calls(self) -> dict[str, str]: ...  # noqa: D102


@dataclass(eq=False)
class View:
    """A viewport and its session, which is in memory, in a folder, or both.

    versions: those of the canvas that the session has, by their numbers, with the numbers that it gave them.
    """

    number: int
    scaling: Scaling
    versions: dict[int, int]
    session: ViewSession | None = None
    folder: Path | None = None
    nbytes: int = 0
    used: int = field(default=0, compare=False)

    def missed(self, history: History[Version], patches: Mapping[int, Patch]) -> tuple[int, Mask]:
        """The version of the canvas from which the session has least to follow to the current one, and where it has.

        The mask is that of the viewport's box, [h, w].
        """
        known = [number for number in self.versions if history.find(number) is not None]
        found = [(self._changed(_between(history, number), patches), number) for number in known]
        mask, number = min(found, key=lambda each: int(each[0].sum()))
        return number, mask

    def _changed(self, numbers: set[int], patches: Mapping[int, Patch]) -> Mask:
        """Where patches lie in the viewport's box."""
        mask = np.zeros(self.scaling.sides, np.bool_)
        for patch in (patches[number] for number in numbers):
            both = common(patch.box, self.scaling.box)
            if both is not None:
                mask[inside(both, self.scaling.box)] |= patch.mask[inside(both, patch.box)]
        return mask

    def follow(self, picture: Picture, history: History[Version], patches: Mapping[int, Patch]) -> None:
        """Bring the session, which is open, to the current version of the canvas.

        What it has made itself it goes to; what others have changed it adopts. So pixels that were scaled are never
        compared with what the model made.
        """
        assert self.session is not None
        nearest, mask = self.missed(history, patches)
        if self.session.version.number != self.versions[nearest]:
            self.session.go(self.versions[nearest])
        if mask.any():
            pixels = self.scaling.shown(picture.seen(self.scaling.box))
            self.session.adopt(pixels, self.scaling.shown_mask(mask) > 0)
        self.versions[history.current] = self.session.version.number

    @property
    def saved(self) -> dict[str, Any]:
        """What the manifest of a canvas says of it."""
        box, inner = self.scaling.box, self.scaling.inner
        return {
            "number": self.number,
            "box": [[span.start, span.stop] for span in box],
            "inner": list(inner),
            "size": list(self.scaling.size),
            "versions": sorted(map(list, self.versions.items())),
            "bytes": self.nbytes,
        }


def _between(history: History[Version], number: int) -> set[int]:
    """The versions whose patches lie between one and the current one."""
    one, other = ({version.number for version in history.path(n)} for n in (number, history.current))
    return one ^ other
