"""How a canvas makes edits: asked for, planned, made in viewports, set into the picture and kept as versions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from retouch.editing.archive import Progress, silent
from retouch.editing.area import Area
from retouch.editing.calls import Clock
from retouch.editing.canvas.composition import region_of, set_in
from retouch.editing.canvas.costs import Costs
from retouch.editing.canvas.drawing import Composed, Drawing, Framed, Preparation, Refining
from retouch.editing.canvas.enlarge import enlarger_of, name_of
from retouch.editing.canvas.expand import expanded
from retouch.editing.canvas.making import COUNTED, TEXTS, Made, Making, Opener, Sessions
from retouch.editing.canvas.picture import Patch, Picture
from retouch.editing.canvas.planner import Candidate, Plan, Planner, forced
from retouch.editing.canvas.pool import Pool
from retouch.editing.canvas.request import Bounds, Options, Request, read
from retouch.editing.canvas.resample import Scaling
from retouch.editing.canvas.variants import Alternative, Alternatives, Source
from retouch.editing.canvas.versions import Expansion, PictureSession
from retouch.editing.canvas.view import Together, View, ViewSession
from retouch.editing.canvas.viewport import MOST, holds, whole
from retouch.editing.images import Box, ImageLike, Pixels, threshold_of
from retouch.editing.jobs import After, Job, Origin, asked_by
from retouch.editing.session import locked
from retouch.editing.stages import stages_of
from retouch.editing.version import Version
from retouch.errors import FallbackWarning, OptionError
from retouch.incremental import Incremental
from retouch.plan.region import Mask
from retouch.runtime.store import Store

VIEWS = "views"
"""The folder of viewports in that of a canvas."""


class Edits(PictureSession):
    """What is behind the edits of a canvas."""

    def __init__(
        self,
        opener: Opener,
        together: Together,
        blank: ViewSession,
        store: Store,
        settings: dict[str, Any],
        factor: int,
        disk: int | None,
    ) -> None:
        """together: one edit in several sessions. blank: a session with the networks of all viewports, not recorded.

        factor: pixels of the model for a latent position. The rest: as for `Editor.canvas`.
        """
        super().__init__(store, settings)
        size = settings["viewport"][0], settings["viewport"][1]
        self._nets = blank.networks()
        net = next(iter(self._nets.values()))
        self._border, self.threshold = blank.border, threshold_of(net.policy)
        self._enlarger = enlarger_of(settings["enlarger"], net.backend.device)
        self.planner = Planner(size, factor, Costs(blank, size), settings["floor"])
        self.pool = Pool(store, blank.recording_bytes, opener.restore, net.backend.transfers is not None, disk)
        self._sessions = Sessions(opener, together, blank, settings)
        self._dense: list[Scaling] = []  # what edits have seen that recorded nothing

    @property
    def recording_bytes(self) -> int:
        """Bytes that the picture and one viewport take, about."""
        return self.picture.levels.nbytes + self.pool.nbytes

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that the picture, its versions and its viewports take."""
        return super().held_bytes + self.pool.held_bytes

    @property
    def _home(self) -> Path | None:
        return self.archive.path / VIEWS if self.archive else None

    def networks(self) -> dict[str, Incremental]:
        """Those of its viewports."""
        return self._nets

    @locked
    def begin(self, picture: Picture, texts: Mapping[str, Any]) -> None:
        """Make a picture the first version. StoreError when there is no room for any viewport."""
        self.pool.check_room()
        self.picture, self._first, self.pool.home = picture, picture.size, self._home
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

    def _request(
        self,
        image: ImageLike | None,
        mask: ImageLike | None,
        box: Bounds | None,
        threshold: int | None,
        options: Options,
        inpaint: bool = False,
    ) -> Request | None:
        given = {name: value for name, value in options.items() if value is not None and name != "areas"}
        with self._still:
            least = self.threshold if threshold is None else threshold
            return read(self.picture, image, mask, box, least, given, inpaint, options.get("areas") or ())

    def _made(self, request: Request | None, plan: Candidate | str | None, progress: Progress) -> Composed:
        with self.worker.claimed():  # before the lock, which a preparation has
            return self._composed(Drawing(self._composed, request, plan, progress))[0]

    @locked
    def _planned(self, request: Request, alone: bool = False, later: bool = False) -> Plan:
        return self._plan(request, alone, later)

    def _plan(self, request: Request, alone: bool = False, later: bool = False) -> Plan:
        """later: a viewport that is not recorded now will be, when nothing waits."""
        now = self.now
        canvas, steps = now.picture.size, min(1.0, request.options.get("strength", 1.0) / self.settings["strength"])

        def missed(view: View) -> Mask:
            _, mask = view.missed(now)
            return view.scaling.shown_mask(mask) > 0 if mask.any() else mask

        local = {view: now.local(view.scaling) for view in list(self.pool.views)}
        views = {view: at for view, at in local.items() if holds(whole(canvas), at.box)}
        dense = [] if later else [now.local(viewport).box for viewport in list(self._dense)]
        return self.planner.plan(request, canvas, steps, views, missed, dense, alone)

    @locked
    def _composed(self, drawing: Drawing, job: Job[Composed] | None = None) -> tuple[Composed, After | None]:
        """Make an edit, and a version of it; what follows when nothing waits."""
        clock, request = Clock(), drawing.request
        if request is None:
            return Composed((0, 0, 0, 0), Image.new("RGB", (0, 0)), clock.total()), None
        later = bool(stages_of(drawing.refine_to)[0])
        found, framed = self._planned(request, later=later), self._framed(request, job)
        found = replace(found, chosen=forced(found, drawing.plan))
        state = self.now, self._texts(request.options), clock, drawing.progress, framed, drawing.refine_to
        made = Making(self._sessions, self.pool, *state).made(found.chosen, request)
        self.planner.learn(found.chosen, clock.seconds)
        with clock.of("compose"):
            self._keep(request, made, found, clock.total(), lambda: self._set_in(request, made.viewport, made.pixels))
        box, rectangle, pixels = self._shown_of(request, made.viewport)
        if job is not None:
            job.show("result", self.version.number, box, pixels, (self.version.facts["steps"],) * 2)
        composed = Composed(rectangle, Image.fromarray(pixels), clock.total(), found, made.edited)
        if later and found.chosen.way == "dense":
            return composed, self.preparation(self.now.lasting(made.viewport))
        return composed, self._refining(request, made)

    def _framed(self, request: Request, job: Job[Composed] | None) -> Callable[[Scaling], Framed | None]:
        if job is None:
            return lambda viewport: None
        current, number = self.picture.seen(request.box), self._next
        return lambda viewport: Framed(job, viewport, request, current, number)

    def _shown_of(self, request: Request, viewport: Scaling) -> tuple[Box, tuple[int, int, int, int], Pixels]:
        """What an edit may have changed, as a box and as a rectangle, and what is there now."""
        box, _ = region_of(request, viewport, self._border)
        rows, columns = box
        return box, (columns.start, rows.start, columns.stop, rows.stop), self.picture.seen(box)

    def _set_in(self, request: Request, viewport: Scaling, pixels: Pixels) -> Patch:
        return set_in(request, viewport, pixels, self.picture, self._border, self._enlarger)

    def _refining(self, request: Request, made: Made) -> Refining | None:
        if made.refinement is None:
            return None

        def compose(old: Version, pixels: Pixels, facts: Mapping[str, Any]) -> tuple[Version, Box, Pixels]:
            new = self.rechanged(old, lambda: self._set_in(request, made.viewport, pixels), facts)
            box, _, shown = self._shown_of(request, made.viewport)
            return new, box, shown

        return Refining(made.refinement, self.version, compose, self.is_last, self.lock)

    @locked
    def _varied(
        self,
        request: Request | None,
        count: int,
        seeds: Sequence[int] | None,
        plan: Candidate | str | None,
        progress: Progress,
    ) -> Alternatives:
        """An edit with several seeds, each as what it would change."""
        if request is None or request.areas or "max_error" in request.options:
            raise OptionError("variants are of an edit that changes something, without areas and max_error")
        found, clock = self._planned(request, alone=True), Clock()
        found = replace(found, chosen=forced(found, plan))
        making = Making(self._sessions, self.pool, self.now, self._texts(request.options), clock, progress)
        view, made = making.varied(found.chosen.viewport, request, count, seeds)
        viewport, several = self.now.local(view.scaling), []
        for number in range(len(made)):
            variant = made[number]
            with self._still:
                patch = self._set_in(request, viewport, np.asarray(variant.edited.image))
                _, rectangle, pixels = self._shown_of(request, viewport)
                self.picture.swap(patch)
            several.append(Alternative(variant.seed, Image.fromarray(pixels), patch, variant.edited))
        source = Source(self.version, request, found, viewport, view, made, rectangle, clock.total())
        return Alternatives(self, source, several)

    @locked
    def choose(self, found: Alternatives, number: int) -> Composed:
        """Make a variant a version, and that the current one. Several may be chosen: they are branches side by side.

        Raises OptionError when there is none of that number, or the canvas shows another version by now, or its
        viewport has left memory.
        """
        chosen, source, before = found[number], found.source, self.version.number
        session = source.view.session
        if before not in (source.base.number, found.chosen) or session is None:
            raise OptionError("the canvas no longer shows what these variants were made from; undo, or make new ones")
        self._moved(lambda history: history.at(source.base.number))
        try:
            source.view.follow(self.now)
            edited = source.made.choose(number)
            made = Made(
                source.viewport, session.pixels, session.version.facts, edited, {source.view: session.version.number}
            )

            def put() -> Patch:
                patch = deepcopy(chosen.patch)
                self.picture.swap(patch)
                return patch

            self._keep(source.request, made, source.plan, source.seconds, put)
        except BaseException:
            self._moved(lambda history: history.at(before))
            raise
        found.chosen = self.version.number
        return Composed(source.rectangle, chosen.image, source.seconds, source.plan, edited)

    @locked
    def _expanded(
        self,
        by: tuple[int, int, int, int],
        plan: Candidate | str | None,
        progress: Progress,
        options: Options,
        job: Job[Composed] | None = None,
    ) -> Composed:
        """Make the picture larger, a version with a first guess, and draw over that."""
        before, (found, old) = self.version.number, expanded(self.picture, *by)

        def grow() -> Expansion:
            self.picture.levels = found.levels
            return Expansion(old, found.size)

        new = np.ones(found.size, np.bool_)
        new[old] = False
        facts = {"edit": "expanded", "region": float(new.mean()), "steps": 0, "seconds": {"total": 0.0}}
        with asked_by(Origin()), self._making() as calls:  # a guess is not what was asked for
            self._changed(grow, calls, {**facts, **self._texts({})})
        try:
            request = self._request(None, new, None, None, options)
            if job is not None:  # what comes next lies in the larger picture
                job.show("result", self.version.number, whole(found.size), self.picture.seen(), (0, 1))
            return self._composed(Drawing(self._composed, request, plan, progress), job)[0]
        except BaseException:
            guess = self.version.number
            self._moved(lambda history: history.at(before))
            self.forget(guess)
            raise

    def _keep(
        self, request: Request, made: Made, found: Plan, seconds: dict[str, float], change: Callable[[], Patch]
    ) -> None:
        """Change the picture by what was made, and make that a version."""
        chosen, number, height_width = found.chosen, self._next, self.picture.size
        facts = {
            **{name: made.facts[name] for name in ("steps", *TEXTS)},
            "edit": "inpaint" if request.inpaint else "edit",
            "region": float(request.mask.sum() / (height_width[0] * height_width[1])),
            "seconds": seconds,
            "way": chosen.way,
            "why": found.reason,
            "viewport": [[span.start, span.stop] for span in chosen.viewport.box],
            "views": [view.number for view in made.views],
            "scale": made.viewport.scale,
            "enlarger": name_of(self._enlarger) if made.viewport.scale < 1 else None,
            **({"seed": made.facts["seed"]} if "seed" in made.facts else {}),
            **({"areas": [Area(*each).texts for each in request.areas]} if request.areas else {}),
        }
        for view, its in made.views.items():
            view.versions[number] = its
        try:
            with self._making() as calls:
                calls.bytes_read, calls.macs, calls.dense_macs = (made.facts[name] for name in COUNTED)
                self._changed(change, calls, facts)
        except BaseException:
            for view in made.views:
                del view.versions[number]
            raise
        if not made.views:
            self._dense.append(self.now.lasting(made.viewport))

    def _texts(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What an edit is conditioned on."""
        return {name: options.get(name, self.version.facts[name]) for name in TEXTS}

    def preparation(self, viewport: Scaling, progress: Progress = silent) -> Preparation:
        """The recording of a viewport, in lasting pixels, when nothing needs the device."""
        return Preparation(partial(self._prepare, viewport, progress), lambda: self.pool.find(viewport) is None)

    @locked
    def _prepare(self, viewport: Scaling, progress: Progress) -> None:
        """Record a viewport, in lasting pixels."""
        if self.pool.find(viewport) is None:
            making = Making(self._sessions, self.pool, self.now, self._texts({}), progress=progress)
            making.record(self.now.local(viewport))
