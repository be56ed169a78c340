"""Canvases: pictures of any size, edited through viewports that a model sees at the size it was trained for.

A canvas has the versions of a session; each knows which viewport made it, and the number that it has there. A viewport
follows what others changed when it is next used. So recordings may be dropped and made again: the pixels are the
canvas's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypedDict, Unpack

import numpy as np
from PIL import Image

from retouch.editing.archive import Archive, Progress, silent
from retouch.editing.calls import Clock
from retouch.editing.canvas import saved
from retouch.editing.canvas.composition import region_of, set_in, shown
from retouch.editing.canvas.costs import Costs
from retouch.editing.canvas.drawing import Composed, Drawing, Framed, Preparation
from retouch.editing.canvas.picture import Picture
from retouch.editing.canvas.planner import Candidate, Plan, Planner, forced
from retouch.editing.canvas.pool import Pool
from retouch.editing.canvas.request import Bounds, Request, bounded, read
from retouch.editing.canvas.resample import Enlarger, Scaling
from retouch.editing.canvas.versions import PictureSession
from retouch.editing.canvas.view import View, ViewSession
from retouch.editing.canvas.viewport import MOST, around, holds, scales
from retouch.editing.history import History
from retouch.editing.images import Box, ImageLike, Pixels, threshold_of
from retouch.editing.jobs import Job
from retouch.editing.manifest import Fields, Manifest
from retouch.editing.session import Edited, Version, locked
from retouch.errors import FallbackWarning
from retouch.incremental import Incremental
from retouch.runtime.store import Store

TEXTS = ("prompt", "negative", "class_label")
RECORDED = ("guidance", "strength", "steps", "seed")
"""Settings that all viewports of a canvas are recorded with."""
COUNTED = ("bytes_read", "macs", "dense_macs")
VIEWS = "views"
"""The folder of viewports in that of a canvas."""


class Opener(Protocol):
    """What a canvas asks of an editor, which keeps all sessions in one store."""

    @property
    def open(self) -> Callable[..., ViewSession]: ...  # noqa: D102
    @property
    def restore(self) -> Callable[[Path], ViewSession]: ...  # noqa: D102


class Options(TypedDict, total=False):
    """What an edit takes as `DiffusionSession.edit` does; None: as the canvas has it."""

    prompt: str | None
    negative: str | None
    class_label: int | None
    strength: float | None
    max_error: float | None
    blend: str | None


@dataclass(frozen=True, eq=False)
class Made:
    """What a viewport made of an edit: what it shows [H, W, 3], facts as a version of a session has them, and the view
    and the number of its version, where it is recorded.
    """

    viewport: Scaling
    pixels: Pixels
    facts: Mapping[str, Any]
    edited: Edited
    view: View | None = None
    number: int = -1


class Canvas(PictureSession):
    """A picture of any size, with the versions of a session. Made by `Editor.canvas`, or by `retouch.open`.

    picture: the current version, with alpha, depth, profile and EXIF of the file that it comes from.
    """

    kind = "canvas"
    saved_settings: ClassVar[Fields] = saved.SETTINGS
    saved_facts: ClassVar[Fields] = saved.FACTS

    def __init__(
        self,
        opener: Opener,
        blank: ViewSession,
        store: Store,
        settings: dict[str, Any],
        factor: int,
        disk: int | None,
        enlarger: Enlarger | None,
    ) -> None:
        """blank: a session with the networks of all viewports, not recorded. The rest: as for `Editor.canvas`."""
        super().__init__(store, settings)
        self._opener, self._blank, self._enlarger = opener, blank, enlarger
        size = settings["viewport"][0], settings["viewport"][1]
        self._dense: list[Box] = []  # what edits have seen that recorded nothing
        net = next(iter(blank.networks().values()))
        self.threshold = threshold_of(net.policy)
        self.planner = Planner(size, factor, Costs(blank, size), settings["floor"])
        self.pool = Pool(store, blank.recording_bytes, opener.restore, net.backend.transfers is not None, disk)

    def networks(self) -> dict[str, Incremental]:
        """Those of its viewports."""
        return self._blank.networks()

    @locked
    def begin(self, picture: Picture, texts: Mapping[str, Any]) -> None:
        """Make a picture the first version. StoreError when there is no room for any viewport."""
        self.pool.check_room()
        self.picture, self.pool.home = picture, self._home
        if any(MOST * have < wanted for have, wanted in zip(picture.size, self.planner.size, strict=True)):
            warnings.warn(
                f"a picture of {picture.size[1]}x{picture.size[0]} pixels is small: the model sees it {MOST:g} times "
                "as large, and reflected around",
                FallbackWarning,
                stacklevel=2,
            )
        nothing = {"edit": "opened", "region": 1.0, "steps": 0, "seconds": {"total": 0.0}}
        with self._making() as calls:
            self._put(calls, {}, {**nothing, **{name: texts.get(name) for name in TEXTS}})

    # Edits

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
        plan: a candidate of `plan`, or the name of a way ("sparse", "new", "whole", "dense"); None: the planner's.

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

    def submit(
        self,
        image: ImageLike | None = None,
        *,
        mask: ImageLike | None = None,
        box: Bounds | None = None,
        threshold: int | None = None,
        inpaint: bool = False,
        plan: Candidate | str | None = None,
        join: bool = True,
        progress: Progress = silent,
        **options: Unpack[Options],
    ) -> Job[Composed]:
        """Begin an edit and return: `edit` as a job, or with `inpaint` what `inpaint` does. Frames are of the canvas.

        join: the canvas's jobs that are not done are cancelled and their strokes made part of this edit, as
        `DiffusionSession.submit` does. Raises what `edit` raises for bad input, and SessionError as that.
        """
        request = self._request(image, mask, box, threshold, options, inpaint)
        return self.start(Drawing(self._composed, request, plan, progress), join)

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

    def prepare(self, box: Bounds | None = None) -> Job[None]:
        """Record the viewport that shows a box at the largest scale, when nothing else needs the device.

        box: as in `edit`. It is left before its next network call when something does need the device, and begun anew.
        The job is `over` when the viewport is there; until then `cancel` stops it, and so do `undo`, `redo`, `go` and
        another `prepare`. ImageError for a box outside.
        """
        part, canvas, size = bounded(box, self.picture), self.picture.size, self.planner.size
        fit = (around(part, scale, size, canvas) for scale in scales(size, canvas))
        viewport = next(each for each in fit if holds(each.box, part))
        return self.start(Preparation(lambda: self._prepare(viewport), lambda: not self._has(viewport)))

    def _request(
        self,
        image: ImageLike | None,
        mask: ImageLike | None,
        box: Bounds | None,
        threshold: int | None,
        options: Options,
        inpaint: bool = False,
    ) -> Request | None:
        given = {name: value for name, value in options.items() if value is not None}
        with self._still:
            least = self.threshold if threshold is None else threshold
            return read(self.picture, image, mask, box, least, given, inpaint)

    def _made(self, request: Request | None, plan: Candidate | str | None, progress: Progress) -> Composed:
        with self.worker.claimed():  # before the lock, which a preparation has
            return self._composed(request, plan, progress)

    @locked
    def _planned(self, request: Request) -> Plan:
        steps = min(1.0, request.options.get("strength", 1.0) / self.settings["strength"])
        views, dense = self.pool.views, self._dense
        return self.planner.plan(request, self.picture.size, steps, views, self._following, dense)

    def _following(self, view: View) -> float:
        """Predicted seconds until a view is where the canvas is."""
        _, mask = view.missed(self._history, self.patches)
        return self.planner.costs.edit(view.scaling.shown_mask(mask) > 0) if mask.any() else 0.0

    @locked
    def _composed(
        self,
        request: Request | None,
        plan: Candidate | str | None,
        progress: Progress,
        job: Job[Composed] | None = None,
    ) -> Composed:
        """Make an edit, and a version of it."""
        clock = Clock()
        if request is None:
            return Composed((0, 0, 0, 0), Image.new("RGB", (0, 0)), clock.total())
        found = self._planned(request)
        chosen = forced(found, plan)
        texts = {name: request.options.get(name, self.version.facts[name]) for name in TEXTS}
        draw = self._redrawn if chosen.way == "dense" else self._drawn
        made = draw(chosen, request, texts, clock, progress, job)
        self._keep(request, made, chosen, clock)
        box, _ = region_of(request, made.viewport, self._blank.border)
        pixels, (rows, columns) = self.picture.seen(box), box
        if job is not None:
            job.show("result", self.version.number, box, pixels, (self.version.facts["steps"],) * 2)
        rectangle = columns.start, rows.start, columns.stop, rows.stop
        return Composed(rectangle, Image.fromarray(pixels), clock.total(), replace(found, chosen=chosen), made.edited)

    def _drawn(
        self,
        chosen: Candidate,
        request: Request,
        texts: dict[str, Any],
        clock: Clock,
        progress: Progress,
        job: Job[Composed] | None,
    ) -> Made:
        """What a viewport makes of a request that is recorded."""
        with clock.of("record" if chosen.view is None else "follow"):
            view = self._view(chosen, texts, progress)
        session, viewport = view.session, view.scaling
        assert session is not None
        frames = job and Framed(job, viewport, request, self.picture.seen(request.box), self._next)
        image, mask = shown(request, viewport, self.picture, session.pixels)
        with clock.of("edit"):
            edited = session.draw(image, mask, request.inpaint, {**request.options, **texts}, progress, frames)
        self._learn(chosen, clock)
        return Made(viewport, session.pixels, session.version.facts, edited, view, session.version.number)

    def _redrawn(
        self,
        chosen: Candidate,
        request: Request,
        texts: dict[str, Any],
        clock: Clock,
        progress: Progress,
        job: Job[Composed] | None,
    ) -> Made:
        """What the dense networks make of it, which leave no recording."""
        viewport = chosen.viewport
        pixels = viewport.shown(self.picture.seen(viewport.box))
        image, mask = shown(request, viewport, self.picture, pixels)
        options = {**request.options, **texts}
        self._dense.append(viewport.box)
        with clock.of("edit"):
            edited, facts = self._blank.redraw(pixels, image, mask, request.inpaint, options, progress)
        return Made(viewport, np.asarray(edited.image), facts, edited)

    def _keep(self, request: Request, made: Made, chosen: Candidate, clock: Clock) -> None:
        """Set what a viewport made into the picture, and make that a version."""
        view, number = made.view, self._next
        facts = {
            **{name: made.facts[name] for name in ("steps", *TEXTS)},
            "edit": "inpaint" if request.inpaint else "edit",
            "region": float(request.mask.sum() / (self.picture.size[0] * self.picture.size[1])),
            "seconds": clock.total(),
            "way": chosen.way,
            "view": view and view.number,
            "scale": made.viewport.scale,
        }
        change = request, made.viewport, made.pixels, self.picture, self._blank.border, self._enlarger
        if view is not None:
            view.versions[number] = made.number
        try:
            with self._making() as calls:
                calls.bytes_read, calls.macs, calls.dense_macs = (made.facts[name] for name in COUNTED)
                self._changed(lambda: set_in(*change), calls, facts)
        except BaseException:
            if view is not None:
                del view.versions[number]
            raise

    def _learn(self, chosen: Candidate, clock: Clock) -> None:
        """Compare what was predicted with what it took."""
        costs, seconds, alone = self.planner.costs, clock.seconds, chosen.seconds
        if "record" in seconds:
            alone -= costs.record
            costs.learn("record", costs.record, seconds["record"])
        costs.learn("edit", alone, seconds["edit"] + seconds.get("follow", 0.0))

    # Viewports

    def _view(self, chosen: Candidate, texts: Mapping[str, Any], progress: Progress) -> View:
        """The view of a candidate where the canvas is; a new one where it has none, or its files are gone."""
        if chosen.view is not None:
            view = self.pool.numbered(chosen.view)
            if self.pool.opened(view) is not None:
                view.follow(self.picture, self._history, self.patches)
                return view
        return self._recorded(chosen.viewport, texts, progress)

    def _recorded(self, viewport: Scaling, texts: Mapping[str, Any], progress: Progress = silent) -> View:
        self.pool.check_room()
        self.pool.make_room()
        folder = self.pool.folder(self.pool.count) if self.archive else None
        settings = {name: self.settings[name] for name in RECORDED}
        pixels = viewport.shown(self.picture.seen(viewport.box))
        session = self._opener.open(pixels, folder=folder, progress=progress, **texts, **settings)
        return self.pool.add(viewport, {self._at: session.version.number}, session)

    @locked
    def _prepare(self, viewport: Scaling) -> None:
        if not self._has(viewport):
            self._recorded(viewport, {name: self.version.facts[name] for name in TEXTS})

    def _has(self, viewport: Scaling) -> bool:
        return any(view.scaling == viewport for view in self.pool.views)

    # Folders

    @property
    def _home(self) -> Path | None:
        return self.archive.path / VIEWS if self.archive else None

    @locked
    def save(self, path: str | Path, progress: Progress = silent) -> Path:
        """Save all versions and viewports to a new folder and keep later edits there too; see `Session.save`."""
        found = super().save(path, progress)
        self.pool.move(found / VIEWS)
        self._commit(self._history)
        return found

    def _manifest(self, history: History[Version]) -> Manifest:
        manifest = super()._manifest(history)
        return replace(manifest, settings={**manifest.settings, "views": self.pool.saved})

    def load(self, archive: Archive, manifest: Manifest) -> None:
        """Take over what a folder holds. Raises ArchiveError when it was recorded with other networks."""
        super().load(archive, manifest)
        self.pool.home = self._home
        self.pool.load(manifest.settings["views"], self.planner.size)

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
