"""Edits as they are made in viewports: these recorded, brought to where the canvas is, and drawn in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from retouch.editing.archive import Progress, silent
from retouch.editing.calls import Clock
from retouch.editing.canvas.composition import shown
from retouch.editing.canvas.drawing import Framed
from retouch.editing.canvas.planner import Candidate
from retouch.editing.canvas.pool import Pool
from retouch.editing.canvas.request import Request
from retouch.editing.canvas.resample import Scaling
from retouch.editing.canvas.view import Now, Part, Refinement, Together, View, ViewSession
from retouch.editing.canvas.viewport import hull, inside, sides
from retouch.editing.choice import Choice
from retouch.editing.images import Pixels
from retouch.editing.version import Edited

TEXTS = ("prompt", "negative", "class_label")
RECORDED = ("guidance", "strength", "steps", "seed")
"""Settings that all viewports of a canvas are recorded with."""
COUNTED = ("bytes_read", "macs", "dense_macs")
"""Facts of a version that add up over its viewports."""


class Opener(Protocol):
    """What a canvas asks of an editor, which keeps all sessions in one store."""

    @property
    def open(self) -> Callable[..., ViewSession]: ...  # noqa: D102
    @property
    def restore(self) -> Callable[[Path], ViewSession]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Sessions:
    """Where the sessions of viewports come from.

    together: one edit in several of them. blank: one that is not recorded. settings: of the canvas.
    """

    opener: Opener
    together: Together
    blank: ViewSession
    settings: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Made:
    """What an edit made: what its viewport shows [H, W, 3], facts as a version of a session has them, the views that
    recorded it and the numbers of their versions, and how it is bettered (None: it is not).
    """

    viewport: Scaling
    pixels: Pixels
    facts: Mapping[str, Any]
    edited: Edited
    views: Mapping[View, int] = field(default_factory=dict)
    refinement: Refinement | None = None


@dataclass(frozen=True, eq=False)
class Making:
    """One edit of a canvas that is as `now` says. texts: what it is conditioned on. frames: what previews of a viewport
    go to. refine: as that of a session's `submit`.
    """

    sessions: Sessions
    pool: Pool
    now: Now
    texts: Mapping[str, Any]
    clock: Clock = field(default_factory=Clock)
    progress: Progress = silent
    frames: Callable[[Scaling], Framed | None] = lambda viewport: None
    refine: float | str | None = None

    def made(self, chosen: Candidate, request: Request) -> Made:
        """What the viewports of a candidate make of a request."""
        options = {**request.options, **self.texts}
        if chosen.way == "dense":
            return self._dense(chosen.viewport, request, options)
        views: list[View] = []
        for viewport in chosen.tiles or (chosen.viewport,):
            views.append(self._view(viewport, views))
        with self.clock.of("edit"):
            return (self._joined if chosen.tiles else self._alone)(views, request, options)

    def _alone(self, views: Sequence[View], request: Request, options: Mapping[str, Any]) -> Made:
        """In one viewport."""
        (view,) = views
        session, viewport = view.opened, self.now.local(view.scaling)
        drawn = shown(request, viewport, self.now.picture, session.pixels)
        told = self.progress, self.frames(viewport), self.refine
        edited, refinement = session.draw(
            drawn.image, drawn.mask, request.inpaint, {**options, "areas": drawn.areas}, *told
        )
        version = session.version
        return Made(viewport, version.pixels, version.facts, edited, {view: version.number}, refinement)

    def varied(
        self, viewport: Scaling, request: Request, count: int, seeds: Sequence[int] | None
    ) -> tuple[View, Choice[Any, Edited]]:
        """What a viewport makes of a request with so many seeds; the session there stays as it is."""
        view, options = self._view(viewport, ()), {**request.options, **self.texts}
        drawn = shown(request, self.now.local(view.scaling), self.now.picture, view.opened.pixels)
        with self.clock.of("edit"):
            return view, view.opened.variants(
                count, drawn.image, mask=drawn.mask, seeds=seeds, inpaint=request.inpaint, progress=self.progress,
                **options,
            )  # fmt: skip

    def _joined(self, views: Sequence[View], request: Request, options: Mapping[str, Any]) -> Made:
        """In viewports of the canvas's scale that overlap."""
        parts, seen = [], self.now.local(views[0].scaling).box
        for view in views:
            session, viewport = view.opened, self.now.local(view.scaling)
            (rows, columns), (down, right) = viewport.box, viewport.window
            corner = rows.start - down.start, columns.start - right.start
            drawn = shown(request, viewport, self.now.picture, session.pixels)
            parts.append(Part(session, corner, drawn, self.frames(viewport)))
            seen = hull(seen, viewport.box)
        found, box, edited = self.sessions.together(parts, request.inpaint, options, self.progress)
        pixels = self.now.picture.seen(seen)
        for tile in (self.now.local(view.scaling).box for view in views):
            pixels[inside(tile, seen)] = found[inside(tile, box)]
        versions = {view: view.opened.version for view in views}
        counted = {name: sum(each.facts[name] for each in versions.values()) for name in COUNTED}
        facts = {**versions[views[0]].facts, **counted}
        numbers = {view: version.number for view, version in versions.items()}
        return Made(Scaling(seen, sides(seen), sides(seen)), pixels, facts, edited, numbers)

    def _dense(self, viewport: Scaling, request: Request, options: Mapping[str, Any]) -> Made:
        """By the dense networks, which leave no recording."""
        pixels = self.now.shown(viewport)
        drawn = shown(request, viewport, self.now.picture, pixels)
        options = {**options, "areas": drawn.areas}
        with self.clock.of("edit"):
            edited, facts = self.sessions.blank.redraw(
                pixels, drawn.image, drawn.mask, request.inpaint, options, self.progress, self.frames(viewport)
            )
        return Made(viewport, np.asarray(edited.image), facts, edited)

    def _view(self, viewport: Scaling, keep: Sequence[View]) -> View:
        """The view of a viewport where the canvas is; recorded where there is none, or its files are gone."""
        view = self.pool.find(self.now.lasting(viewport))
        if view is not None and self.pool.opened(view, keep) is not None:
            with self.clock.of("follow"):
                view.follow(self.now)
            return view
        with self.clock.of("record"):
            return self.record(viewport, keep)

    def record(self, viewport: Scaling, keep: Sequence[View] = ()) -> View:
        """A new view, while others are kept in memory. StoreError when there is no room."""
        self.pool.check_room(1 + len(keep))
        self.pool.make_room(keep)
        folder = self.pool.folder(self.pool.count) if self.pool.home else None
        settings = {**self.texts, **{name: self.sessions.settings[name] for name in RECORDED}}
        pixels = self.now.shown(viewport)
        session = self.sessions.opener.open(pixels, folder=folder, progress=self.progress, **settings)
        return self.pool.add(self.now.lasting(viewport), {self.now.history.current: session.version.number}, session)
