"""Canvases: pictures of any size, edited through viewports that a model sees at the size it was trained for.

A canvas has the versions of a session; each knows which viewport made it, and the number that it has there. A viewport
follows what others changed when it is next used. So recordings may be dropped and made again: the pixels are the
canvas's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self, Unpack

from retouch.editing.archive import Archive, Progress, silent
from retouch.editing.canvas import saved
from retouch.editing.canvas.drawing import Composed, Drawing, Expanding
from retouch.editing.canvas.edits import VIEWS, Edits
from retouch.editing.canvas.planner import Candidate, Plan
from retouch.editing.canvas.request import Bounds, Options, bounded
from retouch.editing.canvas.resample import Scaling
from retouch.editing.canvas.variants import Alternatives
from retouch.editing.canvas.viewport import around, holds, scales
from retouch.editing.fields import Fields
from retouch.editing.history import History
from retouch.editing.images import ImageLike
from retouch.editing.jobs import Job
from retouch.editing.manifest import Manifest
from retouch.editing.session import locked
from retouch.editing.stages import ENOUGH, stages_of
from retouch.editing.version import Version


class Canvas(Edits):
    """A picture of any size, with the versions of a session. Made by `Editor.canvas`, or by `retouch.open`.

    picture: the current version, with alpha, depth, profile and EXIF of the file that it comes from.
    """

    kind = "canvas"
    saved_settings: ClassVar[Fields] = saved.SETTINGS
    saved_facts: ClassVar[Fields] = saved.FACTS

    def edit(
        self,
        image: ImageLike | None = None,
        *,
        mask: ImageLike | None = None,
        box: Bounds | None = None,
        threshold: int | None = None,
        plan: Candidate | str | None = None,
        progress: Progress = silent,
        **options: Unpack[Options],
    ) -> Composed:
        """Redraw what was changed, in the viewport that the planner chooses.

        image, mask, threshold, options: as for `DiffusionSession.edit`; one of the first two must be there.
        box: what `image` and `mask` are of, rows and columns or left, top, right and bottom; None: the whole picture.
        plan: a candidate of `plan`, or the best of a way ("sparse", "new", "whole", "tiles", "dense"); None: the
            planner's choice.

        Nothing outside the region, grown by the policy's dilation at the viewport's scale, changes by a bit; alpha does
        nowhere. Raises ImageError, OptionError, and what a session's `edit` raises; StoreError where there is no room;
        the canvas is then as before.
        """
        return self._made(self._request(image, mask, box, threshold, options), plan, progress)

    def inpaint(
        self,
        mask: ImageLike,
        *,
        box: Bounds | None = None,
        plan: Candidate | str | None = None,
        progress: Progress = silent,
        **options: Unpack[Options],
    ) -> Composed:
        """Fill the white part of a mask anew, to fit its surroundings and the prompt. Otherwise like `edit`."""
        return self._made(self._request(None, mask, box, None, options, inpaint=True), plan, progress)

    def expand(
        self,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        *,
        plan: Candidate | str | None = None,
        progress: Progress = silent,
        **options: Unpack[Options],
    ) -> Composed:
        """Make the canvas larger by so many pixels on each side, and draw what is new to fit what is there.

        It begins from a guess that continues the picture, which is a version of its own. The rest as for `edit`; raises
        ImageError for negative sides, none, and more than 100 megapixels.
        """
        with self.worker.claimed():
            return self._expanded((left, top, right, bottom), plan, progress, options)

    def submit_expand(
        self,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        *,
        plan: Candidate | str | None = None,
        progress: Progress = silent,
        **options: Unpack[Options],
    ) -> Job[Composed]:
        """`expand` as a job. Its first frame is the guess, all of the larger picture; the others lie in that."""
        by = left, top, right, bottom
        return self.start(Expanding(lambda job: self._expanded(by, plan, progress, options, job)))

    def submit(
        self,
        image: ImageLike | None = None,
        *,
        mask: ImageLike | None = None,
        box: Bounds | None = None,
        threshold: int | None = None,
        inpaint: bool = False,
        plan: Candidate | str | None = None,
        refine: float | str | None = ENOUGH,
        join: bool = True,
        progress: Progress = silent,
        **options: Unpack[Options],
    ) -> Job[Composed]:
        """Begin an edit and return: `edit` as a job, or with `inpaint` what `inpaint` does. Frames are of the canvas.

        refine: as for `DiffusionSession.submit`; edits in one viewport that is recorded are refined. What was made
            densely stays, and its viewport is recorded instead, for edits that follow.
        join: the canvas's jobs that are not done are cancelled and their strokes made part of this edit, as
        `DiffusionSession.submit` does. Raises what `edit` raises for bad input, and SessionError as that.
        """
        stages_of(refine)
        request = self._request(image, mask, box, threshold, options, inpaint)
        return self.start(Drawing(self._composed, request, plan, progress, refine), join)

    def variants(
        self,
        count: int,
        image: ImageLike | None = None,
        *,
        seeds: Sequence[int] | None = None,
        inpaint: bool = False,
        mask: ImageLike | None = None,
        box: Bounds | None = None,
        threshold: int | None = None,
        plan: Candidate | str | None = None,
        progress: Progress = silent,
        **options: Unpack[Options],
    ) -> Alternatives:
        """One edit with `count` seeds, computed together in one viewport; the picture stays until one is chosen.

        Takes the arguments of `edit`, or with `inpaint` those of `inpaint`, but for areas and `max_error`; `plan` is a
        way with one viewport that is recorded. seeds: as for `DiffusionSession.variants`, and so are errors.
        """
        request = self._request(image, mask, box, threshold, options, inpaint)
        with self.worker.claimed():
            return self._varied(request, count, seeds, plan, progress)

    def plan(
        self,
        image: ImageLike | None = None,
        *,
        mask: ImageLike | None = None,
        box: Bounds | None = None,
        threshold: int | None = None,
        **options: Unpack[Options],
    ) -> Plan | None:
        """How an edit can be made, what that should take and give, and what is chosen; None where nothing is edited.

        Takes the arguments of `edit`, and waits for an edit that is being made.
        """
        request = self._request(image, mask, box, threshold, options)
        with self.worker.claimed():
            return None if request is None else self._planned(request)

    def predicted(self, mask: ImageLike, box: Bounds | None = None, **options: Unpack[Options]) -> float:
        """Seconds that an edit of a mask will take, as `plan` has it, without waiting for one that is being made."""
        request = self._request(None, mask, box, None, options)
        with self._still:
            return 0.0 if request is None else self._plan(request).chosen.seconds

    def viewport(self, box: Bounds | None = None) -> Scaling:
        """The viewport that shows a box at the largest scale; `box` as in `edit`, ImageError for one outside."""
        part, canvas, size = bounded(box, self.picture), self.picture.size, self.planner.size
        fit = (around(part, scale, size, canvas) for scale in scales(size, canvas))
        return next(each for each in fit if holds(each.box, part))

    def is_prepared(self, viewport: Scaling) -> bool:
        """Whether a viewport is recorded."""
        return self.pool.find(self.now.lasting(viewport)) is not None

    def prepare(self, box: Bounds | None = None, progress: Progress = silent) -> Job[None]:
        """Record the `viewport` of a box, when nothing else needs the device.

        It is left before its next network call when something does need the device, and begun anew.
        The job is `over` when the viewport is there; until then `cancel` stops it, and so do `undo`, `redo`, `go` and
        another `prepare`. ImageError for a box outside.
        """
        return self.start(self.preparation(self.now.lasting(self.viewport(box)), progress))

    # Folders

    @locked
    def save(self, path: str | Path, progress: Progress = silent, *, light: bool = False) -> Path:
        """Save all versions and viewports to a new folder and keep later edits there too; see `Session.save`."""
        found = super().save(path, progress, light=light)
        self.pool.move(found / VIEWS)
        self._commit(self._history)
        return found

    def _manifest(self, history: History[Version]) -> Manifest:
        manifest = super()._manifest(history)
        height, width = self.picture.size
        now = {"height": height, "width": width, "views": self.pool.saved}
        return replace(manifest, settings={**manifest.settings, **now})

    def load(self, archive: Archive, manifest: Manifest) -> None:
        """Take over what a folder holds. Raises ArchiveError when it was recorded with other networks."""
        super().load(archive, manifest)
        self.pool.home = self._home
        self.pool.load(manifest.settings["views"], self.planner.size)

    @locked
    def settle(self) -> None:
        """Put what viewports have computed into their folders, as closing the canvas does. StoreError when the disk is
        full.
        """
        for view in self.pool.views:
            if view.session is not None:
                view.session.settle()

    def close(self) -> None:
        """Cancel the canvas's jobs and leave the folder to others; later edits are not saved, jobs are refused."""
        self.worker.cancel_all(self)
        with self.lock:
            if self.archive is not None:
                self._commit(self._history)
            super().close()
            self.pool.close()

    @locked
    def branch(self) -> Self:
        """Another canvas at the current version, with a picture of its own, and those viewports that are in memory."""
        twin = super().branch()
        twin.pool = self.pool.branched()
        return twin
